"""Programs that attack the machine they run on: each is contained, in every way in which a worker can run."""

import asyncio
import contextlib
import os
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_lab import MODES, ROOT, SMALL, Lab, ordinary_python

from duxcommon.api.taskd import SandboxResult

MIB = 1 << 20


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.param == "user" and ROOT and ordinary_python() is None:
        pytest.skip("no Python that an ordinary user could run: the interpreter or the project lies in a closed folder")
    with Lab(request.param) as lab:
        state = lab.status()
        if state.state == "missing":
            pytest.skip(f"this machine has no sandbox: {state.reason}")
        if request.param == "capped" and state.cgroup == "none":
            pytest.skip(f"this machine has no writable cgroups: {state.reason}")
        yield lab
        faults = [line for line in lab.log if line["level"] == "error"]
        assert not faults


@pytest.fixture(autouse=True)
def nothing_is_left(lab: Lab) -> Iterator[None]:
    yield
    assert (lab.processes(), lab.folders()) == ([], [])


def attack(lab: Lab, code: str, *argv: str, **more: object) -> SandboxResult:
    return lab.run(textwrap.dedent(code), *argv, **more)


# --- what it uses up -------------------------------------------------------------------------------------------


def test_a_fork_bomb_gets_no_more_processes_than_its_limit(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except OSError:
            print("made", made)
        """,
    )
    assert result.outcome == "ok"
    assert 1 <= int(result.log.split()[1]) <= SMALL.processes + 3


def test_a_fork_bomb_that_never_stops_is_ended_with_all_its_children(lab: Lab) -> None:
    began = time.monotonic()
    result = attack(
        lab,
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        wall_s=2,
    )
    assert result.outcome == "timeout"
    assert time.monotonic() - began < 20
    assert attack(lab, "print('still works')").log == "still works\n"


def test_a_memory_bomb_ends_itself_alone(lab: Lab) -> None:
    result = attack(lab, "x = []\nwhile True: x.append(bytearray(1 << 20))", memory_mb=64)
    assert result.outcome == ("memory" if lab.mode == "capped" else "failed")
    assert lab.mode == "capped" or "MemoryError" in result.log


def test_a_memory_bomb_of_many_processes_is_capped_as_a_whole(lab: Lab) -> None:
    if lab.mode != "capped":
        pytest.skip("only a cgroup caps processes together; without one no stranger's app is run")
    result = attack(
        lab,
        """
        import os, sys, time
        for _ in range(10):
            if os.fork() == 0:
                x = bytearray(b"x" * (20 << 20))
                time.sleep(1)
                os._exit(0)
        codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(10)]
        sys.exit(any(codes))
        """,
        memory_mb=64,
    )
    assert result.outcome == "memory"
    assert result.wall_ms < 10_000


@pytest.mark.parametrize("folder", ["/tmp", "/work", "/out", "/dev/shm"])
def test_a_disk_bomb_fills_its_own_scratch_space_alone(lab: Lab, folder: str) -> None:
    result = attack(
        lab,
        """
        import os, sys
        total = 0
        try:
            for n in range(100000):
                with open(f"{sys.argv[1]}/{n}", "wb", buffering=0) as file:
                    for _ in range(16):
                        total += file.write(bytes(65536))
        except OSError as error:
            print(error.errno, total)
            os._exit(1)
        """,
        folder,
    )
    assert result.outcome == "failed"
    errno, total = map(int, result.log.split())
    assert errno == 28
    assert total <= 16 * MIB
    assert lab.mode == "capped" or folder == "/dev/shm" or total <= SMALL.disk_mb * MIB


def test_a_file_larger_than_the_limits_can_not_even_be_a_hole(lab: Lab) -> None:
    result = attack(lab, "open('/out/output', 'wb').truncate(1 << 34)")
    assert result.outcome == "failed"
    assert "SIGXFSZ" in result.log or "File too large" in result.log or result.exit_code == 153


def test_thirty_thousand_files_are_refused(lab: Lab) -> None:
    result = attack(lab, "for n in range(30000): open(f'/out/{n}', 'w').close()")
    assert (result.outcome, result.files) == ("large", [])
    assert "more than 64 files" in result.detail


def test_thirty_thousand_folders_are_refused(lab: Lab) -> None:
    result = attack(lab, "import os\nfor n in range(30000): os.mkdir(f'/out/{n}')")
    assert (result.outcome, result.files) == ("large", [])


def test_an_output_larger_than_allowed_is_refused(lab: Lab) -> None:
    code = "for n in 'ab': open('/out/' + n, 'wb').write(bytes(520 * 1024))"
    result = attack(lab, code)
    assert (result.outcome, result.files) == ("large", [])
    assert list((lab.blobs.directory / "tmp").iterdir()) == []


def test_endless_printing_is_slowed_down_and_does_not_disturb_the_worker(lab: Lab) -> None:
    async def both() -> tuple[SandboxResult, float]:
        task = asyncio.create_task(lab.run_async("while True: print('x' * 60000)", wall_s=2, cpu_s=60))
        await asyncio.sleep(0.7)
        began = time.monotonic()
        other = await lab.run_async("print('beside it')")
        assert other.outcome == "ok"
        return await task, time.monotonic() - began

    result, beside = asyncio.run(both())
    assert result.outcome == "timeout"
    assert len(result.log) == 16 * 1024
    assert beside < 5


def test_a_task_that_ignores_every_signal_ends_at_its_wall_time(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, signal, time
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        os.setsid() if os.getpid() != os.getsid(0) else None
        while True:
            time.sleep(1)
        """,
        wall_s=1,
    )
    assert result.outcome == "timeout"
    assert 1000 <= result.wall_ms < 30_000


def test_a_busy_loop_ends_at_its_processor_time(lab: Lab) -> None:
    result = attack(lab, "while True: pass", cpu_s=1, wall_s=20)
    assert result.outcome == "timeout"
    assert "processor time" in result.detail
    assert 800 <= result.cpu_ms < 3500


def test_processor_time_of_all_processes_counts_together(lab: Lab) -> None:
    if lab.mode != "capped":
        pytest.skip("only a cgroup counts processes together")
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = attack(lab, code, cpu_s=1, wall_s=20)
    assert (result.outcome, "processor time" in result.detail) == ("timeout", True)
    assert result.wall_ms < 15_000


def test_children_that_nobody_waits_for_end_with_the_task(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, time
        for _ in range(500):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        """,
        processes=600,
    )
    assert result.outcome == "ok"


def test_a_daemonised_child_does_not_outlive_the_task(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(300)
            os._exit(0)
        os.wait()
        open("/out/output", "w").write("done")
        """,
    )
    assert result.outcome == "ok"
    assert result.wall_ms < 30_000


# --- what it leaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.symlink('/etc/passwd', '/out/output')", "symbolic link"),
        ("os.symlink('../../../etc/passwd', '/out/output')", "symbolic link"),
        ("open('/out/a', 'w'); os.link('/out/a', '/out/b')", "hard link"),
        ("os.mkfifo('/out/output')", "named pipe"),
        ("open('/out/a\\nb', 'w')", "control characters"),
        ("open(b'/out/\\xff\\xfe', 'w')", "UTF-8"),
        ("open('/out/' + 'n' * 250, 'w')", ""),
        ("open('/out/output', 'w'); os.chmod('/out/output', 0)", ""),
        ("os.makedirs('/out/' + 'd/' * 30)", "16 folders"),
    ],
)
def test_an_output_that_is_no_plain_file_is_refused(lab: Lab, code: str, reason: str) -> None:
    result = attack(lab, "import os, socket\n" + code)
    assert (result.outcome, result.files) == ("output", [])
    assert reason in result.detail


def test_a_socket_in_the_output_stays_behind(lab: Lab) -> None:
    result = attack(lab, "import socket\nsocket.socket(socket.AF_UNIX).bind('/out/output')")
    assert (result.outcome, result.files) == ("ok", [])


FORGE = """
    import io, os, tarfile
    info = tarfile.TarInfo("../../evil")
    info.size = 4
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"evil"))
    stream = {"forged": out.getvalue(), "garbage": b"no tar" * 1000}["%s"]
    for name in os.listdir("/proc/1/fd"):
        path = "/proc/1/fd/" + name
        if os.readlink(path) not in (os.readlink("/proc/self/fd/1"), "/dev/null"):
            try:
                with open(path, "wb") as file:
                    file.write(stream)
                print("WROTE")
            except OSError:
                pass
"""


@pytest.mark.parametrize(("stream", "reason"), [("forged", "leaves its folder"), ("garbage", "no plain tar")])
def test_an_output_stream_that_the_app_made_itself_is_refused(lab: Lab, stream: str, reason: str) -> None:
    result = attack(lab, FORGE % stream)
    assert result.files == []
    if ROOT and lab.mode != "user":
        # The pipe belongs to another user than the task's.
        assert (result.outcome, result.log) == ("ok", "")
    else:
        assert result.outcome == "output"
        assert reason in result.detail


def test_what_it_prints_can_not_drive_a_terminal(lab: Lab) -> None:
    result = attack(lab, r"print('\x1b]0;owned\x07 \x9b31m \u202e txt.exe')")
    assert not any(character in result.log for character in "\x1b\x07\x9b\u202e")


# --- where it reaches ------------------------------------------------------------------------------------------


def test_it_sees_nothing_of_the_machines_files(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, sys
        print(sorted(os.listdir("/")))
        print(sorted(os.listdir("/in")), sorted(os.listdir("/dev")))
        for path in sys.argv[1:]:
            for where in (path, "/proc/1/root" + path, "/proc/self/cwd/../../.." + path):
                try:
                    open(where).read() if not os.path.isdir(where) else os.listdir(where)
                    print("READ", where)
                except OSError:
                    pass
        """,
        "/etc/shadow", "/root", "/home", "/var", "/sys", "/run", str(lab.folder), "/mnt", "/boot",
        "/proc/sysrq-trigger", "/proc/kcore", "/dev/mem", "/dev/vda", "/dev/sda",
    )  # fmt: skip
    assert result.outcome == "ok"
    assert "READ" not in result.log
    assert "'sys'" not in result.log
    users = attack(lab, "print(open('/etc/passwd').read())")
    assert users.log.count("\n") == 3


def test_it_can_not_change_what_it_is_shown(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os
        for path in ("/usr/bin/evil", __file__, "/app/evil", "/in/evil", "/etc/passwd", "/evil", "/dev/evil", "/bin/sh",
                     "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern"):
            try:
                with open(path, "a") as file:
                    file.write("x")
                print("WROTE", path)
            except OSError:
                pass
        """,
    )
    assert (result.outcome, result.log) == ("ok", "")


def test_it_reaches_no_network(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = attack(
            lab,
            """
            import socket, sys
            for address in (("127.0.0.1", int(sys.argv[1])), ("1.1.1.1", 53), ("10.0.0.1", 80)):
                try:
                    socket.create_connection(address, 1)
                    print("CONNECTED", address)
                except OSError:
                    pass
            try:
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53))
                print("SENT")
            except OSError:
                pass
            for family, kind in ((16, 3), (17, 3), (38, 5), (40, 1), (2, 3), (44, 3), (29, 3), (31, 1)):
                try:
                    socket.socket(family, kind)
                    print("SOCKET", family)
                except OSError:
                    pass
            """,
            str(server.getsockname()[1]),
        )
    assert (result.outcome, result.log) == ("ok", "")


def test_it_reaches_no_unix_socket_of_the_machine(lab: Lab, short_tmp: Path) -> None:
    name = f"\0dux-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as abstract:
        by_path.bind(str(short_tmp / "s"))
        (short_tmp / "s").chmod(0o777)
        short_tmp.chmod(0o755)
        by_path.listen()
        abstract.bind(name)
        abstract.listen()
        result = attack(
            lab,
            """
            import socket, sys
            for name in (*sys.argv[2:], "\\0" + sys.argv[1]):
                try:
                    socket.socket(socket.AF_UNIX).connect(name)
                    print("CONNECTED", repr(name))
                except OSError:
                    pass
            """,
            name[1:], str(short_tmp / "s"), str(lab.folder / "run/sandbox.sock"), "/run/dbus/system_bus_socket",
        )  # fmt: skip
    assert (result.outcome, result.log) == ("ok", "")


def test_it_sees_and_signals_its_own_processes_alone(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, signal, sys
        print(sorted(int(n) for n in os.listdir("/proc") if n.isdigit()) == [1, os.getpid()])
        for pid in map(int, sys.argv[1:]):
            try:
                os.kill(pid, 0)
                print("REACHED", pid)
            except OSError:
                pass
        os.kill(1, signal.SIGKILL)
        os.kill(1, signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            os.kill(-1, signal.SIGTERM)
        except OSError:
            pass
        open("/out/output", "w").write("survived")
        """,
        str(os.getpid()), str(os.getppid()), str(lab.process.pid if lab.process else 0),
    )  # fmt: skip
    assert (result.outcome, result.log) == ("ok", "True\n")
    assert [file.name for file in result.files] == ["output"]


def test_it_can_not_gain_privileges(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import os, shutil, subprocess
        print(os.getuid(), os.geteuid(), os.getgroups())
        for line in open("/proc/self/status"):
            if line.startswith(("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp:")):
                print(line.split()[1])
        for call in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chroot("/work")):
            try:
                call()
                print("GAINED")
            except OSError:
                pass
        shutil.copy("/usr/bin/id", "/work/id")
        os.chmod("/work/id", 0o6755)
        print(subprocess.run(["/work/id", "-u"], capture_output=True, text=True).stdout)
        for name in ("su", "passwd", "mount", "newgrp"):
            path = f"/usr/bin/{name}"
            if os.path.exists(path):
                done = subprocess.run([path], capture_output=True, stdin=subprocess.DEVNULL, timeout=5)
                print("ROOT") if b"uid=0" in done.stdout else None
        """,
    )
    words = result.log.split()
    assert result.outcome == "ok"
    assert words[:3] == ["65534", "65534", "[65534]"] or words[:3] == ["65534", "65534", "[]"]
    assert words[3:8] == ["0" * 16, "0" * 16, "0" * 16, "1", "2"]
    assert words[8:] == ["65534"]


CALLS = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {
        "x86_64": dict(ptrace=101, personality=135, pivot_root=155, chroot=161, mount=165, umount2=166, swapon=167,
            reboot=169, sethostname=170, init_module=175, quotactl=179, add_key=248, request_key=249, keyctl=250,
            mbind=237, unshare=272, move_pages=279, perf_event_open=298, fanotify_init=300, name_to_handle_at=303,
            open_by_handle_at=304, setns=308, process_vm_readv=310, process_vm_writev=311, kcmp=312, finit_module=313,
            kexec_file_load=320, bpf=321, userfaultfd=323, io_uring_setup=425, open_tree=428, move_mount=429,
            fsopen=430, clone3=435, mount_setattr=442, landlock_create_ruleset=444, memfd_secret=447, shmget=29,
            semget=64, msgget=68, mq_open=240, vmsplice=278, splice=275, tee=276, mknod=133, syslog=103, iopl=172),
        "aarch64": dict(ptrace=117, pivot_root=41, chroot=51, mount=40, umount2=39, unshare=97, setns=268, add_key=217,
            keyctl=219, bpf=280, perf_event_open=241, userfaultfd=282, io_uring_setup=425, clone3=435, shmget=194),
    }[os.uname().machine]
"""


def test_dangerous_system_calls_do_not_exist(lab: Lab) -> None:
    result = attack(
        lab,
        CALLS
        + """
    for name, number in numbers.items():
        ctypes.set_errno(0)
        arguments = (0o20666,) * 6 if name == "mknod" else (0xffff,) * 6 if name == "personality" else (0,) * 6
        if libc.syscall(number, *map(ctypes.c_long, arguments)) != -1 or ctypes.get_errno() != 38:
            print("ANSWERED", name, ctypes.get_errno())
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x02000000, 0x04000000, 0x08000000):
        pid = libc.syscall(56 if "pivot_root" in numbers and os.uname().machine == "x86_64" else 220,
                           ctypes.c_long(flag | 17), 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        if pid != -1:
            print("CLONED", hex(flag))
    """,
    )
    assert (result.outcome, result.log) == ("ok", "")


def test_it_can_not_type_into_a_terminal(lab: Lab) -> None:
    result = attack(
        lab,
        """
        import fcntl, os
        master, slave = os.openpty()
        for request in (0x5412, 0x541C, 0x541D):
            try:
                fcntl.ioctl(slave, request, b"x")
                print("TYPED", hex(request))
            except OSError:
                pass
        """,
    )
    assert result.log == "" or "No such file" in result.log or "Function not implemented" in result.log
    assert "TYPED" not in result.log


def test_a_32_bit_system_call_kills_the_program(lab: Lab) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("there is no int 0x80 on this machine")
    result = attack(
        lab,
        """
        import ctypes, mmap
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
        """,
    )
    assert result.outcome == "failed"
    assert result.exit_code == 128 + 31


def test_it_learns_nothing_from_the_workers_environment(lab: Lab) -> None:
    result = attack(
        lab, "import os\nprint(sorted(os.environ)); print(os.uname().nodename)\nprint(os.listdir('/proc/self/fd'))"
    )
    names, node, files = result.log.splitlines()
    assert "HOME" in names
    assert not {"USER", "SSH_AUTH_SOCK", "CI", "VIRTUAL_ENV"} & set(names.strip("[]").replace("'", "").split(", "))
    assert node == "task"
    assert files == "['0', '1', '2', '3']"


def test_the_machine_never_sees_it_run_as_root(lab: Lab) -> None:
    def seen() -> set[str]:
        found: set[str] = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and "seen-from-outside" in (entry / "cmdline").read_text():
                    status = (entry / "status").read_text()
                    # Before bwrap is started the same command line belongs to the steps that drop the rights.
                    if status.startswith("Name:\tpython3"):
                        found |= set(status.partition("Uid:")[2].split("\n")[0].split())
        return found

    async def look() -> set[str]:
        task = asyncio.create_task(lab.run_async("import time\ntime.sleep(1)", "seen-from-outside"))
        uids: set[str] = set()
        while not task.done():
            uids |= await asyncio.to_thread(seen)
            await asyncio.sleep(0.05)
        assert (await task).outcome == "ok"
        return uids

    uids = asyncio.run(look())
    assert uids
    assert "0" not in uids
