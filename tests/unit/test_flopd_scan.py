"""What a block says: found wherever it stands, and never at a cost that a block of the worst kind could drive up."""

import struct
import time
from collections.abc import Sequence

import pytest
from btclib import var_int
from btclib.tx import Tx

from dux_flopd.blocks import Block, parse_block
from dux_flopd.core import OutpointKey
from dux_flopd.scan import MAX_PAID, MAX_SIGNERS, scan
from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import BondNote, Note, VoteNote
from duxcommon.coin.script import (
    EscrowTerms,
    FundingNote,
    multisig_script,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
)
from duxcommon.coin.settlement import MAX_INPUTS, Prevout
from duxcommon.coin.tx import (
    BLOCK_FLAGS,
    Coin,
    close_script_sig,
    closing_tx,
    finish_close,
    make_tx,
    p2pkh_script_sig,
    serialize_tx,
    sign_input,
    txid_of,
    verify_input,
    with_script_sigs,
)
from duxcommon.money import COIN, DUST

P, B, A = (bytes([number]) * 32 for number in (1, 2, 3))
PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in (P, B, A))
TERMS = EscrowTerms(PROVIDER, BUYER, ARBITER, 150_000)
REDEEM = TERMS.script()
NOTE = FundingNote(PROVIDER, ARBITER, 150_000)
FUND = p2sh_script(multisig_script(1, [ARBITER]))
VOTE = VoteNote(bytes(32), True)
COINBASE = make_tx([("00" * 32, 0xFFFFFFFF)], [(p2pkh_script(PROVIDER), COIN)])


def block(*txs: Tx) -> Block:
    held = [COINBASE, *txs]
    header = struct.pack("<i32s32sIII", 1, bytes(32), bytes(32), 1, 0, 0)
    return parse_block(header + var_int.serialize(len(held)) + b"".join(map(serialize_tx, held)))


def unknown(_: OutpointKey) -> Prevout | None:
    return None


def note_output(note: Note) -> tuple[bytes, int]:
    return op_return_script(note.encode()), 0


def voted(secrets: Sequence[bytes], *more: tuple[bytes, int]) -> Tx:
    """A vote with one P2PKH input of each key."""
    tx = make_tx([(f"{n + 1:064x}", 0) for n in range(len(secrets))], [note_output(VOTE), *more])
    return with_script_sigs(
        tx,
        [
            p2pkh_script_sig(sign_input(tx, n, p2pkh_script(pubkey_of(secret)), secret), pubkey_of(secret))
            for n, secret in enumerate(secrets)
        ],
    )


def closing(coins: list[Coin]) -> Tx:
    spend = closing_tx(TERMS, coins, 10 * COIN, 500, FUND)
    pair = [[sign_input(spend.tx, n, REDEEM, secret) for n in range(len(coins))] for secret in (B, P)]
    return finish_close(spend, *pair)


def test_a_block_without_any_note_or_escrow_script_is_not_even_parsed() -> None:
    plain = block(*(make_tx([("aa" * 32, n)], [(p2pkh_script(BUYER), COIN), (FUND, DUST)]) for n in range(50)))
    found = scan(plain, 7, unknown)
    assert (found.deposits, found.settled, found.bonded, found.noted) == ([], [], [], [])
    assert "txs" not in vars(plain)


def test_deposits_are_kept_with_height_and_note_and_found_when_they_are_spent() -> None:
    funding = make_tx(
        [("aa" * 32, 0)], [(p2sh_script(REDEEM), 11 * COIN), (p2pkh_script(BUYER), COIN), note_output(NOTE)]
    )
    found = scan(block(funding), 40, unknown)
    (deposit,) = found.deposits
    assert deposit.outpoint == (txid_of(funding), 0)
    assert deposit.prevout == Prevout(p2sh_script(REDEEM), 11 * COIN, 40, NOTE)
    known = {deposit.outpoint: deposit.prevout}
    close = closing([Coin(txid_of(funding), 0, 11 * COIN)])
    (settled,) = scan(block(close), 41, known.get).settled
    assert (settled.index, settled.candidate.deposits, settled.candidate.awarded) == (1, (40,), False)
    assert scan(block(close), 41, unknown).settled == []


def test_one_input_more_than_a_settlement_may_have_is_not_looked_at() -> None:
    coins = [Coin("bb" * 32, n, COIN) for n in range(MAX_INPUTS + 1)]
    prevout = Prevout(p2sh_script(REDEEM), COIN, 5, NOTE)
    outputs = [(p2pkh_script(PROVIDER), 950_000_000), (FUND, 50_000_000)]

    def made(count: int) -> Tx:
        tx = make_tx([(coin.txid, coin.vout) for coin in coins[:count]], outputs)
        pairs = [(sign_input(tx, n, REDEEM, B), sign_input(tx, n, REDEEM, P)) for n in range(count)]
        return with_script_sigs(tx, [close_script_sig(*pair, REDEEM) for pair in pairs])

    assert len(scan(block(made(MAX_INPUTS)), 9, lambda _: prevout).settled) == 1
    assert scan(block(made(MAX_INPUTS + 1)), 9, lambda _: prevout).settled == []


def test_each_signer_is_told_once_and_only_of_the_first_inputs() -> None:
    secrets = [number.to_bytes(32, "big") for number in range(1, MAX_SIGNERS + 3)]
    (noted,) = scan(block(voted([secrets[0], *secrets])), 9, unknown).noted
    assert noted.signers == [pubkey_of(secret) for secret in secrets[: MAX_SIGNERS - 1]]


def test_a_signature_of_another_key_input_or_transaction_makes_no_signer() -> None:
    good = voted([P, B])
    first, second = (txin.script_sig for txin in good.vin)
    changed = make_tx([("01" * 32, 0)], [note_output(VoteNote(bytes(32), False))])
    for forged in (
        with_script_sigs(good, [second, first]),
        with_script_sigs(changed, [first]),
        with_script_sigs(good, [first[: 1 + first[0]] + b"\x21" + BUYER, b""]),
        with_script_sigs(good, [b"\x00" + first[1:], b"\x47"]),
        with_script_sigs(good, [first + b"\x00", first[:-1]]),
        with_script_sigs(good, [b"\x21" + PROVIDER, b"\x4d" + second]),
    ):
        (noted,) = scan(block(forged), 9, unknown).noted
        assert noted.signers == []


CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def high_s(signature: bytes) -> bytes:
    """The other form of a signature, which a block may hold although no node relays it."""
    der = signature[:-1]
    at = 4 + der[3]
    s = CURVE_ORDER - int.from_bytes(der[at + 2 :], "big")
    body = der[2:at] + b"\x02\x21" + s.to_bytes(33, "big")
    return b"\x30" + bytes([len(body)]) + body + signature[-1:]


def rewritten(how: str, signature: bytes, key: bytes) -> bytes:
    pushes = p2pkh_script_sig(signature, key)
    return {
        "high S": p2pkh_script_sig(high_s(signature), key),
        "longer pushes": b"\x4c" + bytes([len(signature)]) + signature + b"\x4d\x21\x00" + key,
        "more below": b"\x51" + pushes,
        "an operation": pushes + b"\x61",
    }[how]


@pytest.mark.parametrize("how", ["high S", "longer pushes", "more below", "an operation"])
def test_a_miner_can_t_undo_a_vote_by_writing_its_input_in_another_way(how: str) -> None:
    tx = voted([P])
    key = pubkey_of(P)
    signature = sign_input(tx, 0, p2pkh_script(key), P)
    changed = with_script_sigs(tx, [rewritten(how, signature, key)])
    assert verify_input(changed, 0, p2pkh_script(key), COIN, BLOCK_FLAGS), "a block may hold it"
    assert scan(block(changed), 9, unknown).noted[0].signers == [key]


def test_only_the_first_scripts_that_are_paid_are_told_and_sums_are_whole() -> None:
    scripts = [p2sh_script(bytes([number])) for number in range(MAX_PAID + 4)]
    tx = voted([P], *((script, DUST) for script in scripts), (scripts[0], COIN), (p2pkh_script(BUYER), COIN))
    (noted,) = scan(block(tx), 9, unknown).noted
    assert list(noted.paid) == scripts[:MAX_PAID]
    assert noted.paid[scripts[0]] == DUST + COIN


def test_a_transaction_says_one_thing() -> None:
    bond = (bond_output(PROVIDER, 777), COIN)
    two = make_tx([("aa" * 32, 0)], [bond, note_output(VOTE), note_output(BondNote(PROVIDER, 777)), note_output(NOTE)])
    found = scan(block(two), 9, unknown)
    assert (len(found.noted), found.bonded, found.deposits) == (1, [], [])


def test_a_block_full_of_notes_and_outputs_is_read_within_seconds() -> None:
    script = bond_output(PROVIDER, 777)
    bonds = make_tx([("aa" * 32, 0)], [note_output(BondNote(PROVIDER, 777)), *[(script, DUST)] * 5_000])
    crowd = voted([P] * 200, *((p2sh_script(n.to_bytes(2, "big")), DUST) for n in range(3_000)))
    started = time.process_time()
    found = scan(block(bonds, crowd), 9, unknown)
    assert time.process_time() - started < 10
    assert (len(found.bonded), len(found.noted), found.noted[0].signers) == (5_000, 1, [PROVIDER])
