"""Finding and filling control groups, on folders that look like the kernel's."""

import os
from pathlib import Path

import pytest

from dux_taskd.sandbox.cgroup import HierarchyV1, HierarchyV2, NoCgroup, below, find, mounts, own_groups
from duxcommon.api.taskd import SandboxLimits

LIMITS = SandboxLimits(memory_mb=100, cpu_s=5, wall_s=5, disk_mb=1, processes=10, output_bytes=0)
V2_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.kill", "memory.max", "memory.oom.group", "pids.max")
V2_MORE = ("memory.swap.max", "cpu.max")
V1_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.oom_control"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
    "cpuacct": ("cpuacct.usage",),
}


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """New folders get the files that the kernel would put there; removing them needs no emptying."""
    mkdir, rmdir = Path.mkdir, Path.rmdir

    def make(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        mkdir(path, mode, parents, exist_ok)
        if "/v2/" in f"{path}/":
            fill(path, *V2_FILES, *V2_MORE)
            (path / "cgroup.controllers").write_text("cpu memory pids")
        for controller, names in V1_FILES.items():
            if f"/{controller}/" in f"{path}/":
                fill(path, "cgroup.procs", *names)

    def remove(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        rmdir(path)

    def fill(path: Path, *names: str) -> None:
        for name in names:
            (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(Path, "rmdir", remove)


def v2_machine(root: Path, own: str = "/dux.service") -> tuple[str, str, Path]:
    base = root / "v2" / own.strip("/")
    fill(base, *V2_FILES, *V2_MORE, "cgroup.type")
    (base / "cgroup.controllers").write_text("cpu io memory pids")
    return f"30 1 0:1 / {root}/v2 rw shared:1 - cgroup2 cgroup2 rw,nsdelegate\n", f"0::{own}\n", base


def test_the_texts_of_proc_are_understood() -> None:
    text = (
        "35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "36 31 0:33 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    shared, memory, unified = mounts(text)
    assert (shared.v2, {"cpu", "cpuacct"} <= shared.controllers) == (False, True)
    assert unified.v2
    assert below(memory, "/docker/abc/me") == Path("/sys/fs/cgroup/memory/me")
    assert below(shared, "/a/b") == Path("/sys/fs/cgroup/cpu,cpuacct/a/b")
    assert own_groups("4:cpu,cpuacct:/a:b\n0::/x\n") == {"cpu": "/a:b", "cpuacct": "/a:b", "": "/x"}


@pytest.mark.usefixtures("kernel")
def test_v2_sets_every_limit_and_moves_the_worker_aside(tmp_path: Path) -> None:
    mountinfo, own, base = v2_machine(tmp_path)
    (base / "cgroup.procs").write_text(f"{os.getpid()}\n")
    hierarchy = find("auto", "dux-x-", mountinfo, own)
    assert isinstance(hierarchy, HierarchyV2)
    assert (base / "supervisor" / "cgroup.procs").read_text() == "0"
    group = hierarchy.create("task", LIMITS, 2)
    folder = base / "dux-x-task"
    assert group.procs == (f"{folder}/cgroup.procs",)
    assert {name: (folder / name).read_text() for name in (*V2_FILES[3:], *V2_MORE)} == {
        "memory.max": str(100 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "18",
        "cpu.max": "200000 100000",
    }
    (folder / "cpu.stat").write_text("usage_usec 123\nuser_usec 1\n")
    (folder / "memory.events").write_text("max 5\noom 1\noom_kill 2\n")
    assert (group.cpu_us(), group.oom_kills()) == (123, 2)
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"
    assert group.remove()
    assert not folder.exists()


@pytest.mark.usefixtures("kernel")
def test_v2_under_systemds_own_supervisor_group_uses_its_parent(tmp_path: Path) -> None:
    mountinfo, _, base = v2_machine(tmp_path)
    fill(base / "supervisor", "cgroup.procs")
    hierarchy = find("auto", "dux-x-", mountinfo, "0::/dux.service/supervisor\n")
    assert hierarchy.bases == (base,)


@pytest.mark.usefixtures("kernel")
def test_v2_without_delegation_says_so(tmp_path: Path) -> None:
    mountinfo, own, base = v2_machine(tmp_path)
    (base / "cgroup.controllers").write_text("cpu pids")
    with pytest.raises(NoCgroup, match="no memory controller"):
        find("auto", "dux-x-", mountinfo, own)
    (base / "cgroup.controllers").write_text("memory pids")
    (base / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    with pytest.raises(NoCgroup, match="other processes share"):
        find("auto", "dux-x-", mountinfo, own)


@pytest.mark.usefixtures("kernel")
def test_v1_sets_every_limit_below_the_own_group_of_each_controller(tmp_path: Path) -> None:
    mountinfo, own = "", ""
    for number, controller in enumerate(V1_FILES):
        (tmp_path / controller / "me").mkdir(parents=True)
        mountinfo += f"3{number} 1 0:{number} / {tmp_path}/{controller} rw - cgroup cgroup rw,{controller}\n"
        own += f"{number}:{controller}:/me\n"
    hierarchy = find("auto", "dux-x-", mountinfo, own)
    assert isinstance(hierarchy, HierarchyV1)
    group = hierarchy.create("task", LIMITS, 1)
    assert group.procs == tuple(f"{tmp_path}/{name}/me/dux-x-task/cgroup.procs" for name in V1_FILES)
    task = {name: tmp_path / name / "me" / "dux-x-task" for name in V1_FILES}
    assert (task["memory"] / "memory.limit_in_bytes").read_text() == str(100 << 20)
    assert (task["pids"] / "pids.max").read_text() == "18"
    assert (task["cpu"] / "cpu.cfs_quota_us").read_text() == "100000"
    (task["cpuacct"] / "cpuacct.usage").write_text("5000000\n")
    (task["memory"] / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert (group.cpu_us(), group.oom_kills()) == (5000, 3)
    assert group.remove()


@pytest.mark.usefixtures("kernel")
def test_groups_of_an_earlier_life_are_swept_and_others_left(tmp_path: Path) -> None:
    mountinfo, own, base = v2_machine(tmp_path)
    (base / "dux-x-old").mkdir()
    (base / "dux-y-other").mkdir()
    find("auto", "dux-x-", mountinfo, own)
    assert not (base / "dux-x-old").exists()
    assert (base / "dux-y-other").exists()


def test_a_machine_without_cgroups_and_one_that_wants_none(tmp_path: Path) -> None:
    with pytest.raises(NoCgroup, match="no cgroup file system"):
        find("auto", "dux-x-", "", "0::/\n")
    with pytest.raises(NoCgroup, match="switched off"):
        find("none", "dux-x-", *v2_machine(tmp_path)[:2])
