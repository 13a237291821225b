"""The apps that this node serves: its own published listings, and those that its owner chose to offer too."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from duxcommon.api.common import Hash32, NodeId
from duxcommon.api.manifest import Manifest
from duxcommon.api.registryd import Listing
from duxcommon.blobs import BlobStore
from duxcommon.errors import AppNotServed, DuxError

from .links import Registry
from .market import body_of

log = logging.getLogger("taskd.apps")


@dataclass(frozen=True, slots=True)
class Served:
    """An app that can be ordered here. `own`: this node published it."""

    app: Hash32
    name: str
    manifest: Manifest
    bundle: Hash32
    own: bool


class Apps:
    """Kept in memory; `refresh` asks registryd."""

    def __init__(
        self, registry: Registry, blobs: BlobStore, me: NodeId, chosen: Callable[[], Sequence[Hash32]]
    ) -> None:
        """`chosen` are the ids of other publishers' apps to offer."""
        self._registry = registry
        self._blobs = blobs
        self._me = me
        self._chosen = chosen
        self._served: dict[Hash32, Served] = {}
        self._asked = -math.inf
        self._asking = asyncio.Lock()
        self._absent: set[Hash32] = set()

    def all(self) -> list[Served]:
        """What can be ordered here, by app id."""
        return [self._served[app] for app in sorted(self._served)]

    @property
    def age(self) -> float:
        """Seconds since the listings were looked at."""
        return time.monotonic() - self._asked

    async def refresh(self) -> bool:
        """Look at the listings again; True when what is served has changed."""
        begun = time.monotonic()
        async with self._asking:
            if self._asked >= begun:
                return False
            self._asked = time.monotonic()
            listings = [(listing, True) for listing in await self._registry.listings_of(self._me)]
            for app in self._chosen():
                try:
                    listings.append((await self._registry.listing(app), False))
                except DuxError as error:
                    log.info("an app can't be offered now", extra={"app": app, "why": error.message})
            served = {item.app: item for listing, own in listings if (item := self._usable(listing, own))}
            changed, self._served = served != self._served, served
            return changed

    def _usable(self, listing: Listing, own: bool) -> Served | None:
        try:
            body = body_of(listing)
        except DuxError as error:
            log.warning("a listing can't be served", extra={"app": listing.app, "why": error.message})
            return None
        # Another publisher's `url` would make this machine call its own ports for strangers.
        if body.withdrawn or (body.manifest.runtime == "http" and not own):
            return None
        if body.manifest.runtime == "command" and not self._blobs.has(body.bundle):
            if body.bundle not in self._absent:
                self._absent.add(body.bundle)
                log.warning("an app's bundle is not here", extra={"app": listing.app, "bundle": body.bundle})
            return None
        self._absent.discard(body.bundle)
        return Served(listing.app, listing.name, body.manifest, body.bundle, own)

    def get(self, app: Hash32) -> Served:
        """Raises AppNotServed."""
        served = self._served.get(app)
        if served is None:
            raise AppNotServed(f"this node does not offer app {app[:16]}…")
        return served
