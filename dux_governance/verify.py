"""`param.verify`: the rules reckoned from the chain anew, and the first thing in which what this node uses differs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from duxcommon.coin.notes import ApprovalNote, VoteNote

from . import rows
from .governance import Governance
from .reading import read
from .timeline import Asked, Census, Entry, Item, Timeline


@dataclass(frozen=True, slots=True)
class Verified:
    """The rules reckoned anew, and the first difference; empty when there is none."""

    timeline: Timeline
    votes: int
    approvals: int
    difference: str


async def verify(governance: Governance) -> Verified:
    """Read all notes and ask for all electorates again. Raises RulesPending, and what flopd and registryd answer."""
    used, height = governance.timeline, governance.height
    entries: list[Entry] = []
    birth = governance.network.birth_height
    if height >= birth:
        facts = await governance.flopd.notes(birth, height)
        entries = [entry for entry in map(rows.entry_of, facts) if entry is not None]
    censuses: dict[Asked, Census] = {}
    others: set[Asked] = set()
    timeline = read(governance.network, entries, censuses, height)
    while lacking := timeline.lacking():
        for item in lacking:
            asked = (item.id, item.place)
            censuses[asked] = await governance.census(item, {})
            if (kept := governance.stored.get(asked)) is not None and _cut(kept, used, item) != _cut(
                censuses[asked], used, item
            ):
                others.add(asked)
        timeline = read(governance.network, entries, censuses, height)
    return Verified(
        timeline,
        sum(isinstance(entry.note, VoteNote) for entry in entries),
        sum(isinstance(entry.note, ApprovalNote) for entry in entries),
        _difference(used, list(governance.stored.notes(birth - 1, height)), entries, timeline, others),
    )


def _cut(census: Census, used: Timeline, item: Item) -> Census:
    """What this node keeps of a census: of a refused proposal's only who proposed."""
    found = used.find(item.id)
    refused = found is not None and found.place == item.place and found.refusal is not None
    return Census(census.electorate & item.signers, census.spendable) if refused else census


def _difference(
    used: Timeline, stored: Sequence[Entry], entries: Sequence[Entry], anew: Timeline, others: Collection[Asked]
) -> str:
    by_place, there = ({entry.place: entry for entry in found} for found in (stored, entries))
    for place in sorted({*by_place, *there}):
        if by_place.get(place) != there.get(place):
            return f"block {place[0]}, transaction {place[1]}: this node keeps another note than the chain holds"
    for item in anew.items:
        other = used.find(item.id)
        if other is None or other.place != item.place:
            return f"proposal {item.id[:16]}…: this node has it in another block"
        if (item.id, item.place) in others:
            return f"proposal {item.id[:16]}…: this node kept other keys that may vote, or another state of the fund"
        if (other.shortfall, other.refusal) != (item.shortfall, item.refusal):
            return f"proposal {item.id[:16]}…: this node came to another result"
    height = used.book.difference(anew.book)
    return "" if height is None else f"block {height}: this node uses other rules from there on"
