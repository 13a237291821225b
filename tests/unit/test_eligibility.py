"""Who has a share of the fund: each condition to the koinu and to the block, and what is said to those without."""

import pytest

from duxcommon.api.registryd import Missing
from duxcommon.eligibility import (
    Demands,
    Lock,
    Score,
    Window,
    Work,
    admitted,
    covered_from,
    covers,
    missing,
    qualifies,
    score,
)  # fmt: skip
from duxcommon.money import COIN, DUST

WINDOW = Window(height=200, blocks=100)
DEMANDS = Demands(
    min_tax_paid=10 * DUST, epochs_needed=3, bond_price=COIN, share_cap_pct=400, shares_paid=0, spendable=0
)
KEY = b"\x02" + b"\x01" * 32
GOOD_WORK = [Work(101, 4 * DUST), Work(150, 4 * DUST), Work(200, 2 * DUST)]
GOOD_BOND = Lock(height=100, lock_height=300, amount=COIN)


def verdict(work: list[Work], locks: list[Lock], demands: Demands = DEMANDS) -> list[str]:
    """The conditions that a key with these facts lacks."""
    return [one.condition for one in lacks(work, locks, demands)]


def lacks(work: list[Work], locks: list[Lock], demands: Demands = DEMANDS) -> list[Missing]:
    found = score(KEY, work, locks, WINDOW)
    qualified = qualifies(found, demands)
    others = Score(b"\x03" * 33, tax=100 * COIN)
    admission = admitted([found, others], demands) if qualified else admitted([others], demands)
    eligible = found in admission.keys
    result = missing(found, WINDOW, demands, locks=locks, share=admission.share, capped=qualified and not eligible)
    assert bool(result) != eligible
    return result


def test_enough_tax_in_enough_parts_of_the_window_and_a_bond_make_a_key_eligible() -> None:
    assert verdict(GOOD_WORK, [GOOD_BOND]) == []


# --- tax ------------------------------------------------------------------------------------------------------------


def test_one_koinu_of_tax_too_little_is_too_little() -> None:
    (lack,) = lacks([*GOOD_WORK[:2], Work(200, 2 * DUST - 1)], [GOOD_BOND])
    assert (lack.condition, lack.have, lack.need, lack.unit) == ("tax", 10 * DUST - 1, 10 * DUST, "koinu")
    assert "0.09999999 FLOP" in lack.text
    assert "dux-ctl channel" in lack.remedy


@pytest.mark.parametrize(("height", "counts"), [(99, False), (100, False), (101, True), (200, True), (201, False)])
def test_work_counts_from_the_block_after_the_opening_to_the_snapshot_itself(height: int, counts: bool) -> None:
    found = score(KEY, [Work(height, 5)], [], WINDOW)
    assert (found.tax, found.epochs) == ((5, 1) if counts else (0, 0))


# --- parts of the window --------------------------------------------------------------------------------------------


def test_tenths_of_the_window_change_at_their_blocks() -> None:
    assert [WINDOW.epoch(height) for height in (101, 110, 111, 120, 191, 200)] == [0, 0, 1, 1, 9, 9]


@pytest.mark.parametrize("blocks", [20, 21, 29, 43_200, 43_207])
def test_every_block_of_a_window_lies_in_one_of_ten_parts_of_nearly_equal_length(blocks: int) -> None:
    window = Window(height=100_000, blocks=blocks)
    parts = [window.epoch(height) for height in range(window.opens + 1, window.height + 1)]
    assert parts == sorted(parts)
    lengths = {parts.count(part) for part in range(10)}
    assert len(parts) == blocks
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("heights", "enough"),
    [((101, 102, 103), False), ((101, 110, 111), False), ((101, 111, 120), False), ((101, 111, 121), True)],
)
def test_work_must_lie_in_three_parts_of_the_window(heights: tuple[int, ...], enough: bool) -> None:
    assert verdict([Work(height, 4 * DUST) for height in heights], [GOOD_BOND]) == ([] if enough else ["epochs"])


def test_a_key_with_all_its_work_at_once_is_told_to_spread_it() -> None:
    (lack,) = lacks([Work(150, COIN)], [GOOD_BOND])
    assert (lack.have, lack.need, lack.unit) == (1, 3, "epochs")
    assert "dux-ctl channel close" in lack.remedy


# --- bond -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock", "counts"),
    [
        (Lock(100, 300, COIN), True),
        (Lock(101, 300, COIN), False),  # confirmed a block too late
        (Lock(100, 299, COIN), False),  # free a block too early
        (Lock(100, 300, COIN - 1), False),  # a koinu too small
        (Lock(1, 1_000_000, COIN), True),
    ],
)
def test_a_bond_must_be_old_enough_last_long_enough_and_be_large_enough(lock: Lock, counts: bool) -> None:
    assert verdict(GOOD_WORK, [lock]) == ([] if counts else ["bond"])


def test_three_bonds_of_one_key_add_up_and_make_one_share() -> None:
    locks = [Lock(100, 300, COIN // 2), Lock(90, 400, COIN // 4), Lock(100, 301, COIN // 4)]
    assert verdict(GOOD_WORK, locks) == []
    assert verdict(GOOD_WORK, locks[:2]) == ["bond"]
    found = score(KEY, GOOD_WORK, locks, WINDOW)
    assert [one.pubkey for one in admitted([found], DEMANDS).keys] == [KEY]


def test_a_bond_that_was_made_too_late_is_told_when_it_counts() -> None:
    (lack,) = lacks(GOOD_WORK, [Lock(120, 500, COIN)])
    assert (lack.condition, lack.have, lack.need) == ("bond", 0, COIN)
    assert "from block 220 on" in lack.remedy


def test_a_key_without_a_bond_is_told_the_command_that_makes_one() -> None:
    (lack,) = lacks(GOOD_WORK, [])
    assert "dux-ctl node bond" in lack.remedy
    assert "auto_bond" in lack.remedy


def test_bonds_that_never_suffice_together_promise_nothing() -> None:
    # The one is free again before the other one is old enough.
    assert covered_from([Lock(100, 250, COIN), Lock(160, 400, COIN // 2)], WINDOW, COIN) is None
    assert covered_from([Lock(120, 400, COIN // 2), Lock(130, 400, COIN // 2)], WINDOW, COIN) == 230


def test_a_bond_counts_for_a_snapshot_and_no_more_a_block_after_its_lock_allows() -> None:
    lock = Lock(height=100, lock_height=400, amount=COIN)
    assert [height for height in range(0, 600) if covers(lock, Window(height, 100))] == list(range(200, 301))


# --- the cap on shares ----------------------------------------------------------------------------------------------


def scores(*taxes: int) -> list[Score]:
    """Taxes in units of DUST."""
    return [Score(b"\x02" + bytes([n]) * 32, tax=tax * DUST, epochs=3, bond=COIN) for n, tax in enumerate(taxes)]


def capped_at(spendable: int, shares_paid: int = 0) -> Demands:
    """A cap of four times the tax; amounts in units of DUST."""
    return Demands(1, 1, 1, share_cap_pct=400, shares_paid=shares_paid * DUST, spendable=spendable * DUST)


def shares(taxes: list[int], demands: Demands) -> tuple[int, int, bool]:
    """Share in units of DUST, number of keys, whether nothing is held back."""
    found = admitted(scores(*taxes), demands)
    return found.share // DUST, len(found.keys), found.full


def test_where_the_cap_allows_it_all_qualified_keys_get_an_equal_part_of_everything() -> None:
    assert shares([25], capped_at(100)) == (100, 1, True)
    assert shares([5] * 5, capped_at(100)) == (20, 5, True)
    assert shares([100, 5, 7], capped_at(60)) == (20, 3, True)


def test_a_share_is_never_more_than_a_multiple_of_the_tax_that_each_key_paid() -> None:
    assert shares([24], capped_at(100)) == (96, 1, False)
    assert shares([25], capped_at(100, shares_paid=1)) == (99, 1, False)
    assert shares([1, 1, 1], capped_at(100)) == (4, 3, False)
    assert shares([1], capped_at(100, shares_paid=4)) == (0, 0, False)


def test_one_key_never_gets_more_for_others_being_kept_out() -> None:
    # An equal part is 100/4; that two keys can't have it brings the others nothing.
    assert shares([1000, 1000, 1, 1], capped_at(100)) == (25, 2, False)


def test_a_single_key_that_paid_very_much_tax_keeps_nobody_out() -> None:
    assert shares([1000, 1, 1, 1], capped_at(100)) == (4, 4, False)
    assert shares([5, 5, 5, 5, 1000], capped_at(1000, shares_paid=12)) == (8, 5, False)


def test_a_few_keys_that_paid_little_do_not_hold_down_the_share_of_the_many() -> None:
    assert shares([1, 25, 25, 25, 25, 25], capped_at(60)) == (10, 5, False)


def test_of_two_shares_that_pay_out_the_same_the_one_that_more_keys_get_is_taken() -> None:
    # 16 for one key or 8 for two.
    assert shares([2, 4], capped_at(100)) == (8, 2, False)


def test_when_most_had_what_the_cap_allows_the_fund_waits_instead_of_paying_the_few() -> None:
    assert shares([5, 5, 5, 5, 1000], capped_at(1000, shares_paid=20)) == (0, 0, False)


def test_a_fund_that_can_not_be_paid_out_whole_pays_what_it_can() -> None:
    assert shares([5] * 20, capped_at(1_000_000)) == (20, 20, False)


def test_with_an_empty_fund_a_key_is_told_whether_it_could_have_a_share() -> None:
    assert shares([1, 1], capped_at(0)) == (1, 2, True)
    assert shares([1, 1], capped_at(0, shares_paid=4)) == (0, 0, False)


def test_the_order_of_the_facts_is_irrelevant() -> None:
    five = scores(5, 9, 5, 7, 5)
    assert admitted(five[::-1], capped_at(100)) == admitted(five, capped_at(100))


def test_who_is_kept_out_by_the_cap_is_told_how_much_tax_would_do() -> None:
    # The other key has so much tax that 50 FLOP for one is more than what the cap leaves to both.
    demands = Demands(10 * DUST, 3, COIN, 400, COIN // 4, 100 * COIN)
    (lack,) = lacks(GOOD_WORK, [GOOD_BOND], demands)
    assert lack.condition == "cap"
    assert lack.need == (50 * COIN + COIN // 4) // 4
    better = [*GOOD_WORK, Work(190, lack.need - 10 * DUST)]
    assert verdict(better, [GOOD_BOND], demands) == []


def test_without_any_qualified_key_nobody_is_eligible() -> None:
    assert shares([], capped_at(100)) == (0, 0, False)


def test_everything_that_is_missing_is_named_at_once() -> None:
    assert verdict([], []) == ["tax", "epochs", "bond"]
