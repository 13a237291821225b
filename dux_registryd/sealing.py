"""How a signed record looks in the directory: compressed, then sealed under a key of the network. Pure.

Whoever has the network definition can read it; a passer-by learns nothing but sizes and times. The nonce comes
from the content, so that the same record is the same bytes whoever puts it: engines then refresh one value
instead of storing many.
"""

import hashlib
import hmac
import zlib
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from duxcommon.api.common import SignedRecord
from duxcommon.errors import BadRecord, ParseError, RecordTooLarge
from duxcommon.records import canonical, parse_record
from duxcommon.rpc import wire

MAX_SEALED = 56 * 1024
"""Bytes of a value; OpenDHT slows down sharply above and refuses 64 KiB."""
MAX_PLAIN = 256 * 1024
"""Bytes of a record once it is unpacked: a small value must not fill the memory."""
VERSION = b"\x01"
NONCE = 12
LEVEL = 6


class Foreign(Exception):
    """Not sealed for this network (or damaged)."""


class Seal:
    """The network's key for the directory."""

    def __init__(self, network: str) -> None:
        keys = HKDF(SHA256(), 64, salt=None, info=b"dux-directory-v1").derive(bytes.fromhex(network))
        self._cipher = AESGCM(keys[:32])
        self._nonce_key = keys[32:]

    def seal(self, record: SignedRecord) -> bytes:
        """The value for the directory. Raises RecordTooLarge, and BadRecord for what can't be signed either."""
        plain = canonical(record.model_dump())
        packed = zlib.compress(plain, LEVEL)
        nonce = hmac.digest(self._nonce_key, packed, "sha256")[:NONCE]
        sealed = VERSION + nonce + self._cipher.encrypt(nonce, packed, VERSION)
        if len(sealed) > MAX_SEALED or len(plain) > MAX_PLAIN:
            raise RecordTooLarge(f"a {record.kind} record of {len(sealed)} bytes, packed ({MAX_SEALED} are allowed)")
        return sealed

    def open(self, sealed: bytes) -> SignedRecord:
        """The record in a value, its signature not checked yet. Raises Foreign, RecordTooLarge or BadRecord."""
        if len(sealed) > MAX_SEALED:
            raise RecordTooLarge(f"a value of {len(sealed)} bytes")
        if sealed[:1] != VERSION:
            raise Foreign
        try:
            packed = self._cipher.decrypt(sealed[1 : 1 + NONCE], sealed[1 + NONCE :], VERSION)
        except (InvalidTag, ValueError):
            raise Foreign from None
        return parse_record(_unpack(packed))


def _unpack(packed: bytes) -> Any:
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(packed, MAX_PLAIN + 1)
    except zlib.error:
        raise BadRecord("a record that can't be unpacked") from None
    if len(plain) > MAX_PLAIN or not inflate.eof:
        raise RecordTooLarge(f"a record of more than {MAX_PLAIN} bytes when unpacked")
    try:
        return wire.loads(plain)
    except ParseError as error:
        raise BadRecord(error.message) from None


def value_id(sealed: bytes) -> int:
    """The value's 64-bit id in the engine, from its content: nobody else can take it for other bytes beforehand."""
    return int.from_bytes(hashlib.sha256(sealed).digest()[:8], "big") or 1
