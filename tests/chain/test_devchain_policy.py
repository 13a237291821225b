"""What dux-devchain's mempool refuses, with the codes and the words of the Cores that it stands in for."""

from collections.abc import Iterator
from typing import Any

import pytest
from btclib.script.script import serialize
from btclib.tx import Tx, TxOut
from devchain_kit import OWN, SECRETS, Devchain, Refused, given_coin, spend

from duxcommon.coin.script import (
    EscrowTerms,
    address_of,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
)
from duxcommon.coin.tx import (
    Coin,
    closing_tx,
    cooperative_refund_tx,
    finish_close,
    finish_refund,
    make_tx,
    p2pkh_script_sig,
    refund_tx,
    serialize_tx,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.money import COIN

PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in SECRETS)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture(scope="module", params=["flopcoin", "modern"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devchain]:
    running = Devchain(tmp_path_factory.mktemp("chain") / "c", request.param)
    yield running
    running.close()


def send(chain: Devchain, tx: Tx, *more: Any) -> str:
    txid: str = chain.call("sendrawtransaction", serialize_tx(tx).hex(), *more)
    assert txid == txid_of(tx)
    return txid


def refused(chain: Devchain, tx: Tx, flopcoin: str, modern: str | None = None, code: int = -26) -> None:
    """The transaction is refused with exactly this text, and nothing changes."""
    before = chain.call("getrawmempool")
    with pytest.raises(Refused) as error:
        send(chain, tx)
    wanted = flopcoin if chain.dialect == "flopcoin" else modern or flopcoin.partition(": ")[2]
    assert (error.value.code, error.value.message) == (code, wanted)
    assert chain.call("getrawmempool") == before


def test_the_fee_floor_is_where_default_miners_stand(chain: Devchain) -> None:
    coin = given_coin(chain)
    low = spend(coin, [(OWN, coin.amount - 188_999)])
    floor = len(serialize_tx(low)) * 1000  # 0.01 FLOP for 1000 bytes
    assert 189_000 <= floor <= 192_000
    refused(chain, low, "66: min relay fee not met", f"min relay fee not met, 188999 < {floor}")
    send(chain, spend(coin, [(OWN, coin.amount - 192_000)]))


def test_dust_is_refused_and_soft_dust_must_pay_for_itself(chain: Devchain) -> None:
    coin = given_coin(chain)
    fee = 300_000
    refused(chain, spend(coin, [(OWN, 99_999), (OWN, 9 * COIN)]), "64: dust")
    cheap = spend(coin, [(OWN, 999_999), (OWN, coin.amount - 999_999 - fee)])
    needed = len(serialize_tx(cheap)) * 1000 + 1_000_000
    refused(chain, cheap, "66: min relay fee not met", f"min relay fee not met, {fee} < {needed}")
    send(chain, spend(coin, [(OWN, 100_000), (OWN, coin.amount - 100_000 - fee - 1_000_000)]))


def test_the_smallest_output_that_relays_everywhere_passes_at_the_plain_fee(chain: Devchain) -> None:
    coin = given_coin(chain)
    send(chain, spend(coin, [(OWN, 1_000_000), (OWN, coin.amount - 1_300_000)]))


def test_one_op_return_of_eighty_bytes_passes(chain: Devchain) -> None:
    coin = given_coin(chain)
    rest = (OWN, 9 * COIN)
    data = [op_return_script(bytes(80)), b"\x6a\x4c\x51" + bytes(81), op_return_script(b"x")]
    refused(chain, spend(coin, [(data[1], 0), rest]), "64: scriptpubkey")
    refused(chain, spend(coin, [(data[0], 0), (data[2], 0), rest]), "64: multi-op-return")
    send(chain, spend(coin, [(data[0], 0), rest]))


def test_a_high_s_signature_does_not_relay(chain: Devchain) -> None:
    coin = given_coin(chain)
    tx = spend(coin, [(OWN, 9 * COIN)])
    der = tx.vin[0].script_sig[1 : 1 + tx.vin[0].script_sig[0]]
    size_r = der[3]
    s = ORDER - int.from_bytes(der[6 + size_r : -1], "big")
    high = b"\x00" + s.to_bytes(32, "big")
    body = der[2 : 4 + size_r] + b"\x02" + bytes([len(high)]) + high
    malleated = b"\x30" + bytes([len(body)]) + body + b"\x01"
    changed = with_script_sigs(tx, [p2pkh_script_sig(malleated, PROVIDER)])
    text = "non-mandatory-script-verify-flag (Non-canonical signature: S value is unnecessarily high)"
    refused(chain, changed, f"64: {text}")
    send(chain, tx)


def test_a_signature_of_another_key_or_over_other_outputs_fails(chain: Devchain) -> None:
    coin = given_coin(chain)
    tx = spend(coin, [(OWN, 9 * COIN)])
    stolen = Tx(1, 0, tx.vin, [TxOut(9 * COIN + 1, OWN, check_validity=False)], check_validity=False)
    text = "Signature must be zero for failed CHECK(MULTI)SIG operation"
    refused(chain, stolen, f"16: mandatory-script-verify-flag-failed ({text})")
    wrong = with_script_sigs(tx, [p2pkh_script_sig(sign_input(tx, 0, OWN, SECRETS[1]), BUYER)])
    refused(chain, wrong, "16: mandatory-script-verify-flag-failed (Script failed an OP_EQUALVERIFY operation)")


def test_a_transaction_has_to_be_whole(chain: Devchain) -> None:
    coin = given_coin(chain)
    inputs = [(coin.txid, coin.vout)]
    refused(chain, make_tx(inputs, []), "16: bad-txns-vout-empty")
    refused(chain, make_tx(inputs * 2, [(OWN, COIN)]), "16: bad-txns-inputs-duplicate")
    refused(chain, make_tx(inputs, [(OWN, 10**18 + 1)]), "16: bad-txns-vout-toolarge")
    refused(chain, make_tx(inputs, [(OWN, 10**18), (OWN, 1)]), "16: bad-txns-txouttotal-toolarge")
    refused(chain, make_tx(inputs, [(OWN, -1)]), "16: bad-txns-vout-negative")
    below = "bad-txns-in-belowout"
    debug = "value in (10.00) < value out (10.00000001)"
    refused(chain, spend(coin, [(OWN, coin.amount + 1)]), f"16: {below}", f"{below}, {debug}")
    for text in ("", "00", "zz", serialize_tx(make_tx(inputs, [(OWN, COIN)])).hex()[:-2]):
        with pytest.raises(Refused, match="TX decode failed") as error:
            chain.call("sendrawtransaction", text)
        assert error.value.code == -22


def test_versions_scripts_and_sizes_that_do_not_relay(chain: Devchain) -> None:
    coin = given_coin(chain)

    def set_version(tx: Tx) -> None:
        tx.version = 3

    refused(chain, spend(coin, [(OWN, 9 * COIN)], change=set_version), "64: version")
    refused(chain, spend(coin, [(b"\x51", 9 * COIN)]), "64: scriptpubkey")
    refused(chain, spend(coin, [(b"\x00\x14" + bytes(20), 9 * COIN)]), "64: scriptpubkey")
    big = spend(coin, [(OWN, COIN // 500)] * 3000)
    refused(chain, big, "64: tx-size")
    tx = make_tx([(coin.txid, coin.vout)], [(OWN, 9 * COIN)])
    refused(chain, with_script_sigs(tx, [b"\x61"]), "64: scriptsig-not-pushonly")
    refused(chain, with_script_sigs(tx, [serialize([bytes(520)] * 4)]), "64: scriptsig-size")


def test_twenty_nine_hundred_outputs_fit_one_transaction(chain: Devchain) -> None:
    coin = given_coin(chain, amount=40 * COIN)
    tx = spend(coin, [(OWN, 1_000_000)] * 2900)
    assert 98_000 < len(serialize_tx(tx)) <= 100_000
    send(chain, tx)
    chain.mine(1)


def test_an_absurd_fee_is_refused_until_it_is_meant(chain: Devchain) -> None:
    coin = given_coin(chain, amount=200 * COIN)
    tx = spend(coin, [(OWN, 99 * COIN)])
    if chain.dialect == "flopcoin":
        refused(chain, tx, "256: absurdly-high-fee")
    else:
        text = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"
        refused(chain, tx, "", text, code=-25)
    send(chain, spend(given_coin(chain, amount=200 * COIN), [(OWN, 100 * COIN)]))
    send(chain, tx, True if chain.dialect == "flopcoin" else 0)


def test_twenty_five_unconfirmed_in_a_row_and_no_more(chain: Devchain) -> None:
    coin = given_coin(chain)
    for _ in range(25):
        tx = spend(coin, [(OWN, coin.amount - 250_000)])
        coin = Coin(send(chain, tx), 0, coin.amount - 250_000)
    debug = "too many unconfirmed ancestors [limit: 25]"
    last = spend(coin, [(OWN, coin.amount - 250_000)])
    refused(chain, last, "64: too-long-mempool-chain", f"too-long-mempool-chain, {debug}")
    chain.mine(1)
    send(chain, last)


def test_the_first_spend_wins_in_the_mempool_and_the_answers_name_the_state(chain: Devchain) -> None:
    coin = given_coin(chain)
    first = spend(coin, [(OWN, 9 * COIN), (p2pkh_script(BUYER), COIN // 2)])
    rival = spend(coin, [(OWN, 8 * COIN)])
    send(chain, first)
    send(chain, first)  # again: the id, and nothing else
    refused(chain, rival, "258: txn-mempool-conflict")
    chain.mine(1)
    known = (
        "transaction already in block chain" if chain.dialect == "flopcoin" else "Transaction already in block chain"
    )
    refused(chain, first, known, known, code=-27)
    lost = "bad-txns-inputs-missingorspent"
    if chain.dialect == "modern":
        refused(chain, rival, "", lost, code=-25)
    else:
        _refused_as_spent(chain, rival, coin)
    own = spend(Coin(txid_of(first), 0, 9 * COIN), [(p2pkh_script(ARBITER), 8 * COIN)])
    send(chain, own)
    buyer_tx = make_tx([(txid_of(first), 1)], [(p2pkh_script(ARBITER), COIN // 4)])
    buyer_sig = p2pkh_script_sig(sign_input(buyer_tx, 0, p2pkh_script(BUYER), SECRETS[1]), BUYER)
    send(chain, with_script_sigs(buyer_tx, [buyer_sig]))
    chain.mine(1)
    if chain.dialect == "modern":
        refused(chain, first, "", lost, code=-25)
    else:
        _refused_as_spent(chain, first, coin)


def _refused_as_spent(chain: Devchain, tx: Tx, coin: Coin) -> None:
    """Core 0.14 tells a spent output from an unknown one only while its transaction has other unspent outputs."""
    left = [chain.call("gettxout", coin.txid, vout) for vout in range(3)]
    if any(left):
        refused(chain, tx, "18: bad-txns-inputs-spent")
    else:
        refused(chain, tx, "Missing inputs", code=-25)


def test_unknown_inputs_are_missing(chain: Devchain) -> None:
    tx = spend(Coin("11" * 32, 0, COIN), [(OWN, COIN // 2)])
    refused(chain, tx, "Missing inputs", "bad-txns-inputs-missingorspent", code=-25)


def test_fresh_coins_can_not_be_spent_before_they_ripen(chain: Devchain) -> None:
    (block,) = chain.call("generatetoaddress", 1, address_of(OWN, chain.params))
    txid = chain.call("getblock", block)["tx"][0]
    value = chain.call("gettxout", txid, 0)["value"]
    tx = spend(Coin(txid, 0, int(value * COIN)), [(OWN, int(value * COIN) - 250_000)])
    for depth in range(1, 6):
        text = "bad-txns-premature-spend-of-coinbase"
        refused(chain, tx, f"16: {text}", f"{text}, tried to spend coinbase at depth {depth}")
        chain.mine(1)
    send(chain, tx)


def test_a_lock_time_holds_until_the_tip_is_at_it(chain: Devchain) -> None:
    coin = given_coin(chain)
    height = chain.height() + 3
    tx = spend(coin, [(OWN, 9 * COIN)], lock_time=height, sequence=0xFFFFFFFE)
    while chain.height() < height:
        refused(chain, tx, "64: non-final")
        chain.mine(1)
    clock = spend(coin, [(OWN, 9 * COIN)], lock_time=1_600_000_000, sequence=0xFFFFFFFE)
    refused(chain, clock, "64: non-final")
    send(chain, tx)


def sign_all(tx: Tx, redeem: bytes, secret: bytes) -> list[bytes]:
    return [sign_input(tx, index, redeem, secret) for index in range(len(tx.vin))]


def test_the_escrow_moves_as_its_script_says_and_in_no_other_way(chain: Devchain) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, chain.height() + 6)
    deposits = [given_coin(chain, p2sh_script(terms.script()), 20 * COIN) for _ in range(2)]
    fund = p2sh_script(b"\x51")
    closing = closing_tx(terms, deposits, 10 * COIN, 500, fund)
    sigs = [sign_all(closing.tx, closing.redeem, secret) for secret in SECRETS]
    for cosigner, provider in ((1, 2), (2, 1), (0, 0), (2, 2)):
        with pytest.raises(Refused, match="script-verify-flag") as error:
            send(chain, finish_close(closing, sigs[cosigner], sigs[provider]))
        assert error.value.code == -26
    refund = refund_tx(terms, deposits)
    signed = finish_refund(refund, sign_all(refund.tx, refund.redeem, SECRETS[1]))
    early = Tx(1, terms.lock_height - 4, refund.tx.vin, refund.tx.vout, check_validity=False)
    while chain.height() < terms.lock_height - 4:
        chain.mine(1)
    early_sigs = sign_all(early, refund.redeem, SECRETS[1])
    changed = with_script_sigs(early, [serialize([sig]) + b"\x00" + serialize([refund.redeem]) for sig in early_sigs])
    refused(chain, changed, "64: non-mandatory-script-verify-flag (Locktime requirement not satisfied)")
    while chain.height() < terms.lock_height:
        refused(chain, signed, "64: non-final")
        chain.mine(1)
    for secret in (SECRETS[0], SECRETS[2]):
        with pytest.raises(Refused, match="script-verify-flag"):
            send(chain, finish_refund(refund, sign_all(refund.tx, refund.redeem, secret)))
    send(chain, signed)
    chain.mine(1)
    together = cooperative_refund_tx(terms, [given_coin(chain, p2sh_script(terms.script()), 5 * COIN)])
    both = [sign_all(together.tx, together.redeem, secret) for secret in SECRETS]
    send(chain, finish_close(together, both[1], both[0]))


def test_a_close_by_provider_and_buyer_confirms(chain: Devchain) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, chain.height() + 1000)
    deposits = [
        given_coin(chain, p2sh_script(terms.script()), 12 * COIN),
        given_coin(chain, p2sh_script(terms.script())),
    ]
    closing = closing_tx(terms, deposits, 10 * COIN, 500, p2sh_script(b"\x51"))
    sigs = [sign_all(closing.tx, closing.redeem, secret) for secret in SECRETS]
    txid = send(chain, finish_close(closing, sigs[1], sigs[0]))
    (block,) = chain.mine(1)
    assert txid in chain.call("getblock", block)["tx"]
    assert [chain.call("gettxout", txid, n)["value"] * COIN for n in range(2)] == [950_000_000, 50_000_000]


def test_relative_lock_times_are_refused_because_flopcoin_never_enforces_them(chain: Devchain) -> None:
    redeem = b"\x5a\xb2\x75\x21" + PROVIDER + b"\xac"  # 10 CHECKSEQUENCEVERIFY DROP <key> CHECKSIG
    coin = given_coin(chain, p2sh_script(redeem))

    def set_sequence(tx: Tx) -> None:
        tx.version = 2
        tx.vin[0].sequence = 10

    tx = make_tx([(coin.txid, coin.vout)], [(OWN, 9 * COIN)])
    set_sequence(tx)
    signed = with_script_sigs(tx, [serialize([sign_input(tx, 0, redeem, SECRETS[0]), redeem])])
    signed.version = 2
    chain.mine(12)
    text = "non-mandatory-script-verify-flag (NOPx reserved for soft-fork upgrades)"
    refused(chain, signed, f"64: {text}")


def test_a_multisig_fund_of_three_in_five_pays_out(chain: Devchain) -> None:
    secrets = [bytes([number]) * 32 for number in range(21, 26)]
    pushes = b"".join(b"\x21" + pubkey_of(secret) for secret in secrets)
    redeem = b"\x53" + pushes + b"\x55\xae"
    coin = given_coin(chain, p2sh_script(redeem))
    tx = make_tx([(coin.txid, coin.vout)], [(OWN, 9 * COIN)])
    sigs = [sign_input(tx, 0, redeem, secret) for secret in secrets]
    too_few = with_script_sigs(tx, [b"\x00" + serialize([*sigs[:2], redeem])])
    with pytest.raises(Refused, match="script-verify-flag"):
        send(chain, too_few)
    send(chain, with_script_sigs(tx, [b"\x00" + serialize([*sigs[1:4], redeem])]))
