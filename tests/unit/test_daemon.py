"""The lifecycle that all daemons share, proved on a tiny real daemon in a process of its own."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duxcommon.blocking import BlockingClient
from duxcommon.errors import DaemonDown, DuxError, Stopping
from tests.support.probe import SCRIPT, probe
from tests.support.process import ROOT
from tests.support.schema import CheckedBlockingClient


class InBackground:
    """A call in a thread: its result or its error, and when it came."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: DuxError | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except DuxError as error:
            self.error = error

    def join(self, seconds: float = 60.0) -> "InBackground":
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call did not end"
        return self


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_daemon_tells_systemd_when_it_is_ready_and_when_it_stops_and_leaves_no_socket(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        assert daemon.call("probe.echo", {"text": "äöü"}) == {"text": "äöü"}
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        assert daemon.stop() == 0
        daemon.wait_message("STOPPING=1")
        assert not daemon.socket.exists()
        with pytest.raises(DaemonDown) as caught:
            daemon.call("probe.word")
        assert "systemctl start dux-probe" in caught.value.hint


def test_the_watchdog_is_fed_while_the_daemon_lives(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp, env={"WATCHDOG_USEC": "200000"}) as daemon:
        daemon.start()
        for _ in range(3):
            daemon.wait_message("WATCHDOG=1", 5.0)
        # A stopped process feeds nobody: that is what systemd kills it for.
        daemon.signal(signal.SIGSTOP)
        time.sleep(0.1)
        daemon._notify.setblocking(False)
        while True:
            try:
                daemon._notify.recv(100)
            except BlockingIOError:
                break
        time.sleep(0.3)
        with pytest.raises(BlockingIOError):
            daemon._notify.recv(100)
        daemon.signal(signal.SIGCONT)
        assert daemon.stop() == 0


def test_a_socket_passed_in_by_systemd_is_served_and_left_where_it_is(short_tmp: Path, daemon_logs: list[str]) -> None:
    path = short_tmp / "passed.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        for expected in ("first", "second"):
            with probe(short_tmp, listener=listener) as daemon:
                # A call made before the daemon runs waits in the socket, as with socket activation.
                call = InBackground(lambda word=expected: BlockingClient(path).call("probe.echo", {"text": word}))
                daemon.start()
                assert call.join().result == {"text": expected}
                assert daemon.stop() == 0
                assert path.exists()
                assert not daemon.socket.exists()


def test_sighup_takes_a_good_configuration(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        daemon.configure({"word": "hola", "log_level": "debug"})
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("configuration reloaded")
        assert daemon.call("probe.word") == {"text": "hola"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"wrod": "hola"}, "unknown key 'wrod'"),
        ({"word": 5}, "word: Input should be a valid string"),
        ({"refuse": True, "word": "hola"}, "refuse is set"),
        ({"state_dir": "/var/tmp", "word": "hola"}, "state_dir can't change while the daemon runs"),
    ],
)
def test_sighup_with_a_bad_configuration_keeps_the_old_one_and_says_why(
    short_tmp: Path, daemon_logs: list[str], change: dict[str, Any], reason: str
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        daemon.configure(change)
        daemon.signal(signal.SIGHUP)
        line = json.loads(daemon.wait_log("the new configuration is not used"))
        assert reason in line["message"]
        assert line["level"] == "warning"
        assert line["hint"]
        assert daemon.call("probe.word") == {"text": "hello"}
        daemon.configure({"word": "later"})
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("configuration reloaded")
        assert daemon.call("probe.word") == {"text": "later"}


def test_sighup_during_the_start_is_carried_out_after_it(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp, env={"PROBE_START_S": "0.5"}) as daemon:
        daemon.start(wait=False)
        # The lock file is made after the signal handlers and before the slow start.
        wait_for((short_tmp / "probe.lock").exists)
        daemon.configure({"word": "hola"})
        daemon.signal(signal.SIGHUP)
        daemon.wait_message("READY=1", 20)
        daemon.wait_log("configuration reloaded")
        assert daemon.call("probe.word") == {"text": "hola"}


def test_sigterm_lets_a_call_in_flight_finish_and_takes_no_new_one(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        other = BlockingClient(daemon.socket)
        other.call("probe.word")
        call = InBackground(lambda: daemon.call("probe.sleep", {"seconds": 1.0}))
        wait_for((short_tmp / "sleeping").exists)
        daemon.signal(signal.SIGTERM)
        daemon.wait_message("STOPPING=1")
        wait_for(lambda: not daemon.socket.exists())
        with pytest.raises(Stopping) as caught:
            other.call("probe.word")
        assert (caught.value.code, caught.value.retry) == (1014, True)
        assert caught.value.hint
        assert call.join().result == {"ok": True}
        assert daemon.wait() == 0


def test_sigterm_lets_an_http_call_in_flight_finish(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        call = InBackground(lambda: http_post(daemon.socket, "probe.sleep", {"seconds": 0.7}))
        wait_for((short_tmp / "sleeping").exists)
        daemon.signal(signal.SIGTERM)
        assert call.join().result["result"] == {"ok": True}
        assert daemon.wait() == 0


def test_sigterm_cuts_long_polls_short_with_an_error_that_invites_a_retry(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        call = InBackground(lambda: daemon.call("probe.poll", {"wait_s": 25.0}))
        wait_for((short_tmp / "polling").exists)
        before = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - before < 20
        error = call.join().error
        assert isinstance(error, Stopping)
        assert error.retry


def test_a_call_that_outlasts_the_drain_is_ended(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp, {"drain_s": 1}) as daemon:
        daemon.start()
        call = InBackground(lambda: daemon.call("probe.sleep", {"seconds": 40.0}))
        wait_for((short_tmp / "sleeping").exists)
        before = time.monotonic()
        assert daemon.stop() == 0
        assert 0.9 < time.monotonic() - before < 30
        assert isinstance(call.join().error, DaemonDown)


def run_second(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--config", str(config)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)


def test_a_second_daemon_on_the_same_socket_is_refused_and_the_first_serves_on(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        other = short_tmp / "other"
        other.mkdir()
        config = short_tmp / "second.yaml"
        config.write_text(daemon.config.read_text().replace(f"state_dir: {short_tmp}", f"state_dir: {other}"))
        second = run_second(config)
        assert second.returncode == 1
        assert "another process serves" in second.stderr
        assert "AlreadyRunning" in second.stderr
        assert "stop it first" in second.stderr
        assert "Traceback" not in second.stderr
        assert daemon.call("probe.word") == {"text": "hello"}


def test_a_second_daemon_on_the_same_database_is_refused_and_takes_its_socket_away_again(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        other = short_tmp / "other"
        other.mkdir()
        config = short_tmp / "second.yaml"
        config.write_text(daemon.config.read_text().replace(f"run_dir: {short_tmp}", f"run_dir: {other}"))
        second = run_second(config)
        assert second.returncode == 1
        assert "probe.db is in use by another process" in second.stderr
        assert "Traceback" not in second.stderr
        assert not (other / "probe.sock").exists()
        assert daemon.call("probe.word") == {"text": "hello"}


def test_a_socket_file_left_behind_by_a_kill_is_replaced(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        daemon.kill()
        assert daemon.socket.exists()
        with pytest.raises(DaemonDown):
            daemon.call("probe.word")
    with probe(short_tmp) as daemon:
        daemon.start()
        assert daemon.call("probe.word") == {"text": "hello"}


def test_an_ordinary_file_in_the_sockets_place_is_not_deleted(short_tmp: Path) -> None:
    precious = short_tmp / "probe.sock"
    precious.write_text("precious")
    with probe(short_tmp) as daemon:
        daemon.start(wait=False)
        assert daemon.wait() == 78
        assert "can't make the socket" in daemon.output()
        assert "Traceback" not in daemon.output()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"log_dir": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"run_dir": "/nowhere/at/all"}, "can't make sockets in /nowhere/at/all"),
        ({"state_dir": "/nowhere/at/all"}, "can't open the database /nowhere/at/all/probe.db"),
        ({"network": "/nowhere/network.yaml"}, "there is no network definition at /nowhere/network.yaml"),
        ({"wrod": 1}, "unknown key 'wrod'"),
    ],
)
def test_a_daemon_that_can_not_start_says_why_without_a_traceback_and_is_not_restarted(
    short_tmp: Path, settings: dict[str, Any], reason: str
) -> None:
    with probe(short_tmp, settings) as daemon:
        daemon.start(wait=False)
        assert daemon.wait() == 78
        assert reason in daemon.output()
        assert "Traceback" not in daemon.output()


def test_check_reads_the_configuration_and_starts_nothing(short_tmp: Path) -> None:
    with probe(short_tmp) as daemon:
        command = [sys.executable, str(SCRIPT), "--config", str(daemon.config), "--check"]
        good = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (good.returncode, good.stdout) == (0, f"{daemon.config}: good\n")
        daemon.config.write_text(daemon.config.read_text() + "word: 1\nwrod: 2\n")
        bad = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert bad.returncode == 78
        assert f"{daemon.config}, line" in bad.stderr
        assert not (short_tmp / "probe.db").exists()


def test_a_background_loop_that_fails_ends_the_daemon_with_a_fault(short_tmp: Path, daemon_logs: list[str]) -> None:
    daemon_logs.append("background work failed")
    with probe(short_tmp, {"broken_loop": True}) as daemon:
        daemon.start()
        assert daemon.wait() == 1


def test_the_log_is_json_with_time_level_daemon_and_extras(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        daemon.stop()
        lines = [json.loads(line) for line in daemon.log_lines()]
        assert [line["message"] for line in lines] == ["ready", "stopped"]
        assert lines[0]["level"] == "info"
        assert lines[0]["daemon"] == "probe"
        assert lines[0]["network"] == "testnet"
        assert lines[0]["pid"] == daemon.process.pid if daemon.process else False
        assert lines[0]["time"].endswith("Z")
        # The journal gets the same lines.
        assert [json.loads(line) for line in daemon.output().splitlines()] == lines


def test_the_log_file_is_bounded(tmp_path: Path) -> None:
    script = (
        "import logging, pathlib, sys\n"
        "from duxcommon import logs\n"
        "logs.MAX_FILE_BYTES = 20_000\n"
        "sys.stderr = open('/dev/null', 'w')\n"
        "logs.setup('x', 'info', pathlib.Path(sys.argv[1]))\n"
        "for n in range(3000): logging.getLogger('x').info('line %s of %s', n, 'words ' * 20)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60, env={"PYTHONPATH": str(ROOT)})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2", "x.log.3", "x.log.4", "x.log.5"]
    assert all(path.stat().st_size <= 20_000 for path in tmp_path.iterdir())
    assert "line 2999" in (tmp_path / "x.log").read_text()


def http_post(path: Path, method: str, params: dict[str, Any], head: str = "") -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(f"POST / HTTP/1.1\r\nHost: dux\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    status, _, answer = data.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 200")
    reply: dict[str, Any] = json.loads(answer)
    return reply


def test_one_http_post_is_answered_on_the_same_socket(short_tmp: Path, daemon_logs: list[str]) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        reply = http_post(daemon.socket, "probe.echo", {"text": "hi"})
        assert reply == {"jsonrpc": "2.0", "id": 7, "result": {"text": "hi"}}
        if shutil.which("curl") is None:
            pytest.skip("not run: needs curl")
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "probe.echo", "params": {"text": "x" * 2_000_000}})
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "20", "--unix-socket", str(daemon.socket), "-d", "@-", "http://dux/"],
            input=request, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert json.loads(done.stdout)["result"]["text"] == "x" * 2_000_000


def test_the_daemon_describes_itself_and_its_exchanges_fit_the_description(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp) as daemon:
        daemon.start()
        client = CheckedBlockingClient(daemon.socket)
        document = client.call("rpc.discover")
        assert document["openrpc"].startswith("1.")
        assert client.checker.methods["probe.pay"]["x-access"] == "spend"
        status = client.call("daemon.status")
        assert status["name"] == "probe"
        assert status["worthless"] is True
        assert status["failures"] == 0
        with pytest.raises(DuxError) as caught:
            client.call("probe.pay", {"amount": 5, "key": "k"})
        assert caught.value.details == {"have": 0, "need": 5}


def test_groups_that_do_not_exist_are_noted_instead_of_refusing_everybody_in_silence(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    with probe(short_tmp, {"access": {"spend": ["no-such-group"], "admin": ["root"]}}) as daemon:
        daemon.start()
        (note,) = daemon.call("daemon.status")["notes"]
        assert "group 'no-such-group', named in access.spend, does not exist on this machine" in note
        daemon.wait_log("no-such-group")
        daemon.configure({"access": {"spend": ["root"]}})
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: daemon.call("daemon.status")["notes"] == [])


def test_a_log_file_that_can_not_be_written_now_is_noted_and_written_again_later(
    short_tmp: Path, daemon_logs: list[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("not run: needs root that may mount file systems")
    logs = short_tmp / "logs"
    logs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "none", str(logs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: this machine does not let us mount a tiny disk")
    try:
        with probe(short_tmp, {"log_dir": str(logs)}) as daemon:
            daemon.start()
            # With the first line that is to be written.
            wait_for(lambda: daemon.call("daemon.status")["notes"])
            (note,) = daemon.call("daemon.status")["notes"]
            assert f"{logs}/probe.log can't be written (Read-only file system); the journal has what is missing" in note
            wait_for(lambda: '"message": "ready"' in daemon.output())
            subprocess.run(["mount", "-o", "remount,rw", str(logs)], check=True)
            daemon.signal(signal.SIGHUP)
            wait_for(lambda: daemon.call("daemon.status")["notes"] == [])
            wait_for(lambda: "configuration reloaded" in (logs / "probe.log").read_text())
    finally:
        subprocess.run(["umount", "--lazy", str(logs)], check=False)
