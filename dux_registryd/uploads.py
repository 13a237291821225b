"""Payloads that local programs write piece by piece into the node's blob store."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from duxcommon.api.manifest import MAX_PAYLOAD
from duxcommon.api.registryd import BlobInfo, UploadStatus
from duxcommon.blobs import BlobStore, BlobWriter
from duxcommon.errors import BlobTooLarge, QuotaExceeded, UploadMismatch

from .transfers import check_room, in_thread

MAX_OPEN = 32
IDLE_S = 600.0
REMEMBERED = 1024


@dataclass
class _Upload:
    writer: BlobWriter
    used: float = field(default_factory=time.monotonic)


class Uploads:
    """By the caller's user and the name it chose; a piece that comes twice is taken once."""

    def __init__(self, blobs: BlobStore, reserve: int) -> None:
        self._blobs = blobs
        self._reserve = reserve
        self._open: dict[tuple[int, str], _Upload] = {}
        self._finished: OrderedDict[tuple[int, str], UploadStatus] = OrderedDict()

    def configure(self, reserve: int) -> None:
        """Take new settings (on reload)."""
        self._reserve = reserve

    async def write(self, uid: int, upload: str, offset: int, data: bytes, *, final: bool) -> UploadStatus:
        """Take the piece at `offset`; with `final` the blob is complete.

        Raises UploadMismatch for a piece that doesn't follow, BlobTooLarge, DiskFull, QuotaExceeded.
        """
        name = (uid, upload)
        end = offset + len(data)
        if (status := self._finished.get(name)) is not None and end <= status.received and offset > 0:
            return status
        if end > MAX_PAYLOAD:
            self._drop(name)
            raise BlobTooLarge(f"an upload of {end} bytes ({MAX_PAYLOAD} are allowed)")
        open_one = self._begin(name) if offset == 0 else self._open.get(name)
        received = 0 if open_one is None else open_one.writer.size
        if open_one is None or offset > received:
            raise UploadMismatch(
                f"upload {upload} has {received} bytes here, the piece begins at {offset}", details={"offset": received}
            )
        open_one.used = time.monotonic()
        if end > received:
            check_room(self._blobs.directory, len(data), self._reserve)
            await in_thread(open_one.writer.write, data[received - offset :])
        if not final:
            return UploadStatus(upload=upload, received=open_one.writer.size, blob=None)
        del self._open[name]
        try:
            digest = await in_thread(open_one.writer.commit)
        finally:
            open_one.writer.discard()
        status = UploadStatus(upload=upload, received=end, blob=BlobInfo(hash=digest, size=end))
        self._finished[name] = status
        while len(self._finished) > REMEMBERED:
            self._finished.popitem(last=False)
        return status

    def _begin(self, name: tuple[int, str]) -> _Upload:
        """A fresh upload, in place of an unfinished one of the same name."""
        self._drop(name)
        self._finished.pop(name, None)
        limit = time.monotonic() - IDLE_S
        for other in [key for key, upload in self._open.items() if upload.used < limit]:
            self._drop(other)
        if len(self._open) >= MAX_OPEN:
            raise QuotaExceeded(f"{MAX_OPEN} uploads are open; finish one first", details={"wait_s": IDLE_S})
        upload = self._open[name] = _Upload(self._blobs.writer())
        return upload

    def _drop(self, name: tuple[int, str]) -> None:
        upload = self._open.pop(name, None)
        if upload is not None:
            upload.writer.discard()

    def close(self) -> None:
        """Forget what is unfinished."""
        for name in list(self._open):
            self._drop(name)
