"""The fund fills, pays itself out without a hand, and the next round builds on the one before.

Six nodes, the first five of them guardians of whom three sign. The tests are one story, told in order.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon import eventlog
from duxcommon.errors import NotGuardian, NothingToSign, RoundUnknown, RulesPending, TransactionDiffers
from duxcommon.money import COIN, DUST
from duxcommon.network import load_network
from duxcommon.parameters import Parameters
from tests.support.devnet import APPS, TestNet, running_devnet

WINDOW = 200
RULES = Parameters(
    window_blocks=WINDOW,
    epochs_needed=1,
    min_tax_paid=DUST,
    share_cap_pct=100_000,
    bond_multiple_pct=0,
    bond_min=COIN,
)
PROVIDERS = ("alice", "bob")
BUYER = "carol"
CALLS = 10
ROUND_S = 60.0


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice and bob sell hello-words and lock a bond; carol buys from both."""
    caps = {f"{BUYER}/escrowd": {"deposit_cap": 100 * COIN}}
    with running_devnet(6, parameters=RULES, guardians=5, overrides=caps) as net:
        for node in (*PROVIDERS, BUYER):
            net.fund(node, 50)
        for node in PROVIDERS:
            order = {"key": net.key()}
            # airdropd may still be reading the chain.
            wait_until(lambda node=node, order=order: net.call(node, "node.bond", order), ROUND_S, f"{node}'s order")
            net.publish(node, APPS / "hello-words")
        for node in PROVIDERS:
            wait_until(lambda node=node: _bonded(net, node), ROUND_S, f"the bond of {node}")
        # A bond counts from the window after it on; work is done now, so that all of it is in that window.
        net.mine(WINDOW)
        target = height(net)
        for node in net.layout.nodes:
            wait_until(lambda node=node: net.call(node, "chain.status")["height"] >= target, ROUND_S, f"{node} to read")
        yield net


def _bonded(net: TestNet, node: str) -> bool:
    return any(bond["state"] == "locked" for bond in net.call(node, "node.bonds")["bonds"])


def height(net: TestNet) -> int:
    return int(net.chain("getblockcount"))


def mine_to(net: TestNet, target: int) -> None:
    """Blocks up to a height; the trial chain makes some by itself meanwhile."""
    if (missing := target - height(net)) > 0:
        net.mine(missing)


def work(net: TestNet, provider: str) -> None:
    """Paid calls, settled on the chain."""
    node = net.layout.node_ids[provider]
    opened = net.call(BUYER, "channel.open", {"provider": node, "amount": 10 * COIN, "key": net.key()})
    for _ in range(CALLS):
        net.run_task(BUYER, f"hello-words@{node[:16]}", b"one two")
    net.call(BUYER, "channel.close", {"id": opened["id"], "key": net.key()})
    net.wait_channel(BUYER, opened["id"], "CLOSED")


def give(net: TestNet, flop: int) -> None:
    """Coins for the fund, in a block."""
    net.chain("faucet", net.call(BUYER, "fund.status")["address"], str(flop))
    net.mine(1)


def next_round(net: TestNet, node: str = BUYER) -> Any:
    """What the fund pays next, once that is decided."""
    return wait_until(lambda: net.call(node, "airdrop.next")["work"], ROUND_S, "a round to be planned")


def rounds(net: TestNet, node: str) -> list[Any]:
    found: list[Any] = net.call(node, "airdrop.history")["rounds"]
    return found


def wait_round(net: TestNet, sequence: int) -> Any:
    """The round, once every node has it."""
    for node in net.layout.nodes:
        wait_until(lambda node=node: len(rounds(net, node)) >= sequence, ROUND_S, f"round {sequence} on {node}")
    return net.call(BUYER, "airdrop.show", {"sequence": sequence})


def computed(net: TestNet, node: str) -> str:
    """Id of the transaction that a guardian computed, once it did."""

    def found() -> Any:
        work = net.call(node, "fund.status")["work"]
        return work and work["unsigned"]

    return str(wait_until(found, ROUND_S, f"{node} to compute the transaction"))


def payout_addresses(net: TestNet) -> set[str]:
    return {net.call(node, "wallet.status")["payout_address"] for node in PROVIDERS}


def ask(net: TestNet, asker: str, asked: str, unsigned: str) -> Any:
    """One node asks another for its signatures of the next round."""
    params = {"sequence": net.call(asked, "airdrop.next")["sequence"], "batch": None, "unsigned": unsigned}
    request = {"node": net.layout.node_ids[asked], "method": "airdrop.cosign", "params": params, "timeout_s": 20.0}
    return net.call(asker, "peer.call", request)["result"]


def test_until_the_threshold_is_reached_the_fund_says_what_is_missing(net: TestNet) -> None:
    for provider in PROVIDERS:
        work(net, provider)
    income = 2 * DUST + 2 * (CALLS * COIN // 2 * 5 // 100)
    wait_until(lambda: net.call(BUYER, "fund.status")["received"] == income, ROUND_S, "the taxes of two channels")
    status = net.call(BUYER, "fund.status")
    assert status["missing"] == 100 * COIN - status["spendable"]
    assert status["work"] is None
    assert len(status["guardians"]) == 5
    assert [each["own"] for each in status["guardians"]].count(True) == 1
    following = net.call(BUYER, "airdrop.next")
    assert "FLOP are missing" in following["waits_for"]
    assert net.call("alice", "airdrop.why")["troubles"][0]["what"] == "waits"
    with pytest.raises(RoundUnknown):
        net.call(BUYER, "airdrop.show", {"sequence": 1})


def test_what_eligibility_depends_on_is_told_for_heights_that_were_read(net: TestNet) -> None:
    at = net.call(BUYER, "fund.at", {"height": 1})
    assert at == {"height": 1, "spendable": 0, "shares_paid": 0, "bond_price": COIN}
    with pytest.raises(RulesPending):
        net.call(BUYER, "fund.at", {"height": 10**6})
    assert net.call(BUYER, "fund.at", {"height": 10**6, "ahead": True})["bond_price"] == COIN


def test_no_guardian_signs_before_its_time_or_for_a_stranger(net: TestNet) -> None:
    with pytest.raises(NothingToSign):
        ask(net, "alice", "bob", "ab" * 32)
    stranger = net.layout.nodes[5]
    with pytest.raises(NotGuardian):
        ask(net, stranger, "bob", "ab" * 32)


def test_at_100_flop_the_fund_pays_itself_out_in_equal_shares(net: TestNet) -> None:
    give(net, 100)
    planned = next_round(net)
    assert (planned["kind"], planned["recipients"], planned["sequence"]) == ("payout", 2, 1)
    mine_to(net, planned["signed_from"])
    shown = wait_round(net, 1)
    assert shown["round"]["manifest"] == planned["manifest"]
    assert {output["address"] for output in shown["outputs"]} == payout_addresses(net)
    assert [output["amount"] for output in shown["outputs"]] == [planned["share"]] * 2
    assert planned["share"] * 2 + planned["fee"] + net.call(BUYER, "fund.status")["confirmed"] == sum(
        [100 * COIN, 2 * DUST, 2 * (CALLS * COIN // 2 * 5 // 100)]
    )


def test_every_node_verifies_the_round_from_its_own_chain(net: TestNet) -> None:
    found = [net.call(node, "airdrop.verify", {"sequence": 1}) for node in net.layout.nodes]
    assert all(each["right"] for each in found), found
    assert len({each["manifest"] for each in found}) == 1


def test_with_too_few_guardians_nothing_is_paid_and_why_names_those_who_are_silent(net: TestNet) -> None:
    for provider in PROVIDERS:
        work(net, provider)
    give(net, 100)
    planned = next_round(net)
    dead = [f"{node}/airdropd" for node in net.layout.nodes[2:5]]
    net.stop(dead)
    try:
        mine_to(net, planned["signed_from"])
        due = computed(net, "alice")
        assert computed(net, "bob") == due
        with pytest.raises(TransactionDiffers):
            ask(net, "alice", "bob", "ab" * 32)
        assert ask(net, "alice", "bob", due)["unsigned"] == due
        why = net.call("alice", "airdrop.why")
        assert (why["have"], why["need"]) == (2, 3)
        silent = {each["node"] for each in why["troubles"] if each["what"] == "silent"}
        assert silent == {net.layout.node_ids[node] for node in net.layout.nodes[2:5]}
        seen = {each["node"]: each["signed"] for each in net.call("alice", "fund.status")["guardians"]}
        assert [seen[net.layout.node_ids[node]] for node in net.layout.nodes[:5]] == [True, True, False, False, False]
        assert len(rounds(net, "alice")) == 1
    finally:
        net.start(dead)


def test_the_next_round_builds_on_the_anchor_of_the_first(net: TestNet) -> None:
    shown = wait_round(net, 2)
    first = net.call(BUYER, "airdrop.show", {"sequence": 1})
    assert shown["anchor"] == first["round"]["txid"]
    assert {output["address"] for output in shown["outputs"]} == payout_addresses(net)
    for node in net.layout.nodes:
        verified = net.call(node, "airdrop.verify", {"sequence": 2})
        assert verified["right"], verified
    page = net.call(BUYER, "airdrop.history", {"limit": 1})
    assert [each["sequence"] for each in page["rounds"]] == [2]
    assert net.call(BUYER, "airdrop.history", {"before": page["next"]})["rounds"] == [first["round"]]


def test_the_price_of_one_more_share_is_told(net: TestNet) -> None:
    price = net.call(BUYER, "airdrop.price")
    shares = [each["share"] for each in rounds(net, BUYER)]
    assert price["gain"] == sum(shares)
    assert price["bond"] == COIN
    assert price["net"] == price["gain"] - price["tax"] - price["fees"]


def test_what_a_guardian_signed_and_what_was_paid_is_in_its_signed_event_log(net: TestNet) -> None:
    network = load_network(net.layout.folder / "network.yaml")
    path = net.layout.folder / "alice" / "lib" / "airdropd" / "events.log"
    net.mine(60)

    def kinds() -> list[str]:
        return [line["kind"] for line in eventlog.read_lines(path)]

    wait_until(lambda: kinds().count("fund-transaction") == 2, ROUND_S, "two deep rounds in the log")
    assert kinds().count("fund-signed") == 2
    lines, _ = eventlog.check(path, net.layout.node_ids["alice"], network=network.id)
    assert lines == len(kinds())
