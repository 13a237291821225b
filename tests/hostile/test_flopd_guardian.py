"""What a guardian's key never signs, whatever dux-airdropd asks for: each refusal says why."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guardian_kit import ME, NOTE, OTHER_KEYS, Order, Stand, order

from duxcommon.api.flopd import PrevOut
from duxcommon.coin.multisig import max_fee, signed_size
from duxcommon.coin.script import escrow_script, multisig_script, op_return_script, p2pkh_script, p2sh_script
from duxcommon.coin.tx import make_tx, p2pkh_script_sig, with_script_sigs
from duxcommon.errors import BadTransaction, NotAllowed, SignRefused
from duxcommon.money import COIN, DUST
from duxcommon.rpc import Caller

STRANGER = Caller(54321, frozenset())


@pytest.fixture
def stand(short_tmp: Path) -> Iterator[Stand]:
    made = Stand(short_tmp)
    yield made
    made.close()


def changed(asked: Order, index: int = 0, **values: object) -> Order:
    """The same transaction with another claim about what one input spends."""
    prevouts = list(asked.prevouts)
    prevouts[index] = prevouts[index].model_copy(update=values)
    return Order(asked.tx, prevouts)


def size_of(asked: Order) -> int:
    return signed_size(asked.tx, asked.redeems)


def false_amount(stand: Stand) -> Order:
    coins = stand.coins(50 * COIN, 20 * COIN)
    # Twenty coins more than it says would go to whoever mines it.
    hidden = [coins[0], coins[1].model_copy(update={"amount": 1 * COIN})]
    return order(hidden, shares=1)


def unseen(stand: Stand) -> Order:
    return order([*stand.coins(50 * COIN), *stand.coins(5 * COIN, seen=False)])


def another_script(stand: Stand) -> Order:
    redeem = multisig_script(1, [stand.pubkey, OTHER_KEYS[0]])
    return changed(order(stand.coins(50 * COIN)), redeem=redeem.hex())


def claims_to_be_another_fund(stand: Stand) -> Order:
    return changed(order(stand.coins(50 * COIN, 40 * COIN)), 1, redeem=stand.foreign.hex())


def only_others(stand: Stand) -> Order:
    stand.watch(stand.foreign)
    return order(stand.coins(50 * COIN, redeem=stand.foreign))


def a_channel(stand: Stand) -> Order:
    redeem = escrow_script(stand.pubkey, OTHER_KEYS[0], OTHER_KEYS[1], 1000)
    stand.watch(redeem)
    asked = order(stand.coins(50 * COIN))
    return changed(asked, redeem=redeem.hex())


def a_plain_coin(stand: Stand) -> Order:
    return changed(order(stand.coins(50 * COIN)), redeem=p2pkh_script(stand.pubkey).hex())


def other_order(stand: Stand) -> Order:
    asked = order(stand.coins(50 * COIN, 50 * COIN))
    return Order(asked.tx, asked.prevouts[::-1])


def one_named_less(stand: Stand) -> Order:
    asked = order(stand.coins(50 * COIN, 50 * COIN))
    return Order(asked.tx, asked.prevouts[:1])


def nothing_named(stand: Stand) -> Order:
    return Order(order(stand.coins(50 * COIN)).tx, [])


def too_large(stand: Stand) -> Order:
    return order(stand.coins(5_000 * COIN), shares=2_950)


def too_many_inputs(stand: Stand) -> Order:
    return order(stand.coins(*[COIN] * 230), shares=1)


def fee_too_high(stand: Stand) -> Order:
    coins = stand.coins(50 * COIN)
    return order(coins, fee=max_fee(size_of(order(coins))) + 1)


def fee_too_low(stand: Stand) -> Order:
    coins = stand.coins(50 * COIN)
    return order(coins, fee=size_of(order(coins)) * 1000)


def pays_more_than_it_spends(stand: Stand) -> Order:
    return order(stand.coins(50 * COIN), fee=-1)


def soft_dust(stand: Stand) -> Order:
    return order(stand.coins(50 * COIN), extra=[(p2pkh_script(OTHER_KEYS[0]), DUST - 1)])


def two_notes(stand: Stand) -> Order:
    return order(stand.coins(50 * COIN), extra=[(op_return_script(NOTE), 0)])


def burnt(stand: Stand) -> Order:
    return order(stand.coins(50 * COIN), extra=[(op_return_script(NOTE), DUST - 1)])


def output_of_nothing(stand: Stand) -> Order:
    return order(stand.coins(50 * COIN), extra=[(p2pkh_script(OTHER_KEYS[0]), 0)])


REFUSALS: list[tuple[Callable[[Stand], Order], str]] = [
    (false_amount, "holds another amount"),
    (unseen, "has not seen"),
    (another_script, "pays another script"),
    (claims_to_be_another_fund, "pays another script"),
    (only_others, "no input can be signed"),
    (a_channel, "no m-of-n script"),
    (a_plain_coin, "no m-of-n script"),
    (other_order, "in its order"),
    (one_named_less, "in its order"),
    (nothing_named, "in its order"),
    (too_large, "no node relays more"),
    (too_many_inputs, "no node relays more"),
    (fee_too_high, "would pay a fee"),
    (fee_too_low, "would pay a fee"),
    (pays_more_than_it_spends, "would pay a fee"),
    (soft_dust, "does not reach the other nodes"),
    (two_notes, "two notes"),
    (burnt, "does not reach the other nodes"),
    (output_of_nothing, "does not reach the other nodes"),
]


@pytest.mark.parametrize(("make", "why"), REFUSALS, ids=[make.__name__ for make, _ in REFUSALS])
def test_it_refuses_and_says_why(stand: Stand, make: Callable[[Stand], Order], why: str) -> None:
    asked = make(stand)
    with pytest.raises(SignRefused, match=why) as caught:
        stand.guardian.cosign(ME, asked.raw, asked.prevouts)
    assert "fund" in caught.value.hint


def test_the_limits_of_the_fee_are_where_they_are_said_to_be(stand: Stand) -> None:
    coins = stand.coins(50 * COIN)
    size = size_of(order(coins))
    for fee in (size * 1000 + 1, max_fee(size)):
        asked = order(coins, fee=fee)
        assert stand.guardian.cosign(ME, asked.raw, asked.prevouts).signatures != [None]


@pytest.mark.parametrize("raw", ["", "00", "ff" * 100])
def test_what_is_no_transaction_is_refused(stand: Stand, raw: str) -> None:
    with pytest.raises(BadTransaction):
        stand.guardian.cosign(ME, raw, [])


def test_signatures_that_are_there_already_change_nothing(stand: Stand) -> None:
    asked = order(stand.coins(50 * COIN))
    dressed = Order(with_script_sigs(asked.tx, [p2pkh_script_sig(b"\x01" * 71, stand.pubkey)]), asked.prevouts)
    plain = stand.guardian.cosign(ME, asked.raw, asked.prevouts)
    assert stand.guardian.cosign(ME, dressed.raw, dressed.prevouts) == plain


def test_another_user_gets_nothing_signed_and_learns_who_may(stand: Stand) -> None:
    asked = order(stand.coins(50 * COIN))
    for attempt in (
        lambda: stand.guardian.cosign(STRANGER, asked.raw, asked.prevouts),
        lambda: stand.guardian.approve(STRANGER, "cd" * 32),
    ):
        with pytest.raises(NotAllowed, match="54321") as caught:
            attempt()
        assert "guardian_user" in caught.value.hint
    stand.guardian.configure("54321")
    assert stand.guardian.approve(STRANGER, "cd" * 32).pubkey == stand.pubkey.hex()


def test_an_output_of_the_same_id_with_another_script_is_not_taken_for_a_known_one(stand: Stand) -> None:
    (coin,) = stand.coins(50 * COIN)
    wrong = PrevOut(txid=coin.txid, vout=1, amount=coin.amount, redeem=coin.redeem)
    tx = make_tx([(wrong.txid, wrong.vout)], [(p2sh_script(stand.redeem), 49 * COIN)])
    with pytest.raises(SignRefused, match="has not seen"):
        stand.guardian.cosign(ME, Order(tx, [wrong]).raw, [wrong])
