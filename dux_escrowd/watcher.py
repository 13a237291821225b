"""Follows the chain for every channel: confirmations, moved deposits, closes, refunds and reorgs, and acts on them.

flopd shows all outputs of a channel's script and what spends them. One look compares that with the row and commits
the difference; acting on it (closing in time, taking back, signing anew) comes after that commit.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from duxcommon.api.escrowd import ChannelState
from duxcommon.api.flopd import Watched, WatchedOutput
from duxcommon.errors import DuxError, WatchUnknown

from . import channel as rules
from . import contract, ledger, rows
from .channel import ChainDeposit, ChannelEvent
from .closing import Closing, retire_if_idle
from .contract import Found
from .desk import Desk, context
from .failpoints import hit
from .rows import ChannelRow, FundingRow
from .signing import Signer

WAIT_S = 20.0
"""One long poll of flopd; at its end, all channels are looked at again, for what the mempool shows."""

AT_ONCE = 8
FIRST_RETRY_S, LAST_RETRY_S = 0.2, 10.0

FINAL_DEPTH = 200
"""Blocks after which an end is taken for final; flopd keeps as many to find reorgs."""

UNFUNDED_BLOCKS = 1440
"""A channel that was announced and never paid into is forgotten after so many blocks."""


@dataclass(frozen=True, slots=True)
class Spender:
    """A transaction that spends deposits of the channel, and its block."""

    found: Found
    outpoints: frozenset[tuple[str, int]]
    height: int | None


@dataclass(frozen=True, slots=True)
class View:
    """What flopd shows of one channel."""

    tip: int
    deposits: tuple[ChainDeposit, ...]
    spenders: tuple[Spender, ...]
    """In the order in which they confirmed, unconfirmed ones last."""


def steps_to(state: ChannelState, kind: Literal["close", "refund"] | None, *, confirmed: bool) -> list[ChannelEvent]:
    """The steps from `state` to what the last spender of the deposits says; `kind` is None when nothing spends them."""
    if kind is None:
        lost: dict[ChannelState, list[ChannelEvent]] = {"CLOSED": ["close-lost"], "REFUNDED": ["refund-lost"]}
        return lost.get(state, [])
    back: list[ChannelEvent] = ["fund-moved"] if state == "CONFLICTED" else []
    if kind == "refund":
        if state == "REFUND_SENT":
            return ["refund-confirmed"] if confirmed else []
        if state == "REFUNDED":
            return [] if confirmed else ["refund-lost"]
        return [*back, "refund-seen", "refund-confirmed"] if confirmed else [*back, "refund-seen"]
    if state == "CLOSE_SENT":
        return ["close-confirmed"] if confirmed else []
    if state == "CLOSED":
        return [] if confirmed else ["close-lost"]
    return [*back, "close-seen", "close-confirmed"] if confirmed else [*back, "close-seen"]


def _left(deposits: Iterable[ChainDeposit]) -> bool:
    """Whether something confirmed lies in the channel that is worth taking back."""
    return any(d.spender is None and d.height is not None and d.amount >= rules.MIN_INPUT for d in deposits)


def _move_funding(channel_id: str, funding: FundingRow, txid: str | None, connection: sqlite3.Connection) -> None:
    """Inside a write: a deposit has another id on the chain, or (without one) lost to a conflict."""
    if txid is not None:
        rows.change_funding(connection, funding.id, txid=txid)
        return
    rows.change_funding(connection, funding.id, state="LOST")
    ledger.deposit_sent(connection, rows.channel(connection, channel_id), funding, back=True)


class Watcher:
    """The daemon's one loop over the chain."""

    def __init__(self, desk: Desk, closing: Closing, signer: Signer) -> None:
        self._desk = desk
        self._closing = closing
        self._signer = signer
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Look whenever the tip moves, until cancelled; while flopd is away, try again."""
        best, delay = "0" * 64, FIRST_RETRY_S
        while True:
            try:
                status = await self._desk.flopd.wait(best, WAIT_S)
                self._desk.tip = status.height
                await self.look()
                best, delay = status.best, FIRST_RETRY_S
            except DuxError as error:
                self._desk.log.info("can't follow the chain", extra={"why": f"{error.name}: {error.message}"})
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_RETRY_S)

    async def run_sent(self) -> None:
        """Look at each channel right after something was sent for it, until cancelled."""
        while True:
            channel_id = await self._desk.sent.get()
            if self._desk.tip is None:
                continue
            try:
                await self.refresh(channel_id)
            except DuxError as error:
                self._desk.log.info("can't follow the chain", extra={"why": f"{error.name}: {error.message}"})

    async def look(self) -> None:
        """Bring every channel that the chain can still change up to date. Raises the first DuxError of flopd."""
        followed = self._desk.store.read(rows.followed_channels)
        results = await asyncio.gather(*(self._one(row.id) for row in followed), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _one(self, channel_id: str) -> None:
        async with self._slots:
            await self.refresh(channel_id)

    async def refresh(self, channel_id: str) -> ChannelRow:
        """Bring one channel up to date and act on what is new."""
        row = self._desk.row(channel_id)
        if row.state in ("NEW", "FUND_BUILT"):
            return row
        fresh = await self._observe(row)
        if await self._act(fresh):
            fresh = await self._observe(self._desk.row(channel_id))
        return fresh

    # --- seeing ----------------------------------------------------------------------------------------------------

    async def _observe(self, row: ChannelRow) -> ChannelRow:
        try:
            watched = await self._desk.flopd.watched(row.id)
        except WatchUnknown:
            # The daemon was killed between storing the channel and having its script followed.
            watched = await self._desk.flopd.watch(self._desk.escrow(row).script, row.id, row.birth)
        if row.role == "buyer" and row.state in ("FUND_SENT", "OPEN"):
            await self._follow_fundings(row, watched)
        view = self._view(row, watched)
        fresh, changed = await self._desk.store.write(lambda c: self._store(c, row.id, view))
        hit("followed-committed")
        coverage = self._desk.coverage(fresh, view.deposits, view.tip)
        self._desk.set_counted(row.id, coverage.counted)
        if changed:
            self._desk.outbox.wake()
            self._desk.changed(fresh)
            self._desk.log.info("channel followed", extra=context(fresh, was=row.state, usable=fresh.usable))
        if fresh.settled:
            self._desk.forget(row.id)
        return fresh

    def _view(self, row: ChannelRow, watched: Watched) -> View:
        note = self._desk.escrow(row).note().hex()
        deposits = tuple(
            ChainDeposit(o.txid, o.vout, o.amount, o.height, o.spender_txid, noted=o.note == note)
            for o in watched.outputs
        )
        spending: dict[str, list[WatchedOutput]] = {}
        for output in watched.outputs:
            if output.spender_txid is not None:
                spending.setdefault(output.spender_txid, []).append(output)
        spenders = [
            Spender(
                contract.recognise(
                    self._desk.escrow(row), next((o.spender_hex for o in outputs if o.spender_hex), ""), deposits
                ),
                frozenset((o.txid, o.vout) for o in outputs),
                outputs[0].spender_height,
            )
            for outputs in spending.values()
        ]
        spenders.sort(key=lambda s: (s.height is None, s.height or 0, s.found.txid))
        return View(watched.height, deposits, tuple(spenders))

    async def _follow_fundings(self, row: ChannelRow, watched: Watched) -> None:
        """Keep up with deposits whose transaction got another id on its way, or lost to a conflict."""
        shown = {(o.txid, o.vout) for o in watched.outputs}
        for funding in self._desk.store.read(lambda c: rows.fundings(c, row.id)):
            if funding.state != "SENT" or funding.intent is None or (funding.txid, funding.vout) in shown:
                continue
            intent = await self._desk.flopd.intent(funding.intent)
            lost = intent.state in ("conflicted", "cancelled")
            if intent.txid == funding.txid and not lost:
                continue
            await self._desk.store.write(partial(_move_funding, row.id, funding, None if lost else intent.txid))
            self._desk.log.info(
                "deposit lost to a conflict" if lost else "deposit confirmed under another id",
                extra=context(row, was=funding.txid, now=intent.txid),
            )

    # --- storing, inside one write ---------------------------------------------------------------------------------

    def _store(self, connection: sqlite3.Connection, channel_id: str, view: View) -> tuple[ChannelRow, bool]:
        """The row after a look, and whether anybody may care."""
        row = before = rows.channel(connection, channel_id)
        if set(rows.deposits(connection, channel_id)) != set(view.deposits):
            rows.keep_deposits(connection, channel_id, view.deposits)
        for event in self._events(connection, row, view):
            row = rows.move(connection, row, event)
        coverage = self._desk.coverage(row, view.deposits, view.tip)
        changes: dict[str, Any] = {}
        if (row.usable, row.pending) != (coverage.usable, coverage.pending):
            changes.update(usable=coverage.usable, pending=coverage.pending)
        if view.spenders and row.txid != view.spenders[-1].found.txid:
            changes.update(txid=view.spenders[-1].found.txid)
        target = self._funded(connection, row, view)
        if target is not None:
            # The step and the figures that it stands on go into one statement: the schema checks them together.
            row = rows.move(connection, row, target, **changes)
        elif changes:
            row = rows.change(connection, row, **changes)
        self._book(connection, row, view)
        row = self._finish(connection, row, view)
        return row, row != before

    def _events(self, connection: sqlite3.Connection, row: ChannelRow, view: View) -> list[ChannelEvent]:
        """The steps that lead from the row's state to what the spenders of its deposits say."""
        last = view.spenders[-1] if view.spenders else None
        if last is not None and last.found.kind == "foreign" and row.state not in ("CLOSE_SENT", "CLOSED"):
            self._desk.log.warning(
                "a deposit was spent by a transaction of another form", extra=context(row, txid=last.found.txid)
            )
        if last is None:
            return steps_to(row.state, None, confirmed=False)
        if row.state == "REFUND_BUILT" and row.hex is not None and _left(view.deposits):
            # What ended the channel before does not end it again: a refund of the rest is about to be sent.
            return []
        kind: Literal["close", "refund"] = "refund" if last.found.kind == "refund" else "close"
        return steps_to(row.state, kind, confirmed=last.height is not None)

    def _funded(self, connection: sqlite3.Connection, row: ChannelRow, view: View) -> ChannelEvent | None:
        """Whether the deposits carry the channel now, or do not any more."""
        coverage = self._desk.coverage(row, view.deposits, view.tip)
        newest = row.newest_state
        outpoints = {(d.txid, d.vout) for d in coverage.counted}
        whole = newest is None or {(d.txid, d.vout) for d in newest.deposits} <= outpoints
        enough = row.role == "provider" or coverage.usable >= row.gross + row.held
        carried = bool(outpoints) and whole and enough
        if row.state == "FUND_SENT" and carried:
            return "fund-deep"
        if row.state == "OPEN" and not carried:
            return "fund-moved"
        if row.state == "CONFLICTED" and any(d.height is not None and d.spender is None for d in view.deposits):
            return "fund-moved"
        if row.state == "FUND_SENT" and not view.deposits:
            fundings = rows.fundings(connection, row.id)
            given_up = bool(fundings) and all(funding.state == "LOST" for funding in fundings)
            if given_up or (row.role == "provider" and view.tip > row.birth + UNFUNDED_BLOCKS):
                return "fund-lost"
        return None

    def _book(self, connection: sqlite3.Connection, row: ChannelRow, view: View) -> None:
        """Book every spend that is confirmed and take back every one that is not any more."""
        known = rows.spends(connection, row.id)
        shown = {spender.found.txid: spender for spender in view.spenders}
        own = {(f.txid, f.vout): f.amount for f in rows.fundings(connection, row.id) if f.state == "SENT"}
        for txid, spend in known.items():
            spender = shown.get(txid)
            if spend.booked % 2 == 1 and (spender is None or spender.height is None):
                spend = rows.change_spend(connection, row.id, spend, booked=spend.booked + 1)
                ledger.ended(connection, row, spend, self._desk.min_tax)
                known[txid] = spend
        for spender in view.spenders:
            found = spender.found
            stored = known.get(found.txid)
            if spender.height is None or (stored is not None and stored.booked % 2 == 1):
                continue
            paid = sum(own.get(outpoint, 0) for outpoint in spender.outpoints) if row.role == "buyer" else 0
            spend = stored or rows.insert_spend(connection, row.id, found, own=paid, gifts=found.spent - paid)
            settled = sum(one.gross for one in known.values() if one.booked % 2 == 1)
            spend = rows.change_spend(connection, row.id, spend, booked=spend.booked + 1, gross=row.gross - settled)
            ledger.ended(connection, row, spend, self._desk.min_tax)
            known[found.txid] = spend

    def _finish(self, connection: sqlite3.Connection, row: ChannelRow, view: View) -> ChannelRow:
        """At an end: give back what was reserved, and stop following once no reorg can reach it."""
        if row.state not in ("CLOSED", "REFUNDED", "CONFLICTED"):
            return rows.change(connection, row, ended=None) if row.ended is not None else row
        for payment in rows.open_payments(connection, row.id):
            rows.move_payment(
                connection, payment, "refund", f"{payment.id}/ended", reason=f"the channel is {row.state}"
            )
            row = rows.keep_line(connection, row, rules.unreserve(row.line, payment.amount))
        if row.ended is None:
            row = rows.change(connection, row, ended=view.tip)
        unspent = any(d.spender is None and d.amount >= rules.MIN_INPUT for d in view.deposits)
        if row.ended is not None and view.tip >= row.ended + FINAL_DEPTH and not (unspent and row.role == "buyer"):
            row = rows.change(connection, row, settled=1)
        return row

    # --- acting ----------------------------------------------------------------------------------------------------

    async def _act(self, row: ChannelRow) -> bool:
        """Do what the height or the deposits ask for; True when the channel should be looked at again."""
        try:
            if row.role == "provider":
                return await self._close_in_time(row)
            return await self._take_back(row) or await self._sign_anew(row) or await self._retire(row)
        except DuxError as error:
            # The next block brings another try.
            self._desk.log.warning(
                "can't act on a channel yet", extra=context(row, why=f"{error.name}: {error.message}")
            )
            return False

    async def _close_in_time(self, row: ChannelRow) -> bool:
        """The provider must have closed well before the buyer can take everything back, or the tax counts no more."""
        due = self._desk.height() >= self._desk.ends(row) - self._desk.settings.close_margin
        if not due or row.state != "OPEN" or row.gross == 0 or rules.at_risk(row.gross):
            return False
        await self._closing.close_alone(row.id, wait=False)
        return True

    async def _take_back(self, row: ChannelRow) -> bool:
        """What was never signed away comes back by itself once the lock height is reached."""
        if self._desk.height() < row.lock_height or row.state == "CONFLICTED":
            return False
        if not _left(self._desk.store.read(lambda c: rows.deposits(c, row.id))):
            return False
        return (await self._closing.refund(row.id, wait=False)).hex != row.hex

    async def _sign_anew(self, row: ChannelRow) -> bool:
        newest = row.newest_state
        if newest is None or row.state not in ("FUND_SENT", "OPEN"):
            return False
        counted = {(d.txid, d.vout) for d in self._desk.counted(row)}
        if not counted or {(d.txid, d.vout) for d in newest.deposits} == counted:
            return False
        return (await self._signer.renew(row.id)).seq > row.seq

    async def _retire(self, row: ChannelRow) -> bool:
        """A channel that is being replaced closes, also when a restart came in between."""
        late = self._desk.ends(row) - self._desk.settings.close_margin - rules.LAST_BLOCKS <= self._desk.height()
        if row.state != "OPEN" or row.open or not (row.retiring or late) or rules.at_risk(row.gross):
            return False

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, row.id)
            return retire_if_idle(connection, rows.change(connection, fresh, retiring=1))

        fresh = await self._desk.store.write(commit)
        self._desk.outbox.wake()
        return fresh.state != row.state
