"""A machine moved to another network: whole or not at all, whatever happens in between."""

import ipaddress
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from devchain_service_kit import PASSWORD, ChainService
from firstboot_kit import everything, first_boot, lay_out, needs_credentials

from dux_setup import addresses, hosting, joining, moving
from dux_setup.invitation import ChainAccess, Invitation, read_invitation, write_invitation
from dux_setup.paths import Paths
from dux_setup.rpcauth import accepts
from duxcommon.errors import (
    AlreadyRunning,
    ChainUnreachable,
    InvitationRefused,
    NoAddress,
    NotAllowed,
    NotHosting,
    NotTrialNetwork,
    SwitchFailed,
)
from duxcommon.identity import Identity
from duxcommon.network import dump_network, load_network
from tests.unit.test_invitation import definition

KILLED = 137
ALL = str(ipaddress.IPv4Address(0))


class Bench:
    """A machine whose services are only noted; `broken` makes the next start fail."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.did: list[str] = []
        self.broken: BaseException | None = None

    def stop(self) -> None:
        self.did.append("stop")

    def start(self) -> None:
        self.did.append("start")
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error

    def restart_chain(self) -> None:
        self.did.append("restart chain")

    def reload(self) -> None:
        self.did.append("reload")

    def make_folders(self) -> None:
        for daemon in ("flopd", "escrowd", "taskd", "sandbox", "registryd", "airdropd", "devchain"):
            self.paths.state(daemon).mkdir(mode=0o700, exist_ok=True)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainService]:
    with ChainService(tmp_path_factory.mktemp("c"), tls=True, users=("lan",)) as running:
        running.start()
        yield running


@pytest.fixture
def machine(short_tmp: Path) -> Bench:
    """A node after its first boot, on a trial network of its own, with something in its databases."""
    needs_credentials()
    paths = lay_out(short_tmp)
    done = first_boot(paths)
    assert done.returncode == 0, done.stdout + done.stderr
    (paths.state("escrowd") / "escrowd.sqlite").write_bytes(b"channels")
    (paths.state("devchain") / "chain.sqlite").write_bytes(b"blocks")
    (paths.etc / "flopd.d" / "90-mine.yaml").write_text("poll_s: 2.0\n")
    return Bench(paths)


@pytest.fixture(autouse=True)
def _it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here files are what matters: whether the node runs is judged on a booted machine (tests/os)."""
    monkeypatch.setattr(joining, "_wait_up", lambda paths, say: None)
    monkeypatch.setattr(joining, "_wait_peers", lambda paths, say: None)


def invitation(chain: ChainService, **changes: Any) -> Invitation:
    access = {
        "url": f"https://127.0.0.1:{chain.tls_port}/",
        "user": "lan",
        "password": PASSWORD,
        "certificate": chain.certificate.read_text(),
        **changes,
    }
    return Invitation(network=definition(), bootstrap=["127.0.0.1:4748"], chain=ChainAccess.model_validate(access))


def quiet(text: str) -> None:
    """Nobody listens."""


def state(paths: Paths) -> dict[str, tuple[int, bytes]]:
    """All files but the lock and what was moved aside."""
    return {
        name: found for name, found in everything(paths).items() if "/old/" not in name and "switch.lock" not in name
    }


# --- joining ----------------------------------------------------------------------------------------------------------


def test_who_joins_has_fresh_keys_the_others_network_and_its_old_state_aside(
    machine: Bench, chain: ChainService
) -> None:
    paths, before, wanted = machine.paths, everything(machine.paths), invitation(chain)
    old = joining.join(paths, wanted, quiet, machine)
    assert machine.did == ["stop", "start"]
    assert load_network(paths.network) == wanted.network
    flopd = yaml.safe_load(paths.drop_in("flopd").read_text())["core"]
    url, _, wallet = flopd["url"].rpartition("/wallet/")
    assert (f"{url}/", len(bytes.fromhex(wallet))) == (wanted.chain.url, 16)
    assert Path(flopd["password_file"]).read_text().strip() == PASSWORD
    assert Path(flopd["ca_file"]).read_text() == wanted.chain.certificate
    assert yaml.safe_load(paths.drop_in("registryd").read_text())["bootstrap"] == wanted.bootstrap
    assert not paths.devchain_users.exists()
    assert not paths.guest.exists()
    assert not (paths.state("escrowd") / "escrowd.sqlite").exists()
    # Everything that was there is either in its place still or, untouched, below the old folder.
    after = everything(paths)
    for name, found in before.items():
        assert after.get(str((old / name).relative_to(paths.root))) == found or after[name] == found, name
    assert (old.stat().st_mode & 0o777, old.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    for name in ("var/lib/duxnet/registryd/node.key", "var/lib/duxnet/flopd/keystore.json"):
        assert after[name][1] != before[name][1]
    assert "etc/duxnet/flopd.d/90-mine.yaml" in after
    assert moving.interrupted(paths) is None


def test_a_chain_on_another_machine_is_let_through_the_units_filter(
    machine: Bench, chain: ChainService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "addresses_of", lambda access: ["192.168.7.7", "fd00::7"])
    joining.join(machine.paths, invitation(chain), quiet, machine)
    text = moving.flopd_unit(machine.paths).read_text()
    assert [line for line in text.splitlines() if "Allow" in line] == [
        "IPAddressAllow=192.168.7.7",
        "IPAddressAllow=fd00::7",
    ]


def test_leaving_gives_a_fresh_trial_network_of_its_own(machine: Bench, chain: ChainService) -> None:
    paths, first = machine.paths, load_network(machine.paths.network)
    joining.join(paths, invitation(chain), quiet, machine)
    old = joining.leave(paths, quiet, machine)
    network = load_network(paths.network)
    assert network.guardians[0].node == Identity.load_or_create(paths.node_key).node_id
    assert network != first
    assert paths.devchain_users.exists()
    assert read_invitation(paths.guest).network == network
    assert not paths.chain_certificate.exists()
    assert (old / "etc/duxnet/chain.pem").exists()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"password": "another-password-of-length"}, InvitationRefused, "no longer takes this invitation's login"),
        ({"certificate": None}, InvitationRefused, "another certificate"),
        ({"url": "https://127.0.0.1:1/"}, ChainUnreachable, "127.0.0.1, port 1/tcp, refuses connections"),
        ({"url": "https://nosuch.invalid:32554/"}, ChainUnreachable, "nosuch.invalid"),
    ],
    ids=str,
)
def test_a_chain_that_is_not_to_be_had_is_told_before_anything_is_changed(
    machine: Bench, chain: ChainService, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = everything(machine.paths)
    with pytest.raises(error, match=said.replace(".", r"\.")) as caught:
        joining.join(machine.paths, invitation(chain, **changes), quiet, machine)
    assert PASSWORD not in str(caught.value)
    assert (machine.did, everything(machine.paths)) == ([], before)


def test_silence_behind_a_firewall_is_told_with_the_port(
    machine: Bench, chain: ChainService, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    from dux_setup import reach

    monkeypatch.setattr(reach, "ASK_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(ChainUnreachable, match=f"port {port}/tcp, does not answer within"):
            joining.join(machine.paths, invitation(chain, url=f"https://127.0.0.1:{port}/"), quiet, machine)
    assert machine.did == []


def test_a_network_whose_coins_have_value_is_not_left(machine: Bench, chain: ChainService) -> None:
    machine.paths.network.write_text(dump_network(definition("main")))
    before = everything(machine.paths)
    for move in (
        lambda: joining.join(machine.paths, invitation(chain), quiet, machine),
        lambda: joining.leave(machine.paths, quiet, machine),
        lambda: hosting.host(machine.paths, ["192.168.7.7"], quiet, machine),
    ):
        with pytest.raises(NotTrialNetwork, match="coins have value"):
            move()
    assert (machine.did, state(machine.paths)) == ([], {n: f for n, f in before.items()})


def test_only_root_may_and_only_one_at_a_time(
    machine: Bench, chain: ChainService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joining.alone(machine.paths), pytest.raises(AlreadyRunning):
        joining.leave(machine.paths, quiet, machine)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotAllowed, match="only root"):
        joining.join(machine.paths, invitation(chain), quiet)


# --- what goes wrong in between ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [SwitchFailed("a unit failed"), KeyboardInterrupt(), OSError(28, "No space left", "/x")]
)
def test_after_a_failure_or_ctrl_c_the_old_state_is_back_to_the_byte(
    machine: Bench, chain: ChainService, error: BaseException
) -> None:
    before = state(machine.paths)
    machine.broken = error
    with pytest.raises(SwitchFailed if isinstance(error, OSError) else type(error)):
        joining.join(machine.paths, invitation(chain), quiet, machine)
    assert machine.did == ["stop", "start", "stop", "start"]
    assert state(machine.paths) == before


def test_a_signal_in_the_middle_puts_the_old_state_back(machine: Bench, chain: ChainService) -> None:
    before = state(machine.paths)

    def terminated() -> None:
        machine.did.append("start")
        machine.start = lambda: machine.did.append("start")  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)

    machine.start = terminated  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        joining.join(machine.paths, invitation(chain), quiet, machine)
    assert state(machine.paths) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from tests.chain import test_switch as t
from dux_setup import joining
from dux_setup.invitation import read_invitation
from dux_setup.paths import Paths
joining._wait_up = joining._wait_peers = lambda paths, say: None
paths = Paths(Path({folder!r}))
bench = t.Bench(paths)
{action}
"""
JOIN = "joining.join(paths, read_invitation(Path({file!r})), t.quiet, bench)"
RECOVER = "joining.recover(paths, t.quiet)"


def run(machine: Bench, action: str, failpoint: str = "") -> int:
    root = Path(__file__).resolve().parent.parent.parent
    script = SCRIPT.format(root=str(root), tests=str(root / "tests"), folder=str(machine.paths.root), action=action)
    env = {**os.environ, "DUXNET_FAILPOINT": failpoint}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, KILLED, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize(
    "point", ["switch:journal", "switch:moved", "switch:moved:9", "switch:made", "firstboot:flopd"]
)
def test_killed_in_the_middle_the_next_boot_undoes_it_even_when_that_is_killed_as_well(
    machine: Bench, chain: ChainService, short_tmp: Path, point: str
) -> None:
    before = state(machine.paths)
    file = short_tmp.with_name(f"{short_tmp.name}.invitation")
    write_invitation(file, invitation(chain))
    try:
        assert run(machine, JOIN.format(file=str(file)), point) != 0
    finally:
        file.unlink()
    assert moving.interrupted(machine.paths) is not None
    assert run(machine, RECOVER, "switch:undone:4") != 0
    assert run(machine, RECOVER) == 0
    assert moving.interrupted(machine.paths) is None
    assert state(machine.paths) == before


def test_the_next_join_undoes_what_was_interrupted_and_then_joins(machine: Bench, chain: ChainService) -> None:
    before = state(machine.paths)
    journal = moving.move_aside(machine.paths)
    machine.make_folders()
    old = joining.join(machine.paths, invitation(chain), quiet, machine)
    assert machine.did == ["stop", "start", "stop", "start"]
    assert str(old) != journal.old
    kept = everything(machine.paths)
    for name in ("var/lib/duxnet/escrowd/escrowd.sqlite", "etc/duxnet/network.yaml"):
        assert kept[str((old / name).relative_to(machine.paths.root))] == before[name]


def test_a_journal_that_nobody_can_read_is_named_and_nothing_is_moved(machine: Bench, chain: ChainService) -> None:
    moving.journal_path(machine.paths).write_text("{")
    before = everything(machine.paths)
    with pytest.raises(SwitchFailed, match=r"switch\.json can't be read"):
        joining.join(machine.paths, invitation(chain), quiet, machine)
    assert {n: f for n, f in everything(machine.paths).items() if "switch.lock" not in n} == before


# --- hosting ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the chain answered: it does on a booted machine (tests/os)."""
    monkeypatch.setattr(hosting, "check_chain", lambda chain, genesis: None)


def test_a_host_gives_the_same_invitation_each_time(machine: Bench, opened: None) -> None:
    paths, before = machine.paths, machine.paths.devchain_users.read_text()
    first = hosting.host(paths, ["192.168.7.7", "10.7.7.7"], quiet, machine)
    assert machine.did == ["restart chain"]
    assert hosting.host(paths, ["192.168.7.7", "10.7.7.7"], quiet, machine) == first
    assert hosting.host(paths, [], quiet, machine) == first, "what was named once is remembered"
    assert machine.did == ["restart chain"], "nothing had changed"
    assert first.chain.url == "https://192.168.7.7:32554/"
    assert first.bootstrap == ["192.168.7.7:4748", "10.7.7.7:4748"]
    assert first.network == load_network(paths.network)
    lines = paths.devchain_users.read_text().splitlines()
    assert lines[:-1] == before.splitlines(), "the node's own users stay"
    assert accepts(lines[-1], "lan", first.chain.password.get_secret_value())
    settings = yaml.safe_load(paths.drop_in("devchain").read_text())
    assert settings["listen"] == f"{ALL}:32554"
    assert Path(settings["key"]).stat().st_mode & 0o777 == 0o600
    assert "IPAddressAllow=any" in moving.chain_unit(paths).read_text()


def test_a_host_that_was_killed_before_the_chain_read_its_settings_opens_it_when_it_is_called_again(
    machine: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(chain: ChainAccess, genesis: str) -> None:
        if not machine.did:
            raise ChainUnreachable("refused")

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hosting, "check_chain", answers)
    with monkeypatch.context() as first, pytest.raises(KeyboardInterrupt):
        first.setattr(machine, "restart_chain", killed)
        hosting.host(machine.paths, ["192.168.7.7"], quiet, machine)
    hosting.host(machine.paths, ["192.168.7.7"], quiet, machine)
    assert machine.did == ["restart chain"]


def listens(machine: Bench) -> str:
    """Where the chain is told to listen for others."""
    settings: dict[str, str] = yaml.safe_load(machine.paths.drop_in("devchain").read_text())
    return settings["listen"]


def test_an_address_of_this_machine_that_is_named_is_the_only_one_that_is_opened(
    machine: Bench, opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, said = ["192.168.7.7", "10.7.7.7"], list[str]()
    monkeypatch.setattr(addresses, "own_addresses", lambda: own)

    def host(*wanted: str) -> str:
        said.clear()
        hosting.host(machine.paths, wanted, said.append, machine)
        before = [text for text in said if "listens on" in text]
        assert len(before) == 1
        assert "Opening" not in " ".join(said[: said.index(before[0])])
        return listens(machine)

    assert host("10.7.7.7") == "10.7.7.7:32554"
    assert any("listens on 10.7.7.7, port 32554/tcp, and on no other" in text for text in said)
    own.clear()
    assert host() == "10.7.7.7:32554", "while the network is down it is no wider"
    assert machine.did == ["restart chain"]
    assert host("192.168.7.1") == f"{ALL}:32554"
    assert any("192.168.7.1 is no address of this machine itself" in text for text in said)
    own += ["192.168.7.7", "10.7.7.7"]
    assert host("10.7.7.7", "192.168.7.7") == f"{ALL}:32554"
    assert any("several were named" in text for text in said)


def test_where_no_address_is_named_all_are_opened_and_it_says_how_to_open_one(
    machine: Bench, opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(addresses, "own_addresses", lambda: ["192.168.7.7"])
    hosting.host(machine.paths, [], said.append, machine)
    assert listens(machine) == f"{ALL}:32554"
    assert any("on all addresses of this machine" in text and "--address" in text for text in said)


def test_what_a_host_of_an_older_version_remembers_is_understood(
    machine: Bench, opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "own_addresses", lambda: ["192.168.7.7"])
    first = hosting.host(machine.paths, ["192.168.7.9"], quiet, machine)
    file = moving.hosting_file(machine.paths)
    kept = json.loads(file.read_text())
    assert kept.pop("only") is False
    file.write_text(json.dumps(kept))
    assert hosting.host(machine.paths, [], quiet, machine) == first


def test_a_host_that_closes_is_as_before_and_its_invitation_is_void(machine: Bench, opened: None) -> None:
    paths, before = machine.paths, state(machine.paths)
    first = hosting.host(paths, ["192.168.7.7"], quiet, machine)
    hosting.close(paths, quiet, machine)
    tls = {"var/lib/duxnet/devchain/tls.crt", "var/lib/duxnet/devchain/tls.key"}
    assert {name: found for name, found in state(paths).items() if name not in tls} == before
    again = hosting.host(paths, ["192.168.7.7"], quiet, machine)
    assert again.chain.password != first.chain.password
    assert again.chain.certificate == first.chain.certificate


def test_a_machine_that_joined_has_nothing_to_invite_to(machine: Bench, chain: ChainService, opened: None) -> None:
    joining.join(machine.paths, invitation(chain), quiet, machine)
    with pytest.raises(NotHosting, match="does not run the chain"):
        hosting.host(machine.paths, ["192.168.7.7"], quiet, machine)


def test_a_new_address_is_told_to_cut_those_who_joined_by_the_old_one(machine: Bench, opened: None) -> None:
    said: list[str] = []
    first = hosting.host(machine.paths, ["192.168.7.7"], said.append, machine)
    second = hosting.host(machine.paths, ["192.168.7.8"], said.append, machine)
    assert any("have to join again" in text for text in said)
    assert first.chain.password == second.chain.password
    assert first.chain.certificate != second.chain.certificate


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::",
        "localhost",
        "::1",
        "224.0.0.1",
        "255.255.255.255",
        "fd00::1",
        "home.lan",
        "1.2.3",
        "a b",
        "",
        "x" * 300,
    ],
)
def test_an_address_that_others_can_not_use_is_refused(address: str) -> None:
    with pytest.raises(NoAddress):
        addresses.check(address)


def test_the_address_in_the_local_network_is_found_or_asked_for() -> None:
    assert addresses.lan_address(["192.168.7.7"]) == "192.168.7.7"
    for several in ([], ["192.168.7.7", "10.7.7.7"]):
        with pytest.raises(NoAddress):
            addresses.lan_address(several)
    assert all(addresses.check(own) == own for own in addresses.own_addresses())
