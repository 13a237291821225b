"""The rules change by a vote while nodes buy and sell: real daemons on a real chain."""

from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon.api.airdropd import RuleBook
from duxcommon.coin import settlement
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import RulesPending
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters
from duxcommon.rulebook import Book
from tests.support.devnet import APPS, TestNet, running_devnet

PRICE = COIN // 2
"""Of apps/hello-words."""
NEW_TAX = 450
WINDOW = 300
VOTED = Parameters(
    window_blocks=WINDOW, epochs_needed=1, min_tax_paid=DUST, share_cap_pct=100_000, bond_multiple_pct=0, bond_min=COIN,
    vote_blocks=100, time_lock_blocks=60,
)  # fmt: skip
WAIT_S = 60.0


def height(net: TestNet) -> int:
    return int(net.chain("getblockcount"))


def mine_to(net: TestNet, target: int) -> None:
    """Blocks up to a height at least, and every node knows the rules there."""
    if (missing := target - height(net)) > 0:
        net.mine(missing)
    for node in net.layout.nodes:
        wait_until(lambda node=node: knows(net, node, target), WAIT_S, f"{node} to know the rules at block {target}")


def knows(net: TestNet, node: str, target: int) -> bool:
    try:
        net.call(node, "node.eligible", {"height": target, "limit": 0})
    except RulesPending:
        return False
    return bool(net.call(node, "param.list")["height"] >= target)


def judged(net: TestNet, book: Book, channel: dict[str, Any]) -> settlement.Settlement:
    """What the chain's one rule says of the transaction that closed a channel."""

    def transaction(txid: str) -> tuple[coin_tx.Tx, int]:
        verbose = net.chain("getrawtransaction", txid, True)
        return coin_tx.parse_tx(verbose["hex"]), int(net.chain("getblockheader", verbose["blockhash"])["height"])

    prevouts = []
    for deposit in channel["deposits"]:
        funding, height = transaction(deposit["txid"])
        output = funding.vout[deposit["vout"]]
        note = settlement.note_in(funding)
        prevouts.append(settlement.Prevout(output.script_pub_key.script, output.value, height, note))
    closing, height = transaction(channel["close_txid"])
    found = settlement.settle(closing, prevouts, book.fund_scripts_at(height), book.tax_at)
    assert isinstance(found, settlement.Settlement), found
    return found


def only_open(net: TestNet, node: str) -> dict[str, Any]:
    (channel,) = net.call(node, "channel.list", {"state": "OPEN"})["channels"]
    found: dict[str, Any] = channel
    return found


def close(net: TestNet, channel: str) -> dict[str, Any]:
    net.call("bob", "channel.close", {"id": channel, "key": net.key()})
    net.wait_channel("alice", channel, "CLOSED")
    closed: dict[str, Any] = net.wait_channel("bob", channel, "CLOSED")
    return closed


def propose_lower_tax(net: TestNet) -> dict[str, Any]:
    """alice, who qualifies, proposes and votes; the proposal once her vote counts."""
    change = {"kind": "parameter", "name": "tax_bps", "value": NEW_TAX}
    made = net.call("alice", "proposal.create", {"change": change, "title": "Lower the tax", "key": net.key()})

    def proposed() -> Any:
        found = net.call("alice", "proposal.list")["proposals"]
        return next((one for one in found if one["id"] == made["id"] and one["state"] == "VOTING"), None)

    wait_until(proposed, WAIT_S, "the proposal to be in a block")
    net.call("alice", "proposal.vote", {"id": made["id"], "yes": True, "key": net.key()})

    def voted() -> Any:
        found = net.call("alice", "proposal.show", {"id": made["id"]})["proposal"]
        return found if found["tally"] and found["tally"]["yes"] == 1 else None

    found: dict[str, Any] = wait_until(voted, WAIT_S, "the vote to be in a block")
    return found


def versions(net: TestNet) -> set[tuple[str, int | None]]:
    """Of the rules that the daemons use."""
    daemons = ("escrowd", "registryd", "airdropd")
    return {(one, net.client(node, one).call("daemon.status")["rules"]) for node in net.layout.nodes for one in daemons}


def test_channels_keep_the_rate_of_their_opening_and_new_ones_take_the_new_and_both_are_settled_work() -> None:
    with running_devnet(3, parameters=VOTED, guardians=1) as net:
        for node in ("alice", "bob"):
            net.fund(node, 50)
        net.publish("alice", APPS / "hello-words")
        net.bond("alice")
        net.mine(1)
        mine_to(net, height(net) + WINDOW // 2)
        net.run_task("bob", "hello-words", b"work by which alice may vote")
        close(net, only_open(net, "bob")["id"])
        mine_to(net, height(net) + WINDOW // 2)

        change = propose_lower_tax(net)["from_height"]
        net.run_task("bob", "hello-words", b"one two two")
        old = only_open(net, "bob")
        assert old["contract"]["tax_bps"] == 500
        assert {version for _, version in versions(net)} == {0}
        assert height(net) < change, "the machine was too slow for this test"

        mine_to(net, change)
        wait_until(lambda: {version for _, version in versions(net)} == {1}, WAIT_S, "all daemons to use version 1")
        book = Book(RuleBook.model_validate(net.call("carol", "param.verify")["book"]))
        net.run_task("bob", "hello-words", b"three")
        assert only_open(net, "bob")["id"] == old["id"], "the channel goes on"
        closed = close(net, old["id"])
        verdict = judged(net, book, closed)
        assert (verdict.gross, verdict.tax_bps, verdict.tax) == (2 * PRICE, 500, 2 * PRICE * 5 // 100)
        assert closed["tax"] == verdict.tax

        net.run_task("bob", "hello-words", b"four")
        new = only_open(net, "bob")
        assert new["contract"]["tax_bps"] == only_open(net, "alice")["contract"]["tax_bps"] == NEW_TAX
        assert new["contract"]["fund_script"] == old["contract"]["fund_script"]
        verdict = judged(net, book, close(net, new["id"]))
        assert (verdict.gross, verdict.tax_bps, verdict.tax) == (PRICE, NEW_TAX, PRICE * NEW_TAX // 10_000)

        # What registryd makes of the same chain, on a node that took no part.
        tip = height(net)
        mine_to(net, tip)
        standing = net.call("carol", "node.standing", {"pubkey": new["contract"]["provider_pubkey"], "height": tip})
        assert standing["tax"] == closed["tax"] + verdict.tax
        for node in net.layout.nodes:
            assert net.call(node, "books.audit")["ok"]


def start_without_airdropd(net: TestNet) -> None:
    net.start_chain()
    net.mine(20)
    net.start([name for node in net.layout.nodes for name in net.layout.daemons(node) if "airdropd" not in name])


def test_without_airdropd_channels_are_opened_as_far_as_the_rules_are_known_and_open_ones_go_on() -> None:
    # Nothing that could be voted comes into force before block 100 + 60 + 30 of this network.
    parameters = Parameters(vote_blocks=100, time_lock_blocks=30)
    with running_devnet(start=False, parameters=parameters) as net:
        start_without_airdropd(net)
        net.fund("bob", 100)
        net.publish("alice", APPS / "hello-words")
        net.run_task("bob", "hello-words", b"one two two")
        channel = only_open(net, "bob")["id"]
        assert net.chain("getblockcount") < 190, "the machine was too slow for this test"

        net.mine(200)
        wait_until(lambda: net.call("bob", "chain.status")["height"] > 190, 30, "the blocks to be seen")
        net.run_task("bob", "hello-words", b"three")
        assert only_open(net, "bob")["id"] == channel
        provider = net.layout.node_ids["carol"]
        wish = {"provider": provider, "amount": COIN, "key": net.key()}
        with pytest.raises(RulesPending, match="only those up to 190") as refused:
            net.call("bob", "channel.open", wish)
        assert "Open channels go on" in refused.value.hint
        notes = net.client("bob", "escrowd").call("daemon.status")["notes"]
        assert any("up to block 190 only" in note for note in notes)
        done = net.ctl("bob", "channel", "open", provider, "1")
        assert done.returncode == 4
        assert b"dux-ctl status" in done.stderr
        assert close(net, channel)["gross"] == 2 * PRICE
