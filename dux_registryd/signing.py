"""Signs records with the node's key, each kind only for the daemon that it belongs to."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from duxcommon.api.common import SignedRecord
from duxcommon.clock import CLOCK, Clock
from duxcommon.errors import SigningRefused
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from duxcommon.rpc import Caller

OWN_KINDS = frozenset({"node", "listing"})
"""Made inside this daemon; nobody else can have them signed."""


class Signer:
    """The only holder of the node's key beside the endpoint."""

    def __init__(
        self,
        identity: Identity,
        network_id: str,
        network_name: str,
        users: Mapping[str, Sequence[str]],
        clock: Clock = CLOCK,
    ) -> None:
        self.node_id = identity.node_id
        self.network_id = network_id
        self.network_name = network_name
        self._identity = identity
        self._users = users
        self._clock = clock
        self._own_uid = os.geteuid()
        self._last = 0

    def configure(self, users: Mapping[str, Sequence[str]]) -> None:
        """Take new settings (on reload)."""
        self._users = users

    def check(self, kind: str, caller: Caller) -> None:
        """Raises SigningRefused unless `caller`'s daemon may have records of this kind signed."""
        if kind in OWN_KINDS or kind not in self._users:
            known = ", ".join(sorted(self._users)) or "none"
            raise SigningRefused(f"records of kind {kind!r} are not signed for anyone (kinds: {known})")
        # One user for all daemons is how a trial network runs; there is nobody to tell apart then.
        if caller.uid not in (0, self._own_uid) and caller.name not in self._users[kind]:
            raise SigningRefused(f"user {caller.name} may not have records of kind {kind!r} signed")

    def sign(self, kind: str, seq: int, body: dict[str, Any]) -> SignedRecord:
        """A record of this node, dated now. May be called from any thread.

        Raises BadRecord for a body that has no one form, ClockWrong while the date would certainly be false.
        """
        self._clock.check()
        return sign_record(self._identity, kind, self.network_id, seq, body)

    def next_seq(self, after: int = 0) -> int:
        """The time in ms, or more: above `after` and above all that this process gave out."""
        self._last = max(self._last + 1, int(time.time() * 1000), after + 1)
        return self._last
