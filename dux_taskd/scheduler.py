"""Which provider does a task. Pure: the same offers and needs give the same choice.

Cheap, near and idle wins; among equals the task's id decides, so that many buyers don't all pick the same one.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from duxcommon.api.common import Koinu, NodeId, TaskId
from duxcommon.api.registryd import Provider
from duxcommon.errors import NoProvider, TooExpensive
from duxcommon.money import format_flop

UNKNOWN_LATENCY_MS = 250
"""What a provider that was never called is taken for."""

FULL_LOAD_PCT = 100


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks of a provider. `excluded` maps nodes that failed it before to the error's name."""

    task: TaskId
    app: str
    max_price: Koinu
    buyer: NodeId
    pinned: NodeId | None = None
    excluded: Mapping[NodeId, str] = field(default_factory=dict)


def fault(offer: Provider, need: Need) -> str | None:
    """The first condition that `offer` fails, in words, or None when it can do the task."""
    if need.pinned is not None and offer.node != need.pinned:
        return "not the one asked for"
    if offer.node == need.buyer:
        return "this node itself"
    if offer.node in need.excluded:
        return f"failed this task before ({need.excluded[offer.node]})"
    if not offer.live:
        return "not heard from lately"
    if not offer.accepting:
        return "not accepting tasks"
    if offer.price > need.max_price:
        return "too expensive"
    return None


def rank(offer: Provider, task: TaskId) -> tuple[int, bytes]:
    """Lower is better: the price, raised by 0.1 % per millisecond of latency and 1 % per percent of load."""
    latency = UNKNOWN_LATENCY_MS if offer.latency_ms is None else min(int(offer.latency_ms), 10_000)
    # An overloaded node queues: what goes beyond full costs three times as much.
    load = min(offer.load_pct, FULL_LOAD_PCT) + 3 * min(max(offer.load_pct - FULL_LOAD_PCT, 0), 1000)
    spread = hashlib.sha256(f"{task}{offer.node}".encode()).digest()
    return ((offer.price + 1) * (1000 + latency + 10 * load), spread)


def choose(offers: Iterable[Provider], need: Need) -> Provider:
    """The provider for this attempt.

    Raises TooExpensive when price alone stands in the way of at least one, else NoProvider; both count for how
    many providers each condition failed (`details.failed`).
    """
    fit: list[Provider] = []
    dear: list[Provider] = []
    failed: Counter[str] = Counter()
    for offer in offers:
        why = fault(offer, need)
        if why is None:
            fit.append(offer)
            continue
        failed[why] += 1
        if why == "too expensive":
            dear.append(offer)
    if fit:
        return min(fit, key=lambda offer: rank(offer, need.task))
    counted = ", ".join(f"{count} {why}" for why, count in sorted(failed.items()))
    details = {"failed": dict(failed), "known": failed.total()}
    if dear:
        cheapest = min(offer.price for offer in dear)
        raise TooExpensive(
            f"{need.app}: the cheapest provider asks {format_flop(cheapest)} FLOP, the task may cost "
            f"{format_flop(need.max_price)} FLOP ({counted})",
            details={**details, "cheapest": cheapest, "max_price": need.max_price},
        )
    if not failed:
        raise NoProvider(f"no node offers {need.app} now", details=details)
    raise NoProvider(f"none of {failed.total()} nodes can do {need.app}: {counted}", details=details)
