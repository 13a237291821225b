"""A daemon as a real process of its own, with the notification socket that systemd would give it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from duxcommon.blocking import BlockingClient

from .network import write_network

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 60.0
STOP_S = 60.0


class DaemonProcess:
    """Runs `command` (with `--config FILE` added) and follows what it tells systemd; use it in a `with` block."""

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        """`settings` replace the defaults; `listener` is passed in as systemd passes its sockets."""
        self.name = name
        self.folder = folder
        self.config = folder / f"{name}.yaml"
        self.socket = folder / f"{name}.sock"
        self.log = folder / f"{name}.log"
        self.messages: list[str] = []
        self._command = list(command or [sys.executable, "-m", f"dux_{name}"])
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._listener = listener
        self.process: subprocess.Popen[bytes] | None = None
        if not (folder / "network.yaml").exists():
            write_network(folder / "network.yaml")
        if not self.config.exists():
            self.configure(settings or {})
        notify = folder / f"{name}.notify"
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(notify))
        self._env["NOTIFY_SOCKET"] = str(notify)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration: everything in the test's folder, and `settings` over it."""
        folder = str(self.folder)
        value = {"run_dir": folder, "state_dir": folder, "log_dir": folder, "network": f"{folder}/network.yaml"}
        self.config.write_text(yaml.safe_dump({**value, **settings}))

    def start(self, *, wait: bool = True) -> "DaemonProcess":
        """Start it; returns once it has sent READY=1. Fails with what it wrote when it ends before."""
        command = [*self._command, "--config", str(self.config)]
        fds: tuple[int, ...] = ()
        if self._listener is not None:
            # What systemd does: the socket as descriptor 3, announced to this very process.
            script = 'fd="$1"; shift; eval "exec 3<&$fd"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
            command = ["bash", "-c", script, "bash", str(self._listener.fileno()), *command]
            fds = (self._listener.fileno(),)
        with self.error_file.open("ab") as errors:
            self.process = subprocess.Popen(
                command, env=self._env, cwd=self.folder, stdout=errors, stderr=errors, stdin=subprocess.DEVNULL,
                pass_fds=fds,
            )  # fmt: skip
        if wait:
            self.wait_message("READY=1", START_S)
        return self

    @property
    def error_file(self) -> Path:
        """What it wrote to standard output and error."""
        return self.folder / f"{self.name}.err"

    def output(self) -> str:
        """Everything it wrote to standard output and error."""
        return self.error_file.read_text(errors="replace")

    def wait_message(self, text: str, seconds: float = 60.0) -> None:
        """Wait until the daemon has told systemd `text` once more."""
        deadline = time.monotonic() + seconds
        while True:
            self._notify.settimeout(0.2)
            try:
                message = self._notify.recv(4096).decode()
            except TimeoutError:
                assert self.process is not None
                ended = self.process.poll()
                assert ended is None or text == "STOPPING=1", f"it ended with {ended}:\n{self.output()}"
                assert time.monotonic() < deadline, f"no {text} within {seconds} s:\n{self.output()}"
                continue
            self.messages.append(message)
            if text in message.split("\n"):
                return

    def told(self) -> list[str]:
        """Everything that it has told systemd so far."""
        self._notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._notify.recv(4096).decode())
        return self.messages

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        """One call on a connection of its own."""
        client = BlockingClient(self.socket)
        try:
            return client.call(method, params, timeout=timeout)
        finally:
            client.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = STOP_S) -> int:
        """Its exit status, once it has ended."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """As by kill -9."""
        self.signal(signal.SIGKILL)
        self.wait()

    def log_lines(self) -> list[str]:
        """The lines of its log file so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_log(self, text: str, seconds: float = 60.0) -> str:
        """The first line of the log that contains `text`, once it is there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log_lines():
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not logged within {seconds} s:\n{self.output()[-3000:]}")

    def __enter__(self) -> "DaemonProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._notify.close()
