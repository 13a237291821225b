"""What one more share costs, against figures worked out by hand."""

from dux_airdropd.price import price
from duxcommon.coin.tx import closing_fee
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters

RULES = Parameters(
    window_blocks=43_800,
    epochs_needed=2,
    min_tax_paid=COIN // 10,
    share_cap_pct=1000,
    tax_bps=500,
    bond_multiple_pct=200,
)
FEES = 2 * (224 * 1020 + closing_fee(1)) + (DUST + 540 * 1020) // 10


def test_a_share_that_brings_nothing_costs_the_least_tax_and_the_fees() -> None:
    found = price(100_000, RULES, COIN, 0)
    assert (found.tax, found.fees, found.gain) == (COIN // 10, FEES, 0)
    assert found.net == -COIN // 10 - FEES
    assert found.yearly_bps < 0


def test_the_tax_follows_the_cap_on_what_a_key_may_be_paid() -> None:
    found = price(100_000, RULES, 100 * COIN, 50 * COIN)
    assert found.tax == 5 * COIN
    assert found.tied_up == 100 * COIN + 50 * COIN
    assert found.net == 45 * COIN - FEES
    # Twelve windows a year, of which a lock of twelve uses ten.
    assert found.yearly_bps == found.net * 10_000 * 12 * 10 // (12 * found.tied_up)
    assert found.lock_blocks == 12 * 43_800


def test_a_dearer_bond_lowers_the_return_and_not_the_gain() -> None:
    cheap, dear = (price(100_000, RULES, bond * COIN, 50 * COIN) for bond in (100, 1000))
    assert cheap.net == dear.net
    assert cheap.yearly_bps > 4 * dear.yearly_bps


def test_without_a_tax_each_settlement_still_pays_the_least_there_is() -> None:
    found = price(1, RULES.model_copy(update={"tax_bps": 0, "min_tax_paid": DUST}), COIN, 0)
    assert found.tax == 2 * DUST
