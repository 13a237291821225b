"""Payments over the real services and database, with a model of chain and wire."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dux_escrowd import channel as rules
from dux_escrowd import channels as channels_module
from dux_escrowd import contract
from dux_escrowd import keys as keys_module
from dux_escrowd.payments import Order, Wish
from dux_escrowd.watcher import steps_to
from duxcommon import books
from duxcommon.api.escrowd import Hold
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import (
    ArbiterRefused,
    BadTransition,
    ChannelBusy,
    ChannelExists,
    Conflict,
    DepositCapReached,
    GrossTooSmall,
    InsufficientFunds,
    LockTooNear,
    NotConfirmed,
    NothingToClose,
    PaymentsOpen,
    PeerUnreachable,
    ProviderUnknown,
    WalletLocked,
)
from duxcommon.money import COIN
from tests.escrow_world import House, World, market, opened

Scenario = Callable[[House, House, World], Awaitable[None]]


def play(folder: Path, scenario: Scenario, **settings: Any) -> None:
    async def run() -> None:
        world = World()
        buyer, provider = await market(folder, world, **settings)
        try:
            async with asyncio.timeout(60):
                await scenario(buyer, provider, world)
        finally:
            await buyer.stop()
            await provider.stop()

    asyncio.run(run())


def task(number: int) -> str:
    return f"{number:032x}"


async def hold(buyer: House, provider: House, price: int, number: int, wait_s: float = 0.0) -> Hold:
    return await buyer.services.payments.hold(Wish(provider.id, price, f"hold/{number}", task(number)), wait_s)


async def accept(buyer: House, provider: House, held: Hold, deadline: int | None = None) -> None:
    payment = held.payment
    order = Order(buyer.id, payment.channel, payment.amount, payment.task or "", "ab" * 32, deadline)
    await provider.services.payments.accept(order, held.state)


async def serve(buyer: House, provider: House, held: Hold) -> None:
    await accept(buyer, provider, held)
    await provider.services.payments.done(held.payment.channel, held.payment.task or "", "cd" * 32)


async def pay(buyer: House, held: Hold) -> None:
    await buyer.services.payments.release(held.payment.id, "cd" * 32, f"pay/{held.payment.id}")


def test_the_same_key_holds_once_and_other_parameters_are_a_conflict(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        first = await hold(buyer, provider, COIN, 1)
        assert await hold(buyer, provider, COIN, 1) == first
        assert buyer.services.desk.row(channel).held == COIN
        with pytest.raises(Conflict):
            await hold(buyer, provider, COIN + 1, 1)

    play(tmp_path, scenario)


def test_a_payment_is_released_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        for _ in range(3):
            await pay(buyer, held)
        await asyncio.gather(*(pay(buyer, held) for _ in range(3)))
        row = buyer.services.desk.row(channel)
        assert (row.gross, row.seq, row.held, row.open) == (COIN, 1, 0, 0)

    play(tmp_path, scenario)


def test_a_locked_wallet_holds_nothing_new_and_what_was_held_before_is_paid_after_the_unlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "KNOWN_S", 0.0)

    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        before = await hold(buyer, provider, COIN, 1)
        buyer.flopd.is_locked = True
        with pytest.raises(WalletLocked) as caught:
            await hold(buyer, provider, COIN, 2, wait_s=60.0)
        assert "wallet unlock" in caught.value.hint
        # What a restarted taskd asks for again is under way already.
        assert await hold(buyer, provider, COIN, 1) == before
        with pytest.raises(WalletLocked):
            await pay(buyer, before)
        row = buyer.services.desk.row(channel)
        assert (row.gross, row.held, row.open) == (0, COIN, 1)
        buyer.flopd.is_locked = False
        await pay(buyer, before)
        await hold(buyer, provider, COIN, 2)
        row = buyer.services.desk.row(channel)
        assert (row.gross, row.held) == (COIN, COIN)

    play(tmp_path, scenario)


def test_a_call_that_follows_a_payment_does_not_ask_again_whether_the_wallet_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "KNOWN_S", 3600.0)

    async def scenario(buyer: House, provider: House, world: World) -> None:
        await opened(buyer, provider, world)
        asked = buyer.flopd.asked_lock
        for number in range(5):
            await pay(buyer, await hold(buyer, provider, COIN, number))
        assert buyer.flopd.asked_lock - asked <= 1
        late = await hold(buyer, provider, COIN, 5)
        buyer.flopd.is_locked = True
        with pytest.raises(WalletLocked):
            await pay(buyer, late)
        # From now on it is known.
        with pytest.raises(WalletLocked):
            await hold(buyer, provider, COIN, 6)

    play(tmp_path, scenario)


def test_what_was_released_is_not_refunded_and_what_was_refunded_is_not_released(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        await opened(buyer, provider, world)
        paid = await hold(buyer, provider, COIN, 1)
        await pay(buyer, paid)
        with pytest.raises(BadTransition):
            await buyer.services.payments.refund(paid.payment.id, "", "back")
        back = await hold(buyer, provider, COIN, 2)
        await buyer.services.payments.refund(back.payment.id, "no answer", "back-2")
        with pytest.raises(BadTransition):
            await pay(buyer, back)
        assert buyer.services.payments.show(back.payment.id).reason == "no answer"

    play(tmp_path, scenario)


def test_a_key_of_one_release_does_not_release_another_payment(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        one, other = [await hold(buyer, provider, COIN, n) for n in (1, 2)]
        await buyer.services.payments.release(one.payment.id, None, "same")
        with pytest.raises(Conflict):
            await buyer.services.payments.release(other.payment.id, None, "same")
        assert buyer.services.desk.row(channel).gross == COIN

    play(tmp_path, scenario, max_unpaid=4)


def test_releases_that_come_together_share_one_signature(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = [await hold(buyer, provider, COIN // 100 + n, n) for n in range(16)]
        before = buyer.flopd.signed
        await asyncio.gather(*(pay(buyer, one) for one in held))
        assert buyer.flopd.signed - before <= 2
        row = buyer.services.desk.row(channel)
        assert row.gross == sum(COIN // 100 + n for n in range(16))
        newest = row.newest_state
        assert newest is not None
        assert sorted(newest.pays) == [task(n) for n in range(16)]

    play(tmp_path, scenario, max_unpaid=16)


def test_a_hold_waits_for_an_earlier_call_to_be_paid(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        await opened(buyer, provider, world)
        first = await hold(buyer, provider, COIN, 1)
        with pytest.raises(ChannelBusy):
            await hold(buyer, provider, COIN, 2)
        waiting = asyncio.create_task(hold(buyer, provider, COIN, 2, wait_s=30.0))
        await serve(buyer, provider, first)
        await pay(buyer, first)
        second = await waiting
        assert second.state is not None
        assert second.state.gross == COIN
        await serve(buyer, provider, second)

    play(tmp_path, scenario)


def test_a_hold_opens_a_channel_and_waits_for_its_confirmations(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        waiting = asyncio.create_task(hold(buyer, provider, COIN // 2, 1, wait_s=30.0))
        while not world.txs:
            await asyncio.sleep(0.01)
        for _ in range(6):
            assert not waiting.done()
            world.mine()
            await buyer.look()
        held = await waiting
        row = buyer.services.desk.row(held.payment.channel)
        assert row.usable == 5 * COIN // 2

    play(tmp_path, scenario)


def test_a_price_above_the_cap_locks_up_nothing(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        with pytest.raises(DepositCapReached):
            await hold(buyer, provider, 20 * COIN + 1, 1)
        with pytest.raises(DepositCapReached):
            await buyer.services.channels.open(provider.id, 20 * COIN + 1, "open")
        assert not world.txs

    play(tmp_path, scenario)


def test_a_restarted_buyer_goes_on_with_its_channel_and_its_payments(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        await serve(buyer, provider, held)
        await buyer.restart()
        await provider.restart()
        assert await hold(buyer, provider, COIN, 1) == held
        await pay(buyer, held)
        await buyer.restart()
        await buyer.services.pusher.push(channel)
        assert provider.services.desk.row(channel).gross == COIN
        assert (await hold(buyer, provider, COIN, 2)).payment.channel == channel

    play(tmp_path, scenario)


def test_opening_twice_with_one_key_makes_one_channel_and_a_second_one_is_refused(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channels = buyer.services.channels
        row = await channels.open(provider.id, 5 * COIN, "open")
        assert (await channels.open(provider.id, 5 * COIN, "open")).id == row.id
        with pytest.raises(Conflict):
            await channels.open(provider.id, 6 * COIN, "open")
        with pytest.raises(ChannelExists):
            await channels.open(provider.id, 5 * COIN, "again")
        assert len(world.txs) == 1

    play(tmp_path, scenario)


def test_without_money_nothing_is_opened_and_the_reason_is_told(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        async def fund(*_: Any) -> Any:
            raise InsufficientFunds("5.00451 FLOP are needed, 0.00 are there")

        buyer.flopd.fund = fund  # type: ignore[method-assign, assignment]
        with pytest.raises(InsufficientFunds):
            await hold(buyer, provider, COIN, 1, wait_s=5.0)
        (row,) = buyer.services.channels.list(None, 10, None).channels
        assert row.state == "ABANDONED"
        with pytest.raises(InsufficientFunds):
            await hold(buyer, provider, COIN, 1, wait_s=5.0)

    play(tmp_path, scenario)


def test_a_contract_that_the_provider_refuses_is_never_paid_into(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        async def funded(*_: Any) -> Any:
            raise ArbiterRefused("not this one")

        buyer.peers.funded = funded  # type: ignore[method-assign, assignment]
        with pytest.raises(ArbiterRefused):
            await buyer.services.channels.open(provider.id, COIN, "open")
        assert not world.txs
        assert [intent.state for intent in buyer.flopd._intents.values()] == ["cancelled"]
        assert buyer.store.read(books.balances) == {}

    play(tmp_path, scenario)


def test_a_deposit_is_given_up_when_the_provider_stays_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels_module, "ANNOUNCE_FOR_S", 0)

    async def scenario(buyer: House, provider: House, world: World) -> None:
        async def funded(*_: Any) -> Any:
            raise PeerUnreachable("nobody there")

        buyer.peers.funded = funded  # type: ignore[method-assign, assignment]
        with pytest.raises(PeerUnreachable):
            await buyer.services.channels.open(provider.id, COIN, "open")
        assert not world.txs

    play(tmp_path, scenario)


def test_an_unknown_provider_is_named_as_such(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        async def propose(*_: Any) -> Any:
            raise ProviderUnknown("not known here")

        buyer.peers.propose = propose  # type: ignore[method-assign, assignment]
        with pytest.raises(ProviderUnknown):
            await hold(buyer, provider, COIN, 1)

    play(tmp_path, scenario)


def test_a_gross_below_two_hundredths_is_at_risk_and_can_not_be_closed(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, 1_999_999, 1)
        await serve(buyer, provider, held)
        await pay(buyer, held)
        await buyer.services.pusher.push(channel)
        shown = provider.services.desk.wire(provider.services.desk.row(channel))
        assert (shown.at_risk, shown.gross, shown.tax) == (True, 1_999_999, 1_000_000)
        for house in (buyer, provider):
            with pytest.raises(GrossTooSmall):
                await house.services.closing.close(channel, "close", alone=False)
        more = await hold(buyer, provider, 1, 2)
        await serve(buyer, provider, more)
        await pay(buyer, more)
        await buyer.services.pusher.push(channel)
        assert not provider.services.desk.wire(provider.services.desk.row(channel)).at_risk
        await provider.services.closing.close(channel, "close", alone=False)

    play(tmp_path, scenario)


def test_a_channel_with_open_payments_is_not_closed_under_them(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        paid = await hold(buyer, provider, COIN, 1)
        await serve(buyer, provider, paid)
        await pay(buyer, paid)
        held = await hold(buyer, provider, COIN, 2)
        await accept(buyer, provider, held)
        with pytest.raises(PaymentsOpen):
            await buyer.services.closing.close(channel, "close", alone=False)
        with pytest.raises(PaymentsOpen):
            await provider.services.closing.close(channel, "close", alone=False)
        with pytest.raises(PaymentsOpen):
            await provider.services.closing.settle(buyer.id, channel, None)

    play(tmp_path, scenario)


def test_an_order_that_failed_is_not_charged_and_makes_room_again(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        await accept(buyer, provider, held)
        failed = await provider.services.payments.fail(channel, task(1), "out of memory")
        assert (failed.state, failed.reason) == ("REFUNDED", "out of memory")
        assert await provider.services.payments.fail(channel, task(1), "again") == failed
        with pytest.raises(BadTransition):
            await provider.services.payments.done(channel, task(1), "cd" * 32)
        await buyer.services.payments.refund(held.payment.id, "it failed", "back")
        row = provider.services.desk.row(channel)
        assert (row.held, row.open) == (0, 0)
        await serve(buyer, provider, await hold(buyer, provider, COIN, 2))

    play(tmp_path, scenario)


def test_a_result_that_is_never_paid_for_blocks_the_buyer_for_a_day_and_not_for_ever(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        await accept(buyer, provider, held)
        await provider.services.payments.done(channel, task(1), "cd" * 32)
        await buyer.services.payments.refund(held.payment.id, "gave up", "back")
        now = int(time.time())
        assert await provider.services.payments.write_off(now - 60) == 0
        assert provider.services.desk.row(channel).held == COIN
        assert await provider.services.payments.write_off(now + 60) == 1
        assert await provider.services.payments.write_off(now + 60) == 0
        row = provider.services.desk.row(channel)
        assert (row.held, row.open) == (0, 0)
        await serve(buyer, provider, await hold(buyer, provider, COIN, 2))

    play(tmp_path, scenario)


def test_an_order_is_accepted_once_and_the_same_task_with_another_price_is_a_conflict(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        await accept(buyer, provider, held)
        await accept(buyer, provider, held)
        assert provider.services.desk.row(channel).held == COIN
        with pytest.raises(Conflict):
            await provider.services.payments.accept(Order(buyer.id, channel, COIN - 1, task(1), "ab" * 32, None), None)

    play(tmp_path, scenario)


def test_orders_are_refused_when_the_lock_height_is_near_and_the_buyer_takes_a_new_channel(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        world.height += 10_080 - 720 - rules.LAST_BLOCKS - 10
        await provider.look()
        await buyer.look()
        held = await hold(buyer, provider, COIN, 1)
        with pytest.raises(LockTooNear):
            # One block a second on this chain: an hour from now the provider must already have closed.
            await accept(buyer, provider, held, deadline=2**31)
        await buyer.services.payments.refund(held.payment.id, "", "back")
        world.mine(10)
        await buyer.look()
        with pytest.raises(NotConfirmed, match=r"the channel.s deposit has 0 of \d confirmations"):
            await hold(buyer, provider, COIN, 2)
        world.mine(6)
        await provider.look()
        await buyer.look()
        assert (await hold(buyer, provider, COIN, 2)).payment.channel != channel

    play(tmp_path, scenario)


def test_a_deposit_that_confirms_under_another_id_is_signed_anew(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        row = await buyer.services.channels.open(provider.id, 5 * COIN, "open")
        other = world.malleate(next(iter(world.txs)))
        assert other is not None
        world.mine(6)
        await buyer.look()
        await provider.look()
        held = await hold(buyer, provider, COIN, 1)
        await serve(buyer, provider, held)
        await pay(buyer, held)
        newest = buyer.services.desk.row(row.id).newest_state
        assert newest is not None
        assert newest.deposits[0].txid == other
        assert (await buyer.services.audit.run()).ok

    play(tmp_path, scenario)


def test_a_deposit_lost_to_a_conflict_ends_the_channel_and_is_booked_back(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        row = await buyer.services.channels.open(provider.id, 5 * COIN, "open")
        world.txs.clear()
        (key,) = buyer.flopd._intents
        lost = buyer.flopd._intents[key].model_copy(update={"state": "conflicted"})
        buyer.flopd._intents[key] = lost
        world.mine()
        await buyer.look()
        assert buyer.services.desk.row(row.id).state == "CONFLICTED"
        assert set(buyer.store.read(books.balances).values()) == {0}
        assert (await buyer.services.audit.run()).ok

    play(tmp_path, scenario)


async def returned(house: House, channel: str) -> None:
    """Until the refund of what is left in a channel was sent."""
    with house.services.desk.signals.watch(channel) as waiter:
        while house.services.desk.row(channel).state != "REFUND_SENT":
            await waiter.wait(asyncio.get_running_loop().time() + 1)


def test_what_a_stranger_pays_into_a_channel_spoils_no_close_and_goes_to_the_buyer_as_a_gift(
    tmp_path: Path,
) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 5 * COIN)
        escrow = buyer.services.desk.escrow(buyer.services.desk.row(channel))
        gift = coin_tx.make_tx([("ee" * 32, 0)], [(escrow.script, 3 * COIN)])
        world.send(coin_tx.serialize_tx(gift).hex())
        world.mine(6)
        await buyer.look()
        await provider.look()
        held = await hold(buyer, provider, COIN, 1)
        await serve(buyer, provider, held)
        await pay(buyer, held)
        await buyer.services.closing.close(channel, "close", alone=False)
        world.mine()
        await buyer.look()
        await provider.look()
        row = buyer.services.desk.row(channel)
        assert row.state == "CLOSED"
        assert len(world.txs[row.txid or ""].spends) == 1, "the close spends what the buyer paid in, and nothing else"
        world.mine(row.lock_height - world.height)
        await buyer.look()
        await asyncio.wait_for(returned(buyer, channel), 10)
        world.mine()
        await buyer.look()
        assert buyer.services.desk.row(channel).state == "REFUNDED"
        balances = buyer.store.read(books.balances)
        assert balances["gifts"] == -3 * COIN
        assert balances[f"channel:{channel}"] == 0
        assert (await buyer.services.audit.run()).ok

    play(tmp_path, scenario)


def test_both_sides_book_every_movement_and_the_same_amounts(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        for number, price in enumerate([7, 1_000_001, 10 * COIN, 33_333_333]):
            held = await hold(buyer, provider, price, number)
            await serve(buyer, provider, held)
            await pay(buyer, held)
        await buyer.services.pusher.push(channel)
        gross = 7 + 1_000_001 + 10 * COIN + 33_333_333
        provider_part, tax = contract.shares(gross, 500)
        bought, sold = buyer.store.read(books.balances), provider.store.read(books.balances)
        assert (bought["spending"], bought["tax"]) == (provider_part, tax)
        assert (sold["income"], sold["tax"], sold[f"claim:{channel}"]) == (-provider_part, -tax, gross)
        await buyer.services.closing.close(channel, "close", alone=False)
        world.mine()
        await buyer.look()
        await provider.look()
        bought, sold = buyer.store.read(books.balances), provider.store.read(books.balances)
        assert sold == {"income": -provider_part, "tax": 0, "wallet": provider_part, f"claim:{channel}": 0}
        assert bought["wallet"] == -(gross + bought["fees"])
        escrow = provider.services.desk.escrow(provider.services.desk.row(channel))
        assert world.paid_to(coin_script.p2pkh_script(escrow.terms.provider)) == provider_part
        assert world.paid_to(escrow.fund_script) == tax
        for house in (buyer, provider):
            assert (await house.services.audit.run()).ok

    play(tmp_path, scenario)


def test_the_audit_finds_a_single_koinu(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        held = await hold(buyer, provider, COIN, 1)
        await pay(buyer, held)
        assert (await buyer.services.audit.run()).ok
        for statement in (
            "UPDATE channel SET gross = gross + {0}",
            "UPDATE payment SET amount = amount + {0}",
            "UPDATE balance SET amount = amount + {0} WHERE account LIKE 'channel:%'",
            "UPDATE entry SET amount = amount + {0} WHERE account = 'spending'",
            "UPDATE deposit SET amount = amount + {0}",
        ):
            await buyer.store.write(lambda c, s=statement: c.execute(s.format(1)))  # type: ignore[misc]
            looked = buyer.services.watcher.look

            async def look() -> None:
                return

            buyer.services.watcher.look = look  # type: ignore[method-assign]
            report = await buyer.services.audit.run()
            buyer.services.watcher.look = looked  # type: ignore[method-assign]
            assert not report.ok, statement
            await buyer.store.write(lambda c, s=statement: c.execute(s.format(-1)))  # type: ignore[misc]
        assert (await buyer.services.audit.run()).ok
        assert channel

    play(tmp_path, scenario)


def test_a_provider_with_nothing_signed_has_nothing_to_close(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world)
        with pytest.raises(NothingToClose):
            await provider.services.closing.close(channel, "close", alone=True)

    play(tmp_path, scenario)


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("kind", ["close", "refund", None])
@pytest.mark.parametrize("state", sorted(set(rules.CHANNEL) - {"NEW", "FUND_BUILT", "ABANDONED"}))  # without a deposit
def test_whatever_the_chain_shows_the_table_has_the_steps(state: Any, kind: Any, confirmed: bool) -> None:
    for event in steps_to(state, kind, confirmed=confirmed):
        state = rules.next_channel(state, event)
    if kind is not None:
        wanted = {"close": ("CLOSE_SENT", "CLOSED"), "refund": ("REFUND_SENT", "REFUNDED")}[kind]
        assert state == wanted[confirmed]
    assert steps_to(state, kind, confirmed=confirmed) == []
