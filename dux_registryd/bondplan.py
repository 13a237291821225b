"""When this node's next bond is due, and how large it is. Pure: heights, prices and bonds in, a plan out."""

from collections.abc import Iterable
from dataclasses import dataclass

from duxcommon.eligibility import Lock
from duxcommon.money import DUST
from duxcommon.parameters import EPOCHS

MARGIN_PCT = 10
"""A bond is so much larger than what is missing, so that a small rise of the price needs no second one."""
LEAST = 2 * DUST
"""Smallest bond that is made, and that is taken back: less the fee, the chain must still hold it."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """Up to which window's opening bonds are arranged now. Heights are blocks."""

    tip: int
    blocks: int
    """Length of a window."""

    @property
    def epoch(self) -> int:
        """Length of a tenth of a window: the price changes at its multiples, and is known so long before."""
        return max(1, self.blocks // EPOCHS)

    @property
    def next_price(self) -> int:
        """The first opening at which the next price holds."""
        return (self.tip // self.epoch + 1) * self.epoch

    @property
    def last(self) -> int:
        """The last opening whose price is known: the end of the next tenth."""
        return self.next_price + self.epoch - 1

    @property
    def locked_until(self) -> int:
        """A bond that is locked until then counts for every window that opens up to `last`, at each of its ends."""
        return self.last + 2 * self.blocks


@dataclass(frozen=True, slots=True)
class Due:
    """A bond that is to be made now."""

    amount: int
    lock_height: int


def due(horizon: Horizon, price: int, locks: Iterable[Lock], lock_blocks: int) -> Due | None:
    """The bond to make now, so that bonds reach `price` in every window that opens until the horizon; None for none.

    `locks` are those that are confirmed or on their way. Made a tenth to two tenths of a window before the last one
    lapses, it is confirmed long before it is needed. Never larger than what is missing and MARGIN_PCT of that, except
    that one below LEAST could not be taken back.
    """
    covered = sum(lock.amount for lock in locks if lock.lock_height >= horizon.locked_until)
    if covered >= price:
        return None
    lacking = price - covered
    return Due(max(lacking + lacking * MARGIN_PCT // 100, LEAST), horizon.tip + lock_blocks)


def lasts(locks: Iterable[Lock], price: int, blocks: int) -> int | None:
    """The last opening of a window in which these bonds still reach a price; None where they never do."""
    left = price
    for lock in sorted(locks, key=lambda lock: -lock.lock_height):
        left -= lock.amount
        if left <= 0:
            return lock.lock_height - 2 * blocks
    return None
