"""Who it is that answers at Core's port on this machine, asked before anything is said to it.

Whoever has an account here may listen on a free port, as Core's is while Core restarts. Such a program would get the
password, the name of the wallet, and could tell any chain it likes.
"""

import http.client
import ipaddress
import os
import pwd
import socket

from duxcommon.errors import ChainAuthFailed
from duxcommon.tcptable import LISTENING, TcpSocket, plain, sockets

PEOPLE = 1000
"""Debian gives lower numbers to root and to the users of services."""


def servers(connection: socket.socket, table: list[TcpSocket]) -> set[int]:
    """Users that a connection to this machine may lead to, by the kernel's table; empty where it does not tell.

    The other end belongs to root until it is accepted, so whoever listens counts as well.
    """
    here, there = connection.getsockname()[:2], connection.getpeername()[:2]
    address, port = plain(ipaddress.ip_address(there[0])), there[1]
    ours = plain(ipaddress.ip_address(here[0])), here[1]
    ends = {
        one.uid
        for one in table
        if one.state != LISTENING and (one.address, one.port, one.peer, one.peer_port) == (address, port, *ours)
    }
    listening = {
        one.uid
        for one in table
        if (one.state, one.port) == (LISTENING, port)
        and (one.address == address or ipaddress.ip_address(one.address).is_unspecified)
    }
    return ends | listening if ends and listening else set()


def check(connection: socket.socket, run_by: str | None) -> None:
    """Raises ChainAuthFailed unless all who may answer are root, a service, this user, or `run_by`.

    Raises ConnectionAbortedError when that can't be told, as when the other end is gone again.
    """
    port = connection.getpeername()[1]
    found = servers(connection, sockets(port=port, peer_port=connection.getsockname()[1]))
    if not found:
        raise ConnectionAbortedError(f"it can't be told whose program answered on port {port}")
    strangers = sorted(uid for uid in found if uid >= PEOPLE and uid != os.geteuid() and _name(uid) != run_by)
    if strangers:
        name = _name(strangers[0])
        raise ChainAuthFailed(
            f"port {port} belongs to a program of {name}, not to a service of this machine; it was told nothing",
            hint=f"If {name} runs Core here, set `core: {{run_by: {name}}}` in a file of /etc/duxnet/flopd.d and "
            "restart dux-flopd; if not, end that program (`sudo ss -ltnp` names it).",
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


class CheckedConnection(http.client.HTTPConnection):
    """A connection that is checked each time before anything is sent through it, also when it is made anew."""

    def __init__(self, host: str, port: int, *, timeout: float, run_by: str | None) -> None:
        super().__init__(host, port, timeout=timeout)
        self._run_by = run_by

    def connect(self) -> None:
        super().connect()
        try:
            check(self.sock, self._run_by)
        except BaseException:
            self.close()
            raise
