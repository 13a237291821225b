"""Values of the directory: who can open them, what they may hold."""

import zlib

import pytest

from dux_registryd.sealing import MAX_PLAIN, MAX_SEALED, VERSION, Foreign, Seal, value_id
from duxcommon.api.common import SignedRecord
from duxcommon.errors import BadRecord, RecordTooLarge
from duxcommon.identity import Identity
from duxcommon.records import sign_record, verify_record

NETWORK = "ab" * 32


def record(body: dict[str, object], seq: int = 1) -> SignedRecord:
    return sign_record(Identity.generate(), "node", NETWORK, seq, body)


def test_a_member_reads_the_very_record_that_was_sealed() -> None:
    original = record({"name": "ålice", "list": [1, None, {"a": "b"}]})
    opened = Seal(NETWORK).open(Seal(NETWORK).seal(original))
    assert opened == original
    verify_record(opened, kind="node", network=NETWORK)


def test_whoever_does_not_know_the_network_can_not_read_it() -> None:
    with pytest.raises(Foreign):
        Seal("cd" * 32).open(Seal(NETWORK).seal(record({"name": "alice"})))


def test_the_same_record_is_the_same_bytes_whoever_seals_it() -> None:
    one = record({"name": "alice"})
    first, second = Seal(NETWORK).seal(one), Seal(NETWORK).seal(one)
    assert first == second
    assert value_id(first) == value_id(second)
    assert Seal(NETWORK).seal(record({"name": "alice"})) != first


@pytest.mark.parametrize("index", [0, 1, 20, -1])
def test_a_flipped_bit_anywhere_makes_a_value_foreign(index: int) -> None:
    sealed = bytearray(Seal(NETWORK).seal(record({"name": "alice"})))
    sealed[index] ^= 1
    with pytest.raises(Foreign):
        Seal(NETWORK).open(bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", VERSION, VERSION + b"x" * 10, b"x" * 100])
def test_rubbish_is_foreign(sealed: bytes) -> None:
    with pytest.raises(Foreign):
        Seal(NETWORK).open(sealed)


def test_a_value_above_the_cap_is_neither_made_nor_opened() -> None:
    import secrets

    with pytest.raises(RecordTooLarge):
        Seal(NETWORK).seal(record({"name": secrets.token_hex(MAX_SEALED)}))
    with pytest.raises(RecordTooLarge):
        Seal(NETWORK).open(b"\x01" + b"x" * MAX_SEALED)


def packed(plain: bytes, seal: Seal) -> bytes:
    nonce = b"n" * 12
    return VERSION + nonce + seal._cipher.encrypt(nonce, zlib.compress(plain, 9), VERSION)


def test_a_value_that_unpacks_to_far_more_is_refused_without_filling_the_memory() -> None:
    seal = Seal(NETWORK)
    bomb = packed(b"[" + b"0," * 20_000_000 + b"0]", seal)
    assert len(bomb) < MAX_SEALED
    with pytest.raises(RecordTooLarge, match=str(MAX_PLAIN)):
        seal.open(bomb)


@pytest.mark.parametrize("plain", [b"", b"[]", b"{}", b'{"a": NaN}', b"[" * 50_000, b'{"kind": "node"}', b"\xff"])
def test_a_sealed_value_that_is_no_record_is_refused(plain: bytes) -> None:
    seal = Seal(NETWORK)
    with pytest.raises(BadRecord):
        seal.open(packed(plain, seal))
