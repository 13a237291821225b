"""Fixtures that all tests share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.logs import assert_clean_logs

# A busy machine is no fault: how long an example takes is not judged.
settings.register_profile("duxos", deadline=None)
settings.load_profile("duxos")


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets (107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def daemon_logs(short_tmp: Path) -> Iterator[list[str]]:
    """For tests that run daemons below `short_tmp`: at the end, no daemon may have logged a fault.

    The value is a list; append the regular expression of a line that the test provokes on purpose.
    """
    allowed: list[str] = []
    yield allowed
    assert_clean_logs(short_tmp, allowed)
