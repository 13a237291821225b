"""Channels and payments as tables and arithmetic: no I/O, no clock, no keys.

Both roles use the same tables. `Line` is the money of one channel as one side knows it; every function that
changes it returns a new one, and whoever stores it does so in the same commit as the transition.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from duxcommon.api.escrowd import ChannelState, PaymentState, Role
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import (
    BadTransition,
    ChannelBusy,
    ChannelClosed,
    DepositCapReached,
    NotConfirmed,
    NotCovered,
    PriceTooSmall,
    StateConflict,
    StateStale,
    WrongAmount,
)
from duxcommon.money import COIN, DUST, format_flop

LAST_BLOCKS = 144
"""Blocks that stay free between the last order and the provider's close, for a dispute."""

# --- transitions ---------------------------------------------------------------------------------------------------

ChannelEvent = Literal[
    "fund-built", "fund-sent", "fund-deep", "fund-lost", "fund-moved", "abandoned",
    "close-built", "close-sent", "close-seen", "close-confirmed", "close-lost",
    "refund-built", "refund-sent", "refund-seen", "refund-confirmed", "refund-lost",
]  # fmt: skip
"""`…-built`: committed, not sent; `…-seen`: found on the chain; `…-lost`: a reorg or a conflict took it away."""

CHANNEL: Mapping[ChannelState, Mapping[ChannelEvent, ChannelState]] = {
    "NEW": {"fund-built": "FUND_BUILT", "abandoned": "ABANDONED"},
    "FUND_BUILT": {"fund-sent": "FUND_SENT", "abandoned": "ABANDONED"},
    "FUND_SENT": {
        "fund-deep": "OPEN",
        "fund-lost": "CONFLICTED",
        "close-seen": "CLOSE_SENT",
        "refund-built": "REFUND_BUILT",
        "refund-seen": "REFUND_SENT",
    },
    "OPEN": {
        "fund-moved": "FUND_SENT",
        "close-built": "CLOSE_BUILT",
        "close-seen": "CLOSE_SENT",
        "refund-built": "REFUND_BUILT",
        "refund-seen": "REFUND_SENT",
    },
    "CLOSE_BUILT": {
        "close-sent": "CLOSE_SENT",
        "close-seen": "CLOSE_SENT",
        "refund-built": "REFUND_BUILT",
        "refund-seen": "REFUND_SENT",
    },
    "CLOSE_SENT": {
        "close-confirmed": "CLOSED",
        "refund-seen": "REFUND_SENT",
        "refund-built": "REFUND_BUILT",
    },
    "CLOSED": {"close-lost": "CLOSE_SENT", "refund-built": "REFUND_BUILT", "refund-seen": "REFUND_SENT"},
    "REFUND_BUILT": {"refund-sent": "REFUND_SENT", "refund-seen": "REFUND_SENT", "close-seen": "CLOSE_SENT"},
    "REFUND_SENT": {"refund-confirmed": "REFUNDED", "refund-built": "REFUND_BUILT", "close-seen": "CLOSE_SENT"},
    "REFUNDED": {"refund-lost": "REFUND_SENT", "refund-built": "REFUND_BUILT", "close-seen": "CLOSE_SENT"},
    "CONFLICTED": {"fund-moved": "FUND_SENT"},
    "ABANDONED": {},
}
"""state → event → next state. An event that is missing can't happen there."""

PaymentEvent = Literal["hold", "order", "done", "release", "refund"]

PAYMENT: Mapping[PaymentState, Mapping[PaymentEvent, PaymentState]] = {
    "HELD": {"order": "ORDERED", "release": "RELEASED", "refund": "REFUNDED"},
    "ORDERED": {"done": "DONE", "release": "RELEASED", "refund": "REFUNDED"},
    "DONE": {"release": "RELEASED", "refund": "REFUNDED"},
    "RELEASED": {},
    "REFUNDED": {},
}

LIVE: tuple[ChannelState, ...] = ("NEW", "FUND_BUILT", "FUND_SENT", "OPEN")
"""States in which a channel takes payments, now or once its deposit is deep enough."""

UNPAID: tuple[PaymentState, ...] = ("HELD", "ORDERED", "DONE")
"""States in which a payment is reserved on its channel."""


def next_channel(state: ChannelState, event: ChannelEvent) -> ChannelState:
    """The state after `event`; raises BadTransition where the table has none."""
    after = CHANNEL[state].get(event)
    if after is None:
        raise BadTransition(f"a channel in state {state} can't take the step {event!r}")
    return after


def next_payment(state: PaymentState, event: PaymentEvent) -> PaymentState:
    """The state after `event`; raises BadTransition where the table has none."""
    after = PAYMENT[state].get(event)
    if after is None:
        raise BadTransition(f"a payment in state {state} can't take the step {event!r}")
    return after


# --- deposits --------------------------------------------------------------------------------------------------------

MAX_DEPOSITS = 16
"""Deposits of one channel that count; each further input costs the close about 0.0035 FLOP."""

MIN_INPUT = 2 * DUST
"""Outputs below this are not counted as deposits: a stranger could fill the list with them."""

_DEPTHS = ((1 * COIN, 1), (50 * COIN, 6), (1000 * COIN, 30))
_DEEPEST = 120


def depth_for(stake: int) -> int:
    """Confirmations that a stake of that many koinu needs: 1 up to 1 FLOP, 6 to 50, 30 to 1,000, 120 above."""
    for limit, depth in _DEPTHS:
        if stake <= limit:
            return depth
    return _DEEPEST


@dataclass(frozen=True, slots=True)
class ChainDeposit:
    """An output that pays the channel's script, as the chain shows it."""

    txid: str
    vout: int
    amount: int
    height: int | None
    """Block height; None while it is unconfirmed or gone."""
    spender: str | None = None
    """Transaction that spends it, in the mempool or in a block."""
    noted: bool = True
    """Its transaction carries the channel's note, without which a close that spends it is no settled work."""

    def confirmations(self, tip: int) -> int:
        """Blocks on top of it, its own included; 0 while unconfirmed."""
        return 0 if self.height is None else max(0, tip - self.height + 1)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the unspent deposits of a channel are good for at one height."""

    usable: int
    """Most that may be signed away: deposits that count, less the worst-case fee of closing over them."""
    counted: tuple[ChainDeposit, ...]
    """The deposits behind `usable`: a signed state spends exactly these."""
    pending: int
    """What `usable` becomes once every deposit that is on its way is deep enough."""
    confirmations: int
    """Of the shallowest deposit."""
    needed: int
    """What the shallowest deposit needs."""

    @property
    def waiting(self) -> int:
        """Confirmations still missing before every deposit counts."""
        return max(0, self.needed - self.confirmations)


def cover(deposits: Iterable[ChainDeposit], tip: int) -> Coverage:
    """Which deposits count at height `tip`.

    A deposit needs the depth of all that can be signed away with it and those before it: many small deposits must
    not stand in for one large one that is confirmed too shallowly.
    """
    unspent = [deposit for deposit in deposits if deposit.spender is None and deposit.amount >= MIN_INPUT]
    unspent.sort(key=lambda d: (d.height is None, d.height or 0, -d.amount, d.txid, d.vout))
    unspent = unspent[:MAX_DEPOSITS]
    counted: list[ChainDeposit] = []
    confirmations, needed, total, open_gap = 0, 0, 0, False
    for number, deposit in enumerate(unspent, 1):
        total += deposit.amount
        confirmations = deposit.confirmations(tip)
        needed = depth_for(max(0, total - coin_tx.closing_fee(number)))
        open_gap = open_gap or confirmations < needed
        if not open_gap:
            counted.append(deposit)
    return Coverage(
        usable=coin_tx.usable(counted),
        counted=tuple(counted),
        pending=coin_tx.usable(unspent),
        confirmations=confirmations,
        needed=needed,
    )


# --- the money of a channel ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """Amounts in koinu. On the buyer's side `held` is what it reserved, on the provider's what it was promised."""

    role: Role
    state: ChannelState
    usable: int
    gross: int = 0
    """Signed away so far, tax included; never goes down."""
    held: int = 0
    open: int = 0
    """Payments behind `held`."""
    seq: int = 0
    """Of the newest signed state; 0 while nothing was signed."""
    max_unpaid: int = 1

    @property
    def free(self) -> int:
        """What another payment may still take."""
        return self.usable - self.gross - self.held


def check_reserve(line: Line, price: int, *, unpaid: int | None = None) -> None:
    """Raise unless `price` can be reserved now: PriceTooSmall, ChannelClosed, NotConfirmed, ChannelBusy, NotCovered.

    `unpaid` replaces the channel's own count of open payments where the limit is over several channels.
    """
    if price < 1:
        raise PriceTooSmall(f"a price of {price} koinu")
    if line.state not in LIVE:
        raise ChannelClosed(f"the channel is {line.state}")
    if line.state != "OPEN":
        raise NotConfirmed("the channel's deposit is not confirmed deep enough yet")
    count = line.open if unpaid is None else unpaid
    if count >= line.max_unpaid:
        raise ChannelBusy(
            f"earlier calls must be paid first: {count} unpaid, and the provider allows {line.max_unpaid} at a time",
            details={"unpaid": count, "max_unpaid": line.max_unpaid},
        )
    if line.free < price:
        raise NotCovered(
            f"the channel has {format_flop(max(0, line.free))} FLOP left, the price is {format_flop(price)}",
            details={"free": max(0, line.free), "price": price},
        )


def reserve(line: Line, price: int, *, unpaid: int | None = None) -> Line:
    """The line with `price` reserved (a hold of the buyer, an accepted order of the provider)."""
    check_reserve(line, price, unpaid=unpaid)
    return replace(line, held=line.held + price, open=line.open + 1)


def unreserve(line: Line, price: int) -> Line:
    """The line with a reservation given up: the payment was refunded."""
    return replace(line, held=line.held - price, open=line.open - 1)


def sign(line: Line, prices: Sequence[int]) -> Line:
    """The buyer's line after signing a state that pays these reserved prices (none: only the deposits changed)."""
    paid = sum(prices)
    return replace(line, gross=line.gross + paid, held=line.held - paid, open=line.open - len(prices), seq=line.seq + 1)


class StateClaim(NamedTuple):
    """The numbers of a signed state."""

    seq: int
    gross: int
    outpoints: frozenset[tuple[str, int]]


def judge(line: Line, stored: StateClaim | None, given: StateClaim) -> Literal["new", "known"]:
    """What a signed state is against the newest one that is stored.

    Raises StateStale for an older number, StateConflict for the same number with other content, WrongAmount for a
    gross that went down. Signatures are checked elsewhere.
    """
    if stored is not None and given.seq < stored.seq:
        raise StateStale(
            f"state {given.seq} is older than state {stored.seq}", details={"seq": stored.seq, "gross": stored.gross}
        )
    if stored is not None and given.seq == stored.seq:
        if given == stored:
            return "known"
        raise StateConflict(f"another state with number {given.seq} is stored")
    if given.gross < line.gross:
        raise WrongAmount(f"the gross went down from {line.gross} to {given.gross} koinu")
    return "new"


class Claim(NamedTuple):
    """A provider's payment that may be paid by a state."""

    task: str
    amount: int
    state: PaymentState


def pay(
    line: Line, given: StateClaim, credit: int, claims: Sequence[Claim], named: Sequence[str]
) -> tuple[Line, int, list[str]]:
    """The provider's line after a new state: (line, credit left, tasks that are paid).

    `named` are the tasks that the buyer says it pays; a claim is paid only as far as the money reaches, so a
    wrong list can't pay for anything. `credit` is gross that no payment accounts for.
    """
    credit += given.gross - line.gross
    waiting = {claim.task: claim for claim in claims if claim.state in UNPAID}
    paid: list[str] = []
    for task in named:
        claim = waiting.get(task)
        if claim is not None and claim.amount <= credit:
            del waiting[task]
            credit -= claim.amount
            paid.append(task)
            line = unreserve(line, claim.amount)
    return replace(line, gross=given.gross, seq=given.seq), credit, paid


# --- deposits to make ----------------------------------------------------------------------------------------------

CALLS_AHEAD = 5
LEAST = COIN


def first_deposit(price: int, cap: int, least: int) -> int:
    """What a new channel should be able to sign away: five calls or 1 FLOP, within the owner's cap.

    `least` is what the provider asks for. Raises DepositCapReached when the cap is below the price or that.
    """
    wanted = max(price, least)
    if wanted > cap:
        raise DepositCapReached(
            f"{format_flop(wanted)} FLOP would have to be locked up with this provider; the cap is {format_flop(cap)}",
            details={"needed": wanted, "cap": cap},
        )
    return min(cap, max(CALLS_AHEAD * price, LEAST, least))


def top_up(line: Line, pending: int, price: int, cap: int) -> int:
    """How much more the channel should be able to sign away so that `price` fits; 0 when it can't within the cap.

    `pending` is what it can sign away once every deposit on its way counts.
    """
    missing = line.gross + line.held + price - pending
    room = cap - pending
    # An output below MIN_INPUT would not count: it would be made again and again.
    if missing > room or room < MIN_INPUT:
        return 0
    return min(room, max(missing, CALLS_AHEAD * price, LEAST))


def at_risk(gross: int) -> bool:
    """Whether so little is signed away that no closing transaction can pay it out (below 0.02 FLOP)."""
    return 0 < gross < 2 * DUST
