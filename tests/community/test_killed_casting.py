"""kill -9 of dux-airdropd while a proposal, a vote or an approval is on its way: each is in a block exactly once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dux_devnet.network import wait_until
from dux_governance.casting import FAILPOINTS
from duxcommon.errors import DaemonDown
from tests.community_kit import ROUND_S
from tests.voting_kit import VOTING, Assembly, assembled

POINTS = tuple(point for point in FAILPOINTS if point.startswith("cast-"))
"""The others are passed only where a payout address has no coin."""
LONG = VOTING.model_copy(update={"vote_blocks": 1000})


@pytest.fixture(scope="module")
def votes() -> Iterator[Assembly]:
    """alice and bob are guardians and may vote for longer than the tests take."""
    with assembled(("alice", "bob"), nodes=2, guardians=2, parameters=LONG) as made:
        made.fund.work()
        made.caught_up()
        yield made


STORY: dict[str, str] = {}
"""The proposal that the later tests are about."""


def notes(votes: Assembly) -> list[str]:
    """Ids of all transactions that a block holds with a proposal, a vote or an approval."""
    params = {"from_height": 0, "to_height": votes.fund.height, "limit": 2000}
    return [fact["txid"] for fact in votes.net.call("bob", "chain.notes", params)["facts"]]


def once(votes: Assembly, node: str, point: str, act: Callable[[], Any]) -> Any:
    """Do it, die at a point, do it again; exactly one transaction comes of it. What was answered."""
    before = notes(votes)
    assert votes.fund.chain("getrawmempool") == []
    votes.fund.kill(node)
    votes.net.start([f"{node}/airdropd"], failpoint=f"airdropd:{point}")
    votes.caught_up(node)
    with pytest.raises(DaemonDown):
        act()
    wait_until(lambda: node not in votes.fund.running(), ROUND_S, f"{node} to die at {point}")
    votes.net.start([f"{node}/airdropd"])
    votes.caught_up(node)
    done = act()
    assert done["state"] == "sent", done
    assert act()["txid"] == done["txid"]
    assert votes.fund.chain("getrawmempool") == [done["txid"]]
    # Two blocks: what would be sent again after the first would be in the second.
    for _ in range(2):
        votes.mine()
    assert notes(votes) == [*before, done["txid"]]
    assert votes.fund.chain("getrawmempool") == []
    wait_until(lambda: act()["state"] == "confirmed", ROUND_S, "it is told that a block holds it")
    return done


@pytest.mark.parametrize(("node", "point"), [("alice", "cast-built"), ("bob", "cast-sent")])
def test_a_proposal_is_made_once(votes: Assembly, node: str, point: str) -> None:
    change = {"kind": "guardians", "out": None, "into": None, "m": 1}
    if node == "bob":
        change = {"kind": "parameter", "name": "tax_bps", "value": 450}
    params = {"change": change, "title": f"By {node}", "key": "once"}
    made = once(votes, node, point, lambda: votes.net.call(node, "proposal.create", params))
    assert votes.shown(made["id"])["state"] == "VOTING"
    STORY.setdefault("proposal", made["id"])


@pytest.mark.parametrize("point", POINTS)
def test_a_vote_is_cast_once(votes: Assembly, point: str) -> None:
    params = {"id": STORY["proposal"], "yes": True, "key": point}
    once(votes, "alice", point, lambda: votes.net.call("alice", "proposal.vote", params))
    assert votes.shown(STORY["proposal"])["tally"]["votes"] == 1


@pytest.mark.parametrize("point", ["cast-committed", "cast-built-committed"])
def test_an_approval_is_given_once(votes: Assembly, point: str) -> None:
    params = {"id": STORY["proposal"], "key": point}
    once(votes, "bob", point, lambda: votes.net.call("bob", "proposal.approve", params))
    assert len(votes.shown(STORY["proposal"])["tally"]["approvals"]) == 1
