"""What first boot is made of: the credential, the work of other users, the keystore without a person."""

import json
import os
import pty
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dux_flopd.keystore import ARBITER_PATH, GUARDIAN_PATH, Keystore
from dux_setup.asuser import as_user
from dux_setup.credential import WORDS, encrypt, new_passphrase
from dux_setup.firstboot import in_words
from dux_setup.fresh import fresh_node
from dux_setup.invitation import ChainAccess
from dux_setup.paths import DAEMONS, Paths
from duxcommon import credential
from duxcommon.config import load
from duxcommon.errors import (
    AlreadyOnNetwork,
    CredentialRefused,
    CredentialsMissing,
    DuxError,
    SetupNoSpace,
    SetupReadOnly,
    SetupStepFailed,
)
from duxcommon.files import write_atomic
from duxcommon.network import load_network
from tests.firstboot_kit import lay_out, needs_credentials
from tests.support.network import write_network

PASS = "a passphrase of the test"


def keystore(folder: Path, *command: str, stdin: str = f"{PASS}\n") -> tuple[int, dict[str, Any], str]:
    config = folder / "flopd.yaml"
    config.write_text(f"state_dir: {folder}\ncore:\n  cookie: {folder}/cookie\n")
    done = subprocess.run(
        [sys.executable, "-m", "dux_flopd", "keystore", *command, "--config", str(config)],
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout or "{}"), done.stdout + done.stderr


# --- the keystore without a person -----------------------------------------------------------------------------------


def test_a_keystore_is_made_without_a_person_and_tells_public_keys_alone(short_tmp: Path) -> None:
    status, keys, said = keystore(short_tmp, "create", "--unattended")
    assert status == 0
    made = Keystore.open(short_tmp / "keystore.json")
    made.unlock(PASS)
    assert keys == {
        "payout": made.payout_pubkey.hex(),
        "guardian": made.key(GUARDIAN_PATH).pubkey.hex(),
        "arbiter": made.key(ARBITER_PATH).pubkey.hex(),
    }
    assert not any(f"{word} " in said for word in made.words.split() if len(word) > 4)
    assert keystore(short_tmp, "public")[1] == keys


@pytest.mark.parametrize(("passphrase", "cost"), [("four or more random words of a person", 17), ("x" * 43, 10)])
def test_what_a_person_thinks_of_is_stretched_and_256_random_bits_need_not_be(
    passphrase: str, cost: int, short_tmp: Path
) -> None:
    assert keystore(short_tmp, "create", "--unattended", stdin=f"{passphrase}\n")[0] == 0
    assert json.loads((short_tmp / "keystore.json").read_bytes())["log_n"] == cost


@pytest.mark.parametrize(
    ("command", "stdin", "error"),
    [
        (["public"], PASS, "KeystoreMissing"),
        (["create", "--unattended"], "short\n", "InvalidParams"),
        (["create", "--unattended"], "", "InvalidParams"),
    ],
)
def test_what_is_wrong_is_told_so_that_a_program_understands_it(
    short_tmp: Path, command: list[str], stdin: str, error: str
) -> None:
    status, reply, _ = keystore(short_tmp, *command, stdin=stdin)
    assert (status, reply["error"]) == (1, error)
    assert reply["hint"]
    assert not (short_tmp / "keystore.json").exists()


def test_neither_a_second_keystore_is_made_nor_one_opened_with_another_passphrase(short_tmp: Path) -> None:
    Keystore.create(short_tmp / "keystore.json", PASS, log_n=10)
    before = (short_tmp / "keystore.json").read_bytes()
    assert keystore(short_tmp, "create", "--unattended")[1]["error"] == "KeystoreExists"
    assert keystore(short_tmp, "public", stdin="another passphrase\n")[1]["error"] == "WrongPassphrase"
    assert (short_tmp / "keystore.json").read_bytes() == before


def test_words_that_exist_are_typed_not_piped(short_tmp: Path) -> None:
    status, _, said = keystore(short_tmp, "create", "--unattended", "--restore")
    assert status == 2
    assert "exclude each other" in said


def test_root_at_a_terminal_sees_the_words_of_a_wallet_whose_passphrase_nobody_knows(short_tmp: Path) -> None:
    needs_credentials()
    key, wallet = short_tmp / "host.key", short_tmp / "wallet"
    made = Keystore.create(short_tmp / "keystore.json", PASS, log_n=10)
    encrypt(wallet, PASS, host_key=key)
    keystore(short_tmp, "public")  # writes the configuration
    script = (
        "import sys; from pathlib import Path; from duxcommon import credential; from dux_flopd import terminal\n"
        f"credential.WALLET = Path({str(wallet)!r}); real = credential.read\n"
        f"credential.read = lambda: real(credential.WALLET, host_key=Path({str(key)!r}))\n"
        f"sys.exit(terminal.main(['words', '--config', {str(short_tmp / 'flopd.yaml')!r}]))\n"
    )
    said = at_terminal([sys.executable, "-c", script], b"\n")
    assert "Use the passphrase that this machine keeps" in said
    numbered = [f"{number:2}. {word}" for number, word in enumerate(made.words.split(), 1)]
    assert all(word in said for word in numbered)


def at_terminal(command: list[str], typed: bytes) -> str:
    """What a command writes to a terminal at which `typed` is typed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, typed)
    said = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not data:
            break
        said += data
    os.close(ours)
    assert process.wait(60) == 0, said.decode()
    return said.decode()


# --- the credential --------------------------------------------------------------------------------------------------


def test_a_passphrase_comes_back_from_its_credential_and_is_not_readable_in_it(short_tmp: Path) -> None:
    needs_credentials()
    path, key, passphrase = short_tmp / "wallet", short_tmp / "key", new_passphrase()
    protection, _ = encrypt(path, passphrase, host_key=key)
    assert credential.read(path, host_key=key) == passphrase
    assert passphrase.encode() not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "does not protect" in WORDS[protection]


def test_a_credential_that_was_changed_opens_nowhere(short_tmp: Path) -> None:
    needs_credentials()
    path, key = short_tmp / "wallet", short_tmp / "key"
    encrypt(path, PASS, host_key=key)
    text = path.read_text()
    path.write_text(text[:60] + ("A" if text[60] != "A" else "B") + text[61:])
    with pytest.raises(CredentialRefused, match="can't be opened on this machine"):
        credential.read(path, host_key=key)


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd-creds that behaves as a machine of another kind would."""
    tool = folder / "systemd-creds"
    tool.write_text(f"#!/bin/sh\nreal={shutil.which('systemd-creds')}\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(credential, "TOOL", str(tool))


def test_without_systemds_tool_it_is_said_what_to_install(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential, "TOOL", str(short_tmp / "none"))
    with pytest.raises(CredentialsMissing, match="not installed") as caught:
        encrypt(short_tmp / "wallet", PASS)
    assert "apt install" in caught.value.hint


def test_a_refusal_is_told_in_the_tools_own_words(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(short_tmp, "echo 'No medium found' >&2; exit 1", monkeypatch)
    with pytest.raises(CredentialRefused, match="No medium found"):
        encrypt(short_tmp / "wallet", PASS)
    assert not (short_tmp / "wallet").exists()


def test_where_there_is_a_tpm_it_is_used_without_its_registers(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_credentials()
    # A chip can't be had here: the stand-in notes what would be asked of one, and encrypts with the host's key.
    script = (
        f'echo "$*" >>{short_tmp}/asked\ncase "$1" in has-tpm2) exit 0;; '
        f'encrypt) exec "$real" encrypt --name=wallet --with-key=host - -;; *) exec "$real" "$@";; esac'
    )
    stand_in(short_tmp, script, monkeypatch)
    protection, refused = encrypt(short_tmp / "wallet", PASS, host_key=short_tmp / "key")
    assert (protection, refused) == ("tpm", "")
    asked = (short_tmp / "asked").read_text()
    # Bound to the firmware's state, its next update would lock the wallet for good.
    assert "--with-key=host+tpm2 --tpm2-pcrs= " in asked


def test_a_tpm_that_fails_is_told_and_the_machines_key_is_used(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_credentials()
    script = (
        'case "$*" in has-tpm2*) exit 0;; *host+tpm2*) echo "the chip is locked out" >&2; exit 1;; '
        '*) exec "$real" "$@";; esac'
    )
    stand_in(short_tmp, script, monkeypatch)
    protection, refused = encrypt(short_tmp / "wallet", PASS, host_key=short_tmp / "key")
    assert (protection, refused) == ("host", "the chip is locked out")
    assert credential.read(short_tmp / "wallet", host_key=short_tmp / "key") == PASS


# --- what belongs to a daemon's user ---------------------------------------------------------------------------------


@pytest.fixture
def nobody(short_tmp: Path) -> Path:
    """A folder of the user nobody."""
    if os.geteuid() != 0:
        pytest.skip("not run: needs root")
    account = pwd.getpwnam("nobody")
    short_tmp.chmod(0o755)
    folder = short_tmp / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def test_work_for_a_daemon_is_done_with_its_users_rights_and_no_more(nobody: Path) -> None:
    as_user("nobody", lambda: write_atomic(nobody / "key", b"secret", mode=0o600))
    account = pwd.getpwnam("nobody")
    assert (nobody / "key").stat().st_uid == account.pw_uid
    assert as_user("nobody", lambda: [os.getresuid(), os.getresgid(), os.getgroups()]) == [
        [account.pw_uid] * 3, [account.pw_gid] * 3, [],
    ]  # fmt: skip
    assert os.geteuid() == 0


def test_a_link_that_a_daemon_laid_leads_its_own_user_and_not_root(nobody: Path, short_tmp: Path) -> None:
    target = short_tmp / "root-s"
    target.mkdir(mode=0o700)
    (nobody / "folder").symlink_to(target)
    with pytest.raises(PermissionError):
        as_user("nobody", lambda: write_atomic(nobody / "folder" / "key", b"secret"))
    assert list(target.iterdir()) == []


def test_what_goes_wrong_in_the_child_is_told_here(nobody: Path) -> None:
    def refuse() -> None:
        raise SetupStepFailed("no", hint="do this")

    def crash() -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(SetupStepFailed, match="no") as caught:
        as_user("nobody", refuse)
    assert caught.value.hint == "do this"
    with pytest.raises(SetupStepFailed, match="ZeroDivisionError"):
        as_user("nobody", crash)
    with pytest.raises(SetupStepFailed, match="ended with status"):
        as_user("nobody", lambda: os.kill(os.getpid(), 9))


# --- joining ---------------------------------------------------------------------------------------------------------


def test_a_fresh_node_of_a_network_of_others_gets_its_own_login_and_wallet(short_tmp: Path) -> None:
    from dux_flopd.settings import FlopdSettings
    from dux_registryd.settings import RegistrydSettings

    needs_credentials()
    paths = lay_out(short_tmp / "m")
    write_network(short_tmp / "network.yaml")
    network = load_network(short_tmp / "network.yaml")
    chain = ChainAccess.model_validate({"url": "https://192.0.2.7:32554/", "user": "anna", "password": "p" * 20})
    said: list[str] = []
    fresh = fresh_node(paths, network=network, chain=chain, bootstrap=["192.0.2.7:4748"], say=said.append)
    assert load_network(paths.network) == network == fresh.network
    core = load(FlopdSettings, paths.config("flopd")).core
    assert core.url.startswith("https://192.0.2.7:32554/wallet/")
    assert (core.user, core.ca_file, paths.chain_password.read_text()) == ("anna", None, "p" * 20 + "\n")
    registryd = load(RegistrydSettings, paths.config("registryd"))
    assert registryd.bootstrap == ["192.0.2.7:4748"]
    assert "guardian" not in registryd.roles
    # It is on a network of others: no chain of its own, nobody is invited.
    assert not paths.devchain_users.exists()
    assert not paths.guest.exists()
    with pytest.raises(AlreadyOnNetwork):
        fresh_node(paths, network=network, chain=chain, say=said.append)


def test_what_belongs_to_a_network_is_all_that_first_boot_and_the_daemons_made(short_tmp: Path) -> None:
    paths = Paths(short_tmp)
    named = set(paths.everything())
    for path in (paths.network, paths.keystore, paths.node_key, paths.chain_password, paths.credential, paths.guest,
                 paths.devchain_users, paths.setup / "trial.json", paths.setup / "arbiter.json"):  # fmt: skip
        assert named & {path, *path.parents}
    assert {paths.state(daemon) for daemon in DAEMONS} <= named
    # Who was let in is the machine's, not the network's.
    assert not named & {paths.setup / "first-user", paths.setup}


@pytest.mark.parametrize(
    ("number", "kind"), [(28, SetupNoSpace), (122, SetupNoSpace), (30, SetupReadOnly), (13, SetupStepFailed)]
)
def test_an_error_of_the_machine_becomes_a_sentence_with_a_remedy(number: int, kind: type[DuxError]) -> None:
    told = in_words(OSError(number, os.strerror(number), "/etc/duxnet/x"), Paths())
    assert type(told) is kind
    assert "/etc/duxnet/x" in told.message
    assert told.hint
