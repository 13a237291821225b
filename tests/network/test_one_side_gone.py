"""When one side goes away for good, the other gets what is its own, alone."""

from pathlib import Path

from dux_devnet.network import wait_until
from duxcommon.money import COIN
from tests.support.devnet import TestNet, running_devnet

APP = Path(__file__).parent.parent / "apps" / "ten-flop"
PRICE = 10 * COIN
CAP = {"*/escrowd": {"deposit_cap": 100 * COIN, "lock_blocks": 2000}}
"""A short lock, with room for an order's deadline: mining 10,080 blocks forward shows nothing more."""


def stop_node(net: TestNet, node: str) -> None:
    """Kill all daemons of a node."""
    for name in net.layout.daemons(node):
        net.kill(name)


def test_a_provider_whose_buyer_is_gone_closes_alone_and_is_paid_for_every_call() -> None:
    with running_devnet(overrides=CAP) as net:
        net.fund("bob", 100)
        net.publish("alice", APP)
        before = net.balance("alice")
        provider = net.layout.node_ids["alice"]
        net.call("bob", "channel.open", {"provider": provider, "amount": 60 * COIN, "key": net.key()})
        for number in range(5):
            net.run_task("bob", "ten-flop", b"call %d" % number)
        channel = net.call("bob", "channel.list", {})["channels"][0]["id"]
        wait_until(lambda: net.channel("alice", channel)["gross"] == 5 * PRICE, 60, "the last state to arrive")
        stop_node(net, "bob")
        net.call("alice", "channel.close", {"id": channel, "key": net.key(), "alone": True})
        net.wait_channel("alice", channel, "CLOSED")
        wait_until(lambda: net.balance("alice") - before == 5 * PRICE * 95 // 100, 60, "9.5 FLOP for each call")
        fund = wait_until(lambda: net.call("alice", "fund.status")["confirmed"], 60, "the fund's part")
        assert fund == 5 * PRICE * 5 // 100
        net.assert_audit("alice")


def test_a_buyer_whose_provider_is_gone_gets_everything_back_after_the_lock_height() -> None:
    with running_devnet(overrides={**CAP, "bob/taskd": {"buyer": {"silence_s": 3}}}) as net:
        net.fund("bob", 100)
        net.publish("alice", APP)
        before = net.balance("bob")
        provider = net.layout.node_ids["alice"]
        opened = net.call("bob", "channel.open", {"provider": provider, "amount": 30 * COIN, "key": net.key()})
        net.wait_channel("bob", opened["id"], "OPEN")
        task = net.order("bob", "ten-flop", b"never answered", params={"seconds": 30}, retries=0)
        wait_until(
            lambda: net.call("bob", "task.status", {"id": task["id"], "wait_s": 1.0})["state"] == "ORDERED", 60, "order"
        )
        stop_node(net, "alice")
        ended = net.wait_task("bob", task["id"])
        assert ended["state"] == "FAILED"
        channel = net.channel("bob", opened["id"])
        assert (channel["gross"], channel["held"]) == (0, 0)
        net.mine(channel["blocks_left"] + 1)
        net.wait_channel("bob", opened["id"], "REFUNDED", 120)
        wait_until(lambda: before - net.balance("bob") < COIN // 50, 60, "all but the fees of two transactions")
        net.assert_audit("bob")
