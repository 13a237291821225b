"""A small world for tests of taskd: several nodes whose taskd is real, whose escrowd and registryd are stand-ins.

The stand-ins keep the contract of `payment.*`, `peer.*`, `app.*` and nothing more; they count what a test wants to
prove (what was paid, held, given back) and can be told to misbehave. Money is a number, a peer call a function call.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dux_taskd.__main__ import TaskDaemon
from dux_taskd.runtimes.base import Progress, RunResult, Runtime
from dux_taskd.settings import BuyerSettings, ProviderSettings, TaskdSettings
from duxcommon.api.manifest import Files, Manifest
from duxcommon.api.registryd import (
    Listing,
    ListingBody,
)
from duxcommon.api.taskd import Payload, Task
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    AppUnknown,
    DuxError,
)
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from duxcommon.rpc import Caller, Client
from tests.taskd_stand_ins import NETWORK, PRICE, EscrowMethods, Intercept, LocalRpc, RegistryMethods

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
        return await self.rpc_in.call("task.run", Task, {"app": app, "key": key, "wait_s": 60.0, **params})

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


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
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
