"""The tables and the arithmetic of channels and payments."""

from typing import get_args

import pytest

from dux_escrowd import channel
from dux_escrowd.channel import ChainDeposit, Claim, Line, StateClaim
from duxcommon.api.escrowd import ChannelState, PaymentState
from duxcommon.coin.tx import closing_fee
from duxcommon.errors import (
    BadTransition,
    ChannelBusy,
    ChannelClosed,
    DepositCapReached,
    NotConfirmed,
    NotCovered,
    PriceTooSmall,
    StateConflict,
    StateStale,
    WrongAmount,
)
from duxcommon.money import COIN

FEE = closing_fee(1)


def deposit(amount: int, height: int | None, name: str = "a", spender: str | None = None) -> ChainDeposit:
    return ChainDeposit(name * 64, 0, amount, height, spender)


def open_line(**changes: object) -> Line:
    values: dict[str, object] = {"role": "buyer", "state": "OPEN", "usable": 10 * COIN, "max_unpaid": 2}
    return Line(**{**values, **changes})  # type: ignore[arg-type]


def test_the_tables_name_exactly_the_states_of_the_wire_models() -> None:
    assert set(channel.CHANNEL) == set(get_args(ChannelState))
    assert set(channel.PAYMENT) == set(get_args(PaymentState))
    assert {after for steps in channel.CHANNEL.values() for after in steps.values()} <= set(channel.CHANNEL)


def test_every_channel_event_is_used_and_every_state_can_be_reached_from_new() -> None:
    used = {event for steps in channel.CHANNEL.values() for event in steps}
    assert used == set(get_args(channel.ChannelEvent))
    reached: set[str] = set()
    waiting: list[ChannelState] = ["NEW"]
    while waiting:
        state = waiting.pop()
        if state not in reached:
            reached.add(state)
            waiting.extend(channel.CHANNEL[state].values())
    assert reached == set(channel.CHANNEL)


def test_a_reorg_moves_every_settled_state_back_to_sent() -> None:
    assert channel.next_channel("CLOSED", "close-lost") == "CLOSE_SENT"
    assert channel.next_channel("REFUNDED", "refund-lost") == "REFUND_SENT"
    assert channel.next_channel("OPEN", "fund-moved") == "FUND_SENT"


def test_a_step_that_does_not_follow_is_refused_by_name() -> None:
    with pytest.raises(BadTransition, match=r"CLOSED.*fund-sent"):
        channel.next_channel("CLOSED", "fund-sent")
    for final in ("RELEASED", "REFUNDED"):
        with pytest.raises(BadTransition):
            channel.next_payment(final, "release")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stake", "depth"),
    [(0, 1), (COIN, 1), (COIN + 1, 6), (50 * COIN, 6), (50 * COIN + 1, 30), (1000 * COIN, 30), (1000 * COIN + 1, 120)],
)
def test_the_depth_follows_the_size(stake: int, depth: int) -> None:
    assert channel.depth_for(stake) == depth


def test_a_deposit_counts_from_the_block_that_makes_it_deep_enough() -> None:
    twenty = [deposit(20 * COIN + FEE, 100)]
    before, after = channel.cover(twenty, 104), channel.cover(twenty, 105)
    assert (before.usable, before.waiting, before.pending) == (0, 1, 20 * COIN)
    assert (after.usable, after.waiting) == (20 * COIN, 0)


def test_one_flop_and_the_closing_fee_needs_one_confirmation() -> None:
    assert channel.cover([deposit(COIN + FEE, 100)], 100).usable == COIN


def test_many_small_deposits_do_not_stand_in_for_one_large_one() -> None:
    small = [ChainDeposit(f"{n:064x}", 0, COIN, 100) for n in range(10)]
    assert channel.cover(small, 100).usable <= COIN
    assert channel.cover(small, 105).usable == 10 * COIN - closing_fee(10)


def test_spent_unconfirmed_and_tiny_outputs_do_not_count() -> None:
    outputs = [
        deposit(COIN, 100, "a", spender="f" * 64),
        deposit(COIN, None, "b"),
        deposit(channel.MIN_INPUT - 1, 90, "c"),
    ]
    view = channel.cover(outputs, 200)
    assert (view.usable, view.counted) == (0, ())
    assert view.pending == COIN - FEE


def test_strangers_cannot_crowd_out_a_deposit_with_later_small_ones() -> None:
    crowd = [ChainDeposit(f"{n:064x}", 0, channel.MIN_INPUT, 101) for n in range(40)]
    view = channel.cover([deposit(20 * COIN, 100, "f"), *crowd], 300)
    assert view.counted[0].amount == 20 * COIN
    assert len(view.counted) == channel.MAX_DEPOSITS


def test_a_reservation_needs_state_slot_and_money() -> None:
    for line, error in [
        (open_line(state="FUND_SENT"), NotConfirmed),
        (open_line(state="CLOSE_BUILT"), ChannelClosed),
        (open_line(open=2, held=2), ChannelBusy),
        (open_line(gross=10 * COIN), NotCovered),
    ]:
        with pytest.raises(error):
            channel.reserve(line, COIN)
    with pytest.raises(PriceTooSmall):
        channel.reserve(open_line(), 0)


def test_hold_release_and_refund_keep_the_sum() -> None:
    line = channel.reserve(channel.reserve(open_line(), 3 * COIN), COIN)
    assert (line.held, line.open, line.free) == (4 * COIN, 2, 6 * COIN)
    line = channel.sign(line, [3 * COIN])
    assert (line.gross, line.held, line.open, line.seq, line.free) == (3 * COIN, COIN, 1, 1, 6 * COIN)
    line = channel.unreserve(line, COIN)
    assert (line.gross, line.held, line.open, line.free) == (3 * COIN, 0, 0, 7 * COIN)


def test_a_state_is_new_known_stale_or_a_conflict() -> None:
    line, outs = open_line(role="provider", gross=5, seq=2), frozenset({("a" * 64, 0)})
    stored = StateClaim(2, 5, outs)
    assert channel.judge(line, stored, StateClaim(3, 7, outs)) == "new"
    assert channel.judge(line, stored, StateClaim(3, 5, frozenset())) == "new"
    assert channel.judge(line, stored, stored) == "known"
    with pytest.raises(StateStale):
        channel.judge(line, stored, StateClaim(1, 9, outs))
    with pytest.raises(StateConflict):
        channel.judge(line, stored, StateClaim(2, 6, outs))
    with pytest.raises(WrongAmount):
        channel.judge(line, stored, StateClaim(3, 4, outs))


def test_a_state_pays_only_the_payments_it_has_money_for() -> None:
    line = open_line(role="provider", held=12, open=2)
    claims = [Claim("a", 5, "DONE"), Claim("b", 7, "DONE")]
    paid_line, credit, paid = channel.pay(line, StateClaim(1, 7, frozenset()), 0, claims, ["b"])
    assert (paid, credit, paid_line.held, paid_line.open, paid_line.gross) == (["b"], 0, 5, 1, 7)
    greedy, credit, paid = channel.pay(line, StateClaim(1, 7, frozenset()), 0, claims, ["a", "b", "a", "x"])
    assert (paid, credit, greedy.held) == (["a"], 2, 7)


@pytest.mark.parametrize(
    ("price", "least", "wanted"),
    [(10 * COIN, 0, 20 * COIN), (COIN, 0, 5 * COIN), (1, 0, COIN), (1, 3 * COIN, 3 * COIN), (20 * COIN, 0, 20 * COIN)],
)
def test_a_new_channel_holds_five_calls_or_one_flop_within_the_cap(price: int, least: int, wanted: int) -> None:
    assert channel.first_deposit(price, 20 * COIN, least) == wanted


def test_a_price_above_the_cap_is_refused_with_the_figures() -> None:
    with pytest.raises(DepositCapReached) as caught:
        channel.first_deposit(21 * COIN, 20 * COIN, 0)
    assert caught.value.details == {"needed": 21 * COIN, "cap": 20 * COIN}


def test_an_exhausted_channel_is_topped_up_within_the_cap_and_not_above() -> None:
    line = open_line(usable=5 * COIN, gross=5 * COIN)
    assert channel.top_up(line, 5 * COIN, COIN, 20 * COIN) == 5 * COIN
    assert channel.top_up(line, 5 * COIN, 10 * COIN, 20 * COIN) == 15 * COIN
    assert channel.top_up(open_line(usable=20 * COIN, gross=20 * COIN), 20 * COIN, 1, 20 * COIN) == 0


@pytest.mark.parametrize(("gross", "risk"), [(0, False), (1, True), (1_999_999, True), (2_000_000, False)])
def test_a_gross_too_small_to_close_is_at_risk(gross: int, risk: bool) -> None:
    assert channel.at_risk(gross) is risk
