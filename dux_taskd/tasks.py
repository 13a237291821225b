"""One task of a buyer and every way it can change. Pure: no I/O, no clock.

A task holds money for one provider at a time: an attempt is closed (refunded) before the next is started, and a
task in RESULT, whose result is stored, can only become DONE. That is why nothing is paid twice and no result lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from duxcommon.api.common import ChannelId, Hash32, Koinu, NodeId, PaymentId, TaskId, UnixTime
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Attempt, Payload, Task, TaskState
from duxcommon.errors import DuxError, Internal

Event = Literal["held", "ordered", "arrived", "paid", "unpaid", "again", "failed", "cancelled"]

TABLE: Mapping[TaskState, Mapping[Event, TaskState]] = {
    "QUEUED": {"held": "HELD", "again": "QUEUED", "failed": "FAILED", "cancelled": "CANCELLED"},
    "HELD": {"ordered": "ORDERED", "again": "QUEUED", "failed": "FAILED", "cancelled": "CANCELLED"},
    "ORDERED": {"arrived": "RESULT", "again": "QUEUED", "failed": "FAILED", "cancelled": "CANCELLED"},
    "RESULT": {"paid": "DONE", "unpaid": "DONE"},
    "DONE": {},
    "FAILED": {},
    "CANCELLED": {},
}
"""State → what can happen → next state. `again` is another attempt; `unpaid` a result whose channel is gone."""

FINISHED: frozenset[TaskState] = frozenset(state for state, events in TABLE.items() if not events)

LOG_MAX = 65_536
"""Characters of an app's log that are kept."""


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt with one provider; `outcome` is "running" until it is over."""

    provider: NodeId
    price: Koinu
    payment: PaymentId | None = None
    channel: ChannelId | None = None
    outcome: str = "running"
    detail: str = ""

    @property
    def open(self) -> bool:
        """Whether money may still be held for it."""
        return self.outcome == "running"


@dataclass(frozen=True, slots=True)
class Job:
    """A task as the buyer's taskd keeps it. `deadline`, `created` and `finished` are Unix seconds."""

    id: TaskId
    uid: int
    app: Hash32
    name: str
    bundle: Hash32
    manifest: Manifest
    input: Payload | None
    params: dict[str, Any]
    max_price: Koinu
    """What one attempt may cost at most."""
    pinned: NodeId | None
    priority: int
    retries: int
    """Attempts allowed after the first."""
    deadline: UnixTime
    created: UnixTime
    state: TaskState = "QUEUED"
    step: str = "waiting for its turn"
    progress: int = 0
    attempts: tuple[Try, ...] = ()
    cancel: bool = False
    """The user wants it ended; what was held is given back first."""
    result: Payload | None = None
    receipt: dict[str, Any] | None = None
    """The provider's signed receipt for the result."""
    error: dict[str, Any] | None = None
    log: str = field(default="", repr=False)
    finished: UnixTime | None = None

    @property
    def current(self) -> Try | None:
        """The attempt under way."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].open else None

    @property
    def over(self) -> bool:
        return self.state in FINISHED

    @property
    def attempts_left(self) -> int:
        return self.retries + 1 - len(self.attempts)

    def key(self, what: str) -> str:
        """The idempotency key of one step of the newest attempt: `task:<id>:<attempt>:<what>`."""
        return f"task:{self.id}:{len(self.attempts)}:{what}"

    def queue_order(self) -> tuple[int, int, str]:
        """Sorts the queue: higher priority first, then older first."""
        return (-self.priority, self.created, self.id)


def _move(job: Job, event: Event, **changes: Any) -> Job:
    target = TABLE[job.state].get(event)
    if target is None:
        raise Internal(f"task {job.id}: {event} can't happen in state {job.state}")
    return replace(job, state=target, **changes)


def _close(job: Job, outcome: str, detail: str) -> tuple[Try, ...]:
    """The attempts with the one under way, if any, closed."""
    if job.current is None:
        return job.attempts
    return (*job.attempts[:-1], replace(job.current, outcome=outcome, detail=detail[:500]))


def _running(job: Job) -> Try:
    if job.current is None:
        raise Internal(f"task {job.id} has no attempt under way")
    return job.current


def start(job: Job, provider: NodeId, price: Koinu) -> Job:
    """A new attempt with `provider` at `price`; the one before must be over."""
    if job.state != "QUEUED" or job.current is not None:
        raise Internal(f"task {job.id}: a second attempt can't start in state {job.state}")
    return replace(job, attempts=(*job.attempts, Try(provider, price)), step="reserving the money", progress=0)


def held(job: Job, payment: PaymentId, channel: ChannelId) -> Job:
    """The money of the attempt is reserved."""
    attempt = replace(_running(job), payment=payment, channel=channel)
    return _move(job, "held", attempts=(*job.attempts[:-1], attempt), step="ordering")


def ordered(job: Job) -> Job:
    """The order is being sent."""
    _running(job)
    return _move(job, "ordered", step="ordered")


def arrived(job: Job, result: Payload | None, receipt: dict[str, Any]) -> Job:
    """The result was checked against order, receipt and manifest."""
    _running(job)
    return _move(job, "arrived", result=result, receipt=receipt, step="paying", progress=100)


def paid(job: Job, now: UnixTime) -> Job:
    """The state that pays for it is signed."""
    return _move(job, "paid", attempts=_close(job, "paid", ""), step="done", finished=now)


def unpaid(job: Job, reason: DuxError, now: UnixTime) -> Job:
    """The result is here, but its channel can't pay any more."""
    return _move(job, "unpaid", attempts=_close(job, reason.name, reason.message), step="done, unpaid", finished=now)


def again(job: Job, reason: DuxError) -> Job:
    """The attempt failed and its money is back; another may follow."""
    step = f"{reason.name}; looking for another provider"
    return _move(job, "again", attempts=_close(job, reason.name, reason.message), step=step, progress=0)


def failed(job: Job, reason: DuxError, now: UnixTime) -> Job:
    """It will not be done; nothing is held for it any more."""
    attempts = _close(job, reason.name, reason.message)
    return _move(job, "failed", attempts=attempts, step="failed", error=reason.to_rpc(), finished=now)


def cancelled(job: Job, reason: DuxError, now: UnixTime) -> Job:
    """The user ended it; nothing is held for it any more."""
    attempts = _close(job, reason.name, reason.message)
    return _move(job, "cancelled", attempts=attempts, step="cancelled", error=reason.to_rpc(), finished=now)


def logged(job: Job, text: str) -> Job:
    """More of the app's log, up to LOG_MAX characters; what comes later is left out."""
    room = LOG_MAX - len(job.log)
    return replace(job, log=job.log + text[:room]) if text and room > 0 else job


def view(job: Job) -> Task:
    """The task as callers see it."""
    last = job.attempts[-1] if job.attempts else None
    return Task(
        id=job.id,
        app=job.app,
        name=job.name,
        state=job.state,
        step=job.step,
        progress=job.progress,
        price=last.price if last else None,
        provider=last.provider if last else None,
        payment=last.payment if last else None,
        result=job.result,
        error=job.error,
        attempts=[
            Attempt(provider=t.provider, price=t.price, payment=t.payment, outcome=t.outcome, detail=t.detail)
            for t in job.attempts
        ],
        created=job.created,
        finished=job.finished,
    )
