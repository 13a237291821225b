"""Under which address other machines reach this one, as far as it can know."""

import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Sequence

from duxcommon.errors import NoAddress

_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*")
_SIOCGIFADDR = 0x8915


def check(address: str) -> str:
    """An IP address or host name that somebody named, in its usual form. Raises NoAddress."""
    try:
        found = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        if _NAME.fullmatch(address) and not address.replace(".", "").isdigit() and address != "localhost":
            return address.lower()
        raise NoAddress(f"{address!r} is no address or host name") from None
    if found.is_loopback or found.is_unspecified or found.is_multicast:
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
