"""A tiny real daemon with one method for each thing that the machinery around methods must do.

python tests/support/probe_daemon.py --config FILE
"""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pydantic import Field

from duxcommon import db
from duxcommon.api.common import IdempotencyKey, Koinu, Model, Ok, Seconds
from duxcommon.config import Settings
from duxcommon.daemon import Daemon, run
from duxcommon.db import Store
from duxcommon.errors import ConfigError, InsufficientFunds
from duxcommon.rpc import Caller, caller, method, server

MIGRATIONS = (db.IDEMPOTENCY_TABLE, "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")

if slow := os.environ.get("PROBE_SLOW_READER_S"):
    server.SLOW_READER_S = float(slow)

if groups := os.environ.get("PROBE_GROUPS"):
    # Names of groups that the machine does not have, for callers that carry their numbers.
    caller._gid = lambda name, _minute: json.loads(groups).get(name)  # type: ignore[assignment]


class ProbeSettings(Settings):
    """`probe.yaml`."""

    word: str = "hello"
    """What `probe.word` answers."""
    refuse: bool = False
    """Refuse to take this configuration on reload."""
    broken_loop: bool = False
    """Let a background loop fail soon after the start."""


class Text(Model):
    """A text."""

    text: str


class WhoAmI(Model):
    """The caller as the daemon sees it."""

    uid: int
    name: str
    peer: str | None


class Number(Model):
    """A number that JSON may not be able to hold."""

    value: float


class Stored(Model):
    """How many notes there are, and the last one's number."""

    id: int
    count: int


class Nested(Model):
    """Any JSON."""

    value: Any


class ProbeMethods:
    """Methods under test."""

    def __init__(self, daemon: "ProbeDaemon") -> None:
        self._daemon = daemon
        self.slept = 0

    @method("probe.echo", access="read", example={"text": "hi"})
    async def echo(self, text: Annotated[str, Field(max_length=8_000_000)]) -> Text:
        """Give back the text."""
        return Text(text=text)

    @method("probe.any", access="read", example={"value": 1})
    async def any(self, value: Any, context: str = "") -> Nested:
        """Give back the value; a parameter is called `context` as one inside the server is."""
        return Nested(value=value)

    @method("probe.pay", access="spend", errors=(InsufficientFunds,), example={"amount": 5, "key": "k"})
    async def pay(self, amount: Koinu, key: IdempotencyKey) -> Ok:
        """Refuse every payment."""
        raise InsufficientFunds(f"have 0, need {amount} koinu", details={"have": 0, "need": amount})

    @method("probe.word", access="read")
    async def word(self) -> Text:
        """The configured word."""
        return Text(text=self._daemon.settings.word)

    @method("probe.who", access="read", peers=True)
    async def who(self, caller: Caller) -> WhoAmI:
        """Who is calling."""
        return WhoAmI(uid=caller.uid, name=caller.name, peer=caller.peer)

    @method("probe.remote", access="peer")
    async def remote(self, caller: Caller) -> WhoAmI:
        """For other nodes only."""
        return WhoAmI(uid=caller.uid, name=caller.name, peer=caller.peer)

    @method("probe.admin", access="admin")
    async def admin(self) -> Ok:
        """For administrators."""
        return Ok()

    @method("probe.sibling", access="daemon")
    async def sibling(self) -> Ok:
        """For the other daemons of the node."""
        return Ok()

    @method("probe.sleep", access="read", example={"seconds": 0.1})
    async def sleep(self, seconds: Seconds) -> Ok:
        """A call that takes its time."""
        (self._daemon.settings.state_dir / "sleeping").touch()
        await asyncio.sleep(seconds)
        return Ok()

    @method("probe.poll", access="read", example={"wait_s": 0.1})
    async def poll(self, wait_s: Seconds = 20.0) -> Ok:
        """A long poll for something that never happens."""
        (self._daemon.settings.state_dir / "polling").touch()
        await asyncio.sleep(wait_s)
        return Ok()

    @method("probe.late", access="read", timeout_s=0.1)
    async def late(self) -> Ok:
        """Take longer than declared."""
        await asyncio.sleep(30)
        return Ok()

    @method("probe.crash", access="read")
    async def crash(self) -> Ok:
        """Fail with a secret in the exception."""
        raise ValueError("the password is hunter2")

    @method("probe.nan", access="read")
    async def nan(self) -> Number:
        """A reply that JSON can't hold."""
        return Number(value=float("nan"))

    @method("probe.big", access="read", example={"size": 10})
    async def big(self, size: Annotated[int, Field(ge=0, le=20_000_000)]) -> Text:
        """A reply of that many bytes."""
        return Text(text="x" * size)

    @method("probe.limited", access="read", limit="2/m")
    async def limited(self) -> Ok:
        """Twice a minute."""
        return Ok()

    @method("probe.note", access="read", example={"text": "hi", "key": "k"})
    async def note(self, text: str, key: IdempotencyKey) -> Stored:
        """Store a note once."""

        def write(connection: sqlite3.Connection) -> dict[str, Any]:
            def make() -> dict[str, Any]:
                row = connection.execute("INSERT INTO note (text) VALUES (?) RETURNING id", (text,)).fetchone()
                return {"id": row["id"], "count": row["id"]}

            return db.idempotent(connection, key, {"text": text}, make)

        result = await self._daemon.store.write(write)
        self._daemon.failpoint("noted")
        return Stored(**result)


class ProbeDaemon(Daemon):
    """Serve the probe's methods."""

    name = "probe"
    settings_model = ProbeSettings
    settings: ProbeSettings

    async def start(self) -> None:
        self.store = Store(self.settings.state_dir / "probe.db", MIGRATIONS)
        if delay := os.environ.get("PROBE_START_S"):
            await asyncio.sleep(float(delay))
        if self.settings.broken_loop:
            self.spawn(self._break(), "broken loop")

    async def _break(self) -> None:
        await asyncio.sleep(0.1)
        raise KeyError("a fault in a loop")

    async def stop(self) -> None:
        if hasattr(self, "store"):
            await self.store.close()

    async def reload(self, settings: ProbeSettings) -> None:
        if settings.refuse:
            raise ConfigError("refuse is set")

    def methods(self) -> Iterable[object]:
        return [ProbeMethods(self)]


if __name__ == "__main__":
    sys.exit(run(ProbeDaemon, sys.argv[1:]))
