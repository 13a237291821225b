"""What one peer may ask of this node: pure counting, one object a node id, whatever number of connections it has."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from duxcommon.errors import QuotaExceeded

from .settings import PeerLimits

BAR_S = 30.0
"""How long a peer that floods is refused."""
STRIKES = 10
"""Seconds' worth of refused messages after which a peer is barred."""
MAX_PEERS = 4096
"""Peers that are remembered; the least recently seen are forgotten."""

Clock = Callable[[], float]


class Bucket:
    """A token bucket: `rate` tokens a second, at most `full` at once."""

    def __init__(self, rate: float, full: float, clock: Clock) -> None:
        self._rate = rate
        self._full = full
        self._clock = clock
        self._level = full
        self._then = clock()

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._full, self._level + (now - self._then) * self._rate)
        self._then = now

    def take(self, amount: float = 1.0) -> bool:
        """Take `amount` if it is there."""
        self._refill()
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def debt(self, amount: float) -> float:
        """Take `amount` in any case; seconds to wait until the level is positive again."""
        self._refill()
        self._level -= amount
        return max(0.0, -self._level / self._rate)


@dataclass
class Peer:
    """One peer's budget and counters."""

    limits: PeerLimits
    clock: Clock
    running: int = 0
    calls: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    barred_until: float = 0.0
    latency_ms: float | None = None
    _calls: Bucket = field(init=False)
    _bytes: Bucket = field(init=False)
    _strikes: Bucket = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self._calls = Bucket(limits.calls_per_second, limits.calls_per_second, self.clock)
        self._bytes = Bucket(limits.bytes_per_second, limits.bytes_per_second * 2, self.clock)
        self._strikes = Bucket(limits.calls_per_second, limits.calls_per_second * STRIKES, self.clock)

    def begin(self) -> None:
        """Count the start of a call. Raises QuotaExceeded."""
        self.calls += 1
        if not self._calls.take():
            self._refuse(f"more than {self.limits.calls_per_second} calls a second")
        if self.running >= self.limits.concurrent_calls:
            self._refuse(f"more than {self.limits.concurrent_calls} calls at once")
        self.running += 1

    def end(self) -> None:
        """Count the end of a call that `begin` let through."""
        self.running -= 1

    def control(self) -> bool:
        """Count a message that is no call; False when there are too many."""
        return self._calls.take() or self._strike()

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._strike()
        raise QuotaExceeded(f"this node allows no {why} from one peer", details={"wait_s": 1})

    def _strike(self) -> bool:
        if self._strikes.take():
            return True
        self.barred_until = self.clock() + BAR_S
        return False

    @property
    def barred(self) -> bool:
        """It flooded this node a moment ago."""
        return self.clock() < self.barred_until

    def received(self, size: int) -> float:
        """Count incoming bytes; seconds to wait before more are read."""
        self.bytes_in += size
        return self._bytes.debt(size)


class Peers:
    """The peers by node id."""

    def __init__(self, limits: PeerLimits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._peers: OrderedDict[str, Peer] = OrderedDict()

    def get(self, node: str) -> Peer:
        """The peer's budget, made at its first appearance."""
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = Peer(self._limits, self._clock)
            while len(self._peers) > MAX_PEERS and (idle := self._idle()) is not None:
                del self._peers[idle]
        self._peers.move_to_end(node)
        return peer

    def _idle(self) -> str | None:
        # Forgetting a barred or busy peer would give it a fresh budget.
        for name, peer in self._peers.items():
            if peer.running == 0 and not peer.barred:
                return name
        return None

    def known(self) -> dict[str, Peer]:
        """All that are remembered."""
        return dict(self._peers)

    def latency_ms(self, node: str) -> float | None:
        """The last measured round trip, without making the peer known."""
        peer = self._peers.get(node)
        return None if peer is None else peer.latency_ms
