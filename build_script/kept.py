"""What stays in the cache: the newest of a kind, what a process uses, and what was used within the last hour."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

IDLE_S = 3600.0
"""Two trees that are worked on in turn do not take each other's away."""
_held: dict[Path, IO[str]] = {}


def use(path: Path) -> None:
    """Nobody removes this entry of the cache before this process has ended.

    Called, like `remove_unused`, while the lock of its kind is held.
    """
    mark = path.with_suffix(".used")
    if mark not in _held:
        _held[mark] = mark.open("a")
        fcntl.flock(_held[mark], fcntl.LOCK_SH)
    os.utime(mark)


def remove_unused(paths: Iterable[Path], newest: Path, remove: Callable[[Path], object]) -> None:
    """Remove what belongs to other entries than `newest`: those that nobody uses, or has used for an hour."""
    entries: dict[str, list[Path]] = {}
    for path in paths:
        entries.setdefault(path.stem, []).append(path)
    entries.pop(newest.stem, None)
    for files in entries.values():
        mark = files[0].with_suffix(".used")
        with mark.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            unused = time.time() - max(path.stat().st_mtime for path in files) > IDLE_S
            if unused:
                for path in files:
                    remove(path)
            if unused or mark not in files:
                mark.unlink(missing_ok=True)
