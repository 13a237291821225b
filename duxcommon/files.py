"""Files that are either whole or not there."""

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, group: int | None = None) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one, never half of it.

    `group` is the id of the group that the file gets; by default it is our own.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Of a process that was killed, or laid there by somebody to whom the folder is open: never written through.
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if group is not None:
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A full disk is found out by write(), which names nothing.
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename or a new file in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
