"""What is on offer, as registryd tells it; kept for a few seconds so that a paid call need not ask."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from duxcommon.api.registryd import Listing, ListingBody, Provider
from duxcommon.errors import BadRecord

from .links import Registry

MAX_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Offer:
    """An app's listing, what its publisher signed, and the nodes that serve it."""

    listing: Listing
    body: ListingBody
    providers: tuple[Provider, ...]


def body_of(listing: Listing) -> ListingBody:
    """What the publisher signed. Raises BadRecord."""
    try:
        return ListingBody.model_validate(listing.record.body)
    except ValidationError as error:
        raise BadRecord(f"the listing of {listing.name} is malformed: {error.errors()[0]['msg']}") from error


class Market:
    """Offers by app, as people write it."""

    def __init__(self, registry: Registry, keep_s: Callable[[], float]) -> None:
        self._registry = registry
        self._keep_s = keep_s
        self._kept: dict[str, tuple[float, Offer]] = {}
        self._asking: dict[str, asyncio.Task[Offer]] = {}

    async def offer(self, app: str, *, fresh: bool = False) -> Offer:
        """The offer of `app`, at most `keep_s` seconds old; `fresh` asks anew. Raises AppUnknown."""
        kept = self._kept.get(app)
        if kept is not None and not fresh and time.monotonic() - kept[0] < self._keep_s():
            return kept[1]
        asking = self._asking.get(app)
        if asking is None:
            asking = asyncio.create_task(self._ask(app), name=f"offer-{app[:32]}")
            self._asking[app] = asking
            asking.add_done_callback(lambda task: self._answered(app, task))
        # Others may wait for the same answer: one that gives up must not take it from them.
        return await asyncio.shield(asking)

    def kept(self, app: str) -> Offer | None:
        """The newest offer that was asked for, however old."""
        kept = self._kept.get(app)
        return None if kept is None else kept[1]

    def _answered(self, app: str, asking: asyncio.Task[Offer]) -> None:
        self._asking.pop(app, None)
        if not asking.cancelled():
            asking.exception()  # seen by those who wait; nobody may be left

    async def _ask(self, app: str) -> Offer:
        answer = await self._registry.providers(app)
        offer = Offer(answer.listing, body_of(answer.listing), tuple(answer.providers))
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        # A task asks again by the app's id.
        self._kept[app] = self._kept[offer.listing.app] = (time.monotonic(), offer)
        return offer
