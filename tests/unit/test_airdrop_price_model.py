"""The simulation behind docs/airdrop-price.md: its rule is the daemons', its sums are exact, its returns are right."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import bench_price
from benchmarks.airdrop_model import (
    BLOCKS_A_YEAR,
    Node,
    Rules,
    Steady,
    bond_price,
    in_enough_epochs,
    keeping_fees,
    share_of,
    split_keys,
    split_return,
    steady,
    tax_needed,
    wash_return,
    with_knobs,
)
from benchmarks.airdrop_population import HELD_OUT, MEAN_TAX, SHAPES, population
from benchmarks.airdrop_run import PAYEE_FEE, Account, Campaign, Key, Run, World
from duxcommon.eligibility import Demands, Score, admitted
from duxcommon.money import COIN
from duxcommon.parameters import Parameters

RULES = Rules()


def flat(_: int) -> float:
    return 1.0


# --- the rule -------------------------------------------------------------------------------------------------------


class Seen(World):
    """A world that tells of every round what the daemons' rule was asked and what was paid."""

    def _round(self, epoch: int) -> None:
        past, held = self._past(), self.run.balance
        keys = [Score(name, key.tax) for name, key in zip(self.names, self.keys, strict=False) if self._counts(key)]
        super()._round(epoch)
        chosen = admitted(keys, Demands(0, 0, 0, self.rules.share_cap_pct, past, held))
        if self.run.shares[-1]:
            paid = self.run.shares[-1]
            assert chosen.share >= paid > chosen.share - PAYEE_FEE - 1
            assert self.run.payouts[-1] == paid * len(chosen.keys)
            assert all((past + paid) * 100 <= self.rules.share_cap_pct * one.tax for one in chosen.keys)
        else:
            assert held < self.rules.threshold or not chosen.keys

    def _counts(self, key: Key) -> bool:
        return key.qualified(self.rules)


@pytest.mark.parametrize("cap", [110, 400, 3200])
@pytest.mark.parametrize("shape", ["equal", "lognormal", "few big"])
def test_every_round_pays_what_the_daemons_rule_says_to_whom_it_says(shape: str, cap: int) -> None:
    run = Seen(population(shape, 30), replace(RULES, share_cap_pct=cap), 8, flat).go(60)
    assert sum(1 for share in run.shares if share) > 5


@given(shares=st.integers(0, 10**12), cap=st.integers(100, 100_000))
def test_no_smaller_tax_than_the_needed_one_carries_the_shares(shares: int, cap: int) -> None:
    need = tax_needed(shares, replace(RULES, share_cap_pct=cap, min_tax_paid=0))
    assert shares * 100 <= cap * need
    assert need == 0 or shares * 100 > cap * (need - 1)


# --- the epochs -----------------------------------------------------------------------------------------------------


def paid_keys(run: Run) -> int:
    """How many shares were paid in all."""
    return sum(payout // share for share, payout in zip(run.shares, run.payouts, strict=True) if share)


@pytest.mark.parametrize("begun", [0, 700 * COIN])
@pytest.mark.parametrize("campaign", [None, Campaign(7, 15, 40), Campaign(7, 15, 40, RULES.min_tax_paid)])
@pytest.mark.parametrize("shape", ["equal", "lognormal", "few big"])
def test_what_went_into_the_fund_was_paid_out_or_is_still_there_to_the_koinu(
    shape: str, campaign: Campaign | None, begun: int
) -> None:
    run = World(population(shape, 30), RULES, 8, flat, campaign, begun=begun).go(50)
    assert run.begun + run.taken + run.tolls == run.paid + run.fees + run.balance
    assert run.balance >= 0
    assert run.paid > 0
    if campaign is not None:
        assert run.attacked == campaign.keys * run.attack.shares
    assert sum(run.gains) + run.attacked == run.paid
    assert sum(run.incomes) + begun == run.balance + run.paid + PAYEE_FEE * paid_keys(run)


def test_all_keys_of_a_round_get_the_same_and_the_remainder_stays() -> None:
    run = World(population("lognormal", 30), RULES, 8, flat).go(50)
    for share, payout in zip(run.shares, run.payouts, strict=True):
        assert payout == 0 if share == 0 else payout % share == 0


def test_nobody_is_in_before_a_window_has_passed_since_the_first_bonds() -> None:
    run = World(population("equal", 30), RULES, 8, flat).go(20)
    assert run.shares[: RULES.epochs] == [0] * RULES.epochs
    first = run.inside[RULES.epochs]
    assert first is None or first > 0
    assert any(run.shares)


def test_the_bond_follows_the_shares_of_the_window_before_and_is_known_an_epoch_ahead() -> None:
    run = World(population("equal", 30), RULES, 8, flat).go(60)
    for epoch in range(30, 60):
        assert run.prices[epoch] == bond_price(sum(run.shares[epoch - 11 : epoch - 1]), RULES)


def test_who_cannot_lock_the_bond_is_not_in() -> None:
    nodes = population("equal", 30)
    dear = replace(RULES, bond_min=1000 * COIN)
    assert World(nodes, dear, 8, flat).go(40).paid == 0
    assert World(nodes, RULES, 8, flat).go(40).paid > 0


def test_a_bond_that_ends_a_window_too_early_does_not_count() -> None:
    world = World([Node(MEAN_TAX, 30)], RULES, 8, flat)
    key = world.keys[0]
    world.run.prices.append(RULES.bond_min)
    key.bonds.append((2 * RULES.epochs - 1, RULES.bond_min))
    world._make_bond(key, 0, 2 * RULES.epochs - 1, lambda: 0)
    assert key.bonded[-1] is False
    key.bonds.append((2 * RULES.epochs, RULES.bond_min))
    world._make_bond(key, 0, 2 * RULES.epochs, lambda: 0)
    assert key.bonded[-1] is True


@pytest.mark.parametrize("total", [4, 6, 12, 30])
def test_a_fund_that_is_large_for_the_trade_around_it_is_paid_out_all_the_same(total: int) -> None:
    nodes = population("lognormal", 20, mean_tax=total * COIN // 20)
    run = World(nodes, RULES, 8, flat).go(400)
    assert run.paid > 0
    assert run.balance < 2 * RULES.threshold


def test_keys_that_qualify_as_cheaply_as_can_be_do_not_hold_down_what_others_get() -> None:
    nodes = population("lognormal", 40)
    alone = World(nodes, RULES, 8, flat, since=40).go(140)
    beside = World(nodes, RULES, 8, flat, Campaign(8, 30, 139, RULES.min_tax_paid), since=40).go(140)
    assert beside.attack.tax > 0
    assert sum(beside.gains) > 0.85 * sum(alone.gains)


def test_one_key_with_more_tax_than_all_others_does_not_keep_them_out() -> None:
    nodes = population("few big", 40)
    alone = World(nodes, RULES, 8, flat, since=40).go(140)
    beside = World(nodes, RULES, 8, flat, Campaign(1, 30, 139, 40 * MEAN_TAX), since=40).go(140)
    assert beside.inclusion(40, 139) > 0.9
    assert sum(beside.gains) > sum(alone.gains)


def test_what_each_node_got_is_measured_in_equal_parts_of_what_came_in() -> None:
    run = Run(incomes=[9 * COIN, 4 * COIN], gains=[COIN, 3 * COIN], since=1)
    assert run.evenness() == pytest.approx((0.5 + 1) / 2)
    run.payouts = [5 * COIN, 3 * COIN]
    assert run.passed_on() == pytest.approx(0.75)


@pytest.mark.parametrize("keys", [1, 20])
def test_wash_keys_pay_hardly_more_than_lets_them_in(keys: int) -> None:
    run = World(population("equal", 40), RULES, 8, flat, Campaign(keys, 30, 79)).go(80)
    windows = 6
    assert run.attack.shares > 0
    assert run.attack.tax <= windows * tax_needed(3 * max(run.shares) * RULES.epochs, RULES)
    assert run.attack.tax < run.attack.shares / 8


# --- returns --------------------------------------------------------------------------------------------------------


def test_a_wash_keys_return_is_that_of_a_calculation_by_hand() -> None:
    # A share of 5 FLOP a window, a bond of 10 and 0.3125 of tax. Fees: 3 channels at 0.00675, a tenth of a bond's
    # 0.0154. What is left is 4.66571; the trades tie up 6.25 FLOP for 60 of 43,200 blocks.
    rules = replace(RULES, window_blocks=43_200, epochs_needed=3)
    state = Steady(5 * COIN, 10 * COIN, 1.0, 10, 31_250_000, 0.1, 1.0)
    assert keeping_fees(rules) == 2_025_000 + 154_000
    assert wash_return(state, rules) == pytest.approx(365 / 30 * 4.66571 / 10.00868, rel=1e-5)
    assert split_return(state, rules) == pytest.approx(365 / 30 * (5 - 0.02179) / 10, rel=1e-5)


def test_a_campaigns_return_counts_what_was_tied_up_and_for_how_long() -> None:
    # 10 FLOP tied up for 40 epochs of 3 days bring 3 FLOP for 1 of tax and 0.5 of fees: 15 % in 120 days.
    account = Account(shares=3 * COIN, tax=COIN, fees=COIN // 2, tied=10 * COIN * 40)
    assert account.yearly(replace(RULES, window_blocks=43_200)) == pytest.approx(0.15 * 365 / 120)
    assert Account().yearly(RULES) == 0


def test_ten_per_cent_a_year_at_a_cap_of_four_needs_a_bond_of_ninety_shares() -> None:
    nodes = [Node(MEAN_TAX, 100.0)] * 50
    for multiple, low, high in ((91, 0.095, 0.1), (45.5, 0.19, 0.2)):
        rules = with_knobs(RULES, 4, multiple)
        assert low < wash_return(steady(nodes, rules, 10_000, 5), rules) < high


def test_the_return_does_not_depend_on_the_length_of_the_window_when_the_bond_does_not() -> None:
    nodes = [Node(MEAN_TAX, 100.0)] * 50
    long, short = with_knobs(RULES, 4, 2), replace(with_knobs(RULES, 4, 4), window_blocks=RULES.window_blocks // 2)
    halves = [Node(MEAN_TAX // 2, 100.0)] * 50
    wanted = wash_return(steady(nodes, long, 99, 5), long)
    assert wash_return(steady(halves, short, 99, 5), short) == pytest.approx(wanted, rel=0.02)


@settings(max_examples=200, deadline=None)
@given(inflow=st.integers(COIN, 10**13), honest=st.integers(1, 3000), keys=st.integers(0, 3000))
def test_in_a_steady_state_the_shares_are_what_comes_in_and_a_wash_key_pays_the_least_that_lets_it_in(
    inflow: int, honest: int, keys: int
) -> None:
    share, washed = share_of(inflow, honest, keys, RULES)
    spent = keys * RULES.epochs_needed * 446_000
    coming = inflow + keys * washed - spent
    if coming > 0:
        assert share * (honest + keys) == pytest.approx(coming, abs=2 * (honest + keys))
    assert washed == max(tax_needed(share, RULES), RULES.epochs_needed * 1_000_000)


def test_a_steady_network_keeps_the_largest_set_of_nodes_that_can_stay() -> None:
    # Two sizes, far apart: with a cap of 2 only the large ones can take what all have paid.
    nodes = [Node(10 * COIN, 100.0)] * 10 + [Node(COIN, 100.0)] * 10
    free = replace(RULES, bond_multiple_pct=0, bond_min=0)
    assert steady(nodes, with_knobs(free, 2, 0), 8).honest == pytest.approx(0.5)
    assert steady(nodes, with_knobs(free, 8, 0), 8).honest == pytest.approx(1.0)
    scarce = steady(nodes, with_knobs(free, 0.5, 0), 8)
    assert scarce.honest == pytest.approx(0.5)
    assert scarce.share == 5 * COIN
    assert scarce.paid == pytest.approx(50 / 110, rel=0.1)


def test_a_provider_splits_into_as_many_keys_as_its_tax_feeds() -> None:
    state = Steady(16 * COIN, 32 * COIN, 1.0, 0, COIN, 0.0, 1.0)
    rules = with_knobs(RULES, 16, 2)
    assert [split_keys(tax, state, rules) for tax in (COIN // 2, COIN, 10 * COIN - 1, 10 * COIN)] == [1, 1, 9, 10]


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_the_chance_of_enough_epochs_is_that_of_all_outcomes_counted(needed: int) -> None:
    rules = replace(RULES, epochs=3, epochs_needed=needed)
    hit = 1 - math.exp(-2 / 3)
    outcomes = product((0, 1), repeat=3)
    counted = sum(math.prod(hit if one else 1 - hit for one in seen) for seen in outcomes if sum(seen) >= needed)
    assert in_enough_epochs(2, rules) == pytest.approx(counted)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("shape", [*SHAPES, *HELD_OUT])
def test_every_population_has_the_mean_it_is_asked_for(shape: str, seed: int | None) -> None:
    nodes = population(shape, 200, seed=seed)
    assert sum(node.tax for node in nodes) == pytest.approx(200 * MEAN_TAX, abs=200)
    assert min(node.settlements for node in nodes) >= 5
    assert population(shape, 200, seed=seed) == nodes


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_names_the_defaults_in_force() -> None:
    rows = dict(re.findall(r"^\| .*?`(\w+)`\)? \| ([\d,.]+)", bench_price.PAGE.read_text(), re.MULTILINE))
    shown = {name: float(value.replace(",", "")) for name, value in rows.items()}
    now = Parameters()
    assert shown == {
        "window_blocks": now.window_blocks,
        "epochs_needed": now.epochs_needed,
        "min_tax_paid": now.min_tax_paid / COIN,
        "share_cap_pct": now.share_cap_pct,
        "bond_multiple_pct": now.bond_multiple_pct,
        "bond_min": now.bond_min / COIN,
    }


def test_every_table_has_its_place_on_the_page_and_one_without_is_an_error() -> None:
    page = bench_price.PAGE.read_text()
    for name in ("multiple", *bench_price.TABLES):
        renewed = bench_price.put(page, name, "| a |")
        assert renewed != page
        assert bench_price.put(renewed, name, "| a |") == renewed
    with pytest.raises(LookupError):
        bench_price.put(page, "unknown", "| a |")


def test_the_chart_is_one_line_for_each_shape() -> None:
    drawn = bench_price.CHART.read_text()
    assert drawn.count("<polyline") == len(SHAPES)
    assert all(f">{shape}</text>" in drawn for shape in SHAPES)


def test_a_year_is_that_of_one_minute_blocks() -> None:
    assert BLOCKS_A_YEAR == 525_600
    assert RULES.windows_a_year == pytest.approx(365 / 30)


Make = Callable[[], str]


@pytest.mark.parametrize("make", [bench_price.TABLES["split"], bench_price.TABLES["size"]])
def test_a_table_that_is_made_again_is_the_one_on_the_page(make: Make) -> None:
    assert make() in bench_price.PAGE.read_text()
