"""What the next transaction of the fund is at a snapshot, if there is to be one. Pure.

In this order: the fund moves when its guardians changed; a spend that was voted is carried out; the fund pays out;
many small inputs become one; what still comes in at an old address is fetched. Paying out goes before the tidying,
so that nobody delays it by sending small amounts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from duxcommon.api.airdropd import Rules
from duxcommon.money import DUST, MAX_MONEY
from duxcommon.parameters import EPOCHS

from .costs import (
    BASE_FEE,
    MAX_INPUTS,
    SHARE_FEE,
    input_fee,
    input_size,
    outputs_fee,
    paying_room,
    sweeping_room,
    worth_spending,
)
from .ports import ApprovedSpend

STEP = 10
"""Snapshots are heights divisible by this."""
DEPTH = 60
"""A snapshot is acted upon once so many blocks are above it."""
LAPSE = 720
"""A planned transaction that no block holds so many blocks after its snapshot is planned anew: whoever has to sign it
may be gone, and who is paid should have worked lately."""
TIDY_LAPSE = 90
"""The same of a plan that only tidies up: what earlier guardians no longer sign must not hold back a payout."""

Kind = Literal["payout", "sweep", "grant"]


@dataclass(frozen=True, slots=True)
class FundCoin:
    """A confirmed output that pays a fund script."""

    txid: str
    vout: int
    amount: int
    script: bytes
    height: int
    index: int = 0
    """Number of its transaction in the block."""


def spending_order(coin: FundCoin) -> tuple[int, int, str, int]:
    """Sorts coins of one script by the order in which they are spent."""
    return (-coin.amount, coin.height, coin.txid, coin.vout)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the next transaction depends on, as of the end of a block."""

    height: int
    sequence: int
    """Number of the next transaction of the fund; the first is 1."""
    anchor: FundCoin | None
    """None before the fund received anything, and after it lost its anchor."""
    coins: Sequence[FundCoin]
    """Unspent outputs at the fund script in force, in any order, without the anchor and what waits for batches."""
    old: Sequence[FundCoin]
    """The same at the scripts of earlier guardians that still count."""
    rules: Rules
    redeems: Mapping[bytes, bytes]
    """Redeem script of every fund script."""
    spends: Sequence[ApprovedSpend]
    """In force and not carried out yet, in their order."""
    last_payout: int = -1
    """Height at which the last payout confirmed; -1 before the first."""

    @property
    def script(self) -> bytes:
        """The fund script in force."""
        return bytes.fromhex(self.rules.fund_script)

    @property
    def redeem(self) -> bytes:
        """Its redeem script."""
        return self.redeems[self.script]


@dataclass(frozen=True, slots=True)
class Plan:
    """The next transaction of the fund, but for the keys that are paid."""

    kind: Kind
    sequence: int
    height: int
    rules: int
    """Version of the rules in force at `height`."""
    inputs: tuple[FundCoin, ...]
    """The anchor first."""
    script: bytes
    """Where the next anchor goes."""
    available: int
    """What is left of the inputs after their fees, BASE_FEE and DUST for the next anchor."""
    recipients: int = 0
    limit: int = MAX_MONEY
    """The largest share that all recipients can have under the cap."""
    spend: ApprovedSpend | None = None

    @property
    def lapses(self) -> int:
        """The snapshot at which it is planned anew when no block holds it by then."""
        tidies = self.kind == "sweep" and self.inputs[0].script == self.script
        return self.height + (TIDY_LAPSE if tidies else LAPSE)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is to be done at a snapshot, and why."""

    why: Literal[
        "no-anchor", "too-poor", "below-threshold", "nobody-eligible", "shares-too-small", "capped", "ask-eligible"
    ]
    available: int = 0
    needed: int = 0
    """What must be available, where that is what is missing."""


Decision = Plan | Waiting


def first_snapshot(above: int) -> int:
    """The first snapshot height above a height."""
    return above // STEP * STEP + STEP


def turn(sequence: int, since: int, tip: int, guardians: int) -> int:
    """Whose turn it is to lead, as an index into the guardians by key; `since` is when signing began."""
    return (sequence + max(0, tip - since) // STEP) % guardians


def available(snapshot: Snapshot) -> int:
    """What the fund could pay out at once, less the cost of spending it."""
    return max(0, _left(snapshot, _paying(snapshot))) if snapshot.anchor else 0


def decide(snapshot: Snapshot, eligible: int | None, *, limit: int = MAX_MONEY, full: bool = True) -> Decision:
    """The transaction that this snapshot asks for.

    `eligible` is the number of payout keys that have a share; None answers `ask-eligible` where it matters, so that
    nobody counts them while the fund is far from paying out. `limit` is the largest share that all of them can have
    under the cap; unless `full`, the cap holds a part of the fund back, and so small a payout happens only once in a
    tenth of a window.
    """
    if snapshot.anchor is None:
        return Waiting("no-anchor")
    if snapshot.anchor.script != snapshot.script:
        return _sweep(snapshot, [*snapshot.old, *snapshot.coins]) or Waiting("too-poor", 0, DUST)
    inputs = _paying(snapshot)
    left = _left(snapshot, inputs)
    if granted := next((spend for spend in snapshot.spends if spend.amount + SHARE_FEE <= left), None):
        return _plan(snapshot, "grant", inputs, left, spend=granted)
    threshold = snapshot.rules.parameters.airdrop_threshold
    waiting = Waiting("below-threshold", max(0, left), threshold)
    if left >= threshold:
        if eligible is None:
            return Waiting("ask-eligible", left, threshold)
        needed = eligible * DUST + outputs_fee(eligible, snapshot.redeem)
        if eligible and left >= needed and (full or _new_epoch(snapshot)):
            return _plan(snapshot, "payout", inputs, left, recipients=eligible, limit=limit)
        waiting = _unpaid(left, eligible, needed, threshold)
    if len(_worth(snapshot, snapshot.coins)) > len(inputs) - 1:
        return _sweep(snapshot, snapshot.coins) or waiting
    if _worth_fetching(snapshot):
        return _sweep(snapshot, snapshot.old) or waiting
    return waiting


def _new_epoch(snapshot: Snapshot) -> bool:
    """Whether another tenth of a window has begun since the last payout."""
    blocks = max(1, snapshot.rules.parameters.window_blocks // EPOCHS)
    return snapshot.height // blocks != snapshot.last_payout // blocks


def _unpaid(left: int, eligible: int, needed: int, threshold: int) -> Waiting:
    """Why the fund does not pay out although it holds enough."""
    if not eligible:
        return Waiting("nobody-eligible", left, threshold)
    return Waiting("shares-too-small", left, needed) if left < needed else Waiting("capped", left, threshold)


def _plan(
    snapshot: Snapshot,
    kind: Kind,
    inputs: tuple[FundCoin, ...],
    left: int,
    *,
    recipients: int = 0,
    limit: int = MAX_MONEY,
    spend: ApprovedSpend | None = None,
) -> Plan:
    version = snapshot.rules.version
    script = snapshot.script
    return Plan(kind, snapshot.sequence, snapshot.height, version, inputs, script, left, recipients, limit, spend)


def _sweep(snapshot: Snapshot, coins: Sequence[FundCoin]) -> Plan | None:
    """The anchor and as many of these as fit into one new anchor; None where too little would be left for it."""
    inputs = _pick(snapshot, coins, sweeping_room())
    left = _left(snapshot, inputs)
    return _plan(snapshot, "sweep", inputs, left) if left >= 0 else None


def _worth_fetching(snapshot: Snapshot) -> bool:
    """Whether what lies at old addresses brings at least twice what the transaction costs that fetches it."""
    inputs = _pick(snapshot, snapshot.old, sweeping_room())
    return len(inputs) > 1 and sum(coin.amount for coin in inputs[1:]) >= 2 * (BASE_FEE + _fees(snapshot, inputs))


def _paying(snapshot: Snapshot) -> tuple[FundCoin, ...]:
    return _pick(snapshot, snapshot.coins, paying_room())


def _worth(snapshot: Snapshot, coins: Sequence[FundCoin]) -> list[FundCoin]:
    """Those that are worth their input, the largest first, so that no number of small ones stands in the way.

    What earlier guardians hold comes before all; equal amounts go by height, transaction and output.
    """
    worth = (coin for coin in coins if worth_spending(coin.amount, snapshot.redeems[coin.script]))
    return sorted(worth, key=lambda coin: (coin.script == snapshot.script, *spending_order(coin)))


def _pick(snapshot: Snapshot, coins: Sequence[FundCoin], room: int) -> tuple[FundCoin, ...]:
    """The anchor and, in their order, as many worthwhile coins as fit into `room` bytes."""
    assert snapshot.anchor is not None
    picked = [snapshot.anchor]
    room -= input_size(snapshot.redeems[snapshot.anchor.script])
    for coin in _worth(snapshot, coins)[: MAX_INPUTS - 1]:
        room -= input_size(snapshot.redeems[coin.script])
        if room < 0:
            break
        picked.append(coin)
    return tuple(picked)


def _fees(snapshot: Snapshot, inputs: Sequence[FundCoin]) -> int:
    return sum(input_fee(snapshot.redeems[coin.script]) for coin in inputs)


def _left(snapshot: Snapshot, inputs: Sequence[FundCoin]) -> int:
    return sum(coin.amount for coin in inputs) - _fees(snapshot, inputs) - BASE_FEE - DUST
