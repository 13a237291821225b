"""A configuration that is wrong keeps its daemon down, without a loop, and the line is told where people look."""

import time
from collections.abc import Iterator

import pytest

from tests.os import node
from tests.os.node import show
from tests.os.nspawn import Machine

pytestmark = pytest.mark.timeout(400)

OLD_GROUPS = "log_level: info\naccess:\n  spend: [duxnet-spend]\n"
"""As a version before the groups were renamed had it."""
WRONG = {
    "taskd": ("log_levl: info\n", "line 1: unknown key 'log_levl'"),
    "airdropd": ("log_level: info\ncalls_per_second: many\n", "line 2: calls_per_second:"),
    "escrowd": ("log_level: info\nlog_level: debug\n", "line 2: key 'log_level' stands twice (first in line 1)"),
    "sandbox": ("drain_s: 10s\n", "line 1: drain_s:"),
    "registryd": (None, "can't read /etc/duxnet/registryd.d/50-own.yaml"),
    "flopd": (OLD_GROUPS, "line 3: access.spend.0: "),
    "devchain": ("\n\nlistn: []\n", "line 3: unknown key 'listn'"),
}
"""Daemon → what its owner added (None: a file that only root may read), and what has to be told."""
LONGER_THAN_A_RESTART_S = 4.0


def own(machine: Machine, name: str) -> str:
    """The owner's drop-in."""
    return f"/etc/duxnet/{name}.d/50-own.yaml"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A node whose daemons were all restarted with a wrong configuration each."""
    with node.booted() as one:
        one.run("systemctl", "stop", "dux.target", "dux-*.service", "dux-*.socket")
        for name, (text, _) in WRONG.items():
            path = one.path(own(one, name))
            path.parent.mkdir(exist_ok=True)
            path.write_text(text or "log_level: info\n")
            path.chmod(0o600 if text is None else 0o644)
        one.run("systemctl", "start", "dux.target", "dux-*.socket", check=False)
        for name in WRONG:
            one.run("systemctl", "start", f"dux-{name}.service", check=False)
        time.sleep(LONGER_THAN_A_RESTART_S)
        yield one


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_keeps_the_daemon_down_without_a_loop(machine: Machine, name: str) -> None:
    unit = f"dux-{name}.service"
    found = {key: show(machine, unit, key) for key in ("ActiveState", "ExecMainStatus", "NRestarts")}
    assert found == {"ActiveState": "failed", "ExecMainStatus": str(node.EXIT_CONFIG), "NRestarts": "0"}


@pytest.fixture(scope="module")
def status(machine: Machine) -> str:
    """What `dux-ctl status` says of all of them."""
    done = machine.run("dux-ctl", "status", check=False)
    assert done.returncode == 4
    return done.stdout


@pytest.mark.parametrize("name", WRONG)
def test_systemctl_and_dux_ctl_tell_file_and_line(machine: Machine, status: str, name: str) -> None:
    expected = WRONG[name][1]
    said = machine.run("systemctl", "status", "--no-pager", "--full", f"dux-{name}.service", check=False).stdout
    assert expected in said
    assert own(machine, name) in said
    assert expected in status, status
    why = machine.run("dux-ctl", "why", name, check=False)
    assert expected in why.stdout + why.stderr


def test_calls_to_a_daemon_that_stays_down_end_soon_and_start_no_loop(machine: Machine) -> None:
    begun = time.monotonic()
    for _ in range(8):
        assert machine.run("dux-ctl", "wallet", "balance", user="ann", check=False).returncode == 4
    assert time.monotonic() - begun < 20
    assert show(machine, "dux-flopd.service", "NRestarts") == "0"


def test_mended_everything_runs_again(machine: Machine) -> None:
    for name in WRONG:
        machine.path(own(machine, name)).unlink()
    machine.sh("systemctl reset-failed; systemctl start dux.target 'dux-*.socket'")
    node.assert_well(machine)
