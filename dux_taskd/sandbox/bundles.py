"""Unpacked bundles, ready to be bound into sandboxes: by hash, the least recently used deleted first."""

import asyncio
import contextlib
import hashlib
import secrets
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path

from duxcommon import bundle
from duxcommon.blobs import CHUNK, BlobStore
from duxcommon.errors import BlobDamaged, NotFound


class BundleCache:
    """Below `folder`, which is emptied first: half-written files of a power cut must never be run."""

    def __init__(self, folder: Path, blobs: BlobStore, max_bytes: int) -> None:
        self.folder, self._blobs, self._max_bytes = folder, blobs, max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._used: dict[str, int] = {}
        self._unpacking: dict[str, asyncio.Lock] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Task uids enter it; what is in it is published code.
        folder.chmod(0o755)

    @contextlib.asynccontextmanager
    async def lease(self, digest: str) -> AsyncIterator[str]:
        """The name, below `folder`, of the unpacked bundle; it stays there until the block ends.

        Raises NotFound, BlobDamaged, BadBundle, BundleTooLarge.
        """
        self._used[digest] = self._used.get(digest, 0) + 1
        try:
            async with self._unpacking.setdefault(digest, asyncio.Lock()):
                if digest not in self._sizes:
                    self._sizes[digest] = await asyncio.to_thread(self._unpack, digest)
            self._sizes.move_to_end(digest)
            await self._shrink()
            yield digest
        finally:
            self._used[digest] -= 1
            if not self._used[digest]:
                del self._used[digest]
                self._unpacking.pop(digest, None)

    def _unpack(self, digest: str) -> int:
        path = self._blobs.path(digest)
        found, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    found.update(chunk)
                    size += len(chunk)
        except FileNotFoundError:
            raise NotFound(f"the bundle {digest[:16]}… is not among this node's blobs") from None
        if found.hexdigest() != digest:
            raise BlobDamaged(f"the bundle {digest[:16]}… was damaged on disk")
        bundle.unpack(path, self.folder / digest)
        return size

    async def _shrink(self) -> None:
        total = sum(self._sizes.values())
        for digest in list(self._sizes):
            if total <= self._max_bytes:
                return
            if digest not in self._used:
                total -= self._sizes.pop(digest)
                # Moved away at once, so that the name is free should the bundle be wanted again meanwhile.
                doomed = self.folder / f".{digest}.{secrets.token_hex(4)}"
                (self.folder / digest).rename(doomed)
                await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)
