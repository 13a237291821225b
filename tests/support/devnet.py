"""A whole devnet for tests: real daemons, every exchange checked, clean logs at the end.

with running_devnet() as net:
    net.fund("bob", 100)
    app = net.publish("alice", APPS / "hello-words")
    task = net.run_task("bob", "hello-words", b"one two two")
"""

import base64
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dux_devnet.layout import ChainChoice, Layout, lay_out, node_names
from dux_devnet.network import Devnet, wait_until
from duxcommon.money import COIN
from duxcommon.parameters import Parameters

from .logs import assert_clean_logs
from .schema import CheckedBlockingClient, SchemaChecker

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ROOT / "apps"
ENDED = ("DONE", "FAILED", "CANCELLED")
TASK_S = 120.0
HEARTBEAT_S = 10
"""A node stays live for three of them: a machine under load, or a daemon that a test kills, takes a while."""


class TestNet(Devnet):
    """A devnet whose clients check every request and reply against the daemon's own declarations."""

    __test__ = False

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._keys = itertools.count()
        self._checkers: dict[str, SchemaChecker] = {}
        self.allowed_faults: list[str] = []
        """Regular expressions of log lines that a test provokes on purpose."""

    def key(self) -> str:
        """A fresh idempotency key."""
        return f"test-{next(self._keys)}"

    def call(self, node: str, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> Any:
        """One checked call, on a connection of its own, to the daemon whose namespace `method` is in."""
        daemon = DAEMON_OF[method.split(".", maxsplit=1)[0]]
        client = CheckedBlockingClient(self.socket_path(node, daemon))
        client.checker = self._checkers.setdefault(daemon, client.checker)
        try:
            return client.call(method, params, timeout=timeout)
        finally:
            client.close()

    def ctl(self, node: str, *words: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run dux-ctl as the owner of `node` would."""
        environment = {**os.environ, "DUXNET_RUN_DIR": str(self.layout.run_dir(node)), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "dux_ctl.main", *words]
        return subprocess.run(command, env=environment, input=stdin, capture_output=True, check=False, timeout=300)

    def start_all(self) -> None:
        """Start the chain, then all daemons of all nodes at once; every node knows every other one afterwards."""
        if not self.layout.chain.url:
            self.start_chain()
            self.mine(20)
        self.start([name for node in self.layout.nodes for name in self.layout.daemons(node)])
        everybody = set(self.layout.node_ids.values())
        for node in self.layout.nodes:
            wait_until(lambda at=node: self.known_at(at) >= everybody, 120, f"{node} to know all others")

    def known_at(self, node: str) -> set[str]:
        """Ids of the live nodes that a node knows, its own among them."""
        return {one["node"] for one in self.call(node, "node.list", {"live": True})["nodes"]}

    def restart(self, name: str) -> None:
        """Start a process again that has ended."""
        self.start([name])

    # --- money ------------------------------------------------------------------------------------------------

    def balance(self, node: str) -> int:
        """Confirmed koinu of a node's wallet."""
        return int(self.call(node, "wallet.balance")["confirmed"])

    def fund(self, node: str, flop: int) -> None:
        """Give a node coins of the trial chain and wait until they are confirmed."""
        before = self.balance(node)
        address = self.call(node, "wallet.receive", {"label": "test"})["address"]
        self.chain("faucet", address, str(flop))
        wait_until(lambda: self.balance(node) >= before + flop * COIN, 120, f"{node}'s coins")

    def bond(self, node: str) -> Any:
        """A node locks what it lacks for a share, as soon as it has read the blocks so far."""
        order = {"key": self.key()}
        return wait_until(lambda: self.call(node, "node.bond", order), 120, f"{node} to make a bond")

    def channel(self, node: str, channel: str) -> Any:
        """A channel as one side sees it."""
        return self.call(node, "channel.show", {"id": channel})

    def wait_channel(self, node: str, channel: str, state: str, seconds: float = 120.0) -> Any:
        """The channel, once it is in `state`."""

        def reached() -> Any:
            found = self.channel(node, channel)
            return found if found["state"] == state else None

        return wait_until(reached, seconds, f"channel {channel[:8]}… of {node} to be {state}")

    def assert_audit(self, *nodes: str) -> None:
        """`dux-ctl audit` finds no difference on these nodes (all by default)."""
        for node in nodes or tuple(self.layout.nodes):
            done = self.ctl(node, "audit")
            assert done.returncode == 0, f"audit on {node}: {done.stdout.decode()}{done.stderr.decode()}"

    # --- apps and tasks ---------------------------------------------------------------------------------------

    def publish(self, node: str, app: Path) -> str:
        """Publish an app folder with dux-ctl; returns when every node sees it live. The app's name."""
        done = self.ctl(node, "app", "publish", str(app))
        assert done.returncode == 0, done.stderr.decode()
        for other in self.layout.nodes:
            self.wait_live(other, app.name, self.layout.node_ids[node])
        return app.name

    def wait_live(self, node: str, name: str, publisher: str | None = None) -> None:
        """Wait until `node` sees the app of `publisher` served; anybody's app of that name where none is given."""

        def live() -> bool:
            found = self.call(node, "app.search", {"words": name})["listings"]
            mine = [one for one in found if one["name"] == name and publisher in (None, one["publisher"])]
            return any(one["live_providers"] for one in mine)

        wait_until(live, 120, f"{node} to see {name}")

    def order(self, node: str, app: str, data: bytes | None, **more: Any) -> Any:
        """Start a task with `data` as its input; does not wait."""
        params: dict[str, Any] = {"app": app, "key": more.pop("key", None) or self.key(), **more}
        if data is not None:
            media = params.pop("media", "text/plain")
            params["input"] = {
                "hash": hashlib.sha256(data).hexdigest(), "size": len(data), "media": media,
                "data": base64.b64encode(data).decode(),
            }  # fmt: skip
        return self.call(node, "task.run", params)

    def wait_task(self, node: str, task: str, seconds: float = TASK_S) -> Any:
        """The task once it has ended, however it ended; daemons may restart meanwhile."""

        def ended() -> Any:
            found = self.call(node, "task.status", {"id": task, "wait_s": 2.0})
            return found if found["state"] in ENDED else None

        return wait_until(ended, seconds, f"task {task[:8]}… to end")

    def run_task(self, node: str, app: str, data: bytes | None, **more: Any) -> Any:
        """Order and wait; the task must succeed."""
        task = self.wait_task(node, self.order(node, app, data, **more)["id"])
        assert task["state"] == "DONE", task
        return task


DAEMON_OF = {
    "wallet": "flopd", "chain": "flopd", "key": "flopd", "tx": "flopd",
    "channel": "escrowd", "payment": "escrowd", "books": "escrowd",
    "task": "taskd", "provider": "taskd", "sandbox": "sandbox",
    "node": "registryd", "peer": "registryd", "blob": "registryd", "app": "registryd", "directory": "registryd",
    "fund": "airdropd", "airdrop": "airdropd", "network": "airdropd", "param": "airdropd", "proposal": "airdropd",
}  # fmt: skip


@contextmanager
def running_devnet(
    nodes: int | Sequence[str] = 3,
    *,
    overrides: dict[str, dict[str, Any]] | None = None,
    chain: ChainChoice | None = None,
    parameters: Parameters | None = None,
    guardians: int | None = None,
    start: bool = True,
) -> Iterator[TestNet]:
    """A started devnet; afterwards nothing of it runs, and no daemon may have logged a fault."""
    settings = dict(overrides or {})
    settings["*/registryd"] = {"heartbeat_s": HEARTBEAT_S, **settings.get("*/registryd", {})}
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    names = node_names(nodes) if isinstance(nodes, int) else list(nodes)
    net = TestNet(lay_out(folder, names, chain, settings, parameters, guardians))
    try:
        with net:
            if start:
                net.start_all()
            yield net
        assert_clean_logs(folder, net.allowed_faults)
    finally:
        if os.environ.get("DUX_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
