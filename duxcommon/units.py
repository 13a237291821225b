"""How values of governed parameters are written by and for people: FLOP for koinu, percent for parts of a percent."""

import re

from .errors import InvalidParams
from .money import format_flop, parse_flop

KOINU = "koinu"
BPS = "hundredths of a percent"
PERCENT = "percent"
"""Also with what it is a percentage of, as in `percent of the votes`."""

_DECIMAL_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))? ?%")
_WHOLE = re.compile(r"[0-9]{1,18}")


def percent(bps: int) -> str:
    """Hundredths of a percent as a percentage: `4.5 %`."""
    whole, part = divmod(abs(bps), 100)
    text = f"{whole}.{part:02d}".rstrip("0").rstrip(".")
    return f"{'-' if bps < 0 else ''}{text} %"


def written(value: int, unit: str) -> str:
    """A value with its unit: `100.00 FLOP`, `4.5 %`, `20 % of the electorate`, `1 key`."""
    return f"{_number(value, unit)} {_unit(value, unit)}"


def written_range(low: int, high: int, unit: str) -> str:
    """Both ends, the unit once: `10 to 900 blocks`."""
    return f"{_number(low, unit)} to {_number(high, unit)} {_unit(high, unit)}"


def _number(value: int, unit: str) -> str:
    if unit == KOINU:
        return format_flop(value)
    return percent(value).removesuffix(" %") if unit == BPS else str(value)


def _unit(value: int, unit: str) -> str:
    if unit == KOINU:
        return "FLOP"
    if unit == BPS:
        return "%"
    if unit.startswith(PERCENT):
        return f"%{unit.removeprefix(PERCENT)}"
    things, space, rest = unit.partition(" ")
    return f"{things.removesuffix('s') if value == 1 else things}{space}{rest}"


def read(text: str, unit: str) -> int:
    """The value that somebody wrote: amounts in FLOP, percentages with or without `%`. Raises InvalidParams."""
    if unit == KOINU:
        return parse_flop(text.removesuffix("FLOP").rstrip())
    if unit == BPS and (match := _DECIMAL_PERCENT.fullmatch(text)):
        return int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    number = text.removesuffix("%").rstrip() if unit.startswith(PERCENT) else text
    if not _WHOLE.fullmatch(number):
        likeness = "4.5% or 450" if unit == BPS else "60%" if unit.startswith(PERCENT) else "450"
        raise InvalidParams(f"{text[:40]!r} is not a whole number of {unit}", hint=f"Write it like {likeness}.")
    return int(number)
