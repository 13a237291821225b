"""Follows the chain: one loop asks Core for its tip, reads each new block once, and notices reorganisations."""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from duxcommon.api.flopd import Watched
from duxcommon.coin.params import ChainParams
from duxcommon.coin.script import address_of
from duxcommon.coin.settlement import Prevout
from duxcommon.db import Store
from duxcommon.errors import ChainDown, ChainFault, ChainSyncing, DuxError

from . import facts, outputs
from .blocks import Block, SeenTx, parse_block, parse_seen
from .core import ChainInfo, Core, Dialect, OutpointKey
from .outputs import Tip, Unconnected
from .scan import Found, scan

BATCH = 16
"""Blocks that are read at once and committed together."""
CATCH_UP_S = 1.0
"""So long old blocks are read for a new script before the tip is looked at again."""
STALE_S = 6 * 3600
"""A tip whose time is this far back means that Core is not in touch with the network."""
SETTLE_S = 10.0
"""So long a question waits until the block that Core already has was looked at."""

Hook = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was last heard of the chain."""

    tip: Tip
    headers: int
    syncing: bool
    peers: int
    dialect: Dialect
    version: str


class Watcher:
    """One loop over one Core. `seen` is None until Core has answered once."""

    def __init__(self, core: Core, store: Store, params: ChainParams, poll_s: float, birth: int) -> None:
        self._core = core
        self._store = store
        self._params = params
        self.poll_s = poll_s
        self._birth = birth
        self._log = logging.getLogger("flopd")
        self.tip: Tip | None = store.read(outputs.tip)
        self.seen: Seen | None = None
        self.problem: DuxError | None = ChainDown("flopd has not reached Core yet")
        """Why the chain can't be followed at the moment."""
        self._rounds = 0
        """Looks that came to the tip that Core had then, or failed."""
        self._more = False
        """The present look ends before that, to answer questions in between."""
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._mempool_lock = asyncio.Lock()
        self._mempool_at = 0.0
        self._noted: set[str] = set()
        self._ours: dict[str, float] = {}
        self.on_connect: list[Hook] = []
        """Called each time Core is there again: it may have forgotten locks and transactions."""
        self.on_block: list[Hook] = []
        self.on_freed: Callable[[list[OutpointKey]], Awaitable[None]] | None = None
        """Called with coins that another transaction no longer needs."""

    # --- the loop --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the chain for ever; whatever goes wrong is kept in `problem` and tried again."""
        while True:
            self._wake.clear()
            await self.round()
            # Not wait_for: before Python 3.12 it can swallow the cancellation that ends this loop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.poll_s):
                    await self._wake.wait()

    async def round(self) -> None:
        """Look once."""
        self._more = False
        try:
            await self._look()
        except DuxError as error:
            if self.problem is None or self.problem.name != error.name:
                self._log.warning("the chain can't be followed", extra={"error": error.name, "why": error.message})
            self.problem = error
        except Unconnected:
            # The chain changed while it was read; the next look finds where.
            return
        else:
            if self.problem is not None:
                self._log.info("following the chain", extra={"height": self.tip.height if self.tip else -1})
            self.problem = None
        self._rounds += int(not self._more)
        async with self._changed:
            self._changed.notify_all()

    async def _look(self) -> None:
        known = self.seen if self.problem is None else None
        dialect = known.dialect if known else await self._core.dialect()
        info = await self._core.chain_info()
        moved = self.tip is None or self.tip.hash != info.best
        if known is None or moved:
            version, peers = await self._core.network_info()
        else:
            version, peers = known.version, known.peers
        if moved:
            await self._advance(info)
        if known is None or moved:
            await self._read_mempool()
        assert self.tip is not None
        # Only now: who is told of a block finds its effects, those on the mempool included.
        self.seen = Seen(self.tip, info.headers, self._is_syncing(info), peers, dialect, version)
        if known is None:
            for hook in self.on_connect:
                await hook()
        await self._catch_up()
        if known is None or moved:
            for hook in self.on_block:
                await hook()

    def _is_syncing(self, info: ChainInfo) -> bool:
        # Trial chains stand still for days; a real one does not.
        stale = not self._params.worthless and time.time() - info.median_time > STALE_S
        # Flopd itself may still be on its way to Core's tip.
        return stale or self.tip is None or info.headers > self.tip.height + 1

    async def _advance(self, info: ChainInfo) -> None:
        """Bring the stored chain to Core's."""
        top = self._store.read(outputs.tip)
        if top is None:
            # The blocks before say nothing of this node's money. What they say to everybody is read in `_catch_up`.
            await self._jump(Tip(info.height, info.best))
            return
        fork = await self._fork(info)
        if fork is None:
            self._log.warning("the chain was reorganised deeper than what is kept", extra={"height": info.height})
            await self._store.write(lambda c: outputs.undo_above(c, -1))
            await self._jump(Tip(info.height, info.best))
            return
        if fork < top.height:
            self._log.info("the chain was reorganised", extra={"from": top.height, "back_to": fork})
            await self._store.write(lambda c: self._undo_above(c, fork))
        until = time.monotonic() + CATCH_UP_S
        for first in range(fork + 1, info.height + 1, BATCH):
            if time.monotonic() > until:
                self._more = True
                self._wake.set()
                break
            last = min(first + BATCH - 1, info.height)
            await self._apply(first, await self._read(first, last), live=True)
        self.tip = self._store.read(outputs.tip)

    @staticmethod
    def _undo_above(connection: sqlite3.Connection, height: int) -> None:
        outputs.undo_above(connection, height)
        facts.undo_above(connection, height)

    async def _jump(self, to: Tip) -> None:
        await self._store.write(lambda c: outputs.jump(c, to))
        self.tip = to

    async def _fork(self, info: ChainInfo) -> int | None:
        """Height of the newest stored block that is still in Core's chain."""
        for block in self._store.read(outputs.kept):
            if block.height <= info.height and await self._core.block_hash(block.height) == block.hash:
                return block.height
        return None

    async def _read(self, first: int, last: int) -> list[Block]:
        hashes = await asyncio.gather(*(self._core.block_hash(height) for height in range(first, last + 1)))
        raw = await asyncio.gather(*(self._core.block(found) for found in hashes if found is not None))
        blocks = await asyncio.to_thread(lambda: [parse_block(data) for data in raw])
        for older, newer in itertools.pairwise(blocks):
            if newer.prev != older.hash:
                raise Unconnected
        return blocks

    async def _apply(self, first: int, blocks: list[Block], *, live: bool) -> None:
        # Not inside the write: signatures take long to check.
        found = await asyncio.to_thread(self._scan, first, blocks)

        def change(connection: sqlite3.Connection) -> list[OutpointKey]:
            freed = []
            for height, block in enumerate(blocks, first):
                freed += outputs.apply(connection, block, height, live=live)
                if height in found:
                    facts.apply(connection, block, height, found[height])
            return freed

        freed = await self._store.write(change)
        if freed and self.on_freed is not None:
            await self.on_freed(freed)

    def _scan(self, first: int, blocks: list[Block]) -> dict[int, Found]:
        """What those of the blocks say whose facts are not known yet, if the next one is among them."""
        start = self._next_fact()
        if not first <= start < first + len(blocks):
            return {}
        fresh: dict[OutpointKey, Prevout] = {}

        def known(spent: OutpointKey) -> Prevout | None:
            return fresh.get(spent) or self._store.read(lambda c: facts.deposit(c, spent))

        found = {}
        for height in range(start, first + len(blocks)):
            found[height] = scan(blocks[height - first], height, known)
            fresh.update((made.outpoint, made.prevout) for made in found[height].deposits)
        return found

    def _next_fact(self) -> int:
        at = self._store.read(facts.tip)
        return self._birth if at is None else at.height + 1

    def reading(self) -> tuple[int, int] | None:
        """How far the reading of old blocks has come, and how far it has to; None when it is done."""
        start = self._next_fact()
        return (start, self.tip.height) if self.tip is not None and start <= self.tip.height else None

    def _behind(self, height: int) -> int | None:
        """The next block up to `height` to read again: for scripts first, which somebody waits for, then for facts."""
        first = self._store.read(lambda c: outputs.lagging(c, height))
        start = self._next_fact()
        return first if first is not None or start > height else start

    async def _rewind_facts(self) -> None:
        """Forget what blocks said that are not in Core's chain, however deep they lie."""
        at = self._store.read(facts.tip)
        if at is None or at == self.tip or await self._core.block_hash(at.height) == at.hash:
            return
        good, bad, step = self._birth - 1, at.height, 1
        while (height := at.height - step) >= self._birth:
            if await self._is_read(height):
                good = height
                break
            bad, step = height, step * 2
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if await self._is_read(middle) else (good, middle)
        self._log.warning("facts are read again", extra={"from": good + 1, "to": at.height})
        await self._store.write(lambda c: facts.undo_above(c, good))

    async def _is_read(self, height: int) -> bool:
        return await self._core.block_hash(height) == self._store.read(lambda c: facts.hash_at(c, height))

    async def _catch_up(self) -> None:
        """Read old blocks for what they say, and for scripts that were added with an earlier birth."""
        assert self.tip is not None
        await self._rewind_facts()
        until = time.monotonic() + CATCH_UP_S
        height = self.tip.height
        while (first := self._behind(height)) is not None:
            if time.monotonic() > until:
                self._wake.set()
                return
            last = min(first + BATCH - 1, height)
            await self._apply(first, await self._read(first, last), live=False)

    # --- the mempool -----------------------------------------------------------------------------------------

    async def _read_mempool(self) -> None:
        """Note what waits in the mempool for the watched scripts, and forget what no longer does."""
        async with self._mempool_lock:
            started = self._mempool_at = time.monotonic()
            if not self._store.read(outputs.any_watched):
                return
            waiting = self._store.read(outputs.unconfirmed)
            assert self.tip is not None
            found = await self._core.unconfirmed(self.tip.hash)
            alive = {txid for txid, confirmations in found.items() if confirmations >= 0}
            fresh = [txid for txid in alive - self._noted if found[txid] == 0]
            known = [await self._core.transaction(txid) for txid in fresh]
            seen = [parse_seen(tx.hex) for tx in known if tx is not None]
            # A transaction that was sent while Core made its list is not gone.
            gone = {txid for txid in waiting - alive if self._ours.get(txid, 0.0) < started}
            if seen or gone:
                await self._store.write(lambda c: outputs.mempool(c, gone, seen))
            self._noted = (self._noted & alive) | set(fresh)
            self._ours = {txid: at for txid, at in self._ours.items() if at >= started}

    async def note(self, seen: SeenTx) -> None:
        """A transaction of ours has just entered the mempool."""
        self._ours[seen.txid] = time.monotonic()
        await self._store.write(lambda c: outputs.note(c, [seen]))

    # --- questions -------------------------------------------------------------------------------------------

    def current(self) -> Seen:
        """What is known of the chain. Raises the present problem (ChainDown, WrongChain, …)."""
        if self.problem is not None:
            raise _again(self.problem)
        assert self.seen is not None
        return self.seen

    def ready(self) -> None:
        """Raise unless the chain can be followed and Core has caught up (ChainSyncing)."""
        seen = self.current()
        if seen.syncing:
            raise ChainSyncing(
                f"Core is at block {seen.tip.height} of {max(seen.headers, seen.tip.height)}",
                details={"height": seen.tip.height, "headers": seen.headers},
            )

    async def fresh(self) -> Seen:
        """Like `current`, after Core has been asked for its tip and that block was looked at."""
        best = await self._core.best_hash()
        if self.problem is not None or self.tip is None or self.tip.hash != best:
            # One round may have begun before the block was there; the one after it can't have.
            last = self._rounds + 2
            self._wake.set()
            await self._until(lambda: self._rounds >= last or self._is_at(best), SETTLE_S)
        return self.current()

    async def first_round(self, timeout_s: float) -> None:
        """Return once the chain was looked at for the first time, whatever came of it."""
        await self._until(lambda: self._rounds > 0, timeout_s)

    async def wait(self, best: str, timeout_s: float) -> Seen:
        """Return as soon as the tip differs from `best`, or after the timeout. Raises like `current`."""
        await self._until(lambda: self.seen is not None and not self._is_at(best) and self.problem is None, timeout_s)
        return self.current()

    def _is_at(self, best: str) -> bool:
        return self.seen is not None and self.seen.tip.hash == best

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with self._changed, asyncio.timeout(timeout_s):
                await self._changed.wait_for(done)

    async def watch(self, script: str, ref: str, birth: int | None) -> None:
        """Follow a script and let it catch up, as far as that takes no longer than SETTLE_S.

        The script is imported watch-only first: without that its mempool transactions would stay unseen.
        """
        await self._store.write(lambda c: outputs.watch(c, script, ref, birth))
        await self._import([script])
        self._wake.set()
        await self._until(self._caught_up(script), SETTLE_S)

    def _caught_up(self, script: str) -> Callable[[], bool]:
        def done() -> bool:
            return self.tip is not None and self._store.read(lambda c: outputs.scanned(c, script)) >= self.tip.height

        return done

    async def import_scripts(self) -> None:
        """Give Core those watched scripts that it does not know yet."""
        await self._import(self._store.read(outputs.to_import))

    async def _import(self, scripts: list[str]) -> None:
        for script in scripts:
            if not self._store.read(partial(outputs.is_imported, script=script)):
                address = address_of(bytes.fromhex(script), self._params)
                await self._core.watch(address or script, "")
                await self._store.write(partial(outputs.imported, script=script))

    async def watched(self, ref: str, min_height: int) -> Watched:
        """All outputs under a name. Raises WatchUnknown."""
        if self.problem is None and time.monotonic() - self._mempool_at > self.poll_s:
            try:
                await self._read_mempool()
            except (ChainDown, ChainFault):
                # The confirmed part of the answer is as good without the mempool.
                self._wake.set()
        return self._store.read(lambda c: outputs.watched(c, ref, min_height))


def _again(error: DuxError) -> DuxError:
    """A fresh copy to raise: raising one exception object many times would chain all those tracebacks."""
    return type(error)(error.message, hint=error.hint, details=error.details)
