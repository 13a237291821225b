"""The governed parameters: what the community votes on, declared once.

Each has a number (its name on the chain), a type with bounds, a unit, a default, and the largest step that one change
may take. The network definition holds the initial values; `dux_governance` decides the changes.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from pydantic.fields import FieldInfo

from .api.common import MAX_MONEY, Koinu, Model
from .errors import InvalidParams
from .money import COIN, DUST

EPOCHS = 10
"""Equal parts of a window; work must be spread over some of them."""


@dataclass(frozen=True, slots=True)
class Governed:
    """How a parameter is voted on."""

    number: int
    """Its name in a proposal on the chain; never used again for another."""
    unit: str
    step: int = 0
    """Largest change at once, in the parameter's unit…"""
    step_pct: int = 0
    """…or as a percentage of the value in force, at least 1 unit."""
    voting: bool = False
    """A rule of voting itself: changed under the conditions of class `voting`."""


class Parameters(Model):
    """Values in force at a height."""

    min_tax: Annotated[
        Koinu, Field(description="Smallest payment to the community fund; fixed for the life of a network.")
    ] = DUST
    tax_bps: Annotated[
        int,
        Field(ge=0, le=2000, description="The community fund's part of a channel's gross."),
        Governed(1, "hundredths of a percent", step=100),
    ] = 500
    airdrop_threshold: Annotated[
        int,
        Field(ge=COIN, le=MAX_MONEY, description="What the fund must hold, ready to spend, before it pays out."),
        Governed(2, "koinu", step_pct=50),
    ] = 100 * COIN
    window_blocks: Annotated[
        int,
        Field(ge=20, le=525_600, description="How far back work counts; 43,200 one-minute blocks are 30 days."),
        Governed(3, "blocks", step_pct=20),
    ] = 43_200
    epochs_needed: Annotated[
        int,
        Field(ge=1, le=EPOCHS, description="In so many tenths of the window a payout key must have settled work."),
        Governed(4, "tenths of the window", step=1),
    ] = 2
    min_tax_paid: Annotated[
        int,
        Field(ge=DUST, le=MAX_MONEY, description="Least tax that a payout key's work paid within the window."),
        Governed(5, "koinu", step_pct=50),
    ] = 10 * DUST
    share_cap_pct: Annotated[
        int,
        Field(
            ge=100,
            le=100_000,
            description="All shares of a window are at most this much of the tax that the key's work paid in it.",
        ),
        Governed(6, "percent", step_pct=25),
    ] = 2400
    bond_multiple_pct: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="The bond, as a multiple of what one key was paid in the window before."),
        Governed(7, "percent", step_pct=25),
    ] = 150
    bond_min: Annotated[
        int,
        Field(ge=DUST, le=MAX_MONEY, description="The bond is never smaller than this."),
        Governed(8, "koinu", step_pct=50),
    ] = COIN
    vote_blocks: Annotated[
        int,
        Field(
            ge=10, le=131_400, description="How long a proposal can be voted on; 10,080 one-minute blocks are 7 days."
        ),
        Governed(9, "blocks", step_pct=25, voting=True),
    ] = 10_080
    quorum_pct: Annotated[
        int,
        Field(ge=1, le=90, description="Least part of the electorate that must vote."),
        Governed(10, "percent of the electorate", step=5, voting=True),
    ] = 20
    majority_pct: Annotated[
        int,
        Field(ge=51, le=90, description="Least part of the votes that must be in favour."),
        Governed(11, "percent of the votes", step=5, voting=True),
    ] = 60
    quorum_keys: Annotated[
        int,
        Field(ge=1, le=10_000, description="Least number of votes on guardians, arbiters, voting rules and spending."),
        Governed(12, "keys", step_pct=25, voting=True),
    ] = 20
    time_lock_blocks: Annotated[
        int,
        Field(
            ge=10,
            le=43_200,
            description="From the tally until what was decided is in force; 1,440 one-minute blocks are a day.",
        ),
        Governed(13, "blocks", step_pct=25, voting=True),
    ] = 1_440
    cycle_blocks: Annotated[
        int,
        Field(
            ge=10,
            le=525_600,
            description="The same parameter, guardians and arbiters change at most once in so many blocks.",
        ),
        Governed(14, "blocks", step_pct=25, voting=True),
    ] = 43_200


@dataclass(frozen=True, slots=True)
class Declared:
    """One governed parameter as people and proposals see it."""

    name: str
    governed: Governed
    default: int
    low: int
    high: int
    help: str

    def largest_step(self, value: int) -> int:
        """How far the next change may go from `value`."""
        return self.governed.step or max(1, value * self.governed.step_pct // 100)


def _declared(name: str, field: FieldInfo) -> Declared | None:
    governed = next((part for part in field.metadata if isinstance(part, Governed)), None)
    if governed is None:
        return None
    low = next(int(part.ge) for part in field.metadata if hasattr(part, "ge"))
    high = next(int(part.le) for part in field.metadata if hasattr(part, "le"))
    return Declared(name, governed, int(field.default), low, high, field.description or "")


_ALL = tuple(made for name, field in Parameters.model_fields.items() if (made := _declared(name, field)) is not None)
BY_NAME: dict[str, Declared] = {one.name: one for one in _ALL}
"""The governed parameters, in the order of their numbers."""
BY_NUMBER: dict[int, Declared] = {one.governed.number: one for one in _ALL}


def declared(name: str) -> Declared:
    """The parameter of that name. Raises InvalidParams naming those there are."""
    if name not in BY_NAME:
        raise InvalidParams(
            f"there is no parameter {name[:40]!r}; there are {', '.join(BY_NAME)}",
            hint="`dux-ctl param list` shows their values, bounds and steps.",
        )
    return BY_NAME[name]


def with_value(parameters: Parameters, name: str, value: int) -> Parameters:
    """The same parameters but for one; the value was checked before."""
    return parameters.model_copy(update={name: value})
