"""Notes in OP_RETURN outputs and bonds: exactly the documented bytes, and nothing that only looks like them."""

import pytest

from duxcommon.coin.bond import (
    Bond,
    bond_output,
    bond_release_tx,
    bond_script,
    finish_release,
    parse_bond,
)
from duxcommon.coin.notes import (
    ApprovalNote,
    ArbiterChange,
    BatchNote,
    BondNote,
    Change,
    FundNote,
    GuardianChange,
    Note,
    ParameterChange,
    ProposalNote,
    Spend,
    VoteNote,
    approval_message,
    approves,
    decode,
    proposal_id,
    sign_approval,
)
from duxcommon.coin.script import FundingNote, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import sign_input, verify_tx
from duxcommon.errors import BadTerms, BadTransaction, NotPayable, ScriptRefused, TooManyInputs
from duxcommon.money import COIN, DUST

SECRET = bytes(31) + b"\x07"
KEY, OTHER = pubkey_of(SECRET), pubkey_of(bytes(31) + b"\x08")
DOCUMENT, NETWORK = bytes(range(32)), "ab" * 32
HASH20 = bytes(range(20))
TO_HASH, TO_SCRIPT = b"\x76\xa9\x14" + HASH20 + b"\x88\xac", b"\xa9\x14" + HASH20 + b"\x87"


@pytest.mark.parametrize(
    ("note", "text"),
    [
        (BondNote(KEY, 0x01020304), "44555802" + KEY.hex() + "01020304"),
        (
            ProposalNote(ParameterChange(9, 300), DOCUMENT),
            "44555803" + "01" + "09" + "000000000000012c" + DOCUMENT.hex(),
        ),
        (
            ProposalNote(GuardianChange(2, KEY, 3), DOCUMENT),
            "44555803" + "02" + "02" + "03" + KEY.hex() + DOCUMENT.hex(),
        ),
        (ProposalNote(GuardianChange(None, None, 4), DOCUMENT), "44555803" + "02ff04" + "00" * 33 + DOCUMENT.hex()),
        (ProposalNote(ArbiterChange(0, None), DOCUMENT), "44555803" + "0300" + "00" * 33 + DOCUMENT.hex()),
        (ProposalNote(ArbiterChange(None, KEY), DOCUMENT), "44555803" + "03ff" + KEY.hex() + DOCUMENT.hex()),
        (
            ProposalNote(Spend(TO_HASH, 1), DOCUMENT),
            "44555803" + "0400" + HASH20.hex() + "00" * 7 + "01" + DOCUMENT.hex(),
        ),
        (
            ProposalNote(Spend(TO_SCRIPT, 10**18), DOCUMENT),
            "44555803" + "0401" + HASH20.hex() + "0de0b6b3a7640000" + DOCUMENT.hex(),
        ),
        (VoteNote(DOCUMENT, True), "44555804" + DOCUMENT.hex() + "01"),
        (VoteNote(DOCUMENT, False), "44555804" + DOCUMENT.hex() + "00"),
        (ApprovalNote(DOCUMENT[:12], bytes(64)), "44555805" + DOCUMENT[:12].hex() + "00" * 64),
        (FundNote("payout", 1, DOCUMENT), "44555806" + "01" + "00000001" + DOCUMENT.hex()),
        (FundNote("sweep", 2, DOCUMENT), "44555806" + "02" + "00000002" + DOCUMENT.hex()),
        (FundNote("grant", 3, DOCUMENT), "44555806" + "03" + "00000003" + DOCUMENT.hex()),
        (BatchNote(7, 513, DOCUMENT), "44555807" + "00000007" + "0201" + DOCUMENT.hex()),
        (FundingNote(KEY, OTHER, 5), "44555801" + KEY.hex() + OTHER.hex() + "00000005"),
    ],
)
def test_each_note_has_the_documented_bytes(note: Note, text: str) -> None:
    assert note.encode().hex() == text
    assert decode(bytes.fromhex(text)) == note
    assert len(note.encode()) <= 80
    # A byte more or less makes it another thing.
    assert decode(bytes.fromhex(text + "00")) is None
    assert decode(bytes.fromhex(text)[:-1]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "445558",
        "44555800",
        "44555808" + "00" * 36,
        "44555803",
        "44555803" + "00" * 41,
        "44555803" + "05" + "00" * 41,
        # A value that no database integer holds.
        "44555803" + "0101" + "80" + "00" * 7 + "00" * 32,
        # A key that is no point of the curve; a height that is a clock time; height 0.
        "44555802" + "02" + "ff" * 32 + "00000005",
        "44555802" + KEY.hex() + "1dcd6500",
        "44555802" + KEY.hex() + "00000000",
        "44555803" + "0200" + "03" + "02" + "ff" * 32 + "00" * 32,
        "44555803" + "0400" + "00" * 20 + "ff" * 8 + "00" * 32,
        # Another type of script, a vote that is neither yes nor no, kinds of fund transactions that don't exist.
        "44555803" + "0402" + "00" * 28 + "00" * 32,
        "44555804" + "00" * 32 + "02",
        "44555806" + "00" + "00" * 36,
        "44555806" + "04" + "00" * 36,
        "64757804" + "00" * 32 + "01",
    ],
)
def test_other_data_is_no_note(text: str) -> None:
    assert decode(bytes.fromhex(text)) is None


@pytest.mark.parametrize(
    "note",
    [
        BondNote(KEY[:-1], 5),
        BondNote(KEY, 500_000_000),
        ProposalNote(ParameterChange(256, 1), DOCUMENT),
        ProposalNote(ParameterChange(-1, 1), DOCUMENT),
        ProposalNote(ParameterChange(1, 2**63), DOCUMENT),
        ProposalNote(ParameterChange(1, 1), DOCUMENT[:-1]),
        ProposalNote(GuardianChange(255, None, 1), DOCUMENT),
        ProposalNote(GuardianChange(0, b"\x02" * 33, 256), DOCUMENT),
        ProposalNote(ArbiterChange(0, bytes(33)), DOCUMENT),
        ProposalNote(Spend(b"\x51", 1), DOCUMENT),
        ProposalNote(Spend(TO_HASH + b"\x00", 1), DOCUMENT),
        ProposalNote(Spend(TO_SCRIPT, -1), DOCUMENT),
        VoteNote(b"short", True),
        ApprovalNote(bytes(32), bytes(64)),
        ApprovalNote(bytes(12), bytes(71)),
        FundNote("payout", 2**32, DOCUMENT),
        BatchNote(1, 65_536, DOCUMENT),
    ],
)
def test_a_note_that_has_no_bytes_is_refused(note: Note) -> None:
    with pytest.raises(BadTerms):
        note.encode()


def test_a_proposals_id_names_network_and_content() -> None:
    changes: list[Change] = [ParameterChange(1, 600), ParameterChange(1, 601)]
    data = [ProposalNote(change, DOCUMENT).encode() for change in changes]
    ids = {proposal_id(network, note) for network in (NETWORK, "cd" * 32) for note in data}
    assert len(ids) == 4
    assert proposal_id(NETWORK, data[0]) == proposal_id(NETWORK, data[0])


def test_an_approval_counts_for_its_key_proposal_and_network_alone() -> None:
    proposal = proposal_id(NETWORK, ProposalNote(ParameterChange(1, 600), DOCUMENT).encode())
    note = ApprovalNote(bytes.fromhex(proposal)[:12], sign_approval(NETWORK, proposal, SECRET))
    assert len(approval_message(NETWORK, proposal)) == 32
    assert approves(note, NETWORK, proposal, KEY)
    assert not approves(note, NETWORK, proposal, OTHER)
    assert not approves(note, "cd" * 32, proposal, KEY)
    # The same first 12 bytes do not make it the same proposal.
    assert not approves(note, NETWORK, proposal[:-2] + "00", KEY)
    assert not approves(note, NETWORK, "00" * 32, KEY)
    assert not approves(ApprovalNote(note.proposal, bytes(64)), NETWORK, proposal, KEY)
    assert not approves(ApprovalNote(note.proposal, b"\xff" * 64), NETWORK, proposal, KEY)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = note.signature[:32] + (order - int.from_bytes(note.signature[32:], "big")).to_bytes(32, "big")
    assert not approves(ApprovalNote(note.proposal, high), NETWORK, proposal, KEY)


# --- bonds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "push"), [(1, "51"), (16, "60"), (17, "0111"), (128, "028000"), (150_000, "03f04902")]
)
def test_a_bonds_script_is_the_documented_one(height: int, push: str) -> None:
    redeem = bond_script(KEY, height)
    assert redeem.hex() == push + "b17521" + KEY.hex() + "ac"
    assert parse_bond(redeem) == (KEY, height)
    assert bond_output(KEY, height) == p2sh_script(redeem)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b17521" + KEY.hex() + "ac",
        "00b17521" + KEY.hex() + "ac",
        "0105b17521" + KEY.hex() + "ac",  # not the shortest push
        "0411000000b17521" + KEY.hex() + "ac",
        "0181b17521" + KEY.hex() + "ac",  # a negative height
        "04ff64cd1db17521" + KEY.hex() + "ac" + "61",
        "040065cd1db17521" + KEY.hex() + "ac",  # a clock time
        "0111b17521" + "02" + "ff" * 32 + "ac",
        "0111b27521" + KEY.hex() + "ac",
        "0111b17521" + KEY.hex() + "ad",
    ],
)
def test_other_scripts_are_no_bonds(text: str) -> None:
    assert parse_bond(bytes.fromhex(text)) is None


def test_bonds_of_several_heights_come_back_in_one_transaction() -> None:
    bonds = [Bond("bb" * 32, 0, 2 * COIN, 150_000), Bond("aa" * 32, 3, COIN, 40_000_000)]
    release = bond_release_tx(KEY, bonds, p2pkh_script(KEY))
    assert release.tx.lock_time == 40_000_000
    assert release.amount + release.fee == 3 * COIN
    signatures = [sign_input(release.tx, index, redeem, SECRET) for index, redeem in enumerate(release.redeems)]
    tx = finish_release(release, signatures)
    spent = [(bond_output(KEY, bond.lock_height), bond.amount) for bond in reversed(bonds)]
    assert verify_tx(tx, spent) == release.fee
    assert release.fee >= len(tx.serialize(include_witness=False, check_validity=False)) * 1010
    with pytest.raises(ScriptRefused):
        verify_tx(finish_release(release, signatures[::-1]), spent)
    early = bond_release_tx(KEY, [Bond("aa" * 32, 3, COIN, 5)], p2pkh_script(KEY))
    signed = finish_release(early, [sign_input(early.tx, 0, bond_script(KEY, 6), SECRET)])
    with pytest.raises(ScriptRefused):
        verify_tx(signed, [(bond_output(KEY, 6), COIN)])


def test_a_release_that_can_not_be_is_refused() -> None:
    def release(*bonds: Bond) -> None:
        bond_release_tx(KEY, bonds, p2pkh_script(KEY))

    bond = Bond("aa" * 32, 0, COIN, 5)
    with pytest.raises(BadTransaction):
        release()
    with pytest.raises(BadTransaction):
        release(bond, bond)
    with pytest.raises(NotPayable):
        release(Bond("aa" * 32, 0, DUST, 5))
    with pytest.raises(TooManyInputs):
        release(*(Bond("aa" * 32, number, COIN, 5) for number in range(100)))
    with pytest.raises(BadTerms):
        bond_script(KEY, 0)
    with pytest.raises(BadTerms):
        bond_script(b"\x02" * 32, 5)
