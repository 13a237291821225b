"""Forged, stale and impossible states, contracts and answers: each is refused by name and changes nothing."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from btclib_secp256k1 import dsa

from dux_escrowd import contract
from dux_escrowd.payments import Order, Wish
from dux_escrowd.rows import ChannelRow
from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelAck, ChannelContract, CloseReply, ProviderTerms, SignedState
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.coin.tx import Coin
from duxcommon.errors import (
    ArbiterRefused,
    BadStateSignature,
    ChainDown,
    ChannelBusy,
    ChannelClosed,
    ChannelUnknown,
    DepositTooSmall,
    DuxError,
    HighS,
    LockTooFar,
    LockTooNear,
    NotCovered,
    PeerMisbehaved,
    StateConflict,
    StateStale,
    TermsRefused,
    TooManyChannels,
    WrongAmount,
    WrongDeposits,
    WrongKey,
)
from duxcommon.money import COIN
from tests.escrow_kit import outpoint, pubkey, secret
from tests.escrow_world import House, World, market, opened

ORDER_OF_CURVE = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@dataclasses.dataclass
class Stage:
    """An open channel between two nodes, with the buyer's key at hand to forge with."""

    buyer: House
    provider: House
    world: World
    channel: str

    @property
    def row(self) -> ChannelRow:
        return self.provider.services.desk.row(self.channel)

    @property
    def deposits(self) -> list[Coin]:
        return [Coin(d.txid, d.vout, d.amount) for d in self.provider.services.desk.counted(self.row)]

    def state(
        self, gross: int, seq: int = 1, *, key: bytes | None = None, deposits: list[Coin] | None = None
    ) -> SignedState:
        """A state as the buyer would sign it, or as somebody else would."""
        escrow = self.provider.services.desk.escrow(self.row)
        spend = contract.closing(escrow, deposits or self.deposits, gross)
        signer = key or secret("bob/channel/0")
        signatures = [coin_tx.sign_input(spend.tx, n, spend.redeem, signer).hex() for n in range(len(spend.deposits))]
        return contract.make_state(escrow, spend, signatures, seq=seq, gross=gross)

    async def give(self, state: SignedState) -> ChannelAck:
        return await self.provider.services.serving.state(self.buyer.id, state)


def on_stage(folder: Path, scenario: Callable[[Stage], Awaitable[None]], **settings: Any) -> None:
    async def play() -> None:
        world = World()
        buyer, provider = await market(folder, world, **settings)
        try:
            await scenario(Stage(buyer, provider, world, await opened(buyer, provider, world)))
        finally:
            await buyer.stop()
            await provider.stop()

    asyncio.run(play())


async def refused(stage: Stage, state: SignedState, error: type[DuxError]) -> None:
    """The state is refused by this name, alone and with an order, and the provider's row stays as it was."""
    before = stage.row
    with pytest.raises(error):
        await stage.give(state)
    order = Order(stage.buyer.id, stage.channel, 1000, "77" * 16, "88" * 32, None)
    if error is not StateStale:
        with pytest.raises(error):
            await stage.provider.services.payments.accept(order, state)
    assert stage.row == before


def high_s(signature: str) -> str:
    """The other valid form of a signature, which nodes do not relay."""
    r, s = (int.from_bytes(part, "big") for part in _compact(signature))
    twisted = ORDER_OF_CURVE - s

    def number(value: int) -> bytes:
        raw = value.to_bytes((value.bit_length() + 8) // 8, "big")
        return b"\x02" + bytes([len(raw)]) + raw

    body = number(r) + number(twisted)
    return (b"\x30" + bytes([len(body)]) + body + b"\x01").hex()


def _compact(signature: str) -> tuple[bytes, bytes]:
    raw = dsa.to_compact(bytes.fromhex(signature)[:-1])
    return raw[:32], raw[32:]


def with_signature(state: SignedState, signature: str) -> SignedState:
    return state.model_copy(update={"signatures": [signature]})


def test_a_state_with_a_high_s_signature_is_refused_as_such(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        good = stage.state(COIN)
        await refused(stage, with_signature(good, high_s(good.signatures[0])), HighS)
        assert (await stage.give(good)).seq == 1

    on_stage(tmp_path, scenario)


def test_a_state_that_somebody_else_signed_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for name in ("arbiter", "alice/payout", "mallory"):
            await refused(stage, stage.state(COIN, key=secret(name)), WrongKey)

    on_stage(tmp_path, scenario)


def test_a_signature_over_another_gross_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        state = stage.state(COIN)
        await refused(stage, state.model_copy(update={"gross": COIN + 1}), WrongKey)
        await refused(stage, state.model_copy(update={"gross": 1}), WrongKey)

    on_stage(tmp_path, scenario)


@pytest.mark.parametrize(
    "bad", ["", "00", "30", "3006020101020101", "ff" * 71, "30" * 9 + "01", "3006020101020101" + "83"]
)
def test_a_signature_that_is_not_strict_der_is_refused(tmp_path: Path, bad: str) -> None:
    async def scenario(stage: Stage) -> None:
        await refused(stage, with_signature(stage.state(COIN), bad), BadStateSignature)

    on_stage(tmp_path, scenario)


def test_a_signature_that_is_cut_padded_or_of_another_hash_type_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        good = stage.state(COIN)
        text = good.signatures[0]
        for bad in (text[:-4] + "01", text[:-2] + "0001", text[:-2] + "02", text + "01"):
            await refused(stage, with_signature(good, bad), BadStateSignature)

    on_stage(tmp_path, scenario)


def test_too_many_or_too_few_signatures_are_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        good = stage.state(COIN)
        await refused(stage, good.model_copy(update={"signatures": good.signatures * 2}), BadStateSignature)
        await refused(stage, good.model_copy(update={"signatures": []}), BadStateSignature)

    on_stage(tmp_path, scenario)


def test_an_older_state_is_refused_and_the_newest_stays(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.give(stage.state(2 * COIN, seq=5))
        await refused(stage, stage.state(COIN, seq=4), StateStale)
        await refused(stage, stage.state(3 * COIN, seq=4), StateStale)
        assert stage.row.gross == 2 * COIN

    on_stage(tmp_path, scenario)


def test_an_order_that_was_overtaken_does_not_bring_an_older_state_back(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.give(stage.state(2 * COIN, seq=5))
        order = Order(stage.buyer.id, stage.channel, 1000, "77" * 16, "88" * 32, None)
        await stage.provider.services.payments.accept(order, stage.state(COIN, seq=4))
        assert (stage.row.gross, stage.row.seq) == (2 * COIN, 5)

    on_stage(tmp_path, scenario)


def test_two_states_of_one_number_are_a_conflict_and_a_lower_gross_a_wrong_amount(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.give(stage.state(2 * COIN, seq=5))
        await refused(stage, stage.state(3 * COIN, seq=5), StateConflict)
        await refused(stage, stage.state(COIN, seq=6), WrongAmount)
        await refused(stage, stage.state(0, seq=6), WrongAmount)

    on_stage(tmp_path, scenario)


def test_a_state_over_deposits_that_do_not_exist_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        real = stage.deposits[0]
        for fake in (
            Coin(outpoint("fake"), 0, 20 * COIN),
            Coin(real.txid, 1, real.amount),
            Coin(real.txid, 0, 30 * COIN),
        ):
            await refused(stage, stage.state(COIN, deposits=[fake]), WrongDeposits)
            await refused(stage, stage.state(COIN, deposits=[real, fake] if fake.vout else [fake]), WrongDeposits)
        twice = stage.state(COIN).model_copy(
            update={"deposits": [Deposit(txid=real.txid, vout=0, amount=real.amount)] * 2}
        )
        await refused(stage, twice, WrongDeposits)

    on_stage(tmp_path, scenario)


def test_more_than_the_deposit_covers_can_neither_be_signed_nor_ordered(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        covered = stage.row.usable
        state = stage.state(covered)
        await refused(stage, state.model_copy(update={"gross": covered + 1}), WrongAmount)
        with pytest.raises(NotCovered):
            await stage.provider.services.payments.accept(
                Order(stage.buyer.id, stage.channel, covered + 1, "77" * 16, "88" * 32, None), None
            )
        await stage.give(state)
        with pytest.raises(NotCovered):
            await stage.provider.services.payments.accept(
                Order(stage.buyer.id, stage.channel, 1, "77" * 16, "88" * 32, None), None
            )

    on_stage(tmp_path, scenario)


def test_another_nodes_channel_does_not_exist_for_a_caller(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = stage.row
        stranger = "ee" * 32
        with pytest.raises(ChannelUnknown):
            await stage.provider.services.serving.state(stranger, stage.state(COIN))
        with pytest.raises(ChannelUnknown):
            await stage.provider.services.closing.settle(stranger, stage.channel, None)
        with pytest.raises(ChannelUnknown):
            await stage.provider.services.payments.accept(
                Order(stranger, stage.channel, 1, "77" * 16, "88" * 32, None), None
            )
        assert stage.row == before

    on_stage(tmp_path, scenario)


def test_calls_beyond_the_unpaid_limit_are_refused_on_new_channels_too(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        payments = stage.provider.services.payments
        await payments.accept(Order(stage.buyer.id, stage.channel, 1000, "77" * 16, "88" * 32, None), None)
        with pytest.raises(ChannelBusy):
            await payments.accept(Order(stage.buyer.id, stage.channel, 1000, "78" * 16, "88" * 32, None), None)
        arbiter = stage.row.arbiter_pubkey
        with pytest.raises(ChannelBusy):
            await stage.provider.services.serving.propose(stage.buyer.id, pubkey("other"), arbiter)

    on_stage(tmp_path, scenario)


def test_a_buyer_that_never_stops_signing_can_not_keep_the_provider_from_closing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.give(stage.state(COIN))
        flopd, sign = stage.provider.flopd, stage.provider.flopd.sign

        async def slow(*args: Any) -> list[str]:
            # While the provider signs its close, the next state of the same gross comes in, and an order.
            with contextlib.suppress(ChannelClosed):
                await stage.give(stage.state(COIN, seq=stage.row.seq + 1))
            with contextlib.suppress(ChannelClosed, LockTooNear):
                order = Order(stage.buyer.id, stage.channel, 1000, f"{stage.row.seq:032x}", "88" * 32, None)
                await stage.provider.services.payments.accept(order, None)
            return await sign(*args)

        flopd.sign = slow  # type: ignore[method-assign, assignment]
        row = stage.row
        stage.world.mine(row.lock_height - 720 - stage.world.height)
        await stage.provider.look()
        assert stage.row.state in ("CLOSE_BUILT", "CLOSE_SENT")

    on_stage(tmp_path, scenario)


def test_a_provider_that_cannot_follow_the_chain_takes_no_orders(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        serve = stage.provider.services
        order = Order(stage.buyer.id, stage.channel, 1000, "77" * 16, "88" * 32, None)
        serve.desk.tip_told -= 601
        with pytest.raises(ChainDown):
            await serve.payments.accept(order, stage.state(COIN))
        with pytest.raises(ChainDown):
            await serve.serving.propose(stage.buyer.id, pubkey("bob/other"), terms(stage).arbiter_pubkey)
        # What was earned before is stored all the same.
        assert (await stage.give(stage.state(COIN))).gross == COIN
        await stage.provider.look()
        assert (await serve.payments.accept(order, None)).state == "ORDERED"

    on_stage(tmp_path, scenario)


def test_a_list_of_paid_tasks_that_is_a_lie_pays_nothing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        payments = stage.provider.services.payments
        accepted = await payments.accept(Order(stage.buyer.id, stage.channel, COIN, "77" * 16, "88" * 32, None), None)
        lie = stage.state(1000).model_copy(update={"pays": ["77" * 16, "77" * 16, "99" * 16]})
        await stage.give(lie)
        assert payments.show(accepted.id).state == "ORDERED"
        assert (stage.row.open, stage.row.held, stage.row.credit) == (1, COIN, 1000)

    on_stage(tmp_path, scenario)


def test_a_refund_of_everything_is_not_signed_once_something_was_signed_away(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        closing = stage.provider.services.closing
        signed = stage.provider.flopd.signed
        await stage.give(stage.state(COIN, seq=1))
        before = stage.row
        with pytest.raises(WrongAmount):
            await closing.settle(stage.buyer.id, stage.channel, stage.state(0, seq=2))
        assert (stage.row, stage.provider.flopd.signed) == (before, signed)

    on_stage(tmp_path, scenario)


def test_a_refund_of_other_outputs_is_not_signed(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        signed = stage.provider.flopd.signed
        fake = stage.state(0, deposits=[Coin(outpoint("other channel"), 0, 5 * COIN)])
        with pytest.raises(WrongDeposits):
            await stage.provider.services.closing.settle(stage.buyer.id, stage.channel, fake)
        assert stage.provider.flopd.signed == signed

    on_stage(tmp_path, scenario)


def terms(stage: Stage, **changes: Any) -> ChannelContract:
    good = ChannelContract(
        provider_pubkey=stage.row.provider_pubkey,
        buyer_pubkey=pubkey("another buyer key"),
        arbiter_pubkey=stage.row.arbiter_pubkey,
        lock_height=stage.world.height + 10_080,
        tax_bps=500,
        fund_script=stage.row.fund_script,
    )
    return good.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"provider_pubkey": pubkey("mallory")}, TermsRefused),
        ({"tax_bps": 0}, TermsRefused),
        ({"fund_script": "a914" + "00" * 20 + "87"}, TermsRefused),
        ({"arbiter_pubkey": pubkey("mallory")}, ArbiterRefused),
        ({"buyer_pubkey": "02" + "ff" * 32}, TermsRefused),
        ({"lock_height": 1000}, LockTooNear),
        ({"lock_height": 1_000_000}, LockTooFar),
    ],
)
def test_a_contract_that_was_not_offered_is_refused_and_not_stored(
    tmp_path: Path, changes: dict[str, Any], error: type[DuxError]
) -> None:
    async def scenario(stage: Stage) -> None:
        deposit = Deposit(txid=outpoint("new"), vout=0, amount=5 * COIN)
        with pytest.raises(error):
            await stage.provider.services.serving.funded(stage.buyer.id, terms(stage, **changes), [deposit])
        assert len(stage.provider.services.channels.list(None, 10, None).channels) == 1

    on_stage(tmp_path, scenario)


def test_a_deposit_below_the_providers_least_is_refused(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        deposit = Deposit(txid=outpoint("new"), vout=0, amount=COIN // 100)
        with pytest.raises(DepositTooSmall):
            await stage.provider.services.serving.funded(stage.buyer.id, terms(stage), [deposit])

    on_stage(tmp_path, scenario)


def test_one_buyer_cannot_fill_the_provider_with_channels(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        serving = stage.provider.services.serving
        deposit = Deposit(txid=outpoint("new"), vout=0, amount=COIN)
        await serving.funded(stage.buyer.id, terms(stage, buyer_pubkey=pubkey("second")), [deposit])
        with pytest.raises(TooManyChannels):
            await serving.funded(stage.buyer.id, terms(stage, buyer_pubkey=pubkey("third")), [deposit])
        await serving.funded("ee" * 32, terms(stage, buyer_pubkey=pubkey("fourth")), [deposit])

    on_stage(tmp_path, scenario, max_channels=2)


def test_a_contract_can_not_be_taken_over_by_another_node(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        deposit = Deposit(txid=outpoint("new"), vout=0, amount=COIN)
        with pytest.raises(TermsRefused):
            await stage.provider.services.serving.funded("ee" * 32, stage.row.contract, [deposit])

    on_stage(tmp_path, scenario)


# --- a hostile provider ----------------------------------------------------------------------------------------------


def test_a_provider_that_offers_the_buyers_own_key_or_an_odd_height_gets_no_deposit(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        own = (await stage.buyer.flopd.payout()).pubkey
        good = ProviderTerms(
            payout_pubkey=stage.row.provider_pubkey, min_deposit=0, max_unpaid=1, height=stage.world.height,
            tax_bps=500, fund_script=stage.row.fund_script,
        )  # fmt: skip
        refusals: list[tuple[dict[str, Any], type[DuxError]]] = [
            ({"payout_pubkey": own}, TermsRefused),
            ({"payout_pubkey": "02" + "ff" * 32}, TermsRefused),
            ({"height": 5}, LockTooFar),
            ({"tax_bps": 0}, TermsRefused),
            ({"fund_script": "a914" + "00" * 20 + "87"}, TermsRefused),
            ({"min_deposit": 19 * COIN}, DepositTooSmall),
        ]
        for change, error in refusals:
            answer = good.model_copy(update=change)

            async def propose(*_: Any, answer: ProviderTerms = answer) -> ProviderTerms:
                return answer

            stage.buyer.peers.propose = propose  # type: ignore[method-assign, assignment]
            with pytest.raises(error):
                await stage.buyer.services.channels.open("ee" * 32, 5 * COIN, f"open/{change}")
        assert len(stage.world.txs) == 1

    on_stage(tmp_path, scenario)


def test_an_acknowledgement_of_what_was_never_signed_changes_nothing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.buyer.services.pusher.acknowledged(stage.channel, 99)
        assert stage.buyer.services.desk.row(stage.channel).acked_seq == 0

    on_stage(tmp_path, scenario)


def test_a_provider_that_answers_a_close_with_another_transaction_is_found_out(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        hold = await stage.buyer.services.payments.hold(Wish(stage.provider.id, COIN, "one", "77" * 16), 0.0)
        await stage.buyer.services.payments.release(hold.payment.id, None, "pay")
        theft = coin_tx.make_tx(
            [(stage.deposits[0].txid, 0)],
            [(coin_script.p2pkh_script(stage.provider.services.desk.escrow(stage.row).terms.provider), 19 * COIN)],
        )

        async def settle(*_: Any) -> CloseReply:
            return CloseReply(hex=coin_tx.serialize_tx(theft).hex(), txid=coin_tx.txid_of(theft))

        stage.buyer.peers.settle = settle  # type: ignore[method-assign, assignment]
        async with stage.buyer.services.desk.lock(stage.channel):
            await stage.buyer.store.write(
                lambda c: c.execute("UPDATE channel SET state = 'CLOSE_BUILT' WHERE id = ?", (stage.channel,))
            )
        with pytest.raises(PeerMisbehaved):
            await stage.buyer.services.closing.ask(stage.channel, {})
        assert stage.buyer.services.desk.row(stage.channel).hex is None

    on_stage(tmp_path, scenario)
