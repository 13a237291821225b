"""Control groups: one for each task, below the worker's own; cgroup v2 where it is delegated, else a writable v1.

They cap what the processes of a task use together, which limits of single processes can't, and they count it.
"""

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from duxcommon.api.taskd import SandboxLimits

from .profile import GROUP_PROCESSES, MIB

SUPERVISOR = "supervisor"
"""systemd's DelegateSubgroup= for the worker itself: a v2 group has processes or subgroups with limits, not both."""
CPU_PERIOD_US = 100_000
REMOVE_S = 2.0


class NoCgroup(Exception):
    """Tasks can't be put into control groups; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted hierarchy: v1 with its controllers, or v2."""

    point: Path
    root: str
    """Which group of the hierarchy is visible at `point`."""
    v2: bool
    controllers: frozenset[str]


def mounts(mountinfo: str) -> list[Mount]:
    """The hierarchies in the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if separator and len(fields) >= 5 and len(kind) >= 3 and kind[0] in ("cgroup", "cgroup2"):
            options = frozenset(kind[2].split(","))
            found.append(Mount(Path(fields[4]), fields[3], kind[0] == "cgroup2", options))
    return found


def own_groups(text: str) -> dict[str, str]:
    """Controller → path from the text of /proc/self/cgroup; the v2 path is under the empty name."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def below(mount: Mount, path: str) -> Path:
    """Where the group `path` of the hierarchy is in the file system."""
    inside = path.removeprefix(mount.root) if mount.root != "/" else path
    return mount.point / inside.strip("/")


def _put(path: Path, value: str) -> None:
    # Never O_CREAT: a missing file means a missing controller.
    with path.open("r+", encoding="ascii") as file:
        file.write(value)


def _field(path: Path, name: str) -> int:
    for line in path.read_text("ascii").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


class Group(ABC):
    """The control group of one task."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(dict.fromkeys(folders))

    @property
    def procs(self) -> tuple[str, ...]:
        """The files that a process writes 0 to, to join."""
        return tuple(str(folder / "cgroup.procs") for folder in self.folders)

    @abstractmethod
    def cpu_us(self) -> int | None:
        """Processor time used by all its processes, dead ones too, in microseconds; None where nobody counts."""

    @abstractmethod
    def oom_kills(self) -> int:
        """How many of its processes were killed for want of memory."""

    def kill(self) -> None:
        """SIGKILL to every process in it, at once where the kernel can (5.14), else until none is left."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                _put(folder / "cgroup.kill", "1")
                continue
            with contextlib.suppress(OSError):
                for process in (folder / "cgroup.procs").read_text("ascii").split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)

    def remove(self) -> bool:
        """Delete the group once it is empty; False when something in it did not die within REMOVE_S seconds."""
        deadline = time.monotonic() + REMOVE_S
        left = list(self.folders)
        while left:
            for folder in list(left):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                if not folder.exists():
                    left.remove(folder)
            if left and time.monotonic() > deadline:
                return False
            if left:
                self.kill()
                time.sleep(0.005)
        return True


class Hierarchy(ABC):
    """Makes the groups of one worker, all named with its `prefix`."""

    kind: Literal["v2", "v1"]

    def __init__(self, bases: Iterable[Path], prefix: str) -> None:
        self.bases = tuple(dict.fromkeys(bases))
        self.prefix = prefix

    @abstractmethod
    def create(self, name: str, limits: SandboxLimits, cores: int) -> Group:
        """A new group with its limits set. Raises OSError."""

    @abstractmethod
    def _group(self, folders: Iterable[Path]) -> Group: ...

    def _folders(self, name: str) -> list[Path]:
        made: list[Path] = []
        try:
            for base in self.bases:
                folder = base / f"{self.prefix}{name}"
                folder.mkdir()
                made.append(folder)
        except OSError:
            for folder in made:
                folder.rmdir()
            raise
        return made

    def sweep(self) -> None:
        """End and delete what an earlier life of this worker left."""
        for base in self.bases:
            for folder in base.glob(f"{self.prefix}*"):
                if folder.is_dir():
                    group = self._group([folder])
                    group.kill()
                    group.remove()

    def check(self) -> None:
        """Make a group and delete it. Raises NoCgroup."""
        trial = SandboxLimits(memory_mb=64, cpu_s=1, wall_s=1, disk_mb=1, processes=16, output_bytes=0)
        try:
            self.sweep()
            group = self.create("check", trial, 1)
        except OSError as error:
            raise NoCgroup(f"no control group can be made in {self.bases[0]}: {error.strerror}") from error
        group.remove()


class _GroupV2(Group):
    def cpu_us(self) -> int | None:
        with contextlib.suppress(OSError):
            return _field(self.folders[0] / "cpu.stat", "usage_usec")
        return None

    def oom_kills(self) -> int:
        with contextlib.suppress(OSError):
            return _field(self.folders[0] / "memory.events", "oom_kill")
        return 0


class HierarchyV2(Hierarchy):
    """The unified hierarchy, below one base group."""

    kind = "v2"

    def _group(self, folders: Iterable[Path]) -> Group:
        return _GroupV2(folders)

    def create(self, name: str, limits: SandboxLimits, cores: int) -> Group:
        (folder,) = self._folders(name)
        try:
            _put(folder / "memory.max", str(limits.memory_mb * MIB))
            _put(folder / "memory.oom.group", "1")
            _put(folder / "pids.max", str(limits.processes + GROUP_PROCESSES))
            for optional, value in (("memory.swap.max", "0"), ("cpu.max", f"{cores * CPU_PERIOD_US} {CPU_PERIOD_US}")):
                if (folder / optional).exists():
                    _put(folder / optional, value)
        except OSError:
            folder.rmdir()
            raise
        return self._group([folder])

    @staticmethod
    def _need_controllers(folder: Path) -> None:
        missing = {"memory", "pids"} - set((folder / "cgroup.controllers").read_text("ascii").split())
        if missing:
            raise NoCgroup(f"no {' and no '.join(sorted(missing))} controller in the control group {folder}")

    def prepare(self) -> None:
        """Make room: the worker moves into a subgroup, and its group hands the controllers down. Raises NoCgroup."""
        base = self.bases[0]
        try:
            self._need_controllers(base if base.is_dir() else base.parent)
            base.mkdir(exist_ok=True)
            processes = (base / "cgroup.procs").read_text("ascii").split()
            if processes == [str(os.getpid())]:
                (base / SUPERVISOR).mkdir(exist_ok=True)
                _put(base / SUPERVISOR / "cgroup.procs", "0")
            elif processes and (base / "cgroup.type").exists():
                raise NoCgroup(f"other processes share the control group {base}")
            for controller in ("memory", "pids"):
                _put(base / "cgroup.subtree_control", f"+{controller}")
            with contextlib.suppress(OSError):
                _put(base / "cgroup.subtree_control", "+cpu")
        except OSError as error:
            raise NoCgroup(f"the control group {base} is not delegated: {error.strerror}") from error


class _GroupV1(Group):
    def __init__(self, folders: Iterable[Path], memory: Path, cpuacct: Path | None) -> None:
        super().__init__(folders)
        self._memory, self._cpuacct = memory, cpuacct

    def cpu_us(self) -> int | None:
        if self._cpuacct is not None:
            with contextlib.suppress(OSError):
                return int((self._cpuacct / "cpuacct.usage").read_text("ascii")) // 1000
        return None

    def oom_kills(self) -> int:
        with contextlib.suppress(OSError):
            return _field(self._memory / "memory.oom_control", "oom_kill")
        return 0


class HierarchyV1(Hierarchy):
    """One hierarchy for each controller (some may share one); memory and pids are needed, cpu and cpuacct taken."""

    kind = "v1"

    def __init__(self, bases: dict[str, Path], prefix: str) -> None:
        super().__init__(bases.values(), prefix)
        self._by_controller = bases

    def _group(self, folders: Iterable[Path]) -> Group:
        folders = list(folders)
        return _GroupV1(folders, folders[0], None)

    def create(self, name: str, limits: SandboxLimits, cores: int) -> Group:
        folders = self._folders(name)
        at = {controller: base / f"{self.prefix}{name}" for controller, base in self._by_controller.items()}
        memory = str(limits.memory_mb * MIB)
        try:
            _put(at["memory"] / "memory.limit_in_bytes", memory)
            if (at["memory"] / "memory.memsw.limit_in_bytes").exists():
                _put(at["memory"] / "memory.memsw.limit_in_bytes", memory)
            _put(at["pids"] / "pids.max", str(limits.processes + GROUP_PROCESSES))
            if "cpu" in at:
                _put(at["cpu"] / "cpu.cfs_period_us", str(CPU_PERIOD_US))
                _put(at["cpu"] / "cpu.cfs_quota_us", str(cores * CPU_PERIOD_US))
        except OSError:
            for folder in folders:
                folder.rmdir()
            raise
        return _GroupV1(folders, at["memory"], at.get("cpuacct"))


def find(setting: str, prefix: str, mountinfo: str, own: str) -> Hierarchy:
    """The hierarchy to put tasks into, tried out. `setting`: "auto" (below the worker's own group), "none" or a path.

    `mountinfo` and `own` are the texts of /proc/self/mountinfo and /proc/self/cgroup. Raises NoCgroup.
    """
    if setting == "none":
        raise NoCgroup("control groups are switched off in the configuration")
    known, groups = mounts(mountinfo), own_groups(own)
    reasons = []
    for mount in known:
        if mount.v2 and "" in groups:
            hierarchy = HierarchyV2([_base_v2(mount, groups[""] if setting == "auto" else setting)], prefix)
            try:
                hierarchy.prepare()
                hierarchy.check()
                return hierarchy
            except NoCgroup as error:
                reasons.append(str(error))
    bases: dict[str, Path] = {}
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        for mount in known:
            if not mount.v2 and controller in mount.controllers and controller in groups:
                bases[controller] = below(mount, groups[controller] if setting == "auto" else setting)
    if {"memory", "pids"} <= bases.keys():
        v1 = HierarchyV1(bases, prefix)
        try:
            for base in v1.bases:
                base.mkdir(exist_ok=True)
            v1.check()
            return v1
        except (NoCgroup, OSError) as error:
            reasons.append(str(error))
    raise NoCgroup("; ".join(reasons) or "no cgroup file system is mounted")


def _base_v2(mount: Mount, path: str) -> Path:
    base = below(mount, path)
    return base.parent if base.name == SUPERVISOR else base
