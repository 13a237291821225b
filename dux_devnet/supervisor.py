"""The one process behind a devnet: holds the fork-server and answers `dux-devnet` on `control.sock`.

    python -m dux_devnet.supervisor FOLDER [--with-parent]

Ends, with all daemons, on `down`, SIGTERM or SIGINT, and with `--with-parent` when its parent is gone.
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .forkserver import PR_SET_PDEATHSIG, ForkServer
from .layout import STOP_ORDER, Layout

STOP_S = 15.0
READY_S = 60.0


class Refused(Exception):
    """A command that can't be carried out; the text goes to the caller."""


class Supervisor:
    """Runs the daemons of one layout."""

    def __init__(self, layout: Layout, *, stop_s: float = STOP_S) -> None:
        self.layout = layout
        self._stop_s = stop_s
        self.forks = ForkServer(layout.folder)
        self._ending = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        path = layout.control_socket
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._listener.setblocking(False)
        self.forks.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.end)

    def end(self, *_: object) -> None:
        """Let `run` stop all daemons and return."""
        self._ending = True

    def run(self, begin: Callable[[], None] | None = None) -> int:
        """Serve commands until the end, after `begin` if there is something to begin with; the exit status."""
        try:
            if begin is not None:
                begin()
            while not self._ending:
                self.forks.poll(3600.0)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._stop_all()
            self._listener.close()
            self.layout.control_socket.unlink(missing_ok=True)
            self.forks.close()
        return 0

    def _stop_all(self) -> None:
        for daemons in STOP_ORDER:
            self.forks.stop([n for n, p in self.forks.processes.items() if p.daemon in daemons], self._stop_s)

    # --- commands ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(True)
        connection.settimeout(5.0)
        self.forks.selector.register(connection, selectors.EVENT_READ, partial(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        self.forks.selector.unregister(connection)
        with connection:
            try:
                request = json.loads(connection.makefile("rb").readline(65536))
                reply = self._command(request)
            except Refused as error:
                reply = {"error": str(error)}
            except (ValueError, KeyError, OSError) as error:
                reply = {"error": f"bad command: {error!r}"}
            try:
                connection.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                return

    def _command(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        if op == "start":
            return self.start(request["names"], request.get("failpoint", ""))
        if op == "stop":
            self.forks.stop(request["names"], self._stop_s)
            return self._status()
        if op == "kill":
            return self._kill(request["name"], int(request.get("signal", signal.SIGKILL)))
        if op == "wait_exit":
            return self._wait_exit(request["name"], float(request["timeout_s"]))
        if op == "status":
            return self._status()
        if op == "down":
            self._ending = True
            return {"pid": os.getpid()}
        raise Refused(f"unknown command {op!r}")

    def start(self, names: list[str], failpoint: str = "", seconds: float = READY_S) -> dict[str, Any]:
        """Start processes and wait until all are ready; the status. Raises Refused."""
        chosen = []
        for name in names:
            node, _, daemon = name.rpartition("/")
            argv, log = self.layout.command(node, daemon)
            process = self.forks.processes.get(name)
            if process is not None and process.alive:
                raise Refused(f"{name} runs already")
            chosen.append(self.forks.start(name, daemon, argv, log, failpoint))
        deadline = time.monotonic() + seconds
        while not all(p.ready for p in chosen):
            dead = next((p for p in chosen if not p.alive), None)
            if dead is not None:
                raise Refused(f"{dead.name} ended before it was ready ({dead.exit_text}); see {dead.log}")
            if time.monotonic() > deadline or self._ending:
                waiting = ", ".join(p.name for p in chosen if not p.ready)
                raise Refused(f"not ready in time: {waiting}; see {chosen[0].log.parent}")
            self.forks.poll(0.5)
        return self._status()

    def _kill(self, name: str, number: int) -> dict[str, Any]:
        process = self.forks.processes.get(name)
        if process is None or not process.alive:
            raise Refused(f"{name} does not run")
        os.kill(process.pid, number)
        return self._wait_exit(name, STOP_S) if number == signal.SIGKILL else self._status()

    def _wait_exit(self, name: str, seconds: float) -> dict[str, Any]:
        process = self.forks.processes.get(name)
        if process is None:
            raise Refused(f"{name} was never started")
        deadline = time.monotonic() + seconds
        while process.alive and (left := deadline - time.monotonic()) > 0 and not self._ending:
            self.forks.poll(min(left, 0.5))
        return self._status()

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "processes": {
                name: {
                    "pid": p.pid,
                    "alive": p.alive,
                    "ready": p.ready and p.alive,
                    "ready_after": p.ready_after,
                    "exit": p.exit_text,
                    "log": str(p.log),
                }
                for name, p in self.forks.processes.items()
            },
        }


def main() -> int:
    """Run the supervisor of the layout in the folder that the command line names."""
    if "--with-parent" in sys.argv:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    supervisor = Supervisor(Layout.load(Path(sys.argv[1])))
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
