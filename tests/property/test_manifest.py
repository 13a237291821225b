"""For any fund and number of recipients the money adds up, nothing is dust, and the order of facts is irrelevant."""

import random

from fund_kit import FIVE, NETWORK, OTHERS, Spending, snapshot, some_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_airdropd.costs import batch_fee, batch_sizes, input_fee
from dux_airdropd.manifest import digest_of, read_batch, read_share, transaction, write
from dux_airdropd.plan import Plan, Snapshot, Waiting, decide
from duxcommon.coin.multisig import MAX_STANDARD_SIZE, signed_size
from duxcommon.coin.tx import KOINU_PER_BYTE, serialize_tx
from duxcommon.money import COIN, DUST, MAX_MONEY

REDEEMS = {FIVE.script: FIVE.redeem, OTHERS.script: OTHERS.redeem}
KEYS = some_keys(2500)
amounts = st.lists(st.one_of(st.integers(1, 3 * DUST), st.integers(DUST, 10**16)), max_size=300)
funds = st.builds(
    lambda coins, old, anchor, moved, threshold, wishes: snapshot(
        coins,
        anchor=anchor,
        guardians=OTHERS,
        before=FIVE,
        moved=moved,
        old=old,
        parameters={"airdrop_threshold": threshold},
        spends=[Spending("aa" * 32, FIVE.script, wish) for wish in wishes],
    ),
    amounts,
    st.lists(st.integers(1, 10**12), max_size=40),
    st.integers(1, 10**12),
    st.booleans(),
    st.integers(COIN, 10**12),
    st.lists(st.integers(DUST, 10**13), max_size=2),
)
recipients = st.one_of(st.integers(0, 100_000), st.integers(0, 3), st.integers(1990, 2010))


def check_sums(plan: Plan) -> None:
    """Inputs = outputs + fee, to the koinu, and every output is one that relays."""
    manifest = write(NETWORK, plan, None, OTHERS.redeem)
    paid = sum(manifest.batches) if manifest.batches else manifest.paid
    count = len(manifest.batches) or plan.recipients or (1 if plan.spend else 0)
    fees = sum(input_fee(REDEEMS[coin.script]) for coin in plan.inputs)
    fee = sum(coin.amount for coin in plan.inputs) - manifest.anchor - paid
    size = 14 + 52 + 32 + count * (32 if manifest.batches else 34)
    assert fee == fees + size * KOINU_PER_BYTE
    assert manifest.anchor >= DUST
    if plan.kind == "payout":
        assert manifest.share >= DUST
        assert manifest.share <= plan.limit
        if manifest.share < plan.limit:
            assert manifest.anchor < DUST + plan.recipients
        shares = [amount - batch_fee(n, OTHERS.redeem) for n, amount in _batches(manifest.batches, plan.recipients)]
        assert not shares or sum(shares) == manifest.share * plan.recipients
        assert all(amount >= DUST for amount in manifest.batches)
        if manifest.batches:
            assert read_share(manifest.batches[0], OTHERS.redeem) == manifest.share
            found = [read_batch(amount, OTHERS.redeem, manifest.share) for amount in manifest.batches]
            assert found == batch_sizes(plan.recipients)


def _batches(amounts: tuple[int, ...], count: int) -> list[tuple[int, int]]:
    return list(zip(batch_sizes(count), amounts, strict=True))


@settings(max_examples=200, deadline=None)
@given(funds, recipients, st.one_of(st.just(MAX_MONEY), st.integers(DUST, 10**10)))
def test_the_money_adds_up_and_no_output_is_dust(view: Snapshot, eligible: int, limit: int) -> None:
    decision = decide(view, eligible, limit=limit)
    if isinstance(decision, Plan):
        assert decision.inputs[0] == view.anchor
        assert len(set(decision.inputs)) == len(decision.inputs) <= 200
        check_sums(decision)
    else:
        assert decision.why not in ("no-anchor", "ask-eligible")


@settings(max_examples=100, deadline=None)
@given(funds, recipients, st.randoms())
def test_the_order_in_which_facts_come_is_irrelevant(view: Snapshot, eligible: int, dice: random.Random) -> None:
    coins, old = list(view.coins), list(view.old)
    dice.shuffle(coins)
    dice.shuffle(old)
    other = Snapshot(
        view.height, view.sequence, view.anchor, coins, old, view.rules, dict(view.redeems), list(view.spends)
    )
    assert decide(other, eligible) == decide(view, eligible)


@settings(max_examples=100, deadline=None)
@given(funds)
def test_asking_how_many_are_eligible_only_where_it_matters_changes_no_answer(view: Snapshot) -> None:
    unasked = decide(view, None)
    if not (isinstance(unasked, Waiting) and unasked.why == "ask-eligible"):
        assert decide(view, 0) == decide(view, 5) == unasked


@settings(max_examples=25, deadline=None)
@given(funds, st.integers(1, 2500))
def test_every_guardian_makes_the_same_bytes_and_they_relay(view: Snapshot, eligible: int) -> None:
    decision = decide(view, eligible)
    if not isinstance(decision, Plan):
        return
    keys = KEYS[: decision.recipients]
    made = []
    for given_keys in (keys, list(reversed(list(reversed(keys))))):
        manifest = write(NETWORK, decision, digest_of(given_keys), OTHERS.redeem)
        unsigned = transaction(manifest, given_keys, dict(REDEEMS))
        made.append(serialize_tx(unsigned.tx))
        assert signed_size(unsigned.tx, unsigned.redeems) <= MAX_STANDARD_SIZE
    assert made[0] == made[1]
