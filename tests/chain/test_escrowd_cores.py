"""The life of a channel on every kind of Core: dux-devchain in both dialects, litecoind, and the one of DUX_COIND."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from escrowd_kit import Market, task_id
from flopd_kit import KINDS, TestChain, open_chain
from support.logs import assert_clean_logs

from duxcommon.coin import tx as coin_tx
from duxcommon.money import COIN


@pytest.fixture(scope="module", params=KINDS)
def market(request: pytest.FixtureRequest) -> Iterator[Market]:
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    chain: TestChain = open_chain(request.param, folder)
    made = Market(folder, chain)
    yield made
    made.close()
    chain.close()
    assert_clean_logs(folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_calls_are_paid_and_the_provider_closes_alone(market: Market) -> None:
    before = market.provider.balance()
    channel = market.open(5 * COIN, key="life")
    for number in range(3):
        market.paid_call(33_333_333, task_id(number))
    market.wait_acked(channel)
    market.wire.cut.add(market.buyer.id)
    market.provider.call("channel.close", {"id": channel, "key": "close", "alone": True})
    market.provider.wait_state(channel, "CLOSE_SENT")
    market.wire.cut.clear()
    market.mine(1)
    market.provider.wait_state(channel, "CLOSED")
    market.buyer.wait_state(channel, "CLOSED")
    assert market.provider.balance() - before == 99_999_999 - 4_999_999
    (deposit,) = market.buyer.flopd.watched(channel)
    paid = [output.value for output in coin_tx.parse_tx(deposit["spender_hex"]).vout]
    assert paid == [99_999_999 - 4_999_999, 4_999_999, 5 * COIN - 99_999_999]
    market.buyer.audit()
    market.provider.audit()


def test_the_deposit_comes_back_alone_at_the_lock_height(market: Market) -> None:
    channel = market.open(2 * COIN, key="refund")
    before = market.buyer.balance()
    market.wire.cut.add(market.provider.id)
    try:
        market.mine(market.buyer.channel(channel)["blocks_left"])
        market.buyer.wait_state(channel, "REFUND_SENT")
        market.mine(1)
        market.buyer.wait_state(channel, "REFUNDED")
    finally:
        market.wire.cut.clear()
    assert market.buyer.balance() - before > 2 * COIN
    market.buyer.audit()
