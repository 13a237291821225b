"""The node's coin keys: BIP39 words, BIP32 keys, in one encrypted file.

The file is JSON. Its header (key derivation parameters, salt, nonce, payout public key) is readable and bound to the
ciphertext as associated data; the words are encrypted with AES-256-GCM under a key that scrypt makes of the
passphrase. All keys are hardened children, so that no public key and no leaked child tells anything of another:

    m/3255'/0'/0'   the payout key: the provider's key in all channels, stable for the life of the node
    m/3255'/1'/n'   the n-th key that a daemon of this node asked for
    m/3255'/2'/0'   the node's key as a guardian of the community fund
    m/3255'/3'/0'   the node's key as an arbiter
"""

import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from bip39_slip39 import bip39
from bip39_slip39.exceptions import Bip39Slip39Exception
from btclib_secp256k1 import keys
from btclib_wallet.bip32 import BIP32KeyData, derive_, rootxprv_from_seed_
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, ValidationError

from duxcommon.api.common import Hex, Model, PubKey
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
from duxcommon.files import sync_directory, write_atomic

PAYOUT_PATH = "m/3255h/0h/0h"
GUARDIAN_PATH = "m/3255h/2h/0h"
ARBITER_PATH = "m/3255h/3h/0h"
"""Keys of a node that guards a network's fund or arbitrates; they stand in the network definition."""
SCRYPT_LOG_N = 17
"""scrypt's cost: 2**17 blocks of 1 KiB, 128 MiB and about half a second a try."""
MIN_LOG_N = 10
"""For passphrases that nobody can guess anyway."""
MIN_PASSPHRASE = 8
FORMAT = 1
"""Of the file."""
_MAX_FILE = 65_536
_XPRV = bytes.fromhex("0488ade4")  # the version only serves to spell the key, which never happens


def caller_path(number: int) -> str:
    """Path of the `number`-th key that was made for a daemon."""
    return f"m/3255h/1h/{number}h"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its compressed public key."""

    secret: bytes = field(repr=False)
    pubkey: bytes


class _Header(Model):
    """The readable part of the file."""

    format: Literal[1]
    kdf: Literal["scrypt"]
    log_n: Annotated[int, Field(ge=MIN_LOG_N, le=20)]
    """Bounded, so that a foreign file can't take all the memory."""
    r: Literal[8]
    p: Literal[1]
    salt: Annotated[Hex, Field(min_length=32, max_length=64)]
    cipher: Literal["AES-256-GCM"]
    nonce: Annotated[Hex, Field(min_length=24, max_length=24)]
    payout: PubKey
    """Readable, so that the payout address can be shown while the keystore is locked."""
    restored: bool
    """Made from words that existed before: the chain may already hold coins of these keys."""


class _File(_Header):
    data: Annotated[Hex, Field(max_length=8192)]


class Keystore:
    """One node's keys; locked until `unlock`."""

    def __init__(self, path: Path, file: _File) -> None:
        self.path = path
        self._file = file
        self._root: BIP32KeyData | None = None
        self._words: str | None = None
        self._derived: dict[str, KeyPair] = {}

    @classmethod
    def create(cls, path: Path, passphrase: str, words: str | None = None, *, log_n: int = SCRYPT_LOG_N) -> "Keystore":
        """Make the file (mode 0600, whole or not at all) and return the unlocked keystore.

        Without `words`, 24 new ones are drawn. `log_n` is scrypt's cost as a power of two. Raises KeystoreExists,
        BadWords, and InvalidParams for a passphrase of less than eight characters.
        """
        if len(passphrase) < MIN_PASSPHRASE:
            raise InvalidParams(
                f"a passphrase has at least {MIN_PASSPHRASE} characters", hint="Four or more random words are good."
            )
        sentence = normal_words(words) if words is not None else bip39.mnemonic_from_entropy(secrets.token_bytes(32))
        root = _root_of(sentence)
        header = _Header(
            format=1,
            kdf="scrypt",
            log_n=log_n,
            r=8,
            p=1,
            salt=secrets.token_hex(32),
            cipher="AES-256-GCM",
            nonce=secrets.token_hex(12),
            payout=_derive(root, PAYOUT_PATH).pubkey.hex(),
            restored=words is not None,
        )
        sealed = AESGCM(_stretch(header, passphrase)).encrypt(
            bytes.fromhex(header.nonce), sentence.encode(), _bound(header)
        )
        file = _File(**header.model_dump(), data=sealed.hex())
        _write_new(path, json.dumps(file.model_dump(), indent=1).encode() + b"\n")
        keystore = cls(path, file)
        keystore._root, keystore._words = root, sentence
        return keystore

    @classmethod
    def open(cls, path: Path) -> "Keystore":
        """The locked keystore in `path`.

        Raises KeystoreMissing, KeyFileUnsafe (also when it can't be read), NewerFormat or KeystoreDamaged.
        """
        try:
            with path.open("rb") as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                data = stream.read(_MAX_FILE)
        except FileNotFoundError:
            raise KeystoreMissing(f"there is no keystore at {path}") from None
        except OSError as error:
            raise _unreadable(path, error) from error
        if mode & 0o077:
            raise KeyFileUnsafe(f"{path} can be read by other users (mode {mode:04o})")
        if not data:
            raise KeystoreDamaged(f"{path} is empty: the keystore was lost outside of Dux OS") from None
        try:
            value = json.loads(data)
            if isinstance(value, dict) and isinstance(made := value.get("format"), int) and made > FORMAT:
                raise NewerFormat(f"{path} is a keystore of format {made}; this version of Dux OS knows {FORMAT}")
            return cls(path, _File.model_validate(value))
        except (ValidationError, ValueError, RecursionError):
            # Without the details: an error text that quotes a key file may end up in a log.
            raise KeystoreDamaged(f"{path} is not a keystore, or is damaged") from None

    @property
    def locked(self) -> bool:
        """Whether the private keys are out of reach."""
        return self._root is None

    @property
    def restored(self) -> bool:
        """Whether it was made from words that existed before."""
        return self._file.restored

    @property
    def payout_pubkey(self) -> bytes:
        """The stable payout key; known even while locked."""
        return bytes.fromhex(self._file.payout)

    @property
    def words(self) -> str:
        """The recovery words. Raises WalletLocked."""
        if self._words is None:
            raise WalletLocked("the keystore is locked")
        return self._words

    def unlock(self, passphrase: str) -> None:
        """Make the private keys usable; takes about half a second of CPU. Raises WrongPassphrase, KeystoreDamaged."""
        header = _Header(**self._file.model_dump(exclude={"data"}))
        try:
            opened = AESGCM(_stretch(header, passphrase)).decrypt(
                bytes.fromhex(header.nonce), bytes.fromhex(self._file.data), _bound(header)
            )
        except InvalidTag:
            raise WrongPassphrase(f"the passphrase does not open {self.path}, or the file was changed") from None
        try:
            root = _root_of(opened.decode())
        except (BadWords, UnicodeDecodeError):
            raise KeystoreDamaged(f"{self.path} opens, but does not hold recovery words") from None
        if _derive(root, PAYOUT_PATH).pubkey.hex() != header.payout:
            raise KeystoreDamaged(f"{self.path} names another payout key than its words give")
        self._root, self._words = root, opened.decode()

    def lock(self) -> None:
        """Forget the private keys (as far as Python lets go of memory)."""
        self._root, self._words = None, None
        self._derived.clear()

    def key(self, path: str) -> KeyPair:
        """The key at a hardened path, such as `PAYOUT_PATH`; kept after its first use. Raises WalletLocked."""
        if self._root is None:
            raise WalletLocked("the keystore is locked")
        pair = self._derived.get(path)
        if pair is None:
            pair = self._derived[path] = _derive(self._root, path)
        return pair


def normal_words(words: str) -> str:
    """Recovery words in lower case with single spaces. Raises BadWords unless they are a valid English sentence."""
    sentence = " ".join(words.lower().split())
    try:
        valid = bip39.is_valid_mnemonic(sentence, "en")
    except Bip39Slip39Exception:
        valid = False
    if not valid:
        count = len(sentence.split())
        raise BadWords(f"these {count} words are no recovery words: one is misspelt, missing or in the wrong place")
    return sentence


def read_passphrase(path: Path, *, private: bool = True) -> str:
    """The first line of a passphrase file.

    Raises KeyFileUnsafe when other users can read it (unless `private` is False), this daemon can't, or nothing is in
    it, and KeystoreMissing without a file.
    """
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(4096)
    except FileNotFoundError:
        raise KeystoreMissing(
            f"there is no passphrase file at {path}", hint="Mend `passphrase_file` in flopd.yaml."
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if private and mode & 0o077:
        raise KeyFileUnsafe(f"{path} can be read by other users (mode {mode:04o})")
    line = data.decode("utf-8", "replace").partition("\n")[0].strip("\r")
    if not line:
        raise KeyFileUnsafe(f"{path} holds no passphrase: its first line is empty", hint="Make the file again.")
    return line


def _unreadable(path: Path, error: OSError) -> KeyFileUnsafe:
    return KeyFileUnsafe(
        f"{path} can't be read: {error.strerror}", hint=f"Give it to the user of dux-flopd alone: see `ls -l {path}`."
    )


def _write_new(path: Path, data: bytes) -> None:
    """A new file that appears whole; an existing one is never replaced, not even by a second process at once."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_atomic(part, data, mode=0o600)
    try:
        os.link(part, path)
    except FileExistsError:
        raise KeystoreExists(f"{path} exists already") from None
    finally:
        part.unlink()
    sync_directory(path.parent)


def _stretch(header: _Header, passphrase: str) -> bytes:
    return Scrypt(bytes.fromhex(header.salt), 32, 2**header.log_n, header.r, header.p).derive(passphrase.encode())


def _bound(header: _Header) -> bytes:
    return json.dumps(header.model_dump(), sort_keys=True, separators=(",", ":")).encode()


def _root_of(sentence: str) -> BIP32KeyData:
    return rootxprv_from_seed_(bip39.seed_from_mnemonic(normal_words(sentence), ""), _XPRV)


def _derive(root: BIP32KeyData, path: str) -> KeyPair:
    secret = derive_(root, path).key[1:]
    return KeyPair(secret, keys.pubkey_from_prvkey(secret))
