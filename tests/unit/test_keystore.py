"""The keystore: words and keys by the standards, nothing readable without the passphrase, nothing half written."""

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from btclib_wallet.bip32 import derive, rootxprv_from_seed

from dux_flopd.keystore import PAYOUT_PATH, Keystore, caller_path, normal_words, read_passphrase
from duxcommon.errors import (
    BadWords,
    InvalidParams,
    KeyFileUnsafe,
    KeystoreDamaged,
    KeystoreExists,
    KeystoreMissing,
    NewerFormat,
    WalletLocked,
    WrongPassphrase,
)

PASS = "correct horse battery"
ZERO_WORDS = "abandon " * 11 + "about"
LEGAL_WORDS = "legal winner thank year wave sausage worth useful legal winner thank yellow"


def make(path: Path, words: str | None = None) -> Keystore:
    return Keystore.create(path / "keys.json", PASS, words, log_n=10)


def test_keys_follow_bip32_and_words_follow_bip39(short_tmp: Path) -> None:
    # BIP32's own vector 1: the library does what the standard says.
    root = rootxprv_from_seed("000102030405060708090a0b0c0d0e0f", "0488ade4")
    assert derive(root, "m/0h") == (
        "xprv9uHRZZhk6KAJC1avXpDAp4MDc3sQKNxDiPvvkX8Br5ngLNv1TxvUxt4cV1rGL5hj6KCesnDYUhd7oWgT11eZG7XnxHrnYeSvkzY7d2bhkJ7"
    )
    # Keys that must never change: a restored node has to find the same ones.
    keystore = make(short_tmp, ZERO_WORDS)
    assert keystore.key(PAYOUT_PATH).pubkey == keystore.payout_pubkey
    assert keystore.payout_pubkey.hex() == "02b459c1dc9d5080a7a5d2cd28f056643f636ea6b5dca3887e8a2c3e72717d9c60"
    assert (
        keystore.key(caller_path(0)).pubkey.hex()
        == "0331b620fd837bff5469214b83dafea81569bc91ccbbd61e93fffae342c4a51eef"
    )
    assert keystore.key(caller_path(0)) != keystore.key(caller_path(1))


def test_new_words_are_24_random_ones_and_give_the_same_keys_again(short_tmp: Path) -> None:
    first = make(short_tmp)
    assert len(first.words.split()) == 24
    other = Keystore.create(short_tmp / "other.json", PASS, log_n=10)
    assert other.words != first.words
    again = Keystore.create(short_tmp / "again.json", "another passphrase", first.words.upper(), log_n=10)
    assert again.payout_pubkey == first.payout_pubkey
    assert again.restored
    assert not first.restored


def test_a_locked_keystore_shows_its_payout_key_and_nothing_else(short_tmp: Path) -> None:
    made = make(short_tmp)
    keystore = Keystore.open(made.path)
    assert keystore.locked
    assert keystore.payout_pubkey == made.payout_pubkey
    for attempt in (lambda: keystore.words, lambda: keystore.key(PAYOUT_PATH)):
        with pytest.raises(WalletLocked):
            attempt()
    keystore.unlock(PASS)
    assert keystore.words == made.words
    assert keystore.key(PAYOUT_PATH).pubkey == made.payout_pubkey
    keystore.lock()
    with pytest.raises(WalletLocked):
        keystore.key(PAYOUT_PATH)


def test_a_wrong_passphrase_opens_nothing(short_tmp: Path) -> None:
    keystore = Keystore.open(make(short_tmp).path)
    with pytest.raises(WrongPassphrase) as caught:
        keystore.unlock(PASS + "x")
    assert "nothing was unlocked" in caught.value.hint
    assert keystore.locked


def test_the_file_holds_no_word_and_no_key_and_is_the_owners_alone(short_tmp: Path) -> None:
    keystore = make(short_tmp)
    text = keystore.path.read_text()
    assert keystore.path.stat().st_mode & 0o777 == 0o600
    assert not [word for word in keystore.words.split() if len(word) > 4 and word in text.lower()]
    assert keystore.key(PAYOUT_PATH).secret.hex() not in text
    assert keystore.key(PAYOUT_PATH).secret.hex() not in repr(keystore.key(PAYOUT_PATH))
    assert list(short_tmp.iterdir()) == [keystore.path]


@pytest.mark.parametrize("field", ["salt", "nonce", "payout", "data", "restored"])
def test_a_changed_field_is_noticed(short_tmp: Path, field: str) -> None:
    path = make(short_tmp).path
    content = json.loads(path.read_text())
    old = content[field]
    if field == "restored":
        content[field] = not old
    else:
        content[field] = old[:-1] + ("0" if old[-1] != "0" else "1")
    path.write_text(json.dumps(content))
    with pytest.raises((WrongPassphrase, KeystoreDamaged)):
        Keystore.open(path).unlock(PASS)


@pytest.mark.parametrize("text", ["", "{}", "[" * 5000, '{"format": 0}', "\x00", '{"log_n": 60}'])
def test_a_damaged_file_is_refused_without_quoting_it(short_tmp: Path, text: str) -> None:
    path = short_tmp / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeystoreDamaged) as caught:
        Keystore.open(path)
    assert str(path) in caught.value.message
    assert caught.value.__suppress_context__


def test_a_cost_that_would_take_all_memory_is_refused(short_tmp: Path) -> None:
    path = make(short_tmp).path
    content = json.loads(path.read_text())
    content["log_n"] = 30
    path.write_text(json.dumps(content))
    with pytest.raises(KeystoreDamaged):
        Keystore.open(path)


def test_a_file_that_others_can_read_is_refused(short_tmp: Path) -> None:
    path = make(short_tmp).path
    path.chmod(0o640)
    with pytest.raises(KeyFileUnsafe) as caught:
        Keystore.open(path)
    assert "chmod 600" in caught.value.hint
    with pytest.raises(KeystoreMissing):
        Keystore.open(short_tmp / "none.json")


def test_an_existing_keystore_is_never_replaced_even_by_two_at_once(short_tmp: Path) -> None:
    def attempt(number: int) -> str:
        try:
            return Keystore.create(short_tmp / "keys.json", PASS, log_n=10).words
        except KeystoreExists:
            return ""

    with ThreadPoolExecutor(8) as pool:
        made = [words for words in pool.map(attempt, range(8)) if words]
    assert len(made) == 1
    keystore = Keystore.open(short_tmp / "keys.json")
    keystore.unlock(PASS)
    assert keystore.words == made[0]


@pytest.mark.parametrize(
    "words",
    ["", "abandon " * 12, "abandon " * 11 + "abuot", "abandon about", "abandon " * 23 + "about", "а" * 40, "\ud800"],
)
def test_words_that_are_none_are_refused_without_repeating_them(short_tmp: Path, words: str) -> None:
    with pytest.raises(BadWords) as caught:
        make(short_tmp, words)
    assert "about" not in caught.value.message
    assert not list(short_tmp.iterdir())


def test_words_may_be_typed_with_capitals_and_any_spaces() -> None:
    assert (
        normal_words("  Legal\twinner  THANK year\nwave sausage worth useful legal winner thank yellow ") == LEGAL_WORDS
    )


def test_a_short_passphrase_is_refused(short_tmp: Path) -> None:
    with pytest.raises(InvalidParams):
        Keystore.create(short_tmp / "keys.json", "short", log_n=10)


def test_a_passphrase_file_must_be_the_owners_alone(short_tmp: Path) -> None:
    path = short_tmp / "pass"
    path.write_text(PASS + "\nsecond line\n")
    path.chmod(0o600)
    assert read_passphrase(path) == PASS
    path.chmod(0o604)
    with pytest.raises(KeyFileUnsafe):
        read_passphrase(path)
    with pytest.raises(KeystoreMissing):
        read_passphrase(short_tmp / "none")


def config(folder: Path) -> Path:
    path = folder / "flopd.yaml"
    path.write_text(f"state_dir: {folder}\ncore:\n  cookie: {folder}/cookie\npassphrase_file: {folder}/pass\n")
    (folder / "pass").write_text(PASS)
    (folder / "pass").chmod(0o600)
    return path


def test_words_are_never_written_to_a_pipe(short_tmp: Path) -> None:
    command = [sys.executable, "-m", "dux_flopd", "keystore", "create", "--config", str(config(short_tmp))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Run it at one: `sudo dux-flopd keystore create`" in done.stderr
    assert not (short_tmp / "keystore.json").exists()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_the_terminal_command_makes_a_keystore_and_shows_its_words(short_tmp: Path) -> None:
    command = [sys.executable, "-m", "dux_flopd", "keystore", "create", "--config", str(config(short_tmp))]
    terminal, inner = pty.openpty()
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
        assert process.wait(30) == 0
    os.close(terminal)
    keystore = Keystore.open(short_tmp / "keystore.json")
    keystore.unlock(PASS)
    assert keystore.words.split()[23] in shown.decode()
    assert shown.decode().count(". ") >= 24


def test_a_prompt_that_gets_nothing_says_so_and_makes_nothing(short_tmp: Path) -> None:
    path = config(short_tmp)
    path.write_text(path.read_text().replace("passphrase_file", "# passphrase_file"))
    command = [sys.executable, "-m", "dux_flopd", "keystore", "create", "--config", str(path)]
    terminal, inner = pty.openpty()
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True) as process:
        os.close(inner)
        shown = _read(terminal)
        os.write(terminal, b"\x04")
        while chunk := _read(terminal):
            shown += chunk
        assert process.wait(60) == 2
    os.close(terminal)
    assert "Nothing was typed, so nothing was made or shown." in shown.decode()
    assert not (short_tmp / "keystore.json").exists()


@pytest.mark.parametrize("words", [["create", "--unattended"], ["public"]], ids=" ".join)
def test_a_program_that_sends_no_passphrase_is_told_so(short_tmp: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "dux_flopd", "keystore", *words, "--config", str(config(short_tmp))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["message"] == "no passphrase was given"
    assert not (short_tmp / "keystore.json").exists()


def test_a_keystore_of_a_newer_version_is_named_as_such(short_tmp: Path) -> None:
    path = short_tmp / "keys.json"
    path.write_text('{"format": 2, "cipher": "better"}')
    path.chmod(0o600)
    with pytest.raises(NewerFormat, match="format 2; this version of Dux OS knows 1") as caught:
        Keystore.open(path)
    assert "newer version" in caught.value.hint
