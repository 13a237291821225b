"""Drives the node's own tasks from the queue to the end: hold, order, check, pay, or give back and try another.

Every step may be repeated after a crash. What must not be decided anew is committed first: the task with its first
provider, each further provider, the result before it is paid, and a failure before it is shown.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from duxcommon.api.common import Hash32, NodeId, TaskId
from duxcommon.api.escrowd import Hold
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    BY_NAME,
    BadTransition,
    Cancelled,
    ChannelClosed,
    ChannelUnknown,
    Conflict,
    DaemonDown,
    DeadlinePassed,
    DiskFull,
    DuxError,
    NoProvider,
    PaymentUnknown,
    PriceChanged,
    RateLimited,
    RemoteError,
    Stopping,
    TaskOver,
    TimedOut,
    TooExpensive,
)

from . import intake, orders, tasks
from .attempt import SILENCE, Dealer
from .links import Escrow, Registry
from .market import Market, Offer
from .queue import Queue
from .settings import BuyerSettings

T = TypeVar("T")
log = logging.getLogger("taskd.buyer")

UNSURE = (DaemonDown, TimedOut, Stopping, RateLimited, DiskFull)
"""Answers of this node's own daemons that leave open whether the call was carried out: it is repeated."""

UNPAYABLE = (BadTransition, ChannelClosed, ChannelUnknown, PaymentUnknown)
"""Why a result can never be paid: the payment was given back, or its channel is at its end."""

CANCELLED = Cancelled("cancelled by the user")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
SWEEP_S = 1.0

FAILPOINTS = {
    "task-stored": "the task is committed, no money is held",
    "held": "escrowd holds the money, taskd has not noted it",
    "before-order": "the order is about to be sent",
    "answered": "the provider's final answer is in memory only",
    "before-result": "the result was checked and is not committed",
    "result-stored": "the result is committed, nothing is paid",
    "released": "escrowd has signed the payment away, taskd has not noted it",
    "refunded": "escrowd has given the money back, taskd has not noted it",
    "next-stored": "the next attempt is committed, no money is held for it",
}
"""Where crash tests kill the buyer's taskd, and what is on disk there."""


class _Interrupted(Exception):
    """The user cancelled the task, or its deadline passed."""


class Buyer:
    """All tasks of this node. `submit` and `cancel` are called by methods, `run` by the daemon."""

    def __init__(
        self,
        *,
        queue: Queue,
        market: Market,
        escrow: Escrow,
        registry: Registry,
        blobs: BlobStore,
        me: NodeId,
        network: Hash32,
        settings: Callable[[], BuyerSettings],
        failpoint: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._market = market
        self._escrow = escrow
        self._blobs = blobs
        self._me = me
        self._settings = settings
        self._failpoint = failpoint
        self._dealer = Dealer(
            queue=queue, registry=registry, blobs=blobs, network=network, settings=settings, failpoint=failpoint
        )
        self._waiting: list[tuple[tuple[int, int, str], TaskId]] = []
        self._drivers: dict[TaskId, asyncio.Task[None]] = {}
        self._limits: dict[TaskId, asyncio.Timeout] = {}
        self._asked: set[TaskId] = set()
        """Tasks for whose attempt under way escrowd may hold money that is not noted yet."""
        self._stopping = False
        self._last_words: set[asyncio.Task[object]] = set()

    # --- for the methods --------------------------------------------------------------------------------------

    async def submit(self, app: str, request: intake.Request, key: str, asked: dict[str, object]) -> tasks.Job:
        """Check and store a new task; the same `key` returns the task that it made before.

        Raises what `intake.make_job` and `Queue.add` raise, and AppUnknown.
        """
        earlier = self._queue.find(request.uid, key, asked)
        if earlier is not None:
            return earlier
        try:
            job = self._new_job(await self._market.offer(app), request)
        except (NoProvider, TooExpensive, PriceChanged):
            # What is kept may be seconds old; a refusal must be true now.
            job = self._new_job(await self._market.offer(app, fresh=True), request)
        job, new = await self._queue.add(job, key, asked)
        if new:
            self._failpoint("task-stored")
            self._enqueue(job)
        return job

    def _new_job(self, offer: Offer, request: intake.Request) -> tasks.Job:
        return intake.make_job(offer, request, self._blobs, self._me, int(time.time()))

    async def cancel(self, task: TaskId) -> tasks.Job:
        """End a task; nothing is paid unless the work turns out to be done already.

        Raises TaskUnknown, TaskOver when it has its result or has failed.
        """
        job = self._queue.get(task)
        if job.state == "CANCELLED":
            return job
        if job.over or job.state == "RESULT":
            raise TaskOver(f"task {task} can't be cancelled: {job.step}", details={"state": job.state})
        if job.cancel:
            return job
        job = await self._queue.commit(replace(job, cancel=True, step="cancelling"))
        if task in self._limits:
            self._limits[task].reschedule(asyncio.get_running_loop().time())
        elif task not in self._drivers:
            self._start(task)
        return job

    async def finished(self, task: TaskId, wait_s: float) -> tasks.Job:
        """The task when it is over, or as it is after `wait_s` seconds."""
        end = time.monotonic() + wait_s
        while not (job := self._queue.shown(task)).over and (left := end - time.monotonic()) > 0:
            await self._queue.changed(task, left)
        return job

    # --- which task is driven when ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what a restart left, and fail what waits beyond its deadline, until cancelled."""
        for job in self._queue.load():
            # Before the restart escrowd may have been asked already.
            self._asked.add(job.id)
            self._enqueue(job)
        try:
            while True:
                await asyncio.sleep(SWEEP_S)
                now = time.time()
                for _, task in list(self._waiting):
                    if task not in self._drivers and self._queue.get(task).deadline <= now:
                        self._start(task)
        finally:
            self._stopping = True
            drivers = [*self._drivers.values(), *self._last_words]
            for driver in drivers:
                driver.cancel()
            await asyncio.gather(*drivers, return_exceptions=True)

    def _enqueue(self, job: tasks.Job) -> None:
        heapq.heappush(self._waiting, (job.queue_order(), job.id))
        self._pump()

    def _pump(self) -> None:
        while self._waiting and not self._stopping and len(self._drivers) < self._settings().parallel:
            _, task = heapq.heappop(self._waiting)
            if task not in self._drivers and not self._queue.get(task).over:
                self._start(task)

    def _start(self, task: TaskId) -> None:
        driver = asyncio.create_task(self._drive(task), name=f"task-{task[:8]}")
        self._drivers[task] = driver
        driver.add_done_callback(lambda _: self._ended(task))

    def _ended(self, task: TaskId) -> None:
        self._drivers.pop(task, None)
        self._asked.discard(task)
        self._pump()

    async def _drive(self, task: TaskId) -> None:
        pause = FIRST_PAUSE_S
        while not (job := self._queue.get(task)).over:
            try:
                await self._step(job)
                continue
            except DuxError as error:
                # Only this node's own trouble gets here: a full disk, a daemon that is down.
                self._note(task, f"waiting: {error.name}: {error.message}")
            except Exception:
                log.exception("a task could not go on", extra={"task": task})
                self._note(task, "waiting after an internal error")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _step(self, job: tasks.Job) -> None:
        if job.state == "RESULT":
            await self._pay(job.id)
        elif job.cancel:
            await self._wind_up(job.id, CANCELLED)
        elif job.deadline <= time.time():
            await self._wind_up(
                job.id, DeadlinePassed(f"the task was not done before its deadline; last step: {job.step}")
            )
        elif job.current is None:
            await self._go_on(job.id, NoProvider("no attempt could be made"))
        else:
            await self._attempt(job.id)

    def _note(self, task: TaskId, step: str) -> None:
        job = self._queue.get(task)
        if not job.over and job.step != step:
            self._queue.stage(replace(job, step=step))

    # --- one attempt ------------------------------------------------------------------------------------------

    async def _attempt(self, task: TaskId) -> None:
        try:
            held = await self._hold(task)
            if held is None:
                return
            async with asyncio.timeout(self._queue.get(task).deadline - time.time()) as limit:
                self._limits[task] = limit
                if self._queue.get(task).cancel:
                    raise TimeoutError
                result, receipt = await self._dealer.deal(task, held.state, lambda e: self._may_switch(task, e))
        except (TimeoutError, _Interrupted):
            return
        except DiskFull:
            raise
        except DuxError as error:
            await self._failed(task, error)
            return
        finally:
            self._limits.pop(task, None)
        self._failpoint("before-result")
        await self._queue.commit(tasks.arrived(self._queue.get(task), result, receipt))
        self._failpoint("result-stored")

    async def _hold(self, task: TaskId) -> Hold | None:
        """The money for the attempt under way; None when it was given back already and the attempt is over.

        Raises escrowd's error when it can't be held, _Interrupted when the task ended meanwhile.
        """
        begun, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            job = self._queue.get(task)
            attempt = job.current
            assert attempt is not None
            self._asked.add(task)
            try:
                held = await self._escrow.hold(
                    attempt.provider, attempt.price, task, job.key("hold"), self._settings().hold_s
                )
                break
            except DuxError as raw:
                if isinstance(raw, UNSURE) and not orders.of_peer(raw):
                    self._note(task, f"waiting for the money: {raw.message}")
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
                    continue
                error = orders.remote_error(raw) if orders.of_peer(raw) else raw
                far = error.name in SILENCE and time.monotonic() - begun > self._settings().silence_s
                if far or not error.retry:
                    self._asked.discard(task)
                    raise error from raw
                self._note(task, f"waiting for the money: {error.message}")
                job = self._queue.get(task)
                if job.cancel or job.deadline <= time.time():
                    self._asked.discard(task)
                    raise _Interrupted from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
        self._failpoint("held")
        if held.payment.state == "REFUNDED":
            await self._go_on(task, _reason(held.payment.reason))
            return None
        job = self._queue.get(task)
        if job.state == "QUEUED":
            self._queue.stage(tasks.ordered(tasks.held(job, held.payment.id, held.payment.channel)))
        return held

    async def _pay(self, task: TaskId) -> None:
        job = self._queue.get(task)
        attempt, receipt = job.current, job.receipt
        assert attempt is not None
        assert attempt.payment is not None
        assert receipt is not None
        payment, hashed, key = attempt.payment, orders.body_hash(receipt["body"]), job.key("release")
        try:
            await self._until_paid(task, lambda: self._escrow.release(payment, hashed, key))
        except UNPAYABLE as error:
            log.warning("a result could not be paid", extra={"task": task, "error": error.name})
            self._queue.stage(tasks.unpaid(self._queue.get(task), error, int(time.time())))
            return
        self._failpoint("released")
        self._queue.stage(tasks.paid(self._queue.get(task), int(time.time())))

    # --- when it goes wrong -----------------------------------------------------------------------------------

    async def _failed(self, task: TaskId, reason: DuxError) -> None:
        """The attempt under way failed: give back its money, then try another provider or fail the task."""
        log.info("an attempt failed", extra={"task": task, "error": reason.name, "why": reason.message})
        if self._queue.get(task).state == "ORDERED":
            self._tell_to_stop(orders.build_order(self._queue.get(task)))
        await self._give_back(task, reason)
        await self._go_on(task, reason)

    async def _give_back(self, task: TaskId, reason: DuxError) -> None:
        job = self._queue.get(task)
        if job.current is None or job.current.payment is None:
            return
        payment, key = job.current.payment, job.key("refund")
        words = f"{reason.name}: {reason.message}"
        try:
            await self._patiently(task, lambda: self._escrow.refund(payment, words, key))
        except (Conflict, BadTransition):
            # Given back before a crash, in other words.
            known = await self._patiently(task, lambda: self._escrow.show(payment))
            if known.state != "REFUNDED":
                raise
        self._failpoint("refunded")

    async def _go_on(self, task: TaskId, reason: DuxError) -> None:
        """With no money held any more: commit the next attempt, or the end."""
        job = self._queue.get(task)
        following = None if _final(reason) or job.cancel else await self._next(job, reason)
        self._asked.discard(task)
        if following is None:
            await self._end(task, reason)
            return
        # A cancel that came meanwhile must not be overwritten.
        await self._queue.commit(replace(following, cancel=self._queue.get(task).cancel))
        self._failpoint("next-stored")

    async def _end(self, task: TaskId, reason: DuxError) -> None:
        job = self._queue.get(task)
        now = int(time.time())
        if job.cancel:
            await self._queue.commit(tasks.cancelled(job, CANCELLED, now))
        else:
            await self._queue.commit(tasks.failed(job, reason, now))
        log.info("task over without a result", extra={"task": task, "error": reason.name})

    async def _next(self, job: tasks.Job, reason: DuxError) -> tasks.Job | None:
        if job.attempts_left <= 0 or job.deadline <= time.time():
            return None
        try:
            offer = await self._market.offer(job.app, fresh=True)
            return intake.next_attempt(tasks.again(job, reason), offer, self._me)
        except UNSURE:
            raise
        except DuxError as error:
            log.info("no other provider", extra={"task": job.id, "why": error.message})
            return None

    def _may_switch(self, task: TaskId, reason: DuxError) -> bool:
        """Whether another provider could take over now."""
        job = self._queue.get(task)
        if job.attempts_left <= 0:
            return False
        kept = self._market.kept(job.app)
        try:
            return kept is not None and bool(intake.next_attempt(tasks.again(job, reason), kept, self._me))
        except (NoProvider, TooExpensive):
            return False

    async def _wind_up(self, task: TaskId, reason: DuxError) -> None:
        """End a task that the user, or its deadline, ended; a result that is there already is taken and paid."""
        job = self._queue.get(task)
        if job.state == "QUEUED" and job.current is not None and task in self._asked:
            # Whether escrowd holds money for it is known only once it has answered the same question again.
            try:
                if await self._hold(task) is None:
                    return
            except (DuxError, _Interrupted):
                pass
            job = self._queue.get(task)
        if job.state == "ORDERED" and await self._done_after_all(job):
            return
        await self._give_back(task, reason)
        await self._end(task, reason)

    async def _done_after_all(self, job: tasks.Job) -> bool:
        order = orders.build_order(job)
        reply = await self._dealer.abort(order)
        if reply is None or reply.state != "done":
            return False
        try:
            async with asyncio.timeout(self._settings().silence_s):
                result, receipt = await self._dealer.take(job.id, order, reply)
        except (DuxError, TimeoutError):
            return False
        await self._queue.commit(tasks.arrived(self._queue.get(job.id), result, receipt))
        return True

    def _tell_to_stop(self, order: dict[str, Any]) -> None:
        telling: asyncio.Task[object] = asyncio.create_task(self._insist(order), name="abort")
        self._last_words.add(telling)
        telling.add_done_callback(self._last_words.discard)

    async def _insist(self, order: dict[str, Any]) -> None:
        """Tell the provider to stop until it has heard it, at most until the order's deadline.

        A machine that was asleep goes on with its work when it wakes up, and would wait for its money in vain.
        """
        pause = FIRST_PAUSE_S
        while not await self._dealer.stopped(order) and time.time() < order["deadline"]:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _patiently(self, task: TaskId, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call to escrowd until it has answered for certain."""
        return await self._repeat(task, call, lambda error: isinstance(error, UNSURE))

    async def _until_paid(self, task: TaskId, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat it until it is done or can never be: a locked wallet is no reason to keep what was earned."""
        return await self._repeat(task, call, lambda error: not isinstance(error, UNPAYABLE))

    async def _repeat(self, task: TaskId, call: Callable[[], Awaitable[T]], again: Callable[[DuxError], bool]) -> T:
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except DuxError as error:
                if not again(error):
                    raise
                # Only the owner can end the wait for a locked wallet: the hint says how.
                hint = f". {error.hint}" if error.name == "WalletLocked" else ""
                self._note(task, f"waiting for escrowd: {error.message}{hint}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)


def _final(reason: DuxError) -> bool:
    """Whether it would end the same with every other provider: the app refused the input, or the money is short."""
    elsewhere = ("SandboxMissing", "SandboxDegraded", "TaskTimeout")
    if reason.component == "flopd":
        return True
    return reason.component == "sandbox" and not reason.retry and reason.name not in elsewhere


def _reason(text: str) -> DuxError:
    """The error that a refunded payment's reason was made of."""
    name, _, message = text.partition(": ")
    known = BY_NAME.get(name)
    return known(message) if known else RemoteError(text or "the money was given back")
