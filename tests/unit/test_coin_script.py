"""The escrow template, addresses, keys and the funding note."""

import pytest

from duxcommon.coin.params import CHAINS, DEVNET, LITECOIN_REGTEST, MAIN
from duxcommon.coin.script import (
    EscrowTerms,
    FundingNote,
    address_of,
    escrow_script,
    is_p2pkh,
    is_p2sh,
    multisig_script,
    op_return_data,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    parse_escrow,
    pubkey_of,
    script_of,
    secret_of,
    wif_of,
)
from duxcommon.errors import BadAddress, BadKey, BadTerms

PROVIDER, BUYER, ARBITER = (pubkey_of(bytes([number]) * 32) for number in (1, 2, 3))
TERMS = EscrowTerms(PROVIDER, BUYER, ARBITER, 150_000)
NO_POINT = b"\x02" + b"\xff" * 32


def test_the_escrow_script_is_the_template_byte_by_byte() -> None:
    expected = bytes.fromhex(
        f"6321{PROVIDER.hex()}ad5121{BUYER.hex()}21{ARBITER.hex()}52ae6703f04902b17521{BUYER.hex()}ac68"
    )
    assert TERMS.script() == expected


@pytest.mark.parametrize(
    ("height", "size"),
    [(1, 147), (16, 147), (17, 148), (128, 149), (32_767, 149), (32_768, 150), (8_388_607, 150), (8_388_608, 151)],
)
def test_the_height_is_pushed_minimally(height: int, size: int) -> None:
    script = escrow_script(PROVIDER, BUYER, ARBITER, height)
    assert len(script) == size
    assert parse_escrow(script) == EscrowTerms(PROVIDER, BUYER, ARBITER, height)


@pytest.mark.parametrize(
    "terms",
    [
        (PROVIDER, BUYER, PROVIDER, 1000),
        (PROVIDER, PROVIDER, ARBITER, 1000),
        (PROVIDER, BUYER, BUYER, 1000),
        (NO_POINT, BUYER, ARBITER, 1000),
        (PROVIDER, BUYER, ARBITER[:-1], 1000),
        (PROVIDER, BUYER, b"\x04" + bytes(64), 1000),
        (PROVIDER, BUYER, ARBITER, 0),
        (PROVIDER, BUYER, ARBITER, -1),
        (PROVIDER, BUYER, ARBITER, 500_000_000),
    ],
)
def test_terms_that_no_channel_may_have_make_no_script(terms: tuple[bytes, bytes, bytes, int]) -> None:
    with pytest.raises(BadTerms):
        escrow_script(*terms)
    with pytest.raises(BadTerms):
        EscrowTerms(*terms).channel_id()


def _variants() -> dict[str, bytes]:
    good = TERMS.script()
    low = escrow_script(PROVIDER, BUYER, ARBITER, 7)
    return {
        "empty": b"",
        "cut": good[:-1],
        "longer": good + b"\x61",
        "key pushed with PUSHDATA1": good.replace(b"\x21" + PROVIDER, b"\x4c\x21" + PROVIDER),
        "height with a leading zero": good.replace(b"\x03\xf0\x49\x02", b"\x04\xf0\x49\x02\x00"),
        "small height as data": low.replace(b"\x67\x57\xb1", b"\x67\x01\x07\xb1"),
        "height zero": low.replace(b"\x67\x57\xb1", b"\x67\x00\xb1"),
        "height missing": low.replace(b"\x67\x57\xb1", b"\x67\xb1"),
        "negative height": good.replace(b"\x03\xf0\x49\x02", b"\x03\xf0\x49\x82"),
        "2 of 3 without the provider's veto": b"\x63\x52" + good[1:],
        "other refund key": good[:-36] + b"\x21" + ARBITER + good[-2:],
        "CHECKSIG instead of CHECKSIGVERIFY": good.replace(PROVIDER + b"\xad", PROVIDER + b"\xac"),
        "2 of 2": good.replace(b"\xad\x51", b"\xad\x52"),
        "NOTIF": b"\x64" + good[1:],
        "a key that is no point": good.replace(ARBITER, NO_POINT),
        "arbiter is the provider": good.replace(ARBITER, PROVIDER),
        "a plain multisig": multisig_script(2, [PROVIDER, BUYER, ARBITER]),
    }


@pytest.mark.parametrize("name", list(_variants()))
def test_a_script_of_another_shape_is_not_an_escrow(name: str) -> None:
    assert parse_escrow(_variants()[name]) is None


def test_addresses_round_trip_on_every_chain_and_are_refused_on_the_others() -> None:
    scripts = [p2pkh_script(PROVIDER), p2sh_script(TERMS.script())]
    for script in scripts:
        for chain in CHAINS.values():
            address = address_of(script, chain)
            assert address is not None
            assert script_of(address, chain) == script
            if chain is not DEVNET:
                with pytest.raises(BadAddress):
                    script_of(address, DEVNET)
    assert address_of(p2pkh_script(PROVIDER), MAIN).startswith("F")  # type: ignore[union-attr]
    assert address_of(p2pkh_script(PROVIDER), DEVNET).startswith("d")  # type: ignore[union-attr]
    assert address_of(p2sh_script(b"x"), DEVNET).startswith("e")  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "x", "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNH", "0OIl", "d" * 200, "ä" * 34])
def test_a_mistyped_address_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        script_of(text, DEVNET)


def test_other_scripts_have_no_address() -> None:
    assert address_of(op_return_script(b"x"), MAIN) is None
    assert address_of(TERMS.script(), MAIN) is None
    assert not is_p2pkh(p2sh_script(b"x"))
    assert not is_p2sh(p2pkh_script(PROVIDER))


def test_private_keys_round_trip_and_a_wrong_one_is_refused_without_showing_it() -> None:
    secret = bytes(range(32))
    for chain in CHAINS.values():
        assert secret_of(wif_of(secret, chain), chain) == secret
    for text in (wif_of(secret, MAIN), wif_of(bytes(32), DEVNET), "nonsense"):
        with pytest.raises(BadKey) as refused:
            secret_of(text, DEVNET)
        assert text not in str(refused.value)
    assert wif_of(secret, LITECOIN_REGTEST).startswith("c")


def test_the_funding_note_round_trips_in_a_standard_output() -> None:
    note = FundingNote(PROVIDER, ARBITER, 150_000)
    script = op_return_script(note.encode())
    assert len(note.encode()) == 74
    data = op_return_data(script)
    assert data is not None
    assert FundingNote.decode(data) == note


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"DUX\x01",
        b"DUX\x02" + PROVIDER + ARBITER + bytes([0, 0, 1, 0]),
        b"DUX\x01" + PROVIDER + PROVIDER + bytes([0, 0, 1, 0]),
        b"DUX\x01" + PROVIDER + NO_POINT + bytes([0, 0, 1, 0]),
        b"DUX\x01" + PROVIDER + ARBITER + bytes(4),
        b"DUX\x01" + PROVIDER + ARBITER + b"\xff" * 4,
    ],
)
def test_other_data_is_no_funding_note(data: bytes) -> None:
    assert FundingNote.decode(data) is None


def test_op_return_data_is_read_only_from_minimal_scripts() -> None:
    for size in (1, 75, 76, 80):
        assert op_return_data(op_return_script(b"\x05" * size)) == b"\x05" * size
    assert op_return_data(b"\x6a\x4c\x02ab") is None
    assert op_return_data(b"\x6a\x02ab\x02cd") is None
    assert op_return_data(b"\x6a") is None
    assert op_return_data(p2pkh_script(PROVIDER)) is None
    for size in (0, 81):
        with pytest.raises(BadTerms):
            op_return_script(bytes(size))


def test_the_fund_script_is_m_of_n_in_the_order_given() -> None:
    script = multisig_script(2, [PROVIDER, BUYER, ARBITER])
    assert script == bytes.fromhex(f"5221{PROVIDER.hex()}21{BUYER.hex()}21{ARBITER.hex()}53ae")
    for m, keys in ((0, [PROVIDER]), (2, [PROVIDER]), (1, [PROVIDER, PROVIDER]), (1, [NO_POINT]), (1, [])):
        with pytest.raises(BadTerms):
            multisig_script(m, keys)
    many = [pubkey_of(number.to_bytes(32, "big")) for number in range(1, 17)]
    assert len(multisig_script(8, many[:15])) <= 520
    with pytest.raises(BadTerms):
        multisig_script(8, many)
