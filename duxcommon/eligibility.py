"""Who has a share of the fund at a snapshot, and what a key lacks that has none. Pure: the figures are the chain's.

A payout key is QUALIFIED when, in the window (h − W, h] of snapshot h, its settled work paid enough tax and lies in
enough tenths of the window, and its bonds, confirmed at h − W at the latest and locked until h + W at least, reach the
price. Of the qualified keys those are ELIGIBLE that the cap lets in: the shares of a window are never more than a
multiple of the tax that the key paid in it. Amounts are koinu.

The share is the same for all. It is never more than an equal division among all qualified keys, so that keeping others
out by the cap brings nobody more. Where caps are lower, it is the share that pays out the most in the window to at
least half of them, and the rest waits. A rule that pays out everything or nothing could stop the fund for ever: what is
not paid makes the next share larger, which fits even fewer caps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .api.registryd import Missing
from .money import DUST, format_flop
from .parameters import EPOCHS, Parameters

PCT = 100


@dataclass(frozen=True, slots=True)
class Window:
    """The blocks whose work counts at a snapshot."""

    height: int
    """The snapshot, which is the window's last block."""
    blocks: int

    @property
    def opens(self) -> int:
        """h − W: the last block before the window. A bond must be confirmed by then."""
        return self.height - self.blocks

    @property
    def locked_until(self) -> int:
        """h + W: a bond must not come free before."""
        return self.height + self.blocks

    def __contains__(self, height: int) -> bool:
        return self.opens < height <= self.height

    def epoch(self, height: int) -> int:
        """Which tenth of the window a block in it belongs to, from 0."""
        return (height - self.opens - 1) * EPOCHS // self.blocks


@dataclass(frozen=True, slots=True)
class Demands:
    """What a key must reach at a snapshot."""

    min_tax_paid: int
    epochs_needed: int
    bond_price: int
    share_cap_pct: int
    shares_paid: int
    """What a key that had every share was paid within the window."""
    spendable: int
    """What the next round could pay out."""

    @classmethod
    def of(cls, parameters: Parameters, *, bond_price: int, shares_paid: int, spendable: int) -> "Demands":
        """The demands of the parameters in force, and of the fund's state at the snapshot."""
        return cls(
            min_tax_paid=parameters.min_tax_paid,
            epochs_needed=parameters.epochs_needed,
            bond_price=bond_price,
            share_cap_pct=parameters.share_cap_pct,
            shares_paid=shares_paid,
            spendable=spendable,
        )

    def capped(self, tax: int) -> int:
        """The most that the shares of a window may come to for a key whose work paid this tax."""
        return tax * self.share_cap_pct // PCT

    def tax_for(self, shares: int) -> int:
        """The least tax whose cap reaches so much."""
        return -(-shares * PCT // self.share_cap_pct)


@dataclass(frozen=True, slots=True)
class Score:
    """What the chain says of a payout key at a snapshot."""

    pubkey: bytes
    tax: int = 0
    epochs: int = 0
    bond: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Settled work: when it confirmed, and the tax it paid."""

    height: int
    tax: int


@dataclass(frozen=True, slots=True)
class Lock:
    """A bond that counts (its transaction paid the fund): when it confirmed, and until when it is locked.

    Whether it was spent need not be asked: the chain lets nobody spend it before `lock_height`, so a bond that is
    locked until after the snapshot is unspent at it.
    """

    height: int
    lock_height: int
    amount: int


def covers(lock: Lock, window: Window) -> bool:
    """Whether a bond counts at a snapshot."""
    return lock.height <= window.opens and lock.lock_height >= window.locked_until


def score(pubkey: bytes, work: Iterable[Work], locks: Iterable[Lock], window: Window) -> Score:
    """What a key reaches at a snapshot; the order of the facts is irrelevant."""
    counted = [one for one in work if one.height in window]
    return Score(
        pubkey,
        tax=sum(one.tax for one in counted),
        epochs=len({window.epoch(one.height) for one in counted}),
        bond=sum(lock.amount for lock in locks if covers(lock, window)),
    )


def qualifies(found: Score, demands: Demands) -> bool:
    """Whether a key meets every condition but the cap."""
    return (
        found.tax >= demands.min_tax_paid and found.epochs >= demands.epochs_needed and found.bond >= demands.bond_price
    )


@dataclass(frozen=True, slots=True)
class Admission:
    """Who has a share, and the largest share that all of them can have."""

    share: int
    """0 when nobody has one."""
    full: bool
    """All qualified keys have it and it is an equal division among them: nothing is held back."""
    keys: tuple[Score, ...]


NOBODY = Admission(0, full=False, keys=())


def admitted(qualified: Sequence[Score], demands: Demands) -> Admission:
    """The share that pays out the most in the window under the cap, and the keys that the cap lets have it.

    What is maximised is the level that the shares of the window reach, times the keys that may come so far; half of the
    qualified keys at least. Otherwise round after round could go to the few whose cap is high, and keep the level above
    everybody else's cap for ever. Of two levels that pay out the same, the lower one, which more keys reach. An empty
    fund is looked at as if it could pay the smallest share, so that a key's standing can be told at any time.
    """
    if not qualified:
        return NOBODY
    equal = max(demands.spendable // len(qualified), DUST)
    ranked = sorted(qualified, key=lambda one: (-one.tax, one.pubkey))
    best, count = 0, 0
    for number, one in enumerate(ranked, 1):
        level = min(demands.shares_paid + equal, demands.capped(one.tax))
        if 2 * number >= len(ranked) and level * number >= best * count:
            best, count = level, number
    share = best - demands.shares_paid
    if share < DUST:
        return NOBODY
    return Admission(share, share == equal and count == len(ranked), tuple(ranked[:count]))


def covered_from(locks: Iterable[Lock], window: Window, price: int) -> int | None:
    """The first snapshot after the window's at which the bonds made so far reach a price; None where there is none."""
    known = list(locks)
    for confirmed in sorted({lock.height for lock in known if lock.height > window.opens}):
        later = Window(confirmed + window.blocks, window.blocks)
        if sum(lock.amount for lock in known if covers(lock, later)) >= price:
            return later.height
    return None


def missing(
    found: Score, window: Window, demands: Demands, *, locks: Iterable[Lock], share: int, capped: bool
) -> list[Missing]:
    """What a key lacks for a share, condition by condition; empty for an eligible one.

    `locks` are all its bonds, `share` is that of the eligible keys, and `capped` says that the key qualifies and is not
    among them.
    """
    lacks = []
    span = f"in blocks {max(0, window.opens + 1)} to {window.height}"
    if found.tax < demands.min_tax_paid:
        lacks.append(
            _lack(
                "tax",
                found.tax,
                demands.min_tax_paid,
                f"its settled work paid {_flop(found.tax)} of tax {span}; {_flop(demands.min_tax_paid)} are needed",
                "Sell more through the market (`dux-ctl app publish`), or close a channel that earned something "
                "(`dux-ctl channel list`, `dux-ctl channel close ID`): work counts from the closing's block on.",
            )
        )
    if found.epochs < demands.epochs_needed:
        lacks.append(
            _lack(
                "epochs",
                found.epochs,
                demands.epochs_needed,
                f"it has settled work in {found.epochs} of the {EPOCHS} parts of the window; "
                f"{demands.epochs_needed} {'is' if demands.epochs_needed == 1 else 'are'} needed, each "
                f"{max(1, window.blocks // EPOCHS)} blocks long",
                "Settle a channel now and then instead of all at once: `dux-ctl channel close ID`.",
            )
        )
    if found.bond < demands.bond_price:
        lacks.append(_lack_of_bond(found, window, demands, list(locks)))
    if capped:
        shares = demands.shares_paid + max(share, DUST)
        need = demands.tax_for(shares)
        lacks.append(
            _lack(
                "cap",
                found.tax,
                need,
                f"the shares of a window may come to {demands.share_cap_pct} % of the tax that a key's work paid in "
                f"it, here {_flop(demands.capped(found.tax))}; with the next share they would be {_flop(shares)}",
                f"Earn more through the market, so that {_flop(need)} of tax are paid within the window; "
                "or wait: what was paid at the window's beginning is soon no longer counted.",
            )
        )
    return lacks


def _lack_of_bond(found: Score, window: Window, demands: Demands, locks: list[Lock]) -> Missing:
    text = (
        f"{_flop(found.bond)} are locked by bonds from block {max(0, window.opens)} or before until block "
        f"{window.locked_until} or later; {_flop(demands.bond_price)} are needed"
    )
    ready = covered_from(locks, window, demands.bond_price)
    if ready is not None:
        remedy = f"Wait: the bonds made so far are enough for snapshots from block {ready} on."
    else:
        remedy = (
            "On the key's node: `dux-ctl node bond`, or `auto_bond: true` in registryd.yaml; a bond counts for the "
            f"snapshots that come {window.blocks} blocks after it or later."
        )
    return _lack("bond", found.bond, demands.bond_price, text, remedy)


def _lack(condition: Literal["tax", "epochs", "bond", "cap"], have: int, need: int, text: str, remedy: str) -> Missing:
    unit: Literal["koinu", "epochs"] = "epochs" if condition == "epochs" else "koinu"
    return Missing(condition=condition, have=have, need=need, unit=unit, text=text, remedy=remedy)


def _flop(koinu: int) -> str:
    return f"{format_flop(koinu)} FLOP"
