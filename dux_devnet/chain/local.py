"""The chain's door on this machine: whoever logs in is not shut out by those who don't.

All come from the same address, and nothing tells them apart before they log in. So every connection is let in, and
waits in a hall where it costs little until the head of its first request is there. When the hall is full, whoever has
waited longest is cut. Of those who logged in, the one with the most connections gives one up.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable

from . import listener
from .listener import MAX_HEAD, Connection, Door

log = logging.getLogger("devchain")

MAX_WAITING = 4096
"""Many, because each may wait the longer in a flood: a node looks who answers before it says anything."""
MAX_STRANGERS = 64
"""Who have sent a request without a login, and get an answer that says so."""
MAX_KNOWN = 256
"""A node keeps four."""
SPARE_FILES = 1024
"""For everything else that the process opens."""

_END = b"\r\n\r\n"


class _Waiting:
    """A connection whose first head is still to come."""

    __slots__ = ("head", "timer")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.head = bytearray()
        self.timer = timer


class LocalDoor(Door):
    """Loopback, without TLS. `logs_in` tells whether a request's head holds a login that is good."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], logs_in: Callable[[bytes], bool]) -> None:
        super().__init__(factory)
        self._logs_in = logs_in
        self._places = min(MAX_WAITING, max(MAX_STRANGERS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES))
        self._waiting: dict[socket.socket, _Waiting] = {}
        self._strangers: dict[Connection, None] = {}
        self._known: dict[str, dict[Connection, None]] = {}
        self._who: dict[Connection, str] = {}
        self._told = False

    def knows(self, connection: Connection, who: str) -> None:
        """A connection has logged in, as the owner (an empty name) or a user."""
        if self._who.get(connection) != who:
            self._forget(connection)
            self._who[connection] = who
        mine = self._known.setdefault(who, {})
        # The one that was of use last stands last.
        mine.pop(connection, None)
        mine[connection] = None
        if len(self._who) > MAX_KNOWN:
            most = max(self._known.values(), key=len)
            idle = (one for one in most if not one.at_work)
            next(idle, next(iter(most))).cut()

    async def shut(self) -> None:
        await super().shut()
        for sock in list(self._waiting):
            self._drop(sock)

    def _arrived(self, sock: socket.socket, address: str) -> None:
        if len(self._waiting) >= self._places:
            if not self._told:
                self._told = True
                log.warning("more than %d connections say nothing: the oldest are cut", self._places)
            self._drop(next(iter(self._waiting)))
        loop = asyncio.get_running_loop()
        self._waiting[sock] = _Waiting(loop.call_later(listener.SILENCE_S, self._drop, sock))
        loop.add_reader(sock, self._hears, sock, address)

    def _hears(self, sock: socket.socket, address: str) -> None:
        head = self._waiting[sock].head
        data = b""
        with contextlib.suppress(OSError):
            data = sock.recv(2 * MAX_HEAD)
        head += data
        end = head.find(_END)
        if not data:
            self._drop(sock)
        elif end > MAX_HEAD or (end < 0 and len(head) > MAX_HEAD):
            log.info("a head of more than %d bytes from %s", MAX_HEAD, address)
            self._drop(sock)
        elif end >= 0 or not head[:1].isalpha():
            # Also what can be no HTTP is answered.
            began = self._began if self._logs_in(bytes(head[: end + 2])) else self._comes_as_stranger
            self._forgets(sock)
            self._let_in(sock, address, began, bytes(head))

    def _forgets(self, sock: socket.socket) -> None:
        self._waiting.pop(sock).timer.cancel()
        asyncio.get_running_loop().remove_reader(sock)
        self._told = self._told and len(self._waiting) > self._places // 2

    def _drop(self, sock: socket.socket) -> None:
        self._forgets(sock)
        sock.close()

    def _left(self, address: str) -> None:
        """Connections are counted one by one."""

    def _comes_as_stranger(self, connection: Connection) -> None:
        self._began(connection)
        self._strangers[connection] = None
        if len(self._strangers) > MAX_STRANGERS:
            longest = next(iter(self._strangers))
            del self._strangers[longest]
            longest.cut()

    def _ended(self, connection: Connection) -> None:
        super()._ended(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        who = self._who.pop(connection, None)
        if who is not None:
            self._known[who].pop(connection, None)
            if not self._known[who]:
                del self._known[who]
