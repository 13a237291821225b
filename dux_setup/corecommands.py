"""What to type on this machine: as root, as Core's user, and to start a Core or let it read its configuration again."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import corefind
from .corefiles import Target

UNIT = "flopcoind.service"
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/usr/local/lib/systemd/system")
SYSTEMCTL_S = 10.0


@dataclass(frozen=True, slots=True)
class Commands:
    """What to type for one Core."""

    start: str
    restart: str
    cli: str
    """Its client, to be followed by a method."""


def as_root(command: str, folder: Path | None = None) -> str:
    """`command` as the person at the terminal types it to run it as root: Debian has sudo, or a password of root's.

    Where `folder` is given, it is run there.
    """
    if os.geteuid() == 0 and "SUDO_USER" not in os.environ:
        return command
    if shutil.which("sudo"):
        return f"sudo {command}"
    # A login begins in root's home.
    there = f"cd {shlex.quote(str(folder))} && {command}" if folder is not None else command
    return f"su - -c {shlex.quote(there)}"


def again(args: argparse.Namespace) -> str:
    """The `dux-ctl` command that was typed, with these arguments, for root to type in the same folder."""
    relative = any(isinstance(value, Path) and not value.is_absolute() for value in vars(args).values())
    return as_root(shlex.join(["dux-ctl", *sys.argv[1:]]), Path.cwd() if relative else None)


def as_user(uid: int, command: str) -> str:
    """`command` as the person at the terminal types it to run it as the user `uid`."""
    root = os.geteuid() == 0 and "SUDO_USER" not in os.environ
    if not root and uid == corefind.person()[1]:
        return command
    if uid == 0:
        return as_root(command)
    name = shlex.quote(corefind.user_name(uid))
    if not root and shutil.which("sudo"):
        return f"sudo -u {name} {command}"
    return as_root(f"runuser -u {name} -- {command}")


def commands(target: Target, proc: Path = Path("/proc")) -> Commands:
    """Those for a Core, which is a service of the machine or was started by hand."""
    options = [f"-datadir={target.folder.path}"]
    if target.conf != target.folder.path / target.kind.conf:
        options.append(f"-conf={target.conf}")
    if target.process is not None and target.process.section is not None:
        options.append("-regtest" if target.process.section == "regtest" else "-testnet")
    uid, words = target.folder.uid, shlex.join(options)
    cli = as_user(uid, f"{target.kind.client} {words}")
    if unit := _service(target, proc):
        name = shlex.quote(unit)
        return Commands(as_root(f"systemctl start {name}"), as_root(f"systemctl restart {name}"), cli)
    program = target.process.program if target.process is not None else str(target.program or target.kind.programs[0])
    if program.endswith("-qt"):
        return Commands(f"{program} {words}", "close its window and open it again", cli)
    start = as_user(uid, f"{target.program or program} {words} -daemon")
    # It has its folder until it has ended, seconds after it said that it stops.
    until = f"tail --pid={target.process.pid} -f /dev/null" if target.process is not None else "sleep 30"
    return Commands(start, f"{cli} stop; {until}; {start}", cli)


def _service(target: Target, proc: Path) -> str:
    """The name of the unit that runs this Core, or will; empty where there is none."""
    if target.process is not None:
        return _unit_of(target.process.pid, proc)
    for folder in UNIT_FOLDERS:
        try:
            text = Path(folder, UNIT).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if f"-datadir={target.folder.path}" in text.split() or target.folder.path == corefind.SERVICE_FOLDER:
            return UNIT.removesuffix(".service")
    return ""


def _unit_of(pid: int, proc: Path) -> str:
    try:
        lines = (proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        path = line.split(":", 2)[-1]
        unit = path.rpartition("/")[2]
        # What cron or a login started is in a group of theirs: systemd knows whose the main process is.
        if "/system.slice/" in path and unit.endswith(".service") and _main_process(unit) == pid:
            return unit.removesuffix(".service")
    return ""


def _main_process(unit: str) -> int:
    command = ["systemctl", "show", "--property=MainPID", "--value", "--", unit]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYSTEMCTL_S, check=False
        )
        return int(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return 0
