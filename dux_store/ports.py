"""What the store needs from the daemon that mounts it; dux-registryd has each of these."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from duxcommon.api.common import SignedRecord
from duxcommon.api.registryd import NodeInfo


class Directory(Protocol):
    """The network's shared signed records."""

    async def announce(self, record: SignedRecord) -> bool:
        """Put a record of this node and keep it put; True once another node has stored it.

        An unreachable network is no error: the directory tries on.
        """

    def on(self, kind: str, callback: Callable[[SignedRecord], Awaitable[bool]]) -> None:
        """Call back for every record of a kind that arrives; True means: `keep` it.

        A DuxError that the callback raises is counted as the reason why a record was dropped.
        """

    def keep(self, record: SignedRecord) -> None:
        """Re-put another node's record for it, so that it outlives that node's absence."""


class Nodes(Protocol):
    """The nodes that this one knows."""

    def serving(self, app: str) -> Sequence[NodeInfo]:
        """Nodes whose newest record names the app."""

    def live_apps(self) -> Mapping[str, int]:
        """App id → how many live nodes serve it and accept work."""


class Signer(Protocol):
    """The node's key, for records of kind `listing`."""

    @property
    def node_id(self) -> str: ...
    @property
    def network_id(self) -> str: ...
    def sign(self, kind: str, seq: int, body: dict[str, Any]) -> SignedRecord:
        """A record of this node; called inside a database write, so it must not block."""


class Blobs(Protocol):
    """The node's content-addressed files."""

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
