"""A caller that goes away must not take the database's writer with it."""

import asyncio
import sqlite3
import time
from pathlib import Path

from duxcommon.db import Store

MIGRATION = "CREATE TABLE entry (number INTEGER NOT NULL) STRICT;"


def insert(connection: sqlite3.Connection, number: int, pause_s: float) -> None:
    time.sleep(pause_s)
    connection.execute("INSERT INTO entry VALUES (?)", (number,))


def test_a_cancelled_write_is_carried_out_and_later_writes_still_work(tmp_path: Path) -> None:
    async def scenario() -> int:
        store = Store(tmp_path / "x.db", [MIGRATION])
        slow = asyncio.create_task(store.write(lambda c: insert(c, 1, 0.1)))
        queued = asyncio.create_task(store.write(lambda c: insert(c, 2, 0.0)))
        await asyncio.sleep(0)
        slow.cancel()
        queued.cancel()
        count = await asyncio.wait_for(store.write(lambda c: c.execute("SELECT count(*) FROM entry").fetchone()[0]), 5)
        await store.close()
        return int(count)

    assert asyncio.run(scenario()) == 2
