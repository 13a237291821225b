"""`task.* provider.*`: what users, other daemons and other nodes ask of taskd."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from duxcommon.api.common import AppRef, Base64, IdempotencyKey, Koinu, NodeId, Seconds, SignedRecord, TaskId
from duxcommon.api.escrowd import SignedState
from duxcommon.api.taskd import OrderAnswer, Payload, ProviderLimits, Task, TaskLog, TaskPage, TaskState
from duxcommon.errors import (
    AppAmbiguous,
    AppNotServed,
    AppUnknown,
    BadRecord,
    BadSignature,
    Conflict,
    DaemonDown,
    DeadlinePassed,
    InputMissing,
    InputTooLarge,
    InvalidParams,
    NoProvider,
    NotAllowed,
    OrderRefused,
    PriceChanged,
    ProviderBusy,
    ProviderPaused,
    QueueFull,
    SandboxDegraded,
    SandboxFault,
    SandboxMissing,
    TaskOver,
    TaskTooLarge,
    TaskUnknown,
    TooExpensive,
    WrongMedia,
    WrongNetwork,
    WrongParams,
)
from duxcommon.rpc import Caller, method

from .intake import Request
from .tasks import view

if TYPE_CHECKING:
    from .__main__ import TaskDaemon

EXAMPLE_TASK = "0" * 32
EXAMPLE_ORDER = {
    "kind": "order", "network": "0" * 64, "node": "0" * 64, "seq": 0, "time": 1_700_000_000,
    "body": {"task": EXAMPLE_TASK}, "sig": "0" * 128,
}  # fmt: skip
CHUNK = 16_384

WaitSeconds = Annotated[float, Field(ge=0, le=60)]
DeadlineSeconds = Annotated[int, Field(ge=1, le=604_800)]


class TaskMethods:
    """Tasks of this node's users."""

    def __init__(self, daemon: "TaskDaemon") -> None:
        self._daemon = daemon

    @method(
        "task.run",
        access="spend",
        errors=(
            AppUnknown, AppAmbiguous, NoProvider, TooExpensive, PriceChanged, InputMissing, InputTooLarge, WrongMedia,
            WrongParams, QueueFull, Conflict, InvalidParams, DaemonDown,
        ),
        example={"app": "image-upscale", "key": "k1", "params": {"factor": 2}, "expect_price": 1_000_000_000},
        limit="500/s",
    )  # fmt: skip
    async def run(
        self,
        app: AppRef,
        key: IdempotencyKey,
        caller: Caller,
        *,
        input: Payload | None = None,
        params: dict[str, Any] = {},  # noqa: B006  (copied by the declaration)
        max_price: Koinu | None = None,
        expect_price: Koinu | None = None,
        provider: NodeId | None = None,
        deadline_s: DeadlineSeconds | None = None,
        priority: Annotated[int, Field(ge=-100, le=100)] = 0,
        retries: Annotated[int, Field(ge=0, le=20)] = 2,
        wait_s: Seconds = 0.0,
    ) -> Task:
        """Have an app run on another node, and pay for it once the result was checked.

        Prices are koinu. `expect_price` is the price that was shown: a higher one is refused. `max_price` is the
        most that the task may cost; without either it is the price of the listing now. An input of up to 64 KiB
        comes inside the message, a larger one is uploaded first (`blob.write`) and given by its hash. The same
        `key` never starts a second task. With `wait_s` the answer waits until the task is over, at most so many
        seconds. `deadline_s` counts from now; a task that is not done by then costs nothing.
        """
        buyer = await self._daemon.buyer()
        asked: dict[str, object] = {
            "app": app,
            "input": input.hash if input else None,
            "params": params,
            "max_price": max_price,
            "expect_price": expect_price,
            "provider": provider,
            "deadline_s": deadline_s,
            "priority": priority,
            "retries": retries,
        }
        request = Request(
            uid=caller.uid,
            input=input,
            params=params,
            max_price=max_price,
            expect_price=expect_price,
            provider=provider,
            deadline_s=deadline_s or self._daemon.settings.buyer.deadline_s,
            priority=priority,
            retries=retries,
        )
        job = await buyer.submit(app, request, key, asked)
        return view(await buyer.finished(job.id, wait_s) if wait_s else job)

    @method("task.status", access="read", errors=(TaskUnknown,), example={"id": EXAMPLE_TASK})
    async def status(
        self, id: TaskId, wait_s: Seconds = 0.0, progress: Annotated[int, Field(ge=0, le=100)] | None = None
    ) -> Task:
        """Show how a task is going.

        With `wait_s` the answer waits, at most so many seconds, until the task is over or, where `progress` names
        the percentage seen last, until state, step or progress are others.
        """
        return view(await self._daemon.watch(id, wait_s, progress))

    @method("task.list", access="read", errors=(InvalidParams,), example={"limit": 10})
    async def list(
        self,
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
        after: Annotated[str, Field(max_length=64)] | None = None,
        state: TaskState | None = None,
    ) -> TaskPage:
        """List the tasks of this node, newest first. `after` is the `next` of the page before."""
        jobs, following = self._daemon.queue.page(limit, after, state)
        return TaskPage(tasks=[view(job) for job in jobs], next=following)

    @method("task.cancel", access="spend", errors=(TaskUnknown, TaskOver), example={"id": EXAMPLE_TASK})
    async def cancel(self, id: TaskId) -> Task:
        """End a task. Its money comes back, unless the provider had done the work already."""
        return view(await (await self._daemon.buyer()).cancel(id))

    @method("task.logs", access="read", errors=(TaskUnknown,), example={"id": EXAMPLE_TASK})
    async def logs(self, id: TaskId, offset: Annotated[int, Field(ge=0)] = 0) -> TaskLog:
        """Show what the app printed, from the `offset`-th character on."""
        text = self._daemon.queue.get(id).log[offset : offset + CHUNK]
        return TaskLog(task=id, text=text, next_offset=offset + len(text))

    # --- other nodes ------------------------------------------------------------------------------------------

    @method(
        "task.order",
        access="peer",
        errors=(
            BadSignature, BadRecord, WrongNetwork, OrderRefused, DeadlinePassed, AppNotServed, PriceChanged,
            WrongParams, InputMissing, InputTooLarge, WrongMedia, ProviderPaused, ProviderBusy, TaskTooLarge,
            SandboxMissing, SandboxDegraded, SandboxFault, Conflict, NotAllowed, DaemonDown,
        ),
        reply_record="receipt",
        example={"order": EXAMPLE_ORDER, "wait_s": 20.0},
    )  # fmt: skip
    async def order(
        self,
        order: SignedRecord,
        caller: Caller,
        input: Base64 | None = None,
        state: SignedState | None = None,
        wait_s: WaitSeconds = 20.0,
    ) -> OrderAnswer:
        """Order the run of an app. The same order counts once, however often it is sent.

        `order` is a signed record of kind `order` by the calling node; `state` the signed state that pays for what
        was done before. Answers when it is over, when there is something new to tell, or after `wait_s` seconds.
        """
        provider = await self._daemon.provider()
        return await provider.order(order, input, state, wait_s, _peer(caller))

    @method(
        "task.poll", access="peer", errors=(TaskUnknown, DaemonDown), reply_record="receipt",
        example={"task": EXAMPLE_TASK},
    )  # fmt: skip
    async def poll(
        self,
        task: TaskId,
        caller: Caller,
        wait_s: WaitSeconds = 20.0,
        log_offset: Annotated[int, Field(ge=0, le=2**40)] = 0,
    ) -> OrderAnswer:
        """Tell how an order of the calling node is going, with its log from `log_offset` on."""
        return await (await self._daemon.provider()).poll(task, wait_s, log_offset, _peer(caller))

    @method(
        "task.abort", access="peer", errors=(TaskUnknown, DaemonDown), reply_record="receipt",
        example={"task": EXAMPLE_TASK},
    )  # fmt: skip
    async def abort(self, task: TaskId, caller: Caller) -> OrderAnswer:
        """Stop working on an order of the calling node; nothing is charged unless it was done already."""
        return await (await self._daemon.provider()).abort(task, _peer(caller))


class ProviderMethods:
    """What the owner of this machine lends."""

    def __init__(self, daemon: "TaskDaemon") -> None:
        self._daemon = daemon

    @method("provider.limits", access="read")
    async def limits(self) -> ProviderLimits:
        """Show what this machine lends, what is taken of it, and whether its sandbox works."""
        return await self._daemon.limits()

    @method("provider.set_limits", access="admin", example={"tasks": 2})
    async def set_limits(
        self,
        tasks: Annotated[int, Field(ge=0, le=1024)] | None = None,
        queue: Annotated[int, Field(ge=0, le=100_000)] | None = None,
        memory_mb: Annotated[int, Field(ge=0, le=2**30)] | None = None,
    ) -> ProviderLimits:
        """Lend more or less: tasks at once, accepted tasks that wait, memory of all running tasks in MB.

        Goes before the configuration, also after a restart. What runs already is not ended.
        """
        given = {"tasks": tasks, "queue": queue, "memory_mb": memory_mb}
        return await self._daemon.lend(**{name: value for name, value in given.items() if value is not None})

    @method("provider.pause", access="admin", example={"paused": True})
    async def pause(self, paused: bool = True) -> ProviderLimits:
        """Lend nothing for now (`paused`), or go on. What runs already is finished."""
        return await self._daemon.lend(paused=paused)


def _peer(caller: Caller) -> NodeId:
    if caller.peer is None:
        raise NotAllowed("orders come from other nodes", hint="Use task.run; it orders in this node's name.")
    return caller.peer
