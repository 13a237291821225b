"""What a daemon that can't run tells systemd: the hint is always there, however long the message is."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from duxcommon import refusal, sdnotify
from duxcommon.errors import ConfigError, DiskFull


@pytest.fixture
def heard(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's side of the notification socket."""
    monkeypatch.setattr(sdnotify, "_systemd", None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_tmp / "notify"))
        listener.settimeout(30)
        monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", str(short_tmp / "notify"))
        yield listener


def test_file_line_and_hint_survive_a_message_without_end(heard: socket.socket) -> None:
    error = ConfigError("/etc/duxnet/flopd.yaml, line 3: " + "wrong " * 500)
    assert refusal.bad_configuration("flopd", error) == 78
    status = heard.recv(65536).decode()
    assert status.startswith("STATUS=can't run: /etc/duxnet/flopd.yaml, line 3: wrong")
    assert status.endswith(f"wrong … {ConfigError.hint_default}")
    # As much as `dux-ctl why` shows.
    assert len(status) < 1000


def test_a_question_needs_no_full_stop(heard: socket.socket) -> None:
    refusal.bad_configuration("flopd", ConfigError("did you mean 'port'?", hint="Mend it."))
    assert heard.recv(65536) == b"STATUS=can't run: did you mean 'port'? Mend it."


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (sqlite3.OperationalError("database or disk is full"), 1, "(the state is in /var/x)"),
        (DiskFull("there is no room"), 1, "there is no room. Free some space"),
        (PermissionError(13, "Permission denied", "/var/x"), 78, "Permission denied"),
        (OSError(24, "Too many open files"), 1, "Too many open files"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_may_pass_is_tried_again_and_what_may_not_is_not(
    heard: socket.socket, error: OSError, status: int, said: str
) -> None:
    assert refusal.refused("probe", error, Path("/var/x")) == status
    assert said in heard.recv(65536).decode()
