"""Payments: what the buyer reserves, signs away or takes back, and what the provider is promised."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from duxcommon.api.escrowd import Hold, PaymentPage, SignedState
from duxcommon.errors import (
    BadTransition,
    ChannelBusy,
    ChannelClosed,
    Conflict,
    DuxError,
    LockTooNear,
    NotConfirmed,
    NotCovered,
    WalletLocked,
    WrongDeposits,
)

from . import channel as rules
from . import intake, rows
from .channels import Channels
from .closing import retire_if_idle
from .desk import Desk, Waiter
from .failpoints import hit
from .intake import now, provider_row
from .keys import Keys
from .rows import ChannelRow, PaymentRow
from .signing import Pusher, Signer

ASK_AGAIN_S = 0.5
CATCH_UP_S = 10.0
BLOCKS_BEHIND = 2
"""A provider that misses so few confirmations waits so long for the next block before it refuses an order."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a hold asks for."""

    provider: str
    amount: int
    key: str
    task: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """What the provider is asked to promise a result for."""

    buyer: str
    channel: str
    price: int
    task: str
    hash: str
    deadline: int | None


class Payments:
    """Both roles. A payment is one row; each step of it is one commit."""

    def __init__(
        self,
        desk: Desk,
        channels: Channels,
        signer: Signer,
        pusher: Pusher,
        keys: Keys,
        look: Callable[[str], Awaitable[ChannelRow]],
    ) -> None:
        """`look` brings one channel up to date with the chain."""
        self._desk = desk
        self._look = look
        self._channels = channels
        self._signer = signer
        self._pusher = pusher
        self._keys = keys

    # --- buyer -----------------------------------------------------------------------------------------------------

    async def hold(self, wish: Wish, wait_s: float) -> Hold:
        """Reserve an amount on the channel to a provider: open it, top it up or wait for it where that is needed.

        Raises WalletLocked, PriceTooSmall, DepositCapReached, what opening a channel raises, and NotConfirmed or
        ChannelBusy when the wait was not long enough.
        """
        until = asyncio.get_running_loop().time() + wait_s
        with self._desk.signals.watch(wish.provider) as waiter:
            while True:
                locked = await self._keys.locked()
                outcome = await self._desk.store.write(partial(self._reserve, wish, locked))
                if isinstance(outcome, Hold):
                    hit("hold-committed")
                    self._pusher.carried(outcome.payment.channel)
                    return outcome
                if isinstance(outcome, NotConfirmed | ChannelBusy):
                    if not await waiter.wait(until):
                        raise self._how_far(wish.provider, outcome)
                elif isinstance(outcome, DuxError):
                    raise outcome
                elif not await self._make_room(wish, waiter, until) and not await waiter.wait(until):
                    late = NotConfirmed("the channel's further deposit is not confirmed deep enough yet")
                    raise self._how_far(wish.provider, late)

    def _how_far(self, provider: str, error: DuxError) -> DuxError:
        """`error`, with the confirmations that are there and needed where it waits for some."""
        row = self._desk.store.read(lambda c: rows.live_channel(c, provider))
        if not isinstance(error, NotConfirmed) or row is None:
            return error
        channel = self._desk.wire(row)
        there, needed = channel.confirmations, channel.confirmations_needed
        if there >= needed:
            return error
        return NotConfirmed(
            f"the channel's deposit has {there} of {needed} confirmations",
            details={"confirmations": there, "needed": needed},
        )

    async def _make_room(self, wish: Wish, waiter: Waiter, until: float) -> bool:
        """True when it is worth looking again at once."""
        try:
            return await self._channels.make_room(wish.provider, wish.amount, wish.key)
        except ChannelBusy:
            # The provider waits for calls on an older channel to be paid.
            loop = asyncio.get_running_loop()
            if loop.time() >= until:
                raise
            await waiter.wait(min(until, loop.time() + ASK_AGAIN_S))
            return True

    def _reserve(
        self, wish: Wish, locked: WalletLocked | None, connection: sqlite3.Connection
    ) -> "Hold | DuxError | None":
        """Inside a write: the hold, the error that prevents it, or None when a channel must be opened or extended."""
        identity = rows.payment_id("hold", wish.key)
        found = rows.find_payment(connection, identity)
        if found is not None:
            if (found.peer, found.amount, found.task) != (wish.provider, wish.amount, wish.task):
                return Conflict(f"key {wish.key.rsplit('/', 1)[-1]!r} was used for another payment")
            return _hold(found, rows.channel(connection, found.channel))
        if locked is not None:
            return locked
        row = rows.live_channel(connection, wish.provider)
        if row is None or (row.state == "OPEN" and self._late(row)):
            return None
        try:
            line = rules.reserve(row.line, wish.amount)
        except NotCovered:
            return None
        except DuxError as error:
            return error
        payment = PaymentRow(
            0, identity, "buyer", row.id, row.peer, wish.amount, "ORDERED" if wish.task else "HELD", wish.task, "",
            now(), None, None,
        )  # fmt: skip
        payment = rows.insert_payment(connection, payment, "order" if wish.task else "hold", wish.key)
        return _hold(payment, rows.keep_line(connection, row, line))

    def _late(self, row: ChannelRow) -> bool:
        """Whether the provider would not serve on this channel any more."""
        return self._desk.height() >= self._desk.ends(row) - self._desk.settings.close_margin - rules.LAST_BLOCKS

    async def release(self, payment_id: str, receipt: str | None, key: str) -> PaymentRow:
        """Pay: the next signed state includes this payment. Durable when it returns; repeats change nothing."""
        payment = self._own(payment_id, "buyer")
        if payment.state == "RELEASED":
            return payment
        released = await self._signer.release(payment, receipt, key)
        return released

    async def refund(self, payment_id: str, reason: str, key: str) -> PaymentRow:
        """Give a reservation back: nothing is paid for it. Raises BadTransition for one that was paid."""
        payment = self._own(payment_id, "buyer")
        async with self._desk.lock(payment.channel):
            return await self._give_up(payment_id, reason, key)

    async def _give_up(self, payment_id: str, reason: str, key: str) -> PaymentRow:
        def commit(connection: sqlite3.Connection) -> tuple[PaymentRow, ChannelRow, bool]:
            payment = rows.payment(connection, payment_id)
            row = rows.channel(connection, payment.channel)
            if payment.state == "REFUNDED":
                return payment, row, False
            moved = rows.move_payment(connection, payment, "refund", key, reason=reason)
            row = rows.keep_line(connection, row, rules.unreserve(row.line, payment.amount))
            return moved, retire_if_idle(connection, row), True

        payment, row, done = await self._desk.store.write(commit)
        hit("refund-committed")
        if done:
            self._desk.outbox.wake()
            self._desk.changed(row)
        return payment

    # --- provider --------------------------------------------------------------------------------------------------

    async def accept(self, order: Order, state: SignedState | None) -> PaymentRow:
        """Take an order: store the state that came with it, then check that the channel covers the price.

        Raises what `intake.check` raises for the state, and ChannelClosed, NotConfirmed, ChannelBusy, NotCovered or
        LockTooNear for the order; the state is kept even then. Waits a little where this node is only a block or two
        behind the buyer.
        """
        until = asyncio.get_running_loop().time() + CATCH_UP_S
        with self._desk.signals.watch(order.channel) as waiter:
            while True:
                try:
                    return await self._accept(order, state)
                except (WrongDeposits, NotConfirmed, NotCovered):
                    row = provider_row(self._desk, order.channel, order.buyer)
                    before = self._desk.counted(row)
                    row = await self._look(row.id)
                    if self._desk.counted(row) != before:
                        continue
                    if not 0 < self._desk.cover(row).waiting <= BLOCKS_BEHIND or not await waiter.wait(until):
                        raise

    async def _accept(self, order: Order, state: SignedState | None) -> PaymentRow:
        row = provider_row(self._desk, order.channel, order.buyer)
        if row.id in self._desk.closing:
            raise ChannelClosed("the channel is being closed; no more orders are taken on it")
        # An order that was overtaken carries an older state: the newer one counts.
        newer = state is not None and state.seq >= row.seq and intake.check(self._desk, row, state)
        self._check_room(row, order.deadline)
        outcome = await self._desk.store.write(lambda c: self._promise(c, order, state if newer else None))
        hit("accept-committed")
        if isinstance(outcome, DuxError):
            raise outcome
        return outcome

    def _promise(
        self, connection: sqlite3.Connection, order: Order, state: SignedState | None
    ) -> "PaymentRow | DuxError":
        if state is not None:
            row = intake.store(connection, self._desk, order.channel, state)
        else:
            row = rows.channel(connection, order.channel)
        identity = rows.payment_id("accept", order.channel, order.task)
        found = rows.find_payment(connection, identity)
        if found is not None:
            if (found.amount, found.order_hash) != (order.price, order.hash):
                return Conflict(f"task {order.task} was ordered before with another price or order")
            return found
        try:
            # The limit is the buyer's, over all its channels: otherwise each new channel brought new credit.
            line = rules.reserve(row.line, order.price, unpaid=rows.live_with(connection, row.peer)[1])
        except DuxError as error:
            # Returned, not raised: the state that came with the order stays stored.
            return error
        payment = PaymentRow(
            0, identity, "provider", row.id, row.peer, order.price, "ORDERED", order.task, "", now(), order.hash, None
        )
        rows.keep_line(connection, row, line)
        return rows.insert_payment(connection, payment, "order", f"accept/{order.channel}/{order.task}")

    def _check_room(self, row: ChannelRow, deadline: int | None) -> None:
        height = self._desk.height_now()
        ends = self._desk.ends(row)
        left = ends - self._desk.settings.close_margin - height
        if deadline is not None:
            left -= rules.LAST_BLOCKS + max(0, deadline - now()) // self._desk.block_seconds
        if left <= 0:
            raise LockTooNear(
                f"the channel ends at height {ends}, the chain is at {height}",
                details={"lock_height": row.lock_height, "ends": ends, "height": height},
            )

    async def done(self, channel_id: str, task: str, receipt: str) -> PaymentRow:
        """The result was delivered; what remains is to be paid. Repeats change nothing."""

        def commit(connection: sqlite3.Connection) -> PaymentRow:
            payment = rows.payment(connection, rows.payment_id("accept", channel_id, task))
            if payment.state in ("DONE", "RELEASED"):
                return payment
            return rows.move_payment(connection, payment, "done", receipt_hash=receipt)

        payment = await self._desk.store.write(commit)
        hit("done-committed")
        return payment

    async def fail(self, channel_id: str, task: str, reason: str) -> PaymentRow:
        """The order was not carried out: nothing is owed for it. Raises BadTransition once it is done."""

        def commit(connection: sqlite3.Connection) -> PaymentRow:
            payment = rows.payment(connection, rows.payment_id("accept", channel_id, task))
            if payment.state == "REFUNDED":
                return payment
            if payment.state != "ORDERED":
                raise BadTransition(f"the payment is {payment.state}; the order can't fail any more")
            row = rows.channel(connection, channel_id)
            rows.keep_line(connection, row, rules.unreserve(row.line, payment.amount))
            return rows.move_payment(connection, payment, "refund", reason=reason)

        payment = await self._desk.store.write(commit)
        hit("refund-committed")
        return payment

    async def write_off(self, before: int) -> int:
        """Give up what was delivered before then (Unix seconds) and never paid; how many payments.

        A buyer that gave up on a call just before its result came would otherwise find its channel busy for ever.
        """

        def commit(connection: sqlite3.Connection) -> int:
            late = rows.unpaid_since(connection, before)
            for payment in late:
                row = rows.channel(connection, payment.channel)
                rows.keep_line(connection, row, rules.unreserve(row.line, payment.amount))
                rows.move_payment(connection, payment, "refund", reason="the buyer never paid for the result")
            return len(late)

        return await self._desk.store.write(commit)

    # --- both ------------------------------------------------------------------------------------------------------

    def _own(self, payment_id: str, role: str) -> PaymentRow:
        payment = self.show(payment_id)
        if payment.role != role:
            raise BadTransition(f"this node is not the {role} of payment {payment_id}")
        return payment

    def show(self, payment_id: str) -> PaymentRow:
        """Raises PaymentUnknown."""
        return self._desk.store.read(lambda c: rows.payment(c, payment_id))

    def list(self, channel_id: str | None, state: str | None, limit: int, after: int | None) -> PaymentPage:
        """Newest first."""
        found = self._desk.store.read(lambda c: rows.payments_page(c, channel_id, state, limit + 1, after))
        more = len(found) > limit
        return PaymentPage(payments=[p.wire() for p in found[:limit]], next=str(found[limit - 1].n) if more else None)


def _hold(payment: PaymentRow, row: ChannelRow) -> Hold:
    return Hold(payment=payment.wire(), state=row.newest_state if row.seq > row.acked_seq else None)
