"""Votes and proposals as they must not be: the node refuses them, and on the chain every node passes over them alike.

alice, bob and carol work, vote and guard the fund, two of whom sign; dave does none of it. What a node refuses is put
on the chain by hand, with the real payout key of a node. The tests are one story, told in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dux_flopd.keystore import GUARDIAN_PATH
from dux_governance.proposals import Reason
from duxcommon.coin.notes import (
    PROPOSAL_PREFIX,
    ApprovalNote,
    ArbiterChange,
    Change,
    GuardianChange,
    ParameterChange,
    Spend,
    VoteNote,
    proposal_id,
    sign_approval,
)
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, p2pkh_script, pubkey_of
from duxcommon.errors import (
    ApprovalNotAsked,
    NotQualified,
    ProposalImpossible,
    ProposalUnknown,
    VoteClosed,
)
from duxcommon.money import COIN
from tests.community_kit import secret_of
from tests.voting_kit import LOCK, VOTE, VOTING, Assembly, assembled

OUTSIDER = "dave"
OTHER_NETWORK = "ab" * 32
TAX, THRESHOLD, VOTE_BLOCKS = 1, 2, 9
"""Numbers of parameters."""
WORKERS = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Bad:
    """A proposal that can't be put to the vote."""

    node: str
    change: Change
    reason: Reason
    wish: dict[str, Any] | None = None
    """As a node is asked for it."""
    words: str = ""
    """What is said of it, where its node can't be asked for it or says something else."""


def parameter(name: str, value: int) -> dict[str, Any]:
    return {"kind": "parameter", "name": name, "value": value}


NOBODY = p2pkh_script(pubkey_of(secret_of("nobody")))
SPEND = {"kind": "spend", "to": address_of(NOBODY, CHAINS["devnet"]), "amount": 1000 * COIN}
BAD = (
    Bad("carol", ParameterChange(99, 1), Reason.UNKNOWN_PARAMETER, None, "there is no parameter number 99"),
    Bad("carol", ParameterChange(TAX, 2001), Reason.OUT_OF_BOUNDS, parameter("tax_bps", 2001)),
    Bad("carol", ParameterChange(TAX, 700), Reason.STEP_TOO_LARGE, parameter("tax_bps", 700)),
    Bad("carol", ParameterChange(TAX, 500), Reason.NO_CHANGE, parameter("tax_bps", 500)),
    Bad("carol", ParameterChange(TAX, 550), Reason.CONTRADICTS, parameter("tax_bps", 550)),
    Bad("carol", ParameterChange(VOTE_BLOCKS, 9), Reason.OUT_OF_BOUNDS, parameter("vote_blocks", 9)),
    Bad("carol", ParameterChange(VOTE_BLOCKS, 13), Reason.STEP_TOO_LARGE, parameter("vote_blocks", 13)),
    Bad("carol", ParameterChange(VOTE_BLOCKS, 11), Reason.CONTRADICTS, parameter("vote_blocks", 11)),
    Bad("carol", GuardianChange(None, None, 4), Reason.IMPOSSIBLE_SEATS,
        {"kind": "guardians", "out": None, "into": None, "m": 4}),
    Bad("carol", ArbiterChange(None, None), Reason.NO_CHANGE, {"kind": "arbiters", "out": None, "into": None}),
    Bad("carol", Spend(NOBODY, 1000 * COIN), Reason.IMPOSSIBLE_SPEND, SPEND),
    Bad("alice", ParameterChange(THRESHOLD, 90 * COIN), Reason.PROPOSER_BUSY,
        parameter("airdrop_threshold", 90 * COIN)),
    Bad(OUTSIDER, ParameterChange(THRESHOLD, 80 * COIN), Reason.NOT_QUALIFIED, None,
        "no payout key with qualified work signed it"),
)  # fmt: skip
TOLD: dict[Change, str] = {}
"""What its own node said of a proposal before anything was sent."""


@pytest.fixture(scope="module")
def votes() -> Iterator[Assembly]:
    with assembled(WORKERS, nodes=4, guardians=3, purses=(OUTSIDER,)) as made:
        yield made


STORY: dict[str, Any] = {}
"""Ids that one test hands to the next."""


def create(votes: Assembly, node: str, change: dict[str, Any]) -> Any:
    params = {"change": change, "title": "No", "key": votes.net.key()}
    return votes.net.call(node, "proposal.create", params)


def elsewhere(text: str) -> str:
    """Id of a proposal of another network."""
    return proposal_id(OTHER_NETWORK, text.encode())


def test_a_node_sends_nothing_that_every_node_would_pass_over(votes: Assembly) -> None:
    net = votes.net
    votes.fund.work()
    votes.caught_up()
    STORY["tax"] = votes.propose("alice", "tax_bps", "450", title="Lower the tax")
    STORY["longer"] = votes.propose("bob", "vote_blocks", "12", title="Vote for longer")
    before = {node: net.balance(node) for node in net.layout.nodes}
    for bad in BAD:
        if bad.wish is not None:
            with pytest.raises(ProposalImpossible) as refused:
                create(votes, bad.node, bad.wish)
            assert refused.value.details["reason"] == bad.reason, refused.value
            TOLD[bad.change] = refused.value.message
    with pytest.raises(NotQualified, match="may not propose"):
        create(votes, OUTSIDER, parameter("airdrop_threshold", 90 * COIN))
    with pytest.raises(NotQualified, match="may not vote"):
        net.call(OUTSIDER, "proposal.vote", {"id": STORY["tax"], "yes": True, "key": net.key()})
    with pytest.raises(ProposalUnknown):
        net.call("alice", "proposal.vote", {"id": elsewhere("tax"), "yes": True, "key": net.key()})
    for node, proposal in (("alice", STORY["tax"]), (OUTSIDER, STORY["longer"])):
        with pytest.raises(ApprovalNotAsked):
            net.call(node, "proposal.approve", {"id": proposal, "key": net.key()})
    assert not net.chain("getrawmempool")
    assert {node: net.balance(node) for node in net.layout.nodes} == before


def test_votes_that_do_not_count_change_no_result(votes: Assembly) -> None:
    """alice's last vote is yes and bob's is no; any other that counted would make it pass."""
    net, fund, tax, longer = votes.net, votes.fund, STORY["tax"], STORY["longer"]
    STORY["refused"] = {bad.change: votes.force_proposal(bad.node, bad.change) for bad in BAD}
    votes.mine()
    votes.vote(tax, "alice", yes=False)
    votes.vote(longer, *WORKERS)
    votes.vote(tax, "alice")
    yes = VoteNote(bytes.fromhex(tax), True)
    votes.force(fund.payouts[OUTSIDER], yes)
    votes.force(secret_of("nobody"), yes)
    votes.force(fund.payouts["carol"], VoteNote(bytes.fromhex(elsewhere("tax")), True))
    foreign = sign_approval(OTHER_NETWORK, longer, fund.secret("bob", GUARDIAN_PATH))
    votes.force(fund.payouts["bob"], ApprovalNote(bytes.fromhex(longer)[:PROPOSAL_PREFIX], foreign))
    votes.approve(longer, "alice")
    found = votes.shown(longer)
    assert (found["tally"]["votes"], len(found["tally"]["approvals"])) == (3, 1)
    votes.approve(longer, "carol")

    deadline = votes.shown(tax)["deadline"]
    votes.to(deadline - 1)
    votes.force(fund.payouts["bob"], VoteNote(bytes.fromhex(tax), False))
    votes.mine()
    with pytest.raises(VoteClosed, match=f"its deadline, block {deadline}, has passed"):
        net.call("carol", "proposal.vote", {"id": tax, "yes": True, "key": net.key()})
    votes.force(fund.payouts["carol"], yes)
    votes.mine()
    votes.to(deadline + 60)
    failed = votes.shown(tax)
    assert (failed["state"], failed["why"]) == ("FAILED", "1 of 2 votes were in favour; 60 % were needed")
    assert (failed["tally"]["electorate"], failed["tally"]["votes"], failed["tally"]["yes"]) == (3, 2, 1)


def test_every_node_rejects_a_proposal_on_the_chain_for_the_same_reason(votes: Assembly) -> None:
    for bad in BAD:
        found = votes.shown(STORY["refused"][bad.change])
        assert found["state"] == "REJECTED", (bad, found)
        if bad.reason == Reason.IMPOSSIBLE_SPEND:
            # More came in meanwhile.
            assert found["why"].startswith("the fund could pay "), found
        else:
            assert found["why"] == TOLD.get(bad.change, bad.words), (bad, found)
    unknown = STORY["refused"][BAD[0].change]
    with pytest.raises(VoteClosed, match="it can't be voted on: there is no parameter number 99"):
        votes.net.call("alice", "proposal.vote", {"id": unknown, "yes": True, "key": votes.net.key()})
    assert "REJECTED" in votes.ctl(OUTSIDER, "proposal", "list")


def test_a_running_vote_keeps_its_rules_when_the_rules_of_voting_change(votes: Assembly) -> None:
    fund = votes.fund
    change = votes.shown(STORY["longer"])["from_height"]
    assert change == votes.shown(STORY["longer"])["deadline"] + 60 + LOCK + 1
    votes.to(change - 4)
    fund.work()
    votes.caught_up()
    # One proposal in the last block of the old rules, one in the first of the new.
    before = votes.propose("carol", "airdrop_threshold", "90", title="Pay out earlier")
    after = votes.propose("bob", "window_blocks", "44", title="Remember longer")
    born = {proposal: votes.shown(proposal)["height"] for proposal in (before, after)}
    assert born == {before: change - 1, after: change}
    assert votes.shown(STORY["longer"])["state"] == "ACTIVE"
    assert votes.shown(before)["deadline"] == change - 1 + VOTE
    assert votes.shown(after)["deadline"] == change + 12
    votes.to(change - 1 + VOTE)
    for proposal in (before, after):
        for node in WORKERS:
            votes.force(fund.payouts[node], VoteNote(bytes.fromhex(proposal), True))
    votes.mine()
    # The old vote ended a block ago, the new one did not.
    assert [votes.shown(proposal)["tally"]["votes"] for proposal in (before, after)] == [0, 3]
    votes.to(votes.shown(after)["tally_at"])
    assert [votes.shown(proposal)["state"] for proposal in (before, after)] == ["FAILED", "LOCKED"]
    votes.to(votes.shown(after)["from_height"])
    changed = [(one["from_height"], one["parameters"]["vote_blocks"]) for one in votes.rules()]
    assert changed == [(0, VOTE), (change, 12), (votes.fund.height, 12)]
    assert (
        votes.rules()[-1]["parameters"]
        == VOTING.model_copy(update={"vote_blocks": 12, "window_blocks": 44}).model_dump()
    )


def test_every_node_verifies_that(votes: Assembly) -> None:
    votes.assert_verified()
