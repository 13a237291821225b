"""The exact command line of one sandbox (pure): STRICT bubblewrap, the same on every machine.

Order of the steps, each by `exec` so that the process keeps its id: join the task's cgroup, drop the uid, set the
limits, make the namespaces, and inside them a small shell that runs the app and then sends `/out` as a tar stream.
"""

import shlex
from dataclasses import dataclass

from duxcommon.api.taskd import SandboxLimits

MIB = 1024 * 1024
INSIDE_UID = 65534
"""The uid and gid that the app sees itself as."""
OPEN_FILES = 256
STAGE = "/mnt"
"""Where the worker's folder is bound, in a mount namespace of its own, when a task's uid can't enter its real path."""
SHM_BYTES = 16 * MIB
TAR_SLACK = 64 * 1024
FALLBACK_AS_SLACK = 192 * MIB
"""Address space that an interpreter's mapped libraries take without using memory."""
SUPERVISOR_PROCESSES = 3
GROUP_PROCESSES = 8
"""Processes of the sandbox itself, which the app's limit does not include: inside, and in the whole cgroup."""

SUPERVISE = """read -r go || exit 125
ulimit -u "$1" 2>/dev/null || ulimit -p "$1" || exit 125
shift
"$@" </dev/null >&2 || exit
exec tar --create --format=ustar --directory=/out --file=- ."""
"""Runs inside: waits for the word to start (end of file means that the worker died), caps processes in the sandbox's
own user namespace (bash calls that limit -u, dash -p), runs the app with its standard output on the log, then becomes
tar. `exit` hands on the app's exit code. Nothing here is trusted by the worker."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the probe found out about this machine."""

    bwrap: str
    usr_links: tuple[tuple[str, str], ...]
    """Pairs (target, path) of the merged /usr: ("usr/bin", "/bin")."""
    usr_folders: tuple[str, ...]
    """Folders such as /lib64 that are real here and are bound read-only."""
    cores: int
    """That one task may keep busy."""
    memory_capped: bool
    """A cgroup caps the memory of the whole task; otherwise only each process's address space is capped."""


@dataclass(frozen=True, slots=True)
class Places:
    """Paths outside the sandbox as the task's uid reaches them, and inherited descriptors."""

    bundle: str
    inputs: str
    etc: str
    seccomp_fd: int
    status_fd: int


@dataclass(frozen=True, slots=True)
class Privileges:
    """How the command gets from the worker's rights to the task's; all empty for an ordinary user."""

    uid: int | None = None
    """Unprivileged uid and gid to drop to; None keeps the worker's own, which must then not be 0."""
    cgroup_procs: tuple[str, ...] = ()
    """`cgroup.procs` files to join."""
    stage: str | None = None
    """Folder to bind on STAGE first."""


def address_space(limits: SandboxLimits, memory_capped: bool) -> int:
    """RLIMIT_AS in bytes: generous where a cgroup caps real memory, tight where it is the only cap."""
    memory = limits.memory_mb * MIB
    return max(4 * memory, memory + 1024 * MIB) if memory_capped else memory + FALLBACK_AS_SLACK


def launch(privileges: Privileges) -> list[str]:
    """Prefix that binds the stage, joins the cgroups and drops the uid."""
    steps: list[str] = []
    prefix: list[str] = []
    if privileges.stage is not None:
        prefix = ["unshare", "--mount", "--propagation", "private", "--"]
        steps.append(f"mount --bind -- {shlex.quote(privileges.stage)} {STAGE}")
    steps += [f"echo 0 >{shlex.quote(path)}" for path in privileges.cgroup_procs]
    if steps:
        prefix += ["/bin/sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh"]
    if privileges.uid is not None:
        if privileges.uid == 0:
            raise ValueError("a task never runs as root")
        prefix += ["setpriv", f"--reuid={privileges.uid}", f"--regid={privileges.uid}"]
        prefix += ["--clear-groups", "--no-new-privs"]
    return prefix


def resource_limits(limits: SandboxLimits, memory_capped: bool) -> list[str]:
    """Limits of each process, hard, set before anything of the app runs."""
    largest = max(limits.disk_mb * MIB, limits.output_bytes)
    return [
        "prlimit",
        f"--as={address_space(limits, memory_capped)}",
        f"--fsize={largest}",
        f"--nofile={OPEN_FILES}",
        "--core=0",
        # The soft limit ends it with SIGXCPU, which names the reason; the hard one a second later in any case.
        f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}",
        "--memlock=65536",
        "--msgqueue=0",
        "--",
    ]


def environment(machine: Machine) -> dict[str, str]:
    """All the variables that an app finds."""
    return {
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "HOME": "/work",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/app/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # Numeric libraries would start a thread for each core of the machine and break the limit of processes.
        "OMP_NUM_THREADS": str(machine.cores),
        "OPENBLAS_NUM_THREADS": str(machine.cores),
    }


def _tmpfs(path: str, size: int, mode: str) -> list[str]:
    return ["--perms", mode, "--size", str(size), "--tmpfs", path]


def namespaces(machine: Machine, places: Places, limits: SandboxLimits) -> list[str]:
    """bwrap and its options: what the app sees and may do."""
    scratch = limits.disk_mb * MIB
    argv = [machine.bwrap, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    argv += ["--unshare-cgroup-try", "--disable-userns", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID)]
    # As process 1 the supervisor can't be killed by the app, and the kernel ends all others together with it.
    argv += [
        "--as-pid-1",
        "--hostname",
        "task",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    for name, value in environment(machine).items():
        argv += ["--setenv", name, value]
    argv += ["--ro-bind", "/usr", "/usr"]
    for target, path in machine.usr_links:
        argv += ["--symlink", target, path]
    for folder in machine.usr_folders:
        argv += ["--ro-bind", folder, folder]
    argv += ["--ro-bind", places.etc, "/etc", "--proc", "/proc", "--dev", "/dev"]
    argv += [*_tmpfs("/dev/shm", SHM_BYTES, "1777"), "--remount-ro", "/dev"]
    argv += [*_tmpfs("/tmp", scratch, "1777"), *_tmpfs("/work", scratch, "0700")]
    argv += _tmpfs("/out", min(scratch, limits.output_bytes) + TAR_SLACK, "0700")
    argv += ["--ro-bind", places.inputs, "/in", "--ro-bind", places.bundle, "/app"]
    argv += ["--chdir", "/work", "--remount-ro", "/"]
    return [*argv, "--seccomp", str(places.seccomp_fd), "--json-status-fd", str(places.status_fd), "--"]


def command(
    machine: Machine, places: Places, privileges: Privileges, limits: SandboxLimits, app: list[str]
) -> list[str]:
    """argv that runs `app` in its sandbox: start word on standard input, tar on standard output, log on standard error.

    Raises ValueError when it would run as root.
    """
    return [
        *launch(privileges),
        *resource_limits(limits, machine.memory_capped),
        *namespaces(machine, places, limits),
        *("/bin/sh", "-c", SUPERVISE, "sh", str(limits.processes + SUPERVISOR_PROCESSES)),
        *app,
    ]
