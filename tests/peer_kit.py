"""A peer that does as it likes: raw frames over iroh to a real node, from the test's own process."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import iroh

from dux_registryd.frames import FrameReader, encode
from dux_registryd.transport import ALPN, VERSION
from duxcommon.identity import Identity
from tests.registryd_kit import Node

PATIENCE_S = 60.0


def raw(body: bytes) -> bytes:
    """A frame around any bytes."""
    return len(body).to_bytes(4, "big") + body


class Ended(Exception):
    """The node has finished the stream."""


class Enemy:
    """An endpoint under a key of its own."""

    def __init__(self, endpoint: iroh.Endpoint, identity: Identity) -> None:
        self.endpoint = endpoint
        self.identity = identity

    @property
    def id(self) -> str:
        """Its node id."""
        return self.identity.node_id

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        return list(self.endpoint.addr().direct_addresses())

    async def connect(self, node: Node, alpn: bytes = ALPN) -> "Line":
        """A connection to a node, with its first stream open and nothing sent."""
        addresses = node.call("node.self")["addresses"]
        target = iroh.EndpointAddr(iroh.EndpointId.from_bytes(bytes.fromhex(node.id)), None, addresses)
        async with asyncio.timeout(PATIENCE_S):
            connection = await self.endpoint.connect(target, alpn)
        return Line(connection, await connection.open_bi())

    async def greet(self, node: Node, /, **hello: Any) -> "Line":
        """A connection to a node that has been greeted."""
        line = await self.connect(node)
        await line.send({"hello": {"version": VERSION, "network": node.call("node.self")["network"], **hello}})
        line.answer = await line.read()
        return line

    @contextlib.asynccontextmanager
    async def serving(self, serve: Callable[["Line"], Awaitable[None]]) -> AsyncIterator[None]:
        """Meanwhile, answer each connection of a node by `serve`, one after the other."""

        async def listen() -> None:
            while True:
                line = await self.accept()
                with contextlib.suppress(iroh.IrohError, Ended, TimeoutError):
                    await serve(line)

        listening = asyncio.create_task(listen())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def accept(self) -> "Line":
        """The next connection of a node to this endpoint; its greeting is welcomed."""
        incoming = await self.endpoint.accept_next()
        assert incoming is not None
        connection = await (await incoming.accept()).connect()
        line = Line(connection, await connection.accept_bi())
        line.answer = await line.read()
        await line.send({"welcome": {"version": VERSION}})
        return line


class Line:
    """One connection and its first stream."""

    def __init__(self, connection: iroh.Connection, stream: iroh.BiStream) -> None:
        self.connection = connection
        self.answer: dict[str, Any] = {}
        self._send = stream.send()
        self._recv = stream.recv()
        self._reader = FrameReader()

    async def send(self, *messages: dict[str, Any]) -> None:
        """Send messages."""
        await self.send_raw(b"".join(map(encode, messages)))

    async def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        async with asyncio.timeout(PATIENCE_S):
            await self._send.write_all(data)

    async def read(self, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The next message that is no ping (those are answered)."""
        async with asyncio.timeout(seconds):
            while True:
                message = self._reader.pop()
                if message is None:
                    data = await self._recv.read(65_536)
                    if not data:
                        raise Ended
                    self._reader.push(data)
                elif "ping" in message:
                    await self.send({"pong": message["ping"]})
                else:
                    return message

    async def call(self, number: int, method: str, **params: Any) -> dict[str, Any]:
        """A call and the reply to it."""
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        while True:
            reply = await self.read()
            if reply.get("id") == number:
                return reply

    async def closed(self, seconds: float = PATIENCE_S) -> str:
        """Why the node closed the connection."""
        async with asyncio.timeout(seconds):
            return str(await self.connection.closed())


@contextlib.asynccontextmanager
async def enemy() -> AsyncIterator[Enemy]:
    """A fresh enemy."""
    identity = Identity.generate()
    endpoint = await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr="127.0.0.1:0",
            secret_key=identity.secret,
            alpns=[ALPN],
            relay_mode=iroh.RelayMode.disabled(),
        )
    )
    try:
        yield Enemy(endpoint, identity)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await endpoint.close()


def attack(run: Callable[[Enemy], Coroutine[Any, Any, None]]) -> None:
    """Run an attack to its end."""

    async def main() -> None:
        async with enemy() as one:
            await run(one)

    asyncio.run(main())


def is_well(node: Node, friend: Node) -> None:
    """The node still serves others, and keeps nothing big in memory."""
    assert friend.peer(node, "task.echo", value=1)["value"] == 1
    assert memory_mb(node) < 400


def memory_mb(node: Node) -> int:
    """Resident memory of the node's registryd."""
    assert node.daemon.process is not None
    with open(f"/proc/{node.daemon.process.pid}/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) >> 10


def deep(levels: int) -> bytes:
    """A frame of deeply nested JSON."""
    return raw(b'{"id":1,"method":"task.echo","params":{"value":' + b"[" * levels + b"]" * levels + b"}}")


def plain(value: Any) -> bytes:
    """A frame of any JSON value, NaN and all."""
    return raw(json.dumps(value).encode())
