"""What this node stands on, and pointing its dux-flopd at a Core of the same chain."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from duxcommon.config import load_yaml
from duxcommon.errors import DuxError, NotAllowed
from duxcommon.files import write_atomic
from duxcommon.network import NetworkDefinition, load_network

from .corecheck import Checked, Finding
from .invitation import ChainAccess
from .paths import Paths
from .trial import flopd_settings

DEFAULT_WALLET = "dux"
RESTART_S = 120.0


def password_store(paths: Paths) -> Path:
    """The password of USER, for root alone; dux-flopd reads a copy of its own."""
    return paths.setup / "core.password"


@dataclass(frozen=True, slots=True)
class Node:
    """What a node is set up for."""

    network: NetworkDefinition | None
    core: dict[str, Any]
    """The settings `core` of dux-flopd, all files together."""
    accepts_main_chain: bool
    trouble: str = ""
    """Why something of it could not be read."""
    hidden: bool = False
    """Whether only root could read which Core is asked."""

    @property
    def wallet(self) -> str:
        """The wallet that dux-flopd uses on a Core with several."""
        path = urlsplit(str(self.core.get("url", ""))).path
        return path.removeprefix("/wallet/") if path.startswith("/wallet/") else DEFAULT_WALLET


def look(paths: Paths) -> Node:
    """Read the node's configuration; what can't be read is left empty and told."""
    core: dict[str, Any] = {}
    accepts, network, trouble, hidden = False, None, "", False
    main = paths.config("flopd")
    try:
        for part in [*([main] if main.exists() else []), *sorted(paths.drop_in("flopd").parent.glob("*.yaml"))]:
            if not os.access(part, os.R_OK):
                hidden = True
                continue
            value, _ = load_yaml(part)
            core.update(value["core"] if isinstance(value.get("core"), dict) else {})
            accepts = value.get("accept_main_chain_risk", accepts) is True
        if paths.network.exists():
            network = load_network(paths.network)
    except DuxError as error:
        trouble = error.message
    return Node(network, core, accepts, trouble, hidden)


def kept_password(paths: Paths) -> str | None:
    """The password of USER; None where there is none. Raises NotAllowed for anyone but root."""
    try:
        text = password_store(paths).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise NotAllowed(f"can't read {password_store(paths)}", hint="Run it as root.") from error
    return text or None


def keep_password(paths: Paths, password: str) -> None:
    """Remember the password of USER. Raises OSError."""
    if kept_password(paths) != password:
        password_store(paths).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(password_store(paths), f"{password}\n".encode(), mode=0o600)


def wallet_name(node: Node, checked: Checked) -> str | None:
    """The wallet that dux-flopd is to use; None on a Core that has only one."""
    return None if checked.dialect == "flopcoin" else node.wallet


def finding(node: Node, chain: str, port: int, command: str) -> Finding:
    """Whether the node stands on this Core; `command` is what sets that one up."""
    if node.trouble:
        return Finding("node", "wrong", node.trouble, "Mend that file, then check again.")
    if node.network is None:
        return Finding("node", "missing", "this machine's node is on no network yet", "Install dux-node and start it.")
    named = f"network {node.network.name!r} on chain {node.network.chain}"
    if node.network.chain != chain:
        label = "its private trial network, whose coins have no value" if node.network.chain == "devnet" else named
        do = f"Get the signed definition of a network from somebody on it: {command} --network FILE"
        return Finding("node", "missing", f"the node stays on {label}", do)
    if node.hidden:
        return Finding("node", "ok", f"on {named}; only root can see which Core dux-flopd asks")
    parts = urlsplit(str(node.core.get("url", "")))
    if (parts.hostname, parts.port) not in {("127.0.0.1", port), ("localhost", port), ("::1", port)}:
        text = f"the node is on {named}, and dux-flopd asks another Core"
        return Finding("node", "missing", text, f"Point it here: {command}")
    return Finding("node", "ok", f"on {named}, and dux-flopd asks this Core")


def unconnected(paths: Paths, node: Node, access: ChainAccess, wallet: str | None, run_by: str | None) -> bool:
    """Whether dux-flopd has another address or login of Core than these, or expects another person's."""
    try:
        known = paths.chain_password.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        known = ""
    wanted = flopd_settings(access, wallet, str(paths.chain_password), None, run_by)["core"]
    return known != access.password.get_secret_value() or any(
        node.core.get(key) != value for key, value in wanted.items()
    )


def restart_flopd() -> bool:
    """Restart dux-flopd where systemd runs it; whether that was done."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return False
    done = subprocess.run([systemctl, "try-restart", "dux-flopd.service"], timeout=RESTART_S, check=False)
    return done.returncode == 0
