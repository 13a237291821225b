"""kill -9 of any daemon on either side, or of the chain, in the middle of a paid call loses nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dux_devnet.network import wait_until
from duxcommon.money import COIN
from tests.support.devnet import TestNet, running_devnet

SLOW = Path(__file__).parent.parent / "apps" / "slow-echo"
PRICE = COIN // 2
VICTIMS = [
    *(f"{node}/{daemon}" for node in ("alice", "bob") for daemon in ("flopd", "escrowd", "registryd", "taskd")),
    "alice/sandbox",
    "chain",
]


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """One devnet for all kills: what one of them left wrong, the next would show."""
    with running_devnet() as net:
        net.fund("bob", 100)
        net.publish("alice", SLOW)
        net.run_task("bob", "slow-echo", b"first", params={"seconds": 0})
        yield net


def paid(net: TestNet) -> int:
    """Koinu that bob has signed away in all channels."""
    return sum(channel["gross"] for channel in net.call("bob", "channel.list", {})["channels"])


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_daemon_costs_no_coin_and_no_call_is_paid_twice(net: TestNet, victim: str) -> None:
    before = paid(net)
    net.wait_live("bob", "slow-echo")
    task = net.order("bob", "slow-echo", victim.encode(), params={"seconds": 1.5})
    wait_until(
        lambda: net.call("bob", "task.status", {"id": task["id"], "wait_s": 1.0})["state"] == "ORDERED", 60, "the order"
    )
    net.kill(victim)
    net.restart(victim)
    ended = net.wait_task("bob", task["id"])
    assert ended["state"] in ("DONE", "FAILED"), ended
    wait_until(lambda: paid(net) - before == (PRICE if ended["state"] == "DONE" else 0), 60, "the books to settle")
    holds = net.call("bob", "payment.list", {"limit": 50})["payments"]
    assert all(payment["state"] in ("RELEASED", "REFUNDED") for payment in holds), holds
    net.wait_live("bob", "slow-echo")
    after = net.run_task("bob", "slow-echo", b"after " + victim.encode(), params={"seconds": 0})
    assert after["state"] == "DONE"
    net.assert_audit("alice", "bob")


@pytest.mark.parametrize("node", ["alice", "bob"])
def test_a_whole_node_may_die_in_the_middle_of_a_call(net: TestNet, node: str) -> None:
    before = paid(net)
    net.wait_live("bob", "slow-echo")
    task = net.order("bob", "slow-echo", node.encode(), params={"seconds": 1.5})
    wait_until(
        lambda: net.call("bob", "task.status", {"id": task["id"], "wait_s": 1.0})["state"] == "ORDERED", 60, "the order"
    )
    for name in net.layout.daemons(node):
        net.kill(name)
    net.start(net.layout.daemons(node))
    ended = net.wait_task("bob", task["id"])
    wait_until(lambda: paid(net) - before == (PRICE if ended["state"] == "DONE" else 0), 60, "the books to settle")
    net.wait_live("bob", "slow-echo")
    net.run_task("bob", "slow-echo", b"after all of " + node.encode(), params={"seconds": 0})
    net.assert_audit("alice", "bob")
