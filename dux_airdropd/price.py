"""What one more share of the fund costs today, and what it brings. Pure."""

from duxcommon.api.airdropd import SharePrice
from duxcommon.coin.tx import KOINU_PER_BYTE, closing_fee
from duxcommon.money import DUST
from duxcommon.parameters import Parameters

LOCK_WINDOWS = 12
"""For how many windows a bond is locked at once; the first and the last of them bring nothing."""
IDLE_WINDOWS = 2
BLOCKS_A_YEAR = 365 * 1440
BPS = 10_000

_DEPOSIT_FEE = 224 * KOINU_PER_BYTE
_BOND_FEES = DUST + (230 + 310) * KOINU_PER_BYTE
"""What a bond pays to the fund so that it is found, and the fees of making it and taking it back."""


def price(height: int, parameters: Parameters, bond: int, gain: int) -> SharePrice:
    """Of a key that trades with itself as little as lets it in, at a bond's price and the shares of the last window."""
    settlements = parameters.epochs_needed
    within_cap = -(-gain * 100 // parameters.share_cap_pct)
    tax = max(parameters.min_tax_paid, within_cap, settlements * parameters.min_tax)
    gross = tax * BPS // parameters.tax_bps if parameters.tax_bps else tax
    earning = LOCK_WINDOWS - IDLE_WINDOWS
    fees = settlements * (_DEPOSIT_FEE + closing_fee(1)) + -(-_BOND_FEES // earning)
    net = gain - tax - fees
    # One channel after the other: what is in a deposit comes back before the next one.
    tied_up = bond + -(-gross // settlements)
    yearly = net * BPS * BLOCKS_A_YEAR * earning // (parameters.window_blocks * LOCK_WINDOWS * tied_up)
    return SharePrice(
        height=height,
        window_blocks=parameters.window_blocks,
        bond=bond,
        lock_blocks=LOCK_WINDOWS * parameters.window_blocks,
        tax=tax,
        fees=fees,
        gain=gain,
        net=net,
        tied_up=tied_up,
        yearly_bps=yearly,
    )
