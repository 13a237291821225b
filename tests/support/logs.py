"""Reads what daemons logged: a line of level error, or a traceback, is a fault of ours and fails the test."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

PATTERNS = ("*.log", "*.err")
LEAKS = ("Traceback (most recent call last)", "Task exception was never retrieved", "ResourceWarning")
SHOWN = 4000


def log_files(folder: Path) -> list[Path]:
    """All log files of daemons below `folder`."""
    return sorted(path for pattern in PATTERNS for path in folder.rglob(pattern) if path.is_file())


def faults(lines: Iterable[str]) -> list[str]:
    """The lines that no daemon may log, whatever its callers send."""
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        bad = entry.get("level") in ("error", "critical") if isinstance(entry, dict) else False
        if bad or any(leak in line for leak in LEAKS):
            found.append(line.rstrip("\n"))
    return found


def assert_clean_logs(folder: Path, allow: Sequence[str] = ()) -> None:
    """Fail when a daemon whose log lies below `folder` logged a fault.

    `allow` holds regular expressions of lines that the test provoked on purpose; each must occur.
    """
    found = {path: faults(path.read_text(errors="replace").splitlines()) for path in log_files(folder)}
    lines = [f"{path.relative_to(folder)}: {line}" for path, bad in found.items() for line in bad]
    for pattern in allow:
        assert any(re.search(pattern, line) for line in lines), f"no daemon logged the expected fault {pattern!r}"
    unexpected = [line for line in lines if not any(re.search(pattern, line) for pattern in allow)]
    text = "\n".join(unexpected)
    assert not unexpected, f"daemons logged {len(unexpected)} fault(s):\n{text[:SHOWN]}"
