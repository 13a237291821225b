"""What the next transaction of the fund is: the order of the cases, and what can't be provoked by sending it coins."""

import pytest
from fund_kit import FIVE, OTHERS, Guardians, Spending, planned, snapshot, some_keys

from dux_airdropd.costs import BASE_FEE, input_fee, outputs_fee, paying_room, worth_spending
from dux_airdropd.manifest import digest_of, write
from dux_airdropd.plan import STEP, Decision, Plan, Waiting, available, decide, first_snapshot, turn
from duxcommon.coin.multisig import MAX_STANDARD_SIZE
from duxcommon.money import COIN, DUST

PAYEE = b"\x76\xa9\x14" + b"\x07" * 20 + b"\x88\xac"


def spend(amount: int, name: str = "aa") -> Spending:
    return Spending(name * 32, PAYEE, amount)


def why(decision: Plan | Waiting) -> str:
    assert isinstance(decision, Waiting), decision
    return decision.why


def test_snapshots_are_at_heights_divisible_by_ten_above_the_anchor() -> None:
    assert [first_snapshot(height) for height in (0, 9, 10, 11, 19)] == [10, 10, 20, 20, 20]


def test_nothing_is_done_before_the_fund_received_anything() -> None:
    view = snapshot([])
    empty = type(view)(view.height, 1, None, (), (), view.rules, view.redeems, ())
    assert why(decide(empty, None)) == "no-anchor"
    assert available(empty) == 0


def test_nobody_counts_payout_keys_while_the_fund_is_below_the_threshold() -> None:
    assert why(decide(snapshot([99 * COIN]), None)) == "below-threshold"
    assert why(decide(snapshot([101 * COIN]), None)) == "ask-eligible"


def test_the_threshold_counts_what_can_be_paid_out_after_the_cost_of_spending_it() -> None:
    fees = BASE_FEE + 2 * input_fee(FIVE.redeem)
    exact = 100 * COIN + fees
    # The anchor brings the DUST that the next anchor needs.
    assert available(snapshot([exact])) == 100 * COIN
    assert planned(snapshot([exact]), 1).kind == "payout"
    assert why(decide(snapshot([exact - 1]), 1)) == "below-threshold"


def test_with_nobody_eligible_the_fund_waits() -> None:
    assert why(decide(snapshot([200 * COIN]), 0)) == "nobody-eligible"


def test_shares_below_dust_are_never_paid_the_fund_waits_until_it_holds_more() -> None:
    decision = decide(snapshot([101 * COIN]), 10_000)
    assert isinstance(decision, Waiting)
    assert decision.why == "shares-too-small"
    assert 100 * COIN < decision.needed < 110 * COIN
    assert planned(snapshot([110 * COIN]), 10_000).recipients == 10_000


def test_what_the_cap_on_shares_holds_back_stays_in_the_fund() -> None:
    view = snapshot([101 * COIN])
    plan = decide(view, 10, limit=2 * COIN, full=True)
    assert isinstance(plan, Plan)
    assert plan.limit == 2 * COIN
    assert plan.recipients == 10


def test_a_round_that_the_cap_makes_small_happens_once_in_a_tenth_of_a_window() -> None:
    def at(height: int, last: int) -> Plan | Waiting:
        view = snapshot([101 * COIN], height=height, last_payout=last, parameters={"window_blocks": 1000})
        return decide(view, 10, limit=2 * COIN, full=False)

    assert why(at(1090, 1001)) == "capped"
    assert isinstance(at(1100, 1099), Plan)
    assert isinstance(at(1090, 999), Plan)
    full = snapshot([101 * COIN], height=1090, last_payout=1001, parameters={"window_blocks": 1000})
    assert isinstance(decide(full, 10, limit=11 * COIN, full=True), Plan)


def test_one_eligible_key_gets_everything() -> None:
    plan = planned(snapshot([150 * COIN]), 1)
    assert (plan.kind, plan.recipients, len(plan.inputs)) == ("payout", 1, 2)


def test_the_anchor_is_the_first_input() -> None:
    view = snapshot([101 * COIN, COIN])
    assert planned(view, 3).inputs[0] == view.anchor


def test_the_order_in_which_coins_are_told_changes_nothing() -> None:
    amounts = [COIN * n for n in range(1, 40)]
    view = snapshot(amounts)
    turned = type(view)(
        view.height, 1, view.anchor, tuple(reversed(view.coins)), (), view.rules, dict(view.redeems), ()
    )
    assert decide(view, 7) == decide(turned, 7)


def test_an_input_that_costs_more_than_half_of_what_it_brings_is_left_alone() -> None:
    cost = input_fee(FIVE.redeem)
    assert worth_spending(2 * cost, FIVE.redeem)
    assert not worth_spending(2 * cost - 1, FIVE.redeem)
    fund = planned(snapshot([101 * COIN, 2 * cost - 1, 100_000]), 3)
    assert [coin.amount for coin in fund.inputs] == [DUST, 101 * COIN]


def test_a_fund_of_inputs_that_cost_more_than_they_are_worth_does_nothing() -> None:
    large = Guardians(8, 15)
    assert not worth_spending(DUST, large.redeem)
    view = snapshot([DUST] * 12_000, guardians=large)
    assert available(view) == 0
    assert why(decide(view, None)) == "below-threshold"


def test_dust_from_a_vandal_delays_no_payout() -> None:
    view = snapshot([COIN] * 60 + [50 * COIN] + [DUST] * 400)
    assert planned(view, 5).kind == "payout"


def test_more_inputs_than_a_payout_has_room_for_are_made_one_until_it_has() -> None:
    view = snapshot([COIN // 2] * 300)
    first = planned(view)
    assert (first.kind, len(first.inputs)) == ("sweep", 200)
    left = first.available + DUST
    second = planned(snapshot([COIN // 2] * 101, anchor=left, sequence=2), 10)
    assert (second.kind, second.sequence) == ("payout", 2)
    few = planned(snapshot([COIN // 10] * 101, anchor=COIN), 10)
    assert (few.kind, len(few.inputs)) == ("sweep", 102)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 5), (8, 15)])
def test_no_transaction_of_the_fund_is_too_large_to_relay(m: int, n: int) -> None:
    guardians = Guardians(m, n)
    per_input = input_fee(guardians.redeem) // 1020
    swept = planned(snapshot([COIN // 10] * 400, guardians=guardians))
    assert swept.kind == "sweep"
    assert 200 + len(swept.inputs) * per_input < MAX_STANDARD_SIZE
    paid = planned(snapshot([10 * COIN] * 400, guardians=guardians), 2000)
    assert paid.kind == "payout"
    assert 100 + len(paid.inputs) * per_input + 2000 * 34 < MAX_STANDARD_SIZE
    assert (len(paid.inputs) + 1) * per_input > min(paying_room(), 200 * per_input)


def test_what_was_voted_is_spent_before_the_fund_pays_out() -> None:
    plan = planned(snapshot([101 * COIN], spends=[spend(30 * COIN)]), 5)
    assert plan.kind == "grant"
    assert plan.spend == spend(30 * COIN)


def test_a_spend_that_the_fund_can_not_afford_holds_up_neither_the_next_nor_the_payout() -> None:
    large, small = spend(500 * COIN), spend(10 * COIN, "bb")
    assert planned(snapshot([101 * COIN], spends=[large, small]), 5).spend == small
    assert planned(snapshot([101 * COIN], spends=[large]), 5).kind == "payout"


def test_the_fund_moves_first_of_all_when_its_guardians_changed() -> None:
    view = snapshot([101 * COIN], guardians=OTHERS, before=FIVE, old=[3 * COIN], spends=[spend(COIN)])
    plan = planned(view, 5)
    assert plan.kind == "sweep"
    assert plan.script == OTHERS.script
    assert [coin.script for coin in plan.inputs] == [FIVE.script, FIVE.script, OTHERS.script]


def test_an_anchor_too_poor_to_move_alone_waits_for_more() -> None:
    assert why(decide(snapshot([], guardians=OTHERS, before=FIVE), None)) == "too-poor"
    assert planned(snapshot([COIN], guardians=OTHERS, before=FIVE)).kind == "sweep"


def test_what_comes_in_at_an_old_address_is_fetched_when_it_brings_twice_what_that_costs() -> None:
    def late(amount: int) -> Plan | Waiting:
        return decide(snapshot([COIN], guardians=OTHERS, before=FIVE, moved=True, old=[amount]), None)

    fetched = late(COIN)
    assert isinstance(fetched, Plan)
    assert (fetched.kind, len(fetched.inputs)) == ("sweep", 2)
    assert why(late(DUST)) == "below-threshold"


def test_nobody_delays_a_payout_by_sending_coins_to_an_old_address() -> None:
    view = snapshot([101 * COIN], guardians=OTHERS, before=FIVE, moved=True, old=[COIN])
    plan = planned(view, 5)
    assert plan.kind == "payout"
    assert {coin.script for coin in plan.inputs} == {OTHERS.script}


def test_tidying_up_at_the_new_address_needs_no_signature_of_the_old_guardians() -> None:
    view = snapshot([COIN // 10] * 300, guardians=OTHERS, before=FIVE, moved=True, old=[COIN])
    assert {coin.script for coin in planned(view).inputs} == {OTHERS.script}


def test_the_lead_goes_round_every_ten_blocks() -> None:
    leaders = [turn(4, 1060, tip, 5) for tip in range(1060, 1060 + 7 * STEP, STEP)]
    assert leaders == [4, 0, 1, 2, 3, 4, 0]
    assert turn(4, 1060, 1069, 5) == 4
    assert turn(4, 1060, 1050, 5) == 4


def test_what_the_cap_holds_back_waits_for_the_next_tenth_of_a_window_and_no_longer() -> None:
    def at(height: int, last_payout: int, *, full: bool = False) -> Decision:
        rules = {"window_blocks": 200}
        view = snapshot([101 * COIN], height=height, last_payout=last_payout, parameters=rules)
        return decide(view, 5, limit=COIN, full=full)

    assert why(at(1010, 1001)) == "capped"
    assert isinstance(at(1000, 981), Plan)
    assert isinstance(at(1020, 1001), Plan)
    assert isinstance(at(1010, 1001, full=True), Plan)


def test_a_payout_gives_nobody_more_than_the_cap_allows_and_keeps_the_rest_in_the_fund() -> None:
    view = snapshot([101 * COIN])
    plan = decide(view, 5, limit=COIN, full=False)
    assert isinstance(plan, Plan)
    manifest = write("ab" * 32, plan, digest_of(some_keys(5)), FIVE.redeem)
    assert (manifest.share, manifest.paid) == (COIN, 5 * COIN)
    assert manifest.anchor == DUST + plan.available - outputs_fee(5, FIVE.redeem) - 5 * COIN
