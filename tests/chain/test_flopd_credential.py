"""Keystore and passphrase that do not fit, or are not there: flopd runs, spends nothing, and says what to do."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from flopd_kit import PASSPHRASE, Flopd, TestChain, chains

from dux_flopd.keystore import Keystore
from duxcommon.errors import DuxError, KeystoreMissing, KeystoreUnusable, WalletLocked
from duxcommon.money import COIN

chain = chains(("devchain-flopcoin",))


@dataclass(frozen=True)
class Fault:
    """What is done to the folder before the start, and what flopd says of it."""

    do: Callable[[Path], object]
    """Gets flopd's folder; `cred/wallet` in it is systemd's credential."""
    error: type[DuxError]
    words: tuple[str, ...]
    """In the note, in the log and in the error of every call that spends."""
    help: str
    """What to do, in the note."""


def _other_keystore(folder: Path) -> None:
    (folder / "keystore.json").unlink()
    Keystore.create(folder / "keystore.json", "of another wallet", log_n=10)


def _without(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).unlink()


def _holding(path: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(data)


def _folder(path: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    return make


def _newer(folder: Path) -> None:
    path = folder / "keystore.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


CRED, STORE = "cred/wallet", "keystore.json"
FAULTS = {
    "no credential": Fault(
        _without(CRED), WalletLocked, ("systemd's credential 'wallet'", "/etc/credstore.encrypted/dux-flopd.wallet"),
        "dux-ctl wallet unlock",
    ),
    "a wrong credential": Fault(
        _holding(CRED, b"something else"), WalletLocked, ("cred/wallet does not open", STORE), "Put the right file back"
    ),
    "an empty credential": Fault(_holding(CRED, b""), WalletLocked, ("cred/wallet holds no passphrase",), "again"),
    "a credential that can't be read": Fault(
        _folder(CRED), WalletLocked, ("cred/wallet can't be read: Is a directory",), "ls -l"
    ),
    "the keystore of another wallet": Fault(
        _other_keystore, WalletLocked, ("cred/wallet does not open", STORE), "dux-ctl wallet unlock"
    ),
    "no keystore": Fault(
        _without(STORE), KeystoreMissing,
        ("there is no keystore at", "cred/wallet holds the passphrase of one: it was lost"), "--restore",
    ),
    "an empty keystore": Fault(_holding(STORE, b""), KeystoreUnusable, ("keystore.json is empty",), "backup"),
    "half a keystore": Fault(
        lambda folder: (folder / STORE).write_bytes((folder / STORE).read_bytes()[:200]), KeystoreUnusable,
        ("keystore.json is not a keystore, or is damaged",), "recovery words",
    ),
    "a keystore of a newer version": Fault(
        _newer, KeystoreUnusable, ("is a keystore of format 2; this version of Dux OS knows 1",), "newer version",
    ),
    "a keystore that everybody can read": Fault(
        lambda folder: (folder / STORE).chmod(0o644), KeystoreUnusable, ("can be read by other users (mode 0644)",),
        "600",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_wrong_with_the_wallet_is_said_and_nothing_is_spent(
    chain: TestChain, short_tmp: Path, daemon_logs: list[str], what: str
) -> None:
    fault = FAULTS[what]
    (short_tmp / "cred").mkdir()
    (short_tmp / CRED).write_text(PASSPHRASE)
    env = {"CREDENTIALS_DIRECTORY": str(short_tmp / "cred")}
    with Flopd(short_tmp, chain, env=env, unlocked=False) as node:
        shutil.copy(short_tmp / STORE, short_tmp / "kept.json")
        fault.do(short_tmp)
        node.start()
        (note,) = [n for n in node.call("daemon.status")["notes"] if "keystore" in n or "wallet" in n]
        with pytest.raises(DuxError) as caught:
            node.call("wallet.send", {"to": node.call("wallet.receive")["address"], "amount": COIN, "key": "k"})
        assert type(caught.value) is fault.error
        logged = [line for line in node.log_lines() if '"warning"' in line and "wallet" in line]
        assert len(logged) == 1, logged
        for words in fault.words:
            assert words in note
            assert words in caught.value.message
            assert words in logged[0]
        assert fault.help in note
        assert fault.help in caught.value.message + caught.value.hint
        status = node.call("wallet.status")
        assert status["locked"]
        assert status["why"] in note
        # The chain is followed all the same, and once it is mended nothing has to be restarted but flopd.
        assert node.call("chain.status")["height"] >= 0
        assert node.stop() == 0
        shutil.rmtree(short_tmp / CRED, ignore_errors=True)
        (short_tmp / CRED).unlink(missing_ok=True)
        (short_tmp / CRED).write_text(PASSPHRASE)
        shutil.copy(short_tmp / "kept.json", short_tmp / STORE)
        (short_tmp / STORE).chmod(0o600)
        node.start()
        assert node.call("wallet.status") | {"payout_pubkey": "", "payout_address": ""} == {
            "locked": False, "exists": True, "payout_pubkey": "", "payout_address": "", "why": None,
        }  # fmt: skip


def test_a_wallet_that_was_locked_at_the_start_is_opened_by_hand(
    chain: TestChain, short_tmp: Path, daemon_logs: list[str]
) -> None:
    with Flopd(short_tmp, chain, unlocked=False) as node:
        node.start()
        assert node.call("wallet.status")["locked"]
        node.call("wallet.unlock", {"passphrase": PASSPHRASE})
        assert node.call("wallet.status")["why"] is None
        assert not [note for note in node.call("daemon.status")["notes"] if "locked" in note]
        node.call("wallet.lock")
        assert "dux-ctl wallet lock" in node.call("wallet.status")["why"]
