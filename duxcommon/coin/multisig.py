"""Spending m-of-n outputs together: sizes, the signatures of each key, and one transaction made of them. Pure: no I/O.

A transaction of the community fund spends up to two hundred such outputs and pays thousands, so the hashes that its
signatures commit to are made in one pass instead of writing the whole transaction anew for each input.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from btclib import var_int
from btclib.script.script import serialize as _serialize_script
from btclib.tx import Tx

from ..errors import BadTerms, BadTransaction, SignaturesMissing
from ..money import DUST
from .script import multisig_script, p2sh_script
from .tx import (
    KOINU_PER_BYTE,
    MAX_SIG,
    SIGHASH_ALL,
    check_digest,
    serialize_tx,
    sign_digest,
    verify_tx,
    with_script_sigs,
)

MAX_STANDARD_SIZE = 100_000
"""Bytes of the largest transaction that nodes relay."""

_BLANK_INPUT = 36 + 1 + 4
_KEY = 33
_CHECKMULTISIG = 0xAE

ByKey = Mapping[bytes, Sequence[bytes | None]]
"""Public key → one signature for each input, None where the input's script does not name the key."""


@dataclass(frozen=True, slots=True)
class Multisig:
    """`m` signatures of these keys, in this order."""

    m: int
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """An input that lacks signatures."""

    index: int
    lacking: int
    """So many more are needed."""
    unsigned: tuple[bytes, ...]
    """Keys of its script without a good signature, in the script's order."""


@lru_cache(maxsize=1024)
def parse_multisig(redeem: bytes) -> Multisig | None:
    """What a redeem script asks for, or None unless `multisig_script` makes exactly these bytes of it."""
    count, rest = divmod(len(redeem) - 3, 1 + _KEY)
    if count < 1 or rest or redeem[-1] != _CHECKMULTISIG:
        return None
    keys = tuple(redeem[at : at + _KEY] for at in range(2, len(redeem) - 2, 1 + _KEY))
    try:
        return Multisig(redeem[0] - 0x50, keys) if multisig_script(redeem[0] - 0x50, keys) == redeem else None
    except BadTerms:
        return None


def _parsed(tx: Tx, redeems: Sequence[bytes]) -> list[Multisig]:
    if len(redeems) != len(tx.vin):
        raise BadTransaction(f"{len(redeems)} redeem scripts given for {len(tx.vin)} inputs")
    found = [parse_multisig(redeem) for redeem in redeems]
    if None in found:
        raise BadTransaction(f"the redeem script of input {found.index(None)} is no m-of-n script")
    return [script for script in found if script is not None]


# --- sizes and fees ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def input_size(m: int, n: int) -> int:
    """Bytes of a signed m-of-n input at most, outpoint and sequence included; raises BadTerms for an impossible one."""
    if not 1 <= m <= n <= 15:
        raise BadTerms(f"{m} of {n} keys is not between 1 of 1 and 15 of 15")
    redeem = len(_serialize_script([bytes(3 + n * (1 + _KEY))]))
    script_sig = 1 + m * (1 + MAX_SIG) + redeem
    return 36 + len(var_int.serialize(script_sig)) + script_sig + 4


def signed_size(tx: Tx, redeems: Sequence[bytes]) -> int:
    """Bytes of the transaction at most once it is signed; its signatures so far don't matter. Raises BadTransaction."""
    scripts = _parsed(tx, redeems)
    return len(_blank(tx)) + sum(input_size(script.m, len(script.keys)) - _BLANK_INPUT for script in scripts)


def max_fee(size: int) -> int:
    """Koinu that a transaction of `size` bytes may pay at most: 5 % above the rule, and one dust that no output took.

    A sane limit for transactions over many inputs, where a fixed one would stop honest ones or no false ones.
    """
    return size * KOINU_PER_BYTE * 105 // 100 + DUST


# --- signing -------------------------------------------------------------------------------------------------------


def _blank(tx: Tx) -> bytes:
    """The transaction's bytes with empty input scripts."""
    return serialize_tx(with_script_sigs(tx, [b""] * len(tx.vin)))


def digests(tx: Tx, redeems: Sequence[bytes]) -> Iterator[bytes]:
    """The 32 bytes that a SIGHASH_ALL signature of each input commits to; the same as `tx.sighash` of each."""
    raw = memoryview(_blank(tx))
    first = 4 + len(var_int.serialize(len(tx.vin)))
    running = hashlib.sha256(raw[:first])
    tail = SIGHASH_ALL.to_bytes(4, "little")
    for index, redeem in enumerate(redeems):
        at = first + index * _BLANK_INPUT
        after = at + _BLANK_INPUT
        whole = running.copy()
        whole.update(raw[at : at + 36])
        whole.update(var_int.serialize(len(redeem)) + redeem)
        whole.update(raw[after - 4 :])
        whole.update(tail)
        yield hashlib.sha256(whole.digest()).digest()
        running.update(raw[at:after])


def sign(tx: Tx, redeems: Sequence[bytes], pubkey: bytes, secret: bytes) -> list[bytes | None]:
    """The key's signature of each input whose script names it (RFC 6979: always the same bytes), None for others."""
    scripts = _parsed(tx, redeems)
    return [
        sign_digest(digest, secret) if pubkey in script.keys else None
        for script, digest in zip(scripts, digests(tx, redeems), strict=True)
    ]


# --- checking and merging ------------------------------------------------------------------------------------------


def _fault(scripts: Sequence[Multisig], hashes: Sequence[bytes], key: bytes, given: Sequence[bytes | None]) -> str:
    """What is wrong with a key's signatures; empty when nothing is."""
    if not any(key in script.keys for script in scripts):
        return "no input can be signed with this key"
    if len(given) != len(scripts):
        return f"{len(given)} signatures for {len(scripts)} inputs"
    for index, (script, digest, signature) in enumerate(zip(scripts, hashes, given, strict=True)):
        if key not in script.keys:
            if signature is not None:
                return f"a signature for input {index}, whose script does not name this key"
        elif signature is None:
            return f"no signature for input {index}"
        elif not check_digest(digest, key, signature):
            return f"the signature for input {index} is not this key's, or would not relay"
    return ""


def check_signatures(tx: Tx, redeems: Sequence[bytes], pubkey: bytes, signatures: Sequence[bytes | None]) -> bool:
    """Whether these are the key's signatures of all inputs that name it, and None for all others."""
    return not faults(tx, redeems, {pubkey: signatures})


def faults(tx: Tx, redeems: Sequence[bytes], by_key: ByKey) -> dict[bytes, str]:
    """What is wrong with each key's signatures: wrong, missing, of another key, too many; faultless keys are absent."""
    scripts, hashes = _parsed(tx, redeems), list(digests(tx, redeems))
    found = {key: _fault(scripts, hashes, key, given) for key, given in by_key.items()}
    return {key: fault for key, fault in found.items() if fault}


def _good(tx: Tx, redeems: Sequence[bytes], by_key: ByKey) -> Iterator[tuple[Multisig, list[tuple[bytes, bytes]]]]:
    """Each input's script and its good signatures with their keys, in the script's order, as many as are needed."""
    for index, (script, digest) in enumerate(zip(_parsed(tx, redeems), digests(tx, redeems), strict=True)):
        found: list[tuple[bytes, bytes]] = []
        for key in script.keys:
            given = by_key.get(key, ())
            signature = given[index] if index < len(given) else None
            if len(found) < script.m and signature is not None and check_digest(digest, key, signature):
                found.append((key, signature))
        yield script, found


def missing(tx: Tx, redeems: Sequence[bytes], by_key: ByKey) -> list[Shortage]:
    """The inputs that these signatures don't suffice for; bad signatures count as none. Empty: it can be merged."""
    return [
        Shortage(index, script.m - len(found), _without(script, found))
        for index, (script, found) in enumerate(_good(tx, redeems, by_key))
        if len(found) < script.m
    ]


def _without(script: Multisig, found: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    signed = {key for key, _ in found}
    return tuple(key for key in script.keys if key not in signed)


def merge(tx: Tx, redeems: Sequence[bytes], by_key: ByKey) -> Tx:
    """The signed transaction: of each input the first m good signatures in the order of the keys, bad ones left out.

    So whoever merges the same signatures gets the same bytes, and a few liars stop nothing. Raises SignaturesMissing,
    which names the keys that are missing and what is wrong with those that are there, and BadTransaction.
    """
    parts = list(_good(tx, redeems, by_key))
    if any(len(found) < script.m for script, found in parts):
        raise _too_few(tx, redeems, by_key)
    script_sigs = [
        b"\x00" + _serialize_script([*(signature for _, signature in found), redeem])
        for redeem, (_, found) in zip(redeems, parts, strict=True)
    ]
    return with_script_sigs(tx, script_sigs)


def _too_few(tx: Tx, redeems: Sequence[bytes], by_key: ByKey) -> SignaturesMissing:
    shortages = missing(tx, redeems, by_key)
    first = shortages[0]
    wrong = {key.hex(): fault for key, fault in faults(tx, redeems, by_key).items()}
    return SignaturesMissing(
        f"{len(shortages)} of {len(redeems)} inputs lack signatures: input {first.index} needs {first.lacking} more",
        details={"missing": [key.hex() for key in first.unsigned], "wrong": wrong},
    )


def verify(tx: Tx, redeems: Sequence[bytes], amounts: Sequence[int]) -> int:
    """Run the script engine on every input, as a node does before it relays; returns the fee in koinu.

    `amounts` are those of the outputs that are spent. Raises ScriptRefused, BadTransaction.
    """
    if not len(amounts) == len(redeems) == len(tx.vin):
        raise BadTransaction(f"{len(redeems)} scripts and {len(amounts)} amounts given for {len(tx.vin)} inputs")
    return verify_tx(tx, [(p2sh_script(redeem), amount) for redeem, amount in zip(redeems, amounts, strict=True)])
