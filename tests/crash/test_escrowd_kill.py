"""kill -9 of escrowd at every point where a step of a channel or payment is half done, on either side.

After a restart the same calls with the same keys complete, nothing is paid twice, and both audits show 0 difference.
"""

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from escrowd_kit import Market, Node, task_id
from flopd_kit import DevTestChain, until
from support.logs import assert_clean_logs

from dux_escrowd.failpoints import FAILPOINTS
from duxcommon.errors import DaemonDown, DuxError
from duxcommon.money import COIN

T = TypeVar("T")
PRICE = COIN // 2

OPENING = ("open-committed", "fund-built", "fund-built-committed", "fund-announced", "fund-sent", "fund-sent-committed")
BUYING = ("hold-committed", "state-signed", "release-committed", "state-pushed")
SELLING = ("accept-committed", "done-committed", "state-stored")
CLOSING = (
    ("buyer", "close-asked"), ("buyer", "close-committed"), ("buyer", "close-sent"),
    ("provider", "close-signed"), ("provider", "close-committed"), ("provider", "close-sent"),
)  # fmt: skip
REFUNDING = ("refund-signed", "refund-built-committed", "refund-sent")


@pytest.fixture(scope="module")
def market() -> Iterator[Market]:
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    chain = DevTestChain(folder, "flopcoin")
    made = Market(folder, chain)
    made.buyer.fill(400 * COIN)
    yield made
    made.close()
    chain.close()
    assert_clean_logs(folder)
    shutil.rmtree(folder, ignore_errors=True)


def arm(node: Node, point: str) -> None:
    """From now on this node's escrowd dies at the point."""
    node.restart(env={"DUXNET_FAILPOINT": f"escrowd:{point}"})


def killed(node: Node) -> None:
    """Wait until the point has ended it, and start it again without."""
    process = node.escrowd.process
    assert process is not None
    assert process.wait(30) == -signal.SIGKILL
    node.restart()


def through(node: Node, act: Callable[[], T]) -> T:
    """Do it, have the node die on the way, and do it again until it is done."""
    with contextlib.suppress(DuxError):
        act()
    killed(node)
    found: list[T] = []

    def again() -> bool:
        try:
            found.append(act())
        except DaemonDown:
            return False
        return True

    until(again, "answer after the restart")
    return found[-1]


def settled(market: Market, channel: str, gross: int) -> None:
    """Close together and compare every figure."""
    before = market.provider.balance()
    market.wait_acked(channel)
    market.buyer.call("channel.close", {"id": channel, "key": f"close/{channel}"})
    until(lambda: market.buyer.channel(channel)["state"] in ("CLOSE_SENT", "REFUND_SENT"), "transaction of the end")
    market.mine(1)
    for node in (market.buyer, market.provider):
        node.wait_state(channel, "CLOSED", "REFUNDED")
        node.audit()
        assert node.channel(channel)["gross"] == gross
    assert market.provider.balance() - before == gross - gross * 500 // 10_000


def test_every_failpoint_is_tried() -> None:
    tried = {*OPENING, *BUYING, *SELLING, *(point for _, point in CLOSING), *REFUNDING}
    assert tried | {"refund-committed", "followed-committed"} == set(FAILPOINTS)


@pytest.mark.parametrize("point", OPENING)
def test_a_channel_that_was_half_open_is_opened_once(market: Market, point: str) -> None:
    sent = len(_deposits(market))
    arm(market.buyer, point)
    order = {"provider": market.provider.id, "amount": 2 * COIN, "key": f"open/{point}"}
    channel = through(market.buyer, lambda: market.buyer.call("channel.open", order))["id"]
    market.mine(6)
    market.buyer.wait_state(channel, "OPEN")
    market.provider.wait_state(channel, "OPEN")
    assert len(_deposits(market)) == sent + 1
    settled(market, channel, 0)


def _deposits(market: Market) -> list[Any]:
    entries = market.buyer.flopd.call("wallet.history", {"limit": 200})["entries"]
    return [entry for entry in entries if entry["purpose"] == "fund"]


def call_through(market: Market, number: int, dying: Node, point: str) -> dict[str, Any]:
    """One paid call during which a node dies; every step is repeated until it is done."""
    arm(dying, point)

    def act() -> dict[str, Any]:
        hold = market.hold(PRICE, task_id(number))
        market.accept(hold)
        market.done(hold)
        return market.release(hold)

    return through(dying, act)


@pytest.mark.parametrize("point", BUYING)
def test_a_buyer_that_dies_in_a_paid_call_pays_once(market: Market, point: str) -> None:
    channel = market.open(2 * COIN, key=f"buy/{point}")
    payment = call_through(market, 100 + BUYING.index(point), market.buyer, point)
    assert (payment["state"], payment["channel"]) == ("RELEASED", channel)
    settled(market, channel, PRICE)


@pytest.mark.parametrize("point", SELLING)
def test_a_provider_that_dies_in_a_paid_call_is_paid_once(market: Market, point: str) -> None:
    channel = market.open(2 * COIN, key=f"sell/{point}")
    payment = call_through(market, 200 + SELLING.index(point), market.provider, point)
    assert (payment["state"], payment["channel"]) == ("RELEASED", channel)
    market.wait_acked(channel)
    assert market.provider.call("payment.list", {"channel": channel})["payments"][0]["state"] == "RELEASED"
    settled(market, channel, PRICE)


@pytest.mark.parametrize(("side", "point"), CLOSING)
def test_a_close_that_was_cut_short_happens_once(market: Market, side: str, point: str) -> None:
    channel = market.open(2 * COIN, key=f"close/{side}/{point}")
    market.paid_call(PRICE, task_id(300 + CLOSING.index((side, point))))
    market.wait_acked(channel)
    before = market.provider.balance()
    node = getattr(market, side)
    arm(node, point)

    def close() -> None:
        with contextlib.suppress(DuxError):
            market.buyer.call("channel.close", {"id": channel, "key": f"close/{channel}"})

    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(close)
        killed(node)
        first.result(60)
    close()
    for one in (market.buyer, market.provider):
        one.wait_state(channel, "CLOSE_SENT", "CLOSED")
    market.mine(1)
    for one in (market.buyer, market.provider):
        one.wait_state(channel, "CLOSED")
        one.audit()
    assert market.provider.balance() - before == PRICE - PRICE * 500 // 10_000


@pytest.mark.parametrize("point", REFUNDING)
def test_a_refund_that_was_cut_short_happens_once(market: Market, point: str) -> None:
    channel = market.open(2 * COIN, key=f"refund/{point}")
    market.wire.cut.add(market.provider.id)
    try:
        arm(market.buyer, point)
        market.mine(market.buyer.channel(channel)["blocks_left"])
        killed(market.buyer)
        market.buyer.wait_state(channel, "REFUND_SENT")
        market.mine(1)
        market.buyer.wait_state(channel, "REFUNDED")
        market.buyer.audit()
    finally:
        market.wire.cut.clear()
    market.provider.wait_state(channel, "REFUNDED")


def test_a_payment_that_was_given_back_as_the_daemon_died_is_given_back_once(market: Market) -> None:
    channel = market.open(2 * COIN, key="back")
    hold = market.hold(PRICE, task_id(500))
    arm(market.buyer, "refund-committed")
    back = {"id": hold["payment"]["id"], "reason": "no answer", "key": "back"}
    assert through(market.buyer, lambda: market.buyer.call("payment.refund", back))["state"] == "REFUNDED"
    assert market.buyer.channel(channel)["held"] == 0
    settled(market, channel, 0)


def test_a_daemon_that_dies_between_seeing_a_block_and_acting_on_it_acts_after_its_restart(market: Market) -> None:
    order = {"provider": market.provider.id, "amount": 2 * COIN, "key": "seen"}
    channel = market.buyer.call("channel.open", order)["id"]
    for node in (market.buyer, market.provider):
        arm(node, "followed-committed")
    market.mine(6)
    for node in (market.buyer, market.provider):
        killed(node)
        node.wait_state(channel, "OPEN")
    market.paid_call(PRICE, task_id(600))
    settled(market, channel, PRICE)
