"""A machine on which dux-node was installed by apt, booted for the first time, and used."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gates.test_system_files import ORDER
from tests.os import inside, node
from tests.os.node import ctl, show
from tests.os.nspawn import Machine, wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with node.booted() as one:
        yield one


@pytest.fixture(scope="module")
def found(machine: Machine) -> dict[str, dict[str, Any]]:
    """What inside.py says, right after the first boot."""
    return node.checks(machine)


@pytest.mark.parametrize("name", inside.CHECKS)
def test_after_the_first_boot(found: dict[str, dict[str, Any]], name: str) -> None:
    one = found[name]
    if one["ok"] is None:
        pytest.skip(one["detail"])
    assert one["ok"], one["detail"]


# --- who may do what, as people see it --------------------------------------------------------------------------------


def test_the_first_person_pays_and_another_is_told_how_to_get_in(machine: Machine) -> None:
    node.fund(machine)
    address = ctl(machine, "wallet", "receive", user="ann")["address"]
    sent = ctl(machine, "wallet", "send", address, "0.1", user="ann")
    assert sent["state"] in ("sent", "confirmed"), sent
    done = machine.run("dux-ctl", "wallet", "balance", user="bob", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "usermod -aG duxnet bob" in done.stderr


def test_who_may_look_may_not_spend(machine: Machine) -> None:
    machine.run("usermod", "-a", "-G", "duxnet", "bob")
    try:
        assert ctl(machine, "wallet", "balance", user="bob")["network"]["worthless"] is True
        done = machine.run("dux-ctl", "wallet", "receive", user="bob", check=False)
        assert done.returncode == 3
        assert "dux-spend" in done.stderr
    finally:
        machine.run("gpasswd", "-d", "bob", "duxnet")


# --- systemd's part ---------------------------------------------------------------------------------------------------


def test_the_next_call_starts_a_service_that_was_stopped(machine: Machine) -> None:
    for name in inside.DAEMONS:
        pid = show(machine, f"dux-{name}.service", "MainPID")
        machine.run("systemctl", "stop", f"dux-{name}.service")
        # The next call may be another daemon's, and come at once.
        assert str(ctl(machine, "daemon", "status", name)["pid"]) != pid
        assert show(machine, f"dux-{name}.service", "ActiveState") == "active"
    node.assert_well(machine)


def test_a_daemon_that_hangs_is_killed_and_started_anew(machine: Machine) -> None:
    drop_in = machine.path("/run/systemd/system/dux-taskd.service.d")
    drop_in.mkdir(parents=True)
    (drop_in / "quick.conf").write_text("[Service]\nWatchdogSec=2\nTimeoutAbortSec=5\n")
    machine.sh("systemctl daemon-reload; systemctl restart dux-taskd")
    pid = show(machine, "dux-taskd.service", "MainPID")
    machine.run("kill", "-STOP", pid)
    wait_until(lambda: show(machine, "dux-taskd.service", "NRestarts") == "1", "the watchdog restarted it", 40)
    node.ends(machine, "dux-taskd.service", "active")
    assert show(machine, "dux-taskd.service", "MainPID") != pid
    assert "Watchdog timeout" in machine.journal("-u", "dux-taskd.service")
    assert ctl(machine, "daemon", "status", "taskd")["name"] == "taskd"
    (drop_in / "quick.conf").unlink()
    machine.sh("systemctl daemon-reload; systemctl restart dux-taskd; systemctl reset-failed")


def test_a_daemon_that_is_killed_comes_back(machine: Machine) -> None:
    pid = show(machine, "dux-registryd.service", "MainPID")
    machine.run("kill", "-KILL", pid)
    wait_until(lambda: show(machine, "dux-registryd.service", "NRestarts") == "1", "it was restarted", 20)
    assert ctl(machine, "daemon", "status", "registryd")["pid"] != int(pid)
    machine.sh("systemctl restart dux-registryd; systemctl reset-failed")


def test_a_reload_takes_new_settings_and_refuses_bad_ones(machine: Machine) -> None:
    folder = machine.path("/etc/duxnet/taskd.d")
    folder.mkdir(exist_ok=True)
    pid = show(machine, "dux-taskd.service", "MainPID")
    own = folder / "50-own.yaml"

    def reloaded(text: str, expected: str) -> str:
        own.write_text(text)
        machine.sh("journalctl --rotate -q; journalctl --vacuum-time=1us -q; systemctl reload dux-taskd")
        wait_until(lambda: expected in machine.journal("-u", "dux-taskd.service"), f"the journal says {expected!r}", 20)
        return machine.journal("-u", "dux-taskd.service")

    reloaded("log_level: debug\n", "configuration reloaded")
    said = reloaded("log_level: debug\nlog_levl: info\n", "the new configuration is not used")
    assert "/etc/duxnet/taskd.d/50-own.yaml, line 2: unknown key 'log_levl'" in said
    assert show(machine, "dux-taskd.service", "MainPID") == pid
    own.unlink()
    reloaded_again = folder.parent / "taskd.d"
    reloaded_again.rmdir()
    machine.run("systemctl", "reload", "dux-taskd")


def times(machine: Machine, name: str) -> dict[str, int]:
    """Service → when it reached a state, in microseconds since the boot."""
    return {unit: int(show(machine, f"{unit}.service", name)) for unit in inside.SERVICES}


def test_the_target_stops_and_starts_everything_in_order(machine: Machine) -> None:
    order = [(f"dux-{first}", f"dux-{then}") for first, then in ORDER]
    machine.run("systemctl", "stop", "dux.target", "dux-*.service", "dux-*.socket")
    left = machine.sh("systemctl list-units --state=active --no-legend --plain 'dux*'")
    assert left == ""
    assert list(machine.path("/run/duxnet").glob("*.sock")) == []
    ended = times(machine, "InactiveEnterTimestampMonotonic")
    for first, then in order:
        assert ended[then] <= ended[first], f"{then} uses {first} and was stopped after it"
    machine.run("systemctl", "start", "dux.target")
    node.assert_well(machine)
    began = times(machine, "ActiveEnterTimestampMonotonic")
    for first, then in order:
        assert began[first] <= began[then], f"{then} uses {first} and was started before it"


# --- the demo, and what a reboot keeps --------------------------------------------------------------------------------


def test_the_demo_makes_paid_calls_both_ways(machine: Machine) -> None:
    told = ctl(machine, "demo", user="ann", limit_s=240)
    assert told["difference"] == 0, told
    assert len(told["calls"]) == 2, told
    assert told["remains"] == [], told
    assert machine.sh("pgrep -u ann || true") == ""
    assert machine.sh("ls /tmp | grep -v systemd || true") == ""


def test_a_reboot_keeps_identity_money_and_channels(machine: Machine) -> None:
    node.fund(machine)
    before = node.identity(machine)
    assert machine.reboot() == "running"
    node.assert_well(machine)
    wait_until(lambda: node.identity(machine) == before, f"the node is who it was: {before}", 60)
    assert "nothing to do" not in machine.journal("-u", "dux-firstboot.service", "-p", "err")


def test_a_power_cut_keeps_identity_money_and_channels(machine: Machine) -> None:
    node.fund(machine)
    before = node.identity(machine)
    machine.cut()
    assert machine.boot() == "running"
    node.assert_well(machine)
    wait_until(lambda: node.identity(machine) == before, f"the node is who it was: {before}", 60)
