"""A node in trouble: no space, nothing can be written, a taken port, a clock at 1970."""

import time

import pytest

from tests.os import node
from tests.os.node import drop_in
from tests.os.nspawn import Machine, wait_until

pytestmark = pytest.mark.timeout(400)

BACK_S = 120.0
"""Longest wait for a node whose disk is mended, on a slow machine; systemd waits for 30 s of them at most."""


# --- the disk ---------------------------------------------------------------------------------------------------------


def told(machine: Machine, words: str) -> None:
    """Wait until `dux-ctl status` says what is the matter; it never waits for daemons that can't run."""
    begun = time.monotonic()
    looks = 0

    def seen() -> bool:
        nonlocal looks
        looks += 1
        return words in machine.run("dux-ctl", "status", check=False).stdout

    wait_until(seen, f"dux-ctl status says {words!r}", 60, 0.2)
    assert (time.monotonic() - begun) / looks < 30


def back(machine: Machine) -> None:
    """Wait until the whole node runs by itself."""
    status = ["dux-ctl", "--timeout", "5", "status"]
    wait_until(lambda: machine.run(*status, check=False).returncode == 0, "the node runs again", BACK_S, 0.2)


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
    told(settled, "is full")
    settled.run("rm", "/var/lib/duxnet/fill")
    back(settled)
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
        told(settled, "read-only")
    finally:
        settled.run("umount", "/var/lib/duxnet")
    back(settled)
    node.forget_restarts(settled)
    node.assert_well(settled)
    assert node.identity(settled) == before


# --- the chain's port -------------------------------------------------------------------------------------------------


TAKER = """\
import contextlib, socket
server = socket.create_server(("127.0.0.1", 32553))
print("listens", flush=True)
while True:
    caught, _ = server.accept()
    caught.settimeout(10)
    heard = b""
    with contextlib.suppress(OSError):
        heard = caught.recv(65536)
    print(len(heard), flush=True)
"""
"""What a person may do who has an account here: it prints how many bytes each connection brought."""


def test_who_takes_the_chains_port_first_is_told_nothing_and_the_node_runs_by_itself_when_it_is_free(
    settled: Machine,
) -> None:
    before = node.identity(settled)
    settled.path("/home/ann/taker.py").write_text(TAKER)
    settled.sh("systemctl stop dux.target 'dux-*.service' 'dux-*.socket'; systemctl reset-failed")
    settled.sh("runuser -u ann -- python3 -I /home/ann/taker.py >/root/heard 2>&1 </dev/null &")
    heard = settled.path("/root/heard")
    try:
        wait_until(lambda: heard.read_text().startswith("listens"), "the port is taken", 60)
        settled.sh("systemctl start --no-block dux.target")
        told(settled, "port 32553 of 127.0.0.1 is taken")
        wait_until(lambda: len(heard.read_text().split()) > 1, "dux-flopd looked who answers there", BACK_S)
        assert set(heard.read_text().split()[1:]) == {"0"}
    finally:
        settled.sh("pkill -u ann -f taker.py", check=False)
    back(settled)
    node.forget_restarts(settled)
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
