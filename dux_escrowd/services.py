"""The services of the daemon, put together over one desk."""

from dataclasses import dataclass

from duxcommon.outbox import Outbox

from .audit import Audit
from .channels import Channels
from .closing import Closing
from .desk import Desk
from .keys import Keys
from .payments import Payments
from .serving import Serving
from .signing import Pusher, Signer
from .watcher import Watcher


@dataclass(frozen=True)
class Services:
    """Everything that works at a desk."""

    desk: Desk
    pusher: Pusher
    signer: Signer
    closing: Closing
    channels: Channels
    serving: Serving
    watcher: Watcher
    payments: Payments
    audit: Audit

    @classmethod
    def at(cls, desk: Desk) -> "Services":
        """Build them, with the outbox that sends for them; nothing is started."""
        pusher = Pusher(desk)
        keys = Keys(desk.flopd)
        signer = Signer(desk, pusher, keys)
        closing, channels = Closing(desk), Channels(desk, pusher)
        watcher = Watcher(desk, closing, signer)
        desk.outbox = Outbox(desk.store, {"fund": channels.fund, "settle": closing.ask, "submit": closing.submit})
        return cls(
            desk=desk,
            pusher=pusher,
            signer=signer,
            closing=closing,
            channels=channels,
            serving=Serving(desk),
            watcher=watcher,
            payments=Payments(desk, channels, signer, pusher, keys, watcher.refresh),
            audit=Audit(desk, watcher),
        )

    async def stop(self) -> None:
        """End what is under way; the database remembers it."""
        await self.signer.stop()
        await self.pusher.stop()
