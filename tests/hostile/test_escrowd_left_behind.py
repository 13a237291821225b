"""A buyer's coins never stay behind in a channel: not after a refund, not under a heap of small gifts."""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dux_escrowd import channel as rules
from dux_escrowd.payments import Wish
from duxcommon.api.escrowd import ProviderTerms
from duxcommon.api.flopd import TxIntent
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import BadTransition, DepositCapReached, DepositTooSmall, NotConfirmed, TimedOut
from duxcommon.money import COIN, DUST
from tests.escrow_world import House, World, market, opened


def play(folder: Path, scenario: Callable[[House, House, World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        buyer, provider = await market(folder, world)
        try:
            await scenario(buyer, provider, world)
        finally:
            await buyer.stop()
            await provider.stop()

    asyncio.run(run())


def gifts(world: World, script: bytes, count: int) -> None:
    """Somebody pays into a channel that is not theirs; the ids come before that of the deposit."""
    deposit = min(tx.txid for tx in world.txs.values() if tx.outputs[0][0] == script)
    for number in itertools.count():
        coin = hashlib.sha256(f"gift/{number}".encode()).hexdigest()
        tx = coin_tx.make_tx([(coin, 0)], [(script, DUST if count % 2 else rules.MIN_INPUT)])
        if coin_tx.txid_of(tx) < deposit:
            world.send(coin_tx.serialize_tx(tx).hex())
            count -= 1
        if not count:
            return


async def blocks(house: House, world: World, count: int) -> None:
    """Blocks, each of which the node has looked at and acted on."""
    for _ in range(count):
        world.mine()
        await house.look()
        async with asyncio.timeout(60):
            while house.store.read(lambda c: c.execute("SELECT count(*) FROM outbox").fetchone()[0]):
                await asyncio.sleep(0.01)


async def to_the_lock(house: House, world: World, channel: str) -> None:
    row = house.services.desk.row(channel)
    world.mine(row.lock_height - world.height - 1)
    await blocks(house, world, 8)


def test_a_top_up_that_confirms_after_the_channel_was_given_back_comes_back_too(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 2 * COIN)
        await buyer.services.channels.topup(channel, 5 * COIN, "more")
        # The top-up is sent and not confirmed: both sign the refund of what counts so far.
        await buyer.services.closing.close(channel, "close", alone=False)
        await blocks(buyer, world, 2)
        assert buyer.services.desk.row(channel).state == "REFUNDED"
        desk = buyer.services.desk
        script = desk.escrow(desk.row(channel)).script
        assert world.paid_to(script) == 5 * COIN
        await to_the_lock(buyer, world, channel)
        assert world.paid_to(script) == 0, "the top-up stayed behind"
        assert desk.row(channel).state == "REFUNDED"
        assert (await buyer.services.audit.run()).ok

    play(tmp_path, scenario)


def test_no_heap_of_small_gifts_hides_a_deposit_from_its_buyer(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 10 * COIN)
        desk = buyer.services.desk
        escrow = desk.escrow(desk.row(channel))
        gifts(world, escrow.script, 40)
        await to_the_lock(buyer, world, channel)
        assert world.paid_to(escrow.script) < 20 * rules.MIN_INPUT, "more than worthless gifts stayed behind"
        assert world.paid_to(coin_script.p2pkh_script(escrow.terms.buyer)) > 10 * COIN
        assert (await buyer.services.audit.run()).ok

    play(tmp_path, scenario)


def test_a_refund_that_the_chain_can_not_take_any_more_is_made_anew(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 10 * COIN)
        desk = buyer.services.desk
        script = desk.escrow(desk.row(channel)).script
        await buyer.services.closing.close(channel, "close", alone=False)
        refund = desk.row(channel).txid
        assert refund is not None
        # A reorg takes refund and deposit away, and the deposit confirms under another id.
        deposit = next(tx.txid for tx in world.txs.values() if tx.outputs[0][0] == script)
        del world.txs[refund]
        world.reorg(20)
        assert world.malleate(deposit) is not None
        await to_the_lock(buyer, world, channel)
        assert world.paid_to(script) == 0, "the deposit stayed behind"
        assert desk.row(channel).state == "REFUNDED"

    play(tmp_path, scenario)


def test_a_top_up_is_not_given_up_while_flopd_may_have_built_it(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 2 * COIN)
        await buyer.store.write(lambda c: c.execute("UPDATE channel SET created = created - 10000"))
        fund, answers = buyer.flopd.fund, iter([False])

        async def slow(*args: Any) -> TxIntent:
            built = await fund(*args)
            if next(answers, True):
                return built
            raise TimedOut("flopd did not answer in time")

        buyer.flopd.fund = slow  # type: ignore[method-assign, assignment]
        await buyer.services.channels.topup(channel, 5 * COIN, "more")
        await blocks(buyer, world, 6)
        assert buyer.services.desk.row(channel).usable > 6 * COIN
        assert [i.state for i in buyer.flopd._intents.values()] == ["sent", "sent"], "coins stay locked"

    play(tmp_path, scenario)


def test_a_result_is_still_paid_when_a_reorg_moves_the_deposit_while_the_payment_is_signed(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        await opened(buyer, provider, world, 2 * COIN)
        held = await buyer.services.payments.hold(Wish(provider.id, COIN, "hold", "ab" * 16), 1.0)
        sign = buyer.flopd.sign

        async def reorganised(*args: Any) -> list[str]:
            signatures = await sign(*args)
            world.reorg(6)
            await buyer.look()
            return signatures

        buyer.flopd.sign = reorganised  # type: ignore[method-assign, assignment]
        with pytest.raises(NotConfirmed):
            await buyer.services.payments.release(held.payment.id, None, "pay")
        buyer.flopd.sign = sign  # type: ignore[method-assign]
        world.mine(6)
        await buyer.look()
        assert (await buyer.services.payments.release(held.payment.id, None, "pay")).state == "RELEASED"

    play(tmp_path, scenario)


def test_no_deposit_is_made_that_would_be_too_small_to_count_or_to_come_back(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        propose = buyer.peers.propose

        async def modest(*args: Any) -> ProviderTerms:
            return (await propose(*args)).model_copy(update={"min_deposit": 0})

        buyer.peers.propose = modest  # type: ignore[method-assign]
        for amount in (0, 1, DUST, rules.MIN_INPUT - 1):
            with pytest.raises(DepositTooSmall):
                await buyer.services.channels.open(provider.id, amount, f"open/{amount}")
        assert world.txs == {}
        assert buyer.flopd._intents == {}

    play(tmp_path, scenario)


def test_top_ups_that_are_on_their_way_count_towards_the_cap(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 8 * COIN)
        await buyer.services.channels.topup(channel, 8 * COIN, "one")
        with pytest.raises(DepositCapReached):
            await buyer.services.channels.topup(channel, 8 * COIN, "two")
        assert (await buyer.services.channels.topup(channel, 8 * COIN, "one")).id == channel

    play(tmp_path, scenario)


def test_no_deposit_is_made_beyond_those_that_count(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 2 * COIN)
        for number in range(rules.MAX_DEPOSITS - 1):
            await buyer.services.channels.topup(channel, COIN, f"more/{number}")
            await blocks(buyer, world, 1)
        with pytest.raises(BadTransition):
            await buyer.services.channels.topup(channel, COIN, "too many")
        await blocks(buyer, world, 6)
        assert buyer.services.desk.row(channel).usable > 16 * COIN

    play(tmp_path, scenario)


def test_a_channel_that_is_a_trifle_below_the_cap_is_replaced_and_not_topped_up_in_vain(tmp_path: Path) -> None:
    async def scenario(buyer: House, provider: House, world: World) -> None:
        channel = await opened(buyer, provider, world, 20 * COIN - DUST)
        wish = Wish(provider.id, 20 * COIN - DUST // 2, "hold", "ab" * 16)
        with pytest.raises(NotConfirmed):
            await buyer.services.payments.hold(wish, 0.0)
        await blocks(buyer, world, 6)
        await provider.look()
        held = await buyer.services.payments.hold(wish, 1.0)
        assert held.payment.channel != channel
        assert len(buyer.flopd._intents) == 2, "a deposit was made that does not count"

    play(tmp_path, scenario)
