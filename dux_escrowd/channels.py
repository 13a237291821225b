"""The buyer's channels: opening them, topping them up, and the deposits behind them.

A deposit takes three durable steps: flopd builds it, the provider hears of the contract, flopd sends it. A crash
between any two is taken up by the outbox, and every step may be repeated without harm.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelContract, ChannelPage, ProviderTerms
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import (
    ArbiterMissing,
    BadTransition,
    ChainSyncing,
    ChannelClosed,
    ChannelExists,
    Conflict,
    DaemonDown,
    DepositCapReached,
    DepositTooSmall,
    DiskFull,
    DuxError,
    FundingConflicted,
    Internal,
    LockTooFar,
    NotConfirmed,
    PeerMisbehaved,
    Stopping,
    TermsRefused,
    TimedOut,
)
from duxcommon.money import format_flop
from duxcommon.network import Seat
from duxcommon.outbox import put

from . import channel as rules
from . import ledger, rows
from . import terms as voted
from .closing import retire_if_idle
from .contract import Escrow
from .desk import Desk, context
from .failpoints import hit
from .intake import now
from .rows import ChannelRow, FundingRow
from .signing import Pusher

ANNOUNCE_FOR_S = 600
"""A deposit is given up when the provider could not be told of it for so long; it was not sent then."""

UNSURE = (DaemonDown, TimedOut, Stopping, DiskFull, Internal)
"""Answers that leave open whether flopd has built the deposit."""

SENT_WITHIN_S = 60.0
"""How long opening and topping up wait for the deposit to be sent; the outbox goes on after that."""


class Channels:
    """Opens and funds; `Closing` ends."""

    def __init__(self, desk: Desk, pusher: Pusher) -> None:
        self._desk = desk
        self._pusher = pusher
        self._failures: dict[str, DuxError] = {}
        self._rooms: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._indexes: set[int] = set()

    # --- opening ---------------------------------------------------------------------------------------------------

    async def open(self, provider: str, amount: int, key: str) -> ChannelRow:
        """A channel on which `amount` can be signed away; the closing fee is deposited on top of it.

        Returns once the deposit was sent. Raises ChannelExists, DepositCapReached, DepositTooSmall, ProviderUnknown,
        ArbiterMissing, TermsRefused, LockTooFar, RulesPending, and what flopd and the provider answer.
        """
        cap = self._desk.settings.deposit_cap
        if amount > cap:
            raise DepositCapReached(
                f"{format_flop(amount)} FLOP is above the cap of {format_flop(cap)} FLOP for one channel",
                details={"needed": amount, "cap": cap},
            )
        channel_id = self._desk.store.read(lambda c: rows.noted(c, key, "open"))
        if channel_id is not None:
            self._same(channel_id, provider, self._first(channel_id), amount + coin_tx.closing_fee(1))
        else:
            async with self._room(provider):
                live = self._desk.store.read(lambda c: rows.live_channel(c, provider))
                if live is not None:
                    raise ChannelExists(f"channel {live.id} with this provider is {live.state}")
                channel_id = await self._propose(provider, key, lambda terms: amount)
        return await self._sent(channel_id, self._first(channel_id))

    async def make_room(self, provider: str, price: int, key: str) -> bool:
        """Open, extend or replace the channel to `provider` so that `price` will fit; returns once that is sent.

        False when enough is on its way already. `key` is the hold's: the channel opened for it carries it too.
        """
        cap = self._desk.settings.deposit_cap
        async with self._room(provider):
            row = self._desk.store.read(lambda c: rows.live_channel(c, provider))
            if row is not None and row.state == "OPEN":
                extra = 0 if self._ends_soon(row) else self._extra(row, price)
                if extra is None:
                    return False
                if extra and row.tax_bps != await self._tax_now():
                    # Each deposit must fit the rate in force when it confirms.
                    extra = 0
                if extra:
                    funding = await self._add_funding(row, extra, f"{key}/top-up/{now()}")
                    await self._sent(row.id, funding)
                    return True
                rules.first_deposit(price, cap, 0)
                await self._retire(row)
                row = None
            if row is None:
                attempt = self._desk.store.read(rows.next_key_index)
                channel_id = await self._propose(
                    provider,
                    f"{key}/channel/{attempt}",
                    lambda terms: rules.first_deposit(price, cap, terms.min_deposit),
                )
                await self._sent(channel_id, self._first(channel_id))
                return True
            return False

    def _same(self, channel_id: str, provider: str, funding_id: str, amount: int) -> None:
        """Raise Conflict when a key that was used comes with other parameters."""
        row = self._desk.row(channel_id)
        funding = self._desk.store.read(lambda c: rows.funding(c, funding_id))
        if row.peer != provider or funding is None or funding.amount != amount:
            raise Conflict("this key was used for another channel or amount")

    def _room(self, provider: str) -> asyncio.Lock:
        lock = self._rooms.get(provider)
        if lock is None:
            lock = self._rooms[provider] = asyncio.Lock()
        return lock

    def _ends_soon(self, row: ChannelRow) -> bool:
        settings = self._desk.settings
        return self._desk.height() >= self._desk.ends(row) - settings.close_margin - rules.LAST_BLOCKS

    def _extra(self, row: ChannelRow, price: int) -> int | None:
        """What a top-up should add; None when money that is on its way is enough, 0 when the cap forbids it."""
        seen = self._desk.store.read(lambda c: rows.deposits(c, row.id))
        known = {(d.txid, d.vout) for d in seen}
        fundings = self._desk.store.read(lambda c: rows.fundings(c, row.id))
        counting = self._desk.counting(row, seen)
        coming: list[Any] = [d for d in counting if d.spender is None and d.amount >= rules.MIN_INPUT]
        for number, funding in enumerate(fundings):
            if funding.state != "LOST" and (funding.txid, funding.vout) not in known:
                coming.append(coin_tx.Coin("", number, funding.amount))
        pending = coin_tx.usable(coming)
        if pending - row.gross - row.held >= price:
            return None
        if len(coming) >= rules.MAX_DEPOSITS:
            return 0
        extra = rules.top_up(row.line, pending, price, self._desk.settings.deposit_cap)
        # One more input makes the close dearer; that is deposited on top.
        fee = coin_tx.closing_fee(len(coming) + 1) - (coin_tx.closing_fee(len(coming)) if coming else 0)
        return extra + fee if extra else 0

    async def _tax_now(self) -> int:
        """The rate of the next block. Raises RulesPending."""
        return voted.in_force(await self._desk.book_now(), self._desk.height()).parameters.tax_bps

    async def _retire(self, row: ChannelRow) -> None:
        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, row.id)
            return retire_if_idle(connection, rows.change(connection, fresh, retiring=1))

        fresh = await self._desk.store.write(commit)
        self._desk.outbox.wake()
        self._desk.log.info("channel will be replaced", extra=context(fresh, open_payments=fresh.open))
        # The provider opens no new channel while it believes that a call on the old one is unpaid.
        await self._pusher.push(row.id)

    async def _propose(self, provider: str, key: str, amount_of: Callable[[ProviderTerms], int]) -> str:
        """Agree on a contract and commit the channel; its id."""
        desk = self._desk
        height = desk.height()
        chain = await desk.flopd.status()
        if chain.syncing:
            # Refused here, because a deposit that is committed would wait for the chain unseen.
            raise ChainSyncing(
                f"Core is at block {chain.height} of {chain.headers}; no channel is opened before it has caught up"
            )
        book = await desk.book_now()
        arbiter = await self._arbiter(provider, voted.in_force(book, height).arbiters)
        index = desk.store.read(rows.next_key_index)
        while index in self._indexes:
            index += 1
        self._indexes.add(index)
        try:
            buyer = (await desk.flopd.new_key(f"channel/{index}")).pubkey
            terms = await desk.peers.propose(provider, buyer, arbiter)
            amount = amount_of(terms)
            self._check_terms(terms, amount, height, await desk.payout_pubkey())
            lock_height = height + desk.settings.lock_blocks
            voted.check_tax(book, terms.tax_bps, height)
            voted.check_fund(book, terms.fund_script, height, lock_height)
            contract = ChannelContract(
                provider_pubkey=terms.payout_pubkey,
                buyer_pubkey=buyer,
                arbiter_pubkey=arbiter,
                lock_height=lock_height,
                tax_bps=terms.tax_bps,
                fund_script=terms.fund_script,
            )
            row = ChannelRow(
                0, Escrow.of(contract, desk.min_tax).id, "buyer", provider, "NEW",
                contract.provider_pubkey, buyer, arbiter, contract.lock_height, contract.tax_bps,
                contract.fund_script, terms.max_unpaid, height, index, now(),
            )  # fmt: skip
            funding = FundingRow(self._first(row.id), row.id, amount + coin_tx.closing_fee(1), "NEW")

            def commit(connection: sqlite3.Connection) -> None:
                rows.insert_channel(connection, row)
                rows.note(connection, key, row.id, "open", "NEW")
                rows.insert_funding(connection, funding)
                put(connection, "fund", funding.id, {})

            await desk.store.write(commit)
        finally:
            self._indexes.discard(index)
        hit("open-committed")
        desk.log.info("channel is being opened", extra=context(row, amount=funding.amount))
        return row.id

    def _check_terms(self, terms: ProviderTerms, amount: int, height: int, own_payout: str) -> None:
        if terms.payout_pubkey == own_payout:
            raise TermsRefused("the provider is this node itself", hint="Buy from another node.")
        # A smaller output is not counted as a deposit and not worth taking back, whatever the provider asks for.
        least = max(terms.min_deposit, rules.MIN_INPUT)
        if amount < least:
            raise DepositTooSmall(
                f"the provider asks for at least {format_flop(least)} FLOP, {format_flop(amount)} FLOP were offered",
                details={"min_deposit": least, "amount": amount},
            )
        if abs(terms.height - height) > voted.AHEAD:
            raise LockTooFar(
                f"the provider's chain is at height {terms.height}, this node's at {height}",
                details={"theirs": terms.height, "ours": height},
                hint="One of the two nodes is not in sync with the chain; wait until both are.",
            )

    async def _arbiter(self, provider: str, known: Sequence[Seat]) -> str:
        """An arbiter in force that is neither of both sides; spread by the provider's id."""
        own = await self._desk.payout_pubkey()
        chosen = voted.arbiters_apart(known, provider, own, self._desk.settings.arbiters)
        if not chosen:
            raise ArbiterMissing("no trusted arbiter of this network is apart from buyer and provider")
        return chosen[int(hashlib.sha256(provider.encode()).hexdigest()[:8], 16) % len(chosen)]

    # --- topping up ------------------------------------------------------------------------------------------------

    async def topup(self, channel_id: str, amount: int, key: str) -> ChannelRow:
        """Add to a channel's deposit; returns once that was sent.

        Raises BadTransition unless the channel is OPEN, ours and under the rate in force, DepositCapReached,
        RulesPending, and what flopd answers.
        """
        row = self._desk.row(channel_id)
        funding_id = hashlib.sha256(f"top-up/{channel_id}/{key}".encode()).hexdigest()[:32]
        if self._desk.store.read(lambda c: rows.noted(c, key, "top-up")) is not None:
            self._same(channel_id, row.peer, funding_id, amount)
        else:
            if row.role != "buyer" or row.state != "OPEN" or row.retiring:
                raise BadTransition(f"a channel in state {row.state} can't be topped up by this node")
            if row.tax_bps != await self._tax_now():
                raise BadTransition("the channel carries a tax that is no longer in force; close it and open another")
            cap = self._desk.settings.deposit_cap
            seen = {(d.txid, d.vout) for d in self._desk.store.read(lambda c: rows.deposits(c, channel_id))}
            sent = [f for f in self._desk.store.read(lambda c: rows.fundings(c, channel_id)) if f.state != "LOST"]
            needed = row.pending + amount + sum(f.amount for f in sent if (f.txid, f.vout) not in seen)
            if needed > cap:
                raise DepositCapReached(
                    f"the channel would hold {format_flop(needed)} FLOP, the cap is {format_flop(cap)}",
                    details={"needed": needed, "cap": cap},
                )
            if len(sent) >= rules.MAX_DEPOSITS:
                raise BadTransition(f"the channel has {len(sent)} deposits already; close it and open another")
            if amount < rules.MIN_INPUT:
                raise DepositTooSmall(f"a top-up is at least {format_flop(rules.MIN_INPUT)} FLOP")
            funding_id = await self._add_funding(row, amount, key)
        return await self._sent(channel_id, funding_id)

    async def _add_funding(self, row: ChannelRow, amount: int, key: str) -> str:
        funding = FundingRow(hashlib.sha256(f"top-up/{row.id}/{key}".encode()).hexdigest()[:32], row.id, amount, "NEW")

        def commit(connection: sqlite3.Connection) -> None:
            rows.note(connection, key, row.id, "top-up", row.state)
            rows.insert_funding(connection, funding)
            put(connection, "fund", funding.id, {})

        await self._desk.store.write(commit)
        self._desk.log.info("channel is being topped up", extra=context(row, amount=amount))
        return funding.id

    # --- deposits, from the outbox ---------------------------------------------------------------------------------

    @staticmethod
    def _first(channel_id: str) -> str:
        return channel_id[:32]

    async def _sent(self, channel_id: str, funding_id: str) -> ChannelRow:
        """Wait until a deposit was sent; raises why it was not, or NotConfirmed when that takes too long."""
        until = asyncio.get_running_loop().time() + SENT_WITHIN_S
        with self._desk.signals.watch(channel_id) as waiter:
            self._desk.outbox.wake()
            while True:
                funding = self._desk.store.read(lambda c: rows.funding(c, funding_id))
                row = self._desk.row(channel_id)
                if funding is None or funding.state == "LOST":
                    failure = self._failures.pop(funding_id, None)
                    raise failure or FundingConflicted(row.reason or "the deposit was given up")
                if funding.state == "SENT":
                    return row
                if not await waiter.wait(until):
                    raise NotConfirmed(
                        "the deposit was not sent yet; it goes on by itself", hint="Look at `dux-ctl channel list`."
                    )

    async def fund(self, funding_id: str, _: dict[str, Any]) -> None:
        """Outbox handler: bring one deposit from NEW to SENT."""
        funding = self._desk.store.read(lambda c: rows.funding(c, funding_id))
        if funding is None or funding.state in ("SENT", "LOST"):
            return
        row = self._desk.row(funding.channel)
        try:
            if row.state not in rules.LIVE:
                raise ChannelClosed(f"the channel is {row.state}")
            await self._check_rate(row, funding)
            if funding.state == "NEW":
                funding = await self._build(row, funding)
                row = self._desk.row(funding.channel)
            if row.state == "FUND_BUILT":
                await self._announce(row, funding)
            await self._send(row, funding)
        except DuxError as error:
            # Given up while nobody knows whether flopd has built it, its coins would stay locked for ever.
            unsure = funding.state == "NEW" and isinstance(error, UNSURE)
            if unsure or (error.retry and now() - row.created < ANNOUNCE_FOR_S):
                raise
            await self._give_up(row, funding, error)

    async def _check_rate(self, row: ChannelRow, funding: FundingRow) -> None:
        """A deposit that waited for long must not be sent any more when the rate of its channel was replaced.

        Raises TermsRefused and RulesPending; says nothing of a deposit that may have been sent.
        """
        if funding.intent is not None and (await self._desk.flopd.intent(funding.intent)).state != "built":
            return
        voted.check_tax(await self._desk.book_now(), row.tax_bps, self._desk.height())

    async def _build(self, row: ChannelRow, funding: FundingRow) -> FundingRow:
        escrow = self._desk.escrow(row)
        intent = await self._desk.flopd.fund(escrow.script, funding.amount, escrow.note(), f"fund/{funding.id}", row.id)
        tx = coin_tx.parse_tx(intent.hex)
        vout = next(n for n, output in enumerate(tx.vout) if output.script_pub_key.script == escrow.script)
        hit("fund-built")

        def commit(connection: sqlite3.Connection) -> None:
            rows.change_funding(
                connection, funding.id, state="BUILT", intent=intent.id, txid=intent.txid, vout=vout, fee=intent.fee
            )
            if row.state == "NEW":
                rows.move(connection, row, "fund-built")

        await self._desk.store.write(commit)
        hit("fund-built-committed")
        return FundingRow(funding.id, row.id, funding.amount, "BUILT", intent.id, intent.txid, vout, intent.fee)

    async def _announce(self, row: ChannelRow, funding: FundingRow) -> None:
        """The provider hears of the contract first: what it would refuse is never paid into."""
        if funding.txid is None or funding.vout is None:
            raise BadTransition("the deposit is not built")
        ack = await self._desk.peers.funded(
            row.peer, row.contract, [Deposit(txid=funding.txid, vout=funding.vout, amount=funding.amount)]
        )
        if ack.channel != row.id:
            raise PeerMisbehaved("the provider made another channel of the same contract")
        hit("fund-announced")

    async def _send(self, row: ChannelRow, funding: FundingRow) -> None:
        if funding.intent is None:
            raise BadTransition("the deposit is not built")
        await self._desk.flopd.watch(self._desk.escrow(row).script, row.id, row.birth)
        await self._desk.flopd.broadcast(funding.intent)
        hit("fund-sent")

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, row.id)
            rows.change_funding(connection, funding.id, state="SENT")
            if fresh.state == "FUND_BUILT":
                fresh = rows.move(connection, fresh, "fund-sent")
            ledger.deposit_sent(connection, fresh, funding)
            return fresh

        row = await self._desk.store.write(commit)
        hit("fund-sent-committed")
        self._desk.changed(row)
        self._desk.sent.put_nowait(row.id)
        self._desk.log.info("deposit sent", extra=context(row, amount=funding.amount, fee=funding.fee))

    async def _give_up(self, row: ChannelRow, funding: FundingRow, error: DuxError) -> None:
        """Nothing was sent: free the coins and say why. Where it may have been sent, flopd refuses and it goes on."""
        if funding.intent is not None:
            intent = await self._desk.flopd.intent(funding.intent)
            if intent.state not in ("conflicted", "cancelled"):
                await self._desk.flopd.cancel(funding.intent)
        reason = f"{error.name}: {error.message}"[:500]

        def commit(connection: sqlite3.Connection) -> ChannelRow:
            fresh = rows.channel(connection, row.id)
            rows.change_funding(connection, funding.id, state="LOST")
            if fresh.state in ("NEW", "FUND_BUILT"):
                fresh = rows.move(connection, fresh, "abandoned", reason=reason, settled=1)
            return fresh

        # Before the commit: whoever waits for the deposit looks as soon as the row has changed.
        self._failures[funding.id] = error
        row = await self._desk.store.write(commit)
        self._desk.changed(row)
        self._desk.log.info("deposit given up", extra=context(row, why=reason))

    # --- reading ---------------------------------------------------------------------------------------------------

    def list(self, state: str | None, limit: int, after: int | None) -> ChannelPage:
        """Newest first."""
        found = self._desk.store.read(lambda c: rows.channels_page(c, state, limit + 1, after))
        more = len(found) > limit
        return ChannelPage(
            channels=[self._desk.wire(row) for row in found[:limit]], next=str(found[limit - 1].n) if more else None
        )
