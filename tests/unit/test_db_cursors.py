"""A cursor belongs to the writer's thread: freed in another one, it resets a statement that is in use."""

import asyncio
import sqlite3
from pathlib import Path

from duxcommon.db import Store


def test_writes_that_return_their_cursor_do_not_disturb_others(short_tmp: Path) -> None:
    async def run() -> None:
        store = Store(short_tmp / "t.db", ["CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;"])

        async def worker(number: int) -> None:
            for step in range(200):
                rows = [(number * 1000 + step, part) for part in range(3)]
                returned = await store.write(
                    lambda c, rows=rows: c.executemany(  # type: ignore[misc]
                        "INSERT INTO t VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET n = n + excluded.n", rows
                    )
                )
                assert returned is None

        await asyncio.gather(*(worker(number) for number in range(16)))
        total = store.read(lambda c: c.execute("SELECT count(*), sum(n) FROM t").fetchone())
        assert tuple(total) == (16 * 200, 16 * 200 * 3)
        await store.close()

    asyncio.run(run())


def test_a_row_outlives_its_cursor(short_tmp: Path) -> None:
    async def run() -> None:
        store = Store(short_tmp / "t.db", ["CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;"])
        row = await store.write(lambda c: c.execute("INSERT INTO t VALUES (1, 5) RETURNING n").fetchone())
        assert isinstance(row, sqlite3.Row)
        assert row["n"] == 5
        await store.close()

    asyncio.run(run())
