"""Keeps a store in step with what flopd finds in the chain, through restarts and reorganisations.

What was read and how far are committed together, so a consumer that is killed goes on where it was. Of every reading
the block at its end is kept; when the chain has moved, everything above the newest of those that is still in it is
undone and read again, however deep that is.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .api.flopd import BlockRef, Place
from .db import Store
from .errors import ChainMoved
from .rpc import Client

CHUNK = 2000
"""Heights that are read and committed at once at most."""

PAGE = 1000
"""Facts that are asked for at once; two pages are held at most, unless one block alone says more."""

KEPT = 200
"""Every block at which a reading ended is kept so long; of older ones, one in CHUNK."""

MIGRATION = "CREATE TABLE followed (height INTEGER PRIMARY KEY, hash TEXT NOT NULL) STRICT;"
"""Belongs into the migrations of the store that a Follower is given."""


class Fact(Protocol):
    """Anything that has a place in the chain."""

    @property
    def at(self) -> Place: ...


class Page(Protocol):
    """A reply of flopd: facts in the order of their places."""

    @property
    def facts(self) -> Sequence[Any]: ...
    @property
    def next(self) -> Place | None: ...
    @property
    def tip(self) -> BlockRef: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of facts: how to ask for them, what to do with them and how to undo that.

    `apply` gets facts in the order of their places, each fact once; `undo` forgets what came from above a height.
    Both run inside a write of the store.
    """

    method: str
    page: type[Any]
    """A model with `facts`, `next` and `tip`."""
    apply: Callable[[sqlite3.Connection, Sequence[Any]], None]
    undo: Callable[[sqlite3.Connection, int], None]


class _Moved(Exception):
    """The chain changed between two questions."""


class Follower:
    """One reader of flopd's facts for one store. `birth` is the first block that matters."""

    def __init__(self, store: Store, flopd: Client, birth: int, kinds: Sequence[Kind]) -> None:
        self._store = store
        self._flopd = flopd
        self._birth = birth
        self._kinds = kinds
        self._lock = asyncio.Lock()

    def synced(self) -> BlockRef | None:
        """The last block up to which everything is in the store; None before the first reading."""
        return next(iter(self._store.read(lambda c: _refs(c, 1))), None)

    async def sync(self, limit_height: int | None = None) -> BlockRef:
        """Read on to the last block that flopd has looked at, or to `limit_height`, and return where that is.

        Raises what flopd answers (DaemonDown, ChainSyncing before it has read anything, …) and what an `apply`
        raises; what was committed until then stays, and the next call goes on from there.
        """
        async with self._lock:
            while True:
                base = self.synced()
                try:
                    reached, end = await self._step(base, limit_height)
                except ChainMoved:
                    await self._go_back()
                except _Moved:
                    continue
                else:
                    if end:
                        return reached

    async def _step(self, base: BlockRef | None, limit_height: int | None) -> tuple[BlockRef, bool]:
        """Read and commit one chunk; where that ended, and whether it is the end. Raises ChainMoved, _Moved."""
        last = base.height if base is not None else self._birth - 1
        to = last + CHUNK if limit_height is None else max(last, min(last + CHUNK, limit_height))
        pages, ref, cut = await self._read(base, last, to)
        if base is not None and ref.height <= base.height:
            # Nothing new; or flopd, made anew, has yet to come as far.
            return base, True
        await self._store.write(lambda c: self._apply(c, ref, pages))
        return ref, not cut and (ref.height < to or ref.height == limit_height)

    async def _read(self, base: BlockRef | None, last: int, to: int) -> tuple[list[list[Any]], BlockRef, bool]:
        """The facts of all kinds above `last` up to one block, that block, and whether it is no later for being many.

        Raises ChainMoved, _Moved.
        """
        cut = False
        while True:
            found, refs, shorter = [], set(), to
            for kind in self._kinds:
                facts, ref, complete = await self._gather(kind, base, last, to)
                found.append(facts)
                refs.add((ref.height, ref.hash))
                shorter = min(shorter, complete)
            lowest = min(height for height, _ in refs)
            if shorter < lowest:
                # Too much for one go: ask again for fewer heights, so that all kinds end at the same block.
                to, cut = shorter, True
            elif len({height for height, _ in refs}) > 1:
                to = lowest
            elif len(refs) > 1:
                raise _Moved
            else:
                height, block_hash = refs.pop()
                return found, BlockRef(height=height, hash=block_hash), cut

    async def _gather(self, kind: Kind, base: BlockRef | None, last: int, to: int) -> tuple[list[Any], BlockRef, int]:
        """Facts of one kind, the block at which flopd's answer ends, and the height up to which they are complete."""
        facts: list[Any] = []
        ref: BlockRef | None = None
        after: Place | None = None
        while True:
            page = await self._ask(kind, base, last, to, after, PAGE)
            if ref is not None and page.tip != ref:
                raise _Moved
            facts += page.facts
            ref, after = page.tip, page.next
            if after is None:
                return facts, page.tip, page.tip.height
            if len(facts) > PAGE and after.height - 1 > last:
                return facts, page.tip, after.height - 1

    async def _ask(
        self, kind: Kind, base: BlockRef | None, last: int, to: int, after: Place | None, limit: int
    ) -> Page:
        params = {
            "from_height": last + 1,
            "to_height": to,
            "after": after.model_dump() if after else None,
            "base": base.model_dump() if base else None,
            "limit": limit,
        }
        page: Page = await self._flopd.call(kind.method, kind.page, params)
        return page

    def _apply(self, connection: sqlite3.Connection, ref: BlockRef, pages: list[list[Any]]) -> None:
        for kind, facts in zip(self._kinds, pages, strict=True):
            if facts:
                kind.apply(connection, facts)
        connection.execute("INSERT INTO followed VALUES (?, ?)", (ref.height, ref.hash))
        # Of old blocks one in CHUNK stays, for reorganisations deeper than any that ever was.
        connection.execute(
            "DELETE FROM followed WHERE height <= ? AND height NOT IN "
            "(SELECT min(height) FROM followed GROUP BY height / ?)",
            (ref.height - KEPT, CHUNK),
        )

    # --- reorganisations ---------------------------------------------------------------------------------------

    async def _go_back(self) -> None:
        """Undo everything above the newest known block that is still in the chain."""
        above = self._birth - 1
        for ref in self._store.read(lambda c: _refs(c, -1)):
            if await self._holds(ref):
                above = ref.height
                break
        await self._store.write(lambda c: self._undo(c, above))

    async def _holds(self, ref: BlockRef) -> bool:
        try:
            await self._ask(self._kinds[0], ref, ref.height, ref.height, None, 1)
        except ChainMoved:
            return False
        return True

    def _undo(self, connection: sqlite3.Connection, above: int) -> None:
        for kind in reversed(self._kinds):
            kind.undo(connection, above)
        connection.execute("DELETE FROM followed WHERE height > ?", (above,))


def _refs(connection: sqlite3.Connection, limit: int) -> list[BlockRef]:
    rows = connection.execute("SELECT height, hash FROM followed ORDER BY height DESC LIMIT ?", (limit,))
    return [BlockRef(height=row[0], hash=row[1]) for row in rows]
