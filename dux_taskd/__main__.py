"""Starts dux-taskd."""

import asyncio
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from duxcommon.api.common import Hash32, TaskId
from duxcommon.api.taskd import ProviderLimits, SandboxStatus
from duxcommon.blobs import BlobStore
from duxcommon.clock import CLOCK
from duxcommon.daemon import Daemon, run
from duxcommon.db import Store
from duxcommon.errors import DaemonDown, DuxError, WrongNetwork

from . import capacity
from .apps import Apps
from .buyer import Buyer
from .lending import LENDING_TABLE, Lending
from .links import Escrow, Registry
from .market import Market
from .methods import ProviderMethods, TaskMethods
from .provider import Provider
from .queue import TASKS_TABLE, Queue
from .runs import RUNS_TABLE, Ledger
from .runtimes.base import Runtime
from .runtimes.command import CommandRuntime
from .runtimes.http import HttpRuntime
from .seats import Seats
from .settings import TaskdSettings
from .tasks import Job

MIGRATIONS = (TASKS_TABLE + RUNS_TABLE + LENDING_TABLE,)

ARRIVE_S = 10.0
"""How long a call waits for registryd after a start."""
TELL_S = 10.0
"""registryd is told everything again when it was told nothing for so long: its database may be another one."""
FLUSH_S = 0.5
PRUNE_S = 600.0
DAY_S = 86_400


class TaskDaemon(Daemon):
    """Queue, choice of provider, orders and receipts: has tasks done elsewhere, and does those of others."""

    name = "taskd"
    settings_model = TaskdSettings
    settings: TaskdSettings

    async def start(self) -> None:
        """Open the database; what needs the other daemons waits for them in the background."""
        self.store = Store(self.settings.state_dir / "taskd.db", MIGRATIONS)
        self.queue = Queue(self.store, lambda: self.settings.buyer.queue)
        self.ledger = Ledger(self.store)
        self.lending = Lending(self.store, lambda: self.settings.provider)
        self.seats = Seats(self.lending.now)
        self.blobs = BlobStore(self.settings.blobs_dir)
        self.registry = Registry(self.rpc("registryd"))
        self.escrow = Escrow(self.rpc("escrowd"))
        self.runtimes = self.make_runtimes()
        self._up = asyncio.Event()
        self._down = "dux-registryd has not answered yet"
        self._told: tuple[dict[str, list[Hash32] | int | bool], float] = ({}, -math.inf)
        self.spawn(self._bring_up(), "bring-up")
        self.spawn(self.queue.run(), "queue")

    def make_runtimes(self) -> Mapping[str, Runtime]:
        """One runtime for each kind of app."""
        return {"command": CommandRuntime(self.rpc("sandbox")), "http": HttpRuntime(self.blobs)}

    async def stop(self) -> None:
        """End the work; all of it is taken up again after the next start."""
        if not hasattr(self, "runtimes"):
            return
        if self._up.is_set():
            await self._provider.close()
        for runtime in self.runtimes.values():
            await runtime.close()
        await self.queue.flush()
        await self.ledger.flush()
        await self.store.close()

    async def reload(self, settings: Any) -> None:
        """Limits, deadlines and served apps are looked up when they are needed."""
        self.seats.wake()

    def methods(self) -> Iterable[object]:
        """`task.*` and `provider.*`."""
        return (TaskMethods(self), ProviderMethods(self))

    def notes(self) -> list[str]:
        """What keeps tasks from being done."""
        return [] if self._up.is_set() else [self._down]

    # --- for the methods --------------------------------------------------------------------------------------

    async def buyer(self) -> Buyer:
        """Raises DaemonDown while registryd has not been there yet."""
        await self._arrived()
        return self._buyer

    async def provider(self) -> Provider:
        """Raises DaemonDown while registryd has not been there yet."""
        await self._arrived()
        return self._provider

    async def _arrived(self) -> None:
        try:
            async with asyncio.timeout(ARRIVE_S):
                await self._up.wait()
        except TimeoutError:
            raise DaemonDown(self._down) from None

    async def watch(self, task: TaskId, wait_s: float, progress: int | None) -> Job:
        """The task when it is over, when it differs from what the caller saw, or after `wait_s` seconds."""
        end = time.monotonic() + wait_s
        first = job = self.queue.shown(task)
        while not job.over and (left := end - time.monotonic()) > 0:
            moved = (job.state, job.step) != (first.state, first.step)
            if progress is not None and (moved or job.progress != progress):
                break
            await self.queue.changed(task, left)
            job = self.queue.shown(task)
        return job

    async def limits(self) -> ProviderLimits:
        """What is lent and taken, and what the sandbox says."""
        lent, use = self.lending.now(), self.seats.use
        try:
            status = await self.rpc("sandbox").call("sandbox.status", SandboxStatus, timeout=5.0)
            state, reason = status.state, status.reason
        except DuxError as error:
            state, reason = "missing", error.message
        return ProviderLimits(
            tasks=lent.tasks,
            queue=lent.queue,
            memory_mb=lent.memory_mb,
            paused=lent.paused,
            running=use.running,
            queued=use.queued,
            sandbox=state,
            reason=reason,
        )

    async def lend(self, **values: int | bool) -> ProviderLimits:
        """Change what is lent."""
        await self.lending.change(**values)
        self.seats.wake()
        await self._tell()
        return await self.limits()

    # --- background -------------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Wait for registryd, then start to buy and to sell."""
        while True:
            try:
                identity = await self.registry.identity()
                if identity.network != self.network.id:
                    raise WrongNetwork(f"dux-registryd is on network {identity.network_name}")
                self.apps = Apps(self.registry, self.blobs, identity.node, lambda: self.settings.provider.serve)
                await self.apps.refresh()
                break
            except DuxError as error:
                self._down = f"waiting for dux-registryd: {error.message}"
                self.log.info(self._down)
            await asyncio.sleep(0.5)
        market = Market(self.registry, lambda: self.settings.buyer.listing_s)
        self._buyer = Buyer(
            queue=self.queue,
            market=market,
            escrow=self.escrow,
            registry=self.registry,
            blobs=self.blobs,
            me=identity.node,
            network=self.network.id,
            settings=lambda: self.settings.buyer,
            failpoint=self.failpoint,
        )
        self._provider = Provider(
            ledger=self.ledger,
            apps=self.apps,
            seats=self.seats,
            escrow=self.escrow,
            registry=self.registry,
            blobs=self.blobs,
            runtimes=self.runtimes,
            me=identity.node,
            network=self.network.id,
            failpoint=self.failpoint,
        )
        self._provider.resume()
        self.spawn(self._buyer.run(), "buyer")
        self.spawn(self._look_after(), "listings")
        self.spawn(self._flush(), "flush")
        self.spawn(self._prune(), "prune")
        self._up.set()

    async def _look_after(self) -> None:
        while True:
            try:
                await self.apps.refresh()
                await self._tell()
            except DuxError as error:
                self.log.info("registryd could not be told", extra={"why": error.message})
            await asyncio.sleep(self.settings.provider.refresh_s)

    async def _tell(self) -> None:
        """Let registryd know what this node serves and how busy it is."""
        await self._arrived()
        lent, use = self.lending.now(), self.seats.use
        news: dict[str, list[Hash32] | int | bool] = {
            "apps": await self._able(),
            "load_pct": capacity.load_pct(lent, use),
            "accepting": capacity.accepting(lent, use),
        }
        known, when = self._told
        if time.monotonic() - when > TELL_S:
            changed = news
        else:
            changed = {name: value for name, value in news.items() if value != known[name]}
        if changed:
            await self.registry.update(**changed)
            self._told = (news, time.monotonic())

    async def _able(self) -> list[Hash32]:
        """The served apps that could be run now."""
        able = []
        for served in self.apps.all():
            try:
                await self.runtimes[served.manifest.runtime].ready(served.own)
            except DuxError as error:
                self.log.debug("an app can't be run now", extra={"app": served.app, "why": error.message})
            else:
                able.append(served.app)
        return able

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.ledger.flush()
            except DuxError as error:
                self.log.warning("the database can't be written", extra={"why": error.message})

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            if not CLOCK.believable():
                continue  # On a clock that has jumped ahead every task would seem old.
            before = int(time.time()) - self.settings.keep_days * DAY_S
            try:
                await self.queue.prune(before)
                await self.ledger.prune(before)
            except DuxError as error:
                self.log.warning("old tasks could not be forgotten", extra={"why": error.message})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped."""
    return run(TaskDaemon, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
