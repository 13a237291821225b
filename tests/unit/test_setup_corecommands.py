"""What people are told to type: it fits a machine with sudo and one without, a service and a Core started by hand."""

import os
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from dux_setup import corecommands, corefind
from dux_setup.corecommands import again, as_root, as_user, commands
from dux_setup.corefiles import Target
from dux_setup.corefind import KINDS, Folder, Process
from dux_setup.coreplan import Wish

ANN, BOB, SERVICE = 40_001, 40_002, 40_900
NAMES = {ANN: "ann", BOB: "bob", SERVICE: "flopcoin", 0: "root"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own users, processes and units gets into a test."""
    monkeypatch.setattr(corefind, "user_name", NAMES.__getitem__)
    monkeypatch.setattr(corecommands, "UNIT_FOLDERS", ())
    typed_by(monkeypatch, ANN)


def typed_by(monkeypatch: pytest.MonkeyPatch, uid: int, *, sudo: bool = True, called_by: str = "") -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(corefind, "person", lambda: (Path("/home/ann"), ANN))
    monkeypatch.setattr(corecommands.shutil, "which", lambda name: f"/usr/bin/{name}" if sudo else None)
    monkeypatch.delenv("SUDO_USER", raising=False)
    if called_by:
        monkeypatch.setenv("SUDO_USER", called_by)


def target(uid: int, path: str = "/home/ann/.flopcoin", process: Process | None = None, conf: str = "") -> Target:
    folder = Folder(Path(path), uid, uid, used=True)
    where = Path(conf) if conf else folder.path / "flopcoin.conf"
    return Target(KINDS["main"], folder, where, process, Path("/usr/local/bin/flopcoind"))


def running(pid: int, program: str = "flopcoind", options: dict[str, str] | None = None) -> Process:
    return Process(pid, ANN, program, Path("/home/ann/.flopcoin"), None, options or {})


def test_root_is_become_by_sudo_or_by_roots_password_or_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_root("dux-ctl status") == "sudo dux-ctl status"
    typed_by(monkeypatch, ANN, sudo=False)
    assert as_root("dux-ctl status") == "su - -c 'dux-ctl status'"
    typed_by(monkeypatch, 0, called_by="ann")
    assert as_root("dux-ctl status") == "sudo dux-ctl status"
    typed_by(monkeypatch, 0)
    assert as_root("dux-ctl status") == "dux-ctl status"


def test_a_file_named_from_this_folder_is_found_by_the_line_for_root_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed_by(monkeypatch, ANN, sudo=False)
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    monkeypatch.setattr("sys.argv", ["dux-ctl", "network", "join", "home.yaml"])
    typed = shlex.split(again(Namespace(file=Path("home.yaml"), yes=False)))
    assert typed[:3] == ["su", "-", "-c"]
    assert shlex.split(typed[3]) == ["cd", str(tmp_path / "a b"), "&&", "dux-ctl", "network", "join", "home.yaml"]
    assert again(Namespace(file=Path("/tmp/home.yaml"))) == "su - -c 'dux-ctl network join home.yaml'"
    assert (
        f"--datadir {shlex.quote(str(tmp_path / 'a b' / 'core'))}" in shlex.split(Wish(datadir=Path("core")).command)[3]
    )
    typed_by(monkeypatch, ANN)
    assert again(Namespace(file=Path("home.yaml"))) == "sudo dux-ctl network join home.yaml"


def test_cores_user_is_become_in_the_same_ways_and_oneself_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_user(ANN, "flopcoin-cli") == "flopcoin-cli"
    assert as_user(SERVICE, "flopcoin-cli") == "sudo -u flopcoin flopcoin-cli"
    typed_by(monkeypatch, ANN, sudo=False)
    assert as_user(SERVICE, "flopcoin-cli") == "su - -c 'runuser -u flopcoin -- flopcoin-cli'"
    typed_by(monkeypatch, 0)
    assert as_user(ANN, "flopcoin-cli") == "runuser -u ann -- flopcoin-cli"
    assert as_user(0, "flopcoin-cli") == "flopcoin-cli"


def test_a_core_started_by_hand_is_stopped_waited_for_and_started_again_with_what_it_was_started_with() -> None:
    found = commands(target(ANN, process=running(77, options={"regtest": ""}), conf="/home/ann/my.conf"))
    options = "-datadir=/home/ann/.flopcoin -conf=/home/ann/my.conf -regtest"
    assert found.cli == f"flopcoin-cli {options}"
    assert found.start == f"/usr/local/bin/flopcoind {options} -daemon"
    assert found.restart == f"{found.cli} stop; tail --pid=77 -f /dev/null; {found.start}"


def test_a_core_with_a_window_is_closed_and_opened_by_hand() -> None:
    found = commands(target(ANN, process=running(77, "flopcoin-qt")))
    assert found.restart == "close its window and open it again"
    assert found.start == "flopcoin-qt -datadir=/home/ann/.flopcoin"


@pytest.mark.parametrize(
    ("group", "main", "unit"),
    [
        ("0::/system.slice/coin.service", 77, "coin"),
        (r"0::/system.slice/core\x2d2.service", 77, r"'core\x2d2'"),
        ("9:name=systemd:/system.slice/coin.service\n0::/", 77, "coin"),
        ("0::/system.slice/cron.service", 5, ""),
        ("0::/user.slice/user-1000.slice/session-1.scope", 77, ""),
        ("", 77, ""),
    ],
    ids=["service", "escaped name", "older control groups", "started by cron", "started at a login", "hidden"],
)
def test_a_running_service_is_restarted_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, main: int, unit: str
) -> None:
    (tmp_path / "77").mkdir()
    if group:
        (tmp_path / "77" / "cgroup").write_text(f"{group}\n")
    monkeypatch.setattr(corecommands, "_main_process", lambda unit: main)
    found = commands(target(SERVICE, "/srv/coin", running(77)), tmp_path)
    if unit:
        assert (found.start, found.restart) == (f"sudo systemctl start {unit}", f"sudo systemctl restart {unit}")
    else:
        assert "systemctl" not in found.restart
    assert found.cli == "sudo -u flopcoin flopcoin-cli -datadir=/srv/coin"


@pytest.mark.parametrize(("folder", "its"), [("/var/lib/flopcoin", True), ("/srv/coin", True), ("/home/ann/.x", False)])
def test_a_service_that_does_not_run_is_known_by_the_folder_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, its: bool
) -> None:
    (tmp_path / corecommands.UNIT).write_text("[Service]\nExecStart=/usr/local/bin/flopcoind -datadir=/srv/coin\n")
    monkeypatch.setattr(corecommands, "UNIT_FOLDERS", (str(tmp_path),))
    assert (commands(target(SERVICE, folder)).start == "sudo systemctl start flopcoind") is its


def test_the_person_at_the_terminal_is_known_behind_sudo_and_su(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "nobody")
    nobody = corefind.person()
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setattr(os, "getlogin", lambda: "nobody")
    assert corefind.person() == nobody
    monkeypatch.setattr(os, "getlogin", lambda: "root")
    assert corefind.person()[1] == 0
