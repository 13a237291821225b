"""What a change would have done: the fund's past reckoned twice, by the rules as they were and as proposed. Pure.

Both columns are reckoned in the same way from the same facts, so that they differ by the change alone: the blocks are
gone through in order, income is added, and at each snapshot that allows it a round pays. What people would have done
otherwise under other rules is not known to any chain.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from duxcommon import money
from duxcommon.api.governance import ReplayRow
from duxcommon.coin.notes import Change, ParameterChange, Spend
from duxcommon.eligibility import Admission, Demands, Lock, Window, Work, admitted, qualifies, score
from duxcommon.parameters import BY_NUMBER, EPOCHS, Parameters, with_value

SNAPSHOT_EVERY = 10
DEPTH = 60
"""Blocks from a snapshot to the signing of its round; the round is taken to confirm one block later."""
TAX = 1
"""Number of the parameter `tax_bps`."""
ACTED_ON = frozenset(range(1, 9))
"""Numbers of the parameters that decide what comes in and who is paid."""

CAVEATS = (
    "Work, prices and bonds are taken as they were: nobody is assumed to work, lock or vote otherwise than they did.",
    "Chain fees of rounds are left out in both columns; every round is taken to confirm 61 blocks after its snapshot.",
    "While nobody is eligible, a round is tried again every hundredth of a window, not at every tenth block.",
)
NO_EFFECT = "This change does not touch what comes in or who is paid, so both columns are the same."
SPENT_FIRST = (
    "The spend is taken to be paid at the beginning; what the fund lacked for it then, from what came in first."
)


@dataclass(frozen=True, slots=True)
class Settled:
    """Settled work: its block, the provider's key, and its figures in koinu."""

    height: int
    provider: bytes
    gross: int
    tax: int


@dataclass(frozen=True, slots=True)
class Past:
    """What the chain says about a stretch of blocks, ascending by height where they are lists."""

    work: Sequence[Settled]
    """From the largest window before the stretch on."""
    bonds: Mapping[bytes, Sequence[Lock]]
    other: Sequence[tuple[int, int]]
    """Block and koinu of what came in besides taxes."""
    rounds: Sequence[tuple[int, int]]
    """Block and share of the rounds that confirmed before the stretch."""
    opening: int
    """What the fund could pay at its beginning."""


@dataclass(frozen=True, slots=True)
class Round:
    """One payout of the reckoning."""

    height: int
    inflow: int
    eligible: int
    share: int
    paid: int


@dataclass(slots=True)
class Course:
    """The whole stretch by one set of rules."""

    rounds: list[Round] = field(default_factory=list)
    inflow: int = 0
    keys: set[bytes] = field(default_factory=set)
    """Those that had at least one share."""


RulesAt = Callable[[int], Parameters]


def changed(rules_at: RulesAt, change: Change) -> RulesAt:
    """The rules with a parameter at its proposed value all the time."""
    if not isinstance(change, ParameterChange):
        return rules_at
    name = BY_NUMBER[change.number].name
    value = change.value
    return lambda height: with_value(rules_at(height), name, value)


def reckon(past: Past, rules_at: RulesAt, low: int, high: int, *, tax_bps: int | None = None, drawn: int = 0) -> Course:
    """Go through the blocks (low, high]. `tax_bps` replaces the rate that was paid; `drawn` koinu are gone before."""
    course = Course()
    taxes = [(one, _tax(one, tax_bps, rules_at(one.height).min_tax)) for one in past.work]
    works: dict[bytes, list[Work]] = {}
    for one, tax in taxes:
        works.setdefault(one.provider, []).append(Work(one.height, tax))
    income = sorted(
        [*past.other, *((one.height, tax) for one, tax in taxes if low < one.height <= high)], key=lambda part: part[0]
    )
    shares = list(past.rounds)
    balance, since, at, earliest = past.opening - drawn, 0, 0, low + 1
    for height in range(-(-(low + 1) // SNAPSHOT_EVERY) * SNAPSHOT_EVERY, high + 1, SNAPSHOT_EVERY):
        while at < len(income) and income[at][0] <= height:
            balance, since, at = balance + income[at][1], since + income[at][1], at + 1
        parameters = rules_at(height)
        if height < earliest or balance < parameters.airdrop_threshold:
            continue
        found = _admission(works, past.bonds, shares, balance, height, parameters)
        count = len(found.keys)
        share = min(found.share, balance // count) if count else 0
        if share < money.DUST:
            earliest = height + max(SNAPSHOT_EVERY, parameters.window_blocks // 100)
            continue
        epoch = parameters.window_blocks // EPOCHS
        if not found.full and shares and height // epoch == shares[-1][0] // epoch:
            # Where the cap holds a part back, there is one payout in each tenth of a window at most.
            earliest = (height // epoch + 1) * epoch
            continue
        course.rounds.append(Round(height, since, count, share, share * count))
        course.keys.update(one.pubkey for one in found.keys)
        confirmed = height + DEPTH + 1
        shares.append((confirmed, share))
        balance, since, earliest = balance - share * count, 0, confirmed + 1
    course.inflow = sum(amount for _, amount in income)
    return course


def _tax(work: Settled, tax_bps: int | None, min_tax: int) -> int:
    return work.tax if tax_bps is None else money.tax(work.gross, tax_bps, min_tax)


def _admission(
    works: Mapping[bytes, Sequence[Work]],
    bonds: Mapping[bytes, Sequence[Lock]],
    shares: Iterable[tuple[int, int]],
    balance: int,
    height: int,
    parameters: Parameters,
) -> Admission:
    window = Window(height, parameters.window_blocks)
    demands = Demands.of(
        parameters,
        bond_price=bond_price(shares, height, parameters),
        shares_paid=sum(share for confirmed, share in shares if confirmed in window),
        spendable=balance,
    )
    scores = [score(key, done, bonds.get(key, ()), window) for key, done in sorted(works.items())]
    return admitted([one for one in scores if qualifies(one, demands)], demands)


def bond_price(shares: Iterable[tuple[int, int]], height: int, parameters: Parameters) -> int:
    """What a bond must be at a snapshot: a multiple of what a key was paid in the window an epoch before this one."""
    window = parameters.window_blocks
    epoch = window // EPOCHS
    aligned = ((height - window) // epoch) * epoch - epoch
    paid = sum(share for confirmed, share in shares if aligned - window < confirmed <= aligned)
    return max(parameters.bond_min, paid * parameters.bond_multiple_pct // 100)


def compare(
    past: Past, rules_at: RulesAt, change: Change, low: int, high: int
) -> tuple[list[ReplayRow], ReplayRow, tuple[int, int]]:
    """The rows of all rounds of either column, their sum, and the number of rounds in each."""
    before = reckon(past, rules_at, low, high)
    tax = change.value if isinstance(change, ParameterChange) and change.number == TAX else None
    drawn = change.amount if isinstance(change, Spend) else 0
    after = reckon(past, changed(rules_at, change), low, high, tax_bps=tax, drawn=drawn)
    sides = [{one.height: one for one in course.rounds} for course in (before, after)]
    rows = [
        _row(height, *(side.get(height, Round(height, 0, 0, 0, 0)) for side in sides))
        for height in sorted({*sides[0], *sides[1]})
    ]
    return rows, _row(None, _total(before), _total(after)), (len(before.rounds), len(after.rounds))


def _total(course: Course) -> Round:
    shares = sum(one.share for one in course.rounds)
    return Round(0, course.inflow, len(course.keys), shares, sum(one.paid for one in course.rounds))


def _row(height: int | None, before: Round, after: Round) -> ReplayRow:
    return ReplayRow(
        height=height,
        inflow_before=before.inflow,
        inflow_after=after.inflow,
        eligible_before=before.eligible,
        eligible_after=after.eligible,
        share_before=before.share,
        share_after=after.share,
        paid_before=before.paid,
        paid_after=after.paid,
    )


def caveats(change: Change) -> list[str]:
    """What the reckoning can't know, and how it was done."""
    if isinstance(change, Spend):
        return [SPENT_FIRST, *CAVEATS]
    acts = isinstance(change, ParameterChange) and change.number in ACTED_ON
    return list(CAVEATS) if acts else [NO_EFFECT, *CAVEATS]
