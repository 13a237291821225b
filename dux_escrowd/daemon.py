"""dux-escrowd put together."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

from duxcommon.clock import CLOCK
from duxcommon.coin import fund as coin_fund
from duxcommon.daemon import Daemon
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.rulekeeper import RuleKeeper

from . import rows
from .desk import Desk
from .events import Events
from .methods import BooksMethods, ChannelMethods, PaymentMethods
from .ports import Flopd, Peers
from .schema import MIGRATIONS
from .services import Services
from .settings import EscrowSettings

WRITE_OFF_EVERY_S = 600
ASK_RULES_AGAIN_S = 10.0
MEET_S = 5.0
MEET_AGAIN_S = 0.1


class EscrowDaemon(Daemon):
    """Keep payment channels with other nodes, and the payments on them."""

    name = "escrowd"
    settings_model = EscrowSettings
    settings: EscrowSettings

    async def start(self) -> None:
        self.store = Store(self.settings.state_dir / "escrowd.sqlite", MIGRATIONS)
        first = coin_fund.fund_script(self.network).hex()
        await self.store.write(lambda c: rows.name_fund_script(c, first))
        flopd, peers = Flopd(self.rpc("flopd")), Peers(self.rpc("registryd"))
        self.rules = RuleKeeper(self.settings.state_dir / "rules.json", self.rpc("airdropd"), self.network)
        self.services = Services.at(Desk(self.store, flopd, peers, self.rules, self.network, self.settings))
        await self._meet_flopd(flopd)
        events = Events(self.services.desk, self.settings.state_dir / "events.log", self.rpc("registryd"))
        self.spawn(self.services.desk.outbox.run(), "outbox")
        self.spawn(self.services.watcher.run(), "follow the chain")
        self.spawn(self.services.watcher.run_sent(), "follow what was sent")
        self.spawn(events.run(), "event log")
        self.spawn(self._write_off(), "write off")
        self.spawn(self._follow_rules(), "follow the rules")
        self.services.pusher.start()

    async def _meet_flopd(self, flopd: Flopd) -> None:
        """Wait a moment for flopd, which starts at the same time; without it the daemon starts all the same."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEET_S):
                while self.services.desk.tip is None:
                    try:
                        self.services.desk.tip = (await flopd.status()).height
                    except DuxError as error:
                        self.log.info("flopd is not there yet", extra={"why": error.message})
                        await asyncio.sleep(MEET_AGAIN_S)

    async def _follow_rules(self) -> None:
        """Ask for the rules at each block, so that no call has to wait for them."""
        moved = self.services.desk.tip_moved
        while True:
            moved.clear()
            await self.rules.refresh()
            with contextlib.suppress(TimeoutError):
                # While airdropd is away, sooner than the next block.
                async with asyncio.timeout(ASK_RULES_AGAIN_S if self.rules.trouble else None):
                    await moved.wait()

    async def stop(self) -> None:
        if hasattr(self, "services"):
            await self.services.stop()
        if hasattr(self, "store"):
            await self.store.close()

    async def _write_off(self) -> None:
        while True:
            try:
                if not CLOCK.believable():
                    # Everything would seem long overdue.
                    await asyncio.sleep(WRITE_OFF_EVERY_S)
                    continue
                given_up = await self.services.payments.write_off(int(time.time()) - self.settings.write_off_h * 3600)
                if given_up:
                    self.log.warning("results were never paid for", extra={"payments": given_up})
            except DuxError as error:
                self.log.info("unpaid results could not be looked through", extra={"why": error.message})
            await asyncio.sleep(WRITE_OFF_EVERY_S)

    async def reload(self, settings: Any) -> None:
        self.services.desk.settings = settings

    def methods(self) -> Iterable[object]:
        return [ChannelMethods(self.services), PaymentMethods(self.services), BooksMethods(self.services)]

    def notes(self) -> list[str]:
        found = []
        tip = self.services.desk.tip
        if tip is None:
            found.append("flopd has not told the height of the chain yet")
        elif tip >= self.rules.book.known_to:
            found.append(f"the rules are known up to block {self.rules.book.known_to} only; no new channels are opened")
        known = {seat.pubkey for rules in self.rules.book.book.rules for seat in rules.arbiters}
        if strangers := sorted(set(self.settings.arbiters) - known):
            found.append(f"`arbiters` of the configuration names {strangers[0]}, which is no arbiter of the network")
        return found

    def rules_version(self) -> int | None:
        tip, book = self.services.desk.tip, self.rules.book
        return None if tip is None else book.at(min(tip, book.known_to)).version
