"""Which rules a channel carries when the rules change: the pure choice, and both sides over it on a model chain."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dux_escrowd import channels as channels_module
from dux_escrowd import rows, terms
from dux_escrowd.channel import ChainDeposit
from dux_escrowd.contract import Escrow
from dux_escrowd.payments import Order, Wish
from dux_escrowd.schema import MIGRATIONS
from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.api.common import Deposit
from duxcommon.coin import script as coin_script
from duxcommon.coin import settlement
from duxcommon.coin import tx as coin_tx
from duxcommon.db import connect
from duxcommon.errors import ArbiterRefused, BadTransition, DuxError, RulesPending, TermsRefused
from duxcommon.money import COIN
from duxcommon.network import Seat
from duxcommon.rulebook import OLD_FUND_BLOCKS, Book, first_rules
from tests.escrow_kit import outpoint, pubkey
from tests.escrow_world import House, World, market, network, opened

FIRST = first_rules(network())
OTHER_FUND = coin_script.p2sh_script(b"the guardians after").hex()
CHANGE = 2000
"""Height of the change in most tests; the model chain starts at 1000."""
Scenario = Callable[[House, House, World], Awaitable[None]]


def version(number: int, height: int, *, tax_bps: int = 500, **changes: Any) -> Rules:
    parameters = FIRST.parameters.model_copy(update={"tax_bps": tax_bps})
    update = {"version": number, "from_height": height, "proposal": "ab" * 32, "parameters": parameters, **changes}
    return FIRST.model_copy(update=update)


def book(*later: Rules, known_to: int = 100_000) -> Book:
    return Book(RuleBook(network=network().id, rules=[FIRST, *later], known_to=known_to))


TAX_FALLS = book(version(1, CHANGE, tax_bps=450))
FUND_MOVES = book(version(1, CHANGE, fund_script=OTHER_FUND))


# --- the choice, pure -----------------------------------------------------------------------------------------------


def test_a_channel_carries_the_rules_of_the_next_block() -> None:
    assert terms.in_force(TAX_FALLS, CHANGE - 2).parameters.tax_bps == 500
    assert terms.in_force(TAX_FALLS, CHANGE - 1).parameters.tax_bps == 450


@given(st.integers(CHANGE - 400, CHANGE + 400), st.integers(1, terms.CONFIRM_WITHIN))
def test_a_rate_that_is_accepted_and_was_in_force_makes_settled_work_of_every_deposit_that_confirms_soon(
    tip: int, blocks: int
) -> None:
    for rate in (500, 450):
        try:
            terms.check_tax(TAX_FALLS, rate, tip)
        except TermsRefused:
            continue
        if TAX_FALLS.tax_at(tip + 1) == rate or rate == 500:
            assert terms.fits(TAX_FALLS, rate, tip + blocks)


@given(st.integers(CHANGE - 400, CHANGE + 400), st.integers(-terms.AHEAD, terms.AHEAD))
def test_two_nodes_whose_tips_differ_always_find_a_rate_that_both_accept(tip: int, gap: int) -> None:
    offered = terms.in_force(TAX_FALLS, tip + gap)
    terms.check_tax(TAX_FALLS, offered.parameters.tax_bps, tip)
    terms.check_fund(FUND_MOVES, terms.in_force(FUND_MOVES, tip + gap).fund_script, tip, tip + 10_080)


@given(st.integers(CHANGE - 300, CHANGE + 300), st.sampled_from([500, 450]))
def test_what_fits_is_what_settled_work_says(height: int, rate: int) -> None:
    found = settlement.rates_for([height], TAX_FALLS.tax_at)
    assert terms.fits(TAX_FALLS, rate, height) == (rate in found)


def test_the_rate_just_replaced_is_refused_once_a_deposit_may_confirm_too_late_and_both_rates_are_named() -> None:
    last = CHANGE + settlement.RATE_GRACE - terms.CONFIRM_WITHIN - 2
    terms.check_tax(TAX_FALLS, 500, last)
    with pytest.raises(TermsRefused) as refused:
        terms.check_tax(TAX_FALLS, 500, last + 1)
    for part in ("5.00 %", "4.50 %", str(CHANGE)):
        assert part in refused.value.message
    assert refused.value.details == {
        "tax_bps": 500, "in_force": 450, "height": last + 2, "replaced_at": CHANGE,
    }  # fmt: skip


def test_a_rate_that_was_never_in_force_is_refused() -> None:
    with pytest.raises(TermsRefused, match=r"3\.00 %.*5\.00 % is in force at block 1001"):
        terms.check_tax(TAX_FALLS, 300, 1000)


def test_a_rate_is_not_taken_long_before_it_comes_into_force() -> None:
    terms.check_tax(TAX_FALLS, 450, CHANGE - 1 - terms.AHEAD)
    with pytest.raises(TermsRefused):
        terms.check_tax(TAX_FALLS, 450, CHANGE - 2 - terms.AHEAD)


def test_a_replaced_fund_address_is_taken_only_where_it_counts_until_the_channel_ends() -> None:
    until = CHANGE + OLD_FUND_BLOCKS - 1
    assert terms.counts_until(FUND_MOVES, FIRST.fund_script) == until
    assert terms.counts_until(FUND_MOVES, OTHER_FUND) is None
    assert FIRST.fund_script in [one.hex() for one in FUND_MOVES.fund_scripts_at(until)]
    assert FIRST.fund_script not in [one.hex() for one in FUND_MOVES.fund_scripts_at(until + 1)]
    assert FUND_MOVES.old_fund_scripts_at(CHANGE - 1) == {}
    assert FUND_MOVES.old_fund_scripts_at(CHANGE) == {bytes.fromhex(FIRST.fund_script): until}
    terms.check_fund(FUND_MOVES, FIRST.fund_script, CHANGE + 10, until)
    with pytest.raises(TermsRefused, match=f"counts until block {until}"):
        terms.check_fund(FUND_MOVES, FIRST.fund_script, CHANGE + 10, until + 1)
    with pytest.raises(TermsRefused, match="not the community fund's"):
        terms.check_fund(FUND_MOVES, FIRST.fund_script, CHANGE + 1000, CHANGE + 2000)


def test_an_arbiter_is_accepted_while_it_is_in_force_and_shortly_around() -> None:
    new = Seat(node=None, pubkey=pubkey("new arbiter"))
    changed = book(version(1, CHANGE, arbiters=[new]))
    old = FIRST.arbiters[0].pubkey
    assert terms.arbiter(changed, old, CHANGE + 10).pubkey == old
    assert terms.arbiter(changed, new.pubkey, CHANGE - 10) == new
    with pytest.raises(ArbiterRefused):
        terms.arbiter(changed, old, CHANGE + 100)
    with pytest.raises(ArbiterRefused):
        terms.arbiter(changed, new.pubkey, CHANGE - 100)


def test_beyond_the_known_rules_nothing_is_said() -> None:
    short = book(known_to=1500)
    terms.check_tax(short, 500, 1499)
    for ask in (lambda: terms.check_tax(short, 500, 1500), lambda: terms.in_force(short, 1500)):
        with pytest.raises(RulesPending):
            ask()


def deposit(name: str, height: int | None) -> ChainDeposit:
    return ChainDeposit(outpoint(name), 0, COIN, height)


def test_a_deposit_that_would_spoil_the_close_is_left_out_unless_a_state_spends_it_or_nothing_fits() -> None:
    early, late, waiting = deposit("early", 1900), deposit("late", CHANGE + 144), deposit("waiting", None)
    seen = [early, late, waiting]
    assert terms.counting(TAX_FALLS, 500, seen, set) == [early, waiting]
    assert terms.counting(TAX_FALLS, 500, seen, lambda: {(late.txid, 0)}) == seen
    assert terms.counting(TAX_FALLS, 500, [late], set) == [late]
    assert terms.counting(TAX_FALLS, 500, [late, waiting], set) == [late, waiting]
    gift = replace(deposit("gift", 1900), noted=False)
    assert terms.counting(TAX_FALLS, 500, [early, gift], set) == [early]
    assert terms.counting(TAX_FALLS, 500, [gift], set) == [gift]
    last = deposit("last", CHANGE + 143)
    assert terms.counting(TAX_FALLS, 500, [early, last], set) == [early, last]
    unknown = book(version(1, CHANGE, tax_bps=450), known_to=CHANGE + 143)
    assert terms.counting(unknown, 500, seen, set) == seen


def test_channels_from_before_fund_scripts_could_change_pay_to_the_networks_first(tmp_path: Path) -> None:
    connection = connect(tmp_path / "escrowd.sqlite")
    for script in MIGRATIONS[:2]:
        connection.executescript(script)
    connection.execute(
        "INSERT INTO channel (id, role, peer, state, provider_pubkey, buyer_pubkey, arbiter_pubkey, lock_height, "
        "tax_bps, max_unpaid, birth, created) VALUES ('x', 'provider', 'p', 'OPEN', ?, ?, ?, 20000, 500, 1, 0, 0)",
        (pubkey("provider"), pubkey("buyer"), pubkey("arbiter")),
    )
    for script in MIGRATIONS[2:]:
        connection.executescript(script)
    rows.name_fund_script(connection, FIRST.fund_script)
    rows.name_fund_script(connection, OTHER_FUND)
    assert Escrow.of(rows.channel(connection, "x").contract).fund_script.hex() == FIRST.fund_script


def test_every_channel_in_the_database_names_its_fund_script(tmp_path: Path) -> None:
    connection = connect(tmp_path / "escrowd.sqlite")
    for script in MIGRATIONS:
        connection.executescript(script)
    columns: list[sqlite3.Row] = connection.execute("PRAGMA table_info(channel)").fetchall()
    assert next(row["notnull"] for row in columns if row["name"] == "fund_script") == 1


# --- both sides over a model chain ------------------------------------------------------------------------------------


def play(folder: Path, scenario: Scenario, height: int = CHANGE - 20, **settings: Any) -> None:
    async def run() -> None:
        world = World(height=height)
        buyer, provider = await market(folder, world, **settings)
        try:
            async with asyncio.timeout(60):
                await scenario(buyer, provider, world)
        finally:
            await buyer.stop()
            await provider.stop()

    asyncio.run(run())


def both_know(known: Book, *houses: House) -> None:
    for house in houses:
        house.rules.book = house.rules.told = known


async def mined(world: World, blocks: int, *houses: House) -> None:
    world.mine(blocks)
    for house in houses:
        await house.look()


async def paid_call(buyer: House, provider: House, price: int, number: int) -> str:
    """One whole call; its channel."""
    task = f"{number:032x}"
    held = await buyer.services.payments.hold(Wish(provider.id, price, f"hold/{number}", task), 0)
    order = Order(buyer.id, held.payment.channel, price, task, "ab" * 32, None)
    await provider.services.payments.accept(order, held.state)
    await provider.services.payments.done(held.payment.channel, task, "cd" * 32)
    await buyer.services.payments.release(held.payment.id, "cd" * 32, f"pay/{number}")
    await buyer.services.pusher.push(held.payment.channel)
    return held.payment.channel


def judged(world: World, known: Book, provider: House, channel: str) -> settlement.Settlement | settlement.Refusal:
    """What the chain's rule says of the transaction that closed a channel."""
    escrow = provider.services.desk.escrow(provider.services.desk.row(channel))
    closing = world.txs[provider.services.desk.row(channel).txid or ""]
    note = coin_script.FundingNote.decode(escrow.note())
    prevouts = []
    for txid, vout in closing.spends:
        paid = world.txs[txid]
        assert paid.height is not None
        prevouts.append(settlement.Prevout(*paid.outputs[vout], paid.height, note))
    assert closing.height is not None
    scripts = known.fund_scripts_at(closing.height)
    return settlement.settle(coin_tx.parse_tx(closing.raw), prevouts, scripts, known.tax_at)


async def closed(world: World, buyer: House, provider: House, channel: str) -> None:
    await buyer.services.closing.close(channel, f"close/{channel}", alone=False)
    await mined(world, 1, buyer, provider)


def test_a_channel_keeps_its_rate_and_the_next_one_takes_the_new_and_both_are_settled_work(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(TAX_FALLS, buyer, provider)
        old = await opened(buyer, provider, world)
        await paid_call(buyer, provider, COIN, 1)
        await mined(world, 500, buyer, provider)
        assert await paid_call(buyer, provider, COIN, 2) == old
        await closed(world, buyer, provider, old)
        new = await opened(buyer, provider, world)
        await paid_call(buyer, provider, COIN, 3)
        await closed(world, buyer, provider, new)
        for channel, gross, rate in ((old, 2 * COIN, 500), (new, COIN, 450)):
            verdict = judged(world, TAX_FALLS, provider, channel)
            assert isinstance(verdict, settlement.Settlement), verdict
            assert (verdict.gross, verdict.tax_bps, verdict.tax) == (gross, rate, gross * rate // 10_000)
            assert buyer.services.desk.wire(buyer.services.desk.row(channel)).tax == verdict.tax
        for house in (buyer, provider):
            assert (await house.services.audit.run()).ok

    play(tmp_path, scenario)


def test_a_channel_keeps_its_fund_address_and_the_next_one_takes_the_new(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(FUND_MOVES, buyer, provider)
        old = await opened(buyer, provider, world)
        await mined(world, 500, buyer, provider)
        await paid_call(buyer, provider, COIN, 1)
        await closed(world, buyer, provider, old)
        new = await opened(buyer, provider, world)
        await paid_call(buyer, provider, COIN, 2)
        await closed(world, buyer, provider, new)
        for channel, script in ((old, FIRST.fund_script), (new, OTHER_FUND)):
            assert isinstance(judged(world, FUND_MOVES, provider, channel), settlement.Settlement)
            closing = world.txs[provider.services.desk.row(channel).txid or ""]
            assert closing.outputs[1] == (bytes.fromhex(script), COIN // 20)
        assert (await buyer.services.audit.run()).ok
        assert (await provider.services.audit.run()).ok

    play(tmp_path, scenario)


def test_after_a_change_a_top_up_is_refused_and_a_dear_call_gets_a_new_channel(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(TAX_FALLS, buyer, provider)
        old = await opened(buyer, provider, world, COIN)
        await paid_call(buyer, provider, COIN // 2, 1)
        await mined(world, 100, buyer, provider)
        with pytest.raises(BadTransition, match="no longer in force"):
            await buyer.services.channels.topup(old, COIN, "more")
        await buyer.services.channels.make_room(provider.id, COIN, "dear")
        made = {row.id: row for row in buyer.services.desk.store.read(rows.followed_channels)}
        new = next(row for row in made.values() if row.id != old)
        assert (made[old].tax_bps, made[old].retiring, new.tax_bps) == (500, 1, 450)

    play(tmp_path, scenario)


@pytest.mark.parametrize("ahead", ["buyer", "provider"])
def test_nodes_on_both_sides_of_a_change_open_a_channel_that_is_settled_work(tmp_path: Path, ahead: str) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(TAX_FALLS, buyer, provider)
        behind = provider if ahead == "buyer" else buyer
        await mined(world, CHANGE - 3 - world.height, buyer, provider)
        # One node sees five blocks less than there are: to it, the old rate is in force at the next block.
        await mined(world, 5, buyer, provider)
        behind.services.desk.tip = CHANGE - 3
        row = await buyer.services.channels.open(provider.id, COIN, "open")
        assert row.tax_bps == (500 if ahead == "buyer" else 450)
        await mined(world, 6, buyer, provider)
        await paid_call(buyer, provider, COIN // 2, 1)
        await closed(world, buyer, provider, row.id)
        assert isinstance(judged(world, TAX_FALLS, provider, row.id), settlement.Settlement)

    play(tmp_path, scenario)


def test_without_known_rules_open_channels_go_on_and_new_ones_are_refused(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        short = book(known_to=CHANGE)
        both_know(short, buyer, provider)
        channel = await opened(buyer, provider, world)
        await mined(world, 100, buyer, provider)
        assert await paid_call(buyer, provider, COIN, 1) == channel
        for work in (
            buyer.services.channels.topup(channel, COIN, "more"),
            provider.services.channels.open(buyer.id, COIN, "open"),
            provider.services.serving.propose("ee" * 32, pubkey("a buyer"), FIRST.arbiters[0].pubkey),
        ):
            with pytest.raises(RulesPending, match=f"only those up to {CHANGE}: airdropd does not answer") as refused:
                await work
            assert refused.value.retry
            assert "go on" in refused.value.hint
        await closed(world, buyer, provider, channel)
        assert buyer.services.desk.row(channel).state == "CLOSED"

    play(tmp_path, scenario)


def test_rules_that_are_needed_and_not_known_yet_are_asked_for_once_more(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        for house in (buyer, provider):
            house.rules.book, house.rules.told = book(known_to=world.height), TAX_FALLS
        channel = await opened(buyer, provider, world)
        asked = buyer.rules.asked, provider.rules.asked
        await paid_call(buyer, provider, COIN, 1)
        assert (buyer.rules.asked, provider.rules.asked) == asked == (1, 1), "a paid call waits for no rules"
        assert buyer.services.desk.row(channel).gross == COIN

    play(tmp_path, scenario)


def test_a_deposit_that_waited_until_its_rate_was_replaced_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(TAX_FALLS, buyer, provider)
        monkeypatch.setattr(channels_module, "SENT_WITHIN_S", 0.5)
        broadcast = buyer.flopd.broadcast

        async def down(intent: str) -> Any:
            raise RulesPending("not now")

        buyer.flopd.broadcast = down  # type: ignore[method-assign]
        with pytest.raises(DuxError):
            await buyer.services.channels.open(provider.id, COIN, "open")
        buyer.flopd.broadcast = broadcast  # type: ignore[method-assign]
        await mined(world, 200, buyer, provider)
        (row,) = buyer.services.desk.store.read(rows.followed_channels)
        (funding,) = buyer.services.desk.store.read(lambda c: rows.fundings(c, row.id))
        assert funding.state == "BUILT"
        await buyer.services.channels.fund(funding.id, {})
        row = buyer.services.desk.row(row.id)
        assert row.state == "ABANDONED"
        assert "replaced at block 2000" in row.reason
        assert not world.txs, "nothing was paid"

    play(tmp_path, scenario)


def test_a_top_up_that_confirms_too_late_is_left_out_of_the_states_and_the_close_is_settled_work(
    tmp_path: Path,
) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(TAX_FALLS, buyer, provider)
        channel = await opened(buyer, provider, world, COIN)
        script = buyer.services.desk.escrow(buyer.services.desk.row(channel)).script
        await mined(world, 300, buyer, provider)
        late = coin_tx.serialize_tx(coin_tx.make_tx([(outpoint("late"), 0)], [(script, COIN)])).hex()
        world.notes[late] = buyer.services.desk.escrow(buyer.services.desk.row(channel)).note().hex()
        world.send(late)
        await mined(world, 6, buyer, provider)
        for house in (buyer, provider):
            assert len(house.services.desk.counted(house.services.desk.row(channel))) == 1
        await paid_call(buyer, provider, COIN // 2, 1)
        await closed(world, buyer, provider, channel)
        assert isinstance(judged(world, TAX_FALLS, provider, channel), settlement.Settlement)

    play(tmp_path, scenario)


def test_a_channel_is_closed_before_its_fund_address_stops_counting(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        # With such a lock time the first address would be left behind long before the lock height.
        buyer.services.desk.settings = provider.settings
        both_know(FUND_MOVES, buyer, provider)
        channel = await opened(buyer, provider, world)
        await paid_call(buyer, provider, COIN, 1)
        last = CHANGE + OLD_FUND_BLOCKS - 1
        assert provider.services.desk.row(channel).lock_height > last
        await mined(world, last - 720 - world.height, provider)
        assert provider.services.desk.row(channel).state == "OPEN"
        await mined(world, 1, provider)
        await mined(world, 1, provider)
        assert provider.services.desk.row(channel).state == "CLOSED"
        assert isinstance(judged(world, FUND_MOVES, provider, channel), settlement.Settlement)

    play(tmp_path, scenario, lock_blocks=20_000)


def test_an_announced_channel_can_not_be_announced_with_other_terms(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        both_know(FUND_MOVES, buyer, provider)
        row = buyer.services.desk.row(await opened(buyer, provider, world))
        paid = [Deposit(txid=outpoint("new"), vout=0, amount=COIN)]
        for changes in ({"tax_bps": 450}, {"fund_script": OTHER_FUND}):
            other = row.contract.model_copy(update=changes)
            with pytest.raises(TermsRefused, match="keeps its terms"):
                await provider.services.serving.funded(buyer.id, other, paid)

    play(tmp_path, scenario)


def test_an_arbiter_that_could_be_the_provider_is_only_taken_where_there_is_no_other() -> None:
    provider, own = "11" * 32, "02" + "aa" * 32
    named, unknown, theirs, ours = (
        Seat(node=node, pubkey=pubkey)
        for node, pubkey in (
            ("22" * 32, "02" + "01" * 32), (None, "02" + "02" * 32), (provider, "02" + "03" * 32), (None, own),
        )
    )  # fmt: skip
    seats = [unknown, theirs, ours, named]
    assert terms.arbiters_apart(seats, provider, own, ()) == [named.pubkey]
    assert terms.arbiters_apart(seats, provider, own, [unknown.pubkey]) == [unknown.pubkey]
    assert terms.arbiters_apart([theirs, ours, unknown], provider, own, ()) == [unknown.pubkey]
    assert terms.arbiters_apart([theirs, ours], provider, own, ()) == []
