"""The node as a provider: accepts orders, runs them, and hands over result and receipt.

Nothing runs before escrowd has confirmed that the channel covers the order. An order counts once, however often it
is sent: it is known by its buyer and task id. After a restart accepted work is done again, or, where doing it twice
could do harm, given up without charge.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from duxcommon.api.common import Hash32, NodeId, SignedRecord, TaskId
from duxcommon.api.escrowd import PaymentState, SignedState
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import OrderAnswer, OrderBody, Payload
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    AppNotServed,
    Cancelled,
    Conflict,
    DaemonDown,
    DeadlinePassed,
    DiskFull,
    DuxError,
    InputMissing,
    Internal,
    OrderRefused,
    PriceChanged,
    ProviderRestarted,
    RateLimited,
    SandboxFault,
    StateStale,
    Stopping,
    TaskUnknown,
    TimedOut,
)
from duxcommon.money import format_flop
from duxcommon.params import check_params, decode_params

from . import orders, runs, verify
from .apps import Apps, Served
from .links import Escrow, Registry
from .runs import Key, Ledger, Run
from .runtimes.base import RunResult, Runtime
from .seats import Seat, Seats
from .tasks import LOG_MAX

log = logging.getLogger("taskd.provider")

UNSURE = (DaemonDown, TimedOut, Stopping, RateLimited, DiskFull)
"""Answers of this node's own daemons that leave open whether the call was carried out: it is repeated."""

LOG_CHUNK = 16_384
NEWS_S = 1.0
"""A waiting buyer hears of progress at most once in so many seconds."""
FETCH_S = 60.0
"""A buyer that sends nothing of its input for so long is given up."""
STALE_S = 0.5
"""An order that does not fit the listings makes them be looked at again, unless that was just done."""

FAILPOINTS = {
    "order-checked": "the order is good, nothing is committed",
    "run-stored": "the run is committed, escrowd may not have accepted the payment",
    "accepted": "run and payment are committed, nothing has run",
    "executed": "the result is in memory only",
    "run-finished": "result and receipt are committed, nobody has seen them",
    "told": "escrowd knows the end, taskd has not noted that",
}
"""Where crash tests kill the provider's taskd, and what is on disk there."""


class Provider:
    """Serves `task.order`, `task.poll` and `task.abort` to buyers."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        apps: Apps,
        seats: Seats,
        escrow: Escrow,
        registry: Registry,
        blobs: BlobStore,
        runtimes: Mapping[str, Runtime],
        me: NodeId,
        network: Hash32,
        failpoint: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._apps = apps
        self._seats = seats
        self._escrow = escrow
        self._registry = registry
        self._blobs = blobs
        self._runtimes = runtimes
        self._me = me
        self._network = network
        self._failpoint = failpoint
        self._work: dict[Key, asyncio.Task[RunResult]] = {}
        self._aborted: set[Key] = set()
        self._offered: set[Key] = set()
        self._background: set[asyncio.Task[None]] = set()

    # --- what buyers call -------------------------------------------------------------------------------------

    async def order(
        self, record: SignedRecord, data: str | None, state: SignedState | None, wait_s: float, buyer: NodeId
    ) -> OrderAnswer:
        """Accept an order, or find it among the accepted ones, and wait a while for its end.

        Raises the errors of `orders.check_order`, AppNotServed, PriceChanged, WrongParams, InputTooLarge, WrongMedia,
        SandboxMissing, SandboxDegraded, ProviderPaused, ProviderBusy, TaskTooLarge, Conflict, and escrowd's.
        """
        order, given = orders.check_order(
            record, data, network=self._network, me=self._me, buyer=buyer, now=int(time.time())
        )
        key, hashed = (buyer, order.task), orders.body_hash(record.body)
        if self._ledger.find(key) is None:
            served = await self._deal(order)
            check_params(served.manifest.params, decode_params(order.params))
            _check_input(served.manifest, order, given)
            try:
                await self._runtimes[served.manifest.runtime].ready(served.own)
            except DaemonDown as error:
                raise _without_paths(error) from error
        known = self._ledger.find(key)
        if known is None:
            self._failpoint("order-checked")
            seat = self._seats.take(_memory(served.manifest))
            known = Run(buyer, record, order, hashed, given, state, created=int(time.time()))
            self._ledger.reserve(known)
            accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            accepted.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._spawn(self._execute(known, served, seat, accepted), f"run-{order.task[:8]}")
            # A buyer that goes away must not take the run with it.
            await asyncio.shield(accepted)
        elif known.order_hash != hashed:
            raise Conflict("another order came under this task id before")
        return await self._answer(key, wait_s, 0)

    async def poll(self, task: TaskId, wait_s: float, log_offset: int, buyer: NodeId) -> OrderAnswer:
        """How an accepted order is going. Raises TaskUnknown."""
        return await self._answer((buyer, task), wait_s, log_offset)

    async def abort(self, task: TaskId, buyer: NodeId) -> OrderAnswer:
        """Stop working on an order; what is done already stays done. Raises TaskUnknown."""
        key = (buyer, task)
        run = self._ledger.find(key)
        if run is not None and not run.over:
            self._aborted.add(key)
            if key in self._work:
                self._work[key].cancel()
        return await self._answer(key, 5.0, 0)

    async def _deal(self, order: OrderBody) -> Served:
        """The app that is ordered, if bundle and price are still those that the order names."""
        for fresh in (False, True):
            if fresh and self._apps.age > STALE_S:
                await self._apps.refresh()
            try:
                served = self._apps.get(order.app)
            except AppNotServed:
                if fresh:
                    raise
                continue
            changed = orders.check_deal(order, served.manifest, served.bundle)
            if changed is None:
                return served
        price = served.manifest.price
        raise PriceChanged(
            f"{served.name} has changed its {changed}: it costs {format_flop(price)} FLOP, version "
            f"{served.manifest.version}",
            details={"price": price, "ordered": order.price, "bundle": served.bundle},
        )

    async def _answer(self, key: Key, wait_s: float, log_offset: int) -> OrderAnswer:
        begun = time.monotonic()
        first = None
        while True:
            run = self._ledger.find(key)
            if run is None:
                raise TaskUnknown(f"no order for task {key[1]} was accepted from you")
            first = first or run
            passed = time.monotonic() - begun
            news = len(run.log) > log_offset or run.progress != first.progress
            if run.over or passed >= wait_s or (news and passed >= NEWS_S):
                break
            await self._ledger.changed(key, min(wait_s - passed, NEWS_S if news else wait_s))
        if run.output is not None and run.output.data is None and key not in self._offered:
            await self._registry.offer(run.output.hash, run.buyer)
            self._offered.add(key)
        text = run.log[log_offset : log_offset + LOG_CHUNK]
        return OrderAnswer(
            task=run.order.task,
            state=run.state,
            progress=run.progress,
            log=text,
            log_offset=log_offset + len(text),
            receipt=run.receipt,
            output=run.output.data if run.output else None,
        )

    # --- one run ----------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _execute(self, run: Run, served: Served, seat: Seat, accepted: "asyncio.Future[None] | None") -> None:
        """From an order that was checked to its end. `accepted` is None for a run that a restart found."""
        try:
            try:
                await self._accept(run, store=accepted is not None)
            except DuxError as error:
                log.info("an order's payment was refused", extra={"task": run.order.task, "error": error.name})
                if accepted is None:
                    await self._end(run, _failure(error))
                    return
                await self._ledger.drop(run)
                if not accepted.done():
                    accepted.set_exception(error)
                return
            self._failpoint("accepted")
            if accepted is not None and not accepted.done():
                accepted.set_result(None)
            work = asyncio.create_task(self._run(run, served, seat), name=f"work-{run.order.task[:8]}")
            self._work[run.key] = work
            try:
                result = await work
            finally:
                del self._work[run.key]
            self._failpoint("executed")
            await self._end(self._ledger.find(run.key) or run, result)
        except Exception as error:
            log.exception("a run could not be brought to its end", extra={"task": run.order.task})
            if accepted is not None and not accepted.done():
                accepted.set_exception(error)
        finally:
            seat.leave()
            self._aborted.discard(run.key)
            if accepted is not None and not accepted.done():
                accepted.cancel()

    async def _accept(self, run: Run, *, store: bool) -> None:
        """Commit the run and have escrowd accept its payment, both at once."""
        if not store:
            await _patiently(lambda: self._accept_payment(run, ("ORDERED", "DONE", "RELEASED")))
            return
        storing = asyncio.create_task(self._store(run))
        try:
            # One that was done or paid before belongs to a run that was forgotten: it is not worked for twice.
            await _patiently(lambda: self._accept_payment(run, ("ORDERED",)))
        except BaseException:
            # Both may fail, on a full disk for instance; the buyer is told of the payment.
            await asyncio.gather(storing, return_exceptions=True)
            raise
        try:
            await storing
        except DuxError as error:
            # The payment would stay open, and block the channel, for a run that nobody knows of.
            why = f"{error.name}: {error.message}"
            await _patiently(lambda: self._escrow.fail(run.order.channel, run.order.task, why))
            raise

    async def _store(self, run: Run) -> None:
        await self._ledger.add(run)
        self._failpoint("run-stored")

    async def _accept_payment(self, run: Run, usable: tuple[PaymentState, ...]) -> None:
        order = run.order
        accept = partial(
            self._escrow.accept,
            buyer=run.buyer,
            channel=order.channel,
            price=order.price,
            task=order.task,
            order=run.order_hash,
            deadline=order.deadline,
        )
        try:
            payment = await accept(state=run.signed)
        except StateStale:
            # Of many orders at once, another one brought a newer state first; that one counts.
            payment = await accept(state=None)
        if payment.state not in usable:
            raise OrderRefused("this order was done or given up before", details={"payment": payment.state})

    async def _run(self, run: Run, served: Served, seat: Seat) -> RunResult:
        """Execute; whatever goes wrong is a result that is not charged."""
        key, order = run.key, run.order
        try:
            if key in self._aborted:
                raise Cancelled("the buyer cancelled the order")
            async with asyncio.timeout(max(order.deadline - time.time(), 0.0)):
                await seat.turn()
                self._ledger.note(runs.started(run))
                payload = await self._input(run, served.manifest)
                runtime = self._runtimes[served.manifest.runtime]
                return await runtime.run(
                    run.work_id,
                    served.manifest,
                    served.bundle,
                    payload,
                    decode_params(order.params),
                    progress=lambda percent, text: self._note(key, percent, text),
                )
        except asyncio.CancelledError:
            if key not in self._aborted:
                raise
            return _failure(Cancelled("the buyer cancelled the order"))
        except TimeoutError:
            return _failure(DeadlinePassed("the order's deadline passed before it was done"))
        except DaemonDown as error:
            log.warning("a run failed", extra={"task": order.task, "why": error.message})
            return _failure(_without_paths(error))
        except DuxError as error:
            return _failure(error)
        except Exception:
            log.exception("a run failed", extra={"task": order.task})
            return _failure(Internal("the provider has an internal error"))

    async def _input(self, run: Run, manifest: Manifest) -> Payload | None:
        order = run.order
        if order.input is None:
            return None
        if run.input is not None:
            media = verify.check_input(manifest.input, order.input_size, run.input)
            return Payload(hash=order.input, size=order.input_size, media=media, data=orders.encode(run.input))
        if not self._blobs.has(order.input):
            await self._fetch(run.buyer, order.input, order.input_size)
        size = await asyncio.to_thread(self._blobs.size, order.input)
        if size != order.input_size:
            raise OrderRefused(f"the input is {size} bytes, the order says {order.input_size}")
        head = await asyncio.to_thread(self._blobs.read, order.input, 0, verify.HEAD)
        return Payload(hash=order.input, size=size, media=verify.check_input(manifest.input, size, head))

    async def _fetch(self, buyer: NodeId, blob: Hash32, size: int) -> None:
        heard, done = time.monotonic(), -1
        while True:
            try:
                part = await self._registry.fetch(buyer, blob, size, wait_s=5.0)
            except DuxError as error:
                if not error.retry or time.monotonic() - heard > FETCH_S:
                    raise InputMissing(f"the buyer did not hand over its input: {error.message}") from error
                await asyncio.sleep(0.5)
                continue
            if part.complete:
                return
            if part.done > done:
                heard, done = time.monotonic(), part.done
            elif time.monotonic() - heard > FETCH_S:
                raise InputMissing("the buyer stopped sending its input")

    def _note(self, key: Key, progress: int, text: str) -> None:
        run = self._ledger.find(key)
        if run is not None and not run.over:
            room = max(LOG_MAX - len(run.log), 0)
            progress = max(run.progress, min(max(progress, 0), 99))
            self._ledger.note(replace(run, progress=progress, log=run.log + text[:room]))

    async def _end(self, run: Run, result: RunResult) -> None:
        """Commit the end, then let buyer and escrowd know."""
        if result.error is None:
            receipt = orders.build_receipt(run.order_hash, run.order.task, result.output, result.wall_ms, result.cpu_ms)
        else:
            receipt = orders.failure_receipt(
                run.order_hash, run.order.task, result.error, result.wall_ms, result.cpu_ms
            )
        ended = runs.ended(run, receipt, result.output, run.log or result.log, int(time.time()))
        await _patiently(lambda: self._ledger.finish(ended))
        self._failpoint("run-finished")
        log.info("run over", extra={"task": run.order.task, "ok": receipt.ok, "error": receipt.error})
        self._spawn(self._tell(ended), f"tell-{run.order.task[:8]}")

    async def _tell(self, run: Run) -> None:
        """escrowd learns how it ended; the buyer does not wait for that."""
        receipt, order = run.receipt, run.order
        assert receipt is not None
        hashed = orders.body_hash(receipt.model_dump())
        try:
            if receipt.ok:
                await _patiently(lambda: self._escrow.done(order.channel, order.task, hashed))
            else:
                why = f"{receipt.error}: {receipt.detail}"
                await _patiently(lambda: self._escrow.fail(order.channel, order.task, why))
        except DuxError as error:
            log.info("escrowd knows better", extra={"task": order.task, "error": error.name, "why": error.message})
        self._failpoint("told")
        self._ledger.told(run)

    # --- after a restart --------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take up what a restart left; the served apps must be known by now."""
        for run in self._ledger.load():
            if run.over:
                self._spawn(self._tell(run), f"tell-{run.order.task[:8]}")
            else:
                self._spawn(self._resume(run), f"resume-{run.order.task[:8]}")

    async def _resume(self, run: Run) -> None:
        try:
            served = self._apps.get(run.order.app)
            if orders.check_deal(run.order, served.manifest, served.bundle) is not None:
                raise ProviderRestarted("the app has changed since")
            if served.manifest.runtime == "http":
                # Whether the owner's API was called already is not known; calling it twice could do harm.
                raise ProviderRestarted("the provider restarted while it worked on the order")
            await self._runtimes[served.manifest.runtime].kill(run.work_id)
        except DuxError as error:
            await self._end(run, _failure(error))
            return
        await self._execute(run, served, self._seats.take(_memory(served.manifest), regardless=True), None)

    async def close(self) -> None:
        """Stop working; what is unfinished is taken up after the next start."""
        pending = list(self._background)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _without_paths(error: DaemonDown) -> DuxError:
    """What a buyer is told when a daemon here is away: where its socket lies is no business of another node's."""
    return SandboxFault("the provider's sandbox does not answer", details=error.details)


def _failure(reason: DuxError) -> RunResult:
    return RunResult(output=None, error=reason, wall_ms=0, cpu_ms=0, log="")


def _memory(manifest: Manifest) -> int:
    # An http app's work is done by a server of the owner's, whose memory is not lent through us.
    return manifest.resources.memory_mb if manifest.runtime == "command" else 0


def _check_input(manifest: Manifest, order: OrderBody, data: bytes | None) -> None:
    """What can be said of the input before it is here. Raises InputMissing, InputTooLarge, WrongMedia."""
    if order.input is None:
        verify.check_input(manifest.input, None, b"")
    elif data is not None:
        verify.check_input(manifest.input, len(data), data)
    else:
        verify.check_input_size(manifest.input, order.input_size)


async def _patiently(call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Repeat a call until it was answered for certain."""
    pause = 0.2
    while True:
        try:
            await call()
            return
        except UNSURE as error:
            log.info("will try again", extra={"error": error.name, "why": error.message})
        await asyncio.sleep(pause)
        pause = min(pause * 2, 30.0)
