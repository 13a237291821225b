"""An append-only log of money events: each line carries the hash of the one before and the node's signature.

Whoever holds the file can check that nothing was changed, removed or put in between; the last line's hash
stands for the whole history.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import StoreDamaged
from .identity import verify
from .records import canonical

FIRST = "0" * 64
DOMAIN = b"dux-event-v1\n"

Signer = Callable[[str], Awaitable[tuple[str, str]]]
"""Signs a line's hash: (node id, signature hex)."""


def line_hash(line: dict[str, Any]) -> str:
    """SHA-256 of a line without its signature, hex."""
    return hashlib.sha256(DOMAIN + canonical({k: v for k, v in line.items() if k not in ("node", "sig")})).hexdigest()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, oldest first. Raises StoreDamaged for one that is not JSON."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield json.loads(raw)
            except ValueError:
                raise StoreDamaged(f"{path}, line {number} is not JSON") from None


def check(path: Path) -> tuple[int, str]:
    """Number of lines and the last hash of an intact log. Raises StoreDamaged naming the first bad line."""
    previous, count = FIRST, 0
    for line in read_lines(path):
        count += 1
        digest = line_hash(line)
        if line.get("prev") != previous:
            raise StoreDamaged(f"{path}, line {count}: it does not follow the line before")
        if not verify(str(line.get("node")), bytes.fromhex(str(line.get("sig"))), DOMAIN + bytes.fromhex(digest)):
            raise StoreDamaged(f"{path}, line {count}: its signature is wrong")
        previous = digest
    return count, previous


class EventLog:
    """Appends to one log. Call `append` for events in order; `event_id` makes a repeat harmless."""

    def __init__(self, path: Path, sign: Signer) -> None:
        self.path = path
        self._sign = sign
        self._lock = asyncio.Lock()
        self._seen: set[str] = set()
        self._previous = FIRST
        if path.exists():
            self._recover()

    def _recover(self) -> None:
        with self.path.open("r+b") as file:
            good = 0
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # A crash cut the last line short; its event is appended again from the outbox.
                line = json.loads(raw)
                self._seen.add(str(line["id"]))
                self._previous = line_hash(line)
                good += len(raw)
            file.truncate(good)

    async def append(self, event_id: str, kind: str, time: int, body: dict[str, Any]) -> None:
        """Add one event, durably; nothing happens when `event_id` is in the log. `body` holds no floats."""
        async with self._lock:
            if event_id in self._seen:
                return
            line = {"id": event_id, "kind": kind, "time": time, "body": body, "prev": self._previous}
            digest = line_hash(line)
            node, signature = await self._sign(digest)
            data = canonical({**line, "node": node, "sig": signature}) + b"\n"
            await asyncio.to_thread(self._write, data)
            self._seen.add(event_id)
            self._previous = digest

    def _write(self, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
