"""How channels end: closed together, closed by the provider alone, given back together, or taken back by the buyer.

Each end is one transaction that is committed here before it is sent. Which one the chain takes is the watcher's to see.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

from btclib.tx import Tx

from duxcommon.api.escrowd import CloseReply, SignedState
from duxcommon.coin import tx as coin_tx
from duxcommon.coin.tx import Spend
from duxcommon.errors import (
    BadTransition,
    BeforeLockHeight,
    ChannelClosed,
    GrossTooSmall,
    NotConfirmed,
    NothingToClose,
    PaymentsOpen,
    WrongAmount,
    WrongDeposits,
)
from duxcommon.money import DUST, format_flop
from duxcommon.outbox import put

from . import channel as rules
from . import contract, intake, rows
from .channel import ChainDeposit
from .desk import Desk, context
from .failpoints import hit
from .rows import ChannelRow

CLOSE_WAIT_S = 20.0
"""How long closing waits for the other side; the outbox goes on after that."""


def begin_close(connection: sqlite3.Connection, row: ChannelRow, key: str | None = None) -> ChannelRow:
    """Inside a write, buyer: take no more payments and ask the provider to close, or to give everything back."""
    row = rows.move(connection, row, "close-built" if row.gross else "refund-built", key)
    put(connection, "settle", row.id, {})
    return row


def retire_if_idle(connection: sqlite3.Connection, row: ChannelRow) -> ChannelRow:
    """Inside a write, buyer: close a channel that is being replaced once nothing is open on it."""
    closable = row.gross == 0 or not rules.at_risk(row.gross)
    if row.retiring and row.open == 0 and row.state == "OPEN" and closable:
        return begin_close(connection, row)
    return row


def _spends(row: ChannelRow, deposits: Sequence[ChainDeposit]) -> bool:
    """Whether the transaction that this node has ready spends exactly these."""
    if row.hex is None:
        return False
    return {coin_tx.outpoint_of(txin) for txin in coin_tx.parse_tx(row.hex).vin} == {(d.txid, d.vout) for d in deposits}


IN_BETWEEN = 3
"""So often a provider signs a close anew because of what came in while it signed."""


class Closing:
    """Ends channels; both roles."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # --- asked for by people ---------------------------------------------------------------------------------------

    async def close(self, channel_id: str, key: str, *, alone: bool) -> ChannelRow:
        """Close a channel: together with the other side, or as the provider with the newest state alone.

        Raises PaymentsOpen, NotConfirmed, NothingToClose, GrossTooSmall, BeforeLockHeight, BadTransition.
        """
        row = self._desk.row(channel_id)
        if row.role == "buyer" and alone:
            return await self.refund(channel_id, key)
        if row.state not in rules.LIVE:
            return row
        if row.role == "provider":
            if row.open and not alone:
                raise PaymentsOpen(f"{row.open} calls on this channel are still unpaid", details={"open": row.open})
            return await self.close_alone(channel_id, key)
        if row.state != "OPEN":
            raise NotConfirmed("the channel's deposit is not confirmed yet; it can be closed once it is")

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, channel_id)
            if fresh.open:
                raise PaymentsOpen(
                    f"{fresh.open} payments of {format_flop(fresh.held)} FLOP are still open on this channel",
                    details={"open": fresh.open, "held": fresh.held},
                )
            if rules.at_risk(fresh.gross):
                raise GrossTooSmall(
                    f"{format_flop(fresh.gross)} FLOP are signed away; a close pays out from 0.02 FLOP on",
                    details={"gross": fresh.gross},
                )
            return begin_close(connection, fresh, key)

        async with self._desk.lock(channel_id):
            await self._desk.store.write(commit)
        hit("close-asked")
        return await self._ended(channel_id)

    async def refund(self, channel_id: str, key: str | None = None, *, wait: bool = True) -> ChannelRow:
        """As the buyer, take back every deposit that is unspent, without the provider, from the lock height on.

        Raises BeforeLockHeight, NothingToClose, BadTransition, and what flopd answers.
        """
        desk = self._desk
        async with desk.lock(channel_id):
            row = desk.row(channel_id)
            if row.role != "buyer":
                raise BadTransition("only the buyer takes deposits back; a provider closes")
            seen = desk.store.read(lambda c: rows.deposits(c, channel_id))
            # Gifts of strangers must not hide the deposit: the largest outputs first, the smallest not at all.
            unspent = sorted(
                (d for d in seen if d.spender is None and d.height is not None and d.amount >= rules.MIN_INPUT),
                key=lambda d: (-d.amount, d.txid, d.vout),
            )[: rules.MAX_DEPOSITS]
            if row.state in ("REFUND_BUILT", "REFUND_SENT", "REFUNDED") and (not unspent or _spends(row, unspent)):
                return row
            left = row.lock_height - desk.height()
            if left > 0:
                raise BeforeLockHeight(
                    f"the deposit is locked until height {row.lock_height}, {left} blocks from now",
                    details={"lock_height": row.lock_height, "blocks_left": left},
                )
            if not unspent:
                raise NothingToClose("no deposit of this channel is unspent on the chain")
            escrow = desk.escrow(row)
            spend = contract.refund(escrow, unspent)
            signatures = await self._sign(row, spend, row.buyer_pubkey)
            tx = coin_tx.finish_refund(spend, [bytes.fromhex(one) for one in signatures])
            contract.checked(escrow, spend, tx)
            hit("refund-signed")
            row = await self._keep(row, tx, "refund-built", key)
        hit("refund-built-committed")
        desk.log.info("refund built", extra=context(row, txid=row.txid))
        return await self._ended(channel_id) if wait else row

    # --- the buyer's question --------------------------------------------------------------------------------------

    async def ask(self, channel_id: str, _: dict[str, Any]) -> None:
        """Outbox handler, buyer: get the provider's signatures of the closing (or of giving everything back)."""
        desk = self._desk
        row = desk.row(channel_id)
        if row.role != "buyer" or row.state not in ("CLOSE_BUILT", "REFUND_BUILT") or row.hex is not None:
            return
        escrow = desk.escrow(row)
        if row.gross:
            state = row.newest_state
            if state is None:
                raise BadTransition("a channel with a gross has a signed state")
        else:
            spend = contract.closing(escrow, desk.counted(row), 0)
            signatures = await self._sign(row, spend, row.buyer_pubkey)
            state = contract.make_state(escrow, spend, signatures, seq=row.seq + 1, gross=0)
        reply = await desk.peers.settle(row.peer, channel_id, state)
        tx = contract.checked(escrow, contract.check_state(escrow, state), coin_tx.parse_tx(reply.hex))
        async with desk.lock(channel_id):
            row = desk.row(channel_id)
            if row.state in ("CLOSE_BUILT", "REFUND_BUILT") and row.hex is None:
                await self._keep(row, tx, None, None)
        hit("close-committed")

    async def submit(self, channel_id: str, _: dict[str, Any]) -> None:
        """Outbox handler: send the transaction that ends the channel."""
        row = self._desk.row(channel_id)
        if row.state not in ("CLOSE_BUILT", "REFUND_BUILT") or row.hex is None or row.txid is None:
            return
        purpose = "close" if row.state == "CLOSE_BUILT" else "refund"
        await self._desk.flopd.submit(row.hex, f"end/{row.id[:32]}/{row.txid}", purpose, row.id)
        hit("close-sent" if purpose == "close" else "refund-sent")

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, channel_id)
            if (fresh.state, fresh.txid) != (row.state, row.txid):
                return fresh
            return rows.move(connection, fresh, "close-sent" if purpose == "close" else "refund-sent")

        row = await self._desk.store.write(commit)
        self._desk.changed(row)
        self._desk.sent.put_nowait(row.id)
        self._desk.log.info(f"{purpose} sent", extra=context(row, txid=row.txid))

    # --- the provider's side ---------------------------------------------------------------------------------------

    async def close_alone(self, channel_id: str, key: str | None = None, *, wait: bool = True) -> ChannelRow:
        """As the provider, close with the newest state; raises NothingToClose, GrossTooSmall, NotConfirmed."""
        async with self._desk.lock(channel_id):
            row = self._desk.row(channel_id)
            if row.state not in rules.LIVE:
                return row
            self._desk.closing.add(channel_id)
            try:
                row = await self._complete_alone(row, key)
            finally:
                self._desk.closing.discard(channel_id)
        hit("close-committed")
        self._desk.outbox.wake()
        self._desk.log.info("channel is being closed", extra=context(row, gross=row.gross, txid=row.txid))
        return await self._ended(channel_id) if wait else row

    async def settle(self, buyer: str, channel_id: str, state: SignedState | None) -> CloseReply:
        """As the provider, answer the buyer's wish to close; the same answer however often it asks.

        Raises PaymentsOpen while an order is running, what `intake.check` raises for the state, WrongAmount for a
        state of gross 0 when something was signed away.
        """
        async with self._desk.lock(channel_id):
            row = intake.provider_row(self._desk, channel_id, buyer)
            if row.hex is not None and row.txid is not None:
                return CloseReply(hex=row.hex, txid=row.txid)
            if row.state not in rules.LIVE:
                raise ChannelClosed(f"the channel is {row.state}")
            running = [
                p for p in self._desk.store.read(lambda c: rows.open_payments(c, channel_id)) if p.state != "DONE"
            ]
            if running:
                raise PaymentsOpen(f"{len(running)} orders of this channel are still being worked on")
            if state is not None and state.gross == 0:
                row = await self._give_back(row, state)
            else:
                if state is not None and intake.check(self._desk, row, state):
                    newer = state
                    row = await self._desk.store.write(lambda c: intake.store(c, self._desk, channel_id, newer))
                    hit("state-stored")
                row = await self._complete(row, None)
        hit("close-committed")
        self._desk.outbox.wake()
        self._desk.log.info("channel is being closed together", extra=context(row, gross=row.gross, txid=row.txid))
        if row.hex is None or row.txid is None:
            raise BadTransition("the closing transaction was not stored")
        return CloseReply(hex=row.hex, txid=row.txid)

    async def _complete_alone(self, row: ChannelRow, key: str | None) -> ChannelRow:
        """Like `_complete`, once more where a state came in that was on its way before new ones were refused."""
        for _ in range(IN_BETWEEN):
            with contextlib.suppress(PaymentsOpen):
                return await self._complete(row, key)
            row = self._desk.row(row.id)
        return await self._complete(row, key)

    async def _complete(self, row: ChannelRow, key: str | None) -> ChannelRow:
        """Add the provider's signatures to the newest state and commit the close."""
        state = row.newest_state
        if state is None or state.gross == 0:
            raise NothingToClose("the buyer has signed nothing away on this channel")
        if rules.at_risk(state.gross):
            raise GrossTooSmall(
                f"{format_flop(state.gross)} FLOP are signed away; a close needs {format_flop(2 * DUST)} FLOP",
                details={"gross": state.gross},
            )
        if row.state != "OPEN":
            raise NotConfirmed("the deposit of the newest state is not confirmed where it was; wait for a new state")
        escrow = self._desk.escrow(row)
        signatures = await self._sign(row, contract.check_state(escrow, state), row.provider_pubkey)
        tx = contract.finish(escrow, state, signatures)
        hit("close-signed")
        return await self._keep(row, tx, "close-built", key)

    async def _give_back(self, row: ChannelRow, state: SignedState) -> ChannelRow:
        """Nothing was signed away: sign that everything goes back to the buyer."""
        if row.gross or row.open:
            raise WrongAmount(f"{format_flop(row.gross)} FLOP are signed away and {row.open} calls unpaid")
        escrow = self._desk.escrow(row)
        seen = self._desk.store.read(lambda c: rows.deposits(c, row.id))
        known = {(d.txid, d.vout, d.amount) for d in seen if d.height is not None and d.spender is None}
        if not {(d.txid, d.vout, d.amount) for d in state.deposits} <= known:
            raise WrongDeposits("the refund spends something that is no unspent deposit of this channel")
        signatures = await self._sign(row, contract.check_state(escrow, state), row.provider_pubkey)
        tx = contract.finish(escrow, state, signatures)
        hit("refund-signed")
        return await self._keep(row, tx, "refund-built", None)

    # --- both ------------------------------------------------------------------------------------------------------

    async def _sign(self, row: ChannelRow, spend: Spend, pubkey: str) -> Sequence[str]:
        raw = coin_tx.serialize_tx(spend.tx).hex()
        return await self._desk.flopd.sign(raw, self._desk.escrow(row).prevouts(spend.deposits), pubkey)

    async def _keep(self, row: ChannelRow, tx: Tx, event: rules.ChannelEvent | None, key: str | None) -> ChannelRow:
        """Commit a transaction that ends the channel, and that it is to be sent."""
        raw, txid = coin_tx.serialize_tx(tx).hex(), coin_tx.txid_of(tx)

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, row.id)
            if (fresh.seq, fresh.gross, fresh.open) != (row.seq, row.gross, row.open):
                # A newer state or order came in while we were signing: what was signed is out of date.
                raise PaymentsOpen("the channel was used meanwhile; try again")
            put(connection, "submit", row.id, {})
            if event is None or (event == "refund-built" and fresh.state == "REFUND_BUILT"):
                return rows.change(connection, fresh, hex=raw, txid=txid)
            return rows.move(connection, fresh, event, key, hex=raw, txid=txid)

        fresh = await self._desk.store.write(commit)
        self._desk.outbox.wake()
        self._desk.changed(fresh)
        return fresh

    async def _ended(self, channel_id: str) -> ChannelRow:
        """The channel once its last transaction was sent, or as it is when that takes longer."""
        until = asyncio.get_running_loop().time() + CLOSE_WAIT_S
        with self._desk.signals.watch(channel_id) as waiter:
            self._desk.outbox.wake()
            while True:
                row = self._desk.row(channel_id)
                if row.state not in ("CLOSE_BUILT", "REFUND_BUILT") or not await waiter.wait(until):
                    return row
