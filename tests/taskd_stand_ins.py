"""Stand-ins of escrowd and registryd for tests of taskd, and calls that don't leave the process."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from duxcommon.api.common import Hash32, IdempotencyKey, Koinu, NodeId, Ok, PaymentId, TaskId
from duxcommon.api.escrowd import Hold, Payment, Role, SignedState
from duxcommon.api.registryd import (
    Hardware,
    Listing,
    ListingPage,
    NodeInfo,
    NodeRecord,
    PeerReply,
    Provider,
    Providers,
    Transfer,
)
from duxcommon.api.registryd import Identity as NodeIdentity
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    BadTransition,
    Conflict,
    DaemonDown,
    DuxError,
    InsufficientFunds,
    NotCovered,
    NotOffered,
    PaymentUnknown,
    PeerUnreachable,
    from_rpc,
)
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from duxcommon.rpc import Caller, method
from duxcommon.rpc.declare import Bound, collect
from tests.support.network import definition

if TYPE_CHECKING:
    from tests.taskd_kit import World

M = TypeVar("M", bound=BaseModel)

NETWORK = definition()
PRICE = 1_000_000_000


# --- calls ---------------------------------------------------------------------------------------------------------


class LocalRpc:
    """Calls declared methods as a socket would: parameters and replies go through their schemas."""

    def __init__(self, objects: Iterable[object], caller: Caller) -> None:
        self._bound: dict[str, Bound] = collect(objects)
        self._caller = caller
        self.down = False

    async def call_raw(
        self, name: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0, peer: str | None = None
    ) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.down:
            raise DaemonDown("the stand-in is switched off")
        bound = self._bound[name]
        arguments = bound.spec.parse(params or {})
        if bound.spec.wants_caller:
            arguments["caller"] = Caller(uid=0, gids=frozenset(), peer=peer) if peer else self._caller
        reply = await bound.call(**arguments)
        assert isinstance(reply, bound.spec.reply)
        await asyncio.sleep(0)
        return reply.model_dump(mode="json")

    async def call(
        self, method: str, reply: type[M], params: dict[str, Any] | None = None, *, timeout: float = 60.0
    ) -> M:
        return reply.model_validate(await self.call_raw(method, params, timeout=timeout))

    async def close(self) -> None:
        self.down = True


# --- escrowd -------------------------------------------------------------------------------------------------------


class EscrowMethods:
    """Money as numbers. What the buyer releases is the provider's; the sum never changes."""

    def __init__(self, node: NodeId, world: "World") -> None:
        self.node = node
        self.world = world
        self.balance = 100 * PRICE
        self.payments: dict[str, Payment] = {}
        self.keys: dict[str, tuple[dict[str, Any], str]] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, list[DuxError]] = {}
        """Method → errors to raise, one for each of the next calls."""

    def _begin(self, name: str) -> None:
        self.calls.append(name)
        if self.refuse.get(name):
            raise self.refuse[name].pop(0)

    def _once(self, key: str, params: dict[str, Any], make: Callable[[], Payment]) -> Payment:
        if key in self.keys:
            if self.keys[key][0] != params:
                raise Conflict("the key was used with other parameters")
            return self.payments[self.keys[key][1]]
        payment = make()
        self.keys[key] = (params, payment.id)
        self.payments[payment.id] = payment
        return payment

    def _of(self, role: str, task: str) -> Payment:
        for payment in self.payments.values():
            if (payment.role, payment.task) == (role, task):
                return payment
        raise PaymentUnknown("there is no such payment")

    def _move(self, payment: Payment, allowed: tuple[str, ...], **changes: Any) -> Payment:
        if payment.state not in allowed:
            raise BadTransition(f"the payment is {payment.state}")
        moved = payment.model_copy(update=changes)
        self.payments[payment.id] = moved
        return moved

    @method("payment.hold", access="spend")
    async def hold(
        self,
        provider: NodeId,
        amount: Koinu,
        key: IdempotencyKey,
        task: TaskId | None = None,
        wait_s: float = 120.0,
    ) -> Hold:
        """Reserve."""
        self._begin("hold")

        def make() -> Payment:
            if amount > self.balance:
                raise InsufficientFunds(f"have {self.balance}, need {amount}")
            self.balance -= amount
            return _payment("buyer", provider, amount, task, len(self.payments) + 1)

        payment = self._once(key, {"provider": provider, "amount": amount, "task": task}, make)
        return Hold(payment=payment, state=None)

    @method("payment.release", access="spend")
    async def release(self, id: PaymentId, key: IdempotencyKey, receipt: Hash32 | None = None) -> Payment:
        """Pay."""
        self._begin("release")
        payment = self.payments[id]
        if payment.state == "RELEASED":
            return payment
        moved = self._move(payment, ("HELD", "ORDERED"), state="RELEASED", receipt_hash=receipt)
        self.world.paid.append((self.node, payment.peer, payment.task or "", payment.amount))
        return moved

    @method("payment.refund", access="spend")
    async def refund(self, id: PaymentId, reason: str, key: IdempotencyKey) -> Payment:
        """Give back."""
        self._begin("refund")
        payment = self.payments[id]
        if payment.state == "REFUNDED":
            return payment
        moved = self._move(payment, ("HELD", "ORDERED"), state="REFUNDED", reason=reason)
        self.balance += payment.amount
        return moved

    @method("payment.show", access="read")
    async def show(self, id: PaymentId) -> Payment:
        """One payment."""
        return self.payments[id]

    @method("payment.accept", access="daemon")
    async def accept(
        self,
        *,
        buyer: NodeId,
        channel: Hash32,
        price: Koinu,
        task: TaskId,
        order: Hash32,
        state: SignedState | None = None,
        deadline: int | None = None,
    ) -> Payment:
        """Accept an order's payment."""
        self._begin("accept")
        held = self.world.escrows[buyer].payments.values()
        if not any((p.task, p.amount, p.peer, p.state) == (task, price, self.node, "ORDERED") for p in held):
            raise NotCovered("the channel does not cover that")

        def make() -> Payment:
            return _payment("provider", buyer, price, task, len(self.payments) + 1).model_copy(
                update={"order_hash": order}
            )

        return self._once(f"accept/{channel}/{task}", {"price": price, "order": order}, make)

    @method("payment.done", access="daemon")
    async def done(self, channel: Hash32, task: TaskId, receipt: Hash32) -> Payment:
        """The work was delivered."""
        self._begin("done")
        payment = self._of("provider", task)
        return (
            payment
            if payment.state == "DONE"
            else self._move(payment, ("ORDERED",), state="DONE", receipt_hash=receipt)
        )

    @method("payment.fail", access="daemon")
    async def fail(self, channel: Hash32, task: TaskId, reason: str) -> Payment:
        """Nothing is charged."""
        self._begin("fail")
        payment = self._of("provider", task)
        return (
            payment
            if payment.state == "REFUNDED"
            else self._move(payment, ("ORDERED",), state="REFUNDED", reason=reason)
        )

    def held(self) -> int:
        """Koinu that are neither paid nor given back."""
        open_states = ("HELD", "ORDERED", "DONE")
        return sum(p.amount for p in self.payments.values() if p.role == "buyer" and p.state in open_states)


def _payment(role: Role, peer: str, amount: int, task: str | None, number: int) -> Payment:
    channel = hashlib.sha256(b"channel").hexdigest()
    identity = hashlib.sha256(f"{role}{peer}{task}{number}".encode()).hexdigest()[:32]
    return Payment(
        id=identity, role=role, channel=channel, peer=peer, amount=amount, state="ORDERED", task=task, reason="",
        created=0, order_hash=None, receipt_hash=None,
    )  # fmt: skip


# --- registryd -----------------------------------------------------------------------------------------------------

Intercept = Callable[[str, str, dict[str, Any], Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""(provider, method, params, go on) → result: stands between buyer and provider."""


class RegistryMethods:
    """Directory, key and door of one node."""

    def __init__(self, identity: Identity, world: "World", blobs: BlobStore) -> None:
        self.identity = identity
        self.world = world
        self.blobs = blobs
        self.served: list[str] = []
        self.load_pct = 0
        self.accepting = False
        self.told = False
        self.offers: set[tuple[str, str]] = set()
        self.seq = 0
        self.calls: list[str] = []

    @method("node.self", access="read")
    async def me(self) -> NodeIdentity:
        """This node."""
        return NodeIdentity(
            node=self.identity.node_id, network=NETWORK.id, network_name="testnet", addresses=[], worthless=True
        )

    @method("node.update", access="daemon")
    async def update(
        self, apps: list[Hash32] | None = None, load_pct: int | None = None, accepting: bool | None = None
    ) -> NodeInfo:
        """Load and apps."""
        self.served = self.served if apps is None else apps
        self.load_pct = self.load_pct if load_pct is None else load_pct
        self.accepting = self.accepting if accepting is None else accepting
        self.told = True
        record = NodeRecord(
            name="n", addresses=[], hardware=Hardware(cpu_cores=1, memory_mb=1, storage_mb=1, arch="x"), version="1"
        )
        return NodeInfo(node=self.identity.node_id, seq=1, seen=0, live=True, latency_ms=None, record=record)

    @method("app.search", access="read")
    async def search(self, publisher: NodeId, limit: int = 50, after: str | None = None) -> ListingPage:
        """One publisher's."""
        found = [listing for listing in self.world.listings.values() if listing.publisher == publisher]
        return ListingPage(listings=found, next=None, network="testnet", worthless=True)

    @method("app.show", access="read")
    async def show(self, app: str) -> Listing:
        """A listing."""
        return self.world.listing(app)

    @method("app.providers", access="read")
    async def providers(self, app: str) -> Providers:
        """A listing and who serves it."""
        self.calls.append("app.providers")
        listing = self.world.listing(app)
        nodes = [
            Provider(
                node=node,
                name="n",
                price=listing.price,
                load_pct=registry.load_pct,
                latency_ms=self.world.latency.get(node),
                live=node not in self.world.unreachable,
                accepting=registry.accepting,
            )
            for node, registry in self.world.registries.items()
            if listing.app in registry.served
        ]
        return Providers(listing=listing, providers=nodes)

    @method("peer.call", access="daemon")
    async def call(
        self, node: NodeId, method: str, params: dict[str, Any], timeout_s: float = 30.0, sign: str | None = None
    ) -> PeerReply:
        """Call a peer."""
        self.calls.append(method)
        if sign is not None:
            self.seq += 1
            record = sign_record(self.identity, sign, NETWORK.id, self.seq, params[sign])
            params = {**params, sign: record.model_dump()}

        async def go_on() -> Any:
            if node in self.world.unreachable:
                raise PeerUnreachable(f"node {node[:8]} can't be reached")
            return await self.world.registries[node].serve(method, params, self.identity.node_id)

        try:
            async with asyncio.timeout(timeout_s):
                return PeerReply(result=await self.world.intercept(node, method, params, go_on))
        except TimeoutError:
            raise PeerUnreachable("no answer") from None

    async def serve(self, name: str, params: dict[str, Any], buyer: str) -> Any:
        """A call that came from outside."""
        try:
            result = await self.world.nodes[self.identity.node_id].rpc_in.call_raw(name, params, peer=buyer)
        except DuxError as error:
            # What crosses the network is the error's JSON.
            raise from_rpc(error.to_rpc()) from None
        if result.get("receipt") is not None:
            self.seq += 1
            signed = sign_record(self.identity, "receipt", NETWORK.id, self.seq, result["receipt"])
            result = {**result, "receipt": signed.model_dump()}
        return result

    @method("peer.offer", access="daemon")
    async def offer(self, hash: Hash32, node: NodeId, ttl_s: int) -> Ok:
        """Let a peer fetch a blob."""
        self.offers.add((hash, node))
        return Ok()

    @method("peer.fetch", access="daemon")
    async def fetch(self, node: NodeId, hash: Hash32, size: int, wait_s: float = 0.0) -> Transfer:
        """Fetch a blob."""
        other = self.world.registries[node]
        if (hash, self.identity.node_id) not in other.offers:
            raise NotOffered("that blob was not offered to you")
        data = other.blobs.get(hash)
        self.blobs.put(data)
        return Transfer(hash=hash, size=size, done=len(data), complete=True)
