"""Cores on a machine: found by their processes and folders, without running anything."""

import os
import socket
from pathlib import Path

import pytest

from dux_setup import corefiles, corefind
from dux_setup.corefind import KINDS, listeners, owner_of, processes
from duxcommon.errors import CoreFileUnusable, TwoCores

MAIN = KINDS["main"]


def process(proc: Path, pid: int, *words: str, cwd: Path | None = None) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))
    if cwd is not None:
        (folder / "cwd").symlink_to(cwd)


def test_running_cores_are_known_by_name_with_what_their_command_line_says(tmp_path: Path) -> None:
    process(tmp_path, 20, "/usr/local/bin/flopcoind", "-daemon", "-datadir=/srv/coin", "-rpcport=40000", "--regtest")
    process(tmp_path, 7, "flopcoin-qt", "-datadir=coin", "-conf=my.conf", cwd=Path("/srv"))
    process(tmp_path, 30, "/usr/bin/python3", "flopcoind")
    process(tmp_path, 40, "")
    (tmp_path / "self").mkdir()
    (tmp_path / "50").mkdir()
    first, second = processes(MAIN, tmp_path)
    assert (first.pid, first.datadir, first.conf) == (7, Path("/srv/coin"), Path("/srv/coin/my.conf"))
    assert (second.pid, second.datadir, second.conf, second.section) == (20, Path("/srv/coin"), None, "regtest")
    assert second.options["rpcport"] == "40000"


def test_without_an_option_the_folder_is_in_the_users_home(tmp_path: Path) -> None:
    process(tmp_path, 9, "flopcoind")
    (found,) = processes(MAIN, tmp_path)
    assert found.datadir == Path("~").expanduser() / ".flopcoin"


def choose(home: Path, **options: Path | None) -> corefiles.Target:
    return corefiles.choose(MAIN, **{"datadir": None, "conf": None, **options}, home=home, uid=os.getuid())  # type: ignore[arg-type]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Core of the machine itself gets into the test."""
    monkeypatch.setattr(corefind, "SERVICE_FOLDER", tmp_path / "service")
    monkeypatch.setattr(corefind, "processes", lambda kind: [])
    (tmp_path / "home").mkdir()
    return tmp_path


def used(folder: Path) -> Path:
    folder.mkdir()
    (folder / "flopcoin.conf").write_text("")
    return folder


def test_the_one_folder_in_use_is_chosen(places: Path) -> None:
    assert choose(places / "home").folder.path == places / "home" / ".flopcoin"
    (places / "service").mkdir()
    assert choose(places / "home").folder.path == places / "service"
    used(places / "home" / ".flopcoin")
    assert choose(places / "home").conf == places / "home" / ".flopcoin" / "flopcoin.conf"


def test_two_folders_in_use_must_be_told_apart(places: Path) -> None:
    used(places / "home" / ".flopcoin")
    used(places / "service")
    with pytest.raises(TwoCores, match="several Cores"):
        choose(places / "home")
    assert choose(places / "home", datadir=places / "service").folder.used
    assert choose(places / "home", conf=places / "service" / "my.conf").conf == places / "service" / "my.conf"


def test_a_running_core_counts_more_than_a_folder_and_strangers_do_not_count(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(places / "home" / ".flopcoin")
    mine = corefind.Process(1, os.getuid(), "flopcoind", places / "mine", None, {})
    theirs = corefind.Process(2, 64_000, "flopcoind", places / "theirs", None, {})
    monkeypatch.setattr(corefind, "processes", lambda kind: [mine, theirs])
    assert choose(places / "home").folder.path == places / "mine"
    assert choose(places / "home").process is mine


@pytest.mark.parametrize("which", ["datadir", "conf"])
@pytest.mark.parametrize("end", ["\nsudo evil", "\x1b[2J", "\udcfc"])
def test_a_name_that_would_pass_for_words_of_ours_is_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch, which: str, end: str
) -> None:
    used(places / "core")
    odd = places / f"core{end}"
    datadir, conf = (odd, None) if which == "datadir" else (places / "core", odd)
    running = corefind.Process(1, os.getuid(), "flopcoind", datadir, conf, {})
    monkeypatch.setattr(corefind, "processes", lambda kind: [running])
    with pytest.raises(CoreFileUnusable, match="can't be printed") as raised:
        choose(places / "home")
    assert raised.value.message.isprintable()


def test_a_folder_in_a_place_that_is_not_there_is_refused(places: Path) -> None:
    with pytest.raises(CoreFileUnusable, match="there is no folder"):
        choose(places / "home", datadir=places / "nowhere" / "core")


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_socket_is_found_with_address_and_user(family: int, address: str) -> None:
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"not run: this machine has no {address}")
    with server:
        found = listeners(server.getsockname()[1])
    assert [(one.address, one.uid, one.loopback) for one in found] == [(address, os.getuid(), True)]


def test_a_socket_for_everyone_is_told_from_one_for_this_machine(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    rest = "00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1\n"
    (tmp_path / "tcp").write_text(f"{head}0: 00000000:1F90 {rest}1: 0100007F:1F90 {rest}")
    v6 = "0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0 0 0  0 0 1\n"
    (tmp_path / "tcp6").write_text(f"{head}0: {v6}")
    assert [one.loopback for one in listeners(8080, tmp_path)] == [False, True, True]
    assert listeners(8081, tmp_path) == []
    assert listeners(8080, tmp_path / "absent") == []


def test_whoever_owns_a_part_of_the_way_is_acted_for(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        assert owner_of(tmp_path)[0] == os.geteuid()
        return
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", 65534, 65534)
    (tmp_path / "a" / "b").mkdir()
    assert owner_of(tmp_path)[0] == 0
    assert owner_of(tmp_path / "a" / "b" / "not there")[0] == 65534
