"""Buyer and provider exchange orders and states over a wire that loses, repeats and reorders, and both may restart.

Whatever happens: the provider can always close for what it was given, the buyer never signs away more than it
released, and every koinu of the deposits is accounted for.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dux_escrowd import contract, signing
from dux_escrowd.payments import Order, Wish
from duxcommon import books
from duxcommon.api.escrowd import Hold
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import DuxError
from duxcommon.money import COIN
from tests.escrow_world import World, market, opened

T = TypeVar("T")
MAX_UNPAID = 3


@dataclass
class Message:
    """An order on its way."""

    hold: Hold


class Exchange(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # Pushes happen when the test says so, not when a clock does.
        self.patch.setattr(signing, "IDLE_S", 3600.0)
        self.patch.setattr(signing, "MANY", 10**6)
        self.patch.setattr(signing, "CARRIED_S", 3600.0)
        self.folder = Path(tempfile.mkdtemp(prefix="dux", dir="/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"))
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.wire: list[Message] = []
        self.holds: dict[str, Hold] = {}
        self.finished: set[str] = set()
        self.counter = 0
        self.largest_gross = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize()
    def open_channel(self) -> None:
        self.buyer, self.provider = self.run(market(self.folder, self.world, max_unpaid=MAX_UNPAID))
        self.channel = self.run(opened(self.buyer, self.provider, self.world))

    # --- what may happen -------------------------------------------------------------------------------------------

    @rule(price=st.integers(1, 3 * COIN))
    def hold(self, price: int) -> None:
        self.counter += 1
        task = f"{self.counter:032x}"
        try:
            hold = self.run(self.buyer.services.payments.hold(Wish(self.provider.id, price, task, task), 0.0))
        except DuxError:
            return
        if hold.payment.channel == self.channel:
            self.holds[hold.payment.id] = hold
            self.wire.append(Message(hold))

    @rule(prices=st.lists(st.integers(1, COIN), min_size=1, max_size=4))
    def calls_go_well(self, prices: list[int]) -> None:
        for price in prices:
            before = len(self.wire)
            self.hold(price)
            if len(self.wire) > before:
                hold = self.wire.pop().hold
                self.deliver(hold)
                if hold.payment.id in self.finished:
                    self.pay([hold.payment.id])

    @precondition(lambda self: self.wire)
    @rule(pick=st.integers(0, 1000), again=st.booleans())
    def order_arrives(self, pick: int, again: bool) -> None:
        message = self.wire[pick % len(self.wire)]
        if not again:
            self.wire.remove(message)
        self.deliver(message.hold)

    def deliver(self, hold: Hold) -> None:
        message = Message(hold)
        payment = message.hold.payment
        order = Order(self.buyer.id, payment.channel, payment.amount, payment.task or "", "ab" * 32, None)
        try:
            self.run(self.provider.services.payments.accept(order, message.hold.state))
            self.run(self.provider.services.payments.done(payment.channel, payment.task or "", "cd" * 32))
        except DuxError:
            return
        self.finished.add(payment.id)

    @precondition(lambda self: self.wire)
    @rule(pick=st.integers(0, 1000))
    def order_is_lost(self, pick: int) -> None:
        self.wire.pop(pick % len(self.wire))

    @precondition(lambda self: self.finished)
    @rule(pick=st.integers(0, 1000), together=st.integers(1, 3))
    def release(self, pick: int, together: int) -> None:
        self.pay([sorted(self.finished)[(pick + n) % len(self.finished)] for n in range(together)])

    def pay(self, chosen: list[str]) -> None:
        async def release() -> None:
            payments = self.buyer.services.payments
            await asyncio.gather(
                *(payments.release(one, "cd" * 32, f"pay/{one}") for one in chosen), return_exceptions=True
            )

        self.run(release())

    @precondition(lambda self: self.holds)
    @rule(pick=st.integers(0, 1000))
    def refund(self, pick: int) -> None:
        chosen = sorted(self.holds)[pick % len(self.holds)]
        try:
            self.run(self.buyer.services.payments.refund(chosen, "tired of waiting", f"back/{chosen}"))
        except DuxError:
            return

    @rule(lose=st.sampled_from(["nothing", "request", "reply"]))
    def push(self, lose: str) -> None:
        self.buyer.peers.lose_request, self.buyer.peers.lose_reply = lose == "request", lose == "reply"
        self.run(self.buyer.services.pusher.push(self.channel))
        self.buyer.peers.lose_request = self.buyer.peers.lose_reply = False

    @rule(who=st.sampled_from(["buyer", "provider"]))
    def restart(self, who: str) -> None:
        self.run(getattr(self, who).restart())

    @rule(blocks=st.integers(1, 3))
    def mine(self, blocks: int) -> None:
        self.world.mine(blocks)
        self.look()

    @rule(depth=st.integers(1, 4))
    def reorg(self, depth: int) -> None:
        self.world.reorg(depth)
        self.look()

    @rule(push=st.booleans())
    def deposit_gets_another_id(self, push: bool) -> None:
        self.world.reorg(50)
        for txid in list(self.world.txs):
            self.world.malleate(txid)
        self.look()
        self.world.mine(6)
        self.look()
        if push:
            self.run(self.buyer.services.pusher.push(self.channel))

    @rule(amount=st.integers(2_000_000, COIN))
    def top_up(self, amount: int) -> None:
        self.counter += 1
        try:
            self.run(self.buyer.services.channels.topup(self.channel, amount, f"more/{self.counter}"))
        except DuxError:
            return

    def look(self) -> None:
        self.run(self.buyer.look())
        self.run(self.provider.look())

    # --- what must hold at every moment ----------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "channel"):
            return
        buyer, provider = self.buyer.services.desk.row(self.channel), self.provider.services.desk.row(self.channel)
        for row, house in ((buyer, self.buyer), (provider, self.provider)):
            payments = house.services.payments.list(self.channel, None, 500, None).payments
            released = sum(p.amount for p in payments if p.state == "RELEASED")
            waiting = [p.amount for p in payments if p.state in ("HELD", "ORDERED", "DONE")]
            assert released + row.credit == row.gross
            assert (sum(waiting), len(waiting)) == (row.held, row.open)
            found = house.store.read(books.check)
            assert (found.total, found.differences) == (0, {})
            if row.newest_state is not None:
                contract.check_state(house.services.desk.escrow(row), row.newest_state)
                assert row.newest_state.gross == row.gross
        assert provider.gross <= buyer.gross
        assert provider.seq <= buyer.seq
        assert buyer.acked_seq <= provider.seq
        assert provider.open <= MAX_UNPAID
        assert buyer.state != "OPEN" or buyer.gross + buyer.held <= buyer.usable
        assert buyer.gross >= self.largest_gross
        self.largest_gross = buyer.gross

    def teardown(self) -> None:
        try:
            if hasattr(self, "channel"):
                self.settle_up()
        finally:
            if hasattr(self, "buyer"):
                self.run(self.buyer.stop())
                self.run(self.provider.stop())
            self.loop.close()
            self.patch.undo()
            shutil.rmtree(self.folder, ignore_errors=True)

    def give_up_open_payments(self) -> bool:
        """Both sides drop what is unpaid; True."""
        for payment in self.buyer.services.payments.list(self.channel, None, 500, None).payments:
            if payment.state in ("HELD", "ORDERED", "DONE"):
                self.run(self.buyer.services.payments.refund(payment.id, "the end", f"end/{payment.id}"))
        return True

    def settle_up(self) -> None:
        """The provider closes alone with what it has; whatever is left comes back to the buyer; all figures agree."""
        self.world.mine(200)
        self.look()
        self.run(self.buyer.services.pusher.push(self.channel))
        row = self.provider.services.desk.row(self.channel)
        gross = row.gross
        escrow = self.provider.services.desk.escrow(row)
        deposited = self.world.paid_to(escrow.script)
        together = self.counter % 2 == 0 and self.give_up_open_payments()
        if gross >= 2_000_000:
            if together:
                self.run(self.buyer.services.closing.close(self.channel, "close", alone=False))
            else:
                self.run(self.provider.services.closing.close_alone(self.channel))
            self.world.mine()
            self.look()
            assert self.provider.services.desk.row(self.channel).state == "CLOSED"
            assert self.buyer.services.desk.row(self.channel).state == "CLOSED"
            tax = max(gross * 500 // 10_000, 1_000_000)
            paid = self.world.paid_to(coin_script.p2pkh_script(escrow.terms.provider))
            assert paid == gross - tax
            assert self.world.paid_to(escrow.fund_script) == tax
        self.world.mine(11_000)
        self.look()
        self.world.mine()
        self.look()
        change = self.world.paid_to(coin_script.p2pkh_script(escrow.terms.buyer))
        settled = self.world.paid_to(coin_script.p2pkh_script(escrow.terms.provider)) + self.world.paid_to(
            escrow.fund_script
        )
        fees = deposited - change - settled
        assert self.world.paid_to(escrow.script) < 2_000_000
        assert 0 <= fees <= 2 * coin_tx.closing_fee(16) + 2_000_000
        for house in (self.buyer, self.provider):
            report = self.run(house.services.audit.run())
            assert report.ok, [check for check in report.checks if check.difference]


TestExchange = Exchange.TestCase
TestExchange.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
