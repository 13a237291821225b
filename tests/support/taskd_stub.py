"""Stands in for a node's dux-taskd in tests of dux-registryd: methods for peers of each kind that matters to a gateway.

python tests/support/taskd_stub.py --config FILE
"""

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from pydantic import Field

from duxcommon.api.common import Model, Ok, Seconds, SignedRecord
from duxcommon.config import Settings
from duxcommon.daemon import Daemon, run
from duxcommon.errors import InsufficientFunds
from duxcommon.rpc import Caller, method


class Echo(Model):
    """What came, and from whom."""

    value: Any
    peer: str | None


class Answer(Model):
    """A reply whose receipt the gateway signs."""

    receipt: dict[str, Any] | None


class Count(Model):
    """How many calls are running."""

    running: int
    most: int


class StubMethods:
    """Methods of namespace `task`."""

    def __init__(self) -> None:
        self._running = 0
        self._most = 0

    @method("task.echo", access="peer", example={"value": 1})
    async def echo(self, caller: Caller, value: Any = None) -> Echo:
        """Give back the value."""
        return Echo(value=value, peer=caller.peer)

    @method("task.local", access="read")
    async def local(self) -> Ok:
        """Not for peers."""
        return Ok()

    @method("task.refuse", access="peer", errors=(InsufficientFunds,))
    async def refuse(self) -> Ok:
        """Refuse with an error of its own."""
        raise InsufficientFunds("have 1, need 2 koinu", details={"have": 1, "need": 2})

    @method("task.answer", access="peer", reply_record="receipt", example={"body": {}})
    async def answer(self, body: dict[str, Any] | None = None) -> Answer:
        """Reply with a receipt."""
        return Answer(receipt=body)

    @method("task.order", access="peer")
    async def order(self, caller: Caller, order: SignedRecord, input: str | None) -> Echo:
        """Give back the order."""
        return Echo(value=order.model_dump(), peer=caller.peer)

    @method("task.wait", access="peer", example={"wait_s": 0.1})
    async def wait(self, wait_s: Seconds) -> Ok:
        """A long poll."""
        self._running += 1
        self._most = max(self._most, self._running)
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._running -= 1
        return Ok()

    @method("task.running", access="read")
    async def running(self) -> Count:
        """How many long polls run."""
        return Count(running=self._running, most=self._most)

    @method("task.large", access="peer", example={"size": 10})
    async def large(self, size: Annotated[int, Field(ge=0, le=4_000_000)]) -> Echo:
        """A reply of that many bytes."""
        return Echo(value="x" * size, peer=None)


class StubTaskd(Daemon):
    """Serve the stub's methods."""

    name = "taskd"
    settings_model = Settings

    def methods(self) -> Iterable[object]:
        return [StubMethods()]


if __name__ == "__main__":
    sys.exit(run(StubTaskd, sys.argv[1:]))
