"""Each daemon's own configuration file, with each fault that a person, an editor or a crash can put into it.

A daemon never starts with a part of what was written: it ends with 78, which systemd does not try again, and names the
file, the line where there is one, and what to do.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dux_airdropd.daemon import AirdropDaemon
from dux_escrowd.daemon import EscrowDaemon
from dux_flopd.daemon import FlopDaemon
from dux_registryd.__main__ import Registryd
from dux_taskd.__main__ import TaskDaemon
from dux_taskd.sandbox.__main__ import SandboxDaemon
from duxcommon.daemon import Daemon, run
from tests.support.network import write_network
from tests.support.process import ROOT

DAEMONS: dict[str, type[Daemon]] = {
    "flopd": FlopDaemon,
    "escrowd": EscrowDaemon,
    "taskd": TaskDaemon,
    "registryd": Registryd,
    "airdropd": AirdropDaemon,
    "sandbox": SandboxDaemon,
}
IN_FILE: dict[str, tuple[str, str]] = {
    "an unknown key": ("no_such_key: 1\n", "unknown key 'no_such_key'"),
    "a misspelt key": ("drein_s: 1\n", "unknown key 'drein_s'; did you mean 'drain_s'?"),
    "a wrong type": ("drain_s: soon\n", "drain_s: Input should be a valid integer"),
    "a wrong unit": ("drain_s: 10 s\n", "drain_s: Input should be a valid integer"),
    "out of bounds": ("drain_s: 100000\n", "drain_s: Input should be less than or equal to 300"),
    "a duplicate": ("drain_s: 5\ndrain_s: 6\n", "key 'drain_s' stands twice"),
    "a tab": ("drain_s:\t5\n\tx: 1\n", "line "),
    "half a line": ('log_level: "inf', "unexpected end"),
    "a list": ("- drain_s\n", "expected"),
    "an unknown key in a section": ("access:\n  write: [staff]\n", "unknown key 'access.write'"),
    "a group of an older version": ("access:\n  spend: [duxnet-spend]\n", "was renamed to 'dux-spend' in 0.1"),
}
"""What is written below a good file, and what is said."""


def _make(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all.yaml")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


DROP_INS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown key": (_make(b"no_such_key: 1\n"), "line 1: unknown key 'no_such_key'"),
    "half written": (_make(b"access:\n  read: [duxnet"), "line "),
    "binary": (_make(bytes(range(32)) * 10), "10-x.yaml"),
    "not UTF-8": (_make(b"log_level: \xff\xfe\n"), "byte 11 is no text in UTF-8"),
    "UTF-16": (_make("drain_s: 5\n".encode("utf-16")), "is no text in UTF-8"),
    "a list": (_make(b"- a\n"), "expected keys and values"),
    "a folder": (_folder, "it is no file"),
    "a pipe": (os.mkfifo, "it is no file"),
    "a socket": (_socket, "it is no file"),
    "a link to nowhere": (_dangling, "No such file"),
    "too large": (_make(b"#" * 1_000_001), "larger than"),
}  # fmt: skip
"""What `X.d/10-x.yaml` is, and what is said."""


@pytest.fixture
def good(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The file that the package ships, with everything in the test's own folder; it ends in a comment."""
    name: str = request.param
    shipped = yaml.safe_load((ROOT / "etc-duxnet" / f"{name}.yaml").read_text()) or {}
    write_network(tmp_path / "network.yaml")
    here = {key: str(tmp_path) for key in ("run_dir", "state_dir", "log_dir")}
    value = {key: item for key, item in shipped.items() if key not in ("drain_s", "log_level", "access")}
    value |= {**here, "network": str(tmp_path / "network.yaml")}
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    """Both `--check` and a start end with 78 and say `words`, the file and what to do, in a few lines."""
    for more in (["--check"], []):
        assert run(DAEMONS[path.stem], ["--config", str(path), *more]) == 78
        out, err = capsys.readouterr()
        assert words in err
        assert str(path.with_suffix("")) in err
        assert "good" not in out
        assert "Traceback" not in err
        assert len(err.strip().split("\n")) <= 6, err
        assert "\n  " in err, "no hint"


@pytest.mark.parametrize("good", DAEMONS, indirect=True)
def test_a_fault_in_the_file_is_named_with_its_line(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(DAEMONS[good.stem], ["--config", str(good), "--check"]) == 0
    assert capsys.readouterr().out.startswith(f"{good}: good")
    text = good.read_text()
    for fault, words in IN_FILE.values():
        good.write_text(text + fault)
        refused(good, capsys, words)
    good.unlink()
    refused(good, capsys, "No such file")


@pytest.mark.parametrize("good", DAEMONS, indirect=True)
def test_a_fault_in_a_drop_in_is_named_and_never_left_out(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = good.with_suffix(".d")
    folder.mkdir()
    drop_in = folder / "10-x.yaml"
    for make, words in DROP_INS.values():
        make(drop_in)
        refused(good, capsys, words)
        drop_in.rmdir() if drop_in.is_dir() else drop_in.unlink()
    # An empty one sets nothing; what is hidden or has another name is not read.
    drop_in.write_text("")
    (folder / ".10-x.yaml.swp").write_bytes(b"\xff")
    (folder / ".20-half.yaml").write_bytes(b"\xff")
    (folder / "30-old.yaml.dpkg-old").write_bytes(b"\xff")
    assert run(DAEMONS[good.stem], ["--config", str(good), "--check"]) == 0


@pytest.mark.parametrize("good", ["flopd"], indirect=True)
def test_a_file_in_the_place_of_the_drop_in_folder_is_refused(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.with_suffix(".d").write_text("")
    refused(good, capsys, "Not a directory")


@pytest.mark.parametrize("good", ["flopd"], indirect=True)
def test_a_drop_in_folder_that_can_not_be_read_is_refused(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root to become another user and back")
    folder = good.with_suffix(".d")
    folder.mkdir(mode=0o700)
    for parent in (*good.parents,):
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        refused(good, capsys, "can't read the folder")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("good", ["flopd"], indirect=True)
def test_the_check_notes_groups_that_this_machine_does_not_have(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(good.read_text() + "access:\n  read: [root, dux-raed]\n  spend: [dux-raed]\n")
    assert run(FlopDaemon, ["--config", str(good), "--check"]) == 0
    (note,) = [line for line in capsys.readouterr().out.split("\n") if line.startswith("note: ")]
    assert "group 'dux-raed', named in access.read and access.spend, does not exist on this machine" in note
    assert "addgroup" in note
