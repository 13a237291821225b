"""Small networks of real dux-registryd processes on this machine."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from duxcommon.api.common import SignedRecord
from duxcommon.errors import UnknownNode
from duxcommon.identity import Identity
from duxcommon.network import NetworkDefinition, dump_network
from tests.support.logs import assert_clean_logs
from tests.support.network import definition
from tests.support.process import DaemonProcess

STUB = Path(__file__).parent / "support" / "taskd_stub.py"
MEMBER = STUB.with_name("directory_member.py")
HEARTBEAT_S = 1


def free_udp_port() -> int:
    """A UDP port of 127.0.0.1 that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return value


class Node:
    """One node: its registryd, and with `stub()` a stand-in for its taskd, all in one folder."""

    def __init__(self, folder: Path, network: NetworkDefinition, settings: Mapping[str, Any]) -> None:
        folder.mkdir()
        self.folder = folder
        self.blobs = folder / "blobs"
        (folder / "network.yaml").write_text(dump_network(network))
        self.settings = {
            "listen": "127.0.0.1",
            "port": 0,
            "directory_port": 0,
            "heartbeat_s": HEARTBEAT_S,
            "blobs_dir": str(self.blobs),
            "name": folder.name,
            "min_free_mb": 0,
            **settings,
        }
        self.daemon = DaemonProcess(folder, "registryd", self.settings)
        self.taskd: DaemonProcess | None = None

    def arm(self, point: str) -> None:
        """From the next start on, die as by kill -9 at this point; nothing where it is empty."""
        self.daemon.__exit__(None, None, None)
        self.daemon = DaemonProcess(self.folder, "registryd", env={"DUXNET_FAILPOINT": point})

    def start(self) -> "Node":
        """Start, or start again, and wait until it is ready."""
        self.daemon.start()
        return self

    @property
    def id(self) -> str:
        """Its node id, from its key file."""
        return Identity.load_or_create(self.folder / "node.key").node_id

    def call(self, rpc: str, /, **params: Any) -> dict[str, Any]:
        """A call to its registryd."""
        return self.daemon.call(rpc, params)

    def peer(self, other: "Node", method: str, /, **params: Any) -> Any:
        """The result of a method of another node."""
        return self.call("peer.call", node=other.id, method=method, params=params)["result"]

    def knows(self, other: "Node") -> bool:
        """Whether the other one is among its live nodes."""
        try:
            live: bool = self.call("node.show", node=other.id)["live"]
        except UnknownNode:
            return False
        return live

    def stub(self) -> "Node":
        """Start a stand-in for its taskd."""
        self.taskd = DaemonProcess(self.folder, "taskd", command=[sys.executable, str(STUB)]).start()
        return self

    def close(self) -> None:
        """End what runs."""
        for daemon in filter(None, (self.daemon, self.taskd)):
            daemon.__exit__(None, None, None)


class Net:
    """Nodes of one network; the first one's directory is where the others join."""

    def __init__(self, folder: Path, network: NetworkDefinition | None = None) -> None:
        self.folder = folder
        self.port = free_udp_port()
        guardian = Identity.generate()
        base = network or definition(guardian)
        self.network = base.model_copy(update={"bootstrap": [f"127.0.0.1:{self.port}"]}).signed_by(guardian)
        self.nodes: list[Node] = []

    def add(self, name: str, **settings: Any) -> Node:
        """A node, started."""
        if not self.nodes:
            settings = {"directory_port": self.port, **settings}
        node = Node(self.folder / name, self.network, settings)
        self.nodes.append(node)
        return node.start()

    def member(self, network: str | None = None) -> "Member":
        """A bare member of the directory (of another network, where one is named, at the same nodes)."""
        return Member(network or self.network.id, f"127.0.0.1:{self.port}")

    def pair(self) -> tuple[Node, Node]:
        """Two nodes that know each other, the second one with a stub of taskd."""
        alice, bob = self.add("alice"), self.add("bob").stub()
        until(lambda: alice.knows(bob) and bob.knows(alice), "the two nodes find each other")
        return alice, bob


@contextmanager
def net(folder: Path) -> Iterator[Net]:
    """A network whose processes end with the block."""
    made = Net(folder)
    try:
        yield made
    finally:
        for node in made.nodes:
            node.close()


@contextmanager
def module_net() -> Iterator[Net]:
    """Like `net`, in a folder of its own, for the tests of a whole module; checks the logs at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    try:
        with net(folder) as made:
            yield made
        assert_clean_logs(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Member:
    """A member of a network's directory, for what no real node would put there; a process of its own."""

    def __init__(self, network: str, bootstrap: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MEMBER), network, bootstrap], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **command: Any) -> Any:
        """Send a command; its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def announce(self, record: SignedRecord) -> None:
        """Put a record until another node has stored it."""
        assert self.ask(announce=record.model_dump())

    def put(self, kind: str, value: bytes) -> None:
        """Put raw bytes where records of a kind are."""
        assert self.ask(put=value.hex(), kind=kind)

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in filter(None, (self._process.stdin, self._process.stdout)):
            pipe.close()
