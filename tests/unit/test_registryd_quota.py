"""What one peer may ask for, by a clock that the test moves."""

import pytest

from dux_registryd.quota import BAR_S, MAX_PEERS, Peer, Peers
from dux_registryd.settings import PeerLimits
from duxcommon.errors import QuotaExceeded


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def peer(clock: Clock, calls: int = 10, at_once: int = 3, bytes_per_second: int = 1024) -> Peer:
    limits = PeerLimits(calls_per_second=calls, concurrent_calls=at_once, bytes_per_second=bytes_per_second)
    return Peer(limits, clock)


def test_calls_beyond_the_rate_are_refused_until_time_has_passed() -> None:
    clock = Clock()
    one = peer(clock)
    for _ in range(10):
        one.begin()
        one.end()
    with pytest.raises(QuotaExceeded, match="10 calls a second"):
        one.begin()
    clock.now += 0.5
    for _ in range(5):
        one.begin()
        one.end()
    with pytest.raises(QuotaExceeded):
        one.begin()
    assert (one.calls, one.refused, one.running) == (17, 2, 0)


def test_no_more_calls_at_once_than_allowed() -> None:
    one = peer(Clock())
    for _ in range(3):
        one.begin()
    with pytest.raises(QuotaExceeded, match="3 calls at once"):
        one.begin()
    one.end()
    one.begin()


def test_a_flood_bars_the_peer_for_a_while() -> None:
    clock = Clock()
    one = peer(clock)
    refused = 0
    for _ in range(4000):
        try:
            one.begin()
        except QuotaExceeded:
            refused += 1
        else:
            one.end()
        if one.barred:
            break
    assert one.barred
    assert refused > 50
    clock.now += BAR_S + 1
    assert not one.barred


def test_bytes_beyond_the_rate_cost_waiting_time() -> None:
    clock = Clock()
    one = peer(clock)
    assert one.received(2048) == 0
    assert one.received(1024) == pytest.approx(1.0)
    clock.now += 3
    assert one.received(1024) == 0


def test_a_barred_peer_is_not_forgotten_when_many_others_come() -> None:
    clock = Clock()
    peers = Peers(PeerLimits(calls_per_second=1), clock)
    bad = peers.get("bad")
    bad.barred_until = clock.now + BAR_S
    for number in range(MAX_PEERS + 10):
        peers.get(f"{number}")
    assert peers.get("bad").barred
    assert len(peers.known()) <= MAX_PEERS
