"""dux-escrowd put together."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

from duxcommon.daemon import Daemon
from duxcommon.db import Store
from duxcommon.errors import ConfigError, DuxError

from .desk import Desk
from .events import Events
from .methods import BooksMethods, ChannelMethods, PaymentMethods
from .ports import Flopd, Peers
from .schema import MIGRATIONS
from .services import Services
from .settings import EscrowSettings

WRITE_OFF_EVERY_S = 600
MEET_S = 5.0
MEET_AGAIN_S = 0.1


class EscrowDaemon(Daemon):
    """Keep payment channels with other nodes, and the payments on them."""

    name = "escrowd"
    settings_model = EscrowSettings
    settings: EscrowSettings

    async def start(self) -> None:
        self._check_arbiters(self.settings)
        self.store = Store(self.settings.state_dir / "escrowd.sqlite", MIGRATIONS)
        flopd, peers = Flopd(self.rpc("flopd")), Peers(self.rpc("registryd"))
        self.services = Services.at(Desk(self.store, flopd, peers, self.network, self.settings))
        await self._meet_flopd(flopd)
        events = Events(self.services.desk, self.settings.state_dir / "events.log", self.rpc("registryd"))
        self.spawn(self.services.desk.outbox.run(), "outbox")
        self.spawn(self.services.watcher.run(), "follow the chain")
        self.spawn(self.services.watcher.run_sent(), "follow what was sent")
        self.spawn(events.run(), "event log")
        self.spawn(self._write_off(), "write off")
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

    async def stop(self) -> None:
        if hasattr(self, "services"):
            await self.services.stop()
        if hasattr(self, "store"):
            await self.store.close()

    async def _write_off(self) -> None:
        while True:
            try:
                given_up = await self.services.payments.write_off(int(time.time()) - self.settings.write_off_h * 3600)
                if given_up:
                    self.log.warning("results were never paid for", extra={"payments": given_up})
            except DuxError as error:
                self.log.info("unpaid results could not be looked through", extra={"why": error.message})
            await asyncio.sleep(WRITE_OFF_EVERY_S)

    def _check_arbiters(self, settings: EscrowSettings) -> None:
        if not set(settings.arbiters) <= {member.pubkey for member in self.network.arbiters}:
            raise ConfigError(
                "`arbiters` names a key that the network definition does not",
                hint="Take the keys from `arbiters` of the network definition, or leave the list empty.",
            )

    async def reload(self, settings: Any) -> None:
        self._check_arbiters(settings)
        self.services.desk.settings = settings

    def methods(self) -> Iterable[object]:
        return [ChannelMethods(self.services), PaymentMethods(self.services), BooksMethods(self.services)]

    def notes(self) -> list[str]:
        if self.services.desk.tip is None:
            return ["flopd has not told the height of the chain yet"]
        return []
