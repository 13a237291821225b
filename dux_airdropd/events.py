"""Fund and governance events: rows that stand beside what they tell of, copied in order into the signed event log.

An event is noted in the write that makes it true; the log follows, and a crash in between loses and doubles nothing.
"""

import asyncio
import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

from duxcommon.api.common import SignedRecord
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.eventlog import EventLog, read_lines
from duxcommon.rpc import Client

EVERY_S = 1.0
RETRY_S = 10.0
AT_ONCE = 100

MIGRATION = """
CREATE TABLE event (
  n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, time INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
"""


def note(connection: sqlite3.Connection, name: str, kind: str, body: dict[str, Any]) -> None:
    """Inside a write: an event, once for each `name`. `body` holds no floats."""
    values = (name, kind, int(time.time()), json.dumps(body, sort_keys=True))
    connection.execute("INSERT OR IGNORE INTO event (name, kind, time, body) VALUES (?, ?, ?, ?)", values)


def last_logged(path: Path) -> int:
    """Number of the last event that an existing log holds. Raises StoreDamaged."""
    last = 0
    if path.exists():
        for line in read_lines(path):
            last = int(str(line["id"]).rsplit("-", 1)[1])
    return last


class Events:
    """Appends in the background; nothing waits for it."""

    def __init__(self, store: Store, path: Path, registryd: Client, log: logging.Logger) -> None:
        self._store = store
        self._registryd = registryd
        self._logger = log
        self._log = EventLog(path, self._sign)
        self._last = last_logged(path)

    async def _sign(self, body: dict[str, Any]) -> SignedRecord:
        return await self._registryd.call("node.sign", SignedRecord, {"kind": "event", "body": body})

    async def run(self) -> None:
        """Follow the table until cancelled."""
        delay = EVERY_S
        while True:
            await asyncio.sleep(delay)
            try:
                await self.flush()
                delay = EVERY_S
            except DuxError as error:
                delay = RETRY_S
                level = logging.INFO if error.retry else logging.WARNING
                self._logger.log(level, "the event log waits", extra={"why": f"{error.name}: {error.message}"})

    async def flush(self) -> None:
        """Append all that the log lacks. Raises what signing and writing raise."""
        query = "SELECT * FROM event WHERE n > ? ORDER BY n LIMIT ?"
        while rows := self._store.read(lambda c: c.execute(query, (self._last, AT_ONCE)).fetchall()):
            for row in rows:
                await self._log.append(f"event-{row['n']}", row["kind"], row["time"], json.loads(row["body"]))
                self._last = row["n"]
