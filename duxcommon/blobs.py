"""Content-addressed files: a payload is named by its SHA-256, so whoever has the name can check the bytes."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Container
from pathlib import Path
from types import TracebackType

from .errors import BlobDamaged, NotFound
from .files import sync_directory

CHUNK = 1 << 20


class BlobWriter:
    """Collects the bytes of one blob; nothing is visible in the store before `commit`."""

    def __init__(self, store: "BlobStore") -> None:
        self._store = store
        self._path = store.directory / "tmp" / secrets.token_hex(16)
        self._file = self._path.open("xb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def commit(self, expected: str | None = None) -> str:
        """Make the blob visible and durable; its hash. Raises BlobDamaged when it isn't `expected`."""
        digest = self._hash.hexdigest()
        if expected is not None and digest != expected:
            self.discard()
            raise BlobDamaged(f"the bytes hash to {digest[:16]}…, expected {expected[:16]}…")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        # Other daemons of the node read blobs through their group.
        self._path.chmod(0o640)
        target = self._store.path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_directory(self._store.directory)
        os.replace(self._path, target)
        sync_directory(target.parent)
        return digest

    def discard(self) -> None:
        """Forget the bytes; safe to call after `commit`."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class BlobStore:
    """The blobs of one node, in a directory that its daemons share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "tmp").mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob with this hash is, or would be. `digest` is 64 hex digits."""
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise NotFound(f"{digest[:20]!r} is not a hash")
        return self.directory / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """In bytes. Raises NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest[:16]}… here") from None

    def writer(self) -> BlobWriter:
        """Collect a blob piece by piece; use it in a `with` block."""
        return BlobWriter(self)

    def put(self, data: bytes) -> str:
        """Store bytes; their hash."""
        digest = hashlib.sha256(data).hexdigest()
        if self.has(digest):
            # It is wanted again. Another daemon's file can't be marked; reading it will do.
            with contextlib.suppress(OSError):
                os.utime(self.path(digest))
            return digest
        with self.writer() as writer:
            writer.write(data)
            return writer.commit(digest)

    def put_file(self, source: Path) -> str:
        """Store a copy of a file; its hash."""
        with source.open("rb") as file, self.writer() as writer:
            while chunk := file.read(CHUNK):
                writer.write(chunk)
            return writer.commit()

    def read(self, digest: str, offset: int = 0, length: int = -1) -> bytes:
        """Part of a blob, unchecked. Raises NotFound."""
        try:
            with self.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest[:16]}… here") from None

    def get(self, digest: str) -> bytes:
        """A whole blob, checked against its hash. Raises NotFound or BlobDamaged (the file is then removed)."""
        data = self.read(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            self.remove(digest)
            raise BlobDamaged(f"blob {digest[:16]}… was damaged on disk; it was removed")
        return data

    def remove(self, digest: str) -> None:
        """Delete a blob; nothing happens when it isn't there."""
        self.path(digest).unlink(missing_ok=True)

    def forget_unused(self, before: float, keep: Container[str]) -> int:
        """Delete the blobs that were neither written nor read since `before` (Unix seconds); how many.

        Where the disk is mounted `noatime` only writing counts. Those in `keep` stay.
        """
        gone = 0
        for blob in self.directory.glob("[0-9a-f][0-9a-f]/*"):
            used = blob.stat()
            if max(used.st_mtime, used.st_atime) < before and blob.name not in keep:
                blob.unlink(missing_ok=True)
                gone += 1
        return gone

    def clear_unfinished(self) -> None:
        """Delete what a crash left half-written; for the one daemon that does so at its start."""
        for part in (self.directory / "tmp").iterdir():
            part.unlink(missing_ok=True)
