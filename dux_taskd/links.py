"""What taskd asks of this node's other daemons: money of escrowd, the network of registryd."""

from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from duxcommon.api.common import ChannelId, Hash32, Koinu, NodeId, Ok, PaymentId, TaskId, UnixTime
from duxcommon.api.escrowd import Hold, Payment, SignedState
from duxcommon.api.registryd import Identity, Listing, ListingPage, NodeInfo, PeerReply, Providers, Transfer

M = TypeVar("M", bound=BaseModel)

ANSWER_S = 10.0
"""What the way to another node and back may take beyond the time its answer was asked to wait."""

OFFER_S = 3600
"""How long a peer may fetch a blob that was offered to it."""


class Rpc(Protocol):
    """The client to one daemon."""

    async def call(
        self, method: str, reply: type[M], params: dict[str, Any] | None = None, *, timeout: float = 60.0
    ) -> M:
        """Raises the DuxError that was answered, DaemonDown or TimedOut."""
        ...


class Escrow:
    """The `payment.*` methods of dux-escrowd. Every call may be repeated with the same key."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def hold(self, provider: NodeId, amount: Koinu, task: TaskId, key: str, wait_s: int) -> Hold:
        """Reserve `amount` koinu for one attempt of a task."""
        params = {"provider": provider, "amount": amount, "key": key, "task": task, "wait_s": float(wait_s)}
        return await self._rpc.call("payment.hold", Hold, params, timeout=wait_s + 90.0)

    async def release(self, payment: PaymentId, receipt: Hash32, key: str) -> Payment:
        """Sign it away to the provider."""
        return await self._rpc.call("payment.release", Payment, {"id": payment, "receipt": receipt, "key": key})

    async def refund(self, payment: PaymentId, reason: str, key: str) -> Payment:
        """Give it back to the buyer."""
        return await self._rpc.call("payment.refund", Payment, {"id": payment, "reason": reason[:200], "key": key})

    async def show(self, payment: PaymentId) -> Payment:
        """One payment of this node."""
        return await self._rpc.call("payment.show", Payment, {"id": payment})

    async def accept(
        self,
        *,
        buyer: NodeId,
        channel: ChannelId,
        price: Koinu,
        task: TaskId,
        order: Hash32,
        state: SignedState | None,
        deadline: UnixTime,
    ) -> Payment:
        """As the provider: check that the channel covers the order, and store the signed state that came along."""
        params: dict[str, Any] = {"buyer": buyer, "channel": channel, "price": price, "task": task, "order": order}
        params["deadline"] = deadline
        params["state"] = state.model_dump(mode="json") if state else None
        return await self._rpc.call("payment.accept", Payment, params)

    async def done(self, channel: ChannelId, task: TaskId, receipt: Hash32) -> Payment:
        """As the provider: the work was delivered and is to be paid."""
        return await self._rpc.call("payment.done", Payment, {"channel": channel, "task": task, "receipt": receipt})

    async def fail(self, channel: ChannelId, task: TaskId, reason: str) -> Payment:
        """As the provider: the work was not done, nothing is charged."""
        return await self._rpc.call("payment.fail", Payment, {"channel": channel, "task": task, "reason": reason[:200]})


class Registry:
    """The node's door and directory: dux-registryd."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def identity(self) -> Identity:
        """This node."""
        return await self._rpc.call("node.self", Identity)

    async def providers(self, app: str) -> Providers:
        """An app's listing and the nodes that offer it. Raises AppUnknown."""
        return await self._rpc.call("app.providers", Providers, {"app": app})

    async def listing(self, app: str) -> Listing:
        """An app's listing. Raises AppUnknown."""
        return await self._rpc.call("app.show", Listing, {"app": app})

    async def listings_of(self, publisher: NodeId) -> list[Listing]:
        """The listings that a node has published and not withdrawn."""
        found: list[Listing] = []
        after: str | None = None
        while True:
            params = {"publisher": publisher, "limit": 100, "after": after}
            page = await self._rpc.call("app.search", ListingPage, params)
            found += page.listings
            after = page.next
            if after is None:
                return found

    async def update(self, **changed: list[Hash32] | int | bool) -> None:
        """Tell which `apps` this node serves, its `load_pct`, and whether it is `accepting`.

        Apps and readiness are announced at once, so they are given only when they have changed; load alone waits
        for the next heartbeat.
        """
        await self._rpc.call("node.update", NodeInfo, dict(changed))

    async def ask(
        self, node: NodeId, method: str, params: dict[str, Any], *, wait_s: float, sign: str | None = None
    ) -> Any:
        """Call a method of another node; its answer, unchecked.

        With `sign`, the body in params[sign] goes out as a record of that kind, signed by this node.
        """
        limit = wait_s + ANSWER_S
        outer = {"node": node, "method": method, "params": params, "timeout_s": limit}
        if sign is not None:
            outer["sign"] = sign
        return (await self._rpc.call("peer.call", PeerReply, outer, timeout=limit + ANSWER_S)).result

    async def offer(self, blob: Hash32, node: NodeId) -> None:
        """Let a peer fetch a blob of the shared store."""
        await self._rpc.call("peer.offer", Ok, {"hash": blob, "node": node, "ttl_s": OFFER_S})

    async def fetch(self, node: NodeId, blob: Hash32, size: int, wait_s: float) -> Transfer:
        """Start, or join, a download into the shared blob store, and wait for it a while."""
        params = {"node": node, "hash": blob, "size": size, "wait_s": wait_s}
        return await self._rpc.call("peer.fetch", Transfer, params, timeout=wait_s + 30.0)
