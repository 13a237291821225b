"""Files that are whole or not there, also in folders that others may write to."""

import os
from pathlib import Path

import pytest

from duxcommon.files import write_atomic


@pytest.mark.parametrize("laid", ["link", "file"])
def test_nothing_that_somebody_laid_in_the_way_is_written_to(tmp_path: Path, laid: str) -> None:
    target, victim = tmp_path / "home.yaml", tmp_path / "victim"
    part = tmp_path / f".home.yaml.{os.getpid()}.part"
    victim.write_text("as it was")
    if laid == "link":
        part.symlink_to(victim)
    else:
        part.hardlink_to(victim)
    with victim.open() as held:
        write_atomic(target, b"a password", mode=0o600)
        assert held.read() == "as it was"
    assert victim.read_text() == "as it was"
    assert not target.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777, target.stat().st_nlink) == (b"a password", 0o600, 1)
    assert sorted(tmp_path.iterdir()) == [target, victim]


def test_what_a_killed_process_of_the_same_number_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".x.{os.getpid()}.part").write_bytes(b"half")
    write_atomic(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
