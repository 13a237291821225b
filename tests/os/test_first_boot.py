"""First boots that go wrong: killed at every step, cut off from power, without space."""

from collections.abc import Iterator

import pytest

from dux_setup.firstboot import POINTS
from tests.os import layers, node
from tests.os.node import drop_in, show
from tests.os.nspawn import Machine, wait_until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def fresh() -> Iterator[Machine]:
    """A machine that was never booted since dux-node was installed."""
    with Machine(layers.installed()) as machine:
        yield machine


def test_a_first_boot_that_is_killed_at_every_step_is_finished_by_the_next(fresh: Machine) -> None:
    # Each start is killed one step later than the one before, so all of them are cut in turn on one machine.
    kill = drop_in(fresh, "dux-firstboot", "")
    for point in POINTS:
        kill.write_text(f"[Service]\nEnvironment=DUXNET_FAILPOINT=firstboot:{point}\n")
        if not fresh.running:
            assert fresh.boot() == "degraded"
        else:
            fresh.sh("systemctl daemon-reload; systemctl reset-failed; ! systemctl start dux-firstboot.service")
        assert show(fresh, "dux-firstboot.service", "Result") == "signal", point
        assert show(fresh, "dux-flopd.service", "ActiveState") == "inactive", "no daemon starts on half a node"
    kill.unlink()
    fresh.cut()
    assert fresh.boot() == "running"
    node.assert_well(fresh)
    assert all(one["ok"] for one in node.checks(fresh, "files", "first-user", "passphrase-nowhere").values())


def test_a_power_cut_in_the_middle_of_the_first_boot_is_survived(fresh: Machine) -> None:
    fresh.boot(wait=False)
    keystore = "/var/lib/duxnet/flopd/keystore.json"
    wait_until(lambda: fresh.path(keystore).exists(), "first boot has made the keystore", 60, 0.005)
    fresh.cut()
    assert fresh.boot() == "running"
    node.assert_well(fresh)


FULL = """[Unit]
DefaultDependencies=no
Before=local-fs.target systemd-tmpfiles-setup.service

[Mount]
What=small
Where=/var/lib/duxnet
Type=tmpfs
Options=size=64k,mode=0755
"""


def test_a_first_boot_without_space_says_so_and_works_once_there_is_some(fresh: Machine) -> None:
    mount = fresh.path("/etc/systemd/system/var-lib-duxnet.mount")
    mount.write_text(FULL)
    wants = fresh.path("/etc/systemd/system/local-fs.target.wants")
    wants.mkdir(exist_ok=True)
    (wants / mount.name).symlink_to(f"/etc/systemd/system/{mount.name}")
    fill = drop_in(
        fresh, "dux-firstboot", "[Service]\nExecStartPre=-sh -c 'cat /dev/zero >/var/lib/duxnet/setup/fill'\n"
    )
    assert fresh.boot() == "degraded"
    said = fresh.journal("-u", "dux-firstboot.service")
    assert "there is no space left for" in said
    status = fresh.run("dux-ctl", "status", check=False)
    assert status.returncode == 4
    assert "first boot failed" in status.stdout, status.stdout
    assert "journalctl -u dux-firstboot" in status.stdout
    fill.unlink()
    fresh.sh("rm /var/lib/duxnet/setup/fill; mount -o remount,size=100m /var/lib/duxnet")
    fresh.sh(
        "systemctl daemon-reload; systemctl reset-failed; systemctl start dux.target 'dux-*.socket' 'dux-*.service'"
    )
    node.assert_well(fresh)
