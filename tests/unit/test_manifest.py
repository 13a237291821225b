"""The manifest's form, and the signed transaction of a whole round at each size that needs other steps."""

import hashlib
import json

import pytest
from fund_kit import FIVE, NETWORK, OTHERS, Spending, coin, full, planned, snapshot, some_keys

from dux_airdropd.costs import batch_sizes
from dux_airdropd.manifest import (
    Unsigned,
    batch_keys,
    batch_transaction,
    digest_of,
    read_batch,
    read_share,
    transaction,
    write,
)
from dux_airdropd.plan import FundCoin, Plan, decide
from duxcommon.coin import multisig
from duxcommon.coin.notes import BatchNote, FundNote, decode
from duxcommon.coin.script import op_return_data, p2pkh_script, p2sh_script
from duxcommon.coin.tx import KOINU_PER_BYTE, serialize_tx, txid_of
from duxcommon.money import COIN, DUST

REDEEMS = {FIVE.script: FIVE.redeem, OTHERS.script: OTHERS.redeem}


def signed_by(unsigned: Unsigned, keys: list[bytes]) -> int:
    """Sign as flopd does, merge, run the script engine; the fee of what a node would take."""
    secrets = {**FIVE.secrets, **OTHERS.secrets}
    by_key = {key: multisig.sign(unsigned.tx, unsigned.redeems, key, secrets[key]) for key in keys}
    signed = multisig.merge(unsigned.tx, unsigned.redeems, by_key)
    fee = multisig.verify(signed, unsigned.redeems, [each.amount for each in unsigned.inputs])
    size = len(serialize_tx(signed))
    assert size <= multisig.MAX_STANDARD_SIZE
    assert size * 1000 < fee <= size * KOINU_PER_BYTE * 105 // 100
    return fee


def outputs(unsigned: Unsigned) -> list[tuple[bytes, int]]:
    return [(output.script_pub_key.script, output.value) for output in unsigned.tx.vout]


def payout(count: int, flop: int = 101) -> tuple[Plan, list[bytes]]:
    return full(count, flop), some_keys(count)


def test_the_manifest_is_canonical_json_and_its_hash_is_in_the_transaction() -> None:
    plan, keys = payout(3)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    value = json.loads(manifest.encode())
    assert value["kind"] == "payout"
    assert value["network"] == NETWORK
    assert value["eligible"] == {"count": 3, "digest": hashlib.sha256(b"".join(keys)).hexdigest()}
    assert json.dumps(value, sort_keys=True, separators=(",", ":")).encode() == manifest.encode()
    unsigned = transaction(manifest, keys, REDEEMS)
    data = op_return_data(unsigned.tx.vout[0].script_pub_key.script)
    assert data is not None
    assert decode(data) == FundNote("payout", 1, hashlib.sha256(manifest.encode()).digest())


def test_everything_that_is_paid_is_in_the_manifest() -> None:
    plan, keys = payout(3)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    others = [
        write("cd" * 32, plan, digest_of(keys), FIVE.redeem),
        write(NETWORK, plan, digest_of(some_keys(4)[1:]), FIVE.redeem),
        write(NETWORK, full(3, 102), digest_of(keys), FIVE.redeem),
        write(NETWORK, full(4), digest_of(keys), FIVE.redeem),
        write(NETWORK, full(3, height=1010), digest_of(keys), FIVE.redeem),
        write(NETWORK, full(3, sequence=2), digest_of(keys), FIVE.redeem),
    ]
    assert len({manifest.digest(), *(other.digest() for other in others)}) == 7


@pytest.mark.parametrize("count", [1, 2, 999, 2000])
def test_up_to_two_thousand_are_paid_at_once_in_equal_shares(count: int) -> None:
    plan, keys = payout(count)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    unsigned = transaction(manifest, keys, REDEEMS)
    paid = outputs(unsigned)
    assert paid[1] == (FIVE.script, manifest.anchor)
    assert paid[2:] == [(p2pkh_script(key), manifest.share) for key in keys]
    assert manifest.share >= DUST
    assert DUST <= manifest.anchor < DUST + count
    fee = signed_by(unsigned, FIVE.keys[1:4])
    assert sum(each.amount for each in unsigned.inputs) == sum(amount for _, amount in paid) + fee


@pytest.mark.parametrize("count", [2001, 9000, 20_000])
def test_more_are_paid_in_batches_that_add_up_to_the_koinu(count: int) -> None:
    plan, keys = payout(count, 101 + count // 50)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    unsigned = transaction(manifest, keys, REDEEMS)
    signed_by(unsigned, FIVE.keys[:3])
    waiting = outputs(unsigned)[2:]
    assert len(waiting) == -(-count // 2000)
    assert {script for script, _ in waiting} == {FIVE.script}
    paid: list[bytes] = []
    for batch, (script, amount) in enumerate(waiting):
        spent = FundCoin(txid_of(unsigned.tx), 2 + batch, amount, script, 1100)
        one = batch_transaction(manifest, keys, batch, spent)
        data = op_return_data(one.tx.vout[0].script_pub_key.script)
        assert data is not None
        assert decode(data) == BatchNote(1, batch, manifest.digest())
        assert {value for _, value in outputs(one)[1:]} == {manifest.share}
        paid += [script for script, _ in outputs(one)[1:]]
        if batch in (0, len(waiting) - 1):
            signed_by(one, FIVE.keys[2:])
    assert paid == [p2pkh_script(key) for key in keys]


@pytest.mark.parametrize("count", [2001, 3999, 4000, 9000])
def test_share_and_number_of_recipients_can_be_read_from_the_chain_alone(count: int) -> None:
    plan, keys = payout(count, 300)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    share = read_share(manifest.batches[0], FIVE.redeem)
    assert share == manifest.share
    assert [read_batch(amount, FIVE.redeem, share) for amount in manifest.batches] == batch_sizes(count)
    assert read_batch(manifest.batches[0] + 1, FIVE.redeem, share) is None
    assert read_batch(1, FIVE.redeem, share) is None
    assert read_share(1, FIVE.redeem) == 0


def test_no_share_is_above_the_cap_and_the_rest_is_in_the_next_anchor() -> None:
    keys = some_keys(3)
    view = snapshot([101 * COIN])
    plan = decide(view, 3, limit=5 * COIN)
    assert isinstance(plan, Plan)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    assert manifest.share == 5 * COIN
    unsigned = transaction(manifest, keys, REDEEMS)
    fee = signed_by(unsigned, FIVE.keys[:3])
    assert manifest.anchor == 101 * COIN + DUST - 15 * COIN - fee


def test_batches_hold_every_key_once() -> None:
    plan, keys = payout(4001, 300)
    manifest = write(NETWORK, plan, digest_of(keys), FIVE.redeem)
    parts = [batch_keys(manifest, keys, batch) for batch in range(3)]
    assert [len(part) for part in parts] == [2000, 2000, 1]
    assert [key for part in parts for key in part] == keys


def test_a_grant_pays_the_amount_that_was_voted_and_keeps_the_rest() -> None:
    wish = Spending("aa" * 32, p2sh_script(b"\x51"), 30 * COIN)
    plan = planned(snapshot([50 * COIN], spends=[wish]))
    manifest = write(NETWORK, plan, None, FIVE.redeem)
    unsigned = transaction(manifest, (), REDEEMS)
    assert outputs(unsigned)[2:] == [(wish.script, 30 * COIN)]
    fee = signed_by(unsigned, FIVE.keys[:3])
    assert manifest.anchor == 50 * COIN + DUST - 30 * COIN - fee
    assert manifest.paid == 30 * COIN


def test_a_sweep_to_new_guardians_takes_everything_and_both_sign() -> None:
    plan = planned(snapshot([COIN], guardians=OTHERS, before=FIVE, old=[3 * COIN]))
    manifest = write(NETWORK, plan, None, OTHERS.redeem)
    unsigned = transaction(manifest, (), REDEEMS)
    assert [script for script, _ in outputs(unsigned)[1:]] == [OTHERS.script]
    fee = signed_by(unsigned, sorted({*FIVE.keys, *OTHERS.keys}))
    assert manifest.anchor == 4 * COIN + DUST - fee
    assert manifest.paid == 0


def test_a_coin_of_one_transaction_is_not_that_of_another() -> None:
    first, second = coin(1, COIN), coin(2, COIN)
    assert (first.txid, first.vout) != (second.txid, second.vout)
