"""A machine that a power cut found between two networks, at its next boot."""

from pathlib import Path

import pytest

from dux_setup import joining, moving
from dux_setup.paths import Paths


class Noted:
    """A machine whose reloads are counted."""

    def __init__(self) -> None:
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1


def test_units_are_read_anew_when_the_boot_has_put_drop_ins_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, machine = Paths(tmp_path), Noted()
    monkeypatch.setattr(joining, "Paths", lambda: paths)
    monkeypatch.setattr(joining, "this_machine", lambda paths: machine)
    drop_in = moving.flopd_unit(paths)
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nIPAddressAllow=192.0.2.7\n")
    paths.setup.mkdir(parents=True)
    assert (joining.main(), machine.reloads) == (0, 0)

    moving.move_aside(paths)
    assert not drop_in.exists()
    assert (joining.main(), machine.reloads) == (0, 1)
    assert drop_in.exists()
    assert (joining.main(), machine.reloads) == (0, 1)
