"""One SQLite database a daemon: one writer thread that groups commits, reads beside it. Its schema: migrations.py.

Durability: WAL with synchronous=FULL; `write` resolves only after the commit that holds its change is on disk.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from . import migrations as schema
from .errors import AlreadyRunning, ConfigError, Conflict, DiskFull, DiskReadOnly, DuxError, StoreDamaged, TimedOut

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space on the disk, in the user's quota, or in the largest file that the process may write."""

GROUP = 256
"""Most writes that share one commit."""

ROOM_BYTES = 1 << 17
"""So much free space counts as room again after a write failed for want of it."""

IDEMPOTENCY_TABLE = """
CREATE TABLE IF NOT EXISTS idempotency (
  key TEXT PRIMARY KEY, params TEXT NOT NULL, result TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

_Job = tuple[Write[Any], "Future[Any]"]


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the project's settings: WAL, synchronous=FULL, foreign keys, rows by name."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def translate(error: BaseException) -> BaseException:
    """The error a caller should see instead of SQLite's own."""
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        text = str(error)
        if "full" in text:
            return DiskFull(f"the database can't be written: {text}")
        if "disk I/O" in text:
            return DiskFull(f"the database can't be written: {text}", hint=f"{DiskFull.hint_default} Or see `dmesg`.")
        if "readonly" in text:
            return DiskReadOnly(f"the database can't be written: {text}")
        if "malformed" in text or "not a database" in text:
            return StoreDamaged(f"the database is damaged: {text}")
        if "locked" in text or "busy" in text:
            return TimedOut("the database is busy; nothing was changed")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFull(f"the disk is full: {error}")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return DiskReadOnly(f"the file system is read-only: {error}")
    return error


class Store:
    """A database file that belongs to one process.

    `migrations` are SQL scripts; `user_version` counts those that were applied. Raises AlreadyRunning when
    another process holds the file, StoreDamaged when it can't be read, NewerFormat when a newer version wrote it,
    MigrationFailed, DiskFull (or DiskReadOnly) when it can't be written, ConfigError when it or its directory is
    missing or belongs to somebody else.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self.path = path
        self._trouble: str | None = None
        try:
            self._lock_file = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if isinstance(full := translate(error), DiskFull):
                raise full from error
            raise ConfigError(
                f"can't open the database {path}: {error}", hint="Make `state_dir` and give it to the daemon's user."
            ) from error
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock_file)
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AlreadyRunning(f"{path} is in use by another process") from error
            try:
                if not os.path.lexists(path):
                    schema.build(path, migrations)
                schema.inspect(path)
                self._writer = connect(path)
                undo.callback(self._writer.close)
                schema.migrate(self._writer, path, migrations)
            except (sqlite3.Error, OSError) as error:
                known = translate(error)
                if isinstance(known, DuxError) and not isinstance(known, DiskFull):
                    raise known from error
                # SQLite does not say which file, and seldom why.
                raise schema.unusable(path, error, full=isinstance(known, DiskFull)) from error
            undo.pop_all()
        self._readers = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self.commits = 0
        """Durable commits so far (writes that were grouped count once)."""
        self._thread = threading.Thread(target=self._run, name=f"db-{path.stem}", daemon=True)
        self._thread.start()

    async def write(self, change: Write[T]) -> T:
        """Run `change` on the writer's connection inside a transaction; resolves after the durable commit.

        An exception from `change` undoes its own changes alone. Everything `change` does must be SQL: it may
        share its commit with other writes. A cursor that it returns becomes None. Even when the caller is
        cancelled, the change is carried out.
        """
        job: Future[T] = Future()
        # A running future can't be cancelled: otherwise a caller that goes away would take the writer thread down.
        job.set_running_or_notify_cancel()
        if self._closed:
            raise TimedOut("the database is closed")
        self._jobs.put((change, job))
        return await asyncio.wrap_future(job)

    @property
    def trouble(self) -> str | None:
        """Why the last write failed, while the disk is still full or read-only; None when all is well."""
        if self._trouble is not None and _has_room(self.path.parent):
            self._trouble = None
        return self._trouble

    def read(self, query: Write[T]) -> T:
        """Run `query` on a read-only connection of the calling thread; sees all commits so far."""
        connection: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if connection is None:
            connection = connect(self.path)
            connection.execute("PRAGMA query_only=ON")
            self._readers.connection = connection
            self._open_readers.append(connection)
        try:
            return query(connection)
        except sqlite3.Error as error:
            known = translate(error)
            if isinstance(known, DiskReadOnly) and _has_room(self.path.parent):
                raise  # The connection is read-only, not the disk: a query that writes is a fault of ours.
            raise known from error

    async def close(self) -> None:
        """Finish the queued writes and close the file."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        for connection in self._open_readers:
            connection.close()
        self._writer.close()
        os.close(self._lock_file)

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            ending = False
            while len(batch) < GROUP:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    ending = True
                    break
                batch.append(job)
            self._commit(batch)
            if ending:
                return

    def _commit(self, batch: list[_Job]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for change, future in batch:
                outcomes.append((future, *self._apply(change, alone=len(batch) == 1)))
            self._writer.execute("COMMIT")
            self.commits += 1
            self._trouble = None
        except BaseException as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            known = translate(error)
            if isinstance(known, DiskFull):
                if _read_only(self.path.parent):
                    known = DiskReadOnly(f"the database can't be written: {error}")
                self._trouble = f"{self.path.name}: {known.message}"
            for _, future in batch:
                future.set_exception(known)
            return
        for future, value, failure in outcomes:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)

    def _apply(self, change: Write[Any], *, alone: bool) -> tuple[Any, BaseException | None]:
        if not alone:
            self._writer.execute("SAVEPOINT one")
        try:
            value = change(self._writer)
            if isinstance(value, sqlite3.Cursor):
                # Freed in the caller's thread, it would reset a statement that this thread is using by then.
                value.close()
                value = None
        except BaseException as error:
            if isinstance(translate(error), DiskFull) or alone:
                raise
            self._writer.execute("ROLLBACK TO one")
            self._writer.execute("RELEASE one")
            return None, translate(error)
        if not alone:
            self._writer.execute("RELEASE one")
        return value, None


def _has_room(folder: Path) -> bool:
    """Whether small writes can succeed again."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        return not _read_only(folder) and disk.f_bavail * disk.f_frsize >= ROOM_BYTES
    return False


def _read_only(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def idempotent(
    connection: sqlite3.Connection, key: str, params: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Inside a write: the stored result of `key`, or that of `make`, stored under it in the same commit.

    Raises Conflict when the key was used with other parameters.
    """
    digest = json.dumps(params, sort_keys=True, separators=(",", ":"))
    row = connection.execute("SELECT params, result FROM idempotency WHERE key = ?", (key,)).fetchone()
    if row is not None:
        if row["params"] != digest:
            raise Conflict(f"key {key!r} was used before with other parameters")
        stored: dict[str, Any] = json.loads(row["result"])
        return stored
    result = make()
    connection.execute("INSERT INTO idempotency VALUES (?, ?, ?)", (key, digest, json.dumps(result)))
    return result
