"""The buyer's signed states: one signature for all releases that wait on a channel, and getting them to the provider.

The channel's row is its own outbox: while `acked_seq < seq` the newest state is sent again until the provider has it.
"""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from duxcommon.api.escrowd import SignedState
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import BadTransition, ChannelClosed, Conflict, DuxError, NotConfirmed

from . import channel as rules
from . import contract, ledger, rows
from .desk import Desk, context
from .failpoints import hit
from .keys import Keys
from .rows import ChannelRow, PaymentRow

BATCH = 64
"""Most releases that share one signature."""

IDLE_S = 0.05
"""A state that no order carries is sent after this time, in seconds."""

CARRIED_S = 5.0
"""A state that an order carried is sent once more after this time, unless the provider acknowledged it."""

MANY = 16
"""So many unacknowledged releases are sent at once, so that the list of what they pay stays short."""

LAST_RETRY_S = 60.0


@dataclass
class _Job:
    payment: str
    receipt: str | None
    key: str
    done: "asyncio.Future[PaymentRow]"


class Signer:
    """Makes the next state of a channel; the only place where a gross goes up on the buyer's side."""

    def __init__(self, desk: Desk, pusher: "Pusher", keys: Keys) -> None:
        self._desk = desk
        self._keys = keys
        self._pusher = pusher
        self._queues: dict[str, list[_Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def release(self, payment: PaymentRow, receipt: str | None, key: str) -> PaymentRow:
        """Pay for one payment; durable when this returns.

        Raises BadTransition for one that was refunded, ChannelClosed, NotConfirmed while a deposit has moved, and
        what flopd answers.
        """
        job = _Job(payment.id, receipt, key, asyncio.get_running_loop().create_future())
        queue = self._queues.get(payment.channel)
        if queue is None:
            self._queues[payment.channel] = [job]
            task = asyncio.create_task(self._drain(payment.channel), name="sign-states")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(job)
        return await job.done

    async def _drain(self, channel_id: str) -> None:
        queue = self._queues[channel_id]
        while queue:
            async with self._desk.lock(channel_id):
                jobs = queue[:BATCH]
                del queue[:BATCH]
                try:
                    await self._sign_batch(channel_id, jobs)
                except Exception as error:
                    for job in jobs:
                        if not job.done.done():
                            job.done.set_exception(error)
        del self._queues[channel_id]

    async def _sign_batch(self, channel_id: str, jobs: Sequence[_Job]) -> None:
        row, ready = self._desk.store.read(lambda c: (rows.channel(c, channel_id), _ready(c, jobs)))
        if not ready:
            return
        payments = [payment for _, payment in ready]
        state = await self._sign(row, payments)

        def commit(connection: sqlite3.Connection) -> tuple[ChannelRow, list[PaymentRow]]:
            moved = [
                rows.move_payment(connection, payment, "release", job.key, receipt_hash=job.receipt)
                for job, payment in ready
            ]
            return self._store(connection, row, state, payments), moved

        fresh, moved = await self._desk.store.write(commit)
        hit("release-committed")
        self._pusher.signed(fresh)
        self._desk.changed(fresh)
        for (job, _), payment in zip(ready, moved, strict=True):
            if not job.done.done():
                job.done.set_result(payment)

    async def _sign(self, row: ChannelRow, payments: Sequence[PaymentRow]) -> SignedState:
        if row.state != "OPEN":
            if row.state in rules.LIVE:
                raise NotConfirmed("the channel's deposit is not confirmed deep enough; nothing can be signed now")
            raise ChannelClosed(f"the channel is {row.state}; this payment can't be made on it any more")
        escrow = self._desk.escrow(row)
        line = rules.sign(row.line, [payment.amount for payment in payments])
        spend = contract.closing(escrow, self._desk.counted(row), line.gross)
        raw = coin_tx.serialize_tx(spend.tx).hex()
        try:
            signatures = await self._desk.flopd.sign(raw, escrow.prevouts(spend.deposits), row.buyer_pubkey)
        except DuxError:
            self._keys.refused()
            raise
        self._keys.signed()
        named = [task for _, task in json.loads(row.pays)] + [payment.task for payment in payments if payment.task]
        state = contract.make_state(escrow, spend, signatures, seq=line.seq, gross=line.gross, pays=named[-1000:])
        # What the provider would refuse must not become our newest state.
        contract.check_state(escrow, state)
        hit("state-signed")
        return state

    def _store(
        self, connection: sqlite3.Connection, row: ChannelRow, state: SignedState, payments: Sequence[PaymentRow]
    ) -> ChannelRow:
        fresh = rows.channel(connection, row.id)
        if fresh.state != "OPEN" and fresh.state in rules.LIVE:
            raise NotConfirmed("the channel's deposit moved while the state was signed")
        if fresh.state != "OPEN" or fresh.seq != row.seq:
            raise ChannelClosed(f"the channel became {fresh.state} meanwhile")
        line = rules.sign(fresh.line, [payment.amount for payment in payments])
        ledger.signed_away(connection, fresh, line.gross, line.seq, self._desk.min_tax)
        pays = json.loads(fresh.pays) + [[line.seq, payment.task] for payment in payments if payment.task]
        return rows.keep_line(connection, fresh, line, newest=state.model_dump_json(), pays=json.dumps(pays[-1000:]))

    async def renew(self, channel_id: str) -> ChannelRow:
        """Sign the gross once more over the deposits that count now: one was added, or a reorg moved one."""
        async with self._desk.lock(channel_id):
            row = self._desk.row(channel_id)
            newest = row.newest_state
            counted = {(d.txid, d.vout) for d in self._desk.counted(row)}
            if newest is None or row.state not in ("FUND_SENT", "OPEN") or not counted:
                return row
            if {(d.txid, d.vout) for d in newest.deposits} == counted:
                return row
            escrow = self._desk.escrow(row)
            spend = contract.closing(escrow, self._desk.counted(row), row.gross)
            raw = coin_tx.serialize_tx(spend.tx).hex()
            signatures = await self._desk.flopd.sign(raw, escrow.prevouts(spend.deposits), row.buyer_pubkey)
            state = contract.make_state(
                escrow, spend, signatures, seq=row.seq + 1, gross=row.gross, pays=[t for _, t in json.loads(row.pays)]
            )
            contract.check_state(escrow, state)
            hit("state-signed")
            fresh = await self._desk.store.write(
                lambda c: rows.change(c, rows.channel(c, channel_id), seq=state.seq, newest=state.model_dump_json())
            )
            hit("release-committed")
            self._pusher.signed(fresh)
            self._desk.log.info("state signed anew over other deposits", extra=context(fresh, seq=fresh.seq))
            return fresh

    async def stop(self) -> None:
        """End what is being signed; nothing of it is stored."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ready(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[tuple[_Job, PaymentRow]]:
    """The jobs that need a signature, each payment once; the others get their answer here."""
    ready: list[tuple[_Job, PaymentRow]] = []
    seen: set[str] = set()
    for job in jobs:
        payment = rows.payment(connection, job.payment)
        if job.done.done():
            continue
        if payment.state == "RELEASED":
            job.done.set_result(payment)
        elif payment.state == "REFUNDED":
            job.done.set_exception(BadTransition("the payment was refunded; it can't be released"))
        elif rows.is_noted(connection, job.key) or job.key in seen or payment.id in seen:
            job.done.set_exception(Conflict("this key is in use for another payment, or this payment for another call"))
        else:
            seen.update((job.key, payment.id))
            ready.append((job, payment))
    return ready


class Pusher:
    """Sends newest states to providers: soon after the last call, or when an order did not bring it there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tries: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Take up what a restart interrupted."""
        for channel_id in self._desk.store.read(rows.unpushed_channels):
            self._later(channel_id, IDLE_S)

    def signed(self, row: ChannelRow) -> None:
        """A newer state is stored."""
        self._tries.pop(row.id, None)
        self._later(row.id, 0.0 if len(json.loads(row.pays)) >= MANY else IDLE_S)

    def carried(self, channel_id: str) -> None:
        """An order takes the newest state along."""
        if channel_id in self._timers:
            self._later(channel_id, CARRIED_S)

    def _later(self, channel_id: str, delay_s: float) -> None:
        timer = self._timers.pop(channel_id, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[channel_id] = loop.call_later(delay_s, self._start, channel_id)

    def _start(self, channel_id: str) -> None:
        self._timers.pop(channel_id, None)
        if channel_id in self._tasks:
            self._later(channel_id, IDLE_S)
            return
        task = asyncio.create_task(self.push(channel_id), name="push-state")
        self._tasks[channel_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(channel_id, None))

    async def push(self, channel_id: str) -> None:
        """Send the newest state now, unless the provider has it; a failure is tried again later."""
        row = self._desk.row(channel_id)
        state = row.newest_state
        if state is None or row.acked_seq >= row.seq or row.state in ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED"):
            return
        try:
            ack = await self._desk.peers.state(row.peer, state)
            hit("state-pushed")
            await self.acknowledged(channel_id, ack.seq)
        except DuxError as error:
            # A full disk here counts too: the provider is asked once more, and the answer noted then.
            if self._desk.row(channel_id).seq > state.seq:
                return  # A newer state has its own timer.
            tries = self._tries[channel_id] = self._tries.get(channel_id, 0) + 1
            delay = min(0.5 * 2 ** min(tries, 10), LAST_RETRY_S)
            self._desk.log.info(
                "the provider does not have the newest state yet",
                extra=context(row, seq=state.seq, again_in_s=delay, why=f"{error.name}: {error.message}"),
            )
            self._later(channel_id, delay)

    async def acknowledged(self, channel_id: str, seq: int) -> None:
        """The provider has stored state `seq`."""

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            row = rows.channel(connection, channel_id)
            # A provider can't acknowledge what we have not signed.
            known = max(row.acked_seq, min(seq, row.seq))
            pays = [pair for pair in json.loads(row.pays) if pair[0] > known]
            return rows.change(connection, row, acked_seq=known, pays=json.dumps(pays))

        row = await self._desk.store.write(commit)
        self._tries.pop(channel_id, None)
        if row.acked_seq < row.seq and channel_id not in self._timers:
            self._later(channel_id, IDLE_S)

    async def stop(self) -> None:
        """Send nothing more; the rows remember what is missing."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
