"""Amounts of Flop Coin: integers of koinu, and FLOP text with up to eight decimals where people read and write."""

import re
from typing import NamedTuple

from .errors import InvalidParams

COIN = 100_000_000
"""Koinu in one FLOP."""

MAX_MONEY = 10**10 * COIN
"""Largest amount of one transaction (Flopcoin's MAX_MONEY), in koinu."""

DUST = 1_000_000
"""Smallest output that relays everywhere: 0.01 FLOP (Flopcoin's soft-dust limit), in koinu."""

_FLOP = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,8}))?")


class Split(NamedTuple):
    """How a cumulative gross divides; `provider + tax` is the gross, always."""

    provider: int
    tax: int


def parse_flop(text: str) -> int:
    """Koinu of FLOP text such as `10`, `0.5` or `9.99999999`.

    Raises InvalidParams for anything else: signs, exponents, more than eight decimals, above MAX_MONEY.
    """
    match = _FLOP.fullmatch(text.strip())
    koinu = int(match[1]) * COIN + int((match[2] or "").ljust(8, "0")) if match else -1
    if not 0 <= koinu <= MAX_MONEY:
        raise InvalidParams(
            f"{text[:40]!r} is not an amount of FLOP", hint="Write it like 10 or 0.5, with at most eight decimals."
        )
    return koinu


def format_flop(koinu: int) -> str:
    """FLOP text of an amount, with at least two and at most eight decimals: `10.00`, `-0.00451`."""
    whole, part = divmod(abs(koinu), COIN)
    decimals = f"{part:08d}"
    decimals = decimals[:2] + decimals[2:].rstrip("0")
    return f"{'-' if koinu < 0 else ''}{whole}.{decimals}"


def tax(gross: int, tax_bps: int, min_tax: int = DUST) -> int:
    """The community fund's part of a channel's cumulative gross, in koinu: at least `min_tax`.

    It is taken of the sum, never call by call: rounding 10,000 calls of 7 koinu one by one would yield nothing.
    """
    return max(gross * tax_bps // 10_000, min_tax)


def split(gross: int, tax_bps: int, min_tax: int = DUST) -> Split:
    """The parts of a cumulative gross; the provider's may be negative below `min_tax` (then nothing is payable)."""
    part = tax(gross, tax_bps, min_tax)
    return Split(gross - part, part)
