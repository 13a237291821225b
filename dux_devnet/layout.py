"""The folder of a devnet: who is in it, which configuration each daemon gets, where everything lies.

FOLDER/control.sock            the supervisor
FOLDER/network.yaml            the network definition
FOLDER/chain/                  dux-devchain
FOLDER/<node>/etc/             configuration, wallet passphrase
FOLDER/<node>/run/             sockets
FOLDER/<node>/lib/<daemon>/    databases and keys
FOLDER/<node>/log/             logs
FOLDER/<node>/blobs/           payloads
"""

import json
import os
import random
import secrets
import shutil
import socket
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from dux_flopd.keystore import ARBITER_PATH, GUARDIAN_PATH, Keystore
from duxcommon.coin.params import CHAINS
from duxcommon.errors import ConfigError
from duxcommon.files import write_atomic
from duxcommon.identity import Identity
from duxcommon.money import COIN, DUST
from duxcommon.network import Member, NetworkDefinition, dump_network
from duxcommon.parameters import Parameters

CHAIN = "chain"
LAYOUT = "layout.json"
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan")
DAEMONS = ("flopd", "registryd", "escrowd", "sandbox", "taskd", "airdropd")
GUARDIANS = 5
"""Nodes that guard the fund, unless somebody says otherwise."""
STOP_ORDER = (("taskd", "airdropd"), ("sandbox", "escrowd"), ("registryd",), ("flopd",), (CHAIN,))
SOCKET_PATH_MAX = 107
SCRYPT_LOG_N = 10
"""The trial coins are worthless: unlocking need not take half a second a node."""
FEW_BLOCKS_S = 1.0
QUICK = Parameters(
    airdrop_threshold=COIN,
    window_blocks=300,
    epochs_needed=1,
    min_tax_paid=DUST,
    bond_min=COIN // 10,
    vote_blocks=300,
    quorum_keys=1,
    time_lock_blocks=10,
    cycle_blocks=60,
)
"""Rules under which a fund pays and a vote comes into force within minutes, at a block a second."""
QUICK_SETTINGS: dict[str, dict[str, Any]] = {"*/registryd": {"auto_bond": True}}
"""Bonds have to be there a window before they count; nobody who tries the network out wants to plan for that."""
QUIET_PORTS = range(20_000, 32_000)
"""Ports that no kernel hands out by itself: what is free when a devnet is laid out is still free when it starts."""


def command_line(folder: Path, words: str) -> str:
    """What to type for the devnet of `folder`."""
    return f"dux-devnet {words}" if folder == default_folder() else f"dux-devnet --dir {folder} {words}"


def default_folder() -> Path:
    """A short path (sockets need one) of this user's own."""
    return Path(f"/tmp/dux-devnet-{os.getuid()}")


@dataclass
class ChainChoice:
    """Which chain the nodes use: our devchain, or a real Core that somebody else runs."""

    name: str = "devnet"
    dialect: str = "flopcoin"
    auto_mine_s: float = FEW_BLOCKS_S
    url: str = ""
    """Of a Core that runs already; empty: dux-devchain is started."""
    cookie: str = ""
    wallet_per_node: bool = True
    birth_height: int = 0


@dataclass
class Layout:
    """Everything that is known about a devnet before its daemons run; stored as layout.json."""

    folder: Path
    nodes: list[str]
    node_ids: dict[str, str]
    chain: ChainChoice
    chain_port: int
    guardians: list[str]
    """Names of the nodes that guard the fund."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def control_socket(self) -> Path:
        """Where the supervisor answers."""
        return self.folder / "control.sock"

    def run_dir(self, node: str) -> Path:
        """The sockets of a node."""
        return self.folder / node / "run"

    def daemons(self, node: str) -> list[str]:
        """Process names of a node, in the order in which they are started."""
        return [f"{node}/{daemon}" for daemon in DAEMONS]

    def command(self, node: str, daemon: str) -> tuple[list[str], Path]:
        """Arguments and log file of a process. Raises KeyError for an unknown one."""
        if daemon == CHAIN:
            folder = self.folder / CHAIN
            argv = ["--datadir", str(folder), "--port", str(self.chain_port), "--dialect", self.chain.dialect]
            if self.chain.auto_mine_s:
                argv += ["--auto-mine", str(self.chain.auto_mine_s)]
            return argv, folder / "chain.err"
        if node not in self.nodes or daemon not in DAEMONS:
            raise KeyError(f"{node}/{daemon}")
        home = self.folder / node
        return ["--config", str(home / "etc" / f"{daemon}.yaml")], home / "log" / f"{daemon}.err"

    def save(self) -> None:
        """Write layout.json."""
        value = {
            "nodes": self.nodes,
            "node_ids": self.node_ids,
            "chain": vars(self.chain),
            "chain_port": self.chain_port,
            "guardians": self.guardians,
        }
        write_atomic(self.folder / LAYOUT, json.dumps(value, indent=1).encode(), mode=0o600)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The layout in `folder`. Raises ConfigError when there is none."""
        try:
            value = json.loads((folder / LAYOUT).read_bytes())
        except FileNotFoundError:
            up = command_line(folder, "up")
            raise ConfigError(f"there is no devnet in {folder}", hint=f"Make one with `{up}`.") from None
        chain = ChainChoice(**value["chain"])
        return cls(folder, value["nodes"], value["node_ids"], chain, value["chain_port"], value["guardians"])


def node_names(count: int) -> list[str]:
    """alice sells, bob buys, carol arbitrates; then more."""
    return [NAMES[i] if i < len(NAMES) else f"node{i + 1}" for i in range(count)]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, but: Collection[int] = ()) -> int:
    """A port of the loopback interface that nobody uses now, none of `but`. Raises ConfigError when there is none."""
    for port in random.SystemRandom().sample(QUIET_PORTS, 100):
        if port in but:
            continue
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no port from {QUIET_PORTS.start} to {QUIET_PORTS.stop} is free")


def prepare_folder(folder: Path) -> None:
    """Make the folder, ours alone. Raises ConfigError where it can't be used."""
    longest = folder / "alice" / "run" / "registryd.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
        raise ConfigError(
            f"the path {folder} is too long for Unix sockets", hint="Choose a shorter one, such as /tmp/dux."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise ConfigError(f"{folder} belongs to somebody else or may be read by others", hint="Choose another --dir.")
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="Choose another --dir, or empty it.")


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, yaml.safe_dump(value, sort_keys=False).encode(), mode=0o600)


def lay_out(
    folder: Path,
    nodes: list[str],
    chain: ChainChoice | None = None,
    overrides: dict[str, dict[str, Any]] | None = None,
    parameters: Parameters | None = None,
    guardians: int | None = None,
) -> Layout:
    """Make a new devnet in the empty `folder`: keys, network definition, configuration; nothing runs yet.

    `overrides` maps `node/daemon` or `*/daemon` to settings that replace the defaults, `parameters` are the
    network's first governed values. The last node arbitrates; the first `guardians` nodes (by default 5, or all
    where there are fewer) guard the fund, and a majority of them signs.
    """
    count = min(GUARDIANS, len(nodes)) if guardians is None else guardians
    if not 1 <= count <= len(nodes):
        raise ConfigError(f"{count} guardians of {len(nodes)} nodes", hint="Every guardian is a node of its own.")
    prepare_folder(folder)
    try:
        return _fill(folder, nodes, chain or ChainChoice(), overrides or {}, parameters or Parameters(), count)
    except BaseException:
        # Half a devnet could be neither started nor taken down.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(
    folder: Path,
    nodes: list[str],
    chain: ChainChoice,
    overrides: dict[str, dict[str, Any]],
    parameters: Parameters,
    guardians_n: int,
) -> Layout:
    (folder / CHAIN).mkdir()
    members: dict[str, tuple[Member, Member]] = {}
    identities: dict[str, Identity] = {}
    for node in nodes:
        identity, keys = make_node(folder, node)
        identities[node] = identity
        members[node] = (
            Member(node=identity.node_id, pubkey=keys.key(GUARDIAN_PATH).pubkey.hex()),
            Member(node=identity.node_id, pubkey=keys.key(ARBITER_PATH).pubkey.hex()),
        )
    guardians = nodes[:guardians_n]
    dht_ports: dict[str, int] = {}
    for node in nodes:
        dht_ports[node] = free_port(socket.SOCK_DGRAM, dht_ports.values())
    network = NetworkDefinition(
        name="devnet",
        chain=chain.name,  # type: ignore[arg-type]
        genesis=CHAINS[chain.name].genesis,
        birth_height=chain.birth_height,
        bootstrap=[f"127.0.0.1:{dht_ports[nodes[0]]}"],
        guardians=[members[node][0] for node in guardians],
        guardians_m=len(guardians) // 2 + 1,
        arbiters=[members[nodes[-1]][1]],
        parameters=parameters,
    )
    for node in guardians:
        network = network.signed_by(identities[node])
    write_atomic(folder / "network.yaml", dump_network(network).encode())
    layout = Layout(
        folder, nodes, {n: i.node_id for n, i in identities.items()}, chain, free_port(), guardians, overrides
    )
    for node in nodes:
        configure(layout, node, dht_ports[node])
    layout.save()
    return layout


def make_node(folder: Path, node: str) -> tuple[Identity, Keystore]:
    """The folders of one node, its key and its wallet."""
    home = folder / node
    for part in ("etc", "run", "log", "blobs", *(f"lib/{daemon}" for daemon in DAEMONS)):
        (home / part).mkdir(parents=True, mode=0o700)
    identity = Identity.load_or_create(home / "lib" / "registryd" / "node.key")
    passphrase = secrets.token_urlsafe(24)
    write_atomic(home / "etc" / "wallet.pass", passphrase.encode() + b"\n", mode=0o600)
    keys = Keystore.create(home / "lib" / "flopd" / "keystore.json", passphrase, log_n=SCRYPT_LOG_N)
    return identity, keys


def configure(layout: Layout, node: str, directory_port: int) -> None:
    """Write the configuration of a node's daemons."""
    for daemon in DAEMONS:
        settings = _settings(layout, node, daemon, directory_port)
        _write_yaml(layout.folder / node / "etc" / f"{daemon}.yaml", settings)


def roles(layout: Layout, node: str) -> list[str]:
    """What a node is in the network: the first sells, the last arbitrates, all buy; some guard the fund."""
    found = ["buyer"]
    if node == layout.nodes[0]:
        found.append("provider")
    if node == layout.nodes[-1]:
        found.append("arbiter")
    if node in layout.guardians:
        found.append("guardian")
    return found


def _settings(layout: Layout, node: str, daemon: str, dht_port: int) -> dict[str, Any]:
    home = layout.folder / node
    value: dict[str, Any] = {
        "run_dir": str(home / "run"),
        "state_dir": str(home / "lib" / daemon),
        "log_dir": str(home / "log"),
        "network": str(layout.folder / "network.yaml"),
        # A demo must not wait for a stubborn call when it is told to end.
        "drain_s": 3,
    }
    if daemon == "flopd":
        chain = layout.chain
        cookie = chain.cookie or str(layout.folder / CHAIN / ".cookie")
        value["core"] = {"url": chain.url or f"http://127.0.0.1:{layout.chain_port}/", "cookie": cookie}
        if chain.wallet_per_node:
            value["core"]["url"] += f"wallet/{node}"
        value["passphrase_file"] = str(home / "etc" / "wallet.pass")
        value["poll_s"] = 0.2
    elif daemon == "registryd":
        value |= {"blobs_dir": str(home / "blobs"), "name": node, "roles": roles(layout, node), "listen": "127.0.0.1"}
        value |= {"port": 0, "directory_port": dht_port, "heartbeat_s": 2}
    elif daemon in ("taskd", "sandbox"):
        value["blobs_dir"] = str(home / "blobs")
    value |= layout.overrides.get(f"*/{daemon}", {})
    value |= layout.overrides.get(f"{node}/{daemon}", {})
    return value
