"""Who is calling: uid and groups from the socket, or the remote node that the gateway names."""

import grp
import os
import pwd
import socket
import struct
import time
from dataclasses import dataclass, replace
from functools import lru_cache

from ..api.common import NodeId
from ..config import Access
from ..errors import InvalidRequest, NotAllowed
from ..groups import remedy

SO_PEERGROUPS = 59
GROUPS_TTL_S = 60


@dataclass(frozen=True)
class Caller:
    """`peer` is set when a remote node calls through this node's gateway; uid is the gateway's then."""

    uid: int
    gids: frozenset[int]
    peer: NodeId | None = None

    @property
    def name(self) -> str:
        """The user's name, or the number where it has none."""
        return _user_name(self.uid)

    @property
    def key(self) -> str:
        """What rate limits count by."""
        return self.peer or f"uid:{self.uid}"


def of_socket(connection: socket.socket) -> Caller:
    """The process at the other end of a connected Unix socket."""
    _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups = {gid}
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        groups.update(struct.unpack(f"{len(raw) // 4}I", raw))
    except OSError:
        # More than 256 groups, or a kernel before 4.13: the primary group alone counts.
        pass
    return Caller(uid, frozenset(groups))


@lru_cache(maxsize=1024)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@lru_cache(maxsize=64)
def _uid(name: str, _minute: int) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


@lru_cache(maxsize=64)
def _gid(name: str, _minute: int) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def unknown_groups(access: Access, *, defaults: bool) -> list[str]:
    """A sentence for each group of `access` that this machine does not have; of those by default only if told so."""
    minute = int(time.monotonic() // GROUPS_TTL_S)
    found: dict[str, list[str]] = {}
    for setting in ("read", "spend", "admin"):
        if defaults or setting in access.model_fields_set:
            for name in getattr(access, setting):
                if _gid(name, minute) is None:
                    found.setdefault(name, []).append(f"access.{setting}")
    return [
        f"group {name!r}, named in {' and '.join(settings)}, does not exist on this machine: nobody gets in by it "
        f"(`addgroup --system {name}`, or mend the configuration)"
        for name, settings in found.items()
    ]


class Authorizer:
    """Decides by a daemon's `access` settings; unknown users and groups match nobody."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._own_uid = os.geteuid()

    def _owns(self, caller: Caller) -> bool:
        return caller.uid in (0, self._own_uid)

    def trusted(self, caller: Caller) -> bool:
        """Whether `caller` is root, the daemon's own user or another daemon of the node."""
        return self._owns(caller) or self._is_user(caller, self._access.daemons)

    def _is_user(self, caller: Caller, names: list[str]) -> bool:
        minute = int(time.monotonic() // GROUPS_TTL_S)
        return any(caller.uid == _uid(name, minute) for name in names)

    def as_peer(self, caller: Caller, node: object) -> Caller:
        """The remote node that `caller` speaks for. Raises NotAllowed unless `caller` is the gateway."""
        if not (self._owns(caller) or self._is_user(caller, self._access.gateway)):
            raise NotAllowed(f"user {caller.name} may not speak for a remote node", hint="Only dux-registryd does.")
        if not (isinstance(node, str) and len(node) == 64 and all(c in "0123456789abcdef" for c in node)):
            raise InvalidRequest("'peer' is not a node id")
        return replace(caller, peer=node)

    def check(self, caller: Caller, method: str, access: str, *, peers: bool, daemons: bool = False) -> None:
        """Raises NotAllowed when `caller` may not call a method of this access class.

        `peers`, `daemons`: remote nodes, or the node's own daemons, may call it whatever its class.
        """
        if caller.peer is not None:
            if not peers:
                raise NotAllowed(f"{method} can't be called from another node", hint="Call it on the node itself.")
            return
        if access == "peer":
            raise NotAllowed(f"{method} is for other nodes", hint="It is called through peer.call.")
        if self._owns(caller):
            return
        # None of them may spend by itself: what a stranger has taken over must not have the wallet as well.
        if (daemons or access in ("read", "daemon")) and self._is_user(caller, self._access.daemons):
            return
        groups = {
            "read": self._access.read + self._access.spend + self._access.admin,
            "spend": self._access.spend + self._access.admin,
            "admin": self._access.admin,
        }.get(access, [])
        minute = int(time.monotonic() // GROUPS_TTL_S)
        if any(_gid(name, minute) in caller.gids for name in groups):
            return
        if access == "daemon":
            raise NotAllowed(
                f"user {caller.name} may not call {method}: it is for the node's own daemons",
                hint="Use the methods that `dux-ctl --help` lists.",
            )
        wanted = " or ".join(groups) or "none"
        hint = remedy(groups[0], user=caller.name) if groups else None
        raise NotAllowed(f"user {caller.name} may not call {method} (needs group {wanted})", hint=hint)
