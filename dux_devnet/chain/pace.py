"""When blocks are made: soon for whoever waits, often while somebody works, seldom otherwise."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable

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
                log.error("no block was made: %s", error)
                await asyncio.sleep(longest)
