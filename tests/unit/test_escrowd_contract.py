"""A channel's transactions: rebuilt, compared and run through the script engine."""

import pytest

from dux_escrowd import contract
from dux_escrowd.contract import Escrow
from duxcommon.coin import script as coin_script
from duxcommon.coin import settlement
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import (
    GrossTooSmall,
    PeerMisbehaved,
    ScriptRefused,
    TermsRefused,
    WrongAmount,
    WrongDeposits,
)
from duxcommon.money import COIN
from tests.escrow_kit import FUND, coin, kit

TEN = [coin(20 * COIN)]


def closed(gross: int = 10 * COIN) -> coin_tx.Tx:
    channel = kit()
    state = channel.sign(gross, TEN)
    return contract.finish(
        channel.escrow, state, channel.signatures(contract.check_state(channel.escrow, state), channel.provider)
    )


def test_ten_flop_close_to_nine_and_a_half_for_the_provider_and_a_half_for_the_fund() -> None:
    channel, tx = kit(), closed()
    paid = [(output.script_pub_key.script, output.value) for output in tx.vout]
    assert paid[0] == (coin_script.p2pkh_script(channel.escrow.terms.provider), 950_000_000)
    assert paid[1] == (FUND, 50_000_000)
    assert paid[2] == (coin_script.p2pkh_script(channel.escrow.terms.buyer), 10 * COIN - coin_tx.closing_fee(1))


def test_the_close_is_settled_work() -> None:
    channel = kit()
    prevout = settlement.Prevout(
        channel.escrow.script, 20 * COIN, 100, coin_script.FundingNote.decode(channel.escrow.note())
    )
    verdict = settlement.settle(closed(), [prevout], {FUND}, lambda _: 500)
    assert isinstance(verdict, settlement.Settlement)
    assert (verdict.payout, verdict.tax) == (950_000_000, 50_000_000)


def test_both_sides_build_the_same_bytes_whatever_the_order_of_the_deposits() -> None:
    channel, deposits = kit(), [coin(COIN, "x"), coin(2 * COIN, "y"), coin(3 * COIN, "z")]
    one = contract.closing(channel.escrow, deposits, COIN)
    other = contract.closing(channel.escrow, list(reversed(deposits)), COIN)
    assert coin_tx.serialize_tx(one.tx) == coin_tx.serialize_tx(other.tx)


def test_a_state_that_was_signed_over_several_deposits_closes() -> None:
    channel, deposits = kit(), [coin(COIN, "x"), coin(2 * COIN, "y")]
    state = channel.sign(COIN, deposits)
    spend = contract.check_state(channel.escrow, state)
    tx = contract.finish(channel.escrow, state, channel.signatures(spend, channel.provider))
    assert len(tx.vin) == 2


@pytest.mark.parametrize("gross", [1, 999_999, 1_000_000, 1_000_001, 1_999_999])
def test_a_gross_too_small_to_close_can_be_signed_and_checked_but_not_closed(gross: int) -> None:
    channel = kit()
    state = channel.sign(gross, TEN)
    spend = contract.check_state(channel.escrow, state)
    assert spend.provider + spend.tax == gross
    assert spend.provider + spend.tax + spend.buyer + spend.fee == 20 * COIN
    with pytest.raises(GrossTooSmall):
        contract.finish(channel.escrow, state, channel.signatures(spend, channel.provider))


@pytest.mark.parametrize("gross", [2_000_000, 19_999_999, 20_000_000, 20_000_001, 20 * COIN - coin_tx.closing_fee(1)])
def test_every_gross_from_two_hundredths_to_the_whole_usable_deposit_closes(gross: int) -> None:
    tx = closed(gross)
    assert tx.vout[0].value + tx.vout[1].value == gross


def test_more_than_the_deposits_cover_is_refused() -> None:
    with pytest.raises(WrongAmount):
        contract.closing(kit().escrow, TEN, 20 * COIN - coin_tx.closing_fee(1) + 1)


def test_the_same_deposit_twice_is_refused() -> None:
    for gross in (0, 1, COIN):
        with pytest.raises(WrongDeposits):
            contract.closing(kit().escrow, TEN * 2, gross)


def test_the_shares_add_up_and_never_fall() -> None:
    before = contract.shares(0, 500)
    for gross in [*range(1, 3_000_000, 997), *range(3_000_000, 10**10, 9_999_991)]:
        now = contract.shares(gross, 500)
        assert sum(now) == gross
        assert now.provider >= before.provider >= 0
        assert now.tax >= before.tax
        before = now


def test_with_nothing_signed_away_both_sides_give_everything_back_at_once() -> None:
    channel = kit()
    state = channel.sign(0, TEN)
    spend = contract.check_state(channel.escrow, state)
    tx = contract.finish(channel.escrow, state, channel.signatures(spend, channel.provider))
    assert [output.script_pub_key.script for output in tx.vout] == [
        coin_script.p2pkh_script(channel.escrow.terms.buyer)
    ]
    assert contract.recognise(channel.escrow, coin_tx.serialize_tx(tx).hex(), TEN).kind == "refund"


def test_the_buyers_refund_waits_for_the_lock_height_and_needs_nobody_else() -> None:
    channel = kit(lock_height=12_345)
    spend = contract.refund(channel.escrow, TEN)
    tx = coin_tx.finish_refund(spend, [bytes.fromhex(one) for one in channel.signatures(spend, channel.buyer)])
    contract.checked(channel.escrow, spend, tx)
    assert (tx.lock_time, tx.vin[0].sequence) == (12_345, coin_tx.LOCKABLE)
    early = coin_tx.make_tx([(TEN[0].txid, 0)], [(FUND, COIN)], lock_time=12_344, sequence=coin_tx.LOCKABLE)
    signature = coin_tx.sign_input(early, 0, channel.escrow.redeem, channel.buyer)
    forged = coin_tx.with_script_sigs(early, [coin_tx.refund_script_sig(signature, channel.escrow.redeem)])
    with pytest.raises(ScriptRefused):
        coin_tx.verify_tx(forged, [(channel.escrow.script, TEN[0].amount)])


def test_buyer_and_arbiter_together_cannot_close() -> None:
    channel = kit()
    spend = contract.closing(channel.escrow, TEN, COIN)
    state = channel.sign(COIN, TEN)
    with pytest.raises(PeerMisbehaved):
        contract.finish(channel.escrow, state, channel.signatures(spend, channel.arbiter))


def test_a_transaction_other_than_the_agreed_one_is_refused() -> None:
    channel = kit()
    with pytest.raises(PeerMisbehaved, match="not the one"):
        contract.checked(channel.escrow, contract.closing(channel.escrow, TEN, 9 * COIN), closed(10 * COIN))


def test_a_close_is_recognised_by_what_it_pays() -> None:
    channel = kit()
    found = contract.recognise(channel.escrow, coin_tx.serialize_tx(closed()).hex(), TEN)
    assert (found.kind, found.provider, found.tax, found.spent) == ("close", 950_000_000, 50_000_000, 20 * COIN)
    assert found.provider + found.tax + found.buyer + coin_tx.closing_fee(1) == found.spent


def test_a_spend_that_pays_a_stranger_is_called_foreign() -> None:
    channel = kit()
    theft = coin_tx.make_tx([(TEN[0].txid, 0)], [(coin_script.p2sh_script(b"thief"), 19 * COIN)])
    assert contract.recognise(channel.escrow, coin_tx.serialize_tx(theft).hex(), TEN).kind == "foreign"


def test_the_note_in_the_funding_transaction_names_provider_arbiter_and_lock_height() -> None:
    escrow = kit(lock_height=777).escrow
    note = coin_script.FundingNote.decode(escrow.note())
    assert note == coin_script.FundingNote(escrow.terms.provider, escrow.terms.arbiter, 777)


def test_a_contract_in_which_one_party_is_two_is_refused() -> None:
    good = kit().escrow.contract
    for pair in [("provider_pubkey", "arbiter_pubkey"), ("buyer_pubkey", "provider_pubkey")]:
        with pytest.raises(TermsRefused):
            Escrow.of(good.model_copy(update={pair[0]: getattr(good, pair[1])}))
