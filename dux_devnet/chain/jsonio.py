"""JSON as Core writes and reads it: amounts are numbers with eight decimals, which no float may touch."""

import json
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NoReturn

from duxcommon.money import COIN, MAX_MONEY

from . import errors
from .errors import RpcError

_HEX = frozenset("0123456789abcdefABCDEF")


class Amount(int):
    """Koinu that are written as coins with eight decimals, as Core's ValueFromAmount does."""

    def coins(self) -> str:
        sign, whole = ("-", -self) if self < 0 else ("", self)
        return f"{sign}{whole // COIN}.{whole % COIN:08d}"


def dumps(value: Any) -> str:
    """JSON text of plain values and `Amount`s; raises TypeError for anything else, floats other than rates included."""
    if isinstance(value, Amount):
        return value.coins()
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    if isinstance(value, Decimal):
        return format(value, "f")
    return json.dumps(value)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def loads(text: bytes) -> Any:
    """Parse a request; numbers with a point become Decimal. Raises ValueError, also for NaN and endless nesting."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unhex(text: str) -> bytes:
    """Bytes of a hex text without blanks, which bytes.fromhex would let pass; raises ValueError."""
    if len(text) % 2 or not set(text) <= _HEX:
        raise ValueError("not hex")
    return bytes.fromhex(text)


def amount(value: Any) -> int:
    """Koinu of a JSON number or string of coins; raises RpcError (-3) with Core's texts."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise RpcError(errors.TYPE, "Amount is not a number or string")
    try:
        coins = Decimal(value)
    except (InvalidOperation, ValueError):
        raise RpcError(errors.TYPE, "Invalid amount") from None
    if not coins.is_finite() or (coins and not -8 <= coins.adjusted() < 18):
        raise RpcError(errors.TYPE, "Invalid amount")
    koinu = Fraction(coins) * COIN  # exact, where Decimal would round to 28 digits
    if koinu.denominator != 1:
        raise RpcError(errors.TYPE, "Invalid amount")
    if not 0 <= koinu <= MAX_MONEY:
        raise RpcError(errors.TYPE, "Amount out of range")
    return int(koinu)
