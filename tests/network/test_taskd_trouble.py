"""Trouble on this node's own side: daemons that are down, a full disk, a locked wallet, a deposit that takes time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dux_taskd.runtimes.base import RunResult
from duxcommon.api.taskd import Task
from duxcommon.errors import (
    BadTransition,
    ChannelBusy,
    DaemonDown,
    DiskFull,
    DuxError,
    NotConfirmed,
    TaskKilled,
    TimedOut,
    WalletLocked,
)
from tests.taskd_kit import Node, World, payload, until, world
from tests.taskd_stand_ins import PRICE


def fail_writes(node: Node, *failures: DuxError | None) -> None:
    """Let the next writes of a node's database fail, one for each error; None lets one through."""
    store = node.daemon.store
    write, left = store.write, list(failures)

    async def failing(change: Any) -> Any:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return await write(change)

    store.write = failing  # type: ignore[method-assign]


async def settled(w: World, task: Task, *, paid: int, state: str = "DONE") -> None:
    """The task ends like this, with so much paid and nothing held."""
    done = await w.bob.status(task.id, wait_s=20.0)
    assert done.state == state, done
    assert w.paid_for(task.id) == paid
    assert w.bob.escrow.held() == 0
    w.assert_balanced(w.bob)


def test_a_full_disk_refuses_a_new_task_and_holds_no_money(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            fail_writes(w.bob, DiskFull("no space left"))
            with pytest.raises(DiskFull):
                await w.bob.run()
            assert w.bob.escrow.calls == []
            task = await w.bob.run()
            await settled(w, task, paid=PRICE)

    asyncio.run(run())


def test_a_disk_that_is_full_when_the_result_arrives_loses_nothing(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            fail_writes(w.bob, None, DiskFull("no space left"), DiskFull("no space left"))
            task = await w.bob.run()
            await settled(w, task, paid=PRICE)
            assert [a.outcome for a in task.attempts] == ["paid"]
            assert len(w.alices[0].runtime.runs) == 1

    asyncio.run(run())


def test_a_providers_full_disk_refuses_the_order_and_leaves_nothing_accepted(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            fail_writes(w.alices[0], DiskFull("no space left"))
            task = await w.bob.run(retries=0)
            assert task.state == "FAILED"
            await settled(w, task, paid=0, state="FAILED")
            assert w.alices[0].runtime.runs == []
            assert [p.state for p in w.alices[0].escrow.payments.values()] == ["REFUNDED"]
            assert w.alices[0].daemon.seats.use.running == 0

    asyncio.run(run())


@pytest.mark.parametrize("method", ["hold", "release"])
@pytest.mark.parametrize("error", [DaemonDown("restarting"), TimedOut("slow"), DiskFull("full")])
def test_an_escrowd_that_comes_back_finds_the_task_waiting(short_tmp: Path, method: str, error: DuxError) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.bob.escrow.refuse[method] = [error, error]
            task = await w.bob.run()
            await settled(w, task, paid=PRICE)

    asyncio.run(run())


@pytest.mark.parametrize("method", ["accept", "done"])
def test_a_providers_escrowd_that_comes_back_finds_the_run_waiting(short_tmp: Path, method: str) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].escrow.refuse[method] = [DaemonDown("restarting"), TimedOut("slow")]
            task = await w.bob.run()
            await settled(w, task, paid=PRICE)
            await until(lambda: [p.state for p in w.alices[0].escrow.payments.values()] == ["DONE"])
            assert len(w.alices[0].runtime.runs) == 1

    asyncio.run(run())


def test_a_deposit_that_needs_confirmations_is_waited_for_and_said_so(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            waiting = NotConfirmed("the deposit has 0 of 1 confirmations")
            w.bob.escrow.refuse["hold"] = [waiting] * 3 + [ChannelBusy("one call is unpaid")]
            task = await w.bob.run(wait_s=0.0)
            await until(lambda: "0 of 1 confirmations" in w.bob.daemon.queue.get(task.id).step)
            await settled(w, task, paid=PRICE)

    asyncio.run(run())


def test_a_deposit_that_never_confirms_ends_with_the_deadline(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.bob.escrow.refuse["hold"] = [NotConfirmed("0 of 1 confirmations")] * 1000
            task = await w.bob.run(deadline_s=1)
            assert task.error is not None
            assert task.error["data"]["name"] == "DeadlinePassed"
            await settled(w, task, paid=0, state="FAILED")

    asyncio.run(run())


def test_a_locked_wallet_is_told_at_once(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            w.bob.escrow.refuse["hold"] = [WalletLocked("the wallet is locked")] * 9
            task = await w.bob.run()
            assert task.error is not None
            assert (task.error["data"]["name"], task.state) == ("WalletLocked", "FAILED")
            assert task.error["data"]["hint"]
            assert len(task.attempts) == 1

    asyncio.run(run())


def test_a_wallet_that_is_locked_when_the_result_arrives_pays_once_it_is_open(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.bob.escrow.refuse["release"] = [WalletLocked("the wallet is locked")] * 2
            task = await w.bob.run()
            assert task.result is not None
            await settled(w, task, paid=PRICE)

    asyncio.run(run())


def test_a_result_whose_channel_is_gone_is_kept_and_said_to_be_unpaid(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.bob.escrow.refuse["release"] = [BadTransition("the channel is closed")]
            task = await w.bob.run()
            assert (task.state, task.step) == ("DONE", "done, unpaid")
            assert task.result is not None
            assert [a.outcome for a in task.attempts] == ["BadTransition"]
            assert w.paid == []

    asyncio.run(run())


def test_a_cancel_while_the_hold_is_in_doubt_gives_the_money_back(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            # It was carried out, but the answer got lost.
            hold = w.bob.escrow._once

            def lose_answer(*args: Any) -> Any:
                payment = hold(*args)
                if w.bob.escrow.calls == ["hold"]:
                    raise TimedOut("no answer")
                return payment

            w.bob.escrow._once = lose_answer  # type: ignore[method-assign, assignment]
            task = await w.bob.run(wait_s=0.0)
            await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})
            await settled(w, task, paid=0, state="CANCELLED")
            assert w.bob.escrow.calls.count("hold") == 2

    asyncio.run(run())


def test_a_restart_in_the_middle_goes_on_with_the_same_attempt(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            gate = asyncio.Event()

            async def slow(given: Any, params: Any, progress: Any) -> RunResult:
                await gate.wait()
                return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

            w.alices[0].runtime.work = slow
            task = await w.bob.run(wait_s=0.0)
            await until(lambda: w.alices[0].runtime.runs)
            await w.bob.restart()
            gate.set()
            await settled(w, task, paid=PRICE)
            assert len(w.alices[0].runtime.runs) == 1

    asyncio.run(run())


def test_a_run_that_somebody_ended_is_done_elsewhere(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            first, second = w.alices
            w.latency = {first.id: 1.0, second.id: 500.0}

            async def killed(given: Any, params: Any, progress: Any) -> RunResult:
                return RunResult(
                    output=None, error=TaskKilled("the owner wants the machine"), wall_ms=1, cpu_ms=1, log=""
                )

            first.runtime.work = killed
            task = await w.bob.run()
            assert [a.outcome for a in task.attempts] == ["TaskKilled", "paid"]
            await settled(w, task, paid=PRICE)

    asyncio.run(run())
