"""What daemons log, as the journal and a file get it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOG = """
import logging, sys
from pathlib import Path
from duxcommon import logs
logs.setup("flopd", "info", Path(sys.argv[1]))
for level in ("info", "warning", "error"):
    getattr(logging.getLogger("flopd"), level)(level)
"""


def logged(folder: Path, *, journal: bool) -> list[str]:
    """Lines on standard error of a process; `journal`: as systemd starts it."""
    reader, writer = os.pipe()
    status = os.fstat(writer)
    stream = f"{status.st_dev}:{status.st_ino}" if journal else "8:1"
    with os.fdopen(reader) as lines:
        subprocess.run(
            [sys.executable, "-c", LOG, str(folder)],
            stderr=writer, env={**os.environ, "JOURNAL_STREAM": stream}, check=True, timeout=60,
        )  # fmt: skip
        os.close(writer)
        return lines.read().splitlines()


def test_the_journal_gets_the_level_of_each_line(tmp_path: Path) -> None:
    lines = logged(tmp_path, journal=True)
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["info", "warning", "error"]


@pytest.mark.parametrize("journal", [True, False])
def test_everywhere_else_a_line_is_json_alone(journal: bool, tmp_path: Path) -> None:
    lines = logged(tmp_path, journal=journal)
    kept = (tmp_path / "flopd.log").read_text().splitlines()
    assert [json.loads(line)["message"] for line in kept] == ["info", "warning", "error"]
    assert journal or [json.loads(line) for line in lines] == [json.loads(line) for line in kept]
