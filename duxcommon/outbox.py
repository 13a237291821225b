"""Side effects that are decided in a commit and sent after it, until they succeed.

A handler may run more than once for the same message (a crash between the effect and its removal), so it
must be safe to repeat.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from .db import Store
from .errors import DuxError

OUTBOX_TABLE = """
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, payload TEXT NOT NULL,
  due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
  UNIQUE (kind, ref)
) STRICT;
CREATE INDEX outbox_due ON outbox (due);
"""

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 60.0
MAX_DELAY_S = 120.0
"""No message waits longer; one that seems to was queued while the clock was ahead, and is due."""
AT_ONCE = 16

Handler = Callable[[str, dict[str, Any]], Awaitable[None]]
log = logging.getLogger("outbox")


def put(connection: sqlite3.Connection, kind: str, ref: str, payload: dict[str, Any], *, delay_s: float = 0.0) -> None:
    """Inside a write: queue a message. A second one of the same kind and ref replaces the first."""
    connection.execute(
        "INSERT INTO outbox (kind, ref, payload, due) VALUES (?, ?, ?, ?) ON CONFLICT (kind, ref) "
        "DO UPDATE SET payload = excluded.payload, due = excluded.due, tries = 0",
        (kind, ref, json.dumps(payload), time.time() + min(delay_s, MAX_DELAY_S)),
    )


def drop(connection: sqlite3.Connection, kind: str, ref: str) -> None:
    """Inside a write: forget a message that is no longer wanted."""
    connection.execute("DELETE FROM outbox WHERE kind = ? AND ref = ?", (kind, ref))


class Outbox:
    """Sends the messages of one store: `handlers` maps each kind to a coroutine `(ref, payload)`."""

    def __init__(self, store: Store, handlers: Mapping[str, Handler]) -> None:
        self._store = store
        self._handlers = dict(handlers)
        self._wake = asyncio.Event()
        self._busy: dict[tuple[str, str], asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look for due messages now; call it after a commit that queued one."""
        self._wake.set()

    async def run(self) -> None:
        """Send messages as they fall due, until cancelled."""
        try:
            while True:
                self._wake.clear()
                wait = self._start_due()
                try:
                    # Not wait_for: on Python 3.11 it loses a cancellation that comes together with the event.
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for task in list(self._busy.values()):
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _start_due(self) -> float | None:
        """Start what is due; seconds until the next message, or None when there is none to wait for."""
        now = time.time()
        latest = now + MAX_DELAY_S
        columns = "SELECT id, kind, ref, payload, due, tries FROM outbox"
        rows = self._store.read(
            lambda c: [
                *c.execute(f"{columns} WHERE due > ? LIMIT ?", (latest, AT_ONCE * 2)),
                *c.execute(f"{columns} WHERE due <= ? ORDER BY due LIMIT ?", (latest, AT_ONCE * 4)),
            ]
        )
        for row in rows:
            name = (row["kind"], row["ref"])
            if name in self._busy:
                continue
            if now < row["due"] <= latest:
                return float(row["due"]) - now
            if len(self._busy) >= AT_ONCE:
                return None
            task = asyncio.create_task(self._send(row), name=f"outbox-{row['kind']}")
            self._busy[name] = task
            task.add_done_callback(partial(self._sent, name))
        return None

    def _sent(self, name: tuple[str, str], _: "asyncio.Task[None]") -> None:
        self._busy.pop(name, None)
        self._wake.set()

    async def _send(self, row: sqlite3.Row) -> None:
        kind, ref, payload, due = row["kind"], row["ref"], row["payload"], row["due"]
        try:
            why = ""
            try:
                await self._handlers[kind](ref, json.loads(payload))
            except DuxError as error:
                why = f"{error.name}: {error.message}"
            except Exception:
                log.exception("outbox message failed", extra={"kind": kind, "ref": ref})
                why = "internal error"
            if why:
                await self._later(row, why)
                return
            # A message that was replaced meanwhile stays and is sent again.
            await self._store.write(
                lambda c: c.execute(
                    "DELETE FROM outbox WHERE kind = ? AND ref = ? AND payload = ? AND due = ?",
                    (kind, ref, payload, due),
                )
            )
        except DuxError as error:
            # The row is as due as before: without a pause, a full disk would have it sent without end.
            log.warning("can't note what was sent", extra={"kind": kind, "ref": ref, "why": error.message})
            await asyncio.sleep(FIRST_RETRY_S)

    async def _later(self, row: sqlite3.Row, why: str) -> None:
        delay = min(FIRST_RETRY_S * 2 ** min(row["tries"], 10), LAST_RETRY_S)
        log.info("will send again", extra={"kind": row["kind"], "ref": row["ref"], "in_s": delay, "why": why})
        await self._store.write(
            lambda c: c.execute(
                "UPDATE outbox SET due = ?, tries = tries + 1 WHERE id = ? AND due = ?",
                (time.time() + delay, row["id"], row["due"]),
            )
        )
