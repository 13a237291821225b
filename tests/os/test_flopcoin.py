"""README's "Connect a real Flopcoin Core", typed line by line on a booted machine, until the node is paid and pays.

Debian's litecoind in regtest stands in for Flopcoin Core. The first machine runs it as the service of docs/flopcoin.md
and has sudo; the tests go through its life in the order in which they stand.
"""

import json
import re
from collections.abc import Iterator

import pytest
from flopd_kit import definition_on

from duxcommon.money import COIN
from duxcommon.network import dump_network
from tests.os import node, readme, stand_in
from tests.os.node import ctl
from tests.os.nspawn import Machine, wait_until
from tests.os.stand_in import CHAIN, CONF_LINES, SUBSTITUTIONS, YES, written
from tests.os.terminal import Shown, Terminal

pytestmark = pytest.mark.timeout(400)

PASSWORD, OLD = "geheim-7", "Passwort1"
DATA = "/var/lib/flopcoin"
CONF = f"{DATA}/litecoin.conf"
BIRTH = 101
"""Height from which on the tests' network counts; coins of the first block can be spent then."""
PLACES = ("/etc", "/home", "/run/duxnet", "/tmp", "/usr/local", "/var/lib", "/var/log", "/var/tmp")
"""Where a password could have been left."""
SERVICE = readme.section(readme.page("docs/flopcoin.md"), "Core as a service")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with stand_in.machine(sudo=True, prepared=f"usermod -aG sudo ann; echo 'ann:{PASSWORD}' | chpasswd") as one:
        assert one.boot() == "running"
        yield one


@pytest.fixture(scope="module")
def ann(machine: Machine) -> Iterator[Terminal]:
    """A root shell of the machine's first person, as README has it."""
    with Terminal(machine, "ann") as terminal:
        terminal.become_root("sudo -s", {"password for ann: ": PASSWORD})
        yield terminal


def core(machine: Machine, *words: str, wallet: str | None = None) -> str:
    """An answer of Core, asked as its own user with its own cookie."""
    named = [f"-rpcwallet={wallet}"] if wallet else []
    command = ["/usr/bin/litecoin-cli", f"-datadir={DATA}", "-rpcwait", *named, *words]
    return machine.run(*command, user="flopcoin").stdout.strip()


def check(ann: Terminal, status: int | None = None, more: str = "") -> dict[str, str]:
    """The findings of README's check: name → state and texts; those of one name together."""
    shown = ann.type(f"{written('dux-ctl setup flopcoin --check')} --json{more}", status=status)
    found: dict[str, str] = {}
    for one in json.loads(shown.text[shown.text.index("{") :])["findings"]:
        found[one["name"]] = f"{found.get(one['name'], '')}{one['state']}: {one['text']} → {one['do']}\n"
    return found


# --- what is missing, stage by stage ----------------------------------------------------------------------------------


def test_without_a_core_the_check_says_what_to_install(machine: Machine, ann: Terminal) -> None:
    machine.run("mv", "/usr/lib/litecoin/litecoind", "/usr/lib/litecoin/away")
    found = check(ann, 4)
    machine.run("mv", "/usr/lib/litecoin/away", "/usr/lib/litecoin/litecoind")
    assert "Install Flopcoin Core" in found["program"]
    assert found["running"].startswith("missing: nothing listens")
    assert "the node stays on its private trial network" in found["node"]


def test_the_unit_of_the_documentation_is_installed_as_written(machine: Machine, ann: Terminal) -> None:
    for line in readme.lines(SERVICE):
        ann.type(readme.substituted(line, SUBSTITUTIONS))
    unit = readme.substituted(readme.block(SERVICE, "ini"), SUBSTITUTIONS)
    machine.path("/etc/systemd/system/flopcoind.service").write_text(unit)
    # What its owner had: a password in the clear, open to other machines, and for the wrong chain.
    old = f"rpcuser=ann\nrpcpassword={OLD}\nrpcbind=0.0.0.0\nrpcallowip=0.0.0.0/0\n"
    machine.path(CONF).write_text(old)
    machine.run("chown", "flopcoin:flopcoin", CONF)
    ann.type("systemctl daemon-reload")


def test_a_configuration_for_another_chain_is_refused(machine: Machine, ann: Terminal) -> None:
    shown = ann.type(written("dux-ctl setup flopcoin --check"), status=1)
    assert f"{CONF} is for chain main, and regtest is wanted" in shown.text
    conf = machine.path(CONF)
    conf.write_text(f"{CONF_LINES}disablewallet=1\n{conf.read_text()}")


def test_before_the_first_line_is_typed_the_check_names_every_unsafe_line(ann: Terminal) -> None:
    found = check(ann, 1)
    assert all(key in found["conf"] for key in ("rpcpassword", "rpcuser", "rpcbind", "rpcallowip", "mode"))
    assert "sudo systemctl start flopcoind" in found["running"]


# --- the lines of README ----------------------------------------------------------------------------------------------


def test_the_first_line_shows_the_change_asks_and_tells_the_second(machine: Machine, ann: Terminal) -> None:
    line = written("dux-ctl setup flopcoin")
    before = machine.path(CONF).read_bytes()
    assert "Nothing was changed" in ann.type(line, {r"\[y/N\] ": "n"}, status=1).text
    assert machine.path(CONF).read_bytes() == before
    shown = ann.type(line, YES)
    assert OLD not in shown.text
    assert "-rpcpassword=(hidden)" in shown.text
    assert written("systemctl restart flopcoind").replace("restart", "start") in shown.text


def test_the_second_line_starts_a_core_that_only_this_machine_reaches(machine: Machine, ann: Terminal) -> None:
    ann.type(written("systemctl restart flopcoind"))
    core(machine, "getblockcount")
    listening = re.findall(r"(\S+):19443 ", machine.sh("ss -Hltn 'sport = :19443'"))
    assert listening
    assert set(listening) <= {"127.0.0.1", "[::1]"}


def test_a_core_without_a_wallet_is_told_and_mended_as_told(machine: Machine, ann: Terminal) -> None:
    found = check(ann, 1)
    assert found["wallet"].startswith("wrong: Core runs without a wallet → Take disablewallet=1 out")
    restart = re.search(r"then (sudo systemctl restart flopcoind)", found["wallet"])
    assert restart, found["wallet"]
    machine.sh(f"sed -i /^disablewallet/d {CONF}")
    ann.type(restart[1])
    core(machine, "getblockcount")


def test_the_third_line_says_that_only_the_network_is_missing(ann: Terminal) -> None:
    shown = ann.type(written("dux-ctl setup flopcoin --check"), status=4)
    assert "litecoind stands in for Flopcoin Core" in shown.text
    assert "WRONG" not in shown.text
    found = check(ann)
    assert {name for name, text in found.items() if text.startswith("missing")} == {"wallet", "node"}
    assert "dux-flopd makes it" in found["wallet"]
    assert "--network FILE" in found["node"]


def test_a_core_that_has_not_read_the_networks_blocks_is_told_how_far_it_is(machine: Machine, ann: Terminal) -> None:
    definition = definition_on(CHAIN, name="a-network", birth_height=BIRTH)
    machine.path("/home/ann/flopnet.yaml").write_text(dump_network(definition))
    line = written("dux-ctl setup flopcoin --network flopnet.yaml")
    found = check(ann, 4, " --network flopnet.yaml")
    assert f"still reading the chain: block 0 of {BIRTH}" in found["sync"]
    shown = ann.type(line, YES, status=None)
    assert shown.status != 0
    assert "CoreNotReady" in shown.text
    assert ctl(machine, "network", "show")["chain"] == "devnet"
    core(machine, "createwallet", "purse", "false", "false", "", "false", "false")
    mine(machine, BIRTH)


def mine(machine: Machine, blocks: int) -> None:
    """Blocks whose coins the purse gets."""
    core(machine, "generatetoaddress", str(blocks), core(machine, "getnewaddress", wallet="purse"))


def test_the_fourth_line_puts_the_node_on_that_network(machine: Machine, ann: Terminal) -> None:
    before = ctl(machine, "node", "self")["node"]
    shown = ann.type(written("dux-ctl setup flopcoin --network flopnet.yaml"), YES, limit_s=240)
    assert "The node is on the new network" in shown.text
    node.assert_well(machine)
    assert ctl(machine, "node", "self")["node"] != before
    assert check(ann, 0)["node"].startswith(
        f"ok: on network 'a-network' on chain {CHAIN}, and dux-flopd asks this Core"
    )


# --- afterwards -------------------------------------------------------------------------------------------------------


def test_the_status_names_the_network_its_chain_and_the_core(machine: Machine) -> None:
    shown = machine.run("dux-ctl", "status", user="ann").stdout
    assert "a-network" in shown
    assert CHAIN in shown
    assert "LitecoinCore" in shown
    assert f"block {BIRTH} of {BIRTH}, in sync" in shown


def balance(machine: Machine) -> int:
    """Confirmed, in koinu."""
    return int(ctl(machine, "wallet", "balance", user="ann")["confirmed"])


def test_the_first_person_is_paid_and_pays_through_the_core(machine: Machine) -> None:
    core(machine, "sendtoaddress", ctl(machine, "wallet", "receive", user="ann")["address"], "5", wallet="purse")
    mine(machine, 1)
    wait_until(lambda: balance(machine) == 5 * COIN, "5 FLOP are confirmed", 60)
    to = core(machine, "getnewaddress", wallet="purse")
    sent = ctl(machine, "wallet", "send", to, "2", user="ann")
    mine(machine, 1)
    assert float(core(machine, "getreceivedbyaddress", to, "1", wallet="purse")) == 2
    wait_until(lambda: 2 * COIN < balance(machine) < 3 * COIN, "what is left is confirmed", 60)
    assert json.loads(core(machine, "gettransaction", sent["txid"], wallet="purse"))["confirmations"] == 1


def test_a_core_that_is_down_is_told_and_when_it_is_back_the_node_goes_on(machine: Machine, ann: Terminal) -> None:
    before = balance(machine)
    ann.type("systemctl stop flopcoind")

    def told() -> bool:
        return "127.0.0.1:19443" in machine.run("dux-ctl", "status", user="ann", check=False).stdout

    wait_until(told, "the status tells that Core does not answer", 60)
    assert check(ann, 4)["running"] == (
        "missing: nothing listens on port 19443 of this machine → Start Core: sudo systemctl start flopcoind\n"
    )
    ann.type("systemctl start flopcoind")
    wait_until(lambda: not told(), "the node has found Core again", 60)
    core(machine, "loadwallet", "purse")
    core(machine, "sendtoaddress", ctl(machine, "wallet", "receive", user="ann")["address"], "1", wallet="purse")
    mine(machine, 1)
    wait_until(lambda: balance(machine) == before + COIN, "the node sees the payment", 60)


def test_dux_flopd_starts_again_with_its_coins(machine: Machine) -> None:
    before = balance(machine)
    machine.run("systemctl", "restart", "dux-flopd")
    wait_until(lambda: balance(machine) == before, "the balance is there again", 60)
    node.assert_well(machine)


def test_no_password_can_be_read_by_others(machine: Machine) -> None:
    """Neither the old one nor ours stands in a file or a command line that anyone but its owner reads."""
    ours = machine.path("/var/lib/duxnet/setup/core.password").read_text().strip()
    script = (
        f"stat -c '%a %n' $(grep -rlsF -f /root/secret {' '.join(PLACES)}); "
        "grep -lsF -f /root/secret /proc/[0-9]*/cmdline || true"
    )
    for secret in (ours, OLD):
        machine.path("/root/secret").write_text(f"{secret}\n")
        found = machine.sh(script).splitlines()
        assert found
        assert [line for line in found if not line.startswith("600 ")] == []
    text = machine.path(CONF).read_text()
    assert re.findall(r"^rpc\w+", text, re.MULTILINE) == ["rpcauth", "rpcauth"]
    assert machine.sh(f"stat -c '%a %U' {CONF}").strip() == "600 flopcoin"


def test_a_second_run_finds_nothing_to_change(ann: Terminal) -> None:
    shown = ann.type(written("dux-ctl setup flopcoin --network flopnet.yaml"), status=0)
    assert "There is nothing to change." in shown.text


def test_the_way_back_leads_to_a_trial_network_of_its_own(machine: Machine, ann: Terminal) -> None:
    ann.type("dux-ctl network leave", limit_s=240)
    shown: Shown = ann.type("dux-ctl status")
    assert "private trial network, coins have no value" in shown.text
    node.assert_well(machine)
