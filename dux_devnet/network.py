"""A running devnet as a Python object: starts the supervisor, talks to it, gives clients to the daemons."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from duxcommon.blocking import BlockingClient
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, p2sh_script
from duxcommon.errors import DaemonDown, DuxError

from .layout import CHAIN, Layout, command_line

COMMAND_S = 120.0
END_S = 60.0


class DevnetError(DuxError):
    """Something in the devnet did not come up or go down."""

    code = 7000
    hint_default = "Look at the log that is named; `dux-devnet down` removes what is left."
    component = "devnet"


class Devnet:
    """The devnet of one folder. Use it in a `with` block, and nothing is left behind."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._supervisor: subprocess.Popen[bytes] | None = None

    # --- life -------------------------------------------------------------------------------------------------

    def launch(self, *, detached: bool = False) -> None:
        """Start the supervisor, with no daemons yet. `detached`: it outlives this process and its terminal."""
        with (self.layout.folder / "supervisor.log").open("ab") as log:
            options = [] if detached else ["--with-parent"]
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "dux_devnet.supervisor", str(self.layout.folder), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C goes to the command, which then ends its devnet in order.
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            )
        pipe = self._supervisor.stdout
        if pipe is None or pipe.readline() != b"ready\n":
            raise DevnetError(f"the supervisor did not start; see {self.layout.folder}/supervisor.log")
        pipe.close()

    def command(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One command to the supervisor. Raises DevnetError when it refuses, DaemonDown when it is not there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(COMMAND_S)
            try:
                connection.connect(str(self.layout.control_socket))
                connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
                reply: dict[str, Any] = json.loads(connection.makefile("rb").readline() or b"{}")
            except (OSError, ValueError) as error:
                up = command_line(self.layout.folder, "up")
                raise DaemonDown(
                    f"the devnet in {self.layout.folder} does not run: {error}", hint=f"Start a new one with `{up}`."
                ) from None
        if "error" in reply:
            raise DevnetError(reply["error"])
        return reply

    def down(self, *, remove: bool = True) -> None:
        """End all daemons and the supervisor, wait until they are gone, and remove the folder."""
        try:
            pid = int(self.command("down")["pid"])
            self._wait_gone(pid)
        except DaemonDown:
            # Interrupted before it listened: nobody but us can tell it to end.
            if self._supervisor is not None:
                self._supervisor.terminate()
        if self._supervisor is not None:
            self._supervisor.wait(END_S)
            self._supervisor = None
        if remove:
            shutil.rmtree(self.layout.folder, ignore_errors=True)

    def _wait_gone(self, pid: int) -> None:
        if self._supervisor is not None:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        import select

        try:
            if not select.select([descriptor], [], [], END_S)[0]:
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.launch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down(remove=False)

    # --- daemons ----------------------------------------------------------------------------------------------

    def start(self, names: list[str], failpoint: str = "") -> dict[str, Any]:
        """Start processes such as `alice/flopd` at once and wait until all are ready."""
        return self.command("start", names=names, failpoint=failpoint)

    def start_chain(self) -> None:
        """Start dux-devchain."""
        self.start([CHAIN])

    def start_node(self, node: str) -> None:
        """Start all daemons of a node; those that need flopd wait for it by themselves."""
        self.start(self.layout.daemons(node))

    def stop(self, names: list[str]) -> None:
        """SIGTERM, and SIGKILL if that does not help; waits for the end."""
        self.command("stop", names=names)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, waits for the end."""
        self.command("kill", name=name, signal=number)

    def wait_exit(self, name: str, timeout_s: float = 60.0) -> str:
        """Wait until a process has ended (a failpoint, say); how it ended. Raises DevnetError when it still runs."""
        process = self.command("wait_exit", name=name, timeout_s=timeout_s)["processes"][name]
        if process["alive"]:
            raise DevnetError(f"{name} still runs after {timeout_s} s")
        return str(process["exit"])

    def status(self) -> dict[str, Any]:
        """All processes with pid, readiness and how they ended."""
        processes: dict[str, Any] = self.command("status")["processes"]
        return processes

    def client(self, node: str, daemon: str) -> BlockingClient:
        """A new client to a daemon."""
        return BlockingClient(self.layout.run_dir(node) / f"{daemon}.sock")

    def socket_path(self, node: str, daemon: str) -> Path:
        """Where a daemon answers."""
        return self.layout.run_dir(node) / f"{daemon}.sock"

    # --- chain ------------------------------------------------------------------------------------------------

    def chain(self, method: str, *params: Any, timeout: float = 60.0) -> Any:
        """Call dux-devchain itself, as a person with its cookie would."""
        import base64
        import http.client

        cookie = (self.layout.folder / CHAIN / ".cookie").read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", self.layout.chain_port, timeout=timeout)
        try:
            login = base64.b64encode(cookie.encode()).decode()
            body = json.dumps({"id": 1, "method": method, "params": list(params)})
            connection.request("POST", "/", body, {"Authorization": f"Basic {login}"})
            reply = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if reply.get("error"):
            raise DevnetError(f"{method}: {reply['error']['message']}", hint="The trial chain refused that.")
        return reply["result"]

    def mine(self, blocks: int) -> None:
        """Add blocks to the chain."""
        # In litecoind's dialect there is no wallet but the nodes' own.
        nobody = address_of(p2sh_script(b"nobody"), CHAINS[self.layout.chain.name])
        self.chain("generatetoaddress", blocks, nobody, timeout=600.0)


def wait_until(condition: Any, seconds: float, what: str, pause: float = 0.05) -> Any:
    """Ask until `condition()` is true and return what it returned. Raises DevnetError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
            problem = ""
        except DuxError as error:
            problem = f": {error.message}"
            if not error.retry:
                raise
        if time.monotonic() > deadline:
            raise DevnetError(f"waited {seconds:.0f} s in vain for {what}{problem}")
        time.sleep(pause)
