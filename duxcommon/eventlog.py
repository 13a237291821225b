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

from .api.common import SignedRecord
from .errors import BadRecord, DiskFull, DuxError, StoreDamaged
from .records import canonical, parse_record, verify_record

FIRST = "0" * 64
DOMAIN = b"dux-event-v1\n"

KIND = "event"
"""Kind of the records that sign lines."""

Signer = Callable[[dict[str, Any]], Awaitable[SignedRecord]]
"""Makes this node's signed record of kind `event` with the body that is given (`node.sign` of dux-registryd)."""


def line_hash(line: dict[str, Any]) -> str:
    """SHA-256 of a line without its signature, hex."""
    return hashlib.sha256(DOMAIN + canonical({k: v for k, v in line.items() if k != "signed"})).hexdigest()


def _signed(line: dict[str, Any], digest: str) -> SignedRecord:
    """The record that signs a line. Raises BadRecord for a line that has none."""
    given = line.get("signed")
    parts = given if isinstance(given, dict) else {}
    return parse_record({**parts, "kind": KIND, "body": {"line": digest}})


def _parse(raw: bytes, place: str) -> dict[str, Any]:
    """One line. Raises StoreDamaged naming `place` unless it is exactly what `append` would have written."""
    try:
        line = json.loads(raw)
        if isinstance(line, dict) and isinstance(line.get("id"), str) and canonical(line) + b"\n" == raw:
            return line
    except (ValueError, RecursionError, BadRecord):
        pass
    raise StoreDamaged(f"{place} is no event in canonical JSON")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, oldest first. Raises StoreDamaged for one that is not in canonical form."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield _parse(raw, f"{path}, line {number}")


def check(path: Path, node: str | None = None, *, network: str) -> tuple[int, str]:
    """Number of lines and the last hash of an intact log. Raises StoreDamaged naming the first bad line.

    `node` is the only signer that is accepted; without it, whoever rewrites the whole file under another key is
    not noticed.
    """
    previous, count = FIRST, 0
    for line in read_lines(path):
        count += 1
        digest = line_hash(line)
        if line.get("prev") != previous:
            raise StoreDamaged(f"{path}, line {count}: it does not follow the line before")
        try:
            verify_record(_signed(line, digest), kind=KIND, network=network, node=node)
        except DuxError as error:
            raise StoreDamaged(f"{path}, line {count}: its signature is wrong ({error.message})") from error
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
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    break  # A crash cut the last line short; its event is appended again from the outbox.
                line = _parse(raw, f"{self.path}, line {number}")
                self._seen.add(line["id"])
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
            record = await self._sign({"line": digest})
            signed = record.model_dump(include={"network", "node", "seq", "time", "sig"})
            data = canonical({**line, "signed": signed}) + b"\n"
            await asyncio.to_thread(self._write, data)
            self._seen.add(event_id)
            self._previous = digest

    def _write(self, data: bytes) -> None:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise DiskFull(f"{self.path} can't be written: {error}") from error
        try:
            size = os.fstat(descriptor).st_size
            try:
                # On a disk that fills up, only a part is written; the next line must not continue it.
                if os.write(descriptor, data) != len(data):
                    raise DiskFull(f"there is no room left for {self.path}")
                os.fsync(descriptor)
            except (OSError, DiskFull) as error:
                os.ftruncate(descriptor, size)
                raise DiskFull(f"{self.path} can't be written: {error}") from error
        finally:
            os.close(descriptor)
