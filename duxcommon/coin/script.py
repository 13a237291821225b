"""Output scripts, the escrow template, addresses, and the note that a funding transaction carries."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from btclib import base58
from btclib.exceptions import BTClibValueError
from btclib.hashes import hash160
from btclib.script.script import push_int, serialize
from btclib_secp256k1 import keys

from ..errors import BadAddress, BadKey, BadTerms
from .params import ChainParams

MAX_LOCK_HEIGHT = 499_999_999
"""Above this, a lock time is a clock time, which no part of the system uses."""

MAX_ESCROW_SIZE = 151
"""Bytes of the escrow script at most: 149 up to height 32,767, 150 up to 8,388,607."""

_KEY = 33
_PUSH_KEY = b"\x21"
_IF, _ELSE, _ENDIF = b"\x63", b"\x67", b"\x68"
_CHECKSIG, _CHECKSIGVERIFY, _CHECKMULTISIG = b"\xac", b"\xad", b"\xae"
_CLTV, _DROP, _RETURN = b"\xb1", b"\x75", b"\x6a"
_HEIGHT_AT = 1 + 34 + 1 + 1 + 34 + 34 + 1 + 1 + 1  # offset of the height's push in the escrow script
_NOTE_TAG = b"DUX\x01"
_NOTE_SIZE = len(_NOTE_TAG) + 2 * _KEY + 4


@dataclass(frozen=True, slots=True)
class EscrowTerms:
    """What a channel's script says: three compressed public keys and the height from which the buyer can refund."""

    provider: bytes
    buyer: bytes
    arbiter: bytes
    lock_height: int

    def script(self) -> bytes:
        """The redeem script; raises BadTerms when no valid one can be made of these terms."""
        return escrow_script(self.provider, self.buyer, self.arbiter, self.lock_height)

    def channel_id(self) -> str:
        """SHA-256 of the redeem script, hex: the channel's id on both sides."""
        return hashlib.sha256(self.script()).hexdigest()


@dataclass(frozen=True, slots=True)
class FundingNote:
    """What a funding transaction says in its OP_RETURN: with the buyer's own keys, enough to rebuild the script."""

    provider: bytes
    arbiter: bytes
    lock_height: int

    def encode(self) -> bytes:
        """The 74 bytes of data; raises BadTerms for keys or heights that no escrow script can have."""
        _check_keys(self.provider, self.arbiter)
        _check_height(self.lock_height)
        return _NOTE_TAG + self.provider + self.arbiter + self.lock_height.to_bytes(4, "big")

    @classmethod
    def decode(cls, data: bytes) -> "FundingNote | None":
        """The note in `data`, or None when that is something else."""
        if len(data) != _NOTE_SIZE or not data.startswith(_NOTE_TAG):
            return None
        at = len(_NOTE_TAG)
        provider, arbiter = data[at : at + _KEY], data[at + _KEY : at + 2 * _KEY]
        note = cls(provider, arbiter, int.from_bytes(data[-4:], "big"))
        try:
            note.encode()
        except BadTerms:
            return None
        return note


def is_pubkey(key: bytes) -> bool:
    """Whether `key` is a compressed public key that is a point of the curve."""
    return len(key) == _KEY and keys.pubkey_verify(key)


def _check_keys(*given: bytes) -> None:
    for key in given:
        if not is_pubkey(key):
            raise BadTerms(f"{key.hex()[:80]} is not a compressed public key")
    if len(set(given)) != len(given):
        # With provider = arbiter the provider alone could take the whole deposit.
        raise BadTerms("provider, buyer and arbiter must have three different keys")


def _check_height(height: int) -> None:
    if not 1 <= height <= MAX_LOCK_HEIGHT:
        raise BadTerms(f"a lock height is between 1 and {MAX_LOCK_HEIGHT}, not {height}")


def _assemble(terms: EscrowTerms) -> bytes:
    return b"".join(
        (
            _IF + _PUSH_KEY,
            terms.provider,
            _CHECKSIGVERIFY + b"\x51" + _PUSH_KEY,
            terms.buyer,
            _PUSH_KEY,
            terms.arbiter,
            b"\x52" + _CHECKMULTISIG + _ELSE,
            serialize([push_int(terms.lock_height)]),
            _CLTV + _DROP + _PUSH_KEY,
            terms.buyer,
            _CHECKSIG + _ENDIF,
        )
    )


@lru_cache(maxsize=1024)
def escrow_script(provider: bytes, buyer: bytes, arbiter: bytes, lock_height: int) -> bytes:
    """The channel's redeem script; raises BadTerms.

    `IF <provider> CHECKSIGVERIFY 1 <buyer> <arbiter> 2 CHECKMULTISIG
    ELSE <height> CHECKLOCKTIMEVERIFY DROP <buyer> CHECKSIG ENDIF`, every push minimal. Before the height nothing
    moves without the provider's signature and one more; from the height on the buyer can take what is left alone.
    """
    _check_keys(provider, buyer, arbiter)
    _check_height(lock_height)
    return _assemble(EscrowTerms(provider, buyer, arbiter, lock_height))


def parse_escrow(script: bytes) -> EscrowTerms | None:
    """The terms of an escrow script, or None unless `escrow_script` makes exactly these bytes of them."""
    if not _HEIGHT_AT < len(script) <= MAX_ESCROW_SIZE:
        return None
    first = script[_HEIGHT_AT]
    if 0x51 <= first <= 0x60:  # OP_1 to OP_16
        height = first - 0x50
    elif 1 <= first <= 4:
        height = int.from_bytes(script[_HEIGHT_AT + 1 : _HEIGHT_AT + 1 + first], "little")
    else:
        return None
    terms = EscrowTerms(script[2:35], script[38:71], script[72:105], height)
    try:
        return terms if terms.script() == script else None
    except BadTerms:
        return None


def p2sh_script(redeem: bytes) -> bytes:
    """The output script that pays to a redeem script's hash."""
    return b"\xa9\x14" + hash160(redeem) + b"\x87"


def p2pkh_script(pubkey: bytes) -> bytes:
    """The output script that pays to a public key's hash."""
    return b"\x76\xa9\x14" + hash160(pubkey) + b"\x88\xac"


def is_p2sh(script: bytes) -> bool:
    """Whether an output script pays to a script hash."""
    return len(script) == 23 and script[:2] == b"\xa9\x14" and script[22:] == b"\x87"


def is_p2pkh(script: bytes) -> bool:
    """Whether an output script pays to a public key hash."""
    return len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac"


def multisig_script(m: int, pubkeys: Sequence[bytes]) -> bytes:
    """The m-of-n redeem script with the keys in the order given; raises BadTerms.

    At most 15 keys: P2SH scripts are standard up to 15 signature operations and 520 bytes.
    """
    if not 1 <= m <= len(pubkeys) <= 15:
        raise BadTerms(f"{m} of {len(pubkeys)} keys is not between 1 of 1 and 15 of 15")
    _check_keys(*pubkeys)
    pushes = b"".join(_PUSH_KEY + key for key in pubkeys)
    return bytes([0x50 + m]) + pushes + bytes([0x50 + len(pubkeys)]) + _CHECKMULTISIG


def op_return_script(data: bytes) -> bytes:
    """The output script that carries up to 80 bytes of data; raises BadTerms for more."""
    if not 1 <= len(data) <= 80:
        raise BadTerms(f"an output carries 1 to 80 bytes of data, not {len(data)}")
    return _RETURN + serialize([data])


def op_return_data(script: bytes) -> bytes | None:
    """The data of an output made by `op_return_script`, or None for any other script."""
    data = script[2:] if len(script) <= 77 else script[3:]
    return data if 1 <= len(data) <= 80 and op_return_script(data) == script else None


def address_of(script: bytes, params: ChainParams) -> str | None:
    """The address of a P2PKH or P2SH output script on a chain; None for other scripts."""
    if is_p2pkh(script):
        return base58.encode(bytes([params.p2pkh]) + script[3:23]).decode()
    if is_p2sh(script):
        return base58.encode(bytes([params.p2sh]) + script[2:22]).decode()
    return None


def script_of(address: str, params: ChainParams) -> bytes:
    """The output script of an address; raises BadAddress for typing errors and for addresses of other chains."""
    try:
        payload = base58.decode(address, 21)
    except BTClibValueError:
        raise BadAddress(f"{address[:60]!r} is not an address") from None
    version, digest = payload[0], payload[1:]
    if version == params.p2pkh:
        return b"\x76\xa9\x14" + digest + b"\x88\xac"
    if version == params.p2sh:
        return b"\xa9\x14" + digest + b"\x87"
    raise BadAddress(f"{address} belongs to another chain than {params.name}")


def wif_of(secret: bytes, params: ChainParams) -> str:
    """A 32-byte private key as Core imports it (compressed public key)."""
    return base58.encode(bytes([params.wif]) + secret + b"\x01").decode()


def secret_of(wif: str, params: ChainParams) -> bytes:
    """The private key of a WIF text; raises BadKey without repeating the text."""
    try:
        payload = base58.decode(wif, 34)
    except BTClibValueError:
        raise BadKey("this is not an exported private key") from None
    if payload[0] != params.wif or payload[33:] != b"\x01" or not keys.prvkey_verify(payload[1:33]):
        raise BadKey(f"this is not a private key of chain {params.name}")
    return payload[1:33]


def pubkey_of(secret: bytes) -> bytes:
    """The compressed public key of a 32-byte private key."""
    return keys.pubkey_from_prvkey(secret)
