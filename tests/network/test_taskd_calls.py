"""Paid calls between nodes whose taskd is real: money moves once for a checked result, and comes back otherwise."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from dux_taskd.__main__ import FLUSH_S
from dux_taskd.queue import LAG_S
from dux_taskd.runtimes.base import RunResult
from duxcommon.api.manifest import Files
from duxcommon.api.taskd import Payload, ProviderLimits, TaskLog, TaskPage
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    AppFailed,
    AppUnknown,
    Conflict,
    InputMissing,
    InputTooLarge,
    InvalidParams,
    NoProvider,
    PriceChanged,
    ProviderPaused,
    TaskOver,
    TaskUnknown,
    TooExpensive,
    WrongMedia,
    WrongParams,
)
from tests.taskd_kit import Node, World, manifest, payload, until, world
from tests.taskd_stand_ins import PRICE

BIG = bytes(range(256)) * 1000


def by_hash(blobs: BlobStore, data: bytes) -> Payload:
    """A payload that lies in a blob store."""
    return Payload(hash=blobs.put(data), size=len(data))


def assert_settled(w: World, *tasks: str, paid: int) -> None:
    """Exactly `paid` koinu were paid for these tasks, and nothing is held any more."""
    assert sum(w.paid_for(task) for task in tasks) == paid
    w.assert_balanced(w.bob)
    assert w.bob.escrow.held() == 0


async def provider_knows(node: Node, state: str) -> None:
    """The provider's escrowd has been told how the run ended."""
    await until(lambda: [p.state for p in node.escrow.payments.values() if p.role == "provider"] == [state])


def test_a_paid_call_returns_the_result_and_pays_once(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            task = await w.bob.run(input=payload(b"photo"))
            assert (task.state, task.error) == ("DONE", None)
            assert task.result is not None
            assert task.result.hash == hashlib.sha256(b"photo").hexdigest()
            assert [a.outcome for a in task.attempts] == ["paid"]
            assert_settled(w, task.id, paid=PRICE)
            await provider_knows(w.alices[0], "DONE")

    asyncio.run(run())


def test_a_call_takes_few_hops_and_two_commits_on_each_side(short_tmp: Path) -> None:
    calls = 10

    async def run() -> None:
        async with world(short_tmp, buyer={"listing_s": 60}) as w:
            await w.bob.run(key="warm")
            bob, alice = w.bob, w.alices[0]
            for seen in (bob.registry.calls, bob.escrow.calls, alice.escrow.calls):
                seen.clear()
            before, begun = (bob.daemon.store.commits, alice.daemon.store.commits), time.monotonic()
            for number in range(calls):
                assert (await bob.run(key=f"measured-{number}")).state == "DONE"
            took = time.monotonic() - begun
            assert bob.registry.calls == ["task.order"] * calls
            assert bob.escrow.calls == ["hold", "release"] * calls
            await until(lambda: sorted(alice.escrow.calls) == ["accept"] * calls + ["done"] * calls)
            # What else is written is collected, and goes to the disk a few times a second however many calls there are.
            assert bob.daemon.store.commits - before[0] <= 2 * calls + 1 + took / LAG_S
            assert alice.daemon.store.commits - before[1] <= 2 * calls + 1 + took / FLUSH_S

    asyncio.run(run())


def test_a_large_input_and_result_go_by_their_hash(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            seller = w.alices[0]

            async def double(given: Any, params: Any, progress: Any) -> RunResult:
                assert given.data is None
                data = seller.blobs.get(given.hash) * 2
                return RunResult(output=by_hash(seller.blobs, data), error=None, wall_ms=1, cpu_ms=1, log="")

            seller.runtime.work = double
            task = await w.bob.run(input=by_hash(w.bob.blobs, BIG))
            assert task.state == "DONE", task.error
            assert task.result is not None
            assert w.bob.blobs.get(task.result.hash) == BIG * 2
            assert_settled(w, task.id, paid=PRICE)

    asyncio.run(run())


def test_the_same_key_never_starts_a_second_task(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            results = await asyncio.gather(*(w.bob.run(key="same", params={"n": 1}) for _ in range(8)))
            assert len({task.id for task in results}) == 1
            assert len(w.paid) == 1
            with pytest.raises(Conflict):
                await w.bob.run(key="same", params={"n": 2})

    asyncio.run(run())


def test_progress_and_log_arrive_while_it_runs(short_tmp: Path) -> None:
    go_on = asyncio.Event()

    async def slow(given: Any, params: Any, progress: Any) -> RunResult:
        progress(40, "almost half\n")
        await go_on.wait()
        progress(90, "nearly\n")
        return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="almost half\nnearly\n")

    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].runtime.work = slow
            task = await w.bob.run(wait_s=0.0)
            seen = await w.bob.status(task.id, wait_s=10.0, progress=0)
            while seen.progress == 0:
                seen = await w.bob.status(task.id, wait_s=10.0, progress=0)
            assert (seen.progress, seen.state, seen.step) == (40, "ORDERED", "running")
            log = await w.bob.rpc_in.call("task.logs", TaskLog, {"id": task.id})
            assert log.text == "almost half\n"
            go_on.set()
            done = await w.bob.status(task.id, wait_s=10.0)
            assert (done.state, done.progress) == ("DONE", 100)
            rest = await w.bob.rpc_in.call("task.logs", TaskLog, {"id": task.id, "offset": log.next_offset})
            assert rest.text == "nearly\n"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"app": "nowhere"}, AppUnknown),
        ({"max_price": PRICE - 1}, TooExpensive),
        ({"expect_price": PRICE - 1}, PriceChanged),
        ({"provider": "f" * 64}, NoProvider),
        ({"params": {"n": 10}}, WrongParams),
        ({"params": {"m": 1}}, WrongParams),
        ({"params": {"n": 1.5}}, WrongParams),
        ({"input": None}, InputMissing),
        ({"input": {"hash": "a" * 64, "size": 5, "media": "image/png", "data": None}}, InputMissing),
        ({"input": payload(b"not an image").model_dump()}, WrongMedia),
        ({"input": payload(b"\x89PNG\r\n\x1a\n" + bytes(5000)).model_dump()}, InputTooLarge),
    ],
)
def test_what_can_be_refused_is_refused_before_any_money_moves(
    short_tmp: Path, params: dict[str, Any], error: type[Exception]
) -> None:
    async def run() -> None:
        app = manifest(input=Files(media=["image/png"], max_bytes=4000))
        async with world(short_tmp, app=app) as w:
            good = {"input": payload(b"\x89PNG\r\n\x1a\n").model_dump()}
            with pytest.raises(error) as caught:
                await w.bob.run(**good | params)
            assert caught.value.hint  # type: ignore[attr-defined]
            assert w.bob.escrow.calls == []
            page = w.bob.daemon.queue.page(10, None, None)[0]
            assert page == []

    asyncio.run(run())


def test_a_price_that_fell_is_paid_at_the_lower_price(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            task = await w.bob.run(expect_price=PRICE + 5)
            assert task.price == PRICE
            assert_settled(w, task.id, paid=PRICE)

    asyncio.run(run())


def test_a_price_that_rose_after_the_search_is_not_paid(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, buyer={"listing_s": 60}) as w:
            await w.bob.run(key="warm")
            w.publish(w.alices[0], manifest(price=PRICE + 1, version="2"))
            await asyncio.sleep(0)
            await w.alices[0].daemon.apps.refresh()
            task = await w.bob.run(key="after")
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "PriceChanged"
            assert_settled(w, task.id, paid=0)

    asyncio.run(run())


def test_a_new_version_within_the_price_is_used(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, buyer={"listing_s": 60}) as w:
            await w.bob.run(key="warm")
            listing = w.publish(w.alices[0], manifest(price=PRICE // 2, version="2"), b"another bundle")
            await w.alices[0].daemon.apps.refresh()
            task = await w.bob.run(key="after", max_price=PRICE)
            assert task.state == "DONE", task.error
            assert [a.outcome for a in task.attempts] == ["PriceChanged", "paid"]
            assert task.app == listing.app
            assert_settled(w, task.id, paid=PRICE // 2)

    asyncio.run(run())


def test_a_failed_app_costs_nothing_and_is_not_tried_again(short_tmp: Path) -> None:
    async def fail(given: Any, params: Any, progress: Any) -> RunResult:
        return RunResult(output=None, error=AppFailed("not an image"), wall_ms=1, cpu_ms=1, log="no\n")

    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            for alice in w.alices:
                alice.runtime.work = fail
            task = await w.bob.run()
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "AppFailed"
            assert "not an image" in task.error["message"]
            assert len(task.attempts) == 1
            assert_settled(w, task.id, paid=0)
            used = next(alice for alice in w.alices if alice.runtime.runs)
            await provider_knows(used, "REFUNDED")

    asyncio.run(run())


def test_a_provider_that_is_gone_is_replaced(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            first, second = w.alices
            w.latency = {first.id: 1.0, second.id: 500.0}

            async def unplug(node: str, method: str, params: Any, go_on: Any) -> Any:
                if node == first.id:
                    w.unreachable.add(node)
                return await go_on()

            w.intercept = unplug
            task = await w.bob.run()
            assert task.state == "DONE", task.error
            assert [a.outcome for a in task.attempts] == ["ProviderSilent", "paid"]
            assert task.provider == second.id
            assert_settled(w, task.id, paid=PRICE)

    asyncio.run(run())


def test_when_every_provider_fails_the_last_error_is_told_and_nothing_paid(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            for alice in w.alices:
                alice.runtime.refuses = ProviderPaused("asleep")
            task = await w.bob.run()
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "ProviderPaused"
            assert len({a.provider for a in task.attempts}) == 2
            assert_settled(w, task.id, paid=0)

    asyncio.run(run())


def test_no_retries_means_one_attempt(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            for alice in w.alices:
                alice.runtime.refuses = ProviderPaused("asleep")
            task = await w.bob.run(retries=0)
            assert len(task.attempts) == 1

    asyncio.run(run())


def test_too_little_money_is_told_at_once_and_no_other_provider_is_asked(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            w.bob.escrow.balance = 5
            task = await w.bob.run()
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "InsufficientFunds"
            assert len(task.attempts) == 1
            assert w.paid == []

    asyncio.run(run())


def test_a_busy_provider_is_waited_for(short_tmp: Path) -> None:
    async def slow(given: Any, params: Any, progress: Any) -> RunResult:
        await asyncio.sleep(0.2)
        return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

    async def run() -> None:
        async with world(short_tmp, provider={"tasks": 1, "queue": 0}) as w:
            w.alices[0].runtime.work = slow
            results = await asyncio.gather(*(w.bob.run(key=f"k{n}") for n in range(4)))
            assert [task.state for task in results] == ["DONE"] * 4
            assert_settled(w, *(task.id for task in results), paid=4 * PRICE)

    asyncio.run(run())


def test_a_cancelled_task_is_refunded_and_the_provider_stops(short_tmp: Path) -> None:
    stopped = asyncio.Event()

    async def endless(given: Any, params: Any, progress: Any) -> RunResult:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        raise AssertionError

    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].runtime.work = endless
            task = await w.bob.run(wait_s=0.0)
            await until(lambda: w.alices[0].runtime.runs)
            await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})
            done = await w.bob.status(task.id, wait_s=10.0)
            assert done.state == "CANCELLED"
            await asyncio.wait_for(stopped.wait(), 60)
            assert_settled(w, task.id, paid=0)
            await provider_knows(w.alices[0], "REFUNDED")
            again = await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})
            assert again["state"] == "CANCELLED"

    asyncio.run(run())


def test_a_cancel_after_the_work_was_done_pays_for_the_work(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:

            async def swallow(node: str, method: str, params: Any, go_on: Any) -> Any:
                result = await go_on()
                if method != "task.abort":
                    await asyncio.sleep(60)
                return result

            w.intercept = swallow
            task = await w.bob.run(wait_s=0.0)
            await provider_knows(w.alices[0], "DONE")
            await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})
            done = await w.bob.status(task.id, wait_s=10.0)
            assert done.state == "DONE"
            assert_settled(w, task.id, paid=PRICE)
            with pytest.raises(TaskOver):
                await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})

    asyncio.run(run())


def test_a_task_that_waits_for_its_turn_can_be_cancelled_without_any_money(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, buyer={"parallel": 1}) as w:
            block = asyncio.Event()

            async def slow(given: Any, params: Any, progress: Any) -> RunResult:
                await block.wait()
                return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

            w.alices[0].runtime.work = slow
            first = await w.bob.run(key="a", wait_s=0.0)
            second = await w.bob.run(key="b", wait_s=0.0)
            await until(lambda: w.alices[0].runtime.runs)
            await w.bob.rpc_in.call_raw("task.cancel", {"id": second.id})
            done = await w.bob.status(second.id, wait_s=5.0)
            assert done.state == "CANCELLED"
            assert w.bob.escrow.calls == ["hold"]
            block.set()
            assert (await w.bob.status(first.id, wait_s=5.0)).state == "DONE"

    asyncio.run(run())


def test_a_deadline_ends_the_task_and_gives_the_money_back(short_tmp: Path) -> None:
    async def endless(given: Any, params: Any, progress: Any) -> RunResult:
        await asyncio.sleep(60)
        raise AssertionError

    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].runtime.work = endless
            task = await w.bob.run(deadline_s=2)
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "DeadlinePassed"
            assert_settled(w, task.id, paid=0)
            await provider_knows(w.alices[0], "REFUNDED")

    asyncio.run(run())


def test_higher_priority_is_done_first(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, buyer={"parallel": 1}, provider={"tasks": 1}) as w:
            block = asyncio.Event()
            order: list[int] = []

            async def note(given: Any, params: Any, progress: Any) -> RunResult:
                await block.wait()
                order.append(params.get("n", 0))
                return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

            w.alices[0].runtime.work = note
            calls = [w.bob.run(key=f"k{n}", params={"n": n}, priority=n) for n in (0, 1, 3, 2)]
            running = [asyncio.create_task(call) for call in calls]
            await until(lambda: w.bob.daemon.queue.unfinished() == 4)
            block.set()
            await asyncio.gather(*running)
            assert order == [0, 3, 2, 1]

    asyncio.run(run())


def test_the_registry_is_told_what_this_node_serves_and_whether_it_can(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            alice = w.alices[0]
            assert len(alice.registry.served) == 1
            assert alice.registry.accepting
            await alice.rpc_in.call_raw("provider.pause", {"paused": True})
            assert not alice.registry.accepting
            with pytest.raises(NoProvider, match="1 not accepting tasks"):
                await w.bob.run()
            await alice.restart()
            await alice.daemon._tell()
            assert not alice.registry.accepting, "a pause survives a restart"

    asyncio.run(run())


def test_the_owner_lends_more_or_less_and_it_survives_a_restart(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, provider={"tasks": 2, "queue": 3, "memory_mb": 1024}) as w:
            alice = w.alices[0]
            first = await alice.rpc_in.call("provider.limits", ProviderLimits)
            assert (first.tasks, first.queue, first.memory_mb, first.paused) == (2, 3, 1024, False)
            assert (first.sandbox, first.running, first.queued) == ("missing", 0, 0)
            changed = await alice.rpc_in.call("provider.set_limits", ProviderLimits, {"tasks": 5, "memory_mb": 256})
            assert (changed.tasks, changed.queue, changed.memory_mb) == (5, 3, 256)
            task = await w.bob.run()
            assert task.error is not None
            assert task.error["data"]["name"] == "TaskTooLarge"
            await alice.restart()
            again = await alice.rpc_in.call("provider.limits", ProviderLimits)
            assert (again.tasks, again.queue, again.memory_mb) == (5, 3, 256)

    asyncio.run(run())


def test_the_list_shows_every_task_newest_first(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            tasks = [await w.bob.run(key=f"k{n}") for n in range(3)]
            page = await w.bob.rpc_in.call("task.list", TaskPage, {"limit": 2})
            assert [task.id for task in page.tasks] == [tasks[2].id, tasks[1].id]
            rest = await w.bob.rpc_in.call("task.list", TaskPage, {"limit": 2, "after": page.next})
            assert [task.id for task in rest.tasks] == [tasks[0].id]
            assert rest.next is None
            failed = await w.bob.rpc_in.call("task.list", TaskPage, {"state": "FAILED"})
            assert failed.tasks == []
            with pytest.raises(InvalidParams):
                await w.bob.rpc_in.call("task.list", TaskPage, {"after": "x"})
            for method in ("task.status", "task.logs", "task.cancel"):
                with pytest.raises(TaskUnknown):
                    await w.bob.rpc_in.call_raw(method, {"id": "0" * 32})

    asyncio.run(run())
