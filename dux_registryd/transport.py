"""The iroh endpoint: one connection per peer, dialled or accepted, reused for everything.

The first stream of a connection begins with the dialler's `{"hello": {"version", "network"}}`; the other side
answers `{"welcome": …}` or `{"refused": error}` and both use the stream for calls (`link.py`). Further streams
carry one payload each (`transfers.py`). Who the peer is, TLS has proved: its key is its node id.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import iroh

from duxcommon.errors import (
    DuxError,
    EndpointDown,
    InvalidParams,
    NotAllowed,
    PeerProtocol,
    PeerUnreachable,
    QuotaExceeded,
    UnknownNode,
    WrongNetwork,
    from_rpc,
)

from . import frames, iroh_fix
from .link import CallHandler, Link, LinkLost
from .quota import Peers
from .settings import PeerLimits

log = logging.getLogger("transport")

ALPN = b"dux/1"
VERSION = 1
MAX_GREETING = 4096
GREETING_S = 5.0
MAX_HANDSHAKES = 64
"""Connections that are being greeted; more are refused."""
PROVE_ADDRESS = 16
"""From so many handshakes on, a caller must first prove its address (a QUIC retry)."""
DIALS = 3
"""At most, for a node whose address changes while it is dialled."""
FAILED_DIAL_S = 1.0
"""A node that could not be reached is not dialled again for so long."""
CHECK_EVERY_S = 0.5
CLOSE_S = 1.0


@dataclass(frozen=True)
class Addresses:
    """Where a node can be reached: `host:port` of its endpoint, and the relay it is connected to."""

    direct: tuple[str, ...]
    relay: str = ""


AddressBook = Callable[[str], Addresses | None]
PayloadServer = Callable[[str, dict[str, Any], iroh.SendStream], Awaitable[None]]
"""Answers one payload stream: node id, the request, where to write."""


class Transport:
    """Calls to and from other nodes of one network."""

    def __init__(
        self,
        secret: bytes,
        network: str,
        limits: PeerLimits,
        *,
        peers: Peers,
        book: AddressBook,
        handler: CallHandler,
        payloads: PayloadServer,
        connect_timeout_s: float,
        silence_s: float,
    ) -> None:
        self.peers = peers
        self._secret = secret
        self._network = network
        self._limits = limits
        self._book = book
        self._handler = handler
        self._payloads = payloads
        self._connect_timeout_s = connect_timeout_s
        self._silence_s = silence_s
        self._links: dict[str, list[Link]] = {}
        self._from: dict[Link, str] = {}
        self._dials: dict[str, asyncio.Task[Link]] = {}
        self._failed: dict[str, tuple[float, str, Addresses | None]] = {}
        self._handshakes = 0
        self._downloads: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._endpoint: iroh.Endpoint | None = None
        self.node = ""
        self.refused: Counter[str] = Counter()
        """Reason → connections that were turned away."""

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, address: str, port: int, relays: Sequence[str]) -> None:
        """Bind and accept. Call it after any fork: iroh starts threads. Raises EndpointDown."""
        iroh_fix.apply()
        mode = iroh.RelayMode.custom_from_urls(list(relays)) if relays else iroh.RelayMode.disabled()
        options = iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=f"{address}:{port}",
            secret_key=self._secret,
            alpns=[ALPN],
            relay_mode=mode,
        )
        try:
            self._endpoint = await iroh.Endpoint.bind(options)
        except iroh.IrohError as error:
            raise EndpointDown(f"can't open UDP {address}:{port} for calls: {first_line(error)}") from None
        self.node = self._endpoint.id().to_bytes().hex()
        self._spawn(self._accept(self._endpoint), "accept")
        self._spawn(self._watch(), "watch-links")

    async def stop(self) -> None:
        """Close every connection, so that peers know at once."""
        for links in list(self._links.values()):
            for link in list(links):
                link.close("the node is shutting down")
        for task in [*self._tasks, *self._dials.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._dials.values(), return_exceptions=True)
        if self._endpoint is not None:
            # iroh waits up to three seconds for peers to acknowledge; the farewells have left by then.
            with contextlib.suppress(TimeoutError, iroh.IrohError):
                async with asyncio.timeout(CLOSE_S):
                    await self._endpoint.close()

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error, extra={"task": task.get_name()})

    def addresses(self) -> list[str]:
        """host:port under which this endpoint can be reached directly, as far as it knows."""
        return [] if self._endpoint is None else list(self._endpoint.addr().direct_addresses())

    def relay(self) -> str:
        """URL of the relay that this endpoint is connected to, or an empty text."""
        return "" if self._endpoint is None else self._endpoint.addr().relay_url() or ""

    # --- for the gateway --------------------------------------------------------------------------------------

    async def call(self, node: str, method: str, params: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The result of `method` on `node`; its errors come back as their classes, with detail `peer`.

        Raises UnknownNode, PeerUnreachable, TimedOut, WrongNetwork. A call whose old connection turns out to be
        dead is repeated once on a new one: methods for peers are safe to repeat.
        """
        deadline = time.monotonic() + timeout_s
        link, old = await self.link(node)
        try:
            return await link.call(method, params, timeout_s)
        except LinkLost as lost:
            if not old:
                raise self._unreachable(node, str(lost)) from None
        link, _ = await self.link(node)
        try:
            return await link.call(method, params, max(0.1, deadline - time.monotonic()))
        except LinkLost as lost:
            raise self._unreachable(node, str(lost)) from None

    async def link(self, node: str) -> tuple[Link, bool]:
        """A live connection to `node`, and whether it was there before."""
        if node == self.node:
            raise InvalidParams("a node does not call itself", hint="Name another node.")
        if links := self._links.get(node):
            return links[-1], True
        until, why, where = self._failed.get(node, (0.0, "", None))
        if time.monotonic() < until and where == self._book(node):
            raise self._unreachable(node, why)
        # One dial serves all who wait; a caller that gives up must not end it for the others.
        return await asyncio.shield(self._dialling(node)), False

    @contextlib.asynccontextmanager
    async def payload(self, node: str, request: dict[str, Any]) -> AsyncIterator[tuple[dict[str, Any], "Payload"]]:
        """Ask `node` for a payload: its answer and the bytes that follow. Raises what the peer answered.

        Otherwise like `call`.
        """
        link, old = await self.link(node)
        try:
            with link.receiving():
                answer, payload = await self._ask_payload(link, request)
        except LinkLost as lost:
            if not old:
                raise self._unreachable(node, str(lost)) from None
            link, _ = await self.link(node)
            try:
                with link.receiving():
                    answer, payload = await self._ask_payload(link, request)
            except LinkLost as again:
                raise self._unreachable(node, str(again)) from None
        if "error" in answer:
            known = from_rpc(answer["error"])
            known.details = {"peer": node}
            raise known
        with link.receiving():
            try:
                yield answer, payload
            finally:
                await payload.stop()

    async def _ask_payload(self, link: Link, request: dict[str, Any]) -> tuple[dict[str, Any], "Payload"]:
        reader = frames.FrameReader()
        reader.max_frame = MAX_GREETING
        try:
            async with asyncio.timeout(2 * self._silence_s):
                stream = await link.connection.open_bi()
                send, recv = stream.send(), stream.recv()
                await send.write_all(frames.encode({"payload": request}))
                await send.finish()
                answer = await read_message(recv, reader)
        except TimeoutError:
            raise self._unreachable(link.node, "it did not answer a request for a payload") from None
        except iroh.IrohError as error:
            raise LinkLost(link.dead or first_line(error)) from None
        link.heard()
        return answer, Payload(recv, reader.rest(), link)

    def connected(self, node: str) -> bool:
        """Whether there is a live connection to `node`."""
        return bool(self._links.get(node))

    def _unreachable(self, node: str, why: str) -> PeerUnreachable:
        return PeerUnreachable(f"node {node[:8]}… can't be reached: {why}", details={"node": node})

    # --- dialling ---------------------------------------------------------------------------------------------

    def _dialling(self, node: str) -> asyncio.Task[Link]:
        dial = self._dials.get(node)
        if dial is None:
            dial = self._dials[node] = asyncio.create_task(self._dial(node), name=f"dial-{node[:8]}")
            dial.add_done_callback(lambda task: self._dialled(node, task))
        return dial

    def _dialled(self, node: str, task: asyncio.Task[Link]) -> None:
        self._dials.pop(node, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            for older in self._links.get(node, [])[:-1]:
                if older.suspect(self._silence_s):
                    older.close("the node answers on a new connection")
        elif isinstance(error, PeerUnreachable):
            why = error.message.partition(": ")[2]
            self._failed[node] = (time.monotonic() + FAILED_DIAL_S, why, self._book(node))
            while len(self._failed) > MAX_HANDSHAKES:
                del self._failed[next(iter(self._failed))]

    async def _dial(self, node: str) -> Link:
        for _ in range(DIALS):
            known = self._book(node)
            if known is None:
                raise UnknownNode(f"no node {node[:16]}… is known", details={"node": node})
            try:
                return await self._dial_at(node, known)
            except PeerUnreachable as error:
                failure = error
            # A node that was restarted may have told its new address meanwhile.
            if self._book(node) == known:
                break
        raise failure

    async def _dial_at(self, node: str, known: Addresses) -> Link:
        assert self._endpoint is not None
        connection: iroh.Connection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                address = iroh.EndpointAddr(
                    iroh.EndpointId.from_bytes(bytes.fromhex(node)), known.relay or None, list(known.direct)
                )
                connection = await self._endpoint.connect(address, ALPN)
                return await self._introduce(node, connection)
        except TimeoutError:
            why = f"no answer within {self._connect_timeout_s:g} s"
        except iroh.IrohError as error:
            why = first_line(error)
        except PeerProtocol as error:
            why = error.message
        except DuxError:
            if connection is not None:
                connection.close(0, b"refused")
            raise
        if connection is not None:
            connection.close(1, b"no greeting")
        raise self._unreachable(node, why)

    async def _introduce(self, node: str, connection: iroh.Connection) -> Link:
        stream = await connection.open_bi()
        await stream.send().write_all(frames.encode({"hello": {"version": VERSION, "network": self._network}}))
        reader = frames.FrameReader()
        reader.max_frame = MAX_GREETING
        answer = await read_message(stream.recv(), reader)
        if "refused" in answer:
            error = from_rpc(answer["refused"])
            error.details = {"peer": node}
            raise error
        if "welcome" not in answer:
            raise PeerProtocol("it answered the greeting with something else")
        return self._add(node, connection, stream, reader, "")

    # --- accepting --------------------------------------------------------------------------------------------

    async def _accept(self, endpoint: iroh.Endpoint) -> None:
        while (incoming := await endpoint.accept_next()) is not None:
            if self._handshakes >= MAX_HANDSHAKES:
                self.refused["busy"] += 1
                await incoming.ignore()
                continue
            self._handshakes += 1
            self._spawn(self._greet(incoming), "greet")

    async def _greet(self, incoming: iroh.Incoming) -> None:
        connection: iroh.Connection | None = None
        try:
            async with asyncio.timeout(GREETING_S):
                where = await incoming.remote_addr()
                # Those who come through a relay have no address of their own to be counted by.
                host = where.addr.rpartition(":")[0] if isinstance(where, iroh.IncomingAddr.IP) else ""
                if host and self._handshakes > PROVE_ADDRESS and not await incoming.remote_addr_validated():
                    await incoming.retry()
                    return
                if host and self._count_from(host) >= self._limits.connections_per_address:
                    self.refused["address"] += 1
                    await incoming.refuse()
                    return
                connection = await (await incoming.accept()).connect()
                await self._receive(connection, host)
        except (TimeoutError, iroh.IrohError):
            self.refused["handshake"] += 1
            if connection is not None:
                connection.close(1, b"no greeting")
        except PeerProtocol as error:
            self.refused["protocol"] += 1
            log.info("connection refused", extra={"why": error.message})
            if connection is not None:
                connection.close(2, error.message.encode()[:200])
        finally:
            self._handshakes -= 1

    def _count_from(self, host: str) -> int:
        return sum(1 for other in self._from.values() if other == host)

    async def _receive(self, connection: iroh.Connection, host: str) -> None:
        node = connection.remote_id().to_bytes().hex()
        connection.set_max_concurrent_bi_streams(1 + self._limits.downloads)
        connection.set_max_concurrent_uni_streams(0)
        stream = await connection.accept_bi()
        reader = frames.FrameReader()
        reader.max_frame = MAX_GREETING
        greeting = await read_message(stream.recv(), reader)
        refusal = self._refusal(node, greeting)
        if refusal is not None:
            self.refused[refusal.name] += 1
            log.info("connection refused", extra={"node": node, "why": refusal.message})
            await stream.send().write_all(frames.encode({"refused": refusal.to_rpc()}))
            await stream.send().finish()
            # Closing at once would throw the refusal away; the other side closes when it has read it.
            await connection.closed()
            return
        await stream.send().write_all(frames.encode({"welcome": {"version": VERSION}}))
        for older in self._links.get(node, []):
            # A node that dials again has often been restarted: find out before a call has to.
            older.probe()
        self._add(node, connection, stream, reader, host)

    def _refusal(self, node: str, greeting: dict[str, Any]) -> DuxError | None:
        hello = greeting.get("hello")
        if not isinstance(hello, dict):
            raise PeerProtocol("the first message is no greeting")
        if hello.get("network") != self._network:
            return WrongNetwork(
                f"this node belongs to network {self._network[:16]}…, you greeted as one of "
                f"{str(hello.get('network'))[:16]}…"
            )
        if hello.get("version") != VERSION:
            return PeerProtocol(f"this node speaks version {VERSION} of the protocol, not {hello.get('version')!r:.20}")
        if self.peers.get(node).barred:
            return QuotaExceeded("this node was flooded by you a moment ago", details={"wait_s": 30})
        if sum(map(len, self._links.values())) >= self._limits.connections_total and not self._make_room():
            return QuotaExceeded("this node has no place for one more connection", details={"wait_s": 10})
        if node == self.node:
            return NotAllowed("a node does not call itself")
        return None

    def _make_room(self) -> bool:
        idle = [link for links in self._links.values() for link in links if not link.busy]
        if not idle:
            return False
        min(idle, key=lambda link: link.used).close("making room for others")
        return True

    # --- links ------------------------------------------------------------------------------------------------

    def _add(
        self, node: str, connection: iroh.Connection, stream: iroh.BiStream, reader: frames.FrameReader, host: str
    ) -> Link:
        reader.max_frame = frames.MAX_FRAME
        peer = self.peers.get(node)
        link = Link(connection, stream, node=node, peer=peer, handler=self._handler, on_end=self._remove)
        links = self._links.setdefault(node, [])
        while len(links) >= self._limits.connections:
            links[0].close("a newer connection took its place")
        links.append(link)
        if host:
            self._from[link] = host
        link.start(reader)
        self._spawn(self._serve_payloads(link), f"payloads-{node[:8]}")
        return link

    def _remove(self, link: Link) -> None:
        self._from.pop(link, None)
        links = self._links.get(link.node, [])
        if link in links:
            links.remove(link)
        if not links:
            self._links.pop(link.node, None)

    def _newest(self, link: Link) -> bool:
        return self._links.get(link.node, [None])[-1] is link

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            for links in list(self._links.values()):
                for link in list(links):
                    link.check(self._silence_s)
                    if link.dead is None and link.suspect(self._silence_s) and self._newest(link):
                        self._second_try(link)

    def _second_try(self, link: Link) -> None:
        """The peer owes an answer and is silent: find out whether it is there on a new connection."""
        known = self._book(link.node)
        if known is not None and not link.leads_to(known.direct):
            # iroh dials no other address of a node as long as a connection to it is open.
            link.close(f"node {link.node[:8]}… is silent and has moved")
        elif known is not None:
            self._dialling(link.node)

    async def _serve_payloads(self, link: Link) -> None:
        try:
            while True:
                stream = await link.connection.accept_bi()
                self._spawn(self._serve_payload(link, stream), f"payload-{link.node[:8]}")
        except iroh.IrohError:
            return

    async def _serve_payload(self, link: Link, stream: iroh.BiStream) -> None:
        reader = frames.FrameReader()
        reader.max_frame = MAX_GREETING
        send = stream.send()
        self._downloads[link.node] += 1
        try:
            async with asyncio.timeout(GREETING_S):
                request = (await read_message(stream.recv(), reader)).get("payload")
                if not isinstance(request, dict):
                    raise PeerProtocol("a stream that asks for no payload")
            if self._downloads[link.node] > self._limits.downloads:
                raise QuotaExceeded(f"this node sends one peer no more than {self._limits.downloads} payloads at once")
            link.used = time.monotonic()
            await self._payloads(link.node, request, send)
            await send.finish()
        except (TimeoutError, iroh.IrohError, BrokenOff):
            with contextlib.suppress(iroh.IrohError):
                await send.reset(1)
        except DuxError as error:
            with contextlib.suppress(iroh.IrohError):
                await send.write_all(frames.encode({"error": error.to_rpc()}))
                await send.finish()
        finally:
            self._downloads[link.node] -= 1
            if not self._downloads[link.node]:
                del self._downloads[link.node]


class BrokenOff(Exception):
    """A payload can't be sent to its end, though its head has left."""


class Payload:
    """The raw bytes that follow the head of a payload stream."""

    def __init__(self, stream: iroh.RecvStream, first: bytes, link: Link) -> None:
        self._stream = stream
        self._first = first
        self._link = link

    async def read(self, size: int, timeout_s: float) -> bytes:
        """Up to `size` bytes, none at the end. Raises PeerUnreachable when nothing comes in time."""
        if self._first:
            data, self._first = self._first, b""
            return data
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._stream.read(size)
        except TimeoutError:
            node = self._link.node
            raise PeerUnreachable(f"node {node[:8]}… stopped sending the payload", details={"node": node}) from None
        except iroh.IrohError as error:
            raise PeerUnreachable(f"node {self._link.node[:8]}… broke off the payload: {first_line(error)}") from None
        self._link.heard()
        self._link.peer.bytes_in += len(data)
        return data

    async def stop(self) -> None:
        """Tell the sender that no more is wanted."""
        with contextlib.suppress(iroh.IrohError):
            await self._stream.stop(0)


async def read_message(stream: iroh.RecvStream, reader: frames.FrameReader) -> dict[str, Any]:
    """The next message of a stream. Raises PeerProtocol when it ends before."""
    while (message := reader.pop()) is None:
        data = await stream.read(MAX_GREETING)
        if not data:
            raise PeerProtocol("the stream ended before a whole message")
        reader.push(data)
    return message


def first_line(error: iroh.IrohError) -> str:
    """What iroh says, without source locations and causes."""
    return str(error.message()).partition("\n")[0].partition(" (/")[0][:200]
