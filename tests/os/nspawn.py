"""Machines for tests: a Debian root with a real systemd as PID 1, booted by systemd-nspawn.

All mounts and processes of a machine live in a mount and a PID namespace of their own, held by one shell that ends
when its standard input does: whatever becomes of the test run, the kernel removes them. What a machine writes goes to
memory.
"""

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_S = 30.0
BOOT_S = 90.0
HALT_S = 60.0
RUN_S = 60.0
JOURNAL_LINES = 150
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_INSIDE = "-sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog,-wake_alarm"
"""Rights over this very machine's kernel and clock, which a command that enters a machine from here leaves behind."""
NEEDED = {
    "systemd-nspawn": "systemd-container", "unshare": "util-linux", "nsenter": "util-linux", "script": "bsdutils",
    "mmdebstrap": "mmdebstrap",
}  # fmt: skip
"""Program → its Debian package."""

HOLDER = r"""
set -eu
scratch=$1 layers=$2 group=$3
mount -t tmpfs -o mode=0755,size=75% duxos "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay duxos -o "lowerdir=$layers,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
# systemd wants the pure second version of control groups; this namespace alone sees it.
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup/$group
enable() { for one in memory pids cpu; do echo "+$one" >"$1/cgroup.subtree_control" 2>/dev/null || true; done; }
enable /sys/fs/cgroup
mkdir -p "$group/boot"
enable "$group"
start() {
    ( echo 0 >"$group/boot/cgroup.procs"; exec script -qfec "$1" "$scratch/console" ) >/dev/null 2>&1 </dev/null &
}
echo ready
while read -r command; do eval "$command"; done
"""


class Failed(AssertionError):
    """A command inside a machine ended with another status than expected, or a machine did not do what it should."""


def why_not() -> str | None:
    """Why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    return f"needs the Debian packages {', '.join(missing)}" if missing else None


def wait_until(condition: Callable[[], bool], what: str, limit_s: float, every_s: float = 0.05) -> None:
    """Look at what no event tells of until it holds. Raises Failed when it does not within `limit_s`.

    A look may cost as much as what is waited for: the pause after it is at least as long as it took.
    """
    begun = time.monotonic()
    deadline = begun + limit_s
    while not condition():
        ended = time.monotonic()
        if ended > deadline:
            raise Failed(f"not within {limit_s:.0f} s: {what}")
        time.sleep(max(every_s, ended - begun))
        begun = time.monotonic()


def children(pid: int) -> list[int]:
    """The children of a process; none of one that has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    """All processes below one, parents first."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def name_of(pid: int) -> str:
    """The name of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def cgroup_roots() -> list[Path]:
    """Where this machine has mounted the second version of control groups."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(words[1]) for words in mounts if words[2] == "cgroup2"]


def remove_group(name: str) -> None:
    """Remove a machine's empty control groups: the one thing that no namespace takes along."""
    for top in cgroup_roots():
        for folder, _, _ in os.walk(top / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def remove_leftovers() -> None:
    """What machines of a test run that was killed left: empty control groups and empty folders."""
    for top in cgroup_roots():
        for group in top.glob("duxos-test-*"):
            if not Path(f"/proc/{group.name.split('-')[2]}").exists():
                remove_group(group.name)
    for folder in Path(tempfile.gettempdir()).glob("duxos-test-*"):
        if not Path(f"/proc/{folder.name.split('-')[2]}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


class Machine:
    """One machine; use it in a `with` block. Not booted yet: `boot` does that, as often as wanted."""

    count = 0

    def __init__(self, layers: Sequence[Path], *, binds: Mapping[Path, str] | None = None) -> None:
        """`layers` are folders, the upper one first; `binds`: folder here → where the machine sees it, read-only."""
        Machine.count += 1
        label = f"duxos-test-{os.getpid()}-{Machine.count}"
        self._group = label
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{label}-"))
        self._binds = [f"--bind-ro={here}:{there}" for here, there in (binds or {}).items()]
        self.console = ""
        """What the last boot wrote to its console, once halted."""
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private",
             "bash", "-c", HOLDER, "holder", str(self._scratch), ":".join(map(str, layers)), label],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        told = select.select([self._holder.stdout], [], [], START_S)[0]
        first = self._holder.stdout.readline() if told else f"nothing within {START_S:.0f} s\n"
        if first != "ready\n":
            self._holder.kill()
            reason = first + self._holder.communicate(timeout=10)[0]
            self.close()
            raise Failed(f"no machine can be made here: {reason.strip()}")
        self._inner = children(self._holder.pid)[0]
        self.root = Path(f"/proc/{self._inner}/root{self._scratch}/root")
        """Its file system, as seen from here, when it isn't booted; see `path`."""
        self._nspawn: int | None = None
        self._leader: int | None = None

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- not booted ---------------------------------------------------------------------------------------------

    def prepare(self, *command: str, limit_s: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the root without booting it, with this machine's own network."""
        assert self._nspawn is None, "the machine is running: use `run`"
        shell = [
            "nsenter", "-t", str(self._inner), "-m", "-p", f"--wd={self._scratch}", "--",
            "timeout", "-k", "5", str(limit_s),
            "systemd-nspawn", "-q", "-D", f"{self._scratch}/root", "--register=no", "--keep-unit", "--pipe",
            "--resolv-conf=copy-host", "--setenv=DEBIAN_FRONTEND=noninteractive", "--setenv=LC_ALL=C.UTF-8",
            *self._binds, *command,
        ]  # fmt: skip
        return self._finish(shell, command, None, limit_s + 10, check)

    def save_layer(self, folder: Path) -> None:
        """Copy everything that was changed so far to `folder`, as a layer for other machines."""
        assert self._nspawn is None, "halt it first"
        upper = f"/proc/{self._inner}/root{self._scratch}/upper"
        subprocess.run(["cp", "-a", upper, str(folder)], check=True, timeout=300)

    # --- booting and halting ------------------------------------------------------------------------------------

    def boot(self, limit_s: float = BOOT_S, *, wait: bool = True) -> str:
        """Boot it; the state that systemd tells once all start jobs are done: running or degraded."""
        assert self._nspawn is None, "it is running already"
        command = ["systemd-nspawn", "-D", f"{self._scratch}/root", "--boot", "--register=no", "--keep-unit",
                   "--private-network", "--link-journal=no", "--hostname=duxos", *self._binds]  # fmt: skip
        assert self._holder.stdin is not None
        self._holder.stdin.write(f"start {shlex.quote(shlex.join(command))}\n")
        self._holder.stdin.flush()
        deadline = time.monotonic() + limit_s
        wait_until(self._find_leader, "systemd-nspawn started systemd", limit_s)
        return self.settled(deadline - time.monotonic()) if wait else "starting"

    def _find_leader(self) -> bool:
        for pid in descendants(self._inner):
            if name_of(pid) == "systemd-nspawn" and (below := children(pid)) and name_of(below[0]) == "systemd":
                self._nspawn, self._leader = pid, below[0]
                return True
        return False

    def settled(self, limit_s: float = BOOT_S) -> str:
        """Wait until no start job is left; what `systemctl is-system-running` says then."""
        deadline = time.monotonic() + limit_s
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"not up within {limit_s:.0f} s\n{self.journal()}")
            said = self.run("systemctl", "is-system-running", "--wait", limit_s=left, check=False).stdout.strip()
            if said in ("running", "degraded", "maintenance"):
                return said
            # Too early: systemd has no socket yet.
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        """Whether it was booted and neither halted nor cut off."""
        return self._nspawn is not None

    def halt(self, limit_s: float = HALT_S) -> None:
        """Shut it down in order. Raises Failed when it takes longer (it is cut off then)."""
        assert self._leader is not None
        os.kill(self._leader, signal.SIGRTMIN + 4)
        if not self._ended(limit_s):
            journal = self.journal()
            self.cut()
            raise Failed(f"not halted within {limit_s:.0f} s\n{journal}")

    def cut(self) -> None:
        """As when the power goes: everything in it ends at once."""
        assert self._leader is not None
        os.kill(self._leader, signal.SIGKILL)
        if not self._ended(HALT_S):
            raise Failed("systemd-nspawn is still there after its machine was killed")

    def _ended(self, limit_s: float) -> bool:
        assert self._nspawn is not None
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self._nspawn)
            try:
                if not select.select([descriptor], [], [], limit_s)[0]:
                    return False
            finally:
                os.close(descriptor)
        console = Path(f"/proc/{self._inner}/root{self._scratch}/console")
        self.console = console.read_text(errors="replace") if console.exists() else ""
        self._nspawn = self._leader = None
        return True

    def reboot(self) -> str:
        """Halt and boot it."""
        self.halt()
        return self.boot()

    def close(self) -> None:
        """Remove it with everything that it has; never fails, may be called again."""
        if self._holder.stdin is not None:
            with contextlib.suppress(OSError):
                self._holder.stdin.close()
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        with contextlib.suppress(Failed, OSError):
            wait_until(lambda: self._scratch.exists() and not any(self._scratch.iterdir()), "unmounted", 5)
            self._scratch.rmdir()
            wait_until(self._without_group, "its control groups are empty", 10)

    def _without_group(self) -> bool:
        remove_group(self._group)
        return not any((top / self._group).exists() for top in cgroup_roots())

    # --- inside -------------------------------------------------------------------------------------------------

    def entering(self, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs a command as root in the booted machine."""
        assert self._leader is not None, "it isn't running"
        variables = [f"{key}={value}" for key, value in {"PATH": PATH, "LC_ALL": "C.UTF-8", **(env or {})}.items()]
        return [
            "nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--",
            "/usr/bin/env", "-i", *variables, "setpriv", f"--bounding-set={NOT_INSIDE}", *command,
        ]  # fmt: skip

    def run(
        self, *command: str, user: str | None = None, stdin: str | None = None, limit_s: float = RUN_S,
        check: bool = True, env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command in the booted machine, as root or another user.

        Raises Failed with its output when it ends with another status than 0 (unless `check` is off) or takes longer
        than `limit_s`.
        """
        limited = ["timeout", "-k", "5", f"{limit_s:.1f}", *(["runuser", "-u", user, "--"] if user else []), *command]
        shell = self.entering(*limited, env=env)
        return self._finish(shell, command, stdin, limit_s + 10, check)

    def sh(self, script: str, *, user: str | None = None, limit_s: float = RUN_S, check: bool = True) -> str:
        """Run a shell script in the booted machine; what it wrote to standard output."""
        return self.run("bash", "-ec", script, user=user, limit_s=limit_s, check=check).stdout

    def path(self, inside: str) -> Path:
        """A file of the machine, as seen from here; of the running one, with what is mounted in it."""
        return Path(f"/proc/{self._leader}/root{inside}") if self._leader else self.root / inside.lstrip("/")

    def journal(self, *arguments: str, lines: int = JOURNAL_LINES) -> str:
        """The journal's last lines; arguments as for journalctl."""
        if self._leader is None:
            return self.console[-8000:]
        try:
            return self.run("journalctl", "--no-pager", "-o", "short-monotonic", "-n", str(lines), *arguments,
                            check=False, limit_s=20).stdout  # fmt: skip
        except (Failed, OSError) as error:
            return f"(no journal: {error})"

    def _finish(
        self, shell: list[str], command: Sequence[str], stdin: str | None, limit_s: float, check: bool
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                shell, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{shlex.join(command)}: no end within {limit_s:.0f} s") from error
        if check and done.returncode:
            late = " (its time limit)" if done.returncode == 124 else ""
            raise Failed(f"{shlex.join(command)} ended with {done.returncode}{late}\n{done.stdout}{done.stderr}")
        return done
