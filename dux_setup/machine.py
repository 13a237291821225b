"""The services of this machine, started and stopped through systemd."""

import os
import subprocess
from pathlib import Path
from typing import Protocol

from duxcommon.errors import NotAllowed, SwitchFailed

from .paths import DAEMONS, Paths

TARGET = "dux.target"
CHAIN = "dux-devchain.service"
UNITS = (
    TARGET,
    *(f"dux-{name}.socket" for name in DAEMONS),
    *(f"dux-{name}.service" for name in DAEMONS),
    CHAIN,
    "dux-firstboot.service",
)
COMMAND_S = 300.0
TMPFILES = Path("/usr/lib/tmpfiles.d")


class Machine(Protocol):
    """What moving a node to another network needs of the machine."""

    def stop(self) -> None:
        """Stop the whole node; returns when nothing of it runs."""

    def start(self) -> None:
        """Start the whole node. Raises SwitchFailed when a part does not start."""

    def restart_chain(self) -> None:
        """Start the trial chain anew with its present settings. Raises SwitchFailed."""

    def reload(self) -> None:
        """Take note of units and drop-ins that were changed. Raises SwitchFailed."""

    def make_folders(self) -> None:
        """Make the daemons' folders that are missing, with their owners."""


class Systemd:
    """This machine."""

    def stop(self) -> None:
        _systemctl("stop", *UNITS)

    def start(self) -> None:
        self.reload()
        # Whoever failed before may try again.
        _systemctl("reset-failed", *UNITS, check=False)
        _systemctl("start", TARGET)

    def restart_chain(self) -> None:
        self.reload()
        _systemctl("restart", CHAIN)

    def reload(self) -> None:
        """Read the units anew. Raises SwitchFailed."""
        _systemctl("daemon-reload")

    def make_folders(self) -> None:
        files = [str(path) for path in sorted(TMPFILES.glob("dux*.conf"))]
        _run("systemd-tmpfiles", "--create", *files)


def this_machine(paths: Paths) -> Systemd:
    """The machine itself. Raises NotAllowed for anyone but root, SwitchFailed where systemd does not run it."""
    if os.geteuid() != 0:
        raise NotAllowed(
            "only root may change which network this machine is on", hint="Run it as root (`sudo`, or `su -`)."
        )
    if not paths.real or not Path("/run/systemd/system").is_dir():
        raise SwitchFailed("systemd does not run this machine", hint="A node of packages is needed; see README.")
    return Systemd()


def _systemctl(*words: str, check: bool = True) -> None:
    _run("systemctl", *words, check=check)


def _run(*command: str, check: bool = True) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SwitchFailed(f"`{' '.join(command[:2])}` failed: {error}") from error
    if check and done.returncode != 0:
        raise SwitchFailed(f"`{' '.join(command[:2])}` failed: {done.stderr.strip()[:500]}")
