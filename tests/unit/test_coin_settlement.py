"""Settled work: what counts, and everything that only looks like it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from btclib.tx import Tx
from btclib_secp256k1 import dsa

from duxcommon.coin.script import (
    EscrowTerms,
    FundingNote,
    multisig_script,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
)
from duxcommon.coin.settlement import (
    Candidate,
    Prevout,
    Reason,
    Refusal,
    Settlement,
    inspect,
    note_in,
    settle,
)
from duxcommon.coin.settlement import judge as rules
from duxcommon.coin.tx import (
    Coin,
    Spend,
    close_script_sig,
    closing_tx,
    cooperative_refund_tx,
    finish_close,
    finish_refund,
    make_tx,
    outpoint_of,
    p2pkh_script_sig,
    refund_script_sig,
    refund_tx,
    sighash,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.money import COIN, DUST, tax

P, B, A, P2 = (bytes([number]) * 32 for number in (1, 2, 3, 4))
PROVIDER, BUYER, ARBITER, PROVIDER2 = (pubkey_of(secret) for secret in (P, B, A, P2))
TERMS = EscrowTerms(PROVIDER, BUYER, ARBITER, 150_000)
REDEEM = TERMS.script()
NOTE = FundingNote(PROVIDER, ARBITER, TERMS.lock_height)
FUND = p2sh_script(multisig_script(1, [PROVIDER2, ARBITER]))
OLD_FUND = p2sh_script(b"an older fund's redeem script")
DEPOSITS = [Coin("bb" * 32, 1, 12 * COIN), Coin("aa" * 32, 7, 5 * COIN)]
TO_PROVIDER, TO_BUYER = p2pkh_script(PROVIDER), p2pkh_script(BUYER)
HEIGHT = 1000
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

Outputs = Sequence[tuple[bytes, int]]


def five_percent(_height: int) -> int:
    return 500


def prevouts(redeem: bytes = REDEEM, height: int = HEIGHT, count: int = 1) -> list[Prevout]:
    return [Prevout(p2sh_script(redeem), coin.amount, height, NOTE) for coin in DEPOSITS[:count]]


def sign_all(spend: Spend, secret: bytes) -> list[bytes]:
    return [sign_input(spend.tx, index, spend.redeem, secret) for index in range(len(spend.deposits))]


def close_with(outputs: Outputs, redeem: bytes = REDEEM, cosigner: bytes = B, provider: bytes = P) -> Tx:
    """A correctly signed spend of one deposit to any outputs."""
    tx = make_tx([("bb" * 32, 1)], outputs)
    first, second = (sign_input(tx, 0, redeem, secret) for secret in (cosigner, provider))
    return with_script_sigs(tx, [close_script_sig(first, second, redeem)])


def judge(
    tx: Tx,
    given: list[Prevout] | None = None,
    rate_at: Callable[[int], int] = five_percent,
    funds: frozenset[bytes] = frozenset({FUND}),
) -> Settlement | Refusal:
    return settle(tx, prevouts() if given is None else given, funds, rate_at)


def reason(*args: object, **kwargs: object) -> Reason:
    verdict = judge(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(verdict, Refusal), verdict
    return verdict.reason


GOOD: Outputs = [(TO_PROVIDER, 950_000_000), (FUND, 50_000_000), (TO_BUYER, 1 * COIN)]


def test_a_close_is_settled_work_with_every_figure() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    tx = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    given = [
        Prevout(p2sh_script(REDEEM), coin.amount, HEIGHT + index, NOTE) for index, coin in enumerate(spend.deposits)
    ]
    verdict = judge(tx, given)
    assert verdict == Settlement(
        txid=txid_of(tx),
        terms=TERMS,
        gross=10 * COIN,
        payout=950_000_000,
        tax=50_000_000,
        tax_bps=500,
        change=spend.buyer,
        fee=spend.fee,
        awarded=False,
    )
    assert verdict.channel == TERMS.channel_id()


def test_an_award_signed_by_the_arbiter_counts_and_says_so() -> None:
    verdict = judge(close_with(GOOD, cosigner=A))
    assert isinstance(verdict, Settlement)
    assert verdict.awarded


def test_a_close_without_change_counts() -> None:
    verdict = judge(close_with(GOOD[:2]))
    assert isinstance(verdict, Settlement)
    assert (verdict.change, verdict.fee) == (0, 2 * COIN)


def test_the_minimum_tax_counts_below_a_fifth_of_a_flop() -> None:
    verdict = judge(close_with([(TO_PROVIDER, 5 * DUST), (FUND, DUST)]))
    assert isinstance(verdict, Settlement)
    assert verdict.gross == 6 * DUST


@pytest.mark.parametrize("moved", [-20, -1, 1, 20])
@pytest.mark.parametrize("gross", [3 * DUST, 20 * DUST, 10 * COIN, 10 * COIN + 1, 10 * COIN + 19])
def test_a_proportion_off_by_one_koinu_is_refused(gross: int, moved: int) -> None:
    payout, part = gross - tax(gross, 500), tax(gross, 500)
    assert isinstance(judge(close_with([(TO_PROVIDER, payout), (FUND, part)])), Settlement)
    assert reason(close_with([(TO_PROVIDER, payout + moved), (FUND, part - moved)])) is Reason.WRONG_TAX


@pytest.mark.parametrize(("payout", "part"), [(0, 1), (0, -1), (10, 0), (-11, 0)])
def test_an_output_changed_alone_is_refused_where_it_breaks_the_proportion(payout: int, part: int) -> None:
    # G = 10 FLOP + 10 koinu lies in the middle of the 20 koinu of gross that share one tax.
    assert reason(close_with([(TO_PROVIDER, 950_000_010 + payout), (FUND, 50_000_000 + part)])) is Reason.WRONG_TAX


def test_the_buyers_own_refund_dressed_as_a_settlement_is_refused() -> None:
    tx = make_tx([("bb" * 32, 1)], GOOD, lock_time=TERMS.lock_height, sequence=0xFFFFFFFE)
    signature = sign_input(tx, 0, REDEEM, B)
    dressed = with_script_sigs(tx, [refund_script_sig(signature, REDEEM)])
    assert reason(dressed) is Reason.REFUND
    # With junk on the stack that looks like the provider's signature it is a refund still.
    padded = with_script_sigs(
        tx, [close_script_sig(signature, signature, b"")[:-2] + refund_script_sig(signature, REDEEM)]
    )
    assert reason(padded) is Reason.REFUND


def test_a_plain_refund_and_a_cooperative_refund_are_refused() -> None:
    refund = refund_tx(TERMS, DEPOSITS[:1])
    assert reason(finish_refund(refund, sign_all(refund, B))) is Reason.WRONG_OUTPUTS
    together = cooperative_refund_tx(TERMS, DEPOSITS[:1])
    assert reason(finish_close(together, sign_all(together, B), sign_all(together, P))) is Reason.WRONG_OUTPUTS


def test_two_channels_cannot_share_one_tax() -> None:
    for other in (EscrowTerms(PROVIDER2, BUYER, ARBITER, 150_000), replace(TERMS, lock_height=150_001)):
        redeems = [REDEEM, other.script()]
        tx = make_tx([outpoint_of_coin(coin) for coin in DEPOSITS], GOOD)
        secret = {PROVIDER: P, PROVIDER2: P2}[other.provider]
        script_sigs = [
            close_script_sig(sign_input(tx, 0, redeems[0], B), sign_input(tx, 0, redeems[0], P), redeems[0]),
            close_script_sig(sign_input(tx, 1, redeems[1], B), sign_input(tx, 1, redeems[1], secret), redeems[1]),
        ]
        signed = with_script_sigs(tx, script_sigs)
        given = [Prevout(p2sh_script(redeem), 12 * COIN, HEIGHT, NOTE) for redeem in redeems]
        assert reason(signed, given) is Reason.MIXED_CHANNELS


def outpoint_of_coin(coin: Coin) -> tuple[str, int]:
    return coin.txid, coin.vout


def test_money_from_elsewhere_in_the_inputs_is_refused() -> None:
    tx = make_tx([outpoint_of_coin(coin) for coin in DEPOSITS], GOOD)
    script_sigs = [
        close_script_sig(sign_input(tx, 0, REDEEM, B), sign_input(tx, 0, REDEEM, P), REDEEM),
        p2pkh_script_sig(sign_input(tx, 1, TO_BUYER, B), BUYER),
    ]
    given = [Prevout(p2sh_script(REDEEM), 12 * COIN, HEIGHT, NOTE), Prevout(TO_BUYER, 5 * COIN, HEIGHT, NOTE)]
    assert reason(with_script_sigs(tx, script_sigs), given) is Reason.OTHER_SCRIPT


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([GOOD[1], GOOD[0], GOOD[2]], Reason.NOT_TO_PROVIDER),
        ([GOOD[0], GOOD[2], GOOD[1]], Reason.NOT_TO_BUYER),
        ([GOOD[2], GOOD[0], GOOD[1]], Reason.NOT_TO_PROVIDER),
        ([GOOD[0]], Reason.WRONG_OUTPUTS),
        ([*GOOD, (TO_BUYER, DUST)], Reason.WRONG_OUTPUTS),
        ([*GOOD[:2], (op_return_script(b"x"), 0), GOOD[2]], Reason.WRONG_OUTPUTS),
        ([*GOOD[:2], (op_return_script(b"x"), 0)], Reason.NOT_TO_BUYER),
        ([*GOOD[:2], (TO_PROVIDER, COIN)], Reason.NOT_TO_BUYER),
        ([*GOOD[:2], (FUND, COIN)], Reason.NOT_TO_BUYER),
        ([*GOOD[:2], (p2pkh_script(ARBITER), COIN)], Reason.NOT_TO_BUYER),
        ([(p2pkh_script(PROVIDER2), 950_000_000), *GOOD[1:]], Reason.NOT_TO_PROVIDER),
        ([(p2sh_script(PROVIDER), 950_000_000), *GOOD[1:]], Reason.NOT_TO_PROVIDER),
        ([GOOD[0], (OLD_FUND, 50_000_000)], Reason.NOT_TO_FUND),
        ([(TO_PROVIDER, 0), (FUND, DUST)], Reason.NOT_TO_PROVIDER),
        ([(TO_PROVIDER, DUST), (FUND, DUST - 1)], Reason.WRONG_TAX),
    ],
)
def test_other_outputs_are_refused(outputs: Outputs, expected: Reason) -> None:
    assert reason(close_with(outputs)) is expected


def test_an_older_fund_script_counts_while_the_caller_lists_it() -> None:
    tx = close_with([GOOD[0], (OLD_FUND, 50_000_000)])
    assert isinstance(judge(tx, funds=frozenset({FUND, OLD_FUND})), Settlement)


@pytest.mark.parametrize(
    "redeem",
    [
        REDEEM.replace(b"\x21" + ARBITER, b"\x4c\x21" + ARBITER),
        REDEEM.replace(b"\x03\xf0\x49\x02", b"\x04\xf0\x49\x02\x00"),
        REDEEM + b"\x61",
        b"\x63\x52\x21" + BUYER + b"\x21" + PROVIDER + b"\x21" + ARBITER + b"\x53\xae\x67" + REDEEM[-41:],
        REDEEM.replace(ARBITER, PROVIDER),
        multisig_script(2, [BUYER, PROVIDER]),
    ],
)
def test_a_script_of_another_shape_is_refused_however_it_is_signed(redeem: bytes) -> None:
    assert reason(close_with(GOOD, redeem), prevouts(redeem)) is Reason.OTHER_SCRIPT


def test_showing_the_template_while_spending_something_else_is_refused() -> None:
    tx = close_with(GOOD)
    for script in (b"\x6d\x6d\x75\x51", p2pkh_script(BUYER), p2sh_script(REDEEM[:-1]), b""):
        assert reason(tx, [Prevout(script, 12 * COIN, HEIGHT, NOTE)]) is Reason.OTHER_SCRIPT
    for script_sig in (b"", b"\x51", b"\x4b\x01", b"\xac", REDEEM):
        assert reason(with_script_sigs(tx, [script_sig])) is Reason.OTHER_SCRIPT


@pytest.mark.parametrize(("cosigner", "provider"), [(B, A), (B, B), (A, A), (B, P2), (P, P), (P, B), (P2, P)])
def test_without_the_providers_signature_and_one_other_nothing_counts(cosigner: bytes, provider: bytes) -> None:
    assert reason(close_with(GOOD, cosigner=cosigner, provider=provider)) is Reason.NOT_SIGNED


def test_signatures_made_for_other_outputs_do_not_count() -> None:
    signed = close_with(GOOD)
    moved = make_tx([outpoint_of(signed.vin[0])], [(TO_PROVIDER, 1_900_000_000), (FUND, 100_000_000)])
    assert reason(with_script_sigs(moved, [signed.vin[0].script_sig])) is Reason.NOT_SIGNED


def test_a_settlement_that_was_re_encoded_on_its_way_into_a_block_still_counts() -> None:
    tx = make_tx([("bb" * 32, 1)], GOOD)
    buyer, provider = (sign_input(tx, 0, REDEEM, secret) for secret in (B, P))
    usual = close_script_sig(buyer, provider, REDEEM)
    compact = dsa.to_compact(dsa.sign(sighash(tx, 0, REDEEM), P))
    other_s = (ORDER - int.from_bytes(compact[32:], "big")).to_bytes(32, "big")
    high = dsa.to_der(compact[:32] + other_s) + b"\x01"
    selector_at = 1 + 1 + len(buyer) + 1 + len(provider)
    for script_sig in (
        usual[:selector_at] + b"\x52" + usual[selector_at + 1 :],
        b"\x00\x4c" + usual[1:],
        b"\x51" + usual[1:],
        b"\x51" + usual,
        close_script_sig(buyer, high, REDEEM),
    ):
        assert isinstance(judge(with_script_sigs(tx, [script_sig])), Settlement)
    assert reason(with_script_sigs(tx, [usual[:selector_at] + b"\x00" + usual[selector_at + 1 :]])) is Reason.NOT_SIGNED


def stepped(height: int) -> int:
    """5 % until the block before HEIGHT, 7 % from there."""
    return 500 if height < HEIGHT else 700


@pytest.mark.parametrize(
    ("bps", "height", "counts"),
    [
        (500, HEIGHT - 1, True),
        (500, HEIGHT, True),
        (500, HEIGHT + 143, True),
        (500, HEIGHT + 144, False),
        (700, HEIGHT + 144, True),
        (700, HEIGHT, True),
        (700, HEIGHT - 1, False),
        (600, HEIGHT, False),
    ],
)
def test_a_rate_counts_while_in_force_and_for_144_blocks_after(bps: int, height: int, counts: bool) -> None:
    gross = 10 * COIN
    tx = close_with([(TO_PROVIDER, gross - tax(gross, bps)), (FUND, tax(gross, bps))])
    verdict = judge(tx, prevouts(height=height), stepped)
    if counts:
        assert isinstance(verdict, Settlement)
        assert verdict.tax_bps == bps
    else:
        assert verdict == Refusal(txid_of(tx), Reason.WRONG_TAX)


def test_every_deposit_must_fit_the_rate_so_that_topping_up_keeps_no_old_rate() -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    tx = finish_close(spend, sign_all(spend, B), sign_all(spend, P))

    def at(first: int, second: int) -> list[Prevout]:
        pairs = zip(spend.deposits, (first, second), strict=True)
        return [Prevout(p2sh_script(REDEEM), coin.amount, height, NOTE) for coin, height in pairs]

    assert isinstance(judge(tx, at(HEIGHT - 50, HEIGHT + 100), stepped), Settlement)
    assert reason(tx, at(HEIGHT - 50, HEIGHT + 144), stepped) is Reason.WRONG_TAX
    assert reason(tx, at(HEIGHT + 144, HEIGHT - 50), stepped) is Reason.WRONG_TAX


def test_heights_near_the_start_of_the_chain_are_judged() -> None:
    asked: list[int] = []

    def rate(height: int) -> int:
        asked.append(height)
        return 500

    assert isinstance(judge(close_with(GOOD), prevouts(height=3), rate), Settlement)
    assert sorted(set(asked)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "note",
    [
        None,
        replace(NOTE, lock_height=150_001),
        replace(NOTE, provider=PROVIDER2),
        replace(NOTE, arbiter=BUYER),
    ],
)
def test_a_deposit_without_the_note_of_its_channel_does_not_count(note: FundingNote | None) -> None:
    spend = closing_tx(TERMS, DEPOSITS, 10 * COIN, 500, FUND)
    tx = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    good, other = (replace(prevout, note=given) for prevout, given in zip(prevouts(count=2), (NOTE, note), strict=True))
    assert reason(tx, [good, other]) is Reason.NO_NOTE
    assert reason(tx, [other, good]) is Reason.NO_NOTE


def test_the_note_of_a_funding_transaction_is_found_among_its_outputs() -> None:
    data = op_return_script(NOTE.encode())
    assert note_in(make_tx([("aa" * 32, 0)], [(FUND, COIN), (op_return_script(b"x"), 0), (data, 0)])) == NOTE
    assert note_in(make_tx([("aa" * 32, 0)], [(FUND, COIN), (op_return_script(b"DUX\x01"), 0)])) is None


def test_form_and_rules_are_judged_apart() -> None:
    tx = close_with([GOOD[0], (OLD_FUND, 50_000_001), GOOD[2]])
    found = inspect(tx, prevouts())
    assert found == Candidate(
        txid=txid_of(tx),
        terms=TERMS,
        payout=950_000_000,
        tax=50_000_001,
        change=COIN,
        fee=COIN - 1,
        awarded=False,
        fund_script=OLD_FUND,
        deposits=(HEIGHT,),
    )
    assert rules(found, {FUND}, five_percent) == Refusal(found.txid, Reason.NOT_TO_FUND)
    assert rules(found, {OLD_FUND}, five_percent) == Refusal(found.txid, Reason.WRONG_TAX)
    assert isinstance(rules(replace(found, tax=50_000_000), {OLD_FUND}, five_percent), Settlement)
    assert inspect(close_with([GOOD[0], (b"\x51", 50_000_000)]), prevouts()) == Refusal(
        txid_of(close_with([GOOD[0], (b"\x51", 50_000_000)])), Reason.NOT_TO_FUND
    )


def test_a_transaction_with_more_inputs_than_any_closing_is_not_even_checked() -> None:
    tx = make_tx([("bb" * 32, number) for number in range(33)], GOOD)
    assert inspect(tx, prevouts() * 33) == Refusal(txid_of(tx), Reason.TOO_MANY_INPUTS)


def test_outputs_for_other_inputs_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="outputs given"):
        judge(close_with(GOOD), prevouts(count=2))
