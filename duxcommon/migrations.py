"""Brings a database to the schema that this version knows: a copy of it first, then one transaction a step.

A new database is built beside its place and moved there whole, so that an empty or missing file is never mistaken for
one. Before an existing one is changed, a copy is made beside it (`NAME.before-1-to-2`, mode 0600, checked and synced).
Killed at any point, the next start goes on: each step counts itself in `user_version` in its own transaction. The
table `schema_history` tells which version of Dux OS made which schema, and from which copy there is a way back.
"""

import contextlib
import logging
import os
import pwd
import re
import sqlite3
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import __version__, failpoint, sdnotify
from .errors import ConfigError, DiskFull, DiskReadOnly, DuxError, MigrationFailed, NewerFormat, StoreDamaged
from .files import sync_directory

log = logging.getLogger("store")

KEPT_COPIES = 2
SPARE_BYTES = 4 << 20
"""What a copy leaves free beyond its own size: the migration itself needs some room."""
COPY_PAGES = 4096
"""Pages that are copied at a time: 16 MiB."""
FAILPOINTS = {
    "new-built": "a new database is whole, but not in its place",
    "copy-written": "the copy is whole, but does not have its name yet",
    "copied": "the copy has its name, nothing was migrated",
    "migrated": "one step is committed, the next has not begun",
}
"""Name → what has and what has not happened there."""

HISTORY_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_history (schema INTEGER PRIMARY KEY, version TEXT NOT NULL, "
    "goal INTEGER NOT NULL, time INTEGER NOT NULL, copy TEXT) STRICT"
)
"""Schema → the version of Dux OS that made it, the schema it was on its way to, and the copy of before."""
_HEADER = b"SQLite format 3\0"


def build(path: Path, migrations: Sequence[str]) -> None:
    """Make a new database at `path`, whole or not at all. Raises StoreDamaged, sqlite3.Error, OSError."""
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        # SQLite would apply the old file's last commits to the new one.
        raise StoreDamaged(
            f"{path} is missing, but {wal.name} beside it holds its last commits",
            hint="Put the database back in its place, or move the -wal and -shm files away as well to begin anew.",
        )
    part = path.with_name(path.name + ".new")
    for stale in (part, part.with_name(part.name + "-journal")):
        stale.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            for number, script in enumerate(migrations, 1):
                _step(connection, number, script, len(migrations), None)
        failpoint.hit("store:new-built")
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def inspect(path: Path) -> None:
    """Refuse a file that SQLite would misread, or could not use. Raises StoreDamaged or ConfigError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is no file, so it can't be a database", hint="Move it away, or mend `state_dir`.")
    if not os.access(path, os.R_OK | os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
        me = _user(os.geteuid())
        raise ConfigError(
            f"{path} belongs to {_user(found.st_uid)} (mode {stat.S_IMODE(found.st_mode):04o}); this daemon runs as "
            f"{me} and may not use it",
            hint=f"Give it back: chown {me}: {path}*",
        )
    if found.st_size == 0:
        raise StoreDamaged(f"{path} is empty (0 bytes): what it held was lost outside of Dux OS")
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_HEADER):
        raise StoreDamaged(f"{path} is not a database")
    page = struct.unpack(">H", header[16:18])[0]
    page = 65_536 if page == 1 else page
    pages = struct.unpack(">I", header[28:32])[0]
    wal = path.with_name(path.name + "-wal")
    # While commits wait in the -wal file, the database itself may be shorter than its first page says.
    settled = header[24:28] == header[92:96] and not (wal.exists() and wal.stat().st_size)
    if settled and found.st_size < page * pages:
        raise StoreDamaged(f"{path} was cut short: it has {found.st_size} of {page * pages} bytes")
    if settled and pages > 1 and header[60:64] == bytes(4):
        raise _stranger(path)


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring the open database at `path` to the schema after all `migrations`.

    Raises NewerFormat for one of a newer version, DiskFull without room for the copy (nothing was changed then),
    StoreDamaged when the copy can't be read back, MigrationFailed when a step fails (it is undone), sqlite3.Error.
    """
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    goal = len(migrations)
    if done > goal:
        raise _newer(connection, path, done, goal)
    if done == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise _stranger(path)
    if done == goal:
        _arrived(connection, goal)
        return
    begun = time.monotonic()
    with sdnotify.extending(f"bringing {path.name} from schema {done} to {goal}; do not switch off"):
        copy = _copy_before(connection, path, done, goal) if done else None
        failpoint.hit("store:copied")
        for number, script in enumerate(migrations[done:], done + 1):
            try:
                _step(connection, number, script, goal, copy)
            except sqlite3.Error as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if _is_room(error):
                    raise
                raise MigrationFailed(
                    f"{path} can't be brought from schema {number - 1} to {number}: {error}; that step was undone"
                    + (f". The copy of before is {path.with_name(copy)}" if copy else "")
                ) from error
            failpoint.hit("store:migrated")
    others = [old for old in copies(path) if old.name != copy]
    for old in others[KEPT_COPIES - 1 if copy else KEPT_COPIES :]:
        old.unlink(missing_ok=True)
    if done:
        log.info(
            "the database was brought to a newer schema",
            extra={
                "database": str(path),
                "from_schema": done,
                "to_schema": goal,
                "version": __version__,
                "copy": str(path.with_name(copy)) if copy else None,
                "took_s": round(time.monotonic() - begun, 1),
            },
        )


def copies(path: Path) -> list[Path]:
    """The copies that were made of a database before it was migrated; of the newest schema first."""
    name = re.compile(re.escape(path.name) + r"\.before-(\d+)-to-(\d+)")
    found = [(match, entry) for entry in path.parent.iterdir() if (match := name.fullmatch(entry.name))]
    return [entry for _, entry in sorted(found, key=lambda one: (-int(one[0][2]), -int(one[0][1])))]


# --- one step -----------------------------------------------------------------------------------------------------


def _step(connection: sqlite3.Connection, number: int, script: str, goal: int, copy: str | None) -> None:
    """One migration, with its number and its line of history, in one transaction."""
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version={number};\n{HISTORY_TABLE};")
    line = (number, __version__, goal, int(time.time()), copy)
    connection.execute("REPLACE INTO schema_history VALUES (?, ?, ?, ?, ?)", line)
    connection.execute("COMMIT")


def _arrived(connection: sqlite3.Connection, goal: int) -> None:
    """Note that this schema is in use now: its line may say that it was only passed on the way to a later one."""
    history = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_history'").fetchone()
    if (
        history
        and connection.execute("SELECT 1 FROM schema_history WHERE schema = ? AND goal > ?", (goal, goal)).fetchone()
    ):
        connection.execute("UPDATE schema_history SET goal = schema, copy = NULL WHERE schema = ?", (goal,))


def _copy_before(connection: sqlite3.Connection, path: Path, done: int, goal: int) -> str:
    """The name of a copy of what the database held before this upgrade; made unless an upgrade goes on."""
    with contextlib.suppress(sqlite3.OperationalError):  # no such table: a database from before there was a history
        row = connection.execute("SELECT goal, copy FROM schema_history WHERE schema = ?", (done,)).fetchone()
        if row is not None and row[0] > done and row[1] and path.with_name(row[1]).exists():
            # A step on the way was committed and nothing else since: the copy is of before the whole upgrade.
            return str(row[1])
    name = f"{path.name}.before-{done}-to-{goal}"
    _room_for(connection, path, done, goal)
    part = path.with_name(f".{name}.part")
    with _removed_on_failure(part):
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy:
            connection.backup(copy, pages=COPY_PAGES)
            fault = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise StoreDamaged(f"{path} is damaged ({fault}); it was left at schema {done}")
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        failpoint.hit("store:copy-written")
        part.replace(path.with_name(name))
    sync_directory(path.parent)
    return name


@contextlib.contextmanager
def _removed_on_failure(part: Path) -> Iterator[None]:
    leftovers = [part, *(part.with_name(part.name + end) for end in ("-wal", "-shm", "-journal"))]
    try:
        yield
    except BaseException:
        for leftover in leftovers:
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        raise
    for leftover in leftovers[1:]:
        leftover.unlink(missing_ok=True)


def _room_for(connection: sqlite3.Connection, path: Path, done: int, goal: int) -> None:
    """Raises DiskFull unless the copy, and what the migration may add, fit on the disk."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    needed = pages * connection.execute("PRAGMA page_size").fetchone()[0] + SPARE_BYTES
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise DiskFull(
            f"there is no room to copy {path} before it is brought from schema {done} to {goal}: "
            f"{needed / 1e6:.1f} MB are needed in {path.parent}, {free / 1e6:.1f} MB are free",
            hint="Free that much there; systemd tries again by itself. The database was not changed.",
        )


def _newer(connection: sqlite3.Connection, path: Path, done: int, goal: int) -> NewerFormat:
    """What is wrong, naming both versions, and the two ways out."""
    by, made = "a newer version", None
    with contextlib.suppress(sqlite3.Error):
        row = connection.execute("SELECT version, copy FROM schema_history WHERE schema = ?", (done,)).fetchone()
        if row is not None:
            by, made = str(row[0]), row[1]
    # Rather the copy that this state came from than one of another time.
    found = sorted(copies(path), key=lambda copy: copy.name != made)
    old = [copy for copy in found if _before(copy) <= goal]
    back = f"go back to {old[0]}, which is as it was before that upgrade" if old else "there is no copy of before"
    return NewerFormat(
        f"{path} was written by Dux OS {by} (schema {done}); this is Dux OS {__version__}, which knows schema {goal}",
        hint=f"Install {by} again, or {back}: /usr/share/doc/dux-common/upgrades.md says how, and what is lost. "
        "Nothing was changed.",
        details={"schema": done, "known": goal, "version": by, "copy": str(old[0]) if old else None},
    )


def _before(copy: Path) -> int:
    """The schema that a copy holds, by its name."""
    return int(copy.name.rpartition(".before-")[2].partition("-")[0])


def _stranger(path: Path) -> StoreDamaged:
    return StoreDamaged(f"{path} is not a database of Dux OS: it has tables, but no schema number")


# --- what the machine says ----------------------------------------------------------------------------------------


def unusable(path: Path, error: Exception, *, full: bool) -> DuxError:
    """The error to raise when a database that seems sound can't be opened; `full` when there seems to be no room."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        if disk.f_flag & os.ST_RDONLY:
            return DiskReadOnly(f"{path} can't be opened: the file system that holds {path.parent} is read-only")
        full = full or disk.f_bavail == 0 or disk.f_favail == 0 < disk.f_files
    if full:
        return DiskFull(f"{path} can't be opened: the disk that holds {path.parent} is full ({error})")
    return ConfigError(
        f"can't open the database {path}: {error}",
        hint=f"Look at owner and mode of {path.parent} and what is in it: the daemon's user must own them.",
    )


def _is_room(error: sqlite3.Error) -> bool:
    text = str(error)
    return "full" in text or "disk I/O" in text or "readonly" in text


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
