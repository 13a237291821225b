"""Copies the journal into the signed event log, in order; the books are the source and the log follows them.

One line holds the movements since the line before: a busy node signs a few lines a second, not one for each call.
"""

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

from duxcommon.api.common import SignedRecord
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.eventlog import EventLog, read_lines
from duxcommon.rpc import Client

from .desk import Desk

EVERY_S = 1.0
RETRY_S = 10.0
LINE = 100
"""Most movements in one line."""


def last_logged(path: Path) -> int:
    """Number of the last movement that an existing log holds. Raises StoreDamaged."""
    last = 0
    if path.exists():
        for line in read_lines(path):
            last = int(str(line["id"]).rsplit("-", 1)[1])
    return last


class Events:
    """Appends in the background; nothing waits for it."""

    def __init__(self, desk: Desk, path: Path, registryd: Client) -> None:
        self._desk = desk
        self._store: Store = desk.store
        self._registryd = registryd
        self._log = EventLog(path, self._sign)
        self._last = last_logged(path)

    async def _sign(self, body: dict[str, Any]) -> SignedRecord:
        return await self._registryd.call("node.sign", SignedRecord, {"kind": "event", "body": body})

    async def run(self) -> None:
        """Follow the journal until cancelled."""
        delay = EVERY_S
        while True:
            await asyncio.sleep(delay)
            try:
                while await self.flush():
                    pass
                delay = EVERY_S
            except DuxError as error:
                # The journal keeps what the log lacks; a long absence of registryd is told once in a while.
                delay = RETRY_S
                level = logging.INFO if error.retry else logging.WARNING
                self._desk.log.log(level, "the event log waits", extra={"why": f"{error.name}: {error.message}"})

    async def flush(self) -> bool:
        """Append one line; False when the log is complete. Raises what signing and writing raise."""
        moves = self._store.read(lambda c: _movements(c, self._last))
        if not moves:
            return False
        first, last = moves[0]["n"], moves[-1]["n"]
        await self._log.append(f"journal-{first}-{last}", "movements", moves[-1]["time"], {"movements": moves})
        self._last = last
        return True


def _movements(connection: sqlite3.Connection, after: int) -> list[dict[str, Any]]:
    rows = connection.execute("SELECT id, ref, kind, time FROM journal WHERE id > ? ORDER BY id LIMIT ?", (after, LINE))
    found = [{"n": row["id"], "ref": row["ref"], "kind": row["kind"], "time": row["time"]} for row in rows.fetchall()]
    for move in found:
        entries = connection.execute("SELECT account, amount FROM entry WHERE journal = ?", (move["n"],))
        move["entries"] = {row["account"]: row["amount"] for row in entries}
    return found
