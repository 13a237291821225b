"""One attempt of a task with one provider: order it, follow it, and check what comes back.

Nothing here moves money; it may be repeated from the start after a crash, because order and keys stay the same.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from duxcommon.api.common import Hash32, TaskId
from duxcommon.api.escrowd import SignedState
from duxcommon.api.taskd import OrderReply, Payload, ReceiptBody
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    DiskFull,
    DuxError,
    ProviderBusy,
    ProviderGarbage,
    ProviderSilent,
    ReceiptMismatch,
    TaskUnknown,
)

from . import orders, tasks, verify
from .links import Registry
from .queue import Queue
from .settings import BuyerSettings

PAUSE_S = 0.2
"""Least time between two questions, whatever the provider answers."""
LONGEST_PAUSE_S = 2.0
ABORT_S = 5.0

SILENCE = frozenset(
    {"DaemonDown", "TimedOut", "Stopping", "RateLimited", "QuotaExceeded", "PeerUnreachable", "EndpointDown"}
)
"""Errors of a call to another node that say nothing about the order: asked again until `silence_s` is over."""


class Dealer:
    """Talks to providers about the orders of this node."""

    def __init__(
        self,
        *,
        queue: Queue,
        registry: Registry,
        blobs: BlobStore,
        network: Hash32,
        settings: Callable[[], BuyerSettings],
        failpoint: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._blobs = blobs
        self._network = network
        self._settings = settings
        self._failpoint = failpoint

    # --- conversation -----------------------------------------------------------------------------------------

    async def deal(
        self, task: TaskId, state: SignedState | None, may_switch: Callable[[DuxError], bool]
    ) -> tuple[Payload | None, dict[str, Any]]:
        """The checked result of the attempt under way, and its receipt (a signed record).

        Raises the provider's error, ProviderSilent, ProviderGarbage, ReceiptMismatch, OutputInvalid, BadSignature…
        `may_switch` tells whether another provider could take over from one that is busy.
        """
        order = orders.build_order(self._queue.get(task))
        self._failpoint("before-order")
        reply = await self._follow(task, order, state, may_switch)
        self._failpoint("answered")
        return await self.take(task, order, reply)

    async def take(
        self, task: TaskId, order: dict[str, Any], reply: OrderReply
    ) -> tuple[Payload | None, dict[str, Any]]:
        """The checked result and receipt of a reply that says done. Raises like `deal`."""
        receipt = orders.check_receipt(reply, order, self._network)
        if not receipt.ok:
            raise orders.provider_error(receipt)
        result = await self._result(task, receipt, orders.inline_output(receipt, reply.output))
        assert reply.receipt is not None
        return result, reply.receipt.model_dump(mode="json")

    async def _follow(
        self,
        task: TaskId,
        order: dict[str, Any],
        state: SignedState | None,
        may_switch: Callable[[DuxError], bool],
    ) -> OrderReply:
        """Order, then poll until it is over. After any silence the same order is sent again: it counts once."""
        heard = time.monotonic()
        pause, offset, known = PAUSE_S, 0, False
        while True:
            asked = time.monotonic()
            try:
                value = await (self._poll(order, offset) if known else self._order(task, order, state))
            except DuxError as raw:
                error = orders.remote_error(raw)
                if known and isinstance(error, TaskUnknown):
                    self._tell(task, "ordering again: the provider has forgotten it")
                elif isinstance(error, ProviderBusy):
                    if may_switch(error):
                        raise error from raw
                    self._tell(task, "waiting for the provider, which is busy")
                elif not (error.retry and (error.name in SILENCE or error.component == "escrowd")):
                    raise error from raw
                elif time.monotonic() - heard > self._settings().silence_s:
                    if error.name not in SILENCE:
                        raise error from raw
                    raise ProviderSilent(
                        f"no answer from the provider for {self._settings().silence_s} s ({error.message})"
                    ) from raw
                else:
                    self._tell(task, f"no answer yet ({error.name}); asking again")
                known = False
            else:
                reply = orders.parse_reply(value, order)
                heard, known = time.monotonic(), True
                offset = self._hear(task, reply, offset)
                if reply.state in ("done", "failed"):
                    return reply
                pause = PAUSE_S
                if time.monotonic() - asked < PAUSE_S:
                    await asyncio.sleep(PAUSE_S)
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _order(self, task: TaskId, order: dict[str, Any], state: SignedState | None) -> Any:
        given = self._queue.get(task).input
        if given is not None and given.data is None:
            await self._registry.offer(given.hash, order["provider"])
        wait = self._settings().poll_s
        params = {
            "order": order,
            "input": given.data if given else None,
            "state": state.model_dump(mode="json") if state else None,
            "wait_s": float(wait),
        }
        return await self._registry.ask(order["provider"], "task.order", params, wait_s=wait, sign="order")

    async def _poll(self, order: dict[str, Any], offset: int) -> Any:
        wait = self._settings().poll_s
        params = {"task": order["task"], "wait_s": float(wait), "log_offset": offset}
        return await self._registry.ask(order["provider"], "task.poll", params, wait_s=wait)

    async def abort(self, order: dict[str, Any]) -> OrderReply | None:
        """Tell the provider to stop; its last word, or None when it gave none in time that can be read."""
        try:
            return orders.parse_reply(await self._abort(order), order)
        except (DuxError, TimeoutError):
            return None

    async def stopped(self, order: dict[str, Any]) -> bool:
        """Tell the provider to stop; whether it has heard that."""
        try:
            await self._abort(order)
        except TimeoutError:
            return False
        except DuxError as error:
            return error.name not in SILENCE
        return True

    async def _abort(self, order: dict[str, Any]) -> Any:
        async with asyncio.timeout(ABORT_S):
            return await self._registry.ask(order["provider"], "task.abort", {"task": order["task"]}, wait_s=ABORT_S)

    def _hear(self, task: TaskId, reply: OrderReply, offset: int) -> int:
        """Take progress and log of a reply; the offset to ask from next."""
        job = self._queue.get(task)
        step = {"queued": "waiting at the provider", "running": "running"}.get(reply.state, "checking the result")
        progress = max(job.progress, min(reply.progress, 99))
        changed = tasks.logged(replace(job, step=step, progress=progress), reply.log)
        if changed != job:
            self._queue.stage(changed)
        return min(max(offset, reply.log_offset), 2**40)

    def _tell(self, task: TaskId, step: str) -> None:
        job = self._queue.get(task)
        if job.step != step:
            self._queue.stage(replace(job, step=step))

    # --- the result -------------------------------------------------------------------------------------------

    async def _result(self, task: TaskId, receipt: ReceiptBody, data: bytes | None) -> Payload | None:
        declared = self._queue.get(task).manifest.output
        if receipt.output is None:
            verify.check_output(declared, None, b"")
            return None
        if data is None:
            # Judged by its size first: nothing larger than promised is ever fetched.
            verify.check_size(declared, receipt.output_size)
            await self._fetch(task, receipt.output, receipt.output_size)
            head = await asyncio.to_thread(self._blobs.read, receipt.output, 0, verify.HEAD)
        else:
            head = data
        media = verify.check_output(declared, receipt.output_size, head)
        return Payload(hash=receipt.output, size=receipt.output_size, media=media, data=orders.encode(data))

    async def _fetch(self, task: TaskId, blob: Hash32, size: int) -> None:
        attempt = self._queue.get(task).current
        assert attempt is not None
        heard, done, pause = time.monotonic(), -1, PAUSE_S
        while True:
            try:
                part = await self._registry.fetch(attempt.provider, blob, size, wait_s=5.0)
            except DuxError as raw:
                if isinstance(raw, DiskFull) and not orders.of_peer(raw):
                    raise
                error = orders.remote_error(raw)
                if not error.retry:
                    raise ProviderGarbage(f"the provider does not hand over the result ({error.message})") from raw
                if time.monotonic() - heard > self._settings().silence_s:
                    raise ProviderSilent(f"the result could not be fetched ({error.message})") from raw
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            if part.complete:
                break
            if part.done > done:
                heard, done, pause = time.monotonic(), part.done, PAUSE_S
                self._tell(task, f"fetching the result: {part.done * 100 // max(size, 1)} %")
            elif time.monotonic() - heard > self._settings().silence_s:
                raise ProviderSilent("the provider stopped sending the result")
        if await asyncio.to_thread(self._blobs.size, blob) != size:
            raise ReceiptMismatch("the result has another size than the provider signed")
