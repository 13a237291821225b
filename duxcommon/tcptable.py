"""The kernel's table of this machine's TCP sockets, with the user that each belongs to."""

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path

LISTENING = "0A"
"""A state as the kernel writes it."""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One socket of this machine. Addresses are as `str` of `ipaddress` writes them; IPv4 in IPv6 as IPv4."""

    state: str
    address: str
    port: int
    peer: str
    peer_port: int
    uid: int


def sockets(
    net: Path = Path("/proc/self/net"), *, port: int | None = None, peer_port: int | None = None
) -> list[TcpSocket]:
    """All of them as far as the kernel tells, see proc_net_tcp in its documentation; there may be thousands.

    With `port`, those on that port of this machine; with `peer_port`, of these those that listen or lead to that port.
    """
    found = []
    here = "" if port is None else f":{port:04X}"
    there = ("",) if peer_port is None else (f":{peer_port:04X}", ":0000")
    for name in ("tcp", "tcp6"):
        try:
            lines = (net / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split(maxsplit=8)
            if not (words[1].endswith(here) and words[2].endswith(there)):
                continue
            found.append(TcpSocket(words[3], *_endpoint(words[1]), *_endpoint(words[2]), int(words[7])))
    return found


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.partition(":")
    # The address is printed as words in the order of the machine.
    packed = b"".join(int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
    return plain(ipaddress.ip_address(packed)), int(port, 16)


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address in the one form in which this table compares it."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
