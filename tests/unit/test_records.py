"""Signed records: one byte form, one signer, one network."""

import time
from pathlib import Path
from typing import Any

import pytest

from duxcommon.api.common import SignedRecord
from duxcommon.errors import BadRecord, BadSignature, KeyFileUnsafe, WrongNetwork
from duxcommon.identity import Identity, verify
from duxcommon.records import canonical, parse_record, record_hash, sign_record, signed_bytes, verify_record

NETWORK = "11" * 32
OTHER = "22" * 32
IDENTITY = Identity(bytes(range(32)))


def record(**body: Any) -> SignedRecord:
    return sign_record(IDENTITY, "listing", NETWORK, 3, body or {"name": "äpp", "price": 5}, time=1_700_000_000)


def test_a_record_is_accepted_by_anyone_who_knows_kind_and_network() -> None:
    signed = record()
    verify_record(signed, kind="listing", network=NETWORK)
    verify_record(signed, kind="listing", network=NETWORK, node=IDENTITY.node_id)
    verify_record(parse_record(signed.model_dump(mode="json")), kind="listing", network=NETWORK)


def test_the_byte_form_is_fixed_for_all_time() -> None:
    assert canonical({"b": [1, True, None], "a": "ä\n", "ab": -5}) == '{"a":"ä\\n","ab":-5,"b":[1,true,null]}'.encode()
    assert signed_bytes(record()) == (
        b'dux-record-v1\n{"body":{"name":"\xc3\xa4pp","price":5},"kind":"listing","network":"' + NETWORK.encode()
        + b'","node":"' + IDENTITY.node_id.encode() + b'","seq":3,"time":1700000000}'
    )  # fmt: skip
    # Ed25519 is deterministic: a change of either value is a change of the protocol.
    assert record_hash(record()) == "0998493b9bb05f58afbde0f5e13548523d2c932cadd93e1aa22a1018702824a9"
    assert record().sig.startswith("7cfa6b034e51f69bcfe5dab72b114165")


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 4},
        {"time": 1_700_000_001},
        {"body": {"name": "äpp", "price": 6}},
        {"body": {"name": "äpp", "price": 5, "more": 1}},
        {"body": {}},
        {"node": Identity(b"x" * 32).node_id},
        {"sig": "00" * 64},
        {"node": "00" * 32},
        {"node": "ff" * 32},
    ],
)
def test_a_record_that_was_changed_anywhere_is_refused(change: dict[str, Any]) -> None:
    forged = record().model_copy(update=change)
    with pytest.raises(BadSignature) as caught:
        verify_record(forged, kind="listing", network=NETWORK)
    assert caught.value.code == 1010
    assert "ignored" in caught.value.hint


def test_a_record_of_another_kind_network_or_node_is_refused_though_its_signature_is_good() -> None:
    with pytest.raises(BadRecord, match="expected a record of kind order, got listing"):
        verify_record(record(), kind="order", network=NETWORK)
    with pytest.raises(WrongNetwork) as caught:
        verify_record(record(), kind="listing", network=OTHER)
    assert caught.value.hint
    with pytest.raises(BadSignature, match="expected"):
        verify_record(record(), kind="listing", network=NETWORK, node="ab" * 32)
    # Renaming it to fit breaks the signature.
    with pytest.raises(BadSignature):
        verify_record(record().model_copy(update={"network": OTHER}), kind="listing", network=OTHER)


def test_a_record_from_the_future_is_refused() -> None:
    ahead = sign_record(IDENTITY, "listing", NETWORK, 1, {}, time=int(time.time()) + 3600)
    with pytest.raises(BadRecord, match="dated in the future") as caught:
        verify_record(ahead, kind="listing", network=NETWORK)
    assert "NTP" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), float("inf"), b"bytes", {1: "x"}, {None: 1}, {"a": {"b": [1.0]}}, {1, 2}, object(), "\ud800",
     {"\udfff": 1}, 10**5000],
    ids=["float", "nan", "inf", "bytes", "int-key", "none-key", "deep-float", "set", "object", "surrogate",
         "surrogate-key", "huge"],
)  # fmt: skip
def test_what_has_no_single_byte_form_is_refused(value: Any) -> None:
    with pytest.raises(BadRecord):
        canonical(value)


def test_nesting_is_bounded() -> None:
    value: Any = 1
    for _ in range(32):
        value = [value]
    canonical(value)
    for deeper in (1, 100_000):
        for _ in range(deeper):
            value = [value]
        with pytest.raises(BadRecord, match="deeper than 32"):
            canonical(value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sig": "zz" * 64}, "sig"),
        ({"sig": "00" * 63}, "sig"),
        ({"seq": -1}, "seq"),
        ({"seq": 2**53 + 1}, "seq"),
        ({"seq": "3"}, "seq"),
        ({"time": 1.5}, "time"),
        ({"node": "AB" * 32}, "node"),
        ({"network": "short"}, "network"),
        ({"kind": "Listing!"}, "kind"),
        ({"body": [1]}, "body"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_record_in_a_wrong_form_is_refused_with_the_place(change: dict[str, Any], place: str) -> None:
    data = {**record().model_dump(mode="json"), **change}
    with pytest.raises(BadRecord, match=f"^{place}:"):
        parse_record(data)


@pytest.mark.parametrize("data", [None, 5, "x", [], {}])
def test_what_is_no_record_at_all_is_refused(data: Any) -> None:
    with pytest.raises(BadRecord):
        parse_record(data)


# --- the key --------------------------------------------------------------------------------------------------------


def test_an_identity_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    first = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create(path).node_id == first.node_id
    assert first.secret.hex() not in repr(first)


def test_a_key_file_that_others_may_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    Identity.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileUnsafe) as caught:
        Identity.load_or_create(path)
    assert "chmod 600" in caught.value.hint
    for damaged in (b"", b"short", b"x" * 33):
        path.write_bytes(damaged)
        path.chmod(0o600)
        with pytest.raises(KeyFileUnsafe) as caught:
            Identity.load_or_create(path)
        assert "backup" in caught.value.hint
        assert path.read_bytes() == damaged


def test_a_signature_is_checked_without_ever_raising() -> None:
    signature = IDENTITY.sign(b"message")
    assert verify(IDENTITY.node_id, signature, b"message")
    assert not verify(IDENTITY.node_id, signature, b"massage")
    for node, bytes_ in [("", signature), ("xy", signature), ("00" * 31, signature), (IDENTITY.node_id, b"")]:
        assert not verify(node, bytes_, b"message")


def test_a_key_file_that_can_not_be_read_is_named_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.mkdir()
    with pytest.raises(KeyFileUnsafe, match="can't be read: Is a directory") as caught:
        Identity.load_or_create(path)
    assert str(path) in caught.value.hint
    path.rmdir()
    path.write_bytes(b"")
    path.chmod(0o600)
    with pytest.raises(KeyFileUnsafe, match="does not hold a node key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == b""
