"""The `app.*` methods."""

import asyncio
from typing import Annotated

from pydantic import Field

from duxcommon.api.common import AppRef, Hash32, IdempotencyKey, Koinu, NodeId
from duxcommon.api.registryd import (
    Listing,
    ListingPage,
    NodeInfo,
    Provider,
    Providers,
    PublishReply,
    ScanReport,
)
from duxcommon.errors import (
    AppAmbiguous,
    AppUnknown,
    BadBundle,
    BadCursor,
    BadManifest,
    BundleMissing,
    BundleTooLarge,
    ClockWrong,
    Conflict,
    NotPublisher,
    ScanRefused,
    StoreFull,
)
from duxcommon.network import NetworkDefinition
from duxcommon.rpc import method

from .listings import Entry, Listings
from .ports import Nodes
from .publishing import Publisher
from .search import Query, search

Tag = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
_UNREADABLE = (BundleMissing, BadBundle, BundleTooLarge, BadManifest)
_EXAMPLE_HASH = "ab" * 32


class AppMethods:
    """Publish, withdraw, search and look up apps."""

    def __init__(self, listings: Listings, publisher: Publisher, nodes: Nodes, network: NetworkDefinition) -> None:
        self._listings = listings
        self._publisher = publisher
        self._nodes = nodes
        self._network = network

    @method("app.scan", access="spend", errors=_UNREADABLE, example={"bundle": _EXAMPLE_HASH}, limit="10/s")
    async def scan(self, bundle: Hash32) -> ScanReport:
        """Check an uploaded bundle as `app.publish` would, without publishing it.

        Findings of severity `error` would stop it. The bundle must be in the node's blob store (`blob.write`).
        """
        report, _ = await self._publisher.scan(bundle)
        return report

    @method(
        "app.publish", access="spend", errors=(*_UNREADABLE, ScanRefused, StoreFull, Conflict, ClockWrong),
        example={"bundle": _EXAMPLE_HASH, "key": "publish-1"}, limit="10/s",
    )  # fmt: skip
    async def publish(self, bundle: Hash32, key: IdempotencyKey) -> PublishReply:
        """Publish an uploaded bundle as an app of this node, or as its next version.

        The bundle is scanned, the listing signed with the node's key, kept, and announced in the directory.
        Where the directory can't be reached `announced` is false, and the node goes on trying by itself.
        """
        return await self._publisher.publish(bundle, key)

    @method(
        "app.withdraw",
        access="spend",
        errors=(AppUnknown, AppAmbiguous, NotPublisher, ClockWrong),
        example={"app": "my-app"},
    )
    async def withdraw(self, app: AppRef) -> PublishReply:
        """Take an app of this node off the market. Calls that were ordered before are still served."""
        return await self._publisher.withdraw(await asyncio.to_thread(self._listings.resolve, app))

    @method("app.search", access="read", errors=(BadCursor,), example={"words": "image", "tags": ["photo"]})
    async def search(
        self,
        words: Annotated[str, Field(max_length=200)] = "",
        tags: Annotated[list[Tag], Field(max_length=16)] = [],  # noqa: B006  (copied by the declaration)
        *,
        max_price: Koinu | None = None,
        publisher: NodeId | None = None,
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
        after: Annotated[str, Field(max_length=64)] | None = None,
    ) -> ListingPage:
        """Search the apps of the network by words, tags, highest price (koinu) and publisher.

        Apps that a live node serves come first, then the better match, then the name. Without any condition all
        apps are listed. `after` is the `next` of the page before.
        """
        live = self._nodes.live_apps()
        query = Query(words, tags, max_price, publisher)
        entries, following = await asyncio.to_thread(search, self._listings.store, query, live, limit, after)
        listings = [listing_of(entry, live.get(entry.body.app, 0)) for entry in entries]
        return ListingPage(
            listings=listings, next=following, network=self._network.name, worthless=self._network.worthless
        )

    @method("app.show", access="read", errors=(AppUnknown, AppAmbiguous), example={"app": "image-upscale"})
    async def show(self, app: AppRef) -> Listing:
        """Show an app's listing: `name`, `name@publisher-prefix`, or the 64-digit app id."""
        entry = await asyncio.to_thread(self._listings.resolve, app)
        return listing_of(entry, self._nodes.live_apps().get(entry.body.app, 0))

    @method("app.providers", access="read", errors=(AppUnknown, AppAmbiguous), example={"app": "image-upscale"})
    async def providers(self, app: AppRef) -> Providers:
        """List the nodes that serve an app, live ones first, with price (koinu), load and latency."""
        entry = await asyncio.to_thread(self._listings.resolve, app)
        nodes = sorted(self._nodes.serving(entry.body.app), key=_readiness)
        providers = [
            Provider(
                node=info.node,
                name=info.record.name,
                price=entry.body.manifest.price,
                load_pct=info.record.load_pct,
                latency_ms=info.latency_ms,
                live=info.live,
                accepting=info.record.accepting,
            )
            for info in nodes
        ]
        ready = sum(provider.live and provider.accepting for provider in providers)
        return Providers(listing=listing_of(entry, ready), providers=providers)


def _readiness(info: NodeInfo) -> tuple[bool, bool, int, float, str]:
    latency = float("inf") if info.latency_ms is None else info.latency_ms
    return not info.live, not info.record.accepting, info.record.load_pct, latency, info.node


def listing_of(entry: Entry, live_providers: int) -> Listing:
    """The reply's form of an entry."""
    manifest = entry.body.manifest
    return Listing(
        app=entry.body.app,
        name=manifest.name,
        publisher=entry.record.node,
        version=manifest.version,
        summary=manifest.summary,
        tags=manifest.tags,
        price=manifest.price,
        runtime=manifest.runtime,
        deterministic=manifest.deterministic,
        seq=entry.record.seq,
        live_providers=live_providers,
        record=entry.record,
    )
