"""A small world for tests of taskd: several nodes whose taskd is real, whose escrowd and registryd are stand-ins.

The stand-ins keep the contract of `payment.*`, `peer.*`, `app.*` and nothing more; they count what a test wants to
prove (what was paid, held, given back) and can be told to misbehave. Money is a number, a peer call a function call.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from dux_taskd.__main__ import TaskDaemon
from dux_taskd.runtimes.base import Progress, RunResult, Runtime
from dux_taskd.settings import BuyerSettings, ProviderSettings, TaskdSettings
from duxcommon.api.common import Hash32, IdempotencyKey, Koinu, NodeId, Ok, PaymentId, TaskId
from duxcommon.api.escrowd import Hold, Payment, Role, SignedState
from duxcommon.api.manifest import Files, Manifest
from duxcommon.api.registryd import (
    Hardware,
    Listing,
    ListingBody,
    ListingPage,
    NodeInfo,
    NodeRecord,
    PeerReply,
    Provider,
    Providers,
    Transfer,
)
from duxcommon.api.registryd import Identity as NodeIdentity
from duxcommon.api.taskd import Payload, Task
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    AppUnknown,
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
from duxcommon.rpc import Caller, Client, method
from duxcommon.rpc.declare import Bound, collect
from tests.support.network import definition

M = TypeVar("M", bound=BaseModel)

NETWORK = definition()
PRICE = 1_000_000_000
USER = Caller(uid=1000, gids=frozenset())


def payload(data: bytes) -> Payload:
    """An inline input."""
    return Payload(hash=hashlib.sha256(data).hexdigest(), size=len(data), data=base64.b64encode(data).decode())


def manifest(**changes: Any) -> Manifest:
    """An app that takes and returns any file."""
    fields: dict[str, Any] = {
        "name": "echo",
        "version": "1",
        "summary": "gives back what it gets",
        "price": PRICE,
        "runtime": "command",
        "command": ["cat"],
        "input": Files(required=False),
        "params": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"n": {"type": "integer", "maximum": 9}},
        },
    }
    return Manifest(**fields | changes)


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
    async def update(self, apps: list[Hash32], load_pct: int, accepting: bool) -> NodeInfo:
        """Load and apps."""
        self.served, self.load_pct, self.accepting, self.told = apps, load_pct, accepting, True
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


# --- runtime -------------------------------------------------------------------------------------------------------

Work = Callable[[Payload | None, dict[str, Any], Progress | None], Awaitable[RunResult]]


async def echo(given: Payload | None, params: dict[str, Any], progress: Progress | None) -> RunResult:
    """Give back the input."""
    return RunResult(output=given or payload(b"nothing"), error=None, wall_ms=3, cpu_ms=2, log="done\n")


class StubRuntime:
    """Runs a coroutine in place of an app."""

    def __init__(self) -> None:
        self.work: Work = echo
        self.runs: list[str] = []
        self.killed: list[str] = []
        self.note: Path | None = None
        """A file that gets a line for each run."""
        self.refuses: DuxError | None = None

    async def ready(self, own: bool) -> None:
        if self.refuses is not None:
            raise self.refuses

    async def run(
        self,
        task_id: str,
        manifest: Manifest,
        bundle: str | None,
        input: Payload | None,
        params: dict[str, Any],
        *,
        progress: Progress | None = None,
    ) -> RunResult:
        self.runs.append(task_id)
        if self.note is not None:
            with self.note.open("a") as note:
                note.write(f"{task_id}\n")
        return await self.work(input, params, progress)

    async def kill(self, task_id: str) -> None:
        self.killed.append(task_id)

    async def close(self) -> None:
        pass


# --- nodes ---------------------------------------------------------------------------------------------------------


class LabDaemon(TaskDaemon):
    """taskd with calls that don't leave the process, and an app that is a coroutine."""

    def __init__(self, settings: TaskdSettings, clients: Mapping[str, LocalRpc], runtime: StubRuntime) -> None:
        super().__init__(settings, NETWORK, Path("/nowhere"))
        self._lab_clients = clients
        self._lab_runtime = runtime

    def rpc(self, daemon: str) -> Any:
        return self._lab_clients[daemon]

    def make_runtimes(self) -> Mapping[str, Runtime]:
        return {"command": self._lab_runtime, "http": self._lab_runtime}


@dataclass
class Node:
    """One node of the world; `restart` starts its taskd anew on the same database."""

    identity: Identity
    settings: TaskdSettings
    world: "World"
    runtime: StubRuntime = field(default_factory=StubRuntime)
    rpc_in: "LocalRpc | Client" = field(init=False)
    """To the node's taskd."""

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.settings.blobs_dir)
        self.escrow = self.world.escrows[self.id] = EscrowMethods(self.id, self.world)
        self.registry = self.world.registries[self.id] = RegistryMethods(self.identity, self.world, self.blobs)
        self.world.nodes[self.id] = self

    @property
    def id(self) -> str:
        return self.identity.node_id

    async def start(self) -> None:
        clients = {
            "escrowd": LocalRpc([self.escrow], USER),
            "registryd": LocalRpc([self.registry], USER),
            "sandbox": LocalRpc([], USER),
        }
        clients["sandbox"].down = True
        self.clients = clients
        self.registry.told = False
        self.daemon = LabDaemon(self.settings, clients, self.runtime)
        await self.daemon.start()
        self.rpc_in = LocalRpc(self.daemon.methods(), USER)
        await self.daemon.provider()
        await until(lambda: self.registry.told)

    async def stop(self) -> None:
        await self.rpc_in.close()
        await self.daemon._end_tasks()
        await self.daemon.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def run(self, app: str = "echo", key: str = "k1", **params: Any) -> Task:
        """task.run, waiting for the end."""
        if isinstance(params.get("input"), Payload):
            params["input"] = params["input"].model_dump()
        return await self.rpc_in.call("task.run", Task, {"app": app, "key": key, "wait_s": 20.0, **params})

    async def status(self, task: str, wait_s: float = 0.0, **params: Any) -> Task:
        return await self.rpc_in.call("task.status", Task, {"id": task, "wait_s": wait_s, **params})


class World:
    """All nodes, listings and payments."""

    bob: Node
    """Buys."""
    alices: list[Node]
    """Sell."""

    def __init__(self, folder: Path, kind: "type[Node] | None" = None) -> None:
        self.folder = folder
        self.kind = kind or Node
        self.nodes: dict[str, Node] = {}
        self.escrows: dict[str, EscrowMethods] = {}
        self.registries: dict[str, RegistryMethods] = {}
        self.listings: dict[str, Listing] = {}
        self.latency: dict[str, float] = {}
        self.unreachable: set[str] = set()
        self.paid: list[tuple[str, str, str, int]] = []
        """(buyer, provider, task, koinu) of every release that took effect."""
        self.intercept: Intercept = _go_on

    def add(self, name: str, *, buyer: dict[str, Any] | None = None, provider: dict[str, Any] | None = None) -> Node:
        """A node that is not started yet."""
        folder = self.folder / name
        folder.mkdir()
        settings = TaskdSettings(
            run_dir=folder,
            state_dir=folder,
            log_dir=None,
            blobs_dir=folder / "blobs",
            buyer=BuyerSettings(**{"silence_s": 1, "poll_s": 5, "hold_s": 1, "listing_s": 0, **(buyer or {})}),
            provider=ProviderSettings(**{"refresh_s": 1, **(provider or {})}),
        )
        return self.kind(Identity(hashlib.sha256(name.encode()).digest()), settings, self)

    def publish(self, node: Node, app: Manifest, bundle: bytes = b"a bundle") -> Listing:
        """List an app of a node, or its next version, and put its bundle into everybody's blob store."""
        digests = {other.blobs.put(bundle) for other in self.nodes.values()}
        identity = hashlib.sha256(f"{node.id}/{app.name}".encode()).hexdigest()
        body = ListingBody(app=identity, manifest=app, bundle=digests.pop(), bundle_size=len(bundle))
        record = sign_record(node.identity, "listing", NETWORK.id, len(self.listings) + 1, body.model_dump())
        listing = Listing(
            app=identity, name=app.name, publisher=node.id, version=app.version, summary=app.summary, tags=[],
            price=app.price, runtime=app.runtime, deterministic=False, seq=1, live_providers=1, record=record,
        )  # fmt: skip
        self.listings[identity] = listing
        return listing

    def listing(self, app: str) -> Listing:
        for listing in self.listings.values():
            if app in (listing.app, listing.name):
                return listing
        raise AppUnknown(f"there is no app {app}")

    def paid_for(self, task: str) -> int:
        """Koinu that were paid for a task, and proof that it was at most once."""
        amounts = [amount for _, _, paid, amount in self.paid if paid == task]
        assert len(amounts) <= 1, f"task {task} was paid {len(amounts)} times"
        return sum(amounts)

    def assert_balanced(self, buyer: Node) -> None:
        """Every koinu of the buyer is in its balance, held, or paid."""
        paid = sum(amount for who, _, _, amount in self.paid if who == buyer.id)
        assert buyer.escrow.balance + buyer.escrow.held() + paid == 100 * PRICE


async def _go_on(node: str, method: str, params: dict[str, Any], go_on: Callable[[], Awaitable[Any]]) -> Any:
    return await go_on()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def world(
    folder: Path, *, providers: int = 1, app: Manifest | None = None, provider: dict[str, Any] | None = None,
    buyer: dict[str, Any] | None = None,
) -> AsyncIterator[World]:  # fmt: skip
    """A buyer `bob` and providers `alice0`, `alice1`… who all serve alice0's app `echo`."""
    made = World(folder)
    nodes = [made.add("bob", buyer=buyer, provider={"tasks": 0})]
    nodes += [made.add(f"alice{number}", provider=provider) for number in range(providers)]
    listing = made.publish(nodes[1], app or manifest())
    for other in nodes[2:]:
        other.settings = other.settings.model_copy(
            update={"provider": other.settings.provider.model_copy(update={"serve": [listing.app]})}
        )
    made.bob, made.alices = nodes[0], nodes[1:]
    try:
        for node in nodes:
            await node.start()
        yield made
    finally:
        for node in nodes:
            if hasattr(node, "daemon"):
                await node.stop()
