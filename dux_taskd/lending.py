"""What the owner lends now: the configuration, and what `provider.set_limits` and `provider.pause` changed of it."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from duxcommon.db import Store

from .capacity import Lent
from .settings import ProviderSettings

LENDING_TABLE = """
CREATE TABLE lending (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


class Lending:
    """Survives restarts; what was set by a call goes before the configuration."""

    def __init__(self, store: Store, settings: Callable[[], ProviderSettings]) -> None:
        self._store = store
        self._settings = settings
        rows = store.read(lambda c: c.execute("SELECT name, value FROM lending").fetchall())
        self._set: dict[str, Any] = {row["name"]: json.loads(row["value"]) for row in rows}

    def now(self) -> Lent:
        """The limits in force."""
        given = self._settings()
        tasks = given.tasks if given.tasks is not None else os.cpu_count() or 1
        return replace(Lent(tasks, given.queue, given.memory_mb), **self._set)

    async def change(self, **values: int | bool) -> None:
        """Set `tasks`, `queue`, `memory_mb` or `paused` until they are set again."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        await self._store.write(
            lambda c: c.executemany(
                "INSERT INTO lending VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", rows
            )
        )
        self._set.update(values)
