"""The command line of a sandbox: pure, so every word of it can be asked for."""

import pytest

from dux_taskd.sandbox.profile import (
    MIB,
    SUPERVISE,
    Machine,
    Places,
    Privileges,
    address_space,
    command,
    launch,
    resource_limits,
)
from duxcommon.api.taskd import SandboxLimits

MACHINE = Machine("/usr/bin/bwrap", (("usr/bin", "/bin"), ("usr/lib", "/lib")), ("/lib64",), 2, True)
PLACES = Places("/w/bundles/b", "/w/tasks/t/in", "/w/etc", 7, 9)
LIMITS = SandboxLimits(memory_mb=256, cpu_s=30, wall_s=60, disk_mb=16, processes=32, output_bytes=4 * MIB)


DROPPED = Privileges(uid=1_900_000_003)


def argv(privileges: Privileges = DROPPED) -> list[str]:
    return command(MACHINE, PLACES, privileges, LIMITS, ["python3", "/app/main.py"])


def follows(words: list[str], *sequence: str) -> bool:
    return any(words[at : at + len(sequence)] == list(sequence) for at in range(len(words)))


def test_the_steps_come_in_the_order_that_keeps_each_safe() -> None:
    words = argv(Privileges(1_900_000_003, ("/cg/cgroup.procs",)))
    order = [words.index(step) for step in ("/bin/sh", "setpriv", "prlimit", "/usr/bin/bwrap", "--seccomp")]
    assert order == sorted(order)
    assert words[-5:] == [SUPERVISE, "sh", "35", "python3", "/app/main.py"]


@pytest.mark.parametrize(
    "option",
    [
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    ],
)
def test_every_option_of_strict_is_there(option: str) -> None:
    assert option in argv()


def test_nothing_of_the_machine_is_writable() -> None:
    words = argv()
    assert "--bind" not in words
    assert "--dev-bind" not in words
    assert [words[at + 2] for at, word in enumerate(words) if word == "--ro-bind"] == [
        "/usr",
        "/lib64",
        "/etc",
        "/in",
        "/app",
    ]
    assert follows(words, "--remount-ro", "/")
    assert follows(words, "--remount-ro", "/dev")
    assert words.index("--remount-ro") < len(words) - 1 - words[::-1].index("--remount-ro")


def test_every_writable_place_has_a_size() -> None:
    words = argv()
    sized = {words[at + 1]: int(words[at - 1]) for at, word in enumerate(words) if word == "--tmpfs"}
    assert all(words[at - 2] == "--size" for at, word in enumerate(words) if word == "--tmpfs")
    assert sized.keys() == {"/dev/shm", "/tmp", "/work", "/out"}
    assert sized["/work"] == 16 * MIB
    assert sized["/out"] < 5 * MIB


def test_root_is_dropped_and_never_reached() -> None:
    assert launch(Privileges(uid=1234)) == [
        "setpriv",
        "--reuid=1234",
        "--regid=1234",
        "--clear-groups",
        "--no-new-privs",
    ]
    assert launch(Privileges()) == []
    with pytest.raises(ValueError, match="root"):
        argv(Privileges(uid=0))
    assert follows(argv(), "--uid", "65534", "--gid", "65534")
    assert follows(argv(), "--cap-drop", "ALL")


def test_groups_are_joined_and_the_stage_bound_before_the_uid_is_dropped() -> None:
    words = launch(Privileges(1234, ("/cg/a b/cgroup.procs", "/cg/pids/cgroup.procs"), "/root/it's here"))
    assert words[:5] == ["unshare", "--mount", "--propagation", "private", "--"]
    script = words[7]
    assert script.startswith("mount --bind -- '/root/it'\"'\"'s here' /mnt && echo 0 >'/cg/a b/cgroup.procs'")
    assert script.endswith('&& exec "$@"')
    assert words[8:10] == ["sh", "setpriv"]


def test_limits_of_single_processes_are_hard() -> None:
    words = resource_limits(LIMITS, memory_capped=False)
    assert words == [
        "prlimit",
        f"--as={(256 + 192) * MIB}",
        f"--fsize={16 * MIB}",
        "--nofile=256",
        "--core=0",
        "--cpu=30:31",
        "--memlock=65536",
        "--msgqueue=0",
        "--",
    ]


def test_address_space_is_generous_only_where_memory_itself_is_capped() -> None:
    assert address_space(LIMITS, memory_capped=True) == 1280 * MIB
    assert address_space(LIMITS, memory_capped=False) < 512 * MIB


def test_the_app_is_the_end_of_the_command_and_no_option() -> None:
    words = command(MACHINE, PLACES, Privileges(5), LIMITS, ["--bind", "/", "/"])
    assert words[words.index("/usr/bin/bwrap") :].index("--") < words[words.index("/usr/bin/bwrap") :].index("--bind")


def test_the_environment_is_a_fixed_list() -> None:
    words = argv()
    names = [words[at + 1] for at, word in enumerate(words) if word == "--setenv"]
    assert names[:7] == [
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
    ]
    assert follows(words, "--setenv", "PYTHONPATH", "/app/site")
