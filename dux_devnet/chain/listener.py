"""The chain's doors, for this machine and for others: no one client can take what the others need.

Connections are counted from the moment they are accepted, unfinished handshakes included; one that sends no whole
request within a while, or a head without end, is cut. By TLS, what is too much is held back, not refused: a node that
reads many old blocks is merely slower.
"""

import asyncio
import logging
import socket
import ssl
import time
from abc import ABC, abstractmethod
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
MAX_HEAD = 16_384
"""Bytes before the body of a request; a node sends about 200."""
MAX_REQUEST = 1024 * 1024
"""Bytes; the largest transaction that relays is 200 kB in hex."""
MAX_BATCH = 100
BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted, so that a flood delays others and does not refuse them."""
AT_ONCE = 64
"""Connections accepted before those that are there already get their turn."""

_END = b"\r\n\r\n"
_IP_FREEBIND = 15  # of linux/in.h, which Python's socket module does not name


class Connection(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, and knows when it was last of use."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        address: str,
        began: Callable[["Connection"], None],
        ended: Callable[["Connection"], None],
        first: bytes = b"",
    ) -> None:
        """`first` are bytes that have come already."""
        self.address = address
        self.transport: asyncio.Transport | None = None
        self._inner = inner
        self._began = began
        self._ended = ended
        self._first = first
        self._timer: asyncio.TimerHandle | None = None
        self._head: bytearray | None = bytearray()
        """What has come of a request's head; None once it is whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._began(self)
        self.idle()
        self._inner.connection_made(transport)
        if self._first:
            self.data_received(self._first)
            self._first = b""

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data[: MAX_HEAD + 1]
            if (end := self._head.find(_END)) > MAX_HEAD or (end < 0 and len(self._head) > MAX_HEAD):
                log.info("a head of more than %d bytes from %s", MAX_HEAD, self.address)
                self.cut()
                return
            if end >= 0:
                self._head = None
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

    @property
    def at_work(self) -> bool:
        """Whether a request is being carried out."""
        return self._timer is None

    def cut(self) -> None:
        """End it at once."""
        if self.transport is not None:
            self.transport.abort()

    def busy(self) -> None:
        """A request has come, and is being carried out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def idle(self, *, whole: bool = True) -> None:
        """From now on the next request must come within SILENCE_S; `whole`: all of the last one has come."""
        self.busy()
        if whole:
            self._head = bytearray()
        if self.transport is not None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self.transport.abort)


class Door(ABC):
    """One listening socket. `factory` makes aiohttp's protocol for a connection."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None = None) -> None:
        self._factory = factory
        self._context = context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._connections: dict[asyncio.BaseTransport, Connection] = {}

    def open(self, host: str, port: int) -> int:
        """Listen; the port. An address that this machine gets later is served from then on. Raises OSError."""
        self._socket = _listening(host, port)
        self._accepting = asyncio.create_task(self._accept(self._socket), name="accept")
        return int(self._socket.getsockname()[1])

    async def shut(self) -> None:
        """Let nobody in any more."""
        tasks = [*self._beginning, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        await self.shut()
        for connection in list(self._connections.values()):
            connection.cut()

    def connection(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        """The connection that came in by this door with this transport."""
        return None if transport is None else self._connections.get(transport)

    @abstractmethod
    def _arrived(self, sock: socket.socket, address: str) -> None:
        """A connection was accepted."""

    @abstractmethod
    def _left(self, address: str) -> None:
        """A connection that was let in is gone."""

    def _began(self, connection: Connection) -> None:
        assert connection.transport is not None
        self._connections[connection.transport] = connection

    def _ended(self, connection: Connection) -> None:
        assert connection.transport is not None
        del self._connections[connection.transport]
        self._left(connection.address)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted = 0
        while True:
            try:
                sock, peer = await loop.sock_accept(listening)
            except OSError as error:
                # No more descriptors, or a client that is gone already: the others still want to be served.
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            self._arrived(sock, str(peer[0]))
            accepted += 1
            if accepted % AT_ONCE == 0:
                # As long as one waits, accepting gives nobody else a turn.
                await asyncio.sleep(0)

    def _let_in(
        self, sock: socket.socket, address: str, began: Callable[[Connection], None], first: bytes = b""
    ) -> None:
        def make() -> Connection:
            return Connection(self._factory(), address, began, self._ended, first)

        task = asyncio.create_task(self._begin(sock, address, make))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, sock: socket.socket, address: str, make: Callable[[], Connection]) -> None:
        limits = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": 1.0} if self._context else {}
        loop = asyncio.get_running_loop()
        begun = False
        try:
            _, made = await loop.connect_accepted_socket(make, sock, ssl=self._context, **limits)
            begun = made.transport is not None
        except (OSError, ssl.SSLError) as error:
            log.info("no TLS with %s: %s", address, error)
        finally:
            if not begun:
                sock.close()
                self._left(address)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # At boot the network may not be there yet.
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{error.strerror}: port {port} of {host}") from error
    return sock


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


class Listener(Door):
    """The door to other machines, by TLS 1.3: each address gets a share."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        super().__init__(factory, context)
        self._by_address: Counter[str] = Counter()
        self._buckets: defaultdict[str, _Bucket] = defaultdict(_Bucket)

    def renew(self, context: ssl.SSLContext) -> None:
        """Use another certificate for connections from now on."""
        self._context = context

    async def throttle(self, address: str, calls: int) -> None:
        """Wait until so many more calls of an address are within its rate."""
        await asyncio.sleep(self._buckets[address].wait(calls))

    def _arrived(self, sock: socket.socket, address: str) -> None:
        if self._by_address.total() >= MAX_CONNECTIONS or self._by_address[address] >= PER_ADDRESS:
            log.info("a connection of %s too many is closed", address)
            sock.close()
            return
        self._by_address[address] += 1
        self._let_in(sock, address, self._began)

    def _left(self, address: str) -> None:
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]
            bucket = self._buckets.get(address)
            if bucket is not None and bucket.wait(0) == 0.0 and bucket.left >= BURST:
                del self._buckets[address]
