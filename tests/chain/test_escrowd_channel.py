"""Two nodes pay each other over channels: real flopd and escrowd processes on a real chain."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from escrowd_kit import CLOSE_MARGIN, Market, task_id
from flopd_kit import DevTestChain, address, until
from support.logs import assert_clean_logs

from dux_escrowd.contract import Escrow
from duxcommon import eventlog
from duxcommon.api.escrowd import ChannelContract
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import BeforeLockHeight, NotConfirmed, PaymentsOpen, WrongDeposits
from duxcommon.money import COIN


@pytest.fixture(scope="module")
def market() -> Iterator[Market]:
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    chain = DevTestChain(folder, "modern")
    made = Market(folder, chain)
    yield made
    made.close()
    chain.close()
    assert_clean_logs(folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_ten_flop_are_split_nine_and_a_half_to_a_half_and_both_books_agree(market: Market) -> None:
    before = market.provider.balance()
    channel = market.open(20 * COIN, key="first")
    start = market.buyer.balance()
    payment = market.paid_call(10 * COIN, task_id(1))
    assert payment["state"] == "RELEASED"
    market.wait_acked(channel)
    assert market.provider.channel(channel)["gross"] == 10 * COIN
    closed = market.buyer.call("channel.close", {"id": channel, "key": "close-first"})
    assert closed["state"] == "CLOSE_SENT"
    market.mine(1)
    market.buyer.wait_state(channel, "CLOSED")
    market.provider.wait_state(channel, "CLOSED")
    assert market.provider.balance() - before == 950_000_000
    assert market.buyer.balance() - start == 10 * COIN
    market.buyer.audit()
    market.provider.audit()


def test_what_a_stranger_pays_into_a_channel_is_not_spent_by_its_close_and_comes_back_later(market: Market) -> None:
    channel = market.open(2 * COIN, key="gift")
    contract = ChannelContract.model_validate(market.buyer.channel(channel)["contract"])
    before = market.buyer.channel(channel)["usable"]
    market.chain.pay(address(market.chain, Escrow.of(contract).script), 3 * COIN)
    market.mine(6)
    until(lambda: len(market.buyer.channel(channel)["deposits"]) == 2, "the gift to be seen")
    assert market.buyer.channel(channel)["usable"] == before, "a close that spends it would be no settled work"
    market.paid_call(COIN, task_id(77))
    market.wait_acked(channel)
    closed = market.buyer.call("channel.close", {"id": channel, "key": "close-gift"})
    closing = coin_tx.parse_tx(market.chain.call("getrawtransaction", closed["close_txid"]))
    assert len(closing.vin) == 1
    market.mine(1)
    market.buyer.wait_state(channel, "CLOSED")
    market.mine(max(0, closed["blocks_left"]))
    market.buyer.wait_state(channel, "REFUND_SENT")
    market.mine(1)
    market.buyer.wait_state(channel, "REFUNDED")
    market.buyer.audit()
    market.provider.audit()


def test_a_hundred_payments_cost_exactly_two_transactions(market: Market) -> None:
    chain = market.chain
    market.open(20 * COIN, key="hundred")
    channel = market.buyer.channels()[0]["id"]
    first = chain.call("getblockcount")
    prices = [1_000_003 + 7 * n for n in range(100)]
    for n, price in enumerate(prices):
        market.paid_call(price, task_id(1000 + n))
    market.wait_acked(channel)
    gross = sum(prices)
    assert market.provider.channel(channel)["gross"] == gross
    assert market.buyer.channel(channel)["tax"] == gross * 500 // 10_000
    market.buyer.call("channel.close", {"id": channel, "key": "close-hundred"})
    market.mine(1)
    market.buyer.wait_state(channel, "CLOSED")
    seen = market.buyer.flopd.watched(channel)
    assert len(seen) == 1
    closing = coin_tx.parse_tx(seen[0]["spender_hex"])
    assert [output.value for output in closing.vout] == [
        gross - gross * 500 // 10_000, gross * 500 // 10_000, 20 * COIN - gross
    ]  # fmt: skip
    blocks = [chain.call("getblock", chain.call("getblockhash", h)) for h in range(first + 1, first + 2)]
    assert [len(block["tx"]) for block in blocks] == [2]  # the coinbase and the close; the deposit came before
    market.buyer.audit()
    market.provider.audit()


def test_the_provider_closes_alone_when_the_buyer_has_gone_for_good(market: Market) -> None:
    channel = market.open(20 * COIN, key="alone")
    before = market.provider.balance()
    for n in range(5):
        market.paid_call(COIN, task_id(2000 + n))
    market.wait_acked(channel)
    market.wire.cut.add(market.buyer.id)
    try:
        row = market.provider.call("channel.close", {"id": channel, "key": "alone", "alone": True})
        assert row["state"] in ("CLOSE_BUILT", "CLOSE_SENT")
        market.provider.wait_state(channel, "CLOSE_SENT")
        market.mine(1)
        market.provider.wait_state(channel, "CLOSED")
        assert market.provider.balance() - before == 475_000_000
        market.buyer.wait_state(channel, "CLOSED")
    finally:
        market.wire.cut.clear()
    market.buyer.audit()
    market.provider.audit()


def test_a_channel_on_which_nothing_was_spent_comes_back_whole_at_once(market: Market) -> None:
    before = market.buyer.flopd.balance()["confirmed"]
    channel = market.open(5 * COIN, key="nothing")
    hold = market.hold(COIN, task_id(3000))
    with pytest.raises(PaymentsOpen):
        market.buyer.call("channel.close", {"id": channel, "key": "close-nothing"})
    payment = {"id": hold["payment"]["id"], "reason": "changed my mind", "key": "undo"}
    assert market.buyer.call("payment.refund", payment)["state"] == "REFUNDED"
    assert market.buyer.call("payment.refund", payment)["state"] == "REFUNDED"
    assert market.buyer.call("channel.close", {"id": channel, "key": "close-nothing"})["state"] == "REFUND_SENT"
    market.mine(1)
    market.buyer.wait_state(channel, "REFUNDED")
    market.provider.wait_state(channel, "REFUNDED")
    lost = before - market.buyer.flopd.balance()["confirmed"]
    assert 0 < lost < COIN // 100, "more than the fees is gone"
    market.buyer.audit()
    market.provider.audit()


def test_the_buyer_takes_everything_back_alone_at_the_lock_height_when_the_provider_is_gone(market: Market) -> None:
    channel = market.open(5 * COIN, key="gone")
    hold = market.hold(COIN, task_id(4000))
    market.wire.cut.add(market.provider.id)
    try:
        market.buyer.call("payment.refund", {"id": hold["payment"]["id"], "reason": "no answer", "key": "gone"})
        with pytest.raises(BeforeLockHeight) as caught:
            market.buyer.call("channel.refund", {"id": channel, "key": "early"})
        left = caught.value.details["blocks_left"]
        assert left == market.buyer.channel(channel)["blocks_left"] > 0
        market.mine(left - 1)
        with pytest.raises(BeforeLockHeight):
            market.buyer.call("channel.close", {"id": channel, "key": "early-2", "alone": True})
        market.mine(1)
        market.buyer.wait_state(channel, "REFUND_SENT")
        market.mine(1)
        market.buyer.wait_state(channel, "REFUNDED")
        market.provider.wait_state(channel, "REFUNDED")
    finally:
        market.wire.cut.clear()
    market.buyer.audit()
    market.provider.audit()


def test_the_provider_closes_by_itself_before_the_lock_height(market: Market) -> None:
    channel = market.open(5 * COIN, key="auto")
    market.paid_call(COIN, task_id(5000))
    market.wait_acked(channel)
    before = market.provider.balance()
    market.wire.cut.add(market.provider.id)
    try:
        left = market.provider.channel(channel)["blocks_left"]
        market.mine(left - CLOSE_MARGIN)
        market.provider.wait_state(channel, "CLOSE_SENT", "CLOSED")
        market.mine(1)
        market.provider.wait_state(channel, "CLOSED")
        market.buyer.wait_state(channel, "CLOSED")
    finally:
        market.wire.cut.clear()
    assert market.provider.balance() - before == 95_000_000
    market.buyer.audit()
    market.provider.audit()


def test_a_hold_opens_the_channel_waits_for_it_and_the_next_one_uses_it(market: Market) -> None:
    market.buyer.fill(10 * COIN)
    with pytest.raises(NotConfirmed):
        market.hold(COIN // 10, task_id(6000), wait_s=0.0)
    assert [row["state"] for row in market.buyer.channels()[:1]] == ["FUND_SENT"]
    market.mine(1)
    hold = market.hold(COIN // 10, task_id(6000))
    channel = market.buyer.channel(hold["payment"]["channel"])
    assert channel["usable"] == COIN
    assert hold["payment"]["state"] == "ORDERED"
    assert market.hold(COIN // 10, task_id(6000)) == hold
    market.accept(hold)
    market.done(hold)
    market.release(hold)
    again = market.hold(COIN // 10, task_id(6001))
    assert again["payment"]["channel"] == channel["id"]
    assert again["state"]["gross"] == COIN // 10
    market.accept(again)
    assert market.provider.call("payment.show", {"id": _accepted(market, task_id(6000))})["state"] == "RELEASED"
    market.done(again)
    market.release(again)
    market.wait_acked(channel["id"])
    market.buyer.call("channel.close", {"id": channel["id"], "key": "close-6000"})
    market.mine(1)
    market.buyer.wait_state(channel["id"], "CLOSED")


def _accepted(market: Market, task: str) -> str:
    payments = market.provider.call("payment.list")["payments"]
    return next(p["id"] for p in payments if p["task"] == task)  # type: ignore[no-any-return]


def test_an_exhausted_channel_is_topped_up_within_the_cap_and_replaced_above_it(market: Market) -> None:
    market.buyer.fill(60 * COIN)
    channel = market.open(2 * COIN, key="small")
    market.paid_call(2 * COIN, task_id(7000))
    with pytest.raises(NotConfirmed):
        market.hold(3 * COIN, task_id(7001), wait_s=0.0)
    market.mine(6)
    second = market.hold(3 * COIN, task_id(7001))
    row = market.buyer.channel(channel)
    assert (second["payment"]["channel"], len(row["deposits"])) == (channel, 2)
    assert row["usable"] == 17 * COIN
    market.accept(second)
    market.done(second)
    market.release(second)
    with pytest.raises(NotConfirmed):
        market.hold(16 * COIN, task_id(7002), wait_s=0.0)
    market.mine(6)
    third = market.hold(16 * COIN, task_id(7002))
    assert third["payment"]["channel"] != channel
    old = market.buyer.wait_state(channel, "CLOSED")
    assert old["gross"] == 5 * COIN
    market.buyer.call("payment.refund", {"id": third["payment"]["id"], "reason": "", "key": "third"})
    market.buyer.call("channel.close", {"id": third["payment"]["channel"], "key": "close-third"})
    market.mine(1)
    market.buyer.wait_state(third["payment"]["channel"], "REFUNDED")
    market.buyer.audit()
    market.provider.audit()


def test_a_reorg_moves_a_closed_channel_back_to_sent_and_the_books_with_it(market: Market) -> None:
    channel = market.open(5 * COIN, key="reorg")
    market.paid_call(COIN, task_id(8000))
    market.wait_acked(channel)
    market.buyer.call("channel.close", {"id": channel, "key": "close-reorg"})
    (block,) = market.chain.mine(1)
    market.buyer.wait_state(channel, "CLOSED")
    market.provider.wait_state(channel, "CLOSED")
    market.chain.call("invalidateblock", block)
    market.buyer.wait_state(channel, "CLOSE_SENT")
    market.provider.wait_state(channel, "CLOSE_SENT")
    market.buyer.audit()
    market.provider.audit()
    market.mine(2)
    market.buyer.wait_state(channel, "CLOSED")
    market.provider.wait_state(channel, "CLOSED")
    market.buyer.audit()
    market.provider.audit()


def test_a_deposit_that_a_reorg_took_away_stops_serving_until_it_is_back(market: Market) -> None:
    market.buyer.fill(10 * COIN)
    order = {"provider": market.provider.id, "amount": 2 * COIN, "key": "shaky"}
    channel = market.buyer.call("channel.open", order)["id"]
    block = market.chain.mine(6)[0]
    market.buyer.wait_state(channel, "OPEN")
    market.provider.wait_state(channel, "OPEN")
    market.paid_call(COIN // 2, task_id(9000))
    hold = market.hold(COIN // 4, task_id(9001))
    market.chain.call("invalidateblock", block)
    market.buyer.wait_state(channel, "FUND_SENT")
    market.provider.wait_state(channel, "FUND_SENT")
    with pytest.raises((NotConfirmed, WrongDeposits)):
        market.accept(hold)
    market.mine(7)
    market.buyer.wait_state(channel, "OPEN")
    market.provider.wait_state(channel, "OPEN")
    market.accept(hold)
    market.done(hold)
    market.release(hold)
    market.wait_acked(channel)
    market.buyer.call("channel.close", {"id": channel, "key": "close-shaky"})
    market.mine(1)
    market.buyer.wait_state(channel, "CLOSED")
    market.buyer.audit()
    market.provider.audit()


def test_the_event_log_of_money_is_whole_and_signed_by_the_node(market: Market) -> None:
    for node in (market.buyer, market.provider):
        path = node.folder / "events.log"
        until(path.exists, "event log")
        count, _ = eventlog.check(path, node.id, network=market.network.id)
        assert count > 0
