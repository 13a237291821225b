"""`param.verify`: the rules reckoned from the chain anew, and the first thing in which what this node uses differs."""

from collections.abc import Sequence
from dataclasses import dataclass

from duxcommon.coin.notes import ApprovalNote, VoteNote

from . import rows
from .governance import Governance
from .timeline import Asked, Census, Entry, Timeline, read


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
    if height >= governance.network.birth_height:
        facts = await governance.flopd.notes(governance.network.birth_height, height)
        entries = [entry for entry in map(rows.entry_of, facts) if entry is not None]
    censuses: dict[Asked, Census] = {}
    timeline = read(governance.network, entries, censuses, height)
    while lacking := timeline.lacking():
        for item in lacking:
            censuses[item.id, item.place] = await governance.census(item)
        timeline = read(governance.network, entries, censuses, height)
    return Verified(
        timeline,
        sum(isinstance(entry.note, VoteNote) for entry in entries),
        sum(isinstance(entry.note, ApprovalNote) for entry in entries),
        _difference(used, governance.stored(height), entries, timeline),
    )


def _difference(used: Timeline, stored: Sequence[Entry], entries: Sequence[Entry], anew: Timeline) -> str:
    by_place, there = ({entry.place: entry for entry in found} for found in (stored, entries))
    for place in sorted({*by_place, *there}):
        if by_place.get(place) != there.get(place):
            return f"block {place[0]}, transaction {place[1]}: this node keeps another note than the chain holds"
    for item in anew.items:
        other = used.find(item.id)
        if other is None or other.place != item.place:
            return f"proposal {item.id[:16]}…: this node has it in another block"
        if other.census != item.census:
            return f"proposal {item.id[:16]}…: this node kept other keys that may vote, or another state of the fund"
        if (other.shortfall, other.refusal) != (item.shortfall, item.refusal):
            return f"proposal {item.id[:16]}…: this node came to another result"
    height = used.book.difference(anew.book)
    return "" if height is None else f"block {height}: this node uses other rules from there on"
