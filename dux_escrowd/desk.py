"""What every service of the daemon works at: the store, the other daemons, the network's rules, the chain's height."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import Channel
from duxcommon.coin.params import CHAINS
from duxcommon.db import Store
from duxcommon.errors import ChainDown, DaemonDown, RulesPending
from duxcommon.network import NetworkDefinition
from duxcommon.outbox import Outbox
from duxcommon.rulebook import Book

from . import channel as rules
from . import rows, terms
from .channel import ChainDeposit, Coverage
from .contract import Escrow, shares
from .ports import Flopd, Peers, Rulekeeping
from .rows import ChannelRow
from .settings import EscrowSettings

KEPT_ESCROWS = 1024
BLIND_S = 600.0
"""A provider that has not heard of the chain for so long serves nobody: it could not close in time."""


class Waiter:
    """Wakes when its subject changed; see `Signals.watch`."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self, until: float) -> bool:
        """Wait for a change since the last wait, until that loop time; False when it passed."""
        try:
            async with asyncio.timeout_at(until):
                await self.event.wait()
        except TimeoutError:
            return False
        self.event.clear()
        return True


class Signals:
    """Tells waiting calls that a channel changed. Nothing depends on it: who waits looks at the database."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}

    def notify(self, subject: str) -> None:
        """Wake everyone who watches `subject`."""
        for waiter in self._waiters.get(subject, ()):
            waiter.event.set()

    @contextmanager
    def watch(self, subject: str) -> Iterator[Waiter]:
        """Begin to watch before looking, so that no change is missed."""
        waiter = Waiter()
        self._waiters.setdefault(subject, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiters[subject]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[subject]


class Desk:
    """Shared by the services; holds no rules of its own."""

    outbox: Outbox
    """Set by the daemon once the services exist."""

    def __init__(
        self,
        store: Store,
        flopd: Flopd,
        peers: Peers,
        rulekeeper: Rulekeeping,
        network: NetworkDefinition,
        settings: EscrowSettings,
    ) -> None:
        self.store = store
        self.flopd = flopd
        self.peers = peers
        self.settings = settings
        self._rulekeeper = rulekeeper
        self.min_tax = network.parameters.min_tax
        self.block_seconds = CHAINS[network.chain].block_seconds
        self.signals = Signals()
        self.log = logging.getLogger("escrowd")
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        """Channels of which a transaction was just sent: a block may have it before the next look at all of them."""
        self.closing: set[str] = set()
        """Channels that this node is closing alone right now: a buyer that goes on signing must not prevent it."""
        self.tip_moved = asyncio.Event()
        """Set whenever flopd tells the tip."""
        self._tip: int | None = None
        self.tip_told = time.monotonic()
        """When flopd told the tip last, on the monotonic clock."""
        self._payout: str | None = None
        self._escrows: dict[str, Escrow] = {}
        self._counted: dict[str, tuple[ChainDeposit, ...]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def tip(self) -> int | None:
        """The chain's tip as flopd told it last; None until it has."""
        return self._tip

    @tip.setter
    def tip(self, height: int) -> None:
        self._tip, self.tip_told = height, time.monotonic()
        self.tip_moved.set()

    def height_now(self) -> int:
        """The chain's tip, for promises of work; raises ChainDown when flopd has told nothing for BLIND_S."""
        if self._tip is not None and time.monotonic() - self.tip_told > BLIND_S:
            raise ChainDown(
                "the provider can't follow the chain at the moment and takes no orders",
                hint="Try again later, or choose another provider.",
            )
        return self.height()

    def height(self) -> int:
        """The chain's tip; raises DaemonDown until flopd has told it."""
        if self.tip is None:
            raise DaemonDown("flopd has not told the height of the chain yet")
        return self.tip

    @property
    def book(self) -> Book:
        """The rules as known now."""
        return self._rulekeeper.book

    async def book_now(self) -> Book:
        """The rules, known for the next block at least. Raises RulesPending, and what `height` raises."""
        height = self.height() + 1
        if self.book.known_to < height:
            await self._rulekeeper.refresh()
        if self.book.known_to < height:
            why = f": {self._rulekeeper.trouble}" if self._rulekeeper.trouble else ""
            raise RulesPending(
                f"the rules at block {height} are not known here, only those up to {self.book.known_to}{why}",
                hint="Open channels go on; new ones wait until dux-airdropd has read the chain: `dux-ctl status`.",
                details={"height": height, "known_to": self.book.known_to},
            )
        return self.book

    async def payout_pubkey(self) -> str:
        """This node's payout key: the provider key in all channels in which it sells."""
        if self._payout is None:
            self._payout = (await self.flopd.payout()).pubkey
        return self._payout

    def escrow(self, row: ChannelRow) -> Escrow:
        """The channel's scripts, kept for the channels used last."""
        found = self._escrows.pop(row.id, None)
        if found is None:
            found = Escrow.of(row.contract, self.min_tax)
            if len(self._escrows) >= KEPT_ESCROWS:
                del self._escrows[next(iter(self._escrows))]
        self._escrows[row.id] = found
        return found

    def ends(self, row: ChannelRow) -> int:
        """The height before which the channel must be closed: at its lock height the buyer can take all back.

        Before that where its fund script was replaced long ago, and a payment to it would not count any more.
        """
        last = terms.counts_until(self.book, row.fund_script)
        return row.lock_height if last is None else min(row.lock_height, last + 1)

    def counting(self, row: ChannelRow, seen: Sequence[ChainDeposit]) -> Sequence[ChainDeposit]:
        """The deposits of a channel that states may spend once they are deep enough."""

        def signed() -> set[tuple[str, int]]:
            newest = row.newest_state
            return set() if newest is None else {(d.txid, d.vout) for d in newest.deposits}

        return terms.counting(self.book, row.tax_bps, seen, signed)

    def coverage(self, row: ChannelRow, seen: Sequence[ChainDeposit], tip: int) -> Coverage:
        """What these deposits of the channel are good for at a height."""
        return rules.cover(self.counting(row, seen), tip)

    def cover(self, row: ChannelRow) -> Coverage:
        """What the channel's deposits are good for, from what the chain showed last."""
        return self.coverage(row, self.store.read(lambda c: rows.deposits(c, row.id)), self.height())

    def counted(self, row: ChannelRow) -> tuple[ChainDeposit, ...]:
        """The deposits that a state may spend, kept between blocks."""
        found = self._counted.get(row.id)
        if found is None:
            found = self._counted[row.id] = self.cover(row).counted
        return found

    def set_counted(self, channel_id: str, counted: tuple[ChainDeposit, ...]) -> None:
        """The chain showed something new."""
        self._counted[channel_id] = counted

    def forget(self, channel_id: str) -> None:
        """The channel is at its end."""
        self._counted.pop(channel_id, None)
        self._escrows.pop(channel_id, None)

    def lock(self, channel_id: str) -> asyncio.Lock:
        """Held while something is signed on a channel, so that no two states are made at once."""
        lock = self._locks.get(channel_id)
        if lock is None:
            lock = self._locks[channel_id] = asyncio.Lock()
        return lock

    def changed(self, row: ChannelRow) -> None:
        """Wake the calls that wait for this channel, or for room on any channel to its peer."""
        self.signals.notify(row.id)
        self.signals.notify(row.peer)

    def row(self, channel_id: str) -> ChannelRow:
        """Raises ChannelUnknown."""
        return self.store.read(lambda c: rows.channel(c, channel_id))

    def wire(self, row: ChannelRow) -> Channel:
        """A channel as callers see it."""
        seen = self.store.read(lambda c: rows.deposits(c, row.id))
        view = self.coverage(row, seen, self.tip or 0)
        deposits: list[Deposit] = [rows.as_deposit(one) for one in seen]
        if not deposits and row.role == "buyer":
            planned = self.store.read(lambda c: rows.fundings(c, row.id))
            deposits = [
                Deposit(txid=f.txid, vout=f.vout, amount=f.amount) for f in planned if f.txid and f.vout is not None
            ]
        return Channel(
            id=row.id,
            role=row.role,
            peer=row.peer,
            state=row.state,
            contract=row.contract,
            deposits=deposits,
            deposited=sum(one.amount for one in deposits),
            usable=row.usable,
            gross=row.gross,
            held=row.held,
            seq=row.seq,
            acked_seq=row.acked_seq,
            max_unpaid=row.max_unpaid,
            confirmations=view.confirmations,
            confirmations_needed=view.needed,
            blocks_left=None if self.tip is None else max(0, row.lock_height - self.tip),
            close_txid=row.txid,
            tax=shares(row.gross, row.tax_bps, self.min_tax).tax,
            at_risk=rules.at_risk(row.gross),
        )


def context(row: ChannelRow, **more: Any) -> dict[str, Any]:
    """What a log line says about a channel."""
    return {"channel": row.id[:16], "peer": row.peer[:16], "state": row.state, **more}
