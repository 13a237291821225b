"""The buyer's tasks on disk and in memory.

Memory is ahead of the disk by at most LAG_S, and only where a restart would come to the same decision again: an
order is the same bytes after a restart, a hold and a release the same idempotency keys. What must survive by
itself, that the task exists and that its result has arrived, is committed before anything is done about it.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from duxcommon.api.common import TaskId, UnixTime
from duxcommon.api.taskd import TaskState
from duxcommon.db import Store
from duxcommon.errors import Conflict, DuxError, InvalidParams, QueueFull, TaskUnknown

from .tasks import Job

LAG_S = 0.1

TASKS_TABLE = """
CREATE TABLE tasks (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid INTEGER NOT NULL, key TEXT NOT NULL, asked TEXT NOT NULL,
  state TEXT NOT NULL, finished INTEGER, spec TEXT NOT NULL, course TEXT NOT NULL,
  UNIQUE (uid, key)
) STRICT;
CREATE INDEX tasks_unfinished ON tasks (seq) WHERE finished IS NULL;
CREATE INDEX tasks_finished ON tasks (finished) WHERE finished IS NOT NULL;
"""

SPEC = (
    "id", "uid", "app", "name", "bundle", "manifest", "input", "params", "max_price", "pinned", "priority",
    "retries", "deadline", "created",
)  # fmt: skip
"""Fields of a job that hardly ever change; the others are its course."""

_JOB = TypeAdapter(Job)


def _pack(job: Job) -> tuple[str, str]:
    fields = _JOB.dump_python(job, mode="json")
    spec = {name: fields.pop(name) for name in SPEC}
    return json.dumps(spec), json.dumps(fields)


def _unpack(row: sqlite3.Row) -> Job:
    return _JOB.validate_python(json.loads(row["spec"]) | json.loads(row["course"]), strict=False)


def digest(asked: dict[str, Any]) -> str:
    """What a task was asked for, as one text: two requests with the same key must have the same."""
    return json.dumps(asked, sort_keys=True, separators=(",", ":"))


class Queue:
    """All tasks of this node as a buyer. Only this class writes their table."""

    def __init__(self, store: Store, limit: Callable[[], int]) -> None:
        """`limit` tells how many unfinished tasks there may be."""
        self._store = store
        self._limit = limit
        self._live: dict[TaskId, Job] = {}
        self._committing: dict[TaskId, Job] = {}
        """Tasks whose newest state is on its way to the disk, as they were before."""
        self._dirty: set[TaskId] = set()
        self._changed: dict[TaskId, asyncio.Event] = {}
        self._flush_wanted = asyncio.Event()

    def load(self) -> list[Job]:
        """The unfinished tasks, in the order of the queue; call it once at the start."""
        rows = self._store.read(lambda c: c.execute("SELECT * FROM tasks WHERE finished IS NULL").fetchall())
        self._live = {row["id"]: _unpack(row) for row in rows}
        return sorted(self._live.values(), key=Job.queue_order)

    def unfinished(self) -> int:
        """How many tasks are not over yet."""
        return sum(1 for job in self._live.values() if not job.over)

    # --- one task ---------------------------------------------------------------------------------------------

    def find(self, uid: int, key: str, asked: dict[str, Any]) -> Job | None:
        """The task that `key` made before. Raises Conflict when it was asked for something else."""
        row = self._store.read(
            lambda c: c.execute("SELECT id, asked FROM tasks WHERE uid = ? AND key = ?", (uid, key)).fetchone()
        )
        return None if row is None else self._same(row, key, asked)

    def _same(self, row: sqlite3.Row, key: str, asked: dict[str, Any]) -> Job:
        if row["asked"] != digest(asked):
            raise Conflict(f"key {key!r} was used before with other parameters")
        return self.get(row["id"])

    async def add(self, job: Job, key: str, asked: dict[str, Any]) -> tuple[Job, bool]:
        """Store a new task; the stored one and whether it is new. Raises QueueFull, Conflict."""
        if self.unfinished() >= self._limit():
            raise QueueFull(f"{self._limit()} tasks are waiting already", details={"limit": self._limit()})
        spec, course = _pack(job)
        row = (job.id, job.uid, key, digest(asked), job.state, spec, course)

        def insert(connection: sqlite3.Connection) -> sqlite3.Row | None:
            done = connection.execute(
                "INSERT INTO tasks (id, uid, key, asked, state, spec, course) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (uid, key) DO NOTHING",
                row,
            )
            if done.rowcount:
                return None
            earlier: sqlite3.Row = connection.execute(
                "SELECT id, asked FROM tasks WHERE uid = ? AND key = ?", (job.uid, key)
            ).fetchone()
            return earlier

        self._live[job.id] = job
        try:
            existing = await self._store.write(insert)
        except BaseException:
            del self._live[job.id]
            raise
        if existing is None:
            return job, True
        del self._live[job.id]
        return self._same(existing, key, asked), False

    def get(self, task: TaskId) -> Job:
        """Raises TaskUnknown."""
        if task in self._live:
            return self._live[task]
        row = self._store.read(lambda c: c.execute("SELECT * FROM tasks WHERE id = ?", (task,)).fetchone())
        if row is None:
            raise TaskUnknown(f"there is no task {task}")
        return _unpack(row)

    def shown(self, task: TaskId) -> Job:
        """The task as callers may see it: what is just being committed does not count yet. Raises TaskUnknown."""
        return self._committing.get(task) or self.get(task)

    def stage(self, job: Job) -> Job:
        """Make `job` the current state now, and on disk within LAG_S."""
        self._live[job.id] = job
        self._dirty.add(job.id)
        self._flush_wanted.set()
        self._announce(job.id)
        return job

    async def commit(self, job: Job) -> Job:
        """Make `job` the current state, on disk before this returns and before callers see it.

        When it can't be written the task stays as it was.
        """
        before = self._live.get(job.id, job)
        self._live[job.id] = job
        self._committing.setdefault(job.id, before)
        try:
            await self._save([job])
        except BaseException:
            if self._live.get(job.id) is job:
                self._live[job.id] = before
            raise
        finally:
            self._committing.pop(job.id, None)
        self._dirty.discard(job.id)
        self._announce(job.id)
        return job

    def _announce(self, task: TaskId) -> None:
        changed = self._changed.pop(task, None)
        if changed is not None:
            changed.set()

    async def _save(self, jobs: list[Job]) -> None:
        rows = [(job.state, job.finished, *_pack(job), job.id) for job in jobs]
        await self._store.write(
            lambda c: c.executemany("UPDATE tasks SET state = ?, finished = ?, spec = ?, course = ? WHERE id = ?", rows)
        )
        for job in jobs:
            if job.over and self._live.get(job.id) is job:
                del self._live[job.id]

    async def run(self) -> None:
        """Write staged changes, many in one commit, until cancelled."""
        while True:
            await self._flush_wanted.wait()
            await asyncio.sleep(LAG_S)
            self._flush_wanted.clear()
            try:
                await self.flush()
            except DuxError:
                # A full disk: the changes stay staged and are tried again.
                self._flush_wanted.set()
                await asyncio.sleep(1.0)

    async def flush(self) -> None:
        """Write all staged changes now."""
        tasks = list(self._dirty)
        self._dirty.clear()
        if not tasks:
            return
        try:
            await self._save([self._live[task] for task in tasks if task in self._live])
        except BaseException:
            self._dirty.update(tasks)
            raise

    async def changed(self, task: TaskId, timeout: float) -> bool:
        """Wait until the task changes; False when `timeout` seconds passed first."""
        event = self._changed.setdefault(task, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return False
        return True

    # --- many tasks -------------------------------------------------------------------------------------------

    def page(self, limit: int, after: str | None, state: TaskState | None) -> tuple[list[Job], str | None]:
        """Tasks, newest first, and the cursor of the next page."""
        if after is not None and not after.isdecimal():
            raise InvalidParams("after: not a cursor of task.list")
        before = int(after) if after else 2**62
        rows = self._store.read(
            lambda c: c.execute(
                "SELECT * FROM tasks WHERE seq < ? AND (? IS NULL OR state = ?) ORDER BY seq DESC LIMIT ?",
                (before, state, state, limit + 1),
            ).fetchall()
        )
        jobs = [self._committing.get(row["id"]) or self._live.get(row["id"]) or _unpack(row) for row in rows[:limit]]
        return jobs, str(rows[limit - 1]["seq"]) if len(rows) > limit else None

    async def prune(self, before: UnixTime) -> None:
        """Forget the tasks that ended before then (Unix seconds); results in the blob store stay."""
        await self._store.write(
            lambda c: c.execute("DELETE FROM tasks WHERE finished IS NOT NULL AND finished < ?", (before,))
        )
