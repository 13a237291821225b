"""Payloads between nodes, by content hash: offers, sending, and downloads that resume.

A node hands a blob only to the peers it was offered to, and only for a time. What arrives is hashed as it comes and
becomes visible in the blob store when the whole matches its name.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import iroh

from duxcommon import failpoint
from duxcommon.api.manifest import MAX_PAYLOAD
from duxcommon.api.registryd import Transfer
from duxcommon.blobs import BlobStore
from duxcommon.db import Store, translate
from duxcommon.errors import (
    BlobDamaged,
    BlobTooLarge,
    BlobUnknown,
    DiskFull,
    DuxError,
    NotOffered,
    PeerProtocol,
    PeerUnreachable,
    QuotaExceeded,
)
from duxcommon.files import sync_directory

from . import frames
from .transport import BrokenOff, Payload, Transport

log = logging.getLogger("transfers")
T = TypeVar("T")

CHUNK = 256 * 1024
SEND_S = 30.0
"""A peer that takes no chunk for so long is cut off."""
RECEIVE_S = 15.0
LEAST_RATE = 16 * 1024
"""Bytes a second below which a download is given up, after a minute's grace."""
GRACE_S = 60.0
TRIES = 4
PROGRESS = 1024 * 1024
"""Bytes that a try must bring for the tries before it to be forgiven."""
AT_ONCE = 8
WAITING = 64
KEEP_PART_S = 86_400
MAX_OFFERS = 100_000
_HASH = re.compile("[0-9a-f]{64}")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """File work beside the event loop. Raises DiskFull for a full disk."""
    try:
        return await asyncio.to_thread(work, *args)
    except OSError as error:
        raise translate(error) from error


def check_room(directory: Path, size: int, reserve: int) -> None:
    """Raises DiskFull when `size` bytes more would leave less than `reserve` bytes."""
    free = shutil.disk_usage(directory).free
    if free - size < reserve:
        raise DiskFull(
            f"{size >> 20} MB more would leave {max(0, free - size) >> 20} MB free; {reserve >> 20} MB are kept free",
            details={"free": free, "need": size + reserve},
        )


class Offers:
    """Which peers may fetch which blobs, until when."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    async def add(self, digest: str, node: str | None, ttl_s: int) -> None:
        """Let `node` (everyone, where it is None) fetch a blob. Raises BlobUnknown when it isn't here."""
        if not self._blobs.has(digest):
            raise BlobUnknown(f"there is no blob {digest[:16]}… on this node", hint="Write it with blob.write first.")
        now = int(time.time())

        def change(connection: Any) -> None:
            connection.execute("DELETE FROM offers WHERE expires <= ?", (now,))
            if connection.execute("SELECT count(*) FROM offers").fetchone()[0] >= MAX_OFFERS:
                raise QuotaExceeded(f"more than {MAX_OFFERS} payloads are on offer")
            connection.execute(
                "INSERT INTO offers VALUES (?, ?, ?) "
                "ON CONFLICT (hash, node) DO UPDATE SET expires = max(expires, excluded.expires)",
                (digest, node or "", now + ttl_s),
            )

        await self._store.write(change)

    def check(self, digest: str, node: str) -> None:
        """Raises NotOffered unless `node` may fetch the blob now."""
        query = "SELECT 1 FROM offers WHERE hash = ? AND node IN (?, '') AND expires > ?"
        if self._store.read(lambda c: c.execute(query, (digest, node, int(time.time()))).fetchone()) is None:
            raise NotOffered(f"payload {digest[:16]}… is not offered to you")

    async def send(self, node: str, request: dict[str, Any], stream: iroh.SendStream) -> None:
        """Answer a peer's request `{"hash", "offset"}`: `{"size"}`, then the bytes from there."""
        digest, offset = request.get("hash", ""), request.get("offset")
        sound = isinstance(digest, str) and _HASH.fullmatch(digest)
        if not sound or not isinstance(offset, int) or not 0 <= offset <= MAX_PAYLOAD:
            raise PeerProtocol("a request for a payload without hash and offset")
        self.check(digest, node)
        if not self._blobs.has(digest):
            raise BlobUnknown(f"payload {digest[:16]}… is gone")
        size = self._blobs.size(digest)
        await stream.write_all(frames.encode({"size": size}))
        while offset < size:
            try:
                data = await in_thread(self._blobs.read, digest, offset, CHUNK)
            except (DuxError, OSError) as error:
                raise BrokenOff(str(error)) from error
            if not data:
                raise BrokenOff("the blob became shorter")
            async with asyncio.timeout(SEND_S):
                await stream.write_all(data)
            offset += len(data)


@dataclass
class _Download:
    """One payload on its way; all who want it wait for the same."""

    digest: str
    size: int
    done: int = 0
    task: "asyncio.Task[None] | None" = None

    def status(self, complete: bool) -> Transfer:
        return Transfer(hash=self.digest, size=self.size, done=self.size if complete else self.done, complete=complete)


class Downloads:
    """Fetches blobs of peers into the node's blob store."""

    def __init__(self, transport: Transport, blobs: BlobStore, reserve: int) -> None:
        self._transport = transport
        self._blobs = blobs
        self._reserve = reserve
        self._parts = blobs.directory / "partial"
        self._parts.mkdir(exist_ok=True)
        self._running: dict[str, _Download] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def configure(self, reserve: int) -> None:
        """Take new settings (on reload)."""
        self._reserve = reserve

    def clear_old(self) -> None:
        """Delete what was left unfinished a day ago."""
        for part in self._parts.iterdir():
            if part.stat().st_mtime < time.time() - KEEP_PART_S:
                part.unlink(missing_ok=True)

    async def fetch(self, node: str, digest: str, size: int, wait_s: float) -> Transfer:
        """Start or join a download and wait for its end, `wait_s` at most.

        Raises BlobTooLarge, DiskFull, QuotaExceeded, BlobDamaged, PeerProtocol, PeerUnreachable, UnknownNode, and
        what the peer says (NotOffered, BlobUnknown). After an error the next call resumes where it ended.
        """
        if size > MAX_PAYLOAD:
            raise BlobTooLarge(f"a payload of {size} bytes ({MAX_PAYLOAD} are allowed)")
        if self._blobs.has(digest):
            return Transfer(hash=digest, size=size, done=size, complete=True)
        download = self._running.get(digest)
        if download is None:
            for name in [name for name, old in self._running.items() if old.task is not None and old.task.done()]:
                del self._running[name]
            if len(self._running) >= WAITING:
                raise QuotaExceeded(f"{WAITING} payloads are on their way already")
            check_room(self._blobs.directory, size, self._reserve)
            download = self._running[digest] = _Download(digest, size)
            download.task = asyncio.create_task(self._run(node, download), name=f"fetch-{digest[:8]}")
            # Its error is for whoever asks next; asyncio would complain if nobody does.
            download.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert download.task is not None
        finished, _ = await asyncio.wait([download.task], timeout=wait_s)
        if not finished:
            return download.status(False)
        self._running.pop(digest, None)
        download.task.result()
        return download.status(True)

    async def stop(self) -> None:
        """End all downloads; what has arrived is kept for later."""
        tasks = [download.task for download in self._running.values() if download.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, node: str, download: _Download) -> None:
        async with self._slots:
            failures = 0
            while True:
                before = download.done
                try:
                    async with asyncio.timeout(GRACE_S + download.size / LEAST_RATE):
                        await self._try(node, download)
                    return
                except TimeoutError:
                    raise PeerUnreachable(f"node {node[:8]}… sends the payload too slowly") from None
                except PeerUnreachable as error:
                    failures = 1 if download.done - before >= PROGRESS else failures + 1
                    if failures >= TRIES or error.details.get("node") == node:
                        raise
                    log.info("download broke off; it is resumed", extra={"hash": download.digest, "at": download.done})

    async def _try(self, node: str, download: _Download) -> None:
        part = self._parts / download.digest
        digest, download.done = await in_thread(_hash_part, part, download.size)
        request = {"hash": download.digest, "offset": download.done}
        async with self._transport.payload(node, request) as (answer, payload):
            if answer.get("size") != download.size:
                raise PeerProtocol(
                    f"node {node[:8]}… says the payload has {answer.get('size')!r:.20} bytes, not {download.size}"
                )
            await self._receive(payload, part, digest, download)
        if digest.hexdigest() != download.digest:
            part.unlink(missing_ok=True)
            download.done = 0
            raise BlobDamaged(f"what node {node[:8]}… sent is not payload {download.digest[:16]}…")
        await in_thread(_adopt, part, self._blobs.path(download.digest))

    async def _receive(self, payload: Payload, part: Path, digest: Any, download: _Download) -> None:
        def store(data: bytes) -> None:
            with part.open("ab") as file:
                file.write(data)
            digest.update(data)

        while download.done < download.size:
            data = await payload.read(CHUNK, RECEIVE_S)
            if not data:
                raise PeerUnreachable("the payload ended early")
            if download.done + len(data) > download.size:
                raise PeerProtocol("the payload is longer than announced")
            await in_thread(store, data)
            download.done += len(data)


def _hash_part(part: Path, size: int) -> tuple[Any, int]:
    """The running hash of what is there, and its length; a part that is too long is thrown away."""
    digest, done = hashlib.sha256(), 0
    with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
    if done > size:
        part.unlink()
        return hashlib.sha256(), 0
    return digest, done


def _adopt(part: Path, target: Path) -> None:
    """Move a checked file into the store, durably."""
    part.touch(mode=0o600)
    part.chmod(0o640)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True)
    failpoint.hit("registryd:payload-whole")
    os.replace(part, target)
    failpoint.hit("registryd:payload-adopted")
    sync_directory(target.parent)
