"""Boots that go wrong: killed, no space, nothing can be written, a clock at 1970, a lost or a foreign credential."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dux_setup.firstboot import POINTS
from tests.os import layers, node
from tests.os.node import ctl, show
from tests.os.nspawn import Machine, wait_until

pytestmark = pytest.mark.timeout(400)

CREDENTIAL = "/etc/credstore.encrypted/dux-flopd.wallet"
SERVICES_D = "/etc/systemd/system/{}.service.d"


@pytest.fixture(scope="module")
def settled() -> Iterator[Machine]:
    """A node that was booted once; each test leaves it as it found it."""
    with node.booted() as machine:
        yield machine


@pytest.fixture
def fresh() -> Iterator[Machine]:
    """A machine that was never booted since dux-node was installed."""
    with Machine(layers.installed()) as machine:
        yield machine


def drop_in(machine: Machine, service: str, text: str) -> Path:
    """A drop-in for a service; the machine reads it at its next boot, or reload."""
    folder = machine.path(SERVICES_D.format(service))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "90-test.conf"
    path.write_text(text)
    return path


# --- the first boot ---------------------------------------------------------------------------------------------------


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


# --- the disk ---------------------------------------------------------------------------------------------------------

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


def test_a_disk_that_is_full_at_boot_is_said_and_the_node_goes_on_when_there_is_space(settled: Machine) -> None:
    before = node.identity(settled)
    settled.sh(
        """systemctl stop dux.target 'dux-*.service' 'dux-*.socket'
        cp -a /var/lib/duxnet /root/kept
        mount -t tmpfs -o mode=0755,size=40m small /var/lib/duxnet
        cp -a /root/kept/. /var/lib/duxnet/
        cat /dev/zero >/var/lib/duxnet/fill 2>/dev/null || true
        systemctl start --no-block dux.target"""
    )
    wait_until(lambda: "full" in settled.run("dux-ctl", "status", check=False).stdout.lower()
               or "no space" in settled.run("dux-ctl", "status", check=False).stdout.lower(),
               "dux-ctl status says that the disk is full", 60, 1)  # fmt: skip
    settled.run("rm", "/var/lib/duxnet/fill")
    wait_until(lambda: settled.run("dux-ctl", "status", check=False).returncode == 0, "the node runs again", 90, 1)
    settled.sh(
        """systemctl stop dux.target 'dux-*.service' 'dux-*.socket'
        umount /var/lib/duxnet; rm -r /root/kept"""
    )
    node.restart(settled)
    node.assert_well(settled)
    assert node.identity(settled) == before


def test_a_read_only_disk_at_boot_is_said_and_the_node_goes_on_once_it_can_write(settled: Machine) -> None:
    before = node.identity(settled)
    settled.sh(
        """systemctl stop dux.target 'dux-*.service' 'dux-*.socket'
        mount --bind /var/lib/duxnet /var/lib/duxnet; mount -o remount,bind,ro /var/lib/duxnet
        systemctl start --no-block dux.target"""
    )
    try:
        wait_until(lambda: "read-only" in settled.run("dux-ctl", "--timeout", "5", "status", check=False).stdout,
                   "dux-ctl status says that the disk is read-only", 60, 1)  # fmt: skip
    finally:
        settled.run("umount", "/var/lib/duxnet")
    wait_until(lambda: settled.run("dux-ctl", "status", check=False).returncode == 0, "the node runs again", 90, 1)
    node.restart(settled)
    node.assert_well(settled)
    assert node.identity(settled) == before


# --- the clock --------------------------------------------------------------------------------------------------------


def test_a_clock_at_1970_is_said_and_does_no_harm(settled: Machine) -> None:
    before = node.identity(settled)
    library = settled.sh("ls /usr/lib/*/faketime/libfaketime.so.1").strip()
    lines = ["[Service]", f"Environment=LD_PRELOAD={library}", "Environment=FAKETIME=@1970-01-01\\x2000:00:30"]
    lines += ["Environment=DONT_FAKE_MONOTONIC=1"]
    files = [drop_in(settled, f"dux-{name}", "\n".join(lines) + "\n") for name in ("registryd", "escrowd", "taskd")]
    settled.sh("systemctl daemon-reload; systemctl restart dux-registryd dux-escrowd dux-taskd")
    status = settled.run("dux-ctl", "status", check=False).stdout
    assert "clock" in status, status
    for path in files:
        path.unlink()
    settled.sh("systemctl daemon-reload; systemctl restart dux-registryd dux-escrowd dux-taskd")
    node.assert_well(settled)
    assert node.identity(settled) == before


# --- the wallet's credential ------------------------------------------------------------------------------------------


def test_without_its_credential_the_wallet_stays_locked_and_payments_are_refused_clearly(settled: Machine) -> None:
    settled.sh(f"mv {CREDENTIAL} /root/; systemctl reset-failed; systemctl restart dux-flopd")
    try:
        status = settled.run("dux-ctl", "status", check=False).stdout
        assert "wallet is locked" in status, status
        assert CREDENTIAL in status
        address = ctl(settled, "wallet", "receive")["address"]
        done = settled.run("dux-ctl", "wallet", "send", address, "0.1", check=False)
        assert done.returncode == 3, done.stderr
        assert "wallet unlock" in done.stderr
    finally:
        settled.sh(f"mv /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; systemctl restart dux-flopd")
    node.assert_well(settled)


@pytest.mark.parametrize("kind", ["of another name", "of another machine", "damaged"])
def test_a_credential_that_does_not_fit_is_refused_and_said(settled: Machine, kind: str) -> None:
    make = {
        "of another name": f"echo correct-horse | systemd-creds encrypt --name=other - {CREDENTIAL}",
        "of another machine": "mv /var/lib/systemd/credential.secret /root/; "
        f"echo correct-horse | systemd-creds encrypt --name=wallet - {CREDENTIAL}; "
        "mv /root/credential.secret /var/lib/systemd/credential.secret",
        "damaged": f"echo AAAA >{CREDENTIAL}",
    }[kind]
    settled.sh(f"systemctl reset-failed; cp -p {CREDENTIAL} /root/; {make} && ! systemctl restart dux-flopd.service")
    try:
        node.ends(settled, "dux-flopd.service", "failed")
        assert show(settled, "dux-flopd.service", "NRestarts") == "0"
        for command in (["dux-ctl", "status"], ["dux-ctl", "why", "flopd"]):
            done = settled.run(*command, check=False)
            assert "credential" in done.stdout + done.stderr, done.stdout + done.stderr
    finally:
        settled.sh(
            f"cp -p /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; "
            "systemctl start dux.target dux-flopd.socket"
        )
    node.assert_well(settled)


def test_a_right_credential_with_a_foreign_passphrase_leaves_the_wallet_locked(settled: Machine) -> None:
    settled.sh(
        f"cp -p {CREDENTIAL} /root/; echo correct-horse | systemd-creds encrypt --name=wallet - {CREDENTIAL}; "
        "systemctl reset-failed; systemctl restart dux-flopd"
    )
    try:
        status = settled.run("dux-ctl", "status", check=False).stdout
        assert "wallet is locked" in status, status
    finally:
        settled.sh(f"cp -p /root/dux-flopd.wallet {CREDENTIAL}; systemctl reset-failed; systemctl restart dux-flopd")
    node.assert_well(settled)
