"""`dux-ctl status` and `why` where a daemon can't be reached: which, what is the matter, and what to type now."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import exits, main, reach, units
from dux_ctl.control import DAEMONS
from duxcommon import groups
from duxcommon.errors import DaemonDown, NotAllowed

WELL = {
    "name": "x", "version": "0.1.0", "pid": 1, "uptime_s": 3, "network": "devnet", "worthless": True, "calls": 1,
    "failures": 0, "commits": 0, "rules": None, "notes": [],
}  # fmt: skip


@contextlib.contextmanager
def listening(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A socket whose connections are given to `serve`, one after the other."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                serve(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)


def answering(path: Path, outcome: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """A daemon that says the same to whatever it is asked."""

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                reply = {"jsonrpc": "2.0", "id": json.loads(line)["id"], **outcome}
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()

    return listening(path, answer)


def ctl(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    """A command on the node of a folder of sockets: its status and all that it prints."""
    code = main.main(["--run-dir", str(folder), *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def lines_of(text: str, daemon: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"dux-{daemon}"))


def test_status_names_what_each_socket_shows_and_what_to_look_at(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[socket.socket] = []
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(short_tmp / "escrowd.sock"))
    dead.close()
    with (
        listening(short_tmp / "taskd.sock", lambda connection: connection.close()),
        listening(short_tmp / "registryd.sock", kept.append),
    ):
        code, text = ctl(capsys, short_tmp, "--timeout", "1", "status")
    assert code == exits.UNAVAILABLE
    assert "its socket is not there" in lines_of(text, "flopd")
    assert "nobody listens on its socket" in lines_of(text, "escrowd")
    assert "its connection was closed at once" in lines_of(text, "taskd")
    assert "it does not answer" in lines_of(text, "registryd")
    assert "No node runs in" in text


def test_status_takes_no_longer_than_its_timeout_when_every_daemon_hangs(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for daemon in DAEMONS:
            stack.enter_context(listening(short_tmp / f"{daemon}.sock", kept.append))
        begun = time.monotonic()
        code, text = ctl(capsys, short_tmp, "--timeout", "1.5", "status")
        assert time.monotonic() - begun < 1.5 * len(DAEMONS)
    assert code == exits.UNAVAILABLE
    assert text.count("DOWN") == len(DAEMONS)


def test_a_part_of_a_daemon_that_is_down_is_not_asked_for(short_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                request = json.loads(line)
                asked.append(request["method"])
                if request["method"] != "daemon.status":
                    return
                stream.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": WELL}).encode() + b"\n")
                stream.flush()

    with listening(short_tmp / "flopd.sock", answer):
        code, text = ctl(capsys, short_tmp, "--timeout", "5", "status")
    assert code == exits.UNAVAILABLE
    assert asked[0] == "daemon.status"
    assert "dux-flopd      up 3 s" in text
    assert "lending      unknown" in text
    assert "systemctl start dux-escrowd" in text
    assert "journalctl -b -u dux-escrowd" in text


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may connect to every socket: as for somebody outside the group."""

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("duxcommon.blocking.BlockingClient._reach", refused)


@pytest.mark.parametrize("words", [["status"], ["wallet", "balance"], ["why", "flopd"]], ids=" ".join)
def test_somebody_outside_the_group_gets_the_exact_command(
    words: list[str], short_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    code, text = ctl(capsys, short_tmp, *words)
    assert code == exits.NOT_ALLOWED
    assert f"`usermod -aG duxnet {groups.user_name()}`; then log in again" in text
    assert "systemctl start" not in text
    assert "DOWN" not in text
    assert len(text.splitlines()) == 2


def test_a_program_outside_the_group_gets_the_error_instead_of_six_daemons_that_seem_down(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    code, text = ctl(capsys, short_tmp, "status", "--json")
    assert code == exits.NOT_ALLOWED
    error = json.loads(text)["error"]
    assert (error["data"]["name"], error["message"]) == (
        "NotAllowed",
        "you may not look at this node: that takes the group duxnet",
    )


def test_who_may_ask_some_daemons_sees_those_and_how_to_get_to_the_others(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = NotAllowed("user bob may not call daemon.status (needs group ours)", hint="Ask ann.").to_rpc()
    with (
        answering(short_tmp / "flopd.sock", {"result": WELL}),
        answering(short_tmp / "taskd.sock", {"error": refusal}),
    ):
        code, text = ctl(capsys, short_tmp, "status")
    assert code == exits.NOT_ALLOWED
    assert "up 3 s" in lines_of(text, "flopd")
    assert "??  user bob may not call daemon.status" in lines_of(text, "taskd")
    assert "You may not look at all of this node. Ask ann." in text


def test_somebody_who_was_added_after_the_login_is_told_to_log_in_again(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Group:
        gr_mem = [groups.user_name()]

    monkeypatch.setattr("grp.getgrnam", lambda name: Group)
    refuse(monkeypatch)
    _, text = ctl(capsys, short_tmp, "wallet", "balance")
    assert "is in the group duxnet, but not in this session yet: log in again" in text


def test_a_live_system_says_that_keys_and_coins_are_gone_when_it_is_switched_off(
    short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "gone when the machine is switched off"
    assert words not in ctl(capsys, short_tmp, "status")[1]
    (short_tmp / "live").touch()
    assert words in ctl(capsys, short_tmp, "status")[1]
    assert json.loads(ctl(capsys, short_tmp, "status", "--json")[1])["live"] is True


# --- on a machine that systemd runs -----------------------------------------------------------------------------------


@pytest.fixture
def machine(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes `short_tmp` the machine's own node, with what `systemctl show` and `journalctl` answer."""
    programs = short_tmp / "bin"
    programs.mkdir()

    def answers(states: dict[str, tuple[str, str, str]], journal: str = "") -> None:
        blocks = [
            f"Id={name}.service\nLoadState={'loaded' if active != 'absent' else 'not-found'}\n"
            f"ActiveState={active.replace('absent', 'inactive')}\nResult={result}\nStatusText={said}\n"
            for name, (active, result, said) in states.items()
        ]
        (short_tmp / "units").write_text("\n".join(blocks))
        (short_tmp / "journal").write_text(journal)
        for program, file in (("systemctl", "units"), ("journalctl", "journal")):
            path = programs / program
            path.write_text(f"#!/bin/sh\ncat {short_tmp / file}\n")
            path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(units, "SYSTEM_RUN_DIR", short_tmp)
    monkeypatch.setattr(units, "SYSTEMD", short_tmp)
    monkeypatch.setattr(units, "CHAIN_USERS", short_tmp / "devchain.users")
    return answers


def test_what_systemd_says_of_a_failed_daemon_stands_below_the_screen(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({
        "dux-flopd": ("failed", "exit-code", "the keystore is damaged"),
        "dux-firstboot": ("active", "success", ""),
    })  # fmt: skip
    _, text = ctl(capsys, short_tmp, "status")
    assert "dux-flopd: systemd says failed (exit-code): the keystore is damaged" in text
    assert "journalctl -b -u dux-flopd" in text


@pytest.mark.parametrize("words", [("status",), ("why", "flopd")])
def test_what_a_daemon_told_systemd_does_not_steer_the_terminal(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any], words: tuple[str, ...]
) -> None:
    machine({"dux-flopd": ("failed", "exit-code", "gone\x1b[2J\x1b]0;owned\x07")})
    _, text = ctl(capsys, short_tmp, *words)
    assert "gone\ufffd[2J" in text
    assert "\x1b" not in text


def test_what_failed_is_started_again_by_a_command_that_works_even_after_many_failed_starts(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-flopd": ("failed", "exit-code", "the keystore is damaged")})
    _, text = ctl(capsys, short_tmp, "why", "flopd")
    assert "Once that is mended: systemctl reset-failed 'dux-*' && systemctl start dux.target" in text
    assert "Start what is down" not in text


def test_a_node_that_was_stopped_is_started_by_one_word(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({f"dux-{name}": ("inactive", "success", "") for name in DAEMONS})
    assert "Start what is down: systemctl start dux.target\n" in ctl(capsys, short_tmp, "status")[1]


def test_a_failed_first_boot_is_named_alone_because_nothing_starts_before_it(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-firstboot": ("failed", "exit-code", "no space left in /var/lib/duxnet")})
    _, text = ctl(capsys, short_tmp, "status")
    assert "The first boot failed: no space left in /var/lib/duxnet." in text
    assert "journalctl -u dux-firstboot -b" in text
    assert "systemctl start dux-flopd" not in text


def test_a_first_boot_that_is_still_at_work_is_no_fault(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-firstboot": ("activating", "success", "")})
    _, text = ctl(capsys, short_tmp, "status")
    assert "The first boot is still making keys and settings" in text
    assert "journalctl" not in text


def test_why_of_a_daemon_shows_the_last_lines_of_its_journal(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-flopd": ("failed", "exit-code", "")}, "Nov 22 12:00:00 dux dux-flopd[7]: can't open the keystore\n")
    code, text = ctl(capsys, short_tmp, "why", "dux-flopd")
    assert code == exits.OK
    assert "dux-flopd is down: it failed and is not tried again." in text
    assert "Its journal says last:\n  Nov 22 12:00:00 dux dux-flopd[7]: can't open the keystore" in text


def test_a_systemctl_that_hangs_holds_up_nothing(
    short_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    machine: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine({})
    (short_tmp / "bin" / "systemctl").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(units, "ASK_S", 0.3)
    begun = time.monotonic()
    _, text = ctl(capsys, short_tmp, "status")
    assert time.monotonic() - begun < 50
    assert "its socket is not there" in text


def test_the_hint_of_a_daemon_that_can_not_run_is_there_however_much_it_told(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    said = f"can't run: {'/a/long/path' * 20}, line 3: unknown key 'prot'. Mend the line that is named."
    machine({"dux-flopd": ("failed", "exit-code", said)})
    assert said in ctl(capsys, short_tmp, "why", "flopd")[1]


def test_what_systemd_tries_again_by_itself_need_not_be_started(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-flopd": ("activating", "exit-code", "can't run: the disk is full")})
    text = ctl(capsys, short_tmp, "why", "flopd")[1]
    assert "systemd goes on trying by itself, at least every 30 s; at once: systemctl restart dux-flopd" in text
    assert "Start what is down" not in text


FULL = "can't run: the disk is full"


def silent(folder: Path, kept: list[socket.socket], stack: contextlib.ExitStack) -> None:
    """As systemd holds the sockets of daemons that can't run: calls are taken, and nobody answers."""
    for daemon in DAEMONS:
        stack.enter_context(listening(folder / f"{daemon}.sock", kept.append))


def test_status_does_not_wait_for_daemons_that_can_not_run_nor_start_what_failed(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    kept: list[socket.socket] = []
    machine({f"dux-{name}": ("activating", "exit-code", FULL) for name in DAEMONS} | {
        "dux-taskd": ("failed", "exit-code", "line 1: unknown key"),
    })  # fmt: skip
    with contextlib.ExitStack() as stack:
        silent(short_tmp, kept, stack)
        code, text = ctl(capsys, short_tmp, "--timeout", "600", "status")
    assert code == exits.UNAVAILABLE
    assert kept == []
    assert "DOWN  it can't run now and is tried again" in lines_of(text, "flopd")
    assert "DOWN  it failed and is not tried again" in lines_of(text, "taskd")
    assert f"dux-flopd: systemd says activating (exit-code): {FULL}" in text


def test_a_call_to_a_daemon_that_can_not_run_ends_with_the_reason_long_before_its_timeout(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    kept: list[socket.socket] = []
    machine({"dux-flopd": ("activating", "exit-code", FULL)})
    with contextlib.ExitStack() as stack:
        silent(short_tmp, kept, stack)
        begun = time.monotonic()
        code, text = ctl(capsys, short_tmp, "--timeout", "600", "wallet", "balance")
        assert time.monotonic() - begun < 120
    assert code == exits.UNAVAILABLE
    assert len(kept) == 1
    assert f"dux-flopd can't run: systemd says activating (exit-code): {FULL}" in text
    assert "at once: systemctl restart dux-flopd" in text


def test_a_daemon_that_is_only_slow_is_waited_for(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    seen = reach.known_down

    def looked(names: Sequence[str], run_dir: Path) -> dict[str, DaemonDown]:
        looks.set()
        return seen(names, run_dir)

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                looks.wait(60)
                reply = {"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": WELL}
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()

    monkeypatch.setattr(reach, "known_down", looked)
    monkeypatch.setattr("duxcommon.blocking.FIRST_LOOK_S", 0.05)
    machine({"dux-flopd": ("activating", "success", "")})
    with listening(short_tmp / "flopd.sock", answer):
        code, _ = ctl(capsys, short_tmp, "daemon", "status", "flopd")
    assert (code, looks.is_set()) == (exits.OK, True)


def test_a_daemon_whose_package_is_missing_is_installed_instead_of_started(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., Any]
) -> None:
    machine({"dux-taskd": ("absent", "success", "")})
    text = ctl(capsys, short_tmp, "why", "taskd")[1]
    assert "dux-taskd: systemd says not installed\nInstall what is missing: apt install dux-taskd" in text
    assert "systemctl start" not in text


# --- the trial chain and first boot, which answer no calls ------------------------------------------------------------

TAKEN = "can't run: port 32553 is taken. Free it."


def whole_node(folder: Path) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for daemon in DAEMONS:
        stack.enter_context(answering(folder / f"{daemon}.sock", {"result": WELL}))
    return stack


@pytest.fixture
def on_its_own_chain(short_tmp: Path, machine: Callable[..., None]) -> Callable[..., None]:
    """A machine whose node stands on the machine's own trial chain."""
    (short_tmp / "devchain.users").touch()
    return machine


def test_a_trial_chain_that_runs_has_its_line(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], on_its_own_chain: Callable[..., None]
) -> None:
    on_its_own_chain({"dux-devchain": ("active", "success", "")})
    text = ctl(capsys, short_tmp, "status")[1]
    assert "dux-devchain   up: the private trial chain of this machine\n" in text
    assert json.loads(ctl(capsys, short_tmp, "status", "--json")[1])["devchain"]["active"] == "active"
    lines = ctl(capsys, short_tmp, "why", "devchain")[1]
    assert "whose coins have no value" in lines
    assert "It runs." in lines


def test_a_trial_chain_that_is_down_is_seen_where_every_daemon_answers(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], on_its_own_chain: Callable[..., None]
) -> None:
    on_its_own_chain({"dux-devchain": ("failed", "exit-code", TAKEN)}, "Nov 22 12:00:00 dux dux-devchain[7]: port\n")
    with whole_node(short_tmp):
        monitored = ctl(capsys, short_tmp, "status", "--json")
        code, text = ctl(capsys, short_tmp, "status")
        flopd = ctl(capsys, short_tmp, "why", "flopd")[1]
    assert (code, monitored[0]) == (exits.UNAVAILABLE, exits.UNAVAILABLE)
    assert "dux-devchain   DOWN  systemd says failed (exit-code)\n" in text
    assert f"dux-devchain: systemd says failed (exit-code): {TAKEN}" in text
    assert "systemctl reset-failed 'dux-*' && systemctl start dux.target" in text
    assert "journalctl -b -u dux-devchain" in text
    assert json.loads(monitored[1])["devchain"] == {
        "active": "failed", "result": "exit-code", "said": TAKEN, "installed": True,
    }  # fmt: skip
    assert (
        "The chain that it asks does not run: dux-devchain (failed (exit-code)); see `dux-ctl why devchain`." in flopd
    )


@pytest.mark.parametrize("name", ["devchain", "dux-devchain"])
def test_why_of_a_trial_chain_that_is_down_says_what_systemd_and_its_journal_know(
    name: str, short_tmp: Path, capsys: pytest.CaptureFixture[str], on_its_own_chain: Callable[..., None]
) -> None:
    on_its_own_chain({"dux-devchain": ("failed", "exit-code", TAKEN)}, "Nov 22 12:00:00 dux dux-devchain[7]: port\n")
    code, text = ctl(capsys, short_tmp, "why", name)
    assert code == exits.OK
    assert f"dux-devchain is down.\ndux-devchain: systemd says failed (exit-code): {TAKEN}" in text
    assert "Its journal says last:\n  Nov 22 12:00:00 dux dux-devchain[7]: port" in text
    assert json.loads(ctl(capsys, short_tmp, "why", name, "--json")[1])["lines"][1] == "dux-devchain is down."


def test_a_trial_chain_that_is_not_used_has_no_line(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], machine: Callable[..., None]
) -> None:
    machine({"dux-devchain": ("inactive", "success", "")})
    with whole_node(short_tmp):
        code, text = ctl(capsys, short_tmp, "status")
        found = json.loads(ctl(capsys, short_tmp, "status", "--json")[1])
    assert (code, found["devchain"]) == (exits.OK, None)
    assert "devchain" not in text.replace("devnet", "")
    assert "this node is on another network" in ctl(capsys, short_tmp, "why", "devchain")[1]


def test_where_systemd_tells_nothing_the_trial_chain_is_not_called_down(
    short_tmp: Path, capsys: pytest.CaptureFixture[str], on_its_own_chain: Callable[..., None]
) -> None:
    on_its_own_chain({})
    with whole_node(short_tmp):
        code, text = ctl(capsys, short_tmp, "status")
    assert code == exits.OK
    assert "dux-devchain   ??  systemd does not tell" in text


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (("active", "success", ""), "It has done its work."),
        (("activating", "success", ""), "still making keys and settings"),
        (("failed", "exit-code", "no space left"), "The first boot failed: no space left."),
        (("inactive", "success", ""), "Start what is down: systemctl start dux-firstboot"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_why_of_first_boot_tells_how_it_went(
    state: tuple[str, str, str],
    says: str,
    short_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    machine: Callable[..., None],
) -> None:
    machine({"dux-firstboot": state}, "Nov 22 12:00:00 dux dux-firstboot[7]: keys\n")
    for name in ("firstboot", "dux-firstboot"):
        code, text = ctl(capsys, short_tmp, "why", name)
        assert code == exits.OK
        assert says in text
        assert "Its journal says last:\n  Nov 22 12:00:00 dux dux-firstboot[7]: keys" in text


def test_a_node_that_systemd_does_not_run_has_neither(short_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("devchain", "firstboot"):
        code, text = ctl(capsys, short_tmp, "why", name)
        assert code == exits.OK
        assert f"systemd does not run the node in {short_tmp} here" in text
