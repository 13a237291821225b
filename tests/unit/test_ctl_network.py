"""`dux-ctl network host`, `join` and `leave`: what is wrong with a command line, who may, and coins left behind."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import exits, networks
from dux_ctl.control import Control
from dux_ctl.main import main
from dux_setup import joining, paths
from dux_setup.invitation import Invitation, write_invitation
from duxcommon.errors import CoinsInChannels, DaemonDown
from tests.unit.test_invitation import value


@pytest.fixture
def invited(tmp_path: Path) -> Path:
    """The file of an invitation."""
    path = tmp_path / "home.yaml"
    write_invitation(path, Invitation.model_validate(value()))
    return path


@pytest.mark.parametrize("words", [["host"], ["host", "--off", "x.yaml"], ["host", "--off", "--address", "10.0.0.1"]])
def test_host_wants_a_file_or_off_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network", *words]) == exits.USAGE
    assert "--off alone" in capsys.readouterr().err


def test_who_is_not_root_is_told_the_line_to_type(
    invited: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("dux_setup.corecommands.shutil.which", lambda name: f"/usr/bin/{name}")
    for words in (["join", str(invited)], ["leave"], ["host", "x.yaml"]):
        monkeypatch.setattr("sys.argv", ["dux-ctl", "network", *words])
        assert main(["network", *words]) == exits.NOT_ALLOWED
        assert f"sudo dux-ctl network {' '.join(words)}" in capsys.readouterr().err


def test_a_bad_invitation_is_told_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "bad.yaml").write_text("format: 9\n")
    assert main(["--json", "network", "join", str(tmp_path / "bad.yaml")]) == exits.FAILED
    assert json.loads(capsys.readouterr().out)["error"]["data"]["name"] == "BadInvitation"


class Pages(Control):
    """Answers `channel.list` from pages of channels; other calls fail the test."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        super().__init__(Path("/nowhere"), False, 1.0)
        self._pages = list(pages)

    def call(self, method: str, params: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        assert method == "channel.list"
        if not self._pages:
            raise DaemonDown("dux-escrowd does not run")
        page = self._pages.pop(0)
        return {"channels": page, "next": "1" if self._pages else None}


def channel(state: str, deposited: int) -> dict[str, Any]:
    return {"state": state, "deposited": deposited}


def test_coins_in_open_channels_want_a_yes_and_ended_channels_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [channel("OPEN", 100_000_000), channel("CLOSED", 7)], [channel("REFUND_SENT", 50_000_000)]
    with pytest.raises(CoinsInChannels, match=r"2 open channels hold 1\.50 FLOP"):
        networks._look_at_channels(Pages(*pages), yes=False)
    networks._look_at_channels(Pages(*pages), yes=True)
    assert "Left behind: 2 open channels hold 1.50 FLOP" in capsys.readouterr().err
    networks._look_at_channels(Pages([channel("CLOSED", 7)]), yes=False)


def test_where_nobody_can_tell_about_channels_a_yes_is_wanted_as_well() -> None:
    with pytest.raises(CoinsInChannels, match="can't be told"):
        networks._look_at_channels(Pages(), yes=False)
    networks._look_at_channels(Pages(), yes=True)


def test_joining_looks_at_channels_before_it_changes_anything(
    invited: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(joining, "present_network", lambda paths: None)
    monkeypatch.setattr(joining, "join", lambda *_: pytest.fail("it joined"))
    assert main(["--run-dir", str(tmp_path), "network", "join", str(invited)]) == exits.FAILED
    assert "CoinsInChannels" in capsys.readouterr().err


def test_leaving_ones_own_trial_network_changes_nothing_unless_asked_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = paths.Paths(tmp_path)
    own.devchain_users.parent.mkdir(parents=True)
    own.devchain_users.write_text("node:0$0\n")
    left: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(paths, "Paths", lambda: own)
    monkeypatch.setattr(joining, "present_network", lambda paths: None)
    monkeypatch.setattr(joining, "leave", lambda *_: left.append("left") or tmp_path)
    assert main(["network", "leave"]) == exits.OK
    assert "nothing was changed" in capsys.readouterr().out
    assert left == []
    assert main(["--run-dir", str(tmp_path), "network", "leave", "--yes"]) == exits.OK
    own.devchain_users.unlink()
    assert main(["--run-dir", str(tmp_path), "network", "leave", "--yes"]) == exits.OK
    assert left == ["left", "left"]
