"""The machines that the other tests stand on: they boot, halt, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.os import layers, nspawn
from tests.os.nspawn import Failed, Machine

ROOT = Path(__file__).resolve().parent.parent.parent
HANGS = """
import signal, sys, time
from pathlib import Path
from tests.os.nspawn import Machine
# A shell that starts something in the background may have it ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
machine = Machine([Path(one) for one in sys.argv[1:]])
machine.boot()
print("up", flush=True)
time.sleep(600)
"""


def traces(pid: int) -> list[str]:
    """What is there of the machines of one test process: folders, mounts, control groups, processes."""
    mark = f"duxos-test-{pid}-"
    found = [str(path) for path in Path("/tmp").glob(f"{mark}*")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if mark in line]
    found += [str(path) for top in nspawn.cgroup_roots() for path in top.glob(f"{mark}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in command:
            found.append(command)
    return found


def test_a_machine_keeps_what_it_wrote_over_a_reboot_and_a_power_cut() -> None:
    with Machine(layers.base()) as machine:
        assert machine.boot() == "running", machine.run("systemctl", "--failed").stdout
        machine.sh("echo one >/etc/one; sync")
        assert machine.reboot() == "running"
        assert machine.path("/etc/one").read_text() == "one\n"
        machine.cut()
        machine.boot()
        assert machine.path("/etc/one").read_text() == "one\n"
        assert machine.run("id", "-u", user="nobody").stdout == "65534\n"
        with pytest.raises(Failed, match="its time limit"):
            machine.run("sleep", "60", limit_s=0.5)
    assert traces(os.getpid()) == []


def test_a_command_inside_can_not_set_the_clock_of_the_machine_that_runs_the_tests() -> None:
    with Machine(layers.base()) as machine:
        machine.boot()
        done = machine.run("date", "-s", "@0", check=False)
        assert "Operation not permitted" in done.stderr
    assert time.time() > 1_700_000_000


def test_two_machines_on_one_layer_know_nothing_of_each_other() -> None:
    with Machine(layers.base()) as one, Machine(layers.base()) as other:
        one.boot()
        other.boot()
        one.sh("touch /etc/one /run/one")
        assert not other.path("/etc/one").exists()
        assert not other.path("/run/one").exists()
    assert not (layers.base()[0] / "etc/one").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_test_run_that_is_ended_leaves_no_process_and_no_mount(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, *map(str, layers.base())],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert len(traces(process.pid)) > 2
        process.send_signal(how)
        try:
            process.wait(30)
        finally:
            process.kill()
        # The kernel ends the machine's processes; a moment later they are gone, and the next run sweeps the rest.
        deadline = time.monotonic() + 20
        while traces(process.pid) and time.monotonic() < deadline:
            nspawn.remove_leftovers()
            time.sleep(0.05)
        assert traces(process.pid) == []
