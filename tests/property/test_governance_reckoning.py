"""The rules reckoned block by block are those reckoned from scratch, whatever the chain does meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_governance.reading import read
from dux_governance.reckoning import Reckoning
from dux_governance.timeline import Asked, Census, Entry, Timeline
from duxcommon.coin.notes import ParameterChange
from duxcommon.errors import RulesPending
from duxcommon.network import NetworkDefinition
from tests.governance_kit import SMALL, Chain
from tests.governance_kit import network as network_of
from tests.property.test_governance import NET, Motion, chain_of, motions

DEPTH = 60
LONG = network_of(SMALL.model_copy(update={"vote_blocks": 100, "quorum_keys": 1}))
"""Most votes are cast when the electorate is known already."""


@dataclass
class Source:
    """Notes and censuses as they are stored; what was read of them is counted."""

    entries: list[Entry] = field(default_factory=list)
    censuses: dict[Asked, Census] = field(default_factory=dict)
    taken: int = 0

    def get(self, asked: Asked, /) -> Census | None:
        return self.censuses.get(asked)

    def notes(self, above: int, to: int) -> Iterator[Entry]:
        for entry in self.entries:
            if above < entry.place[0] <= to:
                self.taken += 1
                yield entry


def everything(timeline: Timeline) -> dict[str, object]:
    """All that anybody is told from a timeline."""
    try:
        now: object = timeline.circumstances()
    except RulesPending as error:
        now = error.message
    return {
        "height": timeline.height,
        "items": timeline.items,
        "rules": timeline.book.book,
        "digest": timeline.book.digest,
        "lacking": timeline.lacking(),
        "spends": timeline.spends(timeline.book.known_to),
        "circumstances": now,
    }


class Node:
    """Reckons block by block, and checks each result."""

    def __init__(self, network: NetworkDefinition = NET, slow: int = 1) -> None:
        self.network, self.slow = network, slow
        self.source = Source()
        self.reckoning = Reckoning(network, self.source)
        self.chain = Chain(network=network)
        self.height = -1

    def to(self, height: int, *, ask: bool = True) -> None:
        """The follower has stored all notes up to a height; registryd answers, or is away."""
        self.source.entries += [one for one in self.chain.entries if self.height < one.place[0] <= height]
        self.height = height
        timeline = self.check()
        while ask and (lacking := timeline.lacking()):
            for item in lacking:
                self.source.censuses[item.id, item.place] = self.chain.censuses[item.id, item.place]
            self.reckoning.asked()
            timeline = self.check()

    def check(self) -> Timeline:
        found = self.reckoning.at(self.height)
        anew = read(self.network, self.source.entries, self.source.censuses, self.height)
        assert everything(found) == everything(anew)
        return found

    def reorganise(self, above: int, plan: Sequence[Motion]) -> None:
        """Another chain from a height on."""
        other = chain_of(list(plan), above + 1, self.network, self.slow)
        kept = [one for one in self.chain.entries if one.place[0] <= above]
        censuses = {name: one for name, one in self.chain.censuses.items() if name[1][0] <= above}
        self.chain = Chain(
            network=self.network, entries=[*kept, *other.entries], censuses={**censuses, **other.censuses}
        )
        self.undo(min(above, self.height))

    def undo(self, above: int) -> None:
        self.source.entries = [one for one in self.source.entries if one.place[0] <= above]
        self.source.censuses = {name: one for name, one in self.source.censuses.items() if name[1][0] <= above}
        self.reckoning.undo(above)
        self.height = above


steps = st.lists(
    st.one_of(
        st.tuples(st.just("on"), st.sampled_from([1, 1, 2, 5, 9, 10, 30, 59, 60, 61, 150])),
        st.tuples(st.just("on, unasked"), st.sampled_from([1, 5, 30, 60, 61, 100])),
        st.tuples(st.just("reorganised"), st.sampled_from([1, 2, 10, 59, 60, 61, 130, 500])),
        st.tuples(st.just("undone"), st.sampled_from([1, 3, 60])),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(("network", "slow"), [(NET, 1), (LONG, 9)], ids=["short votes", "votes beyond 60 blocks"])
@settings(max_examples=200, deadline=None)
@given(st.lists(motions, min_size=1, max_size=7), st.lists(st.lists(motions, max_size=3), max_size=3), steps)
def test_block_by_block_the_rules_are_those_reckoned_from_scratch(
    network: NetworkDefinition, slow: int, plan: list[Motion], others: list[list[Motion]], path: list[tuple[str, int]]
) -> None:
    node = Node(network, slow)
    node.chain = chain_of(plan, 0, network, slow)
    rivals = iter(others)
    for what, blocks in path:
        match what:
            case "on":
                node.to(node.height + blocks)
            case "on, unasked":
                node.to(node.height + blocks, ask=False)
            case "reorganised":
                node.reorganise(max(-1, node.height - blocks), next(rivals, []))
            case _:
                node.undo(max(-1, node.height - blocks))
                node.check()
    node.to(node.height + 300)


@settings(max_examples=40, deadline=None)
@given(st.lists(motions, min_size=1, max_size=5))
def test_one_block_at_a_time_comes_to_the_same_as_all_at_once(plan: list[Motion]) -> None:
    node = Node()
    node.chain = chain_of(plan)
    for height in range(200):
        node.to(height)


def test_a_note_is_read_again_only_when_something_before_it_became_certain() -> None:
    node = Node()
    node.chain = chain_of([])
    proposal = node.chain.propose(100, ParameterChange(1, 450))
    for height in range(101, 111):
        node.chain.vote(height, proposal, True, "v0", "v1")
    node.to(DEPTH + 99)
    assert node.source.taken == 21
    # Its electorate is known now: the proposal and its votes are read once more, and then never again.
    node.to(DEPTH + 100)
    assert node.source.taken == 42
    for height in range(DEPTH + 101, 400):
        node.to(height)
    node.undo(380)
    node.to(400)
    assert node.source.taken == 42


def test_what_a_reorganisation_undoes_leaves_no_trace_in_what_was_kept() -> None:
    node = Node(LONG)
    node.chain = chain_of([], network=LONG)
    proposal = node.chain.propose(10, ParameterChange(1, 450))
    node.to(75)
    node.chain.vote(76, proposal, True, "v0", "v1")
    node.to(99)
    node.chain.vote(101, proposal, False, "v0")
    for height in (101, 170):
        node.to(height)
    assert node.reckoning.at(170).items[0].passed is False
    node.reorganise(99, [])
    node.to(170)
    assert node.reckoning.at(170).items[0].passed
    node.reorganise(74, [])
    node.to(170)
    assert node.reckoning.at(170).items[0].counted().votes == 0
