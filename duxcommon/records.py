"""Signed records: canonical JSON bodies that a node signs and any other node can check.

Signed bytes: `dux-record-v1\\n` and the canonical JSON of every field but `sig`. The network's id is one of
the fields, so that nothing can be replayed on another network.
"""

import hashlib
import json
import time as clock
from typing import Any

from pydantic import ValidationError

from .api.common import SignedRecord
from .errors import BadRecord, BadSignature, WrongNetwork
from .identity import Identity, verify

DOMAIN = b"dux-record-v1\n"
MAX_DEPTH = 32
MAX_AHEAD_S = 300
"""A record may be dated this far ahead of our clock, in seconds."""


def _check(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadRecord(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadRecord("an object's key is not a string")
            _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    else:
        # Two programs print the same float differently; integers and text have one form.
        raise BadRecord(f"a record may not hold a {type(value).__name__}")


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8. Raises BadRecord for floats and NaN."""
    _check(value, 0)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRecord("text that is not valid Unicode") from error
    except ValueError as error:
        raise BadRecord("a number with thousands of digits") from error


def signed_bytes(record: SignedRecord) -> bytes:
    """What the signature of `record` covers."""
    return DOMAIN + canonical(record.model_dump(exclude={"sig"}))


def record_hash(record: SignedRecord) -> str:
    """SHA-256 of the signed bytes, hex: names a record independently of its signature."""
    return hashlib.sha256(signed_bytes(record)).hexdigest()


def sign_record(
    identity: Identity, kind: str, network: str, seq: int, body: dict[str, Any], *, time: int | None = None
) -> SignedRecord:
    """A record of this node, dated `time` (Unix seconds; now by default)."""
    moment = int(clock.time()) if time is None else time
    blank = SignedRecord(
        kind=kind, network=network, node=identity.node_id, seq=seq, time=moment, body=body, sig="0" * 128
    )
    return blank.model_copy(update={"sig": identity.sign(signed_bytes(blank)).hex()})


def parse_record(data: Any) -> SignedRecord:
    """A record from untrusted JSON data; its signature is not checked yet. Raises BadRecord."""
    try:
        return SignedRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "record"
        raise BadRecord(f"{place}: {first['msg']}") from error


def verify_record(record: SignedRecord, *, kind: str, network: str, node: str | None = None) -> None:
    """Check kind, network, signer and signature.

    Raises BadRecord, WrongNetwork or BadSignature. `node` names the only signer that is accepted.
    """
    if record.kind != kind:
        raise BadRecord(f"expected a record of kind {kind}, got {record.kind}")
    if record.network != network:
        raise WrongNetwork(f"the record belongs to network {record.network[:16]}…, this node to {network[:16]}…")
    if node is not None and record.node != node:
        raise BadSignature(f"signed by node {record.node[:16]}…, expected {node[:16]}…")
    if record.time > clock.time() + MAX_AHEAD_S:
        raise BadRecord("dated in the future", hint="Set the clocks of both machines (NTP).")
    if not verify(record.node, bytes.fromhex(record.sig), signed_bytes(record)):
        raise BadSignature(f"the signature of node {record.node[:16]}… does not match the record")
