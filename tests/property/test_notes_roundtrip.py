"""Every note reads back as what was written, and whatever reads as a note was written as one."""

from hypothesis import example, given
from hypothesis import strategies as st

from duxcommon.coin.bond import bond_script, parse_bond
from duxcommon.coin.notes import (
    ApprovalNote,
    ArbiterChange,
    BatchNote,
    BondNote,
    FundNote,
    GuardianChange,
    Note,
    ParameterChange,
    ProposalNote,
    Spend,
    VoteNote,
    decode,
)
from duxcommon.coin.script import MAX_LOCK_HEIGHT, FundingNote, op_return_data, op_return_script, pubkey_of

KEYS = [pubkey_of(number.to_bytes(32, "big")) for number in range(1, 9)]

keys = st.sampled_from(KEYS)
heights = st.integers(1, MAX_LOCK_HEIGHT)
hashes = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**63 - 1)
members = st.none() | st.integers(0, 254)
scripts = st.binary(min_size=20, max_size=20).flatmap(
    lambda digest: st.sampled_from([b"\x76\xa9\x14" + digest + b"\x88\xac", b"\xa9\x14" + digest + b"\x87"])
)
changes = st.one_of(
    st.builds(ParameterChange, st.integers(0, 255), numbers),
    st.builds(GuardianChange, members, st.none() | keys, st.integers(0, 255)),
    st.builds(ArbiterChange, members, st.none() | keys),
    st.builds(Spend, scripts, numbers),
)
notes = st.one_of(
    st.builds(FundingNote, st.sampled_from(KEYS[:4]), st.sampled_from(KEYS[4:]), heights),
    st.builds(BondNote, keys, heights),
    st.builds(ProposalNote, changes, hashes),
    st.builds(VoteNote, hashes, st.booleans()),
    st.builds(ApprovalNote, st.binary(min_size=12, max_size=12), st.binary(min_size=64, max_size=64)),
    st.builds(FundNote, st.sampled_from(["payout", "sweep", "grant"]), st.integers(0, 2**32 - 1), hashes),
    st.builds(BatchNote, st.integers(0, 2**32 - 1), st.integers(0, 65_535), hashes),
)


@given(notes)
def test_a_note_reads_back_as_what_was_written(note: Note) -> None:
    data = note.encode()
    assert decode(data) == note
    assert op_return_data(op_return_script(data)) == data


@given(notes, st.integers(0, 79), st.integers(1, 255))
def test_a_changed_byte_never_gives_the_same_note(note: Note, at: int, change: int) -> None:
    data = bytearray(note.encode())
    data[at % len(data)] ^= change
    assert decode(bytes(data)) != note


@given(st.binary(max_size=78), st.integers(0, 8))
@example(b"", 3)
def test_whatever_reads_as_a_note_is_written_the_same(body: bytes, kind: int) -> None:
    data = b"DUX" + bytes([kind]) + body
    note = decode(data)
    assert note is None or note.encode() == data


@given(keys, heights)
def test_a_bonds_script_reads_back(pubkey: bytes, height: int) -> None:
    assert parse_bond(bond_script(pubkey, height)) == (pubkey, height)


@given(keys, heights, st.integers(0, 41), st.integers(1, 255))
def test_a_changed_bond_script_is_another_or_none(pubkey: bytes, height: int, at: int, change: int) -> None:
    redeem = bytearray(bond_script(pubkey, height))
    redeem[at % len(redeem)] ^= change
    found = parse_bond(bytes(redeem))
    assert found is None or (found != (pubkey, height) and bond_script(*found) == bytes(redeem))
