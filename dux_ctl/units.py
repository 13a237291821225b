"""What systemd and its journal know of this machine's daemons; nothing where the node is another than the machine's."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dux_setup.paths import Paths

from .printable import printable

SYSTEM_RUN_DIR = Path("/run/duxnet")
SYSTEMD = Path("/run/systemd/system")
"""There exactly when systemd runs the machine."""
FIRST_BOOT = "dux-firstboot"
TRIAL_CHAIN = "dux-devchain"
CHAIN_USERS = Paths().devchain_users
"""There exactly where the machine's own trial chain belongs to its node."""
RETRY_S = 30
"""Longest pause before systemd starts a daemon again that could not run (RestartMaxDelaySec of the units)."""
SAID = 1000
"""Most characters of what a daemon told systemd that are shown; its hint stands at the end."""
ASK_S = 5.0
LINES = 5
NO_CREDENTIAL = "243"
"""The exit status that systemd itself gives a service whose credentials it can't set up (EXIT_CREDENTIALS)."""
WRONG_CREDENTIAL = (
    "the credential with the wallet's passphrase, /etc/credstore.encrypted/dux-flopd.wallet, is damaged or not of this "
    "machine. Put this machine's own back, or move it away and type the passphrase: `dux-ctl wallet unlock`"
)


@dataclass(frozen=True)
class Unit:
    """How systemd sees a service."""

    active: str
    """active, activating, inactive, failed…; empty where systemd did not tell."""
    result: str
    """success, exit-code, start-limit-hit…"""
    said: str
    """What the daemon told systemd last; empty where it told nothing."""
    installed: bool = True

    @property
    def running(self) -> bool:
        """Whether it works; one that is only being started, perhaps again, does not."""
        return self.active in ("active", "reloading")

    @property
    def down(self) -> bool:
        """Whether systemd says that it does not run."""
        return bool(self.active) and not self.running

    @property
    def trying(self) -> bool:
        """Whether it could not run and systemd is waiting before it starts it again."""
        return self.active == "activating" and self.result not in ("", "success")

    @property
    def state(self) -> str:
        """In a word or two."""
        if not self.installed:
            return "not installed"
        why = f" ({self.result})" if self.result not in ("", "success") else ""
        return f"{self.active}{why}"

    @property
    def text(self) -> str:
        """With what the daemon told."""
        return self.state + (f": {self.said}" if self.said else "")


def of_this_machine(run_dir: Path) -> bool:
    """Whether the node of these sockets is the one that systemd runs here."""
    return run_dir == SYSTEM_RUN_DIR and SYSTEMD.is_dir() and shutil.which("systemctl") is not None


def _output(command: Sequence[str]) -> str:
    """What a program prints; nothing when it fails or takes too long, because it only adds to what is known."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def look(names: Sequence[str]) -> dict[str, Unit]:
    """The services of these names (`dux-flopd`), as far as systemd tells."""
    properties = ("Id", "LoadState", "ActiveState", "Result", "StatusText", "ExecMainStatus")
    units = [f"{name}.service" for name in names]
    text = _output(["systemctl", "show", "--no-pager", f"--property={','.join(properties)}", "--", *units])
    found = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id"):
            # Whoever took a daemon over must not steer the terminal of root.
            said = printable(values.get("StatusText", "")[:SAID])
            if values.get("ExecMainStatus") == NO_CREDENTIAL and not said:
                said = WRONG_CREDENTIAL
            installed = values.get("LoadState") != "not-found"
            unit = Unit(values.get("ActiveState", ""), values.get("Result", ""), said, installed)
            found[values["Id"].removesuffix(".service")] = unit
    return found


def has_trial_chain(run_dir: Path) -> bool:
    """Whether the node of these sockets stands on the trial chain that this machine runs."""
    return of_this_machine(run_dir) and CHAIN_USERS.exists()


def trial_chain(run_dir: Path) -> Unit | None:
    """How this machine's trial chain stands; None where the node does not use it."""
    return look([TRIAL_CHAIN]).get(TRIAL_CHAIN, Unit("", "", "")) if has_trial_chain(run_dir) else None


def journal(name: str) -> list[str]:
    """The last lines of a service's journal since the machine started; none where the caller may not read it."""
    command = ["journalctl", f"--unit={name}.service", "--boot", f"--lines={LINES}", "--output=short", "--no-pager"]
    return [line for line in _output([*command, "--quiet"]).splitlines() if line.strip()]
