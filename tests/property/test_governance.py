"""The promise of the rule book: what it says of a block up to `known_to` stays so, whatever the chain brings."""

import itertools
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dux_governance.reading import read
from dux_governance.timeline import Entry, Timeline
from duxcommon.coin.notes import (
    ArbiterChange,
    Change,
    GuardianChange,
    ParameterChange,
    ProposalNote,
    Spend,
    proposal_id,
)
from duxcommon.coin.script import p2pkh_script
from duxcommon.money import COIN
from duxcommon.network import NetworkDefinition
from duxcommon.parameters import BY_NUMBER
from tests.governance_kit import SMALL, VOTERS, Chain, key, network

DEPTH = 60
GUARDIANS = ("g0", "g1", "g2")
NET = network(SMALL.model_copy(update={"quorum_keys": 1}))

changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(ParameterChange, st.sampled_from([1, 2, 9, 13, 14]), st.sampled_from([8, 10, 11, 12, 13, 450, 550])),
    st.builds(ParameterChange, st.sampled_from([9, 13, 14]), st.sampled_from([11, 12])),
    st.builds(
        GuardianChange, st.sampled_from([None, 0, 2]), st.sampled_from([None, bytes.fromhex(key("g9"))]),
        st.sampled_from([2, 3]),
    ),
    st.builds(ArbiterChange, st.sampled_from([None, 0]), st.sampled_from([None, bytes.fromhex(key("a9"))])),
    st.builds(Spend, st.just(p2pkh_script(bytes.fromhex(key("v0")))), st.sampled_from([COIN, 200 * COIN])),
)  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """A proposal and what is done about it; heights are relative."""

    gap: int
    change: Change
    proposer: str
    document: int
    yes: tuple[str, ...]
    no: tuple[str, ...]
    approvals: tuple[str, ...]
    after: int
    electorate: tuple[str, ...]


people = st.lists(st.sampled_from([*VOTERS, "x0"]), max_size=4, unique=True).map(tuple)
motions = st.builds(
    Motion,
    gap=st.sampled_from([0, 1, 5, 20, 40]),
    change=changes,
    proposer=st.sampled_from([*VOTERS, "x0"]),
    document=st.integers(0, 2),
    yes=st.one_of(st.just(VOTERS), st.just(VOTERS), people),
    no=st.one_of(st.just(()), st.just(()), people),
    approvals=st.sampled_from([GUARDIANS, ("g0", "g1"), ()]),
    after=st.sampled_from([1, 2, 5, 10, 0, 11]),
    electorate=st.sampled_from([VOTERS, VOTERS, VOTERS[:2], ()]),
)


def chain_of(plan: list[Motion], start: int = 0, network: NetworkDefinition = NET, slow: int = 1) -> Chain:
    """The notes of these motions; votes come `slow` times as late."""
    chain, height = Chain(network=network), start
    for motion in plan:
        height += motion.gap
        chain.electorate = motion.electorate
        proposal = chain.propose(height, motion.change, [motion.proposer], document=bytes([motion.document]))
        then = height + motion.after * slow
        chain.vote(then, proposal, True, *motion.yes)
        chain.vote(then, proposal, False, *motion.no)
        chain.approve(then, proposal, *motion.approvals)
    return chain


def said(timeline: Timeline, low: int, high: int) -> list[tuple[object, ...]]:
    """What a timeline says of the rules of some blocks, without the numbers of versions still to come."""
    found = []
    for height in range(low, high + 1):
        rules = timeline.book.at(height)
        spends = [(spend.proposal, spend.from_height) for spend in timeline.spends(height)]
        found.append((height, rules.model_dump_json(), spends))
    return found


lives = st.sampled_from([0, 1, 9, 10, 11, 58, 59, 60, 61, 65, 69, 70, 71, 75, 80, 81, 82, 90])
"""Blocks after a proposal at which something about it changes, or just not."""


@settings(max_examples=250, deadline=None)
@given(
    st.lists(motions, min_size=1, max_size=5), st.lists(motions, max_size=3), st.integers(0, 4), lives,
    st.sampled_from([0, 1, 30, DEPTH - 1, DEPTH]),
)  # fmt: skip
def test_no_rule_up_to_known_to_is_changed_by_new_blocks_or_by_a_reorg_of_60(
    plan: list[Motion], other: list[Motion], which: int, age: int, reorg: int
) -> None:
    chain = chain_of(plan)
    tip = sum(motion.gap for motion in plan[: which + 1]) + age
    before = chain.read(tip)
    shared = [entry for entry in chain.entries if entry.place[0] <= tip - reorg]
    rival = chain_of(other, max(0, tip - reorg + 1))
    moved = Chain(network=NET, entries=[*shared, *rival.entries])
    moved.entries.sort(key=lambda entry: entry.place)
    moved.censuses = {
        **{name: census for name, census in rival.censuses.items() if name[1][0] > tip - reorg},
        **{name: census for name, census in chain.censuses.items() if name[1][0] <= tip - reorg},
    }
    known = said(before, 0, before.book.known_to)
    for later in (tip, tip + 1, tip + 90, tip + 400):
        assert said(chain.read(later), 0, before.book.known_to) == known
        after = moved.read(later)
        if after.book.known_to >= before.book.known_to:
            assert said(after, 0, before.book.known_to) == known
        else:
            # Only a shorter chain knows less.
            assert later < tip + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(motions, max_size=6), st.data())
def test_known_to_never_goes_back_as_the_chain_grows(plan: list[Motion], data: st.DataObject) -> None:
    chain = chain_of(plan)
    tips = sorted(data.draw(st.lists(st.integers(0, 500), min_size=2, max_size=12)))
    known = [chain.read(tip).book.known_to for tip in tips]
    assert known == sorted(known)
    # The rules of the next blocks are known at every tip, so no part of a node ever waits for a vote.
    assert all(book > tip for book, tip in zip(known, tips, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(motions, min_size=1, max_size=6), st.data())
def test_a_missing_electorate_holds_things_up_and_changes_nothing(plan: list[Motion], data: st.DataObject) -> None:
    chain = chain_of(plan)
    full = chain.read(600)
    names = data.draw(st.sets(st.sampled_from(sorted(chain.censuses))))
    partial = {name: census for name, census in chain.censuses.items() if name not in names}
    held = read(NET, chain.entries, partial, 600)
    assert held.book.known_to <= full.book.known_to
    assert said(held, 0, held.book.known_to) == said(full, 0, held.book.known_to)
    decided = {item.id: item for item in full.items}
    for item in held.items:
        if item.passed is not None:
            assert decided[item.id].passed is item.passed


@settings(max_examples=60, deadline=None)
@given(st.lists(motions, max_size=5), st.randoms(use_true_random=False))
def test_votes_of_different_keys_count_alike_in_any_order(plan: list[Motion], random: object) -> None:
    chain = chain_of([replace(motion, no=()) for motion in plan])

    def shuffled(entries: list[Entry]) -> list[Entry]:
        # Within a block the order of proposals matters, that of one vote each does not.
        made: list[Entry] = []
        for _, group in itertools.groupby(entries, key=lambda entry: entry.place[0]):
            block = list(group)
            fixed = [entry for entry in block if isinstance(entry.note, ProposalNote)]
            loose = [entry for entry in block if not isinstance(entry.note, ProposalNote)]
            random.shuffle(loose)  # type: ignore[attr-defined]
            made += fixed + loose
        return made

    def outcome(entries: list[Entry]) -> list[tuple[object, ...]]:
        items = read(NET, entries, chain.censuses, 600).items
        return [(item.id, item.passed, item.counted(), item.refusal) for item in items]

    ordered = sorted(chain.entries, key=lambda e: (e.place[0], not isinstance(e.note, ProposalNote), e.place))
    assert outcome(ordered) == outcome(shuffled(ordered))


@settings(max_examples=60, deadline=None)
@given(st.lists(motions, max_size=6))
def test_every_value_in_force_is_within_its_bounds_and_one_step_from_the_one_before(plan: list[Motion]) -> None:
    rules = chain_of(plan).read(1000).book.book.rules
    for before, after in itertools.pairwise(rules):
        assert 1 <= after.guardians_m <= len(after.guardians) <= 15
        assert len(after.arbiters) >= 1
        for declared in BY_NUMBER.values():
            old, new = getattr(before.parameters, declared.name), getattr(after.parameters, declared.name)
            assert declared.low <= new <= declared.high
            assert abs(new - old) <= declared.largest_step(old)


@given(st.binary(min_size=32, max_size=32), changes)
def test_a_proposals_id_depends_on_every_byte_of_its_note(document: bytes, change: Change) -> None:
    note = ProposalNote(change, document).encode()
    other = bytes([*note[:-1], note[-1] ^ 1])
    assert proposal_id(NET.id, note) != proposal_id(NET.id, other)
