"""The network lowers its tax by a vote: the same block on every node, and a channel keeps the tax it was opened with.

alice sells; alice, bob, carol and dave may vote; erin arbitrates. dave's node is off from before the vote until after
it was decided. The tests are one story, told in order.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon.errors import RulesPending
from duxcommon.money import COIN
from tests.community_kit import ROUND_S
from tests.support.devnet import APPS
from tests.voting_kit import Assembly, assembled

OLD_TAX, NEW_TAX = 500, 450
PRICE = COIN // 2
"""Of apps/hello-words."""
AWAY = ("dave/escrowd", "dave/airdropd", "dave/registryd", "dave/flopd")
RULED = ("escrowd", "registryd", "airdropd")
"""Daemons that tell which version of the rules they use."""


@pytest.fixture(scope="module")
def votes() -> Iterator[Assembly]:
    with assembled(("alice", "bob", "carol", "dave")) as made:
        trading = [f"{node}/{daemon}" for node in ("alice", "bob") for daemon in ("sandbox", "taskd")]
        made.net.start([*(f"{node}/escrowd" for node in made.net.layout.nodes), *trading])
        made.net.publish("alice", APPS / "hello-words")
        yield made


STORY: dict[str, Any] = {}
"""What one test hands to the next."""


def versions(votes: Assembly, nodes: list[str]) -> set[int | None]:
    """Of the rules that the daemons of these nodes use."""
    return {votes.net.client(node, daemon).call("daemon.status")["rules"] for node in nodes for daemon in RULED}


def test_people_vote_with_dux_ctl_and_every_node_sees_it_the_same(votes: Assembly) -> None:
    STORY["old"] = votes.open_channel("bob", "alice")
    votes.net.run_task("bob", "hello-words", b"one two two")
    votes.fund.work()
    votes.caught_up()
    votes.net.stop(list(AWAY))

    proposal = STORY["proposal"] = votes.propose("alice", "tax_bps", "4.5%", title="Lower the tax")
    assert votes.shown(proposal)["state"] == "VOTING"
    votes.vote(proposal, "alice", "bob")
    votes.vote(proposal, "carol", yes=False)
    found = votes.shown(proposal)
    assert (found["tally"]["votes"], found["tally"]["yes"]) == (3, 2)
    assert "tax_bps: 5 % → 4.5 %" in votes.ctl("erin", "proposal", "list")
    wait_until(lambda: "Lower the tax" in votes.ctl("erin", "proposal", "show", proposal[:12]), ROUND_S, "its text")

    votes.to(found["tally_at"])
    found = votes.shown(proposal)
    assert (found["state"], found["tally"]["electorate"]) == ("LOCKED", 4), (
        "dave may vote, whether its node runs or not"
    )
    assert "4.5 %" in votes.ctl("erin", "param", "list")


def test_the_tax_changes_at_the_same_block_on_every_node(votes: Assembly) -> None:
    change = STORY["change"] = votes.shown(STORY["proposal"])["from_height"]
    running = votes.fund.running()
    assert running == ["alice", "bob", "carol", "erin"]
    votes.to(change - 2)
    # Its deposit will be in the last block of the old rules.
    last = votes.open_channel("carol", "alice")
    assert last["contract"]["tax_bps"] == OLD_TAX
    assert votes.fund.height == change - 1
    wait_until(lambda: versions(votes, running) == {0}, ROUND_S, "all daemons at the block before the change")
    assert votes.same(lambda node: votes.net.call(node, "network.show")["tax_bps"]) == OLD_TAX

    first = votes.open_channel("bob", "carol")
    assert first["contract"]["tax_bps"] == NEW_TAX
    assert votes.fund.height == change
    wait_until(lambda: versions(votes, running) == {1}, ROUND_S, "all daemons at the block of the change")
    assert [(one["from_height"], one["parameters"]["tax_bps"]) for one in votes.rules()] == [
        (0, OLD_TAX),
        (change, NEW_TAX),
    ]
    assert votes.same(lambda node: votes.net.call(node, "network.show")["tax_bps"]) == NEW_TAX
    assert votes.shown(STORY["proposal"])["state"] == "ACTIVE"
    assert "rules        version 1\n" in votes.ctl("alice", "status")


def test_an_open_channel_keeps_its_tax_and_is_settled_work_and_a_new_one_takes_the_new(votes: Assembly) -> None:
    assert votes.tax_of("alice") == 0, "what counted at the vote has left the window"
    votes.net.run_task("bob", "hello-words", b"three")
    old = votes.close_channel("bob", "alice", STORY["old"]["id"])
    assert (old["gross"], old["contract"]["tax_bps"]) == (2 * PRICE, OLD_TAX)
    fact = votes.settled(old)
    paid = 2 * PRICE * OLD_TAX // 10_000
    assert (fact["tax"], fact["payout"]) == (paid, 2 * PRICE - paid)
    assert votes.tax_of("alice") == paid

    new = votes.open_channel("bob", "alice")
    assert new["contract"]["tax_bps"] == NEW_TAX
    votes.net.run_task("bob", "hello-words", b"four")
    fact = votes.settled(votes.close_channel("bob", "alice", new["id"]))
    less = PRICE * NEW_TAX // 10_000
    assert (fact["tax"], fact["payout"]) == (less, PRICE - less)
    assert votes.tax_of("alice") == paid + less
    votes.net.assert_audit("alice", "bob")


def test_work_at_the_old_rate_in_a_channel_of_the_new_does_not_count(votes: Assembly) -> None:
    # Long after the change: what was in force a day ago is still taken.
    votes.to(STORY["change"] + 150)
    assert votes.tax_of("carol") == 0
    votes.fund.tax_bps = OLD_TAX
    votes.fund.work(["carol"])
    votes.fund.tax_bps = NEW_TAX
    votes.fund.work(["bob", "dave"])
    votes.caught_up()
    assert votes.tax_of("carol") == 0
    assert votes.tax_of("bob") == 4 * COIN * NEW_TAX // 10_000


def test_a_node_that_was_off_uses_no_rule_that_it_does_not_know(votes: Assembly) -> None:
    votes.net.start([name for name in AWAY if "airdropd" not in name])
    tip = votes.fund.height
    wait_until(lambda: votes.net.call("dave", "chain.status")["height"] == tip, ROUND_S, "dave's flopd to read")
    wish = {"provider": votes.fund.node_id("alice"), "amount": COIN}
    with pytest.raises(RulesPending, match=f"the rules at block {tip + 1} are not known here"):
        votes.net.call("dave", "channel.open", {**wish, "key": votes.net.key()})
    with pytest.raises(RulesPending):
        sold = {"provider": votes.fund.node_id("dave"), "amount": COIN, "key": votes.net.key()}
        votes.net.call("bob", "channel.open", sold)
    with pytest.raises(RulesPending):
        votes.net.call("dave", "node.eligible", {"height": tip})
    notes = votes.net.client("dave", "escrowd").call("daemon.status")["notes"]
    assert any("no new channels are opened" in note for note in notes)


def test_it_comes_to_the_same_rules_and_the_same_eligible_keys(votes: Assembly) -> None:
    votes.net.start(["dave/airdropd"])
    votes.caught_up()
    assert votes.fund.running() == votes.net.layout.nodes
    assert [one["from_height"] for one in votes.rules()] == [0, STORY["change"]]
    height = votes.fund.height
    page = votes.same(lambda node: votes.net.call(node, "node.eligible", {"height": height}))
    payouts = {votes.net.call(node, "key.payout")["pubkey"] for node in ("bob", "dave")}
    assert {one["pubkey"] for one in page["keys"]} == payouts
    assert page["rules"] == 1
    # The electorate of the past, which it never saw when it was the present.
    assert votes.shown(STORY["proposal"])["tally"]["electorate"] == 4
    assert votes.open_channel("dave", "alice")["contract"]["tax_bps"] == NEW_TAX
    wait_until(lambda: versions(votes, ["dave"]) == {1}, ROUND_S, "all daemons of dave at the new rules")


def test_every_node_verifies_the_rules_and_reckons_the_same_replay(votes: Assembly) -> None:
    votes.assert_verified()
    for node in votes.net.layout.nodes:
        assert "the rules in use are what the chain says" in votes.ctl(node, "param", "verify")
    change = {"kind": "parameter", "name": "airdrop_threshold", "value": COIN}
    table = votes.same(lambda node: votes.net.call(node, "proposal.replay", {"change": change}, timeout=120.0))
    assert (table["rounds_before"], table["rounds_after"]) == (0, len(table["rows"]))
    assert table["rows"], "with 1 FLOP as the threshold the fund had paid out"
    for row in table["rows"]:
        assert (row["paid_before"], row["paid_after"]) == (0, row["eligible_after"] * row["share_after"])
    assert table["total"]["paid_after"] == sum(row["paid_after"] for row in table["rows"])
    assert table["total"]["inflow_before"] == table["total"]["inflow_after"]
    printed = votes.ctl("erin", "proposal", "replay", "airdrop_threshold", "1")
    assert all(f"\n{row['height']}" in printed for row in table["rows"]), printed
    assert f"rounds: 0 → {table['rounds_after']}" in printed
