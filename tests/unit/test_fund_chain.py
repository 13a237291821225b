"""What airdropd makes of the facts of the chain: anchors, income, snapshots, drafts; what a reorganisation undoes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from fund_kit import FIVE, OTHERS, Spending, some_keys
from fund_world import Voted, World

from dux_airdropd.drafts import Draft
from dux_airdropd.plan import DEPTH, LAPSE, STEP, TIDY_LAPSE
from dux_airdropd.verify import Verifier
from duxcommon.api.airdropd import Verified
from duxcommon.api.flopd import Transaction
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import p2pkh_script
from duxcommon.coin.tx import make_tx, outpoint_of, serialize_tx
from duxcommon.errors import EligibilityDiffers, RoundUnknown, RulesPending
from duxcommon.money import COIN, DUST

KEYS = some_keys(3)
PAYEE = p2pkh_script(KEYS[0])
T = 110
"""The first snapshot at which the fund of `filled` pays."""
DUE = T + DEPTH


def run(body: Callable[[World], Awaitable[None]], **given: Any) -> None:
    async def main() -> None:
        world = World(**{"keys": KEYS, **given})
        try:
            await body(world)
        finally:
            await world.close()

    asyncio.run(main())


async def filled(world: World, amount: int = 101 * COIN) -> None:
    """An anchor at block 20 and the threshold at 105."""
    await world.pay(20, DUST)
    await world.pay(105, amount)


async def paid_out(world: World) -> Draft:
    """The first round is in block 175."""
    await filled(world)
    draft = await world.draft(DUE)
    await world.confirm(draft, 175)
    await world.read_to(180)
    return draft


class Spenders:
    """flopd, as far as verifying asks it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def spender(self, txid: str) -> Transaction:
        return Transaction(txid=txid, hex=await self._world.raw(txid), height=1)


def verify(world: World, sequence: int) -> Coroutine[Any, Any, Verified]:
    return Verifier(world.fund, world.drafts, Spenders(world), lambda script: script.hex()).verify(sequence)  # type: ignore[arg-type]


# --- anchors ---------------------------------------------------------------------------------------------------------


def test_the_first_anchor_is_the_first_payment_that_is_not_dust() -> None:
    async def body(world: World) -> None:
        await world.pay(10, DUST - 1)
        first = await world.pay(12, DUST)
        await world.pay(13, 5 * COIN)
        assert world.fund.anchor() == (1, world.fund.output(first, 0)[0])  # type: ignore[index]
        assert world.fund.snapshot(11).anchor is None

    run(body)


def test_the_network_definition_may_name_the_first_anchor() -> None:
    async def body(world: World) -> None:
        await world.pay(10, COIN)
        assert world.fund.anchor()[1] is None
        await world.pay(30, DUST, txid="ee" * 32)
        anchor = world.fund.anchor()[1]
        assert anchor is not None
        assert anchor.txid == "ee" * 32

    run(body, first_anchor=f"{'ee' * 32}:0")


def test_output_one_of_what_spends_the_anchor_is_the_next() -> None:
    async def body(world: World) -> None:
        draft = await paid_out(world)
        sequence, anchor = world.fund.anchor()
        assert sequence == 2
        assert anchor is not None
        assert (anchor.txid, anchor.vout, anchor.amount) == (draft.txid, 1, draft.manifest.anchor)
        done = world.fund.round(1)
        assert (done.kind, done.recipients, done.share) == ("payout", 3, draft.manifest.share)
        assert done.manifest == draft.manifest.digest().hex()
        assert done.fee + done.paid + anchor.amount == 101 * COIN + DUST
        with pytest.raises(RoundUnknown):
            world.fund.round(2)

    run(body)


def test_a_transaction_that_says_nothing_of_itself_is_part_of_the_chain_all_the_same() -> None:
    async def body(world: World) -> None:
        await filled(world)
        anchor = world.fund.anchor()[1]
        assert anchor is not None
        odd = make_tx([(anchor.txid, 0)], [(PAYEE, 5), (FIVE.script, DUST // 2)])
        txid = await world.confirm_raw(serialize_tx(odd).hex(), 130)
        await world.read_to(140)
        assert world.fund.round(1).kind == "unknown"
        following = world.fund.anchor()[1]
        assert following is not None
        assert (following.txid, following.vout) == (txid, 1)

    run(body)


def test_when_the_anchor_was_given_away_the_next_payment_is_the_anchor() -> None:
    async def body(world: World) -> None:
        await filled(world)
        anchor = world.fund.anchor()[1]
        assert anchor is not None
        theft = make_tx([(anchor.txid, 0)], [(PAYEE, DUST // 2)])
        await world.confirm_raw(serialize_tx(theft).hex(), 130)
        await world.read_to(140)
        assert world.fund.anchor() == (2, None)
        later = await world.pay(150, 2 * DUST)
        found = world.fund.anchor()[1]
        assert found is not None
        assert found.txid == later
        assert (await world.draft(T + 50 + DEPTH)).sequence == 2

    run(body)


# --- income and what eligibility is told -----------------------------------------------------------------------------


def test_what_the_fund_pays_to_itself_is_no_income() -> None:
    async def body(world: World) -> None:
        await filled(world)
        before = world.fund.totals(0)
        assert (before.confirmed, before.received, before.payments) == (101 * COIN + DUST, 101 * COIN + DUST, 2)
        draft = await world.draft(DUE)
        await world.confirm(draft, 175)
        await world.read_to(180)
        after = world.fund.totals(100)
        assert (after.received, after.payments, after.inflow) == (101 * COIN + DUST, 2, 101 * COIN)
        assert after.confirmed == draft.manifest.anchor

    run(body)


def test_shares_that_wait_for_their_batch_are_neither_income_nor_spent_twice() -> None:
    keys = some_keys(2500)

    async def body(world: World) -> None:
        draft = await paid_out(world)
        assert len(draft.manifest.batches) == 2
        assert world.fund.totals(0).confirmed == draft.manifest.anchor
        assert world.fund.snapshot(180).coins == []
        assert [batch for _, batch, _ in world.fund.unpaid_batches(180)] == [0, 1]
        assert await world.drafts.batches(175 + DEPTH - 1) == []
        batches = await world.drafts.batches(175 + DEPTH)
        assert [len(each.unsigned.tx.vout) for each in batches] == [2001, 501]
        await world.confirm(batches[0], 240)
        assert [each.batch for each in await world.drafts.batches(250)] == [1]
        assert (await verify(world, 1)).batches_paid == 1

    run(body, keys=keys)


def test_shares_of_the_window_and_of_the_bond_are_those_confirmed_in_it() -> None:
    rules = Voted(FIVE.rules(window_blocks=100, bond_multiple_pct=300, bond_min=COIN))

    async def body(world: World) -> None:
        draft = await paid_out(world)
        share = draft.manifest.share
        await world.read_to(600)
        assert [world.fund.at(height).shares_paid for height in (174, 175, 274, 275)] == [0, share, share, 0]
        # A window opens at h − 100; the price is that of the window that ended an epoch before.
        prices = {height: world.fund.at(height).bond_price for height in (280, 289, 290, 389, 390)}
        assert prices[289] == COIN
        assert prices[290] == prices[389] == 3 * share
        assert prices[390] == COIN
        with pytest.raises(RulesPending):
            world.fund.at(601)
        assert world.fund.at(650, ahead=True).height == 650

    run(body, rules=rules)


# --- drafts ----------------------------------------------------------------------------------------------------------


def test_nobody_is_counted_before_the_fund_is_full_and_keys_are_read_once_it_is_deep() -> None:
    async def body(world: World) -> None:
        await world.pay(20, DUST)
        for height in range(30, 100, 7):
            await world.pay(height, COIN)
        await world.read_to(104)
        assert (await world.drafts.next(104)).plan is None
        assert world.electors.counted == []
        await world.pay(105, 101 * COIN)
        await world.read_to(DUE - 1)
        plan = (await world.drafts.next(DUE - 1)).plan
        assert plan is not None
        assert plan.height == T
        assert await world.drafts.current(DUE - 1) is None
        assert world.electors.counted == [T]
        assert world.electors.fetched == []
        await world.draft(DUE)
        assert world.electors.fetched == [T]

    run(body)


def test_two_nodes_that_read_at_different_times_compute_the_same_transaction() -> None:
    drafts: list[Draft] = []

    async def late(world: World) -> None:
        await filled(world)
        await world.pay(T + 5, 40 * COIN)
        drafts.append(await world.draft(DUE + 9))

    async def step_by_step(world: World) -> None:
        await world.pay(20, DUST)
        for tip in range(20, DUE + 5):
            if tip == 105:
                await world.pay(105, 101 * COIN)
            if tip == T + 5:
                await world.pay(T + 5, 40 * COIN)
            await world.read_to(tip)
            draft = await world.drafts.current(tip)
        assert draft is not None
        drafts.append(draft)

    run(late)
    run(step_by_step)
    assert drafts[0].txid == drafts[1].txid
    assert drafts[0].manifest.encode() == drafts[1].manifest.encode()


def test_what_a_miner_pays_from_a_coinbase_holds_no_round_up() -> None:
    async def body(world: World) -> None:
        await filled(world, 1 * COIN)
        await world.pay(1004, 50 * COIN, coinbase=True)
        await world.pay(1005, 101 * COIN)
        draft = await world.draft(1010 + DEPTH)
        assert [coin.amount for coin in draft.unsigned.inputs] == [DUST, 101 * COIN, COIN]

    run(body, chain="main")


def test_what_a_miner_pays_from_a_coinbase_counts_once_it_can_be_spent() -> None:
    maturity = CHAINS["main"].coinbase_maturity(1000)

    async def body(world: World) -> None:
        await filled(world, DUST)
        await world.pay(1000, 60 * COIN, coinbase=True)
        await world.pay(1000, 60 * COIN)
        await world.reorganise(1000)
        ripe = -(-(1000 + maturity - DEPTH) // STEP) * STEP
        await world.read_to(ripe - 1 + DEPTH)
        assert await world.drafts.current(ripe - 1 + DEPTH) is None
        draft = await world.draft(ripe + DEPTH)
        assert draft.manifest.plan.height == ripe
        assert [coin.amount for coin in draft.unsigned.inputs][1:3] == [60 * COIN, 60 * COIN]
        assert ripe + DEPTH + 1 - 1000 >= maturity

    run(body, chain="main")


def test_with_nobody_eligible_the_first_snapshot_that_has_somebody_pays() -> None:
    async def body(world: World) -> None:
        await filled(world)
        world.electors.at = {height: [] for height in (T, T + 10, T + 20)}
        assert (await world.draft(T + 30 + DEPTH)).manifest.plan.height == T + 30

    run(body)


def test_a_round_that_nobody_could_sign_in_time_is_planned_anew() -> None:
    async def body(world: World) -> None:
        await filled(world)
        old = await world.draft(T + LAPSE - 1)
        assert old.manifest.plan.height == T
        await world.pay(500, 50 * COIN)
        await world.read_to(T + LAPSE)
        assert await world.drafts.current(T + LAPSE) is None
        new = await world.draft(T + LAPSE + DEPTH)
        assert new.manifest.plan.height == T + LAPSE
        assert new.manifest.share > old.manifest.share
        # Whichever of the two confirms, it spends the one anchor and is right.
        await world.confirm(old, T + LAPSE + 70)
        await world.read_to(T + LAPSE + 80)
        assert (await verify(world, 1)).right

    run(body)


def test_a_reorganisation_under_the_snapshot_changes_what_is_signed() -> None:
    async def body(world: World) -> None:
        await filled(world)
        first = await world.draft(DUE)
        await world.reorganise(100)
        with pytest.raises(RulesPending):
            world.fund.at(101)
        await world.pay(103, 102 * COIN)
        second = await world.draft(DUE)
        assert second.manifest.plan.height == T
        assert second.txid != first.txid

    run(body)


def test_a_reorganisation_under_the_round_brings_it_back_unchanged() -> None:
    async def body(world: World) -> None:
        draft = await paid_out(world)
        await world.reorganise(170)
        assert world.fund.anchor()[0] == 1
        again = await world.draft(181)
        assert again.txid == draft.txid

    run(body)


def test_keys_that_changed_after_the_plan_was_made_are_never_paid_by_it() -> None:
    async def body(world: World) -> None:
        await filled(world)
        await world.read_to(DUE)
        await world.drafts.next(DUE - 1)
        world.electors.default = some_keys(4)
        with pytest.raises(EligibilityDiffers):
            await world.drafts.current(DUE)
        draft = await world.draft(DUE)
        assert draft.manifest.plan.recipients == 4

    run(body)


def test_a_spend_is_carried_out_once_and_the_payout_comes_after_it() -> None:
    wish = Spending("aa" * 32, PAYEE, 30 * COIN, from_height=100)
    again = Spending("bb" * 32, PAYEE, 30 * COIN, from_height=400)

    async def body(world: World) -> None:
        await filled(world, 140 * COIN)
        grant = await world.draft(DUE)
        assert grant.manifest.plan.kind == "grant"
        txid = await world.confirm(grant, 175)
        await world.read_to(175)
        assert world.fund.executed() == {wish.proposal: txid}
        payout = await world.draft(180 + DEPTH)
        assert payout.manifest.plan.kind == "payout"
        await world.confirm(payout, 250)
        await world.pay(390, 31 * COIN)
        second = await world.draft(470)
        assert second.manifest.plan.spend == again
        assert (await verify(world, 1)).right

    run(body, rules=Voted(FIVE.rules(), spends=[wish, again]))


def test_after_its_guardians_changed_the_fund_moves_and_fetches_what_comes_to_the_old_address() -> None:
    later = OTHERS.rules(version=1).model_copy(update={"from_height": 200, "proposal": "cc" * 32})

    async def body(world: World) -> None:
        await world.pay(20, COIN)
        await world.pay(150, 500 * COIN, OTHERS)
        await world.read_to(190)
        assert (await world.drafts.next(199)).plan is None, "what comes before an address is the fund's does not count"
        move = await world.draft(200 + DEPTH)
        assert (move.manifest.plan.kind, move.manifest.plan.script) == ("sweep", OTHERS.script)
        await world.confirm(move, 265)
        await world.pay(300, COIN, FIVE)
        fetch = await world.draft(300 + DEPTH)
        assert {coin.script for coin in fetch.unsigned.inputs} == {FIVE.script, OTHERS.script}
        await world.confirm(fetch, 365)
        await world.pay(380, 101 * COIN, OTHERS)
        payout = await world.draft(380 + DEPTH)
        assert payout.manifest.plan.kind == "payout"
        await world.confirm(payout, 450)
        await world.read_to(460)
        for sequence in (1, 2, 3):
            assert (await verify(world, sequence)).right

    run(body, rules=Voted(FIVE.rules(), later))


def test_coins_at_an_old_address_that_nobody_signs_for_hold_back_a_payout_for_no_more_than_90_blocks() -> None:
    later = OTHERS.rules(version=1).model_copy(update={"from_height": 200, "proposal": "cc" * 32})

    async def body(world: World) -> None:
        await world.pay(20, COIN)
        move = await world.draft(200 + DEPTH)
        await world.confirm(move, 265)
        await world.pay(300, COIN, FIVE)
        await world.pay(305, 101 * COIN, OTHERS)
        fetch = await world.draft(300 + DEPTH)
        assert fetch.manifest.plan.kind == "sweep"
        payout = await world.draft(300 + TIDY_LAPSE + DEPTH)
        assert (payout.manifest.plan.kind, payout.manifest.plan.height) == ("payout", 300 + TIDY_LAPSE)
        assert {coin.script for coin in payout.unsigned.inputs} == {OTHERS.script}
        await world.confirm(fetch, 395)
        await world.read_to(400)
        assert (await verify(world, 2)).right

    run(body, rules=Voted(FIVE.rules(), later))


# --- verifying -------------------------------------------------------------------------------------------------------


def altered(draft: Draft, what: str) -> str:
    """A draft's bytes as liars would have them."""
    tx = draft.unsigned.tx
    inputs = [outpoint_of(txin) for txin in tx.vin]
    outputs = [(output.script_pub_key.script, output.value) for output in tx.vout]
    if what == "one more":
        outputs.append((p2pkh_script(b"\x03" + bytes(32)), DUST))
    elif what == "one fewer":
        outputs.pop()
    elif what == "one koinu off":
        outputs[2] = (outputs[2][0], outputs[2][1] + 1)
    elif what == "another key":
        outputs[3] = (PAYEE[:3] + bytes(20) + PAYEE[23:], outputs[3][1])
    elif what == "another order":
        outputs[2], outputs[3] = outputs[3], outputs[2]
    elif what == "an input fewer":
        inputs.pop()
    elif what == "another anchor":
        outputs[1] = (outputs[1][0], outputs[1][1] - 1)
    elif what == "another note":
        outputs[0] = (outputs[0][0][:-1] + bytes([outputs[0][0][-1] ^ 1]), 0)
    return serialize_tx(make_tx(inputs, outputs, lock_time=7 if what == "a lock time" else 0)).hex()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing", ""),
        ("one more", "which nobody is to get"),
        ("one fewer", "is missing"),
        ("one koinu off", "output 2 pays"),
        ("another key", "output 3 pays"),
        ("another order", "output 2 pays"),
        ("an input fewer", "it spends 1 outputs, not 2"),
        ("another anchor", "output 1 pays"),
        ("another note", "another manifest"),
        ("a lock time", "lock time"),
    ],
)
def test_verifying_names_the_first_thing_that_differs(what: str, told: str) -> None:
    async def body(world: World) -> None:
        await filled(world)
        draft = await world.draft(DUE)
        await world.confirm_raw(altered(draft, what), 175)
        await world.read_to(180)
        found = await verify(world, 1)
        assert found.right == (what == "nothing")
        assert told in found.difference
        assert found.manifest == draft.manifest.digest().hex()

    run(body)


def test_a_payment_that_no_snapshot_asks_for_is_called_so() -> None:
    async def body(world: World) -> None:
        await filled(world)
        draft = await world.draft(DUE)
        await world.reorganise(100)
        await world.pay(105, 3 * COIN, txid=draft.manifest.plan.inputs[1].txid)
        await world.confirm(draft, 175)
        await world.read_to(180)
        found = await verify(world, 1)
        assert not found.right
        assert "due" in found.difference

    run(body)
