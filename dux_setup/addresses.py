"""Under which address other machines reach this one, as far as it can know."""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence

from duxcommon.errors import NoAddress

_SIOCGIFADDR = 0x8915


def check(address: str) -> str:
    """An address that somebody named, in its usual form: IPv4, as calls between nodes go by it. Raises NoAddress.

    Names are not taken: dux-flopd may talk to the address of its chain, and to no name server.
    """
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        raise NoAddress(f"{address[:80]!r} is no IPv4 address") from None
    if found.is_loopback or found.is_unspecified or found.is_multicast or found.is_reserved:
        raise NoAddress(f"{found} can't be reached from other machines")
    return str(found)


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine's interfaces, loopback left out."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            address = socket.inet_ntoa(reply[20:24])
            if not ipaddress.ip_address(address).is_loopback:
                found.append(address)
    return found


def lan_address(own: Sequence[str] | None = None) -> str:
    """The address that this machine has in its local network.

    With several, the one that its default route uses. Raises NoAddress where that leaves a choice.
    """
    found = list(own_addresses() if own is None else own)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only says which way it would go (to an address that documentation uses).
            probe.connect(("192.0.2.1", 9))
            routed = str(probe.getsockname()[0])
        except OSError:
            routed = ""
    if routed in found:
        return routed
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoAddress("this machine has no address in a network", hint="Connect it to a network first.")
    raise NoAddress(f"this machine has several addresses: {', '.join(found)}")
