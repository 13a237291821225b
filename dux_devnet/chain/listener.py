"""The chain's door to other machines: TLS 1.3, and no one client can take what the others need.

Connections are counted from the moment they are accepted, unfinished handshakes included, and one that sends no whole
request within a while is cut. What is too much is held back, not refused: a node that reads many old blocks is merely
slower.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable

log = logging.getLogger("devchain")

MAX_CONNECTIONS = 256
PER_ADDRESS = 16
"""A node keeps four."""
HANDSHAKE_S = 10.0
SILENCE_S = 30.0
"""A connection that has sent no whole request for so long is closed, as Core does."""
CALLS_PER_SECOND = 500.0
"""Of one address. Reading a year of blocks, a node makes two calls a block."""
BURST = 1000.0
MAX_REQUEST = 1024 * 1024
"""Bytes; the largest transaction that relays is 200 kB in hex."""
MAX_BATCH = 100


class Connection(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and knows when it was last of use."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        address: str,
        began: Callable[["Connection"], None],
        ended: Callable[["Connection"], None],
    ) -> None:
        self.address = address
        self.transport: asyncio.Transport | None = None
        self._inner = inner
        self._began = began
        self._ended = ended
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._began(self)
        self.idle()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self.busy()
        self._inner.connection_lost(error)
        self._ended(self)

    def busy(self) -> None:
        """A whole request is being carried out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def idle(self) -> None:
        """From now on the next request must come within SILENCE_S."""
        self.busy()
        if self.transport is not None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self.transport.abort)


class _Bucket:
    def __init__(self) -> None:
        self.left = BURST
        self.at = time.monotonic()

    def wait(self, calls: int) -> float:
        """Take so many calls; the seconds to wait before they may be made."""
        now = time.monotonic()
        self.left = min(BURST, self.left + (now - self.at) * CALLS_PER_SECOND) - calls
        self.at = now
        return max(0.0, -self.left / CALLS_PER_SECOND)


class Listener:
    """One listening socket. `factory` makes aiohttp's protocol for a connection."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self._factory = factory
        self._context = context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._connections: dict[asyncio.BaseTransport, Connection] = {}
        self._by_address: Counter[str] = Counter()
        self._buckets: defaultdict[str, _Bucket] = defaultdict(_Bucket)

    def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=128)
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._socket), name="accept")
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        tasks = [*self._handshakes, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in list(self._connections):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def renew(self, context: ssl.SSLContext) -> None:
        """Use another certificate for connections from now on."""
        self._context = context

    def connection(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """The connection that came in by this door with this transport."""
        return None if transport is None else self._connections.get(transport)

    async def throttle(self, address: str, calls: int) -> None:
        """Wait until so many more calls of an address are within its rate."""
        await asyncio.sleep(self._buckets[address].wait(calls))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except OSError as error:
                # No more descriptors, or a client that is gone already: the others still want to be served.
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            address = str(peer[0])
            full = self._by_address.total() >= MAX_CONNECTIONS
            if full or self._by_address[address] >= PER_ADDRESS:
                log.info("a connection of %s too many is closed", address)
                sock.close()
                continue
            self._by_address[address] += 1
            task = asyncio.create_task(self._handshake(sock, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, sock: socket.socket, address: str) -> None:
        def make() -> Connection:
            return Connection(self._factory(), address, self._began, self._ended)

        loop = asyncio.get_running_loop()
        begun = False
        try:
            _, made = await loop.connect_accepted_socket(
                make, sock, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=1.0
            )
            begun = made.transport is not None
        except (OSError, ssl.SSLError) as error:
            log.info("no TLS with %s: %s", address, error)
        finally:
            if not begun:
                sock.close()
                self._release(address)

    def _began(self, connection: Connection) -> None:
        assert connection.transport is not None
        self._connections[connection.transport] = connection

    def _ended(self, connection: Connection) -> None:
        assert connection.transport is not None
        del self._connections[connection.transport]
        self._release(connection.address)

    def _release(self, address: str) -> None:
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]
            bucket = self._buckets.get(address)
            if bucket is not None and bucket.wait(0) == 0.0 and bucket.left >= BURST:
                del self._buckets[address]
