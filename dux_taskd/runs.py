"""The orders that this node has accepted as a provider, on disk and in memory.

A run is committed when it is accepted and when it is over: two commits. That escrowd has been told its end is noted
in a third one that many runs share; telling it twice does no harm.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from duxcommon.api.common import Hash32, NodeId, SignedRecord, TaskId, UnixTime
from duxcommon.api.escrowd import SignedState
from duxcommon.api.taskd import OrderBody, Payload, ReceiptBody
from duxcommon.db import Store
from duxcommon.errors import Internal

RunState = Literal["queued", "running", "done", "failed"]
Event = Literal["start", "done", "fail"]

TABLE: Mapping[RunState, Mapping[Event, RunState]] = {
    "queued": {"start": "running", "fail": "failed"},
    "running": {"done": "done", "fail": "failed"},
    "done": {},
    "failed": {},
}
"""State → what can happen → next state."""

RUNS_TABLE = """
CREATE TABLE runs (
  buyer TEXT NOT NULL, task TEXT NOT NULL, order_hash TEXT NOT NULL, record TEXT NOT NULL, input BLOB, state TEXT,
  run_state TEXT NOT NULL, receipt TEXT, output TEXT, log TEXT NOT NULL, created INTEGER NOT NULL, finished INTEGER,
  told INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (buyer, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_open ON runs (told) WHERE told = 0;
CREATE INDEX runs_finished ON runs (finished) WHERE finished IS NOT NULL;
"""

Key = tuple[NodeId, TaskId]


@dataclass(frozen=True, slots=True)
class Run:
    """One accepted order. `input` is what came inside the message, `state` the signed state that rode along."""

    buyer: NodeId
    record: SignedRecord = field(repr=False)
    """The order as the buyer signed it."""
    order: OrderBody
    order_hash: Hash32
    input: bytes | None = field(repr=False)
    signed: SignedState | None
    created: UnixTime
    state: RunState = "queued"
    progress: int = 0
    receipt: ReceiptBody | None = None
    output: Payload | None = None
    log: str = field(default="", repr=False)
    finished: UnixTime | None = None
    told: bool = False
    """escrowd knows how it ended."""

    @property
    def key(self) -> Key:
        return (self.buyer, self.order.task)

    @property
    def work_id(self) -> TaskId:
        """Its name in the sandbox. Buyers choose task ids, and one may have learnt another's."""
        return hashlib.sha256(f"{self.buyer}/{self.order.task}".encode()).hexdigest()[:32]

    @property
    def over(self) -> bool:
        return not TABLE[self.state]


def _move(run: Run, event: Event) -> RunState:
    target = TABLE[run.state].get(event)
    if target is None:
        raise Internal(f"run {run.order.task}: {event} can't happen in state {run.state}")
    return target


def started(run: Run) -> Run:
    """It is being executed."""
    return replace(run, state=_move(run, "start"))


def ended(run: Run, receipt: ReceiptBody, output: Payload | None, log: str, now: UnixTime) -> Run:
    """It is over, well or not, as the receipt says."""
    state = _move(run, "done" if receipt.ok else "fail")
    return replace(run, state=state, receipt=receipt, output=output, log=log, progress=100, finished=now)


def _load(row: sqlite3.Row) -> Run:
    record = SignedRecord.model_validate_json(row["record"])
    return Run(
        buyer=row["buyer"],
        record=record,
        order=OrderBody.model_validate(record.body),
        order_hash=row["order_hash"],
        input=row["input"],
        signed=SignedState.model_validate_json(row["state"]) if row["state"] else None,
        created=row["created"],
        state=row["run_state"],
        progress=100 if row["finished"] is not None else 0,
        receipt=ReceiptBody.model_validate_json(row["receipt"]) if row["receipt"] else None,
        output=Payload.model_validate_json(row["output"]) if row["output"] else None,
        log=row["log"],
        finished=row["finished"],
        told=bool(row["told"]),
    )


class Ledger:
    """All runs of this node. Only this class writes their table."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live: dict[Key, Run] = {}
        self._changed: dict[Key, asyncio.Event] = {}
        self._told: list[Key] = []

    def load(self) -> list[Run]:
        """The runs that are not over, or that escrowd has not been told of; call it once at the start."""
        rows = self._store.read(lambda c: c.execute("SELECT * FROM runs WHERE told = 0 ORDER BY created").fetchall())
        runs = [_load(row) for row in rows]
        self._live = {run.key: run for run in runs}
        return runs

    def find(self, key: Key) -> Run | None:
        """The run of a buyer's task."""
        if key in self._live:
            return self._live[key]
        row = self._store.read(lambda c: c.execute("SELECT * FROM runs WHERE buyer = ? AND task = ?", key).fetchone())
        return None if row is None else _load(row)

    def live(self, select: Callable[[Run], bool]) -> int:
        """How many runs in memory are like that."""
        return sum(1 for run in self._live.values() if select(run))

    def reserve(self, run: Run) -> None:
        """Make a run known before it is committed, so that a second order finds it."""
        self._live[run.key] = run

    async def add(self, run: Run) -> None:
        """Commit an accepted run."""
        row = (
            run.buyer,
            run.order.task,
            run.order_hash,
            run.record.model_dump_json(),
            run.input,
            run.signed.model_dump_json() if run.signed else None,
            run.state,
            run.log,
            run.created,
        )
        await self._store.write(
            lambda c: c.execute(
                "INSERT INTO runs (buyer, task, order_hash, record, input, state, run_state, log, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        )

    async def drop(self, run: Run) -> None:
        """Forget a run whose payment was refused."""
        self._live.pop(run.key, None)
        await self._store.write(lambda c: c.execute("DELETE FROM runs WHERE buyer = ? AND task = ?", run.key))
        self._announce(run.key)

    def note(self, run: Run) -> None:
        """Make `run` the current state in memory: progress and log need not survive a restart."""
        self._live[run.key] = run
        self._announce(run.key)

    async def finish(self, run: Run) -> None:
        """Commit the end of a run; it is on disk before anybody sees it."""
        row = (
            run.state,
            run.receipt.model_dump_json() if run.receipt else None,
            run.output.model_dump_json() if run.output else None,
            run.log,
            run.finished,
            *run.key,
        )
        await self._store.write(
            lambda c: c.execute(
                "UPDATE runs SET run_state = ?, receipt = ?, output = ?, log = ?, finished = ?, input = NULL "
                "WHERE buyer = ? AND task = ?",
                row,
            )
        )
        self.note(run)

    def _announce(self, key: Key) -> None:
        changed = self._changed.pop(key, None)
        if changed is not None:
            changed.set()

    async def changed(self, key: Key, timeout: float) -> bool:
        """Wait until the run changes; False when `timeout` seconds passed first."""
        event = self._changed.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return False
        return True

    def told(self, run: Run) -> None:
        """escrowd knows how it ended; noted on disk by the next `flush`."""
        self._live.pop(run.key, None)
        self._told.append(run.key)

    async def flush(self) -> None:
        """Note on disk, in one commit, what escrowd has been told since the last time."""
        keys, self._told = self._told, []
        if not keys:
            return
        try:
            await self._store.write(
                lambda c: c.executemany("UPDATE runs SET told = 1 WHERE buyer = ? AND task = ?", keys)
            )
        except BaseException:
            self._told += keys
            raise

    async def prune(self, before: UnixTime) -> None:
        """Forget the runs that ended before then and of which escrowd knows."""
        await self._store.write(lambda c: c.execute("DELETE FROM runs WHERE told = 1 AND finished < ?", (before,)))
