"""dux-escrowd put together."""

from collections.abc import Iterable
from typing import Any

from duxcommon.daemon import Daemon
from duxcommon.db import Store
from duxcommon.errors import ConfigError
from duxcommon.outbox import Outbox

from .audit import Audit
from .channels import Channels
from .closing import Closing
from .desk import Desk
from .events import Events
from .methods import BooksMethods, ChannelMethods, PaymentMethods
from .payments import Payments
from .ports import Flopd, Peers
from .schema import MIGRATIONS
from .serving import Serving
from .settings import EscrowSettings
from .signing import Pusher, Signer
from .watcher import Watcher


class EscrowDaemon(Daemon):
    """Keep payment channels with other nodes, and the payments on them."""

    name = "escrowd"
    settings_model = EscrowSettings
    settings: EscrowSettings

    async def start(self) -> None:
        known = {member.pubkey for member in self.network.arbiters}
        if not set(self.settings.arbiters) <= known:
            raise ConfigError("`arbiters` names a key that the network definition does not")
        self.store = Store(self.settings.state_dir / "escrowd.sqlite", MIGRATIONS)
        self.desk = Desk(
            self.store, Flopd(self.rpc("flopd")), Peers(self.rpc("registryd")), self.network, self.settings
        )
        self.pusher = Pusher(self.desk)
        self.signer = Signer(self.desk, self.pusher)
        self.closing = Closing(self.desk)
        self.channels = Channels(self.desk)
        self.serving = Serving(self.desk)
        self.watcher = Watcher(self.desk, self.closing, self.signer)
        self.payments = Payments(self.desk, self.channels, self.signer, self.pusher, self.watcher.refresh)
        self.audit = Audit(self.desk, self.watcher)
        self.events = Events(self.desk, self.settings.state_dir / "events.log", self.rpc("registryd"))
        self.desk.outbox = Outbox(
            self.store, {"fund": self.channels.fund, "settle": self.closing.ask, "submit": self.closing.submit}
        )
        self.spawn(self.desk.outbox.run(), "outbox")
        self.spawn(self.watcher.run(), "follow the chain")
        self.spawn(self.events.run(), "event log")
        self.pusher.start()

    async def stop(self) -> None:
        if hasattr(self, "signer"):
            await self.signer.stop()
            await self.pusher.stop()
        if hasattr(self, "store"):
            await self.store.close()

    async def reload(self, settings: Any) -> None:
        self.desk.settings = settings

    def methods(self) -> Iterable[object]:
        return [ChannelMethods(self), PaymentMethods(self), BooksMethods(self)]

    def notes(self) -> list[str]:
        if self.desk.tip is None:
            return ["flopd has not told the height of the chain yet"]
        return []
