"""The table at the end of a demonstration: who gained what, by the chain and by the books."""

from collections.abc import Sequence
from dataclasses import dataclass

from duxcommon.money import format_flop


@dataclass(frozen=True)
class Row:
    """One party; gains in koinu, losses below 0."""

    name: str
    chain: int
    books: int | None
    """None where nobody books it: the fees."""


def table(rows: Sequence[Row]) -> str:
    """The rows with a heading, amounts in FLOP."""
    lines = [f"{'':<24}{'on the chain':>16}{'in the books':>16}   (FLOP, of no value here)"]
    for row in rows:
        booked = "" if row.books is None else f"{format_flop(row.books):>16}"
        lines.append(f"{row.name:<24}{format_flop(row.chain):>16}{booked}")
    return "\n".join(lines)


def difference_of(rows: Sequence[Row]) -> int:
    """Koinu by which chain and books disagree, and by which the chain's figures don't sum to nothing."""
    booked = sum(abs(row.chain - row.books) for row in rows if row.books is not None)
    return booked + abs(sum(row.chain for row in rows))
