"""What a change would have done to the fund, against examples that can be reckoned by hand."""

from collections.abc import Sequence

import pytest

from dux_governance.replay import NO_EFFECT, Past, Settled, bond_price, caveats, compare, reckon
from duxcommon.api.governance import ReplayRow
from duxcommon.coin.notes import ArbiterChange, ParameterChange, Spend
from duxcommon.eligibility import Lock
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters

ALICE, BOB, CAROL = (bytes([2]) + bytes([letter]) * 32 for letter in b"abc")
RULES = Parameters(
    window_blocks=100, epochs_needed=1, min_tax_paid=COIN, bond_min=COIN, bond_multiple_pct=100, share_cap_pct=100_000,
    airdrop_threshold=10 * COIN,
)  # fmt: skip
LOCKED = Lock(1, 10_000, 1000 * COIN)


def work(height: int, provider: bytes, gross: int) -> Settled:
    """Settled work at 5 %."""
    return Settled(height, provider, gross * COIN, gross * COIN * 500 // 10_000)


def past(*done: Settled, bonded: Sequence[bytes] = (ALICE, BOB), opening: int = 0) -> Past:
    return Past(sorted(done, key=lambda one: one.height), {key: [LOCKED] for key in bonded}, [], [], opening)


TWO_PROVIDERS = past(work(510, ALICE, 60), work(515, BOB, 100), work(560, ALICE, 60), work(570, BOB, 200))
"""Taxes of 3, 5, 3 and 10 FLOP."""


def row(found: list[ReplayRow], height: int) -> ReplayRow:
    return next(one for one in found if one.height == height)


def test_the_hand_made_example_pays_when_the_fund_holds_the_threshold() -> None:
    course = reckon(TWO_PROVIDERS, lambda _: RULES, 500, 700)
    # 3 + 5 + 3 = 11 FLOP at block 560, which is the first snapshot at or above 10: 5.5 each.
    # The 10 FLOP of block 570 are there at the next snapshot that builds on it, after block 621.
    assert [(one.height, one.inflow, one.eligible, one.share) for one in course.rounds] == [
        (560, 11 * COIN, 2, 5 * COIN + COIN // 2),
        (630, 10 * COIN, 2, 5 * COIN),
    ]
    assert (course.inflow, course.keys) == (21 * COIN, {ALICE, BOB})


def test_a_higher_tax_brings_the_round_earlier() -> None:
    rows, total, rounds = compare(TWO_PROVIDERS, lambda _: RULES, ParameterChange(1, 1000), 500, 700)
    # At 10 % there are 6 + 10 = 16 FLOP at block 520.
    assert [one.height for one in rows] == [520, 560, 590, 630]
    assert (row(rows, 520).share_before, row(rows, 520).share_after) == (0, 8 * COIN)
    assert (row(rows, 560).share_before, row(rows, 560).share_after) == (5 * COIN + COIN // 2, 0)
    assert (total.inflow_before, total.inflow_after) == (21 * COIN, 42 * COIN)
    assert (total.paid_before, total.paid_after) == (21 * COIN, 42 * COIN)
    assert rounds == (2, 2)


def test_the_whole_table_is_the_one_that_was_reckoned_by_hand() -> None:
    rows, total, _ = compare(TWO_PROVIDERS, lambda _: RULES, ParameterChange(1, 1000), 500, 700)

    def line(height: int | None, before: tuple[int, int, int], after: tuple[int, int, int]) -> ReplayRow:
        """Inflow, eligible keys and share of either column in half FLOP; everything that came in is paid out."""
        inflow, share = ([each[index] * COIN // 2 for each in (before, after)] for index in (0, 2))
        return ReplayRow(
            height=height, inflow_before=inflow[0], inflow_after=inflow[1],
            eligible_before=before[1], eligible_after=after[1],
            share_before=share[0], share_after=share[1], paid_before=inflow[0], paid_after=inflow[1],
        )  # fmt: skip

    # At 5 % the taxes are 3, 5, 3 and 10 FLOP in blocks 510, 515, 560 and 570: 11 at snapshot 560, whose round
    # confirms in block 621, and 10 at 630. At 10 % they are twice that: 16 at 520, confirmed in 581, and 26 at 590.
    nothing = (0, 0, 0)
    assert rows == [
        line(520, nothing, (32, 2, 16)),
        line(560, (22, 2, 11), nothing),
        line(590, nothing, (52, 2, 26)),
        line(630, (20, 2, 10), nothing),
    ]
    assert total == line(None, (42, 2, 21), (84, 2, 42))


def test_a_lower_tax_is_never_less_than_the_least() -> None:
    small = past(work(510, ALICE, 1))
    course = reckon(small, lambda _: RULES, 500, 600, tax_bps=0)
    assert course.inflow == DUST


def test_a_higher_threshold_makes_fewer_and_larger_rounds() -> None:
    rows, total, rounds = compare(TWO_PROVIDERS, lambda _: RULES, ParameterChange(2, 20 * COIN), 500, 700)
    assert [(one.height, one.share_before, one.share_after) for one in rows] == [
        (560, 5 * COIN + COIN // 2, 0),
        (570, 0, 10 * COIN + COIN // 2),
        (630, 5 * COIN, 0),
    ]
    assert rounds == (2, 1)
    assert total.paid_before == total.paid_after == 21 * COIN


def test_a_shorter_window_forgets_work() -> None:
    facts = past(work(505, ALICE, 100), work(590, BOB, 200))
    rows, _, _ = compare(facts, lambda _: RULES, ParameterChange(3, 50), 500, 700)
    assert (row(rows, 590).eligible_before, row(rows, 590).eligible_after) == (2, 1)
    assert (row(rows, 590).share_before, row(rows, 590).share_after) == (7 * COIN + COIN // 2, 15 * COIN)


def test_a_longer_window_remembers_work_from_before_the_stretch() -> None:
    facts = past(work(430, ALICE, 100), work(540, BOB, 200))
    rows, total, _ = compare(facts, lambda _: RULES, ParameterChange(3, 120), 500, 700)
    assert (row(rows, 540).eligible_before, row(rows, 540).eligible_after) == (1, 2)
    assert total.inflow_before == 10 * COIN, "what was paid before the stretch is no income of it"


@pytest.mark.parametrize(
    ("change", "eligible"),
    [
        (ParameterChange(5, 4 * COIN), 1),  # least tax paid: Alice's was 3
        (ParameterChange(4, 2), 0),  # work in two tenths of the window
        (ParameterChange(8, 2000 * COIN), 0),  # a bond that nobody has
    ],
)
def test_stricter_conditions_leave_fewer_keys(change: ParameterChange, eligible: int) -> None:
    facts = past(work(510, ALICE, 60), work(515, BOB, 140))
    rows, total, _ = compare(facts, lambda _: RULES, change, 500, 560)
    assert (row(rows, 520).eligible_before, row(rows, 520).eligible_after) == (2, eligible)
    assert (total.paid_before, total.paid_after) == (10 * COIN, 10 * COIN if eligible else 0)


def test_a_tighter_cap_holds_a_part_back() -> None:
    facts = past(work(510, ALICE, 60), work(515, BOB, 140))
    _, total, _ = compare(facts, lambda _: RULES, ParameterChange(6, 100), 500, 560)
    # Nobody may have more than its work paid, and all have the same: 3 for both is more than 5 for Bob alone.
    assert (total.paid_before, total.paid_after) == (10 * COIN, 6 * COIN)


def test_what_the_cap_held_back_is_paid_in_another_tenth_of_the_window() -> None:
    facts = past(work(510, ALICE, 60), work(515, BOB, 140))
    rules = RULES.model_copy(update={"window_blocks": 400, "share_cap_pct": 100, "airdrop_threshold": 2 * COIN})
    course = reckon(facts, lambda _: rules, 500, 660)
    # The first round confirms at 571, in the tenth that ends before 600; Alice may have no more than her 3 FLOP.
    assert [(one.height, one.eligible, one.share) for one in course.rounds] == [
        (510, 1, 3 * COIN),
        (600, 1, 3 * COIN + COIN // 2),
    ]


def test_a_key_without_a_bond_has_no_share() -> None:
    facts = past(work(510, ALICE, 60), work(515, CAROL, 140))
    course = reckon(facts, lambda _: RULES, 500, 560)
    assert course.keys == {ALICE}


def test_a_bond_follows_what_was_paid_an_epoch_before_the_window() -> None:
    shares = [(380, 3 * COIN), (395, 4 * COIN)]
    # Window (500, 600]; it opens at 500, its epochs are 10 blocks: shares confirmed in (390, 490].
    assert bond_price(shares, 600, RULES) == 4 * COIN
    assert bond_price(shares, 590, RULES) == 4 * COIN
    assert bond_price(shares, 580, RULES) == 7 * COIN
    assert bond_price([], 600, RULES) == COIN


def test_a_spend_leaves_less_for_the_rounds() -> None:
    facts = past(work(510, ALICE, 60), work(515, BOB, 100), opening=5 * COIN)
    spend = Spend(b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", 3 * COIN)
    _, total, rounds = compare(facts, lambda _: RULES, spend, 500, 560)
    assert (total.paid_before, total.paid_after) == (13 * COIN, 10 * COIN)
    assert rounds == (1, 1)


def test_a_spend_that_the_fund_could_not_pay_at_first_takes_what_comes_in_next() -> None:
    facts = past(work(510, ALICE, 60), work(515, BOB, 160), opening=COIN)
    spend = Spend(b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", 2 * COIN)
    _, total, _ = compare(facts, lambda _: RULES, spend, 500, 560)
    assert (total.paid_before, total.paid_after) == (12 * COIN, 10 * COIN)


def test_the_order_of_the_facts_is_irrelevant() -> None:
    turned = Past(TWO_PROVIDERS.work[::-1], TWO_PROVIDERS.bonds, [], [], 0)
    assert reckon(turned, lambda _: RULES, 500, 700) == reckon(TWO_PROVIDERS, lambda _: RULES, 500, 700)


def test_what_can_not_be_replayed_is_said() -> None:
    vote_blocks, arbiter = ParameterChange(9, 12), ArbiterChange(0, None)
    for change in (vote_blocks, arbiter):
        rows, _, _ = compare(TWO_PROVIDERS, lambda _: RULES, change, 500, 700)
        assert all(one.share_before == one.share_after for one in rows)
        assert caveats(change)[0] == NO_EFFECT
    assert any("nobody is assumed to work" in text for text in caveats(ParameterChange(1, 450)))
