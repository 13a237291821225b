"""README's "Connect a real Flopcoin Core" for a Core that its owner runs at home, on a machine without sudo.

Debian's litecoind in regtest stands in for Flopcoin Core; see test_flopcoin.py.
"""

import re
from collections.abc import Iterator

import pytest
from flopd_kit import definition_on

from duxcommon.network import dump_network
from tests.os import node, stand_in
from tests.os.node import ctl
from tests.os.nspawn import Machine, wait_until
from tests.os.stand_in import CHAIN, CONF_LINES, YES, written
from tests.os.terminal import Terminal

pytestmark = pytest.mark.timeout(400)

PASSWORD = "geheim-8"
DATA = "/home/ann/.litecoin"
PORT = "127.0.0.1:19443"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A Debian that was installed with a password for root has no sudo."""
    with stand_in.machine(sudo=False, prepared=f"echo 'root:{PASSWORD}' | chpasswd") as one:
        assert one.boot() == "running"
        assert one.run("which", "sudo", check=False).returncode == 1
        yield one


@pytest.fixture(scope="module")
def ann(machine: Machine) -> Iterator[Terminal]:
    """Her own terminal, with her Core running."""
    machine.run("mkdir", "-m", "700", DATA, user="ann")
    machine.run("tee", f"{DATA}/litecoin.conf", user="ann", stdin=CONF_LINES)
    with Terminal(machine, "ann") as terminal:
        terminal.type(f"/usr/lib/litecoin/litecoind -datadir={DATA} -daemon")
        yield terminal


@pytest.fixture(scope="module")
def root(machine: Machine, ann: Terminal) -> Iterator[Terminal]:
    """Another terminal of hers, in which she became root."""
    with Terminal(machine, "ann") as terminal:
        terminal.become_root("su -", {"Password: ": PASSWORD})
        yield terminal


def answers(machine: Machine) -> None:
    """Wait until Core answers: it goes into the background before it has made its cookie."""
    ask = ["litecoin-cli", f"-datadir={DATA}", "getblockcount"]
    wait_until(lambda: machine.run(*ask, user="ann", check=False).returncode == 0, "Core answers", 60)


def test_without_sudo_nothing_is_said_about_it(ann: Terminal) -> None:
    shown = ann.type(written("dux-ctl setup flopcoin"), status=3)
    assert f"Run: su - -c '{written('dux-ctl setup flopcoin')}'" in shown.text
    assert "sudo" not in shown.text


def test_behind_su_the_core_at_home_is_found_and_made_safe_with_its_owners_rights(
    machine: Machine, root: Terminal
) -> None:
    answers(machine)
    shown = root.type(written("dux-ctl setup flopcoin"), YES)
    assert f"data in {DATA}" in shown.text
    assert "sudo" not in shown.text
    assert machine.sh(f"stat -c '%a %U' {DATA}/litecoin.conf").strip() == "600 ann"
    told = re.search(r"^  (runuser -u ann -- litecoin-cli .* stop; .* -daemon)$", shown.text, re.MULTILINE)
    assert told, shown.text
    # In the place of the second line, because no service runs this Core: the line that was told.
    assert written("systemctl restart flopcoind") == "systemctl restart flopcoind"
    root.type(told[1])
    answers(machine)


def test_the_check_and_the_network_go_on_as_for_a_service(machine: Machine, root: Terminal) -> None:
    machine.path("/root/flopnet.yaml").write_text(dump_network(definition_on(CHAIN, name="a-network")))
    shown = root.type(written("dux-ctl setup flopcoin --check"), status=4)
    assert "WRONG" not in shown.text
    shown = root.type(written("dux-ctl setup flopcoin --network flopnet.yaml"), YES, limit_s=240)
    assert "The node is on the new network" in shown.text
    node.assert_well(machine)
    assert ctl(machine, "wallet", "balance", user="ann")["confirmed"] == 0


def test_dux_flopd_takes_her_core_and_nobody_elses_who_has_its_port(machine: Machine, ann: Terminal) -> None:
    ann.type(f"litecoin-cli -datadir={DATA} stop")
    wait_until(lambda: machine.sh("pgrep -x litecoind || true") == "", "her Core has ended", 60)
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 19443)); s.accept()[0].recv(9); time.sleep(99)"
    )
    machine.run("runuser", "-u", "bob", "--", "sh", "-c", f'setsid python3 -c "{listen}" >/dev/null 2>&1 &')

    def told() -> bool:
        return "bob" in machine.run("dux-ctl", "status", user="ann", check=False).stdout

    wait_until(told, "the status names whose program it is", 60)
    machine.run("pkill", "-u", "bob")
    ann.type(f"/usr/lib/litecoin/litecoind -datadir={DATA} -daemon")

    def back() -> bool:
        return "in sync" in machine.run("dux-ctl", "status", user="ann", check=False).stdout

    wait_until(back, "the node goes on", 90)
