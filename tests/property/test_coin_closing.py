"""Properties of channel transactions: every koinu is accounted for, and nothing else than the exact bytes passes."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import (
    MAX_LOCK_HEIGHT,
    EscrowTerms,
    FundingNote,
    address_of,
    escrow_script,
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
from duxcommon.coin.settlement import Prevout, Reason, Refusal, Settlement, settle
from duxcommon.coin.tx import (
    MAX_FEE,
    Coin,
    check_signature,
    closing_fee,
    closing_tx,
    finish_close,
    make_tx,
    outpoint_of,
    parse_tx,
    refund_tx,
    serialize_tx,
    sign_input,
    usable,
)
from duxcommon.errors import BadTransaction, NotPayable
from duxcommon.money import COIN, DUST, MAX_MONEY, split, tax

SECRETS = [number.to_bytes(32, "big") for number in range(1, 6)]
KEYS = [pubkey_of(secret) for secret in SECRETS]
P, B = SECRETS[:2]
TERMS = EscrowTerms(KEYS[0], KEYS[1], KEYS[2], 150_000)
FUND = p2sh_script(multisig_script(3, KEYS))
ESCROW = p2sh_script(TERMS.script())
NOTE = FundingNote(TERMS.provider, TERMS.arbiter, TERMS.lock_height)

coins = st.builds(
    Coin,
    txid=st.binary(min_size=32, max_size=32).map(bytes.hex),
    vout=st.integers(0, 2**32 - 2),
    amount=st.integers(DUST, 50 * COIN) | st.integers(DUST, MAX_MONEY // 20),
)
channels = st.lists(coins, min_size=1, max_size=16, unique_by=lambda coin: (coin.txid, coin.vout))
rates = st.integers(0, 10_000)
grosses = st.integers(0, 60 * COIN) | st.integers(0, MAX_MONEY)


@given(channels, grosses, rates, st.randoms(use_true_random=False))
def test_closing_conserves_every_koinu(deposits: list[Coin], gross: int, tax_bps: int, shuffle: random.Random) -> None:
    total = sum(coin.amount for coin in deposits)
    parts = split(gross, tax_bps)
    payable = parts.provider >= DUST and gross <= usable(deposits)
    if not payable:
        with pytest.raises(NotPayable):
            closing_tx(TERMS, deposits, gross, tax_bps, FUND)
        return
    spend = closing_tx(TERMS, deposits, gross, tax_bps, FUND)
    assert spend.provider + spend.tax == gross
    assert spend.provider + spend.tax + spend.buyer + spend.fee == total
    assert sum(out.value for out in spend.tx.vout) == total - spend.fee
    assert all(out.value >= DUST for out in spend.tx.vout)
    assert closing_fee(len(deposits)) <= spend.fee < closing_fee(len(deposits)) + DUST <= MAX_FEE
    assert [outpoint_of(txin) for txin in spend.tx.vin] == sorted((coin.txid, coin.vout) for coin in deposits)
    shuffle.shuffle(deposits)
    assert serialize_tx(closing_tx(TERMS, deposits, gross, tax_bps, FUND).tx) == serialize_tx(spend.tx)


def test_ten_thousand_cumulative_states_with_odd_prices_are_exact() -> None:
    prices = random.Random(7)
    deposit = Coin("ab" * 32, 3, 40 * COIN)
    gross = paid = 0
    before = (0, 0)
    for _ in range(10_000):
        price = prices.choice([1, 7, 333, 12_345, 399_999, 600_001])
        gross, paid = gross + price, paid + price
        parts = split(gross, 500)
        assert parts.provider + parts.tax == gross == paid
        assert parts.tax == max(gross * 500 // 10_000, DUST)
        if gross < 2 * DUST:
            continue
        spend = closing_tx(TERMS, [deposit], gross, 500, FUND)
        values = [out.value for out in spend.tx.vout]
        assert values == [gross - parts.tax, parts.tax, deposit.amount - gross - closing_fee(1)]
        # Neither side ever gets less by a later state.
        assert values[0] >= before[0]
        assert values[1] >= before[1]
        before = (values[0], values[1])
    assert gross > 15 * COIN


@settings(max_examples=40)
@given(
    st.integers(2 * DUST, 10 * COIN),
    st.sampled_from([0, 1, 250, 500, 5000]),
    st.sampled_from([-1000, -20, -1, 1, 20, 1000]),
    st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(-2, 2)),
)
def test_a_close_is_settled_work_and_any_other_proportion_is_not(
    gross: int, tax_bps: int, moved: int, deltas: tuple[int, int, int]
) -> None:
    deposit = Coin("ab" * 32, 3, 12 * COIN)
    spend = closing_tx(TERMS, [deposit], gross, tax_bps, FUND)
    scripts = [out.script_pub_key.script for out in spend.tx.vout]

    def verdict(values: list[int]) -> Settlement | Refusal:
        tx = make_tx([("ab" * 32, 3)], list(zip(scripts, values, strict=True)))
        buyer, provider = ([sign_input(tx, 0, spend.redeem, secret)] for secret in (B, P))
        signed = finish_close(replace(spend, tx=tx), buyer, provider)
        return settle(signed, [Prevout(ESCROW, deposit.amount, 500, NOTE)], {FUND}, lambda _height: tax_bps)

    good = verdict([spend.provider, spend.tax, spend.buyer])
    assert isinstance(good, Settlement)
    assert (good.gross, good.tax, good.change, good.fee) == (gross, spend.tax, spend.buyer, spend.fee)

    # Of one gross, not a koinu can move between the provider and the fund.
    shifted = verdict([spend.provider + moved, spend.tax - moved, spend.buyer])
    assert isinstance(shifted, Refusal)
    assert shifted.reason is Reason.WRONG_TAX

    # Changed otherwise, it counts exactly when it is the close of another gross.
    values = [spend.provider + deltas[0], spend.tax + deltas[1], spend.buyer + deltas[2]]
    other = verdict(values)
    assert isinstance(other, Settlement) == (values[1] == tax(values[0] + values[1], tax_bps))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.data())
def test_a_changed_signature_is_refused(salt: int, data: st.DataObject) -> None:
    spend = closing_tx(TERMS, [Coin(f"{salt:064x}", 0, 12 * COIN)], 10 * COIN, 500, FUND)
    signature = sign_input(spend.tx, 0, spend.redeem, B)
    assert check_signature(spend.tx, 0, spend.redeem, KEYS[1], signature)
    at, flip = data.draw(st.integers(0, len(signature) - 1)), data.draw(st.integers(1, 255))
    changed = signature[:at] + bytes([signature[at] ^ flip]) + signature[at + 1 :]
    assert not check_signature(spend.tx, 0, spend.redeem, KEYS[1], changed)


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_bytes_make_the_signature_check_fail_otherwise_than_by_false(signature: bytes, key: bytes) -> None:
    tx = make_tx([("ab" * 32, 0)], [(FUND, DUST)])
    assert check_signature(tx, 0, b"\x51", key, signature) is False


@given(st.permutations(KEYS), st.integers(1, MAX_LOCK_HEIGHT))
def test_escrow_scripts_round_trip(keys: list[bytes], height: int) -> None:
    terms = EscrowTerms(keys[0], keys[1], keys[2], height)
    assert parse_escrow(terms.script()) == terms
    assert FundingNote.decode(FundingNote(keys[0], keys[2], height).encode()) == FundingNote(keys[0], keys[2], height)


@given(st.data())
def test_a_changed_byte_makes_another_script_or_other_terms(data: st.DataObject) -> None:
    script = TERMS.script()
    at, flip = data.draw(st.integers(0, len(script) - 1)), data.draw(st.integers(1, 255))
    changed = script[:at] + bytes([script[at] ^ flip]) + script[at + 1 :]
    terms = parse_escrow(changed)
    assert terms != TERMS
    assert terms is None or terms.script() == changed


@given(st.binary(max_size=200))
def test_any_bytes_are_no_escrow_or_rebuild_to_themselves(script: bytes) -> None:
    terms = parse_escrow(script)
    assert terms is None or escrow_script(terms.provider, terms.buyer, terms.arbiter, terms.lock_height) == script
    note = FundingNote.decode(script)
    assert note is None or note.encode() == script
    data = op_return_data(script)
    assert data is None or op_return_script(data) == script


@given(st.binary(min_size=33, max_size=33), st.sampled_from(SECRETS))
def test_addresses_and_private_keys_round_trip(key: bytes, secret: bytes) -> None:
    for chain in CHAINS.values():
        for script in (p2pkh_script(key), p2sh_script(key)):
            address = address_of(script, chain)
            assert address is not None
            assert script_of(address, chain) == script
        assert secret_of(wif_of(secret, chain), chain) == secret


@given(channels, st.integers(1, MAX_LOCK_HEIGHT))
def test_a_refund_gives_everything_but_the_fee_back(deposits: list[Coin], height: int) -> None:
    terms = EscrowTerms(KEYS[0], KEYS[1], KEYS[2], height)
    if sum(coin.amount for coin in deposits) < 4 * DUST * len(deposits):
        return
    spend = refund_tx(terms, deposits)
    assert spend.buyer + spend.fee == sum(coin.amount for coin in deposits)
    assert [out.script_pub_key.script for out in spend.tx.vout] == [p2pkh_script(KEYS[1])]
    assert spend.tx.lock_time == height


@given(st.binary(max_size=300))
def test_any_bytes_are_a_transaction_that_round_trips_or_are_refused(raw: bytes) -> None:
    try:
        tx = parse_tx(raw)
    except BadTransaction:
        return
    assert serialize_tx(tx) == raw


@given(st.data())
def test_a_damaged_transaction_is_refused_or_another_one(data: st.DataObject) -> None:
    spend = closing_tx(TERMS, [Coin("ab" * 32, 0, 12 * COIN)], 10 * COIN, 500, FUND)
    raw = serialize_tx(finish_close(spend, [sign_input(spend.tx, 0, spend.redeem, B)], [b"\x01" * 71]))
    at, flip = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    changed = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
    try:
        tx = parse_tx(changed)
    except BadTransaction:
        return
    assert serialize_tx(tx) == changed
