"""What a proposal does to the rules, and whether it may be put to the vote at all. Pure: no I/O."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from duxcommon import units
from duxcommon.api.airdropd import Rules
from duxcommon.api.governance import ProposalClass
from duxcommon.coin.fund import guardians_redeem
from duxcommon.coin.notes import ArbiterChange, Change, GuardianChange, ParameterChange, Spend
from duxcommon.coin.params import ChainParams
from duxcommon.coin.script import address_of, p2sh_script
from duxcommon.money import DUST, format_flop
from duxcommon.network import Seat
from duxcommon.parameters import BY_NUMBER, with_value

MAX_GUARDIANS = 15
"""A script of more keys is not relayed."""
MAX_ARBITERS = 64

Place = tuple[int, int, int]
"""Block, number of the transaction in it, number within the transaction."""


class Reason(StrEnum):
    """Why a proposal can't be voted on."""

    UNKNOWN_PARAMETER = "unknown-parameter"
    OUT_OF_BOUNDS = "out-of-bounds"
    STEP_TOO_LARGE = "step-too-large"
    NO_CHANGE = "no-change"
    TOO_SOON = "changed-within-the-cycle"
    CONTRADICTS = "contradicts-another"
    IMPOSSIBLE_SEATS = "impossible-seats"
    IMPOSSIBLE_SPEND = "impossible-spend"
    NOT_QUALIFIED = "proposer-not-qualified"
    PROPOSER_BUSY = "proposer-has-one-running"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason, and the sentence that says it with the figures of this case."""

    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Running:
    """A proposal that is being voted on, counted, or in its time lock."""

    id: str
    change: Change
    proposers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a proposal meets when it confirms."""

    height: int
    rules: Rules
    """In force then."""
    running: Sequence[Running]
    changed: Mapping[str, int]
    """Subject → block from which its last change was in force."""
    fund_scripts: Collection[bytes]
    """Every script that the fund ever had."""


def subject(change: Change) -> str | None:
    """What a change is about: two changes of one subject contradict each other. None for spending."""
    match change:
        case ParameterChange(number=number):
            return f"parameter {number}"
        case GuardianChange():
            return "guardians"
        case ArbiterChange():
            return "arbiters"
        case Spend():
            return None


def class_of(change: Change) -> ProposalClass:
    """By whose conditions it is voted on."""
    match change:
        case ParameterChange(number=number):
            declared = BY_NUMBER.get(number)
            return "voting" if declared is not None and declared.governed.voting else "parameter"
        case GuardianChange():
            return "guardians"
        case ArbiterChange():
            return "arbiters"
        case Spend():
            return "spend"


def guardians_in_order(rules: Rules) -> list[Seat]:
    """The guardians as a proposal's index counts them: by public key."""
    return sorted(rules.guardians, key=lambda seat: seat.pubkey)


def check(change: Change, now: Circumstances) -> Refusal | None:
    """The first reason for which a change can't be put to the vote under these circumstances."""
    return _check_itself(change, now) or _check_others(change, now)


def check_proposers(proposers: frozenset[str], running: Sequence[Running]) -> Refusal | None:
    """Whether those who signed a proposal and may vote on it may propose.

    Otherwise anyone could keep a subject busy for ever with proposals that nobody wants, at a few cents each.
    """
    if not proposers:
        return Refusal(Reason.NOT_QUALIFIED, "no payout key with qualified work signed it")
    for other in running:
        if busy := proposers & other.proposers:
            key = min(busy)
            return Refusal(Reason.PROPOSER_BUSY, f"key {key[:16]}… has proposal {other.id[:16]}… running")
    return None


def check_spendable(change: Change, spendable: int) -> Refusal | None:
    """Whether the fund could have paid a spend, with `spendable` koinu in it when it was proposed."""
    if isinstance(change, Spend) and change.amount > spendable:
        text = f"the fund could pay {format_flop(spendable)} FLOP then, not {format_flop(change.amount)}"
        return Refusal(Reason.IMPOSSIBLE_SPEND, text)
    return None


def _check_itself(change: Change, now: Circumstances) -> Refusal | None:
    match change:
        case ParameterChange():
            return _check_parameter(change, now.rules)
        case GuardianChange():
            return _check_guardians(change, now.rules)
        case ArbiterChange():
            return _check_arbiters(change, now.rules)
        case Spend():
            return _check_spend(change, now)


def _check_parameter(change: ParameterChange, rules: Rules) -> Refusal | None:
    declared = BY_NUMBER.get(change.number)
    if declared is None:
        return Refusal(Reason.UNKNOWN_PARAMETER, f"there is no parameter number {change.number}")
    value = _value(rules, change.number)

    def say(amount: int) -> str:
        return units.written(amount, declared.governed.unit)

    if not declared.low <= change.value <= declared.high:
        bounds = units.written_range(declared.low, declared.high, declared.governed.unit)
        text = f"{declared.name} can be {bounds}, not {say(change.value)}"
        return Refusal(Reason.OUT_OF_BOUNDS, text)
    if change.value == value:
        return Refusal(Reason.NO_CHANGE, f"{declared.name} is {say(value)} already")
    if abs(change.value - value) > (step := declared.largest_step(value)):
        by = say(abs(change.value - value))
        text = f"{declared.name} is {say(value)} and may change by {say(step)} at once, not by {by}"
        return Refusal(Reason.STEP_TOO_LARGE, text)
    return None


def _value(rules: Rules, number: int) -> int:
    value: int = getattr(rules.parameters, BY_NUMBER[number].name)
    return value


def _check_guardians(change: GuardianChange, rules: Rules) -> Refusal | None:
    now = [seat.pubkey for seat in guardians_in_order(rules)]
    if (refusal := _check_seat(change.out, change.into, now, "guardian")) is not None:
        return refusal
    count = len(now) + (change.into is not None) - (change.out is not None)
    fault = ""
    if not 1 <= count <= MAX_GUARDIANS:
        fault = f"there would be {count} guardians; there can be 1 to {MAX_GUARDIANS}"
    elif not 1 <= change.m <= count:
        fault = f"{change.m} of {count} guardians can't sign"
    elif abs(change.m - rules.guardians_m) > 1:
        fault = f"{rules.guardians_m} guardians must sign now, and at once that changes by one at most"
    if fault:
        return Refusal(Reason.IMPOSSIBLE_SEATS, fault)
    if change.out is None and change.into is None and change.m == rules.guardians_m:
        return Refusal(Reason.NO_CHANGE, "it changes neither the guardians nor how many must sign")
    return None


def _check_arbiters(change: ArbiterChange, rules: Rules) -> Refusal | None:
    now = [seat.pubkey for seat in rules.arbiters]
    if (refusal := _check_seat(change.out, change.into, now, "arbiter")) is not None:
        return refusal
    if change.out is None and change.into is None:
        return Refusal(Reason.NO_CHANGE, "it changes no arbiter")
    count = len(now) + (change.into is not None) - (change.out is not None)
    if not 1 <= count <= MAX_ARBITERS:
        text = f"there would be {count} arbiters; there can be 1 to {MAX_ARBITERS}"
        return Refusal(Reason.IMPOSSIBLE_SEATS, text)
    return None


def _check_seat(out: int | None, into: bytes | None, now: Sequence[str], what: str) -> Refusal | None:
    if out is not None and out >= len(now):
        return Refusal(Reason.IMPOSSIBLE_SEATS, f"there is no {what} number {out}; there are {len(now)}")
    if into is not None and into.hex() in now:
        return Refusal(Reason.IMPOSSIBLE_SEATS, f"key {into.hex()[:16]}… is a {what} already")
    return None


def _check_spend(change: Spend, now: Circumstances) -> Refusal | None:
    if change.amount < DUST:
        text = f"the fund pays {format_flop(DUST)} FLOP at least, not {format_flop(change.amount)}"
        return Refusal(Reason.IMPOSSIBLE_SPEND, text)
    if change.script in now.fund_scripts:
        return Refusal(Reason.IMPOSSIBLE_SPEND, "it would pay the fund from the fund")
    return None


def _check_others(change: Change, now: Circumstances) -> Refusal | None:
    about = subject(change)
    if about is None:
        return None
    for other in now.running:
        if subject(other.change) == about:
            return Refusal(Reason.CONTRADICTS, f"proposal {other.id[:16]}… on the same is not decided or in force yet")
    last, cycle = now.changed.get(about), now.rules.parameters.cycle_blocks
    if last is not None and now.height - last < cycle:
        text = f"it changed at block {last}; the next change can be proposed from block {last + cycle} on"
        return Refusal(Reason.TOO_SOON, text)
    return None


# --- effects -----------------------------------------------------------------------------------------------------


def apply(rules: Rules, change: Change, *, proposal: str, from_height: int) -> Rules:
    """The next version of the rules; spending leaves them as they are. The change was checked before."""
    update: dict[str, object] = {}
    match change:
        case ParameterChange(number=number, value=value):
            update["parameters"] = with_value(rules.parameters, BY_NUMBER[number].name, value)
        case GuardianChange(out=out, into=into, m=m):
            leaves = None if out is None else guardians_in_order(rules)[out].pubkey
            guardians = _reseated(rules.guardians, leaves, into)
            update = {
                "guardians": guardians,
                "guardians_m": m,
                "fund_script": p2sh_script(guardians_redeem(guardians, m)).hex(),
            }
        case ArbiterChange(out=out, into=into):
            leaves = None if out is None else rules.arbiters[out].pubkey
            update["arbiters"] = _reseated(rules.arbiters, leaves, into)
        case Spend():
            return rules
    return rules.model_copy(
        update={**update, "version": rules.version + 1, "from_height": from_height, "proposal": proposal}
    )


def _reseated(seats: Sequence[Seat], leaves: str | None, into: bytes | None) -> list[Seat]:
    """Who comes takes the seat of who leaves, or the last one."""
    comes = [] if into is None else [Seat(node=None, pubkey=into.hex())]
    if leaves is None:
        return [*seats, *comes]
    at = next(number for number, seat in enumerate(seats) if seat.pubkey == leaves)
    return [*seats[:at], *comes, *seats[at + 1 :]]


def describe(change: Change, rules: Rules | None, chain: ChainParams) -> str:
    """What a change does, in a sentence; `rules` are those in force when it was proposed."""
    match change:
        case ParameterChange(number=number, value=value):
            declared = BY_NUMBER.get(number)
            if declared is None:
                return f"parameter number {number}: {value}"
            unit = declared.governed.unit
            before = "" if rules is None else f"{units.written(_value(rules, number), unit)} → "
            return f"{declared.name}: {before}{units.written(value, unit)}"
        case GuardianChange(out=out, into=into, m=m):
            seats = None if rules is None else guardians_in_order(rules)
            return f"guardians: {_seat_text(out, into, seats)}, {m} must sign"
        case ArbiterChange(out=out, into=into):
            return f"arbiters: {_seat_text(out, into, None if rules is None else rules.arbiters)}"
        case Spend(script=script, amount=amount):
            return f"spend {format_flop(amount)} FLOP of the fund to {address_of(script, chain)}"


def _seat_text(out: int | None, into: bytes | None, seats: Sequence[Seat] | None) -> str:
    parts = []
    if out is not None:
        named = seats is not None and out < len(seats)
        parts.append(f"{seats[out].pubkey[:16]}… leaves" if seats is not None and named else f"number {out} leaves")
    if into is not None:
        parts.append(f"{into.hex()[:16]}… comes")
    return ", ".join(parts) or "the same"
