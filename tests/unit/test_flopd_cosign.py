"""What a guardian signs: fund transactions, input by input, and proposals; always with the same bytes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guardian_kit import ME, NETWORK_ID, OTHER_KEYS, OTHERS, PASS, Stand, order

from dux_flopd.keyring import Keyring
from dux_flopd.keystore import GUARDIAN_PATH, PAYOUT_PATH
from duxcommon.coin import multisig
from duxcommon.coin.notes import ApprovalNote, approves
from duxcommon.coin.params import DEVNET
from duxcommon.coin.tx import fee_for, serialize_tx
from duxcommon.errors import KeystoreMissing, WalletLocked
from duxcommon.money import COIN, DUST
from duxcommon.rpc import Caller


@pytest.fixture
def stand(short_tmp: Path) -> Iterator[Stand]:
    made = Stand(short_tmp)
    yield made
    made.close()


def test_the_guardian_key_is_one_of_its_own(stand: Stand) -> None:
    info = stand.guardian.key()
    assert bytes.fromhex(info.pubkey) == stand.pubkey == stand.keyring.keystore.key(GUARDIAN_PATH).pubkey
    assert info.pubkey != stand.keyring.payout().pubkey
    assert info.address.startswith("d")
    assert stand.keyring.payout_pair() == stand.keyring.keystore.key(PAYOUT_PATH)


def test_signatures_of_three_guardians_make_a_transaction_that_the_engine_takes(stand: Stand) -> None:
    asked = order(stand.coins(50 * COIN, 20 * COIN, 7 * COIN))
    made = stand.guardian.cosign(ME, asked.raw, asked.prevouts)
    assert made.pubkey == stand.pubkey.hex()
    own = [bytes.fromhex(signature or "") for signature in made.signatures]
    assert multisig.check_signatures(asked.tx, asked.redeems, stand.pubkey, own)
    by_key = {stand.pubkey: own} | {
        key: multisig.sign(asked.tx, asked.redeems, key, secret)
        for key, secret in list(zip(OTHER_KEYS, OTHERS, strict=True))[:2]
    }
    merged = multisig.merge(asked.tx, asked.redeems, by_key)
    fee = multisig.verify(merged, asked.redeems, [prevout.amount for prevout in asked.prevouts])
    assert fee == fee_for(multisig.signed_size(asked.tx, asked.redeems))
    assert len(serialize_tx(merged)) * 1000 < fee


def test_the_same_question_gets_the_same_bytes_also_after_a_restart(stand: Stand, short_tmp: Path) -> None:
    asked = order(stand.coins(50 * COIN, 20 * COIN))
    first = stand.guardian.cosign(ME, asked.raw, asked.prevouts)
    assert stand.guardian.cosign(ME, asked.raw, asked.prevouts) == first
    approval = stand.guardian.approve(ME, "cd" * 32)
    stand.keyring.lock()
    asyncio.run(stand.keyring.unlock(PASS))
    assert stand.guardian.cosign(ME, asked.raw, asked.prevouts) == first
    assert stand.guardian.approve(ME, "cd" * 32) == approval


def test_inputs_of_a_script_without_the_key_are_left_to_others(stand: Stand) -> None:
    for seen in (False, True):
        if seen:
            stand.watch(stand.foreign)
        others = stand.coins(30 * COIN, redeem=stand.foreign, seen=seen)
        asked = order([*stand.coins(50 * COIN), *others, *stand.coins(10 * COIN)])
        made = stand.guardian.cosign(ME, asked.raw, asked.prevouts)
        assert [signature is None for signature in made.signatures] == [False, True, False]


def test_what_is_too_little_for_an_output_may_go_into_the_fee(stand: Stand) -> None:
    coins = stand.coins(50 * COIN)
    fair = order(coins)
    least = sum(prevout.amount for prevout in coins) - sum(output.value for output in fair.tx.vout)
    asked = order(coins, fee=least + DUST)
    assert stand.guardian.cosign(ME, asked.raw, asked.prevouts).signatures != [None]


def test_an_approval_counts_for_its_proposal_in_its_network_alone(stand: Stand) -> None:
    made = stand.guardian.approve(ME, "cd" * 32)
    note = ApprovalNote(bytes.fromhex("cd" * 12), bytes.fromhex(made.signature))
    assert bytes.fromhex(made.pubkey) == stand.pubkey
    assert approves(note, NETWORK_ID, "cd" * 32, stand.pubkey)
    assert not approves(note, NETWORK_ID, "cd" * 32, OTHER_KEYS[0])
    assert not approves(note, "ac" * 32, "cd" * 32, stand.pubkey)
    assert not approves(note, NETWORK_ID, "ce" * 32, stand.pubkey)


def test_without_the_passphrase_or_a_keystore_nothing_is_signed(stand: Stand, short_tmp: Path) -> None:
    asked = order(stand.coins(50 * COIN))
    stand.keyring.lock()
    bare = Keyring(short_tmp / "none.json", stand.store, stand.keyring._core, DEVNET)
    for ring, error in ((stand.keyring, WalletLocked), (bare, KeystoreMissing)):
        stand.guardian._keyring = ring
        for attempt in (
            stand.guardian.key,
            lambda: stand.guardian.approve(ME, "cd" * 32),
            lambda: stand.guardian.cosign(ME, asked.raw, asked.prevouts),
        ):
            with pytest.raises(error):
                attempt()


def test_root_and_the_user_of_the_configuration_are_served_too(stand: Stand) -> None:
    asked = order(stand.coins(50 * COIN))
    nobody = Caller(65534, frozenset())
    for caller in (Caller(0, frozenset()), nobody):
        assert stand.guardian.cosign(caller, asked.raw, asked.prevouts).pubkey == stand.pubkey.hex()
        assert stand.guardian.approve(caller, "cd" * 32).pubkey == stand.pubkey.hex()
    assert nobody.name == "nobody"


def test_the_largest_payout_is_signed_fast_enough_to_hold_up_no_other_call(stand: Stand) -> None:
    for inputs, shares in ((200, 300), (1, 2_000)):
        asked = order(stand.coins(*[30 * COIN] * (inputs - 1), 2_100 * COIN), shares=shares)
        began = time.process_time()
        made = stand.guardian.cosign(ME, asked.raw, asked.prevouts)
        took = time.process_time() - began
        assert len(made.signatures) == inputs
        assert took < 1, f"{took:.2f} s for {inputs} inputs and {shares} shares"
