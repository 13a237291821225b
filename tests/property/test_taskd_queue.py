"""The queue and the table of a task's states, over any order of events and any restart."""

import asyncio
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_taskd import tasks
from dux_taskd.queue import TASKS_TABLE, Queue
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Payload
from duxcommon.db import Store
from duxcommon.errors import Cancelled, Conflict, Internal, ProviderSilent, QueueFull, TaskUnknown

MANIFEST = Manifest(name="echo", version="1", summary="echo", price=10, runtime="command", command=["cat"])
RESULT = Payload(hash="f" * 64, size=3, data="YWJj")
SILENT, STOP = ProviderSilent("no answer"), Cancelled("stop")


def job(number: int = 1, **changes: Any) -> tasks.Job:
    fields: dict[str, Any] = {
        "id": f"{number:032x}",
        "uid": 0,
        "app": "a" * 64,
        "name": "echo",
        "bundle": "b" * 64,
        "manifest": MANIFEST,
        "input": Payload(hash="1" * 64, size=1, data="eA=="),
        "params": {"a": [1, {"b": "ü"}]},
        "max_price": 10,
        "pinned": None,
        "priority": 0,
        "retries": 2,
        "deadline": 2000,
        "created": 1000 + number,
    }
    return tasks.Job(**fields | changes)


STEPS: dict[str, Callable[[tasks.Job], tasks.Job]] = {
    "start": lambda j: tasks.start(j, "c" * 64, 10),
    "held": lambda j: tasks.held(j, "d" * 32, "e" * 64),
    "ordered": tasks.ordered,
    "arrived": lambda j: tasks.arrived(j, RESULT, {"sig": "x"}),
    "paid": lambda j: tasks.paid(j, 1500),
    "unpaid": lambda j: tasks.unpaid(j, SILENT, 1500),
    "again": lambda j: tasks.again(j, SILENT),
    "failed": lambda j: tasks.failed(j, SILENT, 1500),
    "cancelled": lambda j: tasks.cancelled(j, STOP, 1500),
}
steps = st.lists(st.sampled_from(sorted(STEPS)), max_size=25)


def apply(current: tasks.Job, names: list[str]) -> list[tasks.Job]:
    """Every state that the possible ones of these steps lead through."""
    course = [current]
    for name in names:
        try:
            current = STEPS[name](current)
        except Internal:
            continue
        course.append(current)
    return course


@given(steps)
def test_a_task_pays_at_most_once_and_only_for_a_result(names: list[str]) -> None:
    last = apply(job(), names)[-1]
    outcomes = [attempt.outcome for attempt in last.attempts]
    assert outcomes.count("paid") <= 1
    assert ("paid" in outcomes) <= (last.state == "DONE" and last.result is not None)


@given(steps)
def test_money_is_held_for_one_attempt_at_a_time(names: list[str]) -> None:
    for state in apply(job(), names):
        assert all(not attempt.open for attempt in state.attempts[:-1])
        assert not (state.over and state.current)


@given(steps)
def test_a_result_that_arrived_is_never_lost(names: list[str]) -> None:
    course = apply(job(), names)
    arrived = [i for i, state in enumerate(course) if state.state == "RESULT"]
    for state in course[arrived[0] :] if arrived else []:
        assert state.state in ("RESULT", "DONE")
        assert state.result == RESULT


@given(steps)
def test_what_is_over_stays_over(names: list[str]) -> None:
    course = apply(job(), names)
    for before, after in itertools.pairwise(course):
        assert not before.over, (before.state, after.state)


@given(steps)
def test_every_state_has_a_view_for_callers(names: list[str]) -> None:
    for state in apply(job(), names):
        assert tasks.view(state).state == state.state


def with_queue(work: Any, limit: int = 100) -> None:
    """Run `work(open_queue)`; calling open_queue again is a restart."""

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as folder:
            stores: list[Store] = []

            async def open_queue() -> Queue:
                if stores:
                    await stores[-1].close()
                stores.append(Store(Path(folder) / "t.db", [TASKS_TABLE]))
                return Queue(stores[-1], lambda: limit)

            try:
                await work(open_queue)
            finally:
                await stores[-1].close()

    asyncio.run(run())


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(steps, st.integers(-3, 3)), min_size=1, max_size=6))
def test_after_a_restart_every_committed_task_is_as_it_was(plan: list[tuple[list[str], int]]) -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        expected = {}
        for number, (names, priority) in enumerate(plan):
            first, _ = await queue.add(job(number, priority=priority), f"k{number}", {"n": number})
            for state in apply(first, names)[1:]:
                queue.stage(state)
            expected[first.id] = queue.get(first.id)
        await queue.flush()
        again = await open_queue()
        loaded = again.load()
        assert {state.id: again.get(state.id) for state in expected.values()} == expected
        assert [state.id for state in loaded] == [
            state.id for state in sorted(expected.values(), key=tasks.Job.queue_order) if not state.over
        ]

    with_queue(work)


def test_higher_priority_goes_first_then_older() -> None:
    jobs = [job(1), job(2, priority=5), job(3, priority=5), job(4, priority=-1)]
    assert [j.created - 1000 for j in sorted(jobs, key=tasks.Job.queue_order)] == [2, 3, 1, 4]


def test_a_key_makes_one_task_however_often_it_is_sent() -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        results = await asyncio.gather(*(queue.add(job(n), "same", {"x": 1}) for n in range(5)))
        assert len({made.id for made, _ in results}) == 1
        assert [new for _, new in results].count(True) == 1
        assert queue.find(0, "same", {"x": 1}).id == results[0][0].id
        assert queue.find(1, "same", {"x": 1}) is None
        with pytest.raises(Conflict):
            queue.find(0, "same", {"x": 2})
        with pytest.raises(Conflict):
            await queue.add(job(9), "same", {"x": 2})
        assert queue.unfinished() == 1

    with_queue(work)


def test_a_full_queue_refuses_and_keeps_nothing() -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        await queue.add(job(1), "a", {})
        with pytest.raises(QueueFull):
            await queue.add(job(2), "b", {})
        with pytest.raises(TaskUnknown):
            queue.get(job(2).id)

    with_queue(work, limit=1)


def test_a_change_wakes_those_who_wait_for_it() -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        first, _ = await queue.add(job(1), "a", {})
        waiter = asyncio.create_task(queue.changed(first.id, 5))
        await asyncio.sleep(0)
        queue.stage(replace(first, progress=40))
        assert await waiter
        assert not await queue.changed(first.id, 0.01)

    with_queue(work)


def test_pages_cover_every_task_once_newest_first() -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        for number in range(7):
            await queue.add(job(number), f"k{number}", {})
        seen, after = [], None
        while True:
            page, after = queue.page(3, after, None)
            seen += [item.id for item in page]
            if after is None:
                break
        assert seen == [job(number).id for number in reversed(range(7))]

    with_queue(work)


def test_only_what_ended_long_ago_is_forgotten() -> None:
    async def work(open_queue: Any) -> None:
        queue = await open_queue()
        old, _ = await queue.add(job(1), "a", {})
        await queue.add(job(2), "b", {})
        await queue.commit(tasks.failed(old, SILENT, 100))
        await queue.prune(101)
        with pytest.raises(TaskUnknown):
            queue.get(old.id)
        assert queue.get(job(2).id).state == "QUEUED"

    with_queue(work)
