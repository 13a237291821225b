"""Channel transactions: building, signing, checking signatures, and the script engine's verdict."""

import pytest
from btclib_secp256k1 import dsa

from duxcommon.api.common import Deposit
from duxcommon.coin.script import EscrowTerms, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import (
    BLOCK_FLAGS,
    LOCKABLE,
    MAX_FEE,
    STANDARD_FLAGS,
    Coin,
    Spend,
    check_signature,
    check_signatures,
    close_script_sig,
    closing_fee,
    closing_tx,
    cooperative_refund_tx,
    finish_close,
    finish_refund,
    make_tx,
    outpoint_of,
    p2pkh_script_sig,
    parse_tx,
    refund_tx,
    serialize_tx,
    sighash,
    sign_input,
    txid_of,
    usable,
    verify_input,
    verify_tx,
    with_script_sigs,
)
from duxcommon.errors import BadTerms, BadTransaction, NotPayable, ScriptRefused, TooManyInputs
from duxcommon.money import COIN, DUST, MAX_MONEY

P, B, A = (bytes([number]) * 32 for number in (1, 2, 3))
PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in (P, B, A))
TERMS = EscrowTerms(PROVIDER, BUYER, ARBITER, 150_000)
FUND = p2sh_script(b"the community fund's redeem script")
DEPOSITS = [Coin("bb" * 32, 1, 12 * COIN), Coin("aa" * 32, 7, 5 * COIN), Coin("bb" * 32, 0, 3 * COIN)]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def sign_all(spend: Spend, secret: bytes) -> list[bytes]:
    return [sign_input(spend.tx, index, spend.redeem, secret) for index in range(len(spend.deposits))]


def spent(spend: Spend) -> list[tuple[bytes, int]]:
    return [(p2sh_script(spend.redeem), coin.amount) for coin in spend.deposits]


def high_s(signature: bytes) -> bytes:
    compact = dsa.to_compact(signature[:-1])
    s = ORDER - int.from_bytes(compact[32:], "big")
    return dsa.to_der(compact[:32] + s.to_bytes(32, "big")) + signature[-1:]


def test_the_closing_transaction_divides_the_deposits_exactly_and_in_a_fixed_order() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    assert [outpoint_of(txin) for txin in spend.tx.vin] == [("aa" * 32, 7), ("bb" * 32, 0), ("bb" * 32, 1)]
    assert [(out.script_pub_key.script, out.value) for out in spend.tx.vout] == [
        (p2pkh_script(PROVIDER), 950_000_000),
        (FUND, 50_000_000),
        (p2pkh_script(BUYER), 10 * COIN - spend.fee),
    ]
    assert spend.provider + spend.tax + spend.buyer + spend.fee == 20 * COIN
    assert spend.tx.lock_time == 0
    assert {txin.sequence for txin in spend.tx.vin} == {0xFFFFFFFF}


def test_both_sides_rebuild_the_same_bytes_whatever_the_order_and_type_of_their_deposits() -> None:
    ours = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    wire = [Deposit(txid=coin.txid, vout=coin.vout, amount=coin.amount) for coin in reversed(DEPOSITS)]
    theirs = closing_tx(TERMS, wire, 10 * COIN, 500, FUND)
    assert serialize_tx(ours.tx) == serialize_tx(theirs.tx)
    assert ours == theirs


def test_change_below_dust_goes_into_the_fee_and_is_paid_from_dust_on() -> None:
    most = usable(DEPOSITS)
    for change in (0, 1, DUST - 1):
        spend = closing_tx(TERMS, DEPOSITS, most - change, 500, FUND)
        assert (len(spend.tx.vout), spend.buyer, spend.fee) == (2, 0, closing_fee(3) + change)
    spend = closing_tx(TERMS, DEPOSITS, most - DUST, 500, FUND)
    assert (len(spend.tx.vout), spend.buyer, spend.fee) == (3, DUST, closing_fee(3))


def test_a_gross_above_what_is_usable_is_refused_to_the_koinu() -> None:
    with pytest.raises(NotPayable) as refused:
        closing_tx(TERMS, DEPOSITS, usable(DEPOSITS) + 1, 500, FUND)
    assert refused.value.details["deposited"] == 20 * COIN


@pytest.mark.parametrize("gross", [-1, 0, 1, DUST, 2 * DUST - 1])
def test_a_gross_that_cannot_pay_the_provider_is_refused(gross: int) -> None:
    with pytest.raises(NotPayable):
        closing_tx(TERMS, DEPOSITS, gross, 500, FUND)


def test_the_smallest_payable_gross_gives_provider_and_fund_one_dust_each() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 2 * DUST, 500, FUND)
    assert (spend.provider, spend.tax) == (DUST, DUST)


def test_the_fee_is_at_the_worst_size_and_above_the_rate_that_gets_mined() -> None:
    for count in (1, 2, 16):
        deposits = [Coin(f"{number:064x}", 0, COIN) for number in range(count)]
        spend = closing_tx(TERMS, deposits, COIN // 2, 500, FUND)
        signed = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
        size = len(serialize_tx(signed))
        assert size <= spend.fee // 1020 <= size + 6 * count + 4
        assert spend.fee > size * 1000


def test_more_deposits_than_a_tenth_of_a_flop_can_close_are_refused() -> None:
    deposits = [Coin(f"{number:064x}", 0, COIN) for number in range(26)]
    spend = closing_tx(TERMS, deposits[:25], usable(deposits[:25]) - DUST + 1, 500, FUND)
    assert spend.fee <= MAX_FEE
    with pytest.raises(TooManyInputs):
        closing_tx(TERMS, deposits, COIN, 500, FUND)
    with pytest.raises(TooManyInputs):
        usable(deposits)
    with pytest.raises(TooManyInputs):
        refund_tx(TERMS, [Coin(f"{number:064x}", 0, COIN) for number in range(37)])


def test_usable_is_never_negative() -> None:
    assert usable([]) == 0
    assert usable([Coin("aa" * 32, 0, 1000)]) == 0
    assert usable([Coin("aa" * 32, 0, COIN)]) == COIN - closing_fee(1)


@pytest.mark.parametrize(
    "deposits",
    [
        [],
        [DEPOSITS[0], DEPOSITS[0]],
        [DEPOSITS[0], Coin(DEPOSITS[0].txid, 1, 1)],
        [Coin("aa" * 32, 0, 0)],
        [Coin("aa" * 32, 0, -1), DEPOSITS[0]],
        [Coin("aa" * 32, 0, MAX_MONEY), DEPOSITS[0]],
    ],
)
def test_impossible_deposits_are_refused(deposits: list[Coin]) -> None:
    with pytest.raises(BadTransaction):
        closing_tx(TERMS, deposits, COIN, 500, FUND)
    for build in (refund_tx, cooperative_refund_tx):
        with pytest.raises(BadTransaction):
            build(TERMS, deposits)


def test_bad_terms_or_an_odd_fund_script_make_no_closing_transaction() -> None:
    with pytest.raises(BadTerms):
        closing_tx(EscrowTerms(PROVIDER, BUYER, PROVIDER, 1000), DEPOSITS, COIN, 500, FUND)
    with pytest.raises(BadTransaction):
        closing_tx(TERMS, DEPOSITS, COIN, 500, b"\x51")


def test_amounts_above_bitcoins_supply_are_closed_exactly() -> None:
    deposit = Coin("aa" * 32, 0, 9 * MAX_MONEY // 10)
    spend = closing_tx(TERMS, [deposit], deposit.amount // 2, 500, FUND)
    signed = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    again = parse_tx(serialize_tx(signed))
    assert verify_tx(again, spent(spend)) == spend.fee
    assert [out.value for out in again.vout] == [spend.provider, spend.tax, spend.buyer]


@pytest.mark.parametrize("cosigner", [B, A])
def test_provider_and_one_other_can_close(cosigner: bytes) -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    signed = finish_close(spend, sign_all(spend, cosigner), sign_all(spend, P))
    assert verify_tx(signed, spent(spend)) == spend.fee
    assert {key for key, _ in verify_input(signed, 0, *spent(spend)[0])} == {PROVIDER, pubkey_of(cosigner)}


@pytest.mark.parametrize(("first", "second"), [(B, A), (A, B), (A, A), (B, B), (P, P), (P, B), (P, A)])
def test_nobody_closes_without_the_provider_and_one_other_in_their_places(first: bytes, second: bytes) -> None:
    spend = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN, 500, FUND)
    signed = finish_close(spend, sign_all(spend, first), sign_all(spend, second))
    for flags in (STANDARD_FLAGS, BLOCK_FLAGS):
        with pytest.raises(ScriptRefused):
            verify_tx(signed, spent(spend), flags)


def test_a_signature_for_another_gross_or_another_deposit_does_not_close() -> None:
    spend = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN, 500, FUND)
    other = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN + 1, 500, FUND)
    moved = closing_tx(TERMS, DEPOSITS[1:2], 4 * COIN, 500, FUND)
    for wrong in (other, moved):
        assert not check_signatures(spend, BUYER, sign_all(wrong, B))
        with pytest.raises(ScriptRefused):
            verify_tx(finish_close(spend, sign_all(wrong, B), sign_all(spend, P)), spent(spend))


def test_the_buyer_refunds_alone_with_the_lock_time_and_not_otherwise() -> None:
    spend = refund_tx(TERMS, DEPOSITS)
    assert spend.tx.lock_time == TERMS.lock_height
    assert {txin.sequence for txin in spend.tx.vin} == {LOCKABLE}
    assert spend.buyer + spend.fee == 20 * COIN
    assert verify_tx(finish_refund(spend, sign_all(spend, B)), spent(spend)) == spend.fee
    for secret in (P, A):
        with pytest.raises(ScriptRefused):
            verify_tx(finish_refund(spend, sign_all(spend, secret)), spent(spend))
    for lock_time, sequence in ((TERMS.lock_height - 1, LOCKABLE), (TERMS.lock_height, 0xFFFFFFFF)):
        outputs = [(out.script_pub_key.script, out.value) for out in spend.tx.vout]
        tx = make_tx([outpoint_of(i) for i in spend.tx.vin], outputs, lock_time=lock_time, sequence=sequence)
        early = Spend(tx, spend.redeem, spend.deposits, 0, 0, spend.buyer, spend.fee)
        for flags in (STANDARD_FLAGS, BLOCK_FLAGS):
            with pytest.raises(ScriptRefused):
                verify_tx(finish_refund(early, sign_all(early, B)), spent(spend), flags)


def test_the_cooperative_refund_gives_everything_back_at_once() -> None:
    spend = cooperative_refund_tx(TERMS, DEPOSITS)
    signed = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    assert verify_tx(signed, spent(spend)) == spend.fee
    assert spend.buyer == 20 * COIN - spend.fee
    assert (spend.tx.lock_time, spend.provider, spend.tax) == (0, 0, 0)


def test_a_deposit_too_small_to_give_back_is_refused() -> None:
    for build in (refund_tx, cooperative_refund_tx):
        with pytest.raises(NotPayable):
            build(TERMS, [Coin("aa" * 32, 0, DUST + 300_000)])


def test_signatures_are_deterministic_strict_low_s_and_checked_for_their_key() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    signatures = sign_all(spend, B)
    assert signatures == sign_all(spend, B)
    assert all(dsa.is_low_s(signature[:-1]) and signature[-1] == 1 for signature in signatures)
    assert check_signatures(spend, BUYER, signatures)
    assert not check_signatures(spend, PROVIDER, signatures)
    assert not check_signatures(spend, BUYER, signatures[:-1])
    assert not check_signatures(spend, BUYER, [*signatures, signatures[0]])
    assert not check_signatures(spend, BUYER, [signatures[1], signatures[0], signatures[2]])


def test_a_signature_that_would_not_relay_is_refused() -> None:
    spend = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN, 500, FUND)
    good = sign_all(spend, B)[0]
    other_type = dsa.sign(sighash(spend.tx, 0, spend.redeem), B)
    bad = {
        "high s": high_s(good),
        "no hash type": good[:-1],
        "other hash type": other_type + b"\x02",
        "anyone can pay": other_type + b"\x81",
        "bytes after the end": good[:-1] + b"\x00\x01",
        "long form of a length": b"\x30\x81" + good[1:],
        "padded r": b"\x30" + bytes([good[1] + 1]) + b"\x02" + bytes([good[3] + 1]) + b"\x00" + good[4:],
        "empty": b"",
        "junk": b"\x01" * 71,
        "oversized": good + b"\x01" * 2000,
        "zero": bytes.fromhex("3006020100020100") + b"\x01",
    }
    for name, signature in bad.items():
        assert not check_signature(spend.tx, 0, spend.redeem, BUYER, signature), name
    assert not check_signature(spend.tx, 0, spend.redeem, b"\x02" + b"\xff" * 32, good)
    assert not check_signature(spend.tx, 0, spend.redeem, b"", good)
    with pytest.raises(ScriptRefused):
        verify_tx(finish_close(spend, [high_s(good)], sign_all(spend, P)), spent(spend))


def test_every_accepted_signature_is_accepted_by_the_script_engine() -> None:
    for gross in range(3 * COIN, 3 * COIN + 40):
        spend = closing_tx(TERMS, DEPOSITS[:1], gross, 500, FUND)
        buyer, provider = sign_all(spend, B), sign_all(spend, P)
        assert check_signatures(spend, BUYER, buyer)
        verify_tx(finish_close(spend, buyer, provider), spent(spend))


def test_standard_policy_refuses_what_only_a_block_may_hold() -> None:
    spend = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN, 500, FUND)
    buyer, provider = sign_all(spend, B)[0], sign_all(spend, P)[0]
    usual = close_script_sig(buyer, provider, spend.redeem)
    odd = {
        "dummy of NULLDUMMY": b"\x51" + usual[1:],
        "push that is not minimal": b"\x00\x4c" + usual[1:],
        "more on the stack": b"\x51" + usual,
        "high s": close_script_sig(high_s(buyer), provider, spend.redeem),
    }
    for script_sig in odd.values():
        tx = with_script_sigs(spend.tx, [script_sig])
        verify_tx(tx, spent(spend), BLOCK_FLAGS)
        with pytest.raises(ScriptRefused):
            verify_tx(tx, spent(spend))


def test_a_p2pkh_input_is_signed_and_verified() -> None:
    script = p2pkh_script(BUYER)
    tx = make_tx([("aa" * 32, 0)], [(FUND, DUST)])
    signature = sign_input(tx, 0, script, B)
    assert check_signature(tx, 0, script, BUYER, signature)
    signed = with_script_sigs(tx, [p2pkh_script_sig(signature, BUYER)])
    assert verify_tx(signed, [(script, DUST + 500)]) == 500
    with pytest.raises(ScriptRefused):
        verify_tx(signed, [(p2pkh_script(PROVIDER), DUST + 500)])


def test_a_transaction_round_trips_and_its_id_is_stable() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    signed = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    again = parse_tx(serialize_tx(signed).hex())
    assert serialize_tx(again) == serialize_tx(signed)
    assert txid_of(again) == txid_of(signed) != txid_of(spend.tx)


def test_signing_leaves_the_unsigned_transaction_as_it_was() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    before = serialize_tx(spend.tx)
    finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    assert serialize_tx(spend.tx) == before
    with pytest.raises(ValueError, match="argument"):
        finish_close(spend, sign_all(spend, B)[:2], sign_all(spend, P))


@pytest.mark.parametrize("raw", ["", "zz", "00", "01000000", b"\xff" * 60, "01000000ffffffffffffffffff", "ä"])
def test_bytes_that_are_no_transaction_are_refused(raw: str | bytes) -> None:
    with pytest.raises(BadTransaction):
        parse_tx(raw)


def test_impossible_transactions_are_refused() -> None:
    script, coin = p2pkh_script(BUYER), ("aa" * 32, 0)
    for tx in (
        make_tx([coin], [(script, -1)]),
        make_tx([coin], [(script, MAX_MONEY + 1)]),
        make_tx([coin], [(script, MAX_MONEY), (script, 1)]),
        make_tx([coin, coin], [(script, 1)]),
        make_tx([coin, ("00" * 32, 0xFFFFFFFF)], [(script, 1)]),
        make_tx([coin], []),
    ):
        with pytest.raises(BadTransaction):
            parse_tx(serialize_tx(tx))


def test_more_out_than_in_is_refused() -> None:
    spend = closing_tx(TERMS, DEPOSITS[:1], 10 * COIN, 500, FUND)
    signed = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    script = p2sh_script(spend.redeem)
    with pytest.raises(BadTransaction):
        verify_tx(signed, [(script, DEPOSITS[0].amount - spend.fee - 1)])
    with pytest.raises(BadTransaction):
        verify_tx(signed, [])
