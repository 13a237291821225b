"""When blocks are made: soon for whoever waits, often while somebody works, seldom otherwise."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable

from duxcommon import sdnotify
from duxcommon.db import translate
from duxcommon.errors import DuxError

from .node import Node

log = logging.getLogger("devchain")

PROMPT_S = 0.2
"""So long a transaction waits for others that may share its block."""
BUSY_S = 120.0
"""So long after a transaction somebody is thought to be waiting for confirmations."""


class Pace:
    """Makes blocks, which pay to `script`. `busy_s` and `idle_s` are the longest times between two, and may change."""

    def __init__(
        self, node: Node, mempool_grew: asyncio.Event, *, busy_s: float, idle_s: float, script: Callable[[Node], bytes]
    ) -> None:
        self.busy_s = busy_s
        self.idle_s = idle_s
        self._node = node
        self._script = script
        self._grew = mempool_grew
        self._last_grew: float | None = None
        self._trouble = ""

    def seconds(self) -> float:
        """Until the next block at the latest."""
        busy = self._last_grew is not None and time.monotonic() - self._last_grew < BUSY_S
        return self.busy_s if busy else self.idle_s

    async def run(self) -> None:
        """Make blocks for ever."""
        while True:
            longest = self.seconds()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest):
                    await self._grew.wait()
                self._last_grew = time.monotonic()
                await asyncio.sleep(min(PROMPT_S, longest))
            self._grew.clear()
            try:
                with self._node.change():
                    self._node.mine(self._script(self._node))
            except sqlite3.Error as error:
                # A full disk must not end the mining for good.
                await self._tell(translate(error))
                await asyncio.sleep(longest)
            else:
                await self._tell(None)

    async def _tell(self, error: BaseException | None) -> None:
        """Say in the log and to systemd why no block was made, or that blocks are made again."""
        trouble = str(error or "")
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if error is not None:
            hint = error.hint if isinstance(error, DuxError) else ""
            log.error("no block is made: %s", trouble, extra={"hint": hint})
            await asyncio.to_thread(sdnotify.notify, f"STATUS=no block is made: {trouble}. {hint}")
        else:
            log.info("blocks are made again")
            await asyncio.to_thread(sdnotify.notify, "STATUS=")
