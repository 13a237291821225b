"""First boot: a machine with packages and nothing else becomes a whole node, once, whatever happens meanwhile."""

import re
import stat
from pathlib import Path

import pytest

from dux_flopd.keystore import GUARDIAN_PATH, Keystore
from dux_setup.firstboot import POINTS
from dux_setup.invitation import read_invitation
from dux_setup.paths import Paths
from dux_setup.rpcauth import accepts, parse
from dux_setup.trial import Arbiter, Secrets
from duxcommon import credential
from duxcommon.config import load
from duxcommon.network import load_network
from tests.firstboot_kit import everything, first_boot, lay_out, needs_credentials

SECRET_FILES = ("trial.json", "arbiter.json", "chain.password", "node.key", "keystore.json", "dux-flopd.wallet")


@pytest.fixture
def machine(short_tmp: Path) -> Paths:
    needs_credentials()
    return lay_out(short_tmp / "m")


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, str]:
    """A machine after its first boot, and what the journal has of it."""
    needs_credentials()
    paths = lay_out(tmp_path_factory.mktemp("machine") / "m")
    done = first_boot(paths)
    assert done.returncode == 0, done.stdout + done.stderr
    return paths, done.stdout


def opened(paths: Paths) -> Keystore:
    """The node's keystore, opened with what the machine keeps."""
    keystore = Keystore.open(paths.keystore)
    keystore.unlock(credential.read(paths.credential, host_key=paths.host_key))
    return keystore


def assert_whole(paths: Paths) -> None:
    """Everything is there, fits together, and nothing half-made lies about."""
    from dux_flopd.settings import FlopdSettings
    from dux_registryd.settings import RegistrydSettings

    network = load_network(paths.network)
    (guardian,), (arbiter,) = network.guardians, network.arbiters
    assert (network.chain, network.guardians_m, network.worthless) == ("devnet", 1, True)
    keystore = opened(paths)
    assert guardian.pubkey == keystore.key(GUARDIAN_PATH).pubkey.hex()
    # An arbiter is neither buyer nor seller: its keys are not this node's.
    kept = Arbiter.model_validate_json((paths.setup / "arbiter.json").read_bytes())
    assert arbiter == kept.member()
    assert arbiter.node != guardian.node
    assert keystore.payout_pubkey.hex() != arbiter.pubkey
    known = Secrets.model_validate_json((paths.setup / "trial.json").read_bytes())
    flopd = load(FlopdSettings, paths.config("flopd"))
    assert flopd.core.url == f"http://127.0.0.1:32553/wallet/{known.wallet}"
    assert (flopd.core.user, flopd.core.password_file, flopd.core.cookie) == ("node", paths.chain_password, None)
    assert set(load(RegistrydSettings, paths.config("registryd")).roles) == {"buyer", "provider", "guardian"}
    users = {parse(line)[0]: line for line in paths.devchain_users.read_text().splitlines()}
    assert accepts(users["node"], "node", paths.chain_password.read_text().strip())
    invitation = read_invitation(paths.guest)
    assert invitation.network == network
    assert accepts(users["guest"], "guest", invitation.chain.password.get_secret_value())
    assert invitation.bootstrap == ["127.0.0.1:4748"]
    assert [path for path in paths.root.rglob("*") if path.name.endswith(".part") or ".room" in path.name] == []


def test_a_machine_becomes_a_whole_node(booted: tuple[Paths, str]) -> None:
    assert_whole(booted[0])


def test_it_says_in_the_journal_what_it_made_and_what_protects_it(booted: tuple[Paths, str]) -> None:
    paths, said = booted
    assert "coins have no value" in said
    assert "sudo dux-flopd keystore words" in said
    protection = (paths.setup / "protection.txt").read_text().strip()
    assert protection in said
    assert "does not protect against" in protection


def test_it_tells_nobody_a_secret(booted: tuple[Paths, str]) -> None:
    paths, said = booted
    words = opened(paths).words
    known = Secrets.model_validate_json((paths.setup / "trial.json").read_bytes())
    passphrase = credential.read(paths.credential, host_key=paths.host_key)
    for secret in (words, known.node, known.guest, known.wallet, passphrase):
        assert secret not in said
    readable = [path for path in paths.root.rglob("*") if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o004]
    for secret in (words, known.node, known.guest, known.wallet, passphrase):
        assert [path for path in readable if secret.encode() in path.read_bytes()] == []


def test_secrets_are_their_owners_alone(booted: tuple[Paths, str]) -> None:
    paths = booted[0]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths.root.rglob("*") if path.is_file()}
    assert {modes[name] for name in SECRET_FILES} == {0o600}
    assert (modes["devchain.users"], modes["guest.yaml"]) == (0o640, 0o640)
    assert modes["network.yaml"] == 0o644
    # The wallet's name is half of what opens it to the chain's other user.
    assert stat.S_IMODE(paths.drop_in("flopd").stat().st_mode) == 0o640
    assert stat.S_IMODE(paths.drop_in("registryd").stat().st_mode) == 0o644


def test_the_next_boot_makes_nothing_anew(machine: Paths) -> None:
    first_boot(machine)
    before = everything(machine)
    again = first_boot(machine)
    assert again.returncode == 0
    assert "nothing had to be made" in again.stdout
    assert everything(machine) == before


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_is_made_good_by_the_next_boot(machine: Paths, point: str) -> None:
    killed = first_boot(machine, failpoint=f"firstboot:{point}")
    assert killed.returncode == -9, killed.stdout + killed.stderr
    kept = everything(machine)
    done = first_boot(machine)
    assert done.returncode == 0, done.stdout
    assert_whole(machine)
    # Keys that were there are the same still: coins may lie under them.
    for name in ("var/lib/duxnet/flopd/keystore.json", "etc/credstore.encrypted/dux-flopd.wallet",
                 "var/lib/duxnet/registryd/node.key", "var/lib/duxnet/setup/arbiter.json"):  # fmt: skip
        if name in kept:
            assert everything(machine)[name] == kept[name]
    assert [name for name in kept if name.endswith("keystore.json")] in ([], ["var/lib/duxnet/flopd/keystore.json"])


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_network_that_the_owner_joined_is_left_alone(machine: Paths) -> None:
    from tests.support.network import write_network

    write_network(machine.network)
    before = everything(machine)
    done = first_boot(machine)
    assert done.returncode == 0, done.stdout
    assert load_network(machine.network).name in done.stdout
    after = everything(machine)
    assert {name for name in after if name not in before or after[name] != before[name]} <= {
        "etc/group", "etc/gshadow", "var/lib/duxnet/setup/first-user", "etc/group-", "etc/gshadow-",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["empty", "half", "signature", "garbage", "folder", "dangling"])
def test_a_damaged_network_definition_is_named_and_never_overwritten(machine: Paths, damage: str) -> None:
    from tests.support.network import write_network

    write_network(machine.network)
    text = machine.network.read_text()
    if damage in ("folder", "dangling"):
        machine.network.unlink()
    if damage == "folder":
        machine.network.mkdir()
    elif damage == "dangling":
        machine.network.symlink_to("nowhere")
    else:
        broken = re.sub(r"^name: .*$", "name: other", text, flags=re.MULTILINE)
        texts = {"empty": "", "half": text[: len(text) // 2], "signature": broken, "garbage": "\0\1{["}
        machine.network.write_text(texts[damage])
    before = everything(machine)
    done = first_boot(machine)
    assert done.returncode == 1
    assert str(machine.network) in done.stdout
    assert "systemctl restart dux.target" in done.stdout
    assert "Traceback" not in done.stderr
    assert everything(machine) == before


def test_a_keystore_that_somebody_made_gets_no_second_passphrase(machine: Paths) -> None:
    Keystore.create(machine.keystore, "the owner's own passphrase", log_n=10)
    before = machine.keystore.read_bytes()
    done = first_boot(machine)
    assert done.returncode == 1
    assert f"there is a keystore at {machine.keystore}" in done.stdout
    assert "systemd-creds encrypt --name=wallet" in done.stdout
    assert not machine.credential.exists()
    assert not machine.network.exists()
    assert machine.keystore.read_bytes() == before


def test_a_credential_of_another_machine_is_refused_and_kept(machine: Paths) -> None:
    first_boot(machine, failpoint="firstboot:credential")
    foreign = machine.credential.read_bytes()
    machine.host_key.unlink()
    done = first_boot(machine)
    assert done.returncode == 1
    assert f"{machine.credential} can't be opened on this machine" in done.stdout
    assert machine.credential.read_bytes() == foreign
    assert not machine.keystore.exists()


def test_a_keystore_and_a_passphrase_that_do_not_belong_together_are_refused(machine: Paths) -> None:
    first_boot(machine, failpoint="firstboot:credential")
    Keystore.create(machine.keystore, "another passphrase", log_n=10)
    done = first_boot(machine)
    assert done.returncode == 1
    assert "does not open" in done.stdout
    assert not machine.network.exists()


@pytest.mark.parametrize("name", ["trial.json", "arbiter.json"])
def test_a_damaged_memory_of_first_boot_is_named_without_its_secrets(machine: Paths, name: str) -> None:
    first_boot(machine, failpoint="firstboot:arbiter")
    whole = (machine.setup / name).read_text()
    (machine.setup / name).write_text(whole[:-10])
    done = first_boot(machine)
    assert done.returncode == 1
    assert f"{machine.setup / name} is damaged" in done.stdout
    assert whole[20:60] not in done.stdout + done.stderr


# --- a machine that is not well --------------------------------------------------------------------------------------


def small(folder: Path, kilobytes: int) -> str:
    """A file system of that size in place of a folder, with what is in it."""
    return (
        f"cp -a {folder} {folder}.aside; mount -t tmpfs -o size={kilobytes}k tmpfs {folder}; "
        f"cp -a {folder}.aside/. {folder}/; rm -r {folder}.aside; "
    )


@pytest.mark.parametrize("place", ["etc/duxnet", "var/lib/duxnet"])
def test_a_full_disk_is_named_with_what_to_do(machine: Paths, place: str) -> None:
    folder = machine.root / place
    fill = f"dd if=/dev/zero of={folder}/filler bs=1k status=none || true; "
    done = first_boot(machine, before=small(folder, 512) + fill)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no space left" in done.stdout
    assert str(folder) in done.stdout
    assert "Free some space" in done.stdout
    assert "Traceback" not in done.stderr
    assert not machine.network.exists()


@pytest.mark.parametrize("place", ["etc/duxnet", "var/lib/duxnet"])
def test_a_read_only_disk_is_named_with_what_to_do(machine: Paths, place: str) -> None:
    folder = machine.root / place
    done = first_boot(machine, before=small(folder, 2048) + f"mount -o remount,ro {folder}; ")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mounted read-only" in done.stdout
    assert str(folder) in done.stdout
    assert "remount,rw" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_full_only_for_a_daemon_s_user_is_named_too(machine: Paths) -> None:
    folder = machine.state("flopd")
    fill = f"dd if=/dev/zero of={folder}/filler bs=1k status=none || true; "
    done = first_boot(machine, before=small(folder, 64) + fill)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no space left" in done.stdout
    assert str(folder) in done.stdout


# --- live systems ----------------------------------------------------------------------------------------------------


def test_a_live_system_says_that_nothing_outlasts_the_power_off(machine: Paths) -> None:
    machine.live_medium.mkdir(parents=True)
    done = first_boot(machine)
    assert "gone when it is powered off" in done.stdout
    assert "gone when it is powered off" in machine.live_marker.read_text()
    assert stat.S_IMODE(machine.live_marker.stat().st_mode) == 0o644
    # With a disk for persistence that is not so, and the mark goes.
    (machine.persistence / "sda3").mkdir(parents=True)
    done = first_boot(machine)
    assert "powered off" not in done.stdout
    assert not machine.live_marker.exists()
