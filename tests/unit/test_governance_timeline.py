"""From notes on the chain to the rules: who may propose and vote, what passes, and from which block it is in force."""

import pytest

from dux_governance.proposals import Reason
from dux_governance.reading import read
from dux_governance.timeline import Census, Timeline
from duxcommon.coin.notes import (
    ArbiterChange,
    Change,
    GuardianChange,
    ParameterChange,
    ProposalNote,
    Spend,
    VoteNote,
    proposal_id,
)
from duxcommon.coin.script import p2pkh_script, p2sh_script
from duxcommon.errors import RulesPending
from duxcommon.money import COIN, DUST
from duxcommon.rulebook import first_rules
from tests.governance_kit import SMALL, VOTERS, Chain, key, network

TAX = ParameterChange(1, 450)
BORN = 100
DEADLINE = BORN + 10
TALLY = DEADLINE + 60
IN_FORCE = TALLY + 10 + 1
GRANT = Spend(p2pkh_script(bytes.fromhex(key("somebody"))), 5 * COIN)


def passed(chain: Chain, change: Change = TAX, at: int = BORN) -> str:
    """A proposal that everybody votes for, with the approval of two guardians."""
    proposal = chain.propose(at, change)
    chain.vote(at + 1, proposal, True, *VOTERS)
    chain.approve(at + 2, proposal, "g0", "g1")
    return proposal


# --- from a proposal to its effect ---------------------------------------------------------------------------------


def test_an_accepted_change_is_in_force_exactly_when_its_time_lock_is_over() -> None:
    chain = Chain()
    proposal = passed(chain)
    assert chain.item(TALLY - 1, proposal).passed is None
    timeline = chain.read(TALLY)
    assert timeline.find(proposal).passed  # type: ignore[union-attr]
    assert [rules.from_height for rules in timeline.book.book.rules] == [0, IN_FORCE]
    assert timeline.book.newest.proposal == proposal
    later = chain.read(IN_FORCE)
    assert later.book.tax_at(IN_FORCE - 1) == 500
    assert later.book.tax_at(IN_FORCE) == 450


def test_the_rules_are_known_ahead_but_not_beyond_what_may_still_be_decided() -> None:
    chain = Chain()
    passed(chain)
    before = chain.read(TALLY - 1).book
    assert before.known_to == IN_FORCE - 1
    with pytest.raises(RulesPending, match="are not known yet"):
        before.at(IN_FORCE)
    assert chain.read(TALLY).book.known_to >= IN_FORCE


def test_without_any_proposal_the_rules_are_known_for_as_long_as_a_vote_takes() -> None:
    chain = Chain()
    assert chain.read(0).book.known_to == 10 + 60 + 10
    # In the last 60 blocks a proposal may still appear by a reorg.
    assert chain.read(500).book.known_to == 500 - 59 + 10 + 60 + 10


def test_the_same_notes_on_another_network_do_nothing() -> None:
    chain = Chain()
    proposal = passed(chain)
    other = Chain(network=network(name="othernet"), entries=list(chain.entries), censuses=dict(chain.censuses))
    timeline = other.read(IN_FORCE)
    assert timeline.find(proposal) is None
    # The note makes a proposal there too, with another id; the votes are for the one of the first network.
    assert [(item.counted().votes, item.approvals) for item in timeline.items] == [(0, set())]
    assert len(timeline.book.book.rules) == 1


def test_a_note_that_pays_the_fund_too_little_counts_for_nothing() -> None:
    chain = Chain()
    note = ProposalNote(TAX, bytes(32))
    fund = first_rules(chain.network).fund_script
    chain.put(BORN, note, ["v0"], paid={fund: DUST - 1})
    chain.put(BORN, note, ["v0"], paid={p2sh_script(b"another").hex(): COIN})
    assert chain.read(IN_FORCE).items == ()


def test_a_vote_that_pays_the_fund_too_little_does_not_count() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX)
    fund = first_rules(chain.network).fund_script
    chain.put(BORN + 1, VoteNote(bytes.fromhex(proposal), True), ["v0"], paid={fund: DUST - 1})
    assert chain.item(TALLY, proposal).counted().votes == 0


# --- votes ---------------------------------------------------------------------------------------------------------


def test_votes_of_those_who_may_not_vote_are_not_counted() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX)
    chain.vote(BORN + 1, proposal, True, "x0", "x1", "x2", "x3", "x4", "x5")
    chain.vote(BORN + 1, proposal, False, "v1")
    item = chain.item(TALLY, proposal)
    assert (item.counted().votes, item.counted().yes, item.passed) == (1, 0, False)


def test_a_vote_in_the_proposals_own_block_or_after_the_deadline_does_not_count() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX)
    chain.vote(BORN, proposal, True, "v0")
    chain.vote(DEADLINE, proposal, True, "v1")
    chain.vote(DEADLINE + 1, proposal, True, "v2", "v3")
    assert chain.item(TALLY - 1, proposal).ballots == {key("v1"): True}
    assert chain.item(TALLY, proposal).counted().votes == 1


def test_the_last_vote_of_a_key_counts_and_counts_once() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX)
    chain.vote(BORN + 1, proposal, True, "v0", "v1", "v1", "v1")
    chain.vote(BORN + 2, proposal, False, "v0")
    counted = chain.item(TALLY, proposal).counted()
    assert (counted.votes, counted.yes) == (2, 1)


def test_a_transaction_that_two_voters_signed_is_a_vote_of_both() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX)
    chain.put(BORN + 1, VoteNote(bytes.fromhex(proposal), True), ["v0", "v1", "stranger"])
    assert chain.item(TALLY, proposal).counted().votes == 2


@pytest.mark.parametrize(
    ("electorate", "yes", "no", "accepted"),
    [
        (10, 2, 0, True),  # 20 % voted
        (11, 2, 0, False),  # 18 % voted
        (10, 3, 2, True),  # 60 % in favour
        (10, 5, 4, False),  # 55 % in favour
        (1, 1, 0, True),
        (5, 0, 0, False),
    ],
)
def test_a_parameter_needs_the_quorum_of_the_electorate_and_the_majority_of_the_votes(
    electorate: int, yes: int, no: int, accepted: bool
) -> None:
    chain = Chain(electorate=[f"v{n}" for n in range(electorate)])
    proposal = chain.propose(BORN, TAX)
    chain.vote(BORN + 1, proposal, True, *(f"v{n}" for n in range(yes)))
    chain.vote(BORN + 1, proposal, False, *(f"v{n}" for n in range(yes, yes + no)))
    item = chain.item(TALLY, proposal)
    assert item.passed is accepted
    assert bool(item.shortfall) is not accepted


@pytest.mark.parametrize(
    "change",
    [
        GuardianChange(0, bytes.fromhex(key("g9")), 2),
        ArbiterChange(None, bytes.fromhex(key("a9"))),
        ParameterChange(10, 21),
        GRANT,
    ],
    ids=["guardians", "arbiters", "voting", "spend"],
)
def test_guardians_arbiters_voting_rules_and_spending_need_more(change: Change) -> None:
    def outcome(votes: int, *guardians: str) -> bool | None:
        chain = Chain()
        proposal = chain.propose(BORN, change)
        chain.vote(BORN + 1, proposal, True, *VOTERS[:votes])
        chain.approve(DEADLINE, proposal, *guardians)
        return chain.item(TALLY, proposal).passed

    assert outcome(3, "g0", "g2")
    assert not outcome(2, "g0", "g1"), "quorum_keys is 3"
    assert not outcome(5, "g0"), "two guardians must approve"
    assert not outcome(5, "g0", "g0", "g0"), "the same one three times is one"
    assert not outcome(5, "g0", "stranger")


def test_approvals_after_the_deadline_come_too_late() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, GRANT)
    chain.vote(BORN + 1, proposal, True, *VOTERS)
    chain.approve(BORN + 1, proposal, "g0")
    chain.approve(DEADLINE + 1, proposal, "g1")
    item = chain.item(TALLY, proposal)
    assert item.shortfall == "1 guardians approved; 2 were needed"


def test_where_nobody_may_vote_nothing_passes() -> None:
    chain = Chain(electorate=["v0"])
    proposal = chain.propose(BORN, TAX)
    assert chain.item(TALLY, proposal).passed is False


def test_a_running_vote_keeps_its_rules_when_the_rules_of_voting_change() -> None:
    chain = Chain()
    longer = passed(chain, ParameterChange(9, 12))  # vote_blocks
    stricter = chain.propose(BORN, ParameterChange(11, 65), ["v1"])  # majority_pct
    chain.vote(BORN + 1, stricter, True, *VOTERS)
    chain.approve(BORN + 2, stricter, "g0", "g1")
    tax = chain.propose(IN_FORCE - 1, TAX, ["v2"])
    after = chain.propose(IN_FORCE, ParameterChange(2, 90 * COIN), ["v1"])
    chain.vote(IN_FORCE + 1, tax, True, "v0", "v1", "v2")
    chain.vote(IN_FORCE + 1, tax, False, "v3", "v4")
    chain.vote(IN_FORCE + 1, after, True, "v0", "v1", "v2")
    chain.vote(IN_FORCE + 1, after, False, "v3", "v4")
    timeline = chain.read(IN_FORCE + 200)
    found = {item.id: item for item in timeline.items}
    assert (found[longer].passed, found[stricter].passed) == (True, True)
    assert (found[tax].terms.deadline, found[tax].terms.majority_pct) == (IN_FORCE - 1 + 10, 60)
    assert (found[after].terms.deadline, found[after].terms.majority_pct) == (IN_FORCE + 12, 65)
    # The same three of five: enough for the one, too few for the other.
    assert (found[tax].passed, found[after].passed) == (True, False)


# --- what can't be voted on ------------------------------------------------------------------------------------------


def refused(change: Change, chain: Chain | None = None) -> Reason | None:
    chain = chain or Chain()
    refusal = chain.item(BORN + 60, chain.propose(BORN, change)).refusal
    return None if refusal is None else refusal.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ParameterChange(200, 1), Reason.UNKNOWN_PARAMETER),
        (ParameterChange(1, 2001), Reason.OUT_OF_BOUNDS),
        (ParameterChange(3, 19), Reason.OUT_OF_BOUNDS),
        (ParameterChange(1, 601), Reason.STEP_TOO_LARGE),
        (ParameterChange(1, 399), Reason.STEP_TOO_LARGE),
        (ParameterChange(2, 151 * COIN), Reason.STEP_TOO_LARGE),
        (ParameterChange(1, 500), Reason.NO_CHANGE),
        (ParameterChange(1, 600), None),
        (ParameterChange(1, 400), None),
        (ParameterChange(2, 150 * COIN), None),
        (GuardianChange(3, None, 2), Reason.IMPOSSIBLE_SEATS),
        (GuardianChange(0, None, 3), Reason.IMPOSSIBLE_SEATS),
        (GuardianChange(None, None, 0), Reason.IMPOSSIBLE_SEATS),
        (GuardianChange(None, bytes.fromhex(key("g1")), 2), Reason.IMPOSSIBLE_SEATS),
        (GuardianChange(None, None, 2), Reason.NO_CHANGE),
        (GuardianChange(None, None, 3), None),
        (GuardianChange(None, bytes.fromhex(key("g3")), 3), None),
        (ArbiterChange(2, None), Reason.IMPOSSIBLE_SEATS),
        (ArbiterChange(None, bytes.fromhex(key("a0"))), Reason.IMPOSSIBLE_SEATS),
        (ArbiterChange(None, None), Reason.NO_CHANGE),
        (ArbiterChange(1, None), None),
        (Spend(GRANT.script, DUST - 1), Reason.IMPOSSIBLE_SPEND),
        (Spend(GRANT.script, 100 * COIN + 1), Reason.IMPOSSIBLE_SPEND),
        (Spend(GRANT.script, 100 * COIN), None),
        (Spend(bytes.fromhex(first_rules(network()).fund_script), COIN), Reason.IMPOSSIBLE_SPEND),
    ],
)
def test_a_proposal_is_refused_when_it_confirms_for_a_reason(change: Change, reason: Reason | None) -> None:
    assert refused(change) is reason


def test_guardians_can_not_become_more_than_a_script_holds_or_jump_in_number_of_signatures() -> None:
    many = [f"g{number}" for number in range(15)]
    chain = Chain(network=network(guardians=many, m=8))
    assert refused(GuardianChange(None, bytes.fromhex(key("g15")), 8), chain) is Reason.IMPOSSIBLE_SEATS
    chain = Chain(network=network(guardians=many, m=8))
    assert refused(GuardianChange(None, None, 10), chain) is Reason.IMPOSSIBLE_SEATS
    one = Chain(network=network(guardians=["g0"], m=1))
    assert refused(GuardianChange(0, None, 1), one) is Reason.IMPOSSIBLE_SEATS


def test_of_two_contradicting_proposals_in_one_block_the_first_stands() -> None:
    chain = Chain()
    first = chain.propose(BORN, ParameterChange(1, 450), ["v0"])
    second = chain.propose(BORN, ParameterChange(1, 550), ["v1"])
    assert chain.item(BORN + 60, first).refusal is None
    refusal = chain.item(BORN + 60, second).refusal
    assert refusal is not None
    assert (refusal.reason, first[:16] in refusal.text) == (Reason.CONTRADICTS, True)


@pytest.mark.parametrize(
    ("one", "other", "contradict"),
    [
        (GuardianChange(0, None, 2), GuardianChange(None, bytes.fromhex(key("g9")), 2), True),
        (ArbiterChange(0, None), ArbiterChange(None, bytes.fromhex(key("a9"))), True),
        (ParameterChange(1, 450), ParameterChange(2, 90 * COIN), False),
        (GuardianChange(0, None, 2), ArbiterChange(0, None), False),
        (GRANT, Spend(GRANT.script, COIN), False),
    ],
)
def test_changes_of_one_subject_contradict_each_other(one: Change, other: Change, contradict: bool) -> None:
    chain = Chain()
    chain.propose(BORN, one, ["v0"])
    second = chain.propose(BORN + 5, other, ["v1"])
    refusal = chain.item(BORN + 65, second).refusal
    assert (refusal is not None and refusal.reason is Reason.CONTRADICTS) is contradict


def test_a_subject_is_free_again_when_a_proposal_failed_and_a_cycle_after_one_was_in_force() -> None:
    failed = Chain()
    failed.propose(BORN, TAX)
    early = failed.propose(TALLY - 1, TAX, ["v1"])
    again = failed.propose(TALLY, TAX, ["v2"])
    assert failed.item(TALLY + 60, early).refusal.reason is Reason.CONTRADICTS  # type: ignore[union-attr]
    assert failed.item(TALLY + 60, again).refusal is None

    chain = Chain()
    passed(chain)
    locked = chain.propose(IN_FORCE - 1, ParameterChange(1, 400), ["v1"])
    soon = chain.propose(IN_FORCE + 9, ParameterChange(1, 400), ["v1"])
    later = chain.propose(IN_FORCE + 10, ParameterChange(1, 400), ["v2"])
    timeline = chain.read(IN_FORCE + 100)
    reasons = {item.id: item.refusal and item.refusal.reason for item in timeline.items}
    assert (reasons[locked], reasons[soon], reasons[later]) == (Reason.CONTRADICTS, Reason.TOO_SOON, None)


def test_only_a_key_that_may_vote_may_propose_and_one_proposal_at_a_time() -> None:
    chain = Chain()
    stranger = chain.propose(BORN, TAX, ["x0"])
    honest = chain.propose(BORN + 1, TAX, ["v0"])
    second = chain.propose(BORN + 2, ParameterChange(2, 90 * COIN), ["v0"])
    timeline = chain.read(BORN + 62)
    reasons = {item.id: item.refusal and item.refusal.reason for item in timeline.items}
    assert reasons == {stranger: Reason.NOT_QUALIFIED, honest: None, second: Reason.PROPOSER_BUSY}


def test_nobody_can_spoil_a_proposal_by_sending_its_note_first() -> None:
    chain = Chain()
    spoiled = chain.propose(BORN, TAX, ["x0"], document=b"the same")
    honest = chain.propose(BORN + 3, TAX, ["v0"], document=b"the same")
    assert spoiled == honest
    chain.vote(BORN + 4, honest, True, *VOTERS)
    # While it isn't known who may propose, nothing is promised that the second could break.
    assert chain.read(BORN + 50).book.known_to < IN_FORCE + 3
    item = chain.item(IN_FORCE + 3, honest)
    assert (item.place[0], item.refusal, item.passed) == (BORN + 3, None, True)


def test_the_same_proposal_again_changes_nothing_for_ever() -> None:
    chain = Chain()
    proposal = chain.propose(BORN, TAX, document=b"the same")
    for height in (BORN + 1, TALLY + 50):
        assert chain.propose(height, TAX, ["v3"], document=b"the same") == proposal
    timeline = chain.read(TALLY + 200)
    assert [(item.place[0], item.passed) for item in timeline.items] == [(BORN, False)]


# --- effects ---------------------------------------------------------------------------------------------------------


def test_a_new_guardian_takes_the_seat_of_the_one_it_replaces_and_the_fund_moves() -> None:
    chain = Chain()
    ordered = sorted(["g0", "g1", "g2"], key=key)
    passed(chain, GuardianChange(ordered.index("g1"), bytes.fromhex(key("g9")), 3))
    rules = chain.read(IN_FORCE).book.at(IN_FORCE)
    assert [seat.pubkey for seat in rules.guardians] == [key("g0"), key("g9"), key("g2")]
    assert [seat.node is None for seat in rules.guardians] == [False, True, False]
    assert rules.guardians_m == 3
    assert rules.fund_script != first_rules(chain.network).fund_script


def test_notes_may_pay_the_old_fund_address_after_the_guardians_changed() -> None:
    chain = Chain()
    passed(chain, GuardianChange(None, bytes.fromhex(key("g9")), 2))
    proposal = chain.propose(IN_FORCE + 5, TAX)
    new = chain.read(IN_FORCE).book.newest.fund_script
    chain.put(IN_FORCE + 6, VoteNote(bytes.fromhex(proposal), True), ["v0"], paid={new: DUST})
    assert chain.item(IN_FORCE + 70, proposal).counted().votes == 1


def test_arbiters_are_counted_in_their_order() -> None:
    chain = Chain()
    passed(chain, ArbiterChange(0, bytes.fromhex(key("a9"))))
    assert [seat.pubkey for seat in chain.read(IN_FORCE).book.newest.arbiters] == [key("a9"), key("a1")]


def test_spending_leaves_the_rules_and_is_listed_once_it_is_in_force() -> None:
    chain = Chain()
    proposal = passed(chain, GRANT)
    timeline = chain.read(IN_FORCE)
    assert len(timeline.book.book.rules) == 1
    assert timeline.spends(IN_FORCE - 1) == []
    (spend,) = timeline.spends(IN_FORCE)
    assert (spend.proposal, spend.script, spend.amount, spend.from_height) == (
        proposal, GRANT.script, GRANT.amount, IN_FORCE,
    )  # fmt: skip
    with pytest.raises(RulesPending):
        timeline.spends(timeline.book.known_to + 1)


def test_two_changes_that_come_into_force_in_one_block_are_two_versions() -> None:
    chain = Chain()
    passed(chain, TAX)
    second = chain.propose(BORN, ParameterChange(2, 90 * COIN), ["v1"])
    chain.vote(BORN + 1, second, True, *VOTERS)
    rules = chain.read(IN_FORCE).book
    assert [(one.version, one.from_height) for one in rules.book.rules] == [(0, 0), (1, IN_FORCE), (2, IN_FORCE)]
    values = rules.at(IN_FORCE).parameters
    assert (values.tax_bps, values.airdrop_threshold) == (450, 90 * COIN)


# --- what is not known yet -------------------------------------------------------------------------------------------


def test_without_the_electorate_nothing_is_decided_and_nothing_is_promised() -> None:
    chain = Chain()
    proposal = passed(chain)
    timeline = read(chain.network, chain.entries, {}, IN_FORCE + 100)
    assert timeline.find(proposal).passed is None  # type: ignore[union-attr]
    assert timeline.book.known_to == IN_FORCE - 1
    assert [item.id for item in timeline.lacking()] == [proposal]


def test_an_electorate_is_asked_for_only_when_its_proposal_is_60_blocks_deep() -> None:
    chain = Chain()
    passed(chain)
    assert read(chain.network, chain.entries, {}, BORN + 59).lacking() == []
    assert len(read(chain.network, chain.entries, {}, BORN + 60).lacking()) == 1


def test_what_was_born_after_a_proposal_of_unknown_electorate_waits_with_it() -> None:
    chain = Chain()
    first = chain.propose(BORN, ParameterChange(1, 450), ["v0"])
    second = chain.propose(BORN + 1, ParameterChange(1, 550), ["v1"])
    chain.vote(BORN + 2, second, True, *VOTERS)
    known = {name: census for name, census in chain.censuses.items() if name[0] != first}
    waiting = read(chain.network, chain.entries, known, IN_FORCE + 100)
    assert waiting.book.known_to == IN_FORCE - 1
    assert waiting.find(second).provisional  # type: ignore[union-attr]
    # The first turns out to be nobody's, so the second stands and was accepted.
    chain.censuses[first, (BORN, 0, 0)] = Census(frozenset([key("v1")]), None)
    done = chain.read(IN_FORCE + 100)
    assert done.find(first).replaceable  # type: ignore[union-attr]
    assert done.book.tax_at(IN_FORCE + 1) == 550


SHORTER = 191
"""Votes are 15 instead of 20 blocks long from here on, so what is proposed later can be in force earlier."""


def shortened() -> Chain:
    chain = Chain(network=network(SMALL.model_copy(update={"vote_blocks": 20})))
    passed(chain, ParameterChange(9, 15))
    assert [rules.from_height for rules in chain.read(SHORTER).book.book.rules] == [0, SHORTER]
    return chain


def without(chain: Chain, proposal: str, height: int) -> Timeline:
    """As it is read where nobody tells the electorate of a proposal."""
    known = {name: census for name, census in chain.censuses.items() if name != (proposal, (SHORTER - 1, 0, 0))}
    return read(chain.network, chain.entries, known, height)


def test_no_rule_is_promised_that_the_same_proposal_sent_again_could_change_earlier() -> None:
    chain = shortened()
    spoiled = chain.propose(SHORTER - 1, TAX, ["x0"], document=b"the same")
    assert chain.propose(SHORTER, TAX, ["v0"], document=b"the same") == spoiled
    chain.vote(SHORTER + 1, spoiled, True, *VOTERS)
    timeline = without(chain, spoiled, SHORTER + 80)
    assert timeline.find(spoiled).terms.from_height == SHORTER + 90  # type: ignore[union-attr]
    # The later one turns out to be the proposal, and is in force four blocks before the first would have been.
    assert chain.read(SHORTER + 80).book.newest.from_height == SHORTER + 86
    assert timeline.book.known_to == SHORTER + 85


def test_no_rule_is_promised_that_a_proposal_could_change_which_is_refused_only_as_it_looks_now() -> None:
    chain = shortened()
    first = chain.propose(SHORTER - 1, TAX, ["x0"])
    second = chain.propose(SHORTER, ParameterChange(1, 550), ["v0"])
    chain.vote(SHORTER + 1, second, True, *VOTERS)
    timeline = without(chain, first, SHORTER + 80)
    refused = timeline.find(second)
    assert refused is not None
    assert (refused.refusal and refused.refusal.reason, refused.provisional) == (Reason.CONTRADICTS, True)
    assert chain.read(SHORTER + 80).book.newest.from_height == SHORTER + 86
    assert timeline.book.known_to == SHORTER + 85


def test_no_rule_is_promised_that_a_proposal_could_change_which_a_reorganisation_of_60_blocks_brings() -> None:
    for height in (500, 501):
        chain = Chain()
        known = chain.read(height).book.known_to
        proposal = passed(chain, TAX, at=height - 59)
        assert chain.read(height + 200).find(proposal).terms.from_height == known + 1  # type: ignore[union-attr]
        assert chain.read(height + 200).book.newest.from_height == known + 1


def test_rules_with_longer_votes_that_are_to_come_promise_nothing_for_the_blocks_before_them() -> None:
    chain = Chain()
    passed(chain, ParameterChange(9, 12))
    # A proposal of 59 blocks ago, under the shorter votes that are still in force.
    assert chain.read(TALLY).book.known_to == TALLY - 59 + 10 + 60 + 10
    assert [item.passed for item in chain.read(IN_FORCE - 1).alive] == [True]
    assert chain.read(IN_FORCE).alive == []


def test_the_id_of_a_proposal_holds_the_network() -> None:
    note = ProposalNote(TAX, bytes(32)).encode()
    assert proposal_id(network().id, note) != proposal_id(network(name="othernet").id, note)


def test_nor_can_one_do_so_in_the_same_block() -> None:
    chain = Chain()
    chain.propose(BORN, TAX, ["x0"], document=b"the same")
    proposal = chain.propose(BORN, TAX, ["v0"], document=b"the same")
    chain.censuses[proposal, (BORN, 0, 0)] = Census(frozenset(), None)
    chain.vote(BORN + 4, proposal, True, *VOTERS)
    item = chain.item(IN_FORCE, proposal)
    assert (item.place, item.passed) == ((BORN, 1, 0), True)
