"""The store: what was acknowledged is there, what failed left nothing behind, and only one process holds it."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from duxcommon import __version__, db
from duxcommon.db import Store
from duxcommon.errors import (
    AlreadyRunning,
    ConfigError,
    Conflict,
    DuxError,
    MigrationFailed,
    NewerFormat,
    StoreDamaged,
    TimedOut,
)
from tests.support.process import ROOT

T = TypeVar("T")
MIGRATIONS = (db.IDEMPOTENCY_TABLE, "CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;")


def with_store(path: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run `work` on the store at `path`, then close it."""

    async def main() -> T:
        store = Store(path, MIGRATIONS)
        try:
            return await asyncio.wait_for(work(store), 60)
        finally:
            await store.close()

    return asyncio.run(main())


def insert(text: str) -> Callable[[sqlite3.Connection], int]:
    def change(connection: sqlite3.Connection) -> int:
        row = connection.execute("INSERT INTO item (text) VALUES (?) RETURNING id", (text,)).fetchone()
        return int(row[0])

    return change


def texts(connection: sqlite3.Connection) -> set[str]:
    return {row["text"] for row in connection.execute("SELECT text FROM item")}


def test_many_writes_at_once_share_few_commits(tmp_path: Path) -> None:
    async def work(store: Store) -> int:
        before = store.commits
        ids = await asyncio.gather(*(store.write(insert(f"n{n}")) for n in range(1000)))
        assert sorted(ids) == list(range(1, 1001))
        assert len(store.read(texts)) == 1000
        return store.commits - before

    assert with_store(tmp_path / "x.db", work) <= 1 + 1000 // 20


def test_a_write_that_fails_undoes_its_own_changes_and_no_others(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        gate = threading.Event()
        # Holds the writer, so that the others are grouped into one commit.
        first = asyncio.create_task(store.write(lambda _: gate.wait(10)))
        await asyncio.sleep(0.05)

        def half(connection: sqlite3.Connection) -> None:
            insert("half")(connection)
            raise KeyError("no")

        writes = [
            store.write(insert("before")),
            store.write(half),
            store.write(insert("before")),  # breaks the UNIQUE constraint
            store.write(lambda c: c.execute("SELECT * FROM nothing")),
            store.write(insert("after")),
        ]
        tasks = [asyncio.ensure_future(write) for write in writes]
        await asyncio.sleep(0.05)
        commits = store.commits
        gate.set()
        await first
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert store.commits == commits + 2
        assert [type(outcome) for outcome in outcomes] == [
            int, KeyError, sqlite3.IntegrityError, sqlite3.OperationalError, int
        ]  # fmt: skip
        assert store.read(texts) == {"before", "after"}

    with_store(tmp_path / "x.db", work)


def test_a_write_that_fails_alone_leaves_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        def half(connection: sqlite3.Connection) -> None:
            insert("half")(connection)
            raise KeyError("no")

        with pytest.raises(KeyError):
            await store.write(half)
        assert store.read(texts) == set()
        await store.write(insert("half"))

    with_store(tmp_path / "x.db", work)


def test_a_read_sees_every_acknowledged_write_from_any_thread_and_changes_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await store.write(insert("one"))
        assert store.read(texts) == {"one"}
        assert await asyncio.to_thread(store.read, texts) == {"one"}
        await store.write(insert("two"))
        assert await asyncio.to_thread(store.read, texts) == {"one", "two"}
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.read(insert("three"))

    with_store(tmp_path / "x.db", work)


def test_writes_queued_before_close_are_carried_out_and_later_ones_refused(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path / "x.db", MIGRATIONS)
        writes = [asyncio.create_task(store.write(insert(f"n{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*writes)
        with pytest.raises(TimedOut):
            await store.write(insert("late"))
        await store.close()

    asyncio.run(main())
    assert len(with_store(tmp_path / "x.db", lambda store: asyncio.to_thread(store.read, texts))) == 50


# --- idempotency ----------------------------------------------------------------------------------------------------


def test_the_same_key_acts_once_and_gives_the_same_result(tmp_path: Path) -> None:
    made = 0

    def pay(amount: int) -> Callable[[sqlite3.Connection], dict[str, object]]:
        def change(connection: sqlite3.Connection) -> dict[str, object]:
            def make() -> dict[str, object]:
                nonlocal made
                made += 1
                return {"payment": made, "amount": amount}

            return db.idempotent(connection, "key-1", {"amount": amount, "to": "bob"}, make)

        return change

    async def work(store: Store) -> None:
        results = await asyncio.gather(*(store.write(pay(5)) for _ in range(20)))
        assert results == [{"payment": 1, "amount": 5}] * 20
        with pytest.raises(Conflict) as caught:
            await store.write(pay(6))
        assert caught.value.hint
        assert "key-1" in caught.value.message

    with_store(tmp_path / "x.db", work)
    # It holds after a restart.
    assert with_store(tmp_path / "x.db", lambda store: store.write(pay(5))) == {"payment": 1, "amount": 5}
    assert made == 1


def test_a_key_whose_action_failed_may_be_used_again(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        def fail() -> dict[str, object]:
            raise DuxError("not now")

        with pytest.raises(DuxError):
            await store.write(lambda c: db.idempotent(c, "k", {}, fail))
        assert await store.write(lambda c: db.idempotent(c, "k", {}, lambda: {"ok": 1})) == {"ok": 1}

    with_store(tmp_path / "x.db", work)


# --- migrations -----------------------------------------------------------------------------------------------------


async def nothing(_: Store) -> None:
    """Only opens the store."""


def open_with(path: Path, *migrations: str) -> None:
    async def main() -> None:
        await Store(path, migrations).close()

    asyncio.run(main())


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


def test_each_migration_runs_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    one = "CREATE TABLE a (n INTEGER NOT NULL) STRICT; INSERT INTO a VALUES (1);"
    two = "ALTER TABLE a ADD COLUMN m INTEGER NOT NULL DEFAULT 7; INSERT INTO a VALUES (2, 8);"
    open_with(path, one)
    open_with(path, one)
    assert rows(path, "SELECT * FROM a") == [(1,)]
    open_with(path, one, two)
    open_with(path, one, two)
    assert rows(path, "SELECT * FROM a ORDER BY n") == [(1, 7), (2, 8)]
    assert rows(path, "PRAGMA user_version") == [(2,)]


def test_a_migration_that_fails_leaves_the_old_schema_and_frees_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    one = "CREATE TABLE a (n INTEGER NOT NULL) STRICT;"
    open_with(path, one)
    with pytest.raises(MigrationFailed) as caught:
        open_with(path, one, "CREATE TABLE b (n INTEGER) STRICT; INSERT INTO absent VALUES (1);")
    assert f"{path} can't be brought from schema 1 to 2: no such table: absent" in caught.value.message
    assert str(path.with_name("x.db.before-1-to-2")) in caught.value.message
    assert rows(path, "PRAGMA user_version") == [(1,)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'b'") == []
    open_with(path, one, "CREATE TABLE b (n INTEGER) STRICT;")


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_with(path, "CREATE TABLE a (n INTEGER) STRICT;", "CREATE TABLE b (n INTEGER) STRICT;")
    with pytest.raises(NewerFormat) as caught:
        open_with(path, "CREATE TABLE a (n INTEGER) STRICT;")
    assert f"written by Dux OS {__version__} (schema 2)" in caught.value.message
    assert "which knows schema 1" in caught.value.message
    assert "there is no copy of before" in caught.value.hint
    # The refusal gave the file back.
    open_with(path, "CREATE TABLE a (n INTEGER) STRICT;", "CREATE TABLE b (n INTEGER) STRICT;")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database " * 100)
    with pytest.raises(StoreDamaged) as caught:
        with_store(path, nothing)
    assert "backup" in caught.value.hint
    assert path.read_bytes().startswith(b"this is not")


def test_a_missing_directory_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_store(tmp_path / "nowhere" / "x.db", nothing)
    assert "state_dir" in caught.value.hint


# --- other processes ------------------------------------------------------------------------------------------------


def script(source: str, *arguments: object, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process that runs `source` after the imports that all of them need."""
    head = (
        "import asyncio, json, os, resource, sqlite3, sys\n"
        "from pathlib import Path\n"
        "from duxcommon import db\n"
        "from duxcommon.db import Store\n"
        "from duxcommon.errors import DuxError\n"
        f"MIGRATIONS = {MIGRATIONS!r}\n"
    )
    command = [*wrap, sys.executable, "-c", head + source, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    source = (
        "async def main():\n"
        "    Store(Path(sys.argv[1]), MIGRATIONS)\n"
        "    print('open', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with script(source, path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        with pytest.raises(AlreadyRunning) as caught:
            with_store(path, nothing)
        assert str(path) in caught.value.message
        assert caught.value.hint
        first.kill()
    with_store(path, nothing)


def test_kill_9_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    source = (
        "def put(text):\n"
        "    return lambda c: c.execute('INSERT INTO item (text) VALUES (?)', (text,)) and None\n"
        "async def write(store, text):\n"
        "    await store.write(put(text))\n"
        "    os.write(1, (text + '\\n').encode())\n"
        "async def main():\n"
        "    store = Store(Path(sys.argv[1]), MIGRATIONS)\n"
        "    n = 0\n"
        "    while True:\n"
        "        await asyncio.gather(*(write(store, f'{sys.argv[2]}-{n + i}') for i in range(8)))\n"
        "        n += 8\n"
        "asyncio.run(main())\n"
    )
    acknowledged: set[str] = set()
    for life in range(5):
        with script(source, path, life) as process:
            assert process.stdout is not None
            for _ in range(40 + 7 * life):
                acknowledged.add(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            # What was written to the pipe before the kill was acknowledged as well.
            acknowledged.update(line for line in process.stdout.read().splitlines() if line)
        found = with_store(path, lambda store: asyncio.to_thread(store.read, texts))
        assert acknowledged <= found
        # Of each group that was on its way, all or nothing may be there beyond that: at most one group.
        assert len(found - acknowledged) <= 8 * (life + 1)


FILL = (
    "async def main():\n"
    "    store = Store(Path(sys.argv[1]), MIGRATIONS)\n"
    "    def put(text):\n"
    "        return lambda c: c.execute('INSERT INTO item (text) VALUES (?)', (text,)) and None\n"
    "    stored, error = [], None\n"
    "    for n in range(2000):\n"
    "        batch = [f'{n}-{i}-' + 'x' * 3000 for i in range(4)]\n"
    "        results = await asyncio.gather(*(store.write(put(t)) for t in batch), return_exceptions=True)\n"
    "        stored += [t for t, r in zip(batch, results) if r is None]\n"
    "        failed = [r for r in results if r is not None]\n"
    "        if failed:\n"
    "            error = failed[0]\n"
    "            break\n"
    "    read = {r['text'] for r in store.read(lambda c: c.execute('SELECT text FROM item').fetchall())}\n"
    "    trouble = [store.trouble]\n"
    "    make_room()\n"
    "    trouble.append(store.trouble)\n"
    "    await store.write(put('after'))\n"
    "    await store.close()\n"
    "    again = Store(Path(sys.argv[1]), MIGRATIONS)\n"
    "    late = {r['text'] for r in again.read(lambda c: c.execute('SELECT text FROM item').fetchall())}\n"
    "    await again.close()\n"
    "    print(json.dumps({'name': getattr(error, 'name', repr(error)), 'hint': getattr(error, 'hint', ''),\n"
    "        'message': str(error), 'trouble': trouble, 'stored': len(stored), 'kept': read == set(stored),\n"
    "        'late': late == set(stored) | {'after'}}))\n"
    "asyncio.run(main())\n"
)


def assert_full_and_unharmed(output: str, errors: str) -> None:
    assert output, errors
    outcome = json.loads(output)
    assert outcome["name"] == "DiskFull", outcome
    assert "Free some space" in outcome["hint"]
    assert outcome["stored"] > 10
    assert outcome["kept"], "a refused write left something, or an acknowledged one is gone"
    assert outcome["late"], "after there was room again, something was lost"


def test_when_no_more_can_be_written_nothing_is_lost_and_it_goes_on_once_there_is_room(tmp_path: Path) -> None:
    source = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))\n"
        "def make_room():\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
    )
    assert_full_and_unharmed(*script(source + FILL, tmp_path / "x.db").communicate(timeout=60))


def test_a_really_full_disk_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("not run: needs root and unshare to mount a tiny disk")
    # A disk of 1 MB in a mount namespace of its own; a ballast file is what gets deleted to make room.
    source = (
        "import subprocess\n"
        "folder = Path(sys.argv[1]).parent\n"
        "if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', folder]).returncode:\n"
        "    sys.exit('SKIP')\n"
        "ballast = folder / 'ballast'\n"
        "ballast.write_bytes(bytes(300_000))\n"
        "make_room = ballast.unlink\n"
    )
    process = script(source + FILL, tmp_path / "x.db", wrap=("unshare", "--mount", "--propagation", "private"))
    output, errors = process.communicate(timeout=60)
    if "SKIP" in errors or "unshare:" in errors:
        pytest.skip("not run: this machine does not let us mount a tiny disk")
    assert_full_and_unharmed(output, errors)
    while_full, with_room = json.loads(output)["trouble"]
    assert "x.db: the database can't be written" in while_full
    assert with_room is None
