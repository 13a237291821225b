"""Drives the fund's transactions: each block, compute what is next, sign it, and lead when it is this node's turn.

Two leaders at once do no harm: they send the same transaction but for whose signatures it carries, and only one of
them can spend the anchor. A leader that dies is replaced as the chain grows.
"""

import asyncio
import logging
import sqlite3
from typing import Literal

from duxcommon.coin.tx import serialize_tx, txid_of
from duxcommon.db import Store
from duxcommon.errors import DuxError, KeystoreMissing, NotGuardian, WalletLocked

from . import events
from .collecting import Collecting, finished
from .drafts import Draft, Drafts
from .failpoints import hit
from .fund import Fund
from .plan import DEPTH, turn
from .ports import Flopd
from .signing import Signing, keys_of

MIGRATION = """
CREATE TABLE sent (
  unsigned TEXT PRIMARY KEY, sequence INTEGER NOT NULL, batch INTEGER, txid TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class Rounds:
    """The work on the transactions that are due."""

    def __init__(
        self,
        store: Store,
        flopd: Flopd,
        fund: Fund,
        drafts: Drafts,
        signing: Signing,
        collecting: Collecting,
    ) -> None:
        self._store = store
        self._flopd = flopd
        self._fund = fund
        self._drafts = drafts
        self._signing = signing
        self._collecting = collecting
        self._log = logging.getLogger("airdropd")
        self._leading: asyncio.Task[None] | None = None
        self.trouble = ""
        """Why this node does not do its part, for people; empty when it does."""
        self.what: Literal["eligibility", "locked", "refuses"] = "eligibility"
        """What sort of trouble it is: who is eligible can't be told, its wallet is locked, or flopd refuses to sign."""
        self.again = False
        """What is due could not be told or signed now; it is worth trying before the next block comes."""

    async def advance(self, tip: int) -> None:
        """Do what the block at `tip` asks for; asking the other guardians goes on in the background."""
        await self._log_deep(tip)
        self.trouble, self.again = "", False
        if not await self._signing.guards():
            return
        try:
            due = await self.due(tip)
        except DuxError as error:
            # registryd is behind or away, or the chain moves under us.
            self.trouble, self.again = f"what is due can't be told now: {error.message}", True
            self.what = "eligibility"
            return
        self._collecting.forget({draft.txid: draft for draft in due})
        self._drafts.forget(due)
        mine = [draft for draft in due if await self._sign(draft)]
        if self._leading is not None and not self._leading.done():
            return
        led = [draft for draft in mine if await self._leads(draft, tip)]
        if led:
            self._leading = asyncio.create_task(self._lead(led), name="lead")

    async def stop(self) -> None:
        """End what goes on in the background."""
        if self._leading is not None:
            self._leading.cancel()
            await asyncio.gather(self._leading, return_exceptions=True)

    async def due(self, tip: int) -> list[Draft]:
        """Everything that is to be signed now. Raises RulesPending and DuxError."""
        current = await self._drafts.current(tip)
        return [*([current] if current else []), *await self._drafts.batches(tip)]

    async def _sign(self, draft: Draft) -> bool:
        """Whether this node has a part in it, and did it."""
        try:
            await self._collecting.own(draft)
        except NotGuardian:
            return False
        except DuxError as error:
            self.trouble = f"this node guards the fund and can't sign: {error.message}"
            self.what = "locked" if isinstance(error, WalletLocked | KeystoreMissing) else "refuses"
            self.again = True
            return False
        return True

    async def _leads(self, draft: Draft, tip: int) -> bool:
        """Whether it is this node's turn, and nobody has sent the transaction."""
        keys = sorted(keys_of(draft.unsigned.redeems[0]))
        leader = keys[turn(draft.sequence, draft.since, tip, len(keys))]
        return leader.hex() == await self._signing.pubkey() and not self.sent(draft)

    def sent(self, draft: Draft) -> bool:
        """Whether this node gave it to flopd, which sends it until a block holds it."""
        query = "SELECT 1 FROM sent WHERE unsigned = ?"
        return self._store.read(lambda c: c.execute(query, (draft.txid,)).fetchone()) is not None

    async def _lead(self, drafts: list[Draft]) -> None:
        for draft in drafts:
            try:
                await self._send(draft)
            except DuxError as error:
                self._log.info(f"{draft.name} was not sent", extra={"error": error.name, "why": error.message})
            except Exception:
                self._log.exception(f"{draft.name} could not be sent")

    async def _send(self, draft: Draft) -> None:
        hit("asked")
        collection = await self._collecting.collect(draft)
        if not collection.complete:
            states = {key[:16]: answer.outcome for key, answer in collection.answers.items()}
            self._log.info(f"{draft.name} lacks signatures", extra={"guardians": states})
            return
        hit("collected")
        signed = await asyncio.to_thread(finished, collection)
        hit("merged")
        ref = f"fund/{draft.sequence}" + ("" if draft.batch is None else f"/{draft.batch}")
        # Another leader's signatures make another id; the key is that of these very bytes.
        intent = await self._flopd.submit(serialize_tx(signed).hex(), f"fund/{txid_of(signed)}", _purpose(draft), ref)
        hit("submitted")
        await self._store.write(lambda c: _note_sent(c, draft, intent.txid))
        hit("submitted-committed")
        self._log.info(f"{draft.name} was sent", extra={"txid": intent.txid})

    async def _log_deep(self, tip: int) -> None:
        """Note what is so deep that it stays."""
        query = (
            "SELECT sequence FROM round WHERE height <= ?"
            " AND NOT EXISTS (SELECT 1 FROM event WHERE name = 'round-' || txid) ORDER BY sequence"
        )
        rows = self._store.read(lambda c: c.execute(query, (tip - DEPTH,)).fetchall())
        deep = [self._fund.round(row["sequence"]) for row in rows]

        def change(connection: sqlite3.Connection) -> None:
            for each in deep:
                events.note(connection, f"round-{each.txid}", "fund-transaction", each.model_dump())

        if deep:
            await self._store.write(change)


def _purpose(draft: Draft) -> str:
    return f"fund-{draft.manifest.plan.kind}" if draft.batch is None else "fund-batch"


def _note_sent(connection: sqlite3.Connection, draft: Draft, txid: str) -> None:
    values = (draft.txid, draft.sequence, draft.batch, txid)
    connection.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", values)
    body = {"sequence": draft.sequence, "batch": draft.batch, "unsigned": draft.txid, "txid": txid}
    events.note(connection, f"sent-{txid}", "fund-sent", body)
