"""The outbox: what a commit decided is sent after it, until it succeeds, and never before."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from duxcommon import outbox
from duxcommon.db import Store
from duxcommon.errors import DaemonDown, DiskFull
from duxcommon.outbox import OUTBOX_TABLE, Outbox, drop, put

Sent = list[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.02)


def run(folder: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        store = Store(folder / "x.db", [OUTBOX_TABLE])
        try:
            await asyncio.wait_for(work(store), 30)
        finally:
            await store.close()

    asyncio.run(main())


def waiting(store: Store) -> int:
    return int(store.read(lambda c: c.execute("SELECT count(*) FROM outbox").fetchone()[0]))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Running:
    """An outbox that runs inside a `with` block."""

    def __init__(self, store: Store, **handlers: outbox.Handler) -> None:
        self.box = Outbox(store, handlers)

    async def __aenter__(self) -> Outbox:
        self._task = asyncio.create_task(self.box.run())
        return self.box

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def test_a_message_is_sent_after_its_commit_and_then_forgotten(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        sent: Sent = []

        async def send(ref: str, payload: dict[str, Any]) -> None:
            assert waiting(store) == 1
            sent.append((ref, payload))

        async with Running(store, pay=send) as box:
            await store.write(lambda c: put(c, "pay", "p1", {"amount": 5}))
            box.wake()
            await until(lambda: waiting(store) == 0)
        assert sent == [("p1", {"amount": 5})]

    run(tmp_path, work)


def test_what_is_rolled_back_is_never_sent(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        sent: Sent = []

        async def send(ref: str, payload: dict[str, Any]) -> None:
            sent.append((ref, payload))

        def half(connection: Any) -> None:
            put(connection, "pay", "never", {})
            raise KeyError

        async with Running(store, pay=send) as box:
            with pytest.raises(KeyError):
                await store.write(half)
            await store.write(lambda c: put(c, "pay", "good", {}))
            box.wake()
            await until(lambda: waiting(store) == 0)
        assert sent == [("good", {})]

    run(tmp_path, work)


def test_a_message_that_fails_is_sent_again_until_it_succeeds_with_growing_pauses(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        times: list[float] = []

        async def send(_ref: str, _payload: dict[str, Any]) -> None:
            times.append(time.monotonic())
            if len(times) == 2:
                raise ValueError("a fault in the handler, not only an error of the other side")
            if len(times) < 5:
                raise DaemonDown("not there")

        async with Running(store, pay=send) as box:
            await store.write(lambda c: put(c, "pay", "p1", {}))
            box.wake()
            await until(lambda: waiting(store) == 0)
        assert len(times) == 5
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert all(pause >= 0.02 * 2**n for n, pause in enumerate(pauses)), pauses

    run(tmp_path, work)


def test_a_message_survives_a_restart_and_is_sent_by_the_next_process(tmp_path: Path) -> None:
    async def stop_while_sending(store: Store) -> None:
        started = asyncio.Event()

        async def send(_ref: str, _payload: dict[str, Any]) -> None:
            started.set()
            await asyncio.sleep(60)

        async with Running(store, pay=send) as box:
            await store.write(lambda c: put(c, "pay", "p1", {"amount": 5}))
            box.wake()
            await started.wait()
        assert waiting(store) == 1

    run(tmp_path, stop_while_sending)

    async def next_life(store: Store) -> None:
        sent: Sent = []

        async def send(ref: str, payload: dict[str, Any]) -> None:
            sent.append((ref, payload))

        async with Running(store, pay=send):
            await until(lambda: waiting(store) == 0)
        assert sent == [("p1", {"amount": 5})]

    run(tmp_path, next_life)


def test_a_message_of_a_time_when_the_clock_was_years_ahead_is_sent_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(store: Store) -> None:
        sent: list[str] = []

        async def send(ref: str, _payload: dict[str, Any]) -> None:
            sent.append(ref)

        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda now=time.time: now() + 3 * 365 * 86_400)
            await store.write(lambda c: put(c, "close", "early", {}))
        async with Running(store, close=send) as box:
            await store.write(lambda c: put(c, "close", "late", {}))
            box.wake()
            await until(lambda: waiting(store) == 0)
        assert sorted(sent) == ["early", "late"]

    run(tmp_path, work)


def test_a_message_that_is_replaced_while_it_is_sent_is_sent_in_its_new_form(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        sent: Sent = []
        started, proceed = asyncio.Event(), asyncio.Event()

        async def send(ref: str, payload: dict[str, Any]) -> None:
            sent.append((ref, payload))
            started.set()
            await proceed.wait()

        async with Running(store, state=send) as box:
            await store.write(lambda c: put(c, "state", "channel", {"number": 1}))
            box.wake()
            await started.wait()
            await store.write(lambda c: put(c, "state", "channel", {"number": 2}))
            await store.write(lambda c: put(c, "state", "channel", {"number": 3}))
            box.wake()
            # Never two at once of the same message.
            await asyncio.sleep(0.05)
            assert len(sent) == 1
            proceed.set()
            await until(lambda: waiting(store) == 0)
        assert sent == [("channel", {"number": 1}), ("channel", {"number": 3})]

    run(tmp_path, work)


def test_a_delayed_message_waits_and_a_dropped_one_is_not_sent(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        sent: Sent = []

        async def send(ref: str, payload: dict[str, Any]) -> None:
            sent.append((ref, payload))

        async with Running(store, pay=send) as box:
            before = time.monotonic()
            await store.write(lambda c: put(c, "pay", "later", {}, delay_s=0.2))
            await store.write(lambda c: put(c, "pay", "dropped", {}, delay_s=0.1))
            box.wake()
            await store.write(lambda c: drop(c, "pay", "dropped"))
            await until(lambda: waiting(store) == 0)
            assert time.monotonic() - before >= 0.2
        assert sent == [("later", {})]

    run(tmp_path, work)


def test_a_message_that_hangs_does_not_hold_up_hundreds_of_others(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        sent: set[str] = set()
        together = most = 0

        async def send(ref: str, _payload: dict[str, Any]) -> None:
            nonlocal together, most
            together += 1
            most = max(most, together)
            try:
                if ref == "n0":
                    await asyncio.sleep(60)
                await asyncio.sleep(0)
                sent.add(ref)
            finally:
                together -= 1

        async with Running(store, pay=send) as box:
            await asyncio.gather(*(store.write(lambda c, n=n: put(c, "pay", f"n{n}", {})) for n in range(300)))
            box.wake()
            await until(lambda: waiting(store) == 1)
        assert sent == {f"n{n}" for n in range(1, 300)}
        assert most <= outbox.AT_ONCE

    run(tmp_path, work)


def test_when_what_was_sent_can_not_be_noted_it_is_sent_again_but_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.1)

    async def work(store: Store) -> None:
        calls = 0
        full = True
        real = store.write

        async def write(change: Any) -> Any:
            if full:
                raise DiskFull("no room")
            return await real(change)

        async def send(_ref: str, _payload: dict[str, Any]) -> None:
            nonlocal calls
            calls += 1

        await store.write(lambda c: put(c, "pay", "p1", {}))
        monkeypatch.setattr(store, "write", write)
        async with Running(store, pay=send):
            await asyncio.sleep(0.35)
            assert 2 <= calls <= 5
            full = False
            await until(lambda: waiting(store) == 0)

    run(tmp_path, work)


@pytest.mark.parametrize("ticks", range(5))
def test_an_outbox_that_is_stopped_while_it_is_woken_ends(short_tmp: Path, ticks: int) -> None:
    async def work(store: Store) -> None:
        await store.write(lambda c: put(c, "kind", "ref", {}, delay_s=60))
        box = Outbox(store, {})
        running = asyncio.create_task(box.run())
        await asyncio.sleep(0.02)
        box.wake()
        for _ in range(ticks):
            await asyncio.sleep(0)
        running.cancel()
        ended, _ = await asyncio.wait([running], timeout=5)
        assert ended

    run(short_tmp, work)
