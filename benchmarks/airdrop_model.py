"""What a share of the airdrop costs, and who gets one: the rules of eligibility as arithmetic, and their steady state.

Amounts are koinu, times are blocks. What the chain decides (who is in, how large the share is, what the bond costs) is
computed in integers as the daemons do it; what is only told (returns, proportions) is a fraction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from duxcommon.money import DUST
from duxcommon.parameters import EPOCHS, Parameters

BPS = 10_000
PCT = 100
BLOCKS_A_WEEK = 7 * 1440
BLOCKS_A_YEAR = 365 * 1440

SETTLE_FEE = 451_000
"""Closing transaction of a channel."""
OPEN_FEE = 224_000
"""Deposit of a channel."""
BOND_FEE = 230_000 + 310_000
"""Making a bond and taking it back."""
BOND_TOLL = DUST
"""What every bond pays to the fund, so that it is found."""
INPUT_FEE = 446_000
"""What the fund pays to spend one tax, 3 guardians of 5."""

WASH_BLOCKS = 60
"""How long a wash trader's deposit is away: it confirms, is closed, and comes back."""
LOCK_WINDOWS = 12
"""For how many windows a bond is locked at once. The first and the last of them earn nothing."""


_GOVERNED = Parameters()
TAX_BPS = _GOVERNED.tax_bps


@dataclass(frozen=True, slots=True)
class Rules:
    """The governed values of eligibility; by default those that a network begins with."""

    window_blocks: int = _GOVERNED.window_blocks
    epochs: int = EPOCHS
    epochs_needed: int = _GOVERNED.epochs_needed
    min_tax_paid: int = _GOVERNED.min_tax_paid
    share_cap_pct: int = _GOVERNED.share_cap_pct
    """A window's shares are at most this much of the tax that the key paid in it."""
    bond_multiple_pct: int = _GOVERNED.bond_multiple_pct
    """The bond, in per cent of the shares that one key got in the window before."""
    bond_min: int = _GOVERNED.bond_min
    threshold: int = _GOVERNED.airdrop_threshold

    @property
    def windows_a_year(self) -> float:
        """How many windows a year has."""
        return BLOCKS_A_YEAR / self.window_blocks

    @property
    def usable(self) -> float:
        """The part of a bond's lock in which it counts."""
        return (LOCK_WINDOWS - 2) / LOCK_WINDOWS


def tax_needed(shares: int, rules: Rules) -> int:
    """Smallest tax of a key whose window's shares come to `shares`."""
    return max(rules.min_tax_paid, -(-shares * PCT // rules.share_cap_pct))


def bond_price(shares_before: int, rules: Rules) -> int:
    """The bond that one key needs, from the shares of the window before."""
    return max(rules.bond_min, shares_before * rules.bond_multiple_pct // PCT)


@dataclass(frozen=True, slots=True)
class Node:
    """An honest provider: the tax it pays in a window, and over how many settlements."""

    tax: int
    settlements: float

    def lockable(self, weeks: int, rules: Rules) -> int:
        """What it can lock at once: `weeks` of what it earns from work."""
        earned = self.tax * (BPS - TAX_BPS) // TAX_BPS
        return earned * weeks * BLOCKS_A_WEEK // rules.window_blocks


def in_enough_epochs(settlements: float, rules: Rules) -> float:
    """Probability that settlements which come at random lie in `epochs_needed` distinct epochs."""
    hit = -math.expm1(-settlements / rules.epochs)
    tail = range(rules.epochs_needed, rules.epochs + 1)
    return sum(math.comb(rules.epochs, n) * hit**n * (1 - hit) ** (rules.epochs - n) for n in tail)


@dataclass(frozen=True, slots=True)
class Steady:
    """What holds when inflow and keys stay as they are."""

    share: int
    """What one key gets in a window."""
    bond: int
    honest: float
    """The part of the honest nodes that is in."""
    attackers: int
    attack_tax: int
    """What a wash trader pays in a window for each key."""
    leak: float
    """The part of the shares that goes to attackers."""
    paid: float
    """The part of what comes in that is paid out."""


def share_of(inflow: int, honest: float, attackers: int, rules: Rules) -> tuple[int, int]:
    """A key's share and a wash trader's tax in a window, when attackers pay as little as lets them in."""
    floor = max(rules.min_tax_paid, rules.epochs_needed * DUST)
    cost = rules.epochs_needed * INPUT_FEE
    keys = honest + attackers
    share = int((inflow + attackers * (floor - cost)) / keys)
    if share * PCT <= rules.share_cap_pct * floor:
        return share, floor
    # Each washed koinu of tax comes back to all: share * keys = inflow + attackers * (share / kappa - cost).
    share = int((inflow - attackers * cost) / (keys - attackers * PCT / rules.share_cap_pct))
    return share, tax_needed(share, rules)


def steady(nodes: Sequence[Node], rules: Rules, weeks: int, attackers: int = 0) -> Steady:
    """The largest set of honest nodes that stays in, with `attackers` wash keys beside them.

    A node must pay enough tax, settle in enough epochs, and be able to lock the bond for LOCK_WINDOWS; renewing it
    means that two bonds overlap, which it must be able to bear too. Where the cap lets no set have all that comes in,
    it is the set whose caps come to most, and the rest stays in the fund.
    """
    ranked = sorted(nodes, key=lambda node: -node.tax)
    inflow = sum(node.tax - int(node.settlements * INPUT_FEE) for node in ranked)
    counted = [in_enough_epochs(node.settlements, rules) for node in ranked]
    honest = math.fsum(counted)
    best = Steady(0, rules.bond_min, 0.0, 0, 0, 0.0, 0.0)
    for last, chance in zip(reversed(ranked), reversed(counted), strict=True):
        if honest <= 0:
            break
        share, washed = share_of(inflow, honest, attackers, rules)
        if last.tax >= rules.min_tax_paid:
            fits = last.tax * rules.share_cap_pct >= share * PCT
            had = share if fits else last.tax * rules.share_cap_pct // PCT
            bond = bond_price(had, rules)
            if last.lockable(weeks, rules) * rules.usable >= bond:
                keys = honest + attackers
                if fits:
                    return Steady(share, bond, honest / len(ranked), attackers, washed, attackers / keys, 1.0)
                paid = had * honest / inflow
                if not attackers and paid > best.paid:
                    best = Steady(had, bond, honest / len(ranked), 0, 0, 0.0, paid)
        honest -= chance
    if attackers:
        share, washed = share_of(inflow, 0, attackers, rules)
        return Steady(share, bond_price(share, rules), 0.0, attackers, washed, 1.0, 1.0)
    return best


def keeping_fees(rules: Rules) -> float:
    """Fees of one key in a window: channels to settle through, and its part of a bond's."""
    settling = rules.epochs_needed * (SETTLE_FEE + OPEN_FEE)
    return settling + (BOND_FEE + BOND_TOLL) / (LOCK_WINDOWS - 2)


def wash_return(state: Steady, rules: Rules) -> float:
    """Yearly return of a wash key on its bond and on what its trades tie up. 1.0 is 100 %.

    The bond is taken as locked for so long that its first and last window do not matter: the most that can be got.
    """
    profit = state.share - state.attack_tax - keeping_fees(rules)
    float_ = state.attack_tax * BPS // TAX_BPS * WASH_BLOCKS / rules.window_blocks
    return rules.windows_a_year * profit / (state.bond + float_)


def split_keys(tax: int, state: Steady, rules: Rules) -> int:
    """Into how many keys a provider with this tax can split, each still in."""
    return max(1, tax // max(tax_needed(state.share, rules), rules.epochs_needed * DUST))


def split_return(state: Steady, rules: Rules) -> float:
    """Yearly return of each further key of a provider that splits: it pays no tax that it would not pay anyway."""
    return rules.windows_a_year * (state.share - keeping_fees(rules)) / state.bond


def with_knobs(rules: Rules, kappa: float, multiple: float) -> Rules:
    """`rules` with a share cap of `kappa` times the tax and a bond of `multiple` times the shares."""
    return replace(rules, share_cap_pct=round(kappa * PCT), bond_multiple_pct=round(multiple * PCT))
