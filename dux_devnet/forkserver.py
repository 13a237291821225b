"""Starts daemons by forking a process that has imported them all: real processes, half the time and memory.

The server itself has no threads, no event loop and no open databases, so that a fork copies nothing that moves.
Children are told to end when the server dies, however it dies.
"""

import ctypes
import gc
import importlib
import os
import random
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
ENTRY_POINTS = {
    "chain": "dux_devnet.chain.__main__",
    "flopd": "dux_flopd.__main__",
    "escrowd": "dux_escrowd.__main__",
    "registryd": "dux_registryd.__main__",
    "sandbox": "dux_taskd.sandbox.__main__",
    "taskd": "dux_taskd.__main__",
    "airdropd": "dux_airdropd.__main__",
}

Main = Callable[[Sequence[str]], int]


@dataclass
class Process:
    """A daemon that was started; `status` is its wait status once it has ended."""

    name: str
    daemon: str
    argv: list[str]
    log: Path
    pid: int
    started: float
    ready: bool = False
    ready_after: float | None = None
    """Seconds from the fork to READY."""
    status: int | None = None
    stopping: bool = False

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.status is None

    @property
    def exit_text(self) -> str:
        """How it ended, for people."""
        if self.status is None:
            return "running"
        code = os.waitstatus_to_exitcode(self.status)
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def import_daemons() -> dict[str, Main]:
    """Import every daemon and freeze what that allocated, so that children share the pages."""
    mains: dict[str, Main] = {name: importlib.import_module(module).main for name, module in ENTRY_POINTS.items()}
    gc.collect()
    gc.freeze()
    return mains


@dataclass
class ForkServer:
    """Forks, watches and ends daemons; call `poll` to let it work."""

    folder: Path
    """Holds the notification socket."""
    processes: dict[str, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pid = os.getpid()
        self._mains = import_daemons()
        self._notify_path = self.folder / "notify.sock"
        self._notify_path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.bind(str(self._notify_path))
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._notify, selectors.EVENT_READ, self._read_notifications)
        self.selector.register(self._wake_read, selectors.EVENT_READ, self._read_wakeups)

    def start(self, name: str, daemon: str, argv: list[str], log: Path, failpoint: str = "") -> Process:
        """Fork `daemon` under the unique `name`; its standard output and error go to `log`."""
        old = self.processes.get(name)
        if old is not None and old.alive:
            raise ValueError(f"{name} runs already")
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._child(self._mains[daemon], daemon, argv, log, failpoint)
        process = Process(name, daemon, argv, log, pid, time.monotonic())
        self.processes[name] = process
        return process

    def _child(self, main: Main, daemon: str, argv: list[str], log: Path, failpoint: str) -> None:
        status = 1
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._pid:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.closerange(3, 1024)
            random.seed()
            os.environ["NOTIFY_SOCKET"] = str(self._notify_path)
            sys.argv = [f"dux-{daemon}", *argv]
            # So that `ps` tells the daemons of one fork-server apart.
            ctypes.CDLL(None).prctl(15, f"dux-{daemon}".encode()[:15], 0, 0, 0)
            if failpoint:
                importlib.import_module("duxcommon.failpoint").arm(failpoint)
            status = main(argv)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for something to happen, and note it."""
        for key, _ in self.selector.select(timeout):
            key.data()
        self._reap()

    def _read_wakeups(self) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            return

    def _read_notifications(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return
            pid = next((struct.unpack("3i", raw)[0] for _, kind, raw in ancillary if kind == socket.SCM_CREDENTIALS), 0)
            process = next((p for p in self.processes.values() if p.pid == pid and p.alive), None)
            if process is not None and b"READY=1" in data and not process.ready:
                process.ready = True
                process.ready_after = time.monotonic() - process.started

    def _reap(self) -> None:
        for process in self.processes.values():
            if process.alive:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    process.status = status

    def stop(self, names: Sequence[str], seconds: float) -> None:
        """SIGTERM, wait up to `seconds`, then SIGKILL; returns when all have ended."""
        chosen = [self.processes[n] for n in names if n in self.processes and self.processes[n].alive]
        for process in chosen:
            process.stopping = True
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(p.alive for p in chosen):
            left = deadline - time.monotonic()
            if left <= 0:
                for process in chosen:
                    if process.alive:
                        os.kill(process.pid, signal.SIGKILL)
                left = 5.0
                deadline = time.monotonic() + left
            self.poll(min(left, 1.0))

    def close(self) -> None:
        """Forget the sockets; the children must have ended."""
        self.selector.close()
        self._notify.close()
        self._notify_path.unlink(missing_ok=True)
