"""The main promise: a checked result for the price, exact to the koinu, on real daemons and a real chain."""

import json
from collections.abc import Iterator

import pytest

from dux_devnet.network import wait_until
from duxcommon import eventlog
from duxcommon.money import COIN
from duxcommon.network import load_network
from tests.support.devnet import APPS, TestNet, running_devnet

PRICE = COIN // 2
"""Of apps/hello-words."""


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice sells hello-words, bob has 100 FLOP, carol arbitrates."""
    with running_devnet(overrides={"bob/escrowd": {"deposit_cap": 100 * COIN}}) as net:
        net.fund("bob", 100)
        net.publish("alice", APPS / "hello-words")
        yield net


def test_a_call_returns_the_checked_result(net: TestNet) -> None:
    task = net.run_task("bob", "hello-words", b"one two two")
    done = net.ctl("bob", "task", "result", task["id"])
    assert json.loads(done.stdout) == {"words": 3, "different": 2, "top": {"two": 2, "one": 1}}
    assert task["price"] == PRICE


def test_a_hundred_calls_cost_two_transactions_and_are_exact_to_the_koinu(net: TestNet) -> None:
    for channel in net.call("bob", "channel.list", {"state": "OPEN"})["channels"]:
        net.call("bob", "channel.close", {"id": channel["id"], "key": net.key()})
        net.wait_channel("bob", channel["id"], "CLOSED")
        net.wait_channel("alice", channel["id"], "CLOSED")
    before = {node: net.balance(node) for node in ("alice", "bob")}
    fund_before = net.call("bob", "fund.status")["confirmed"]
    start = net.chain("getblockcount")

    provider = net.layout.node_ids["alice"]
    opened = net.call("bob", "channel.open", {"provider": provider, "amount": 60 * COIN, "key": net.key()})
    channel = opened["id"]
    for number in range(100):
        net.run_task("bob", "hello-words", b"word " * (number + 1))
    net.call("bob", "channel.close", {"id": channel, "key": net.key()})
    closed = net.wait_channel("bob", channel, "CLOSED")
    net.wait_channel("alice", channel, "CLOSED")

    gross = 100 * PRICE
    tax = gross * 5 // 100
    wait_until(lambda: net.balance("alice") - before["alice"] == gross - tax, 60, "alice's earnings")
    wait_until(lambda: net.call("bob", "fund.status")["confirmed"] - fund_before == tax, 60, "the fund's part")
    ours = _transactions(net, start)
    assert len(ours) == 2, ours
    assert closed["gross"] == gross
    fees = before["bob"] - net.balance("bob") - gross
    assert 0 < fees < COIN // 50
    net.assert_audit()


def _transactions(net: TestNet, after: int) -> list[str]:
    """All transactions but coinbases in blocks above `after`."""
    found = []
    for height in range(after + 1, net.chain("getblockcount") + 1):
        block = net.chain("getblock", net.chain("getblockhash", height))
        found += block["tx"][1:]
    return found


def test_a_listing_outlives_its_publisher(net: TestNet) -> None:
    net.stop(["alice/registryd"])
    try:
        found = net.call("carol", "app.search", {"words": "words"})["listings"]
        assert [listing["name"] for listing in found] == ["hello-words"]
    finally:
        net.restart("alice/registryd")


def test_every_movement_of_money_stands_in_a_log_that_the_node_has_signed(net: TestNet) -> None:
    net.run_task("bob", "hello-words", b"one more call")
    network = load_network(net.layout.folder / "network.yaml").id
    for node in ("alice", "bob"):
        log = net.layout.folder / node / "lib" / "escrowd" / "events.log"
        wait_until(lambda log=log: log.exists(), 60, f"the event log of {node}")  # type: ignore[misc]
        lines, _ = eventlog.check(log, net.layout.node_ids[node], network=network)
        assert lines > 0
        kinds = {move["kind"] for line in eventlog.read_lines(log) for move in line["body"]["movements"]}
        assert "state" in kinds
