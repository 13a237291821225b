"""Buyers that forge, replay and flood: the provider runs only what a good order on a covered channel asks for."""

import asyncio
import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from dux_taskd.runtimes.base import RunResult
from duxcommon.api.escrowd import Hold
from duxcommon.api.manifest import Files, Resources
from duxcommon.errors import (
    AppNotServed,
    BadRecord,
    BadSignature,
    Conflict,
    DeadlinePassed,
    InputMissing,
    InputTooLarge,
    NotCovered,
    OrderRefused,
    PriceChanged,
    ProviderBusy,
    SandboxDegraded,
    SandboxMissing,
    TaskTooLarge,
    TaskUnknown,
    WrongMedia,
    WrongNetwork,
    WrongParams,
)
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from tests.taskd_kit import World, manifest, payload, until, world
from tests.taskd_stand_ins import NETWORK, PRICE

MALLORY = Identity(b"m" * 32)
TASK = "ab" * 16


async def body(
    w: World, changes: dict[str, Any] | None = None, *, hold: bool = True, amount: int = PRICE, task: str = TASK
) -> dict[str, Any]:
    """A good order by bob for alice, with the money behind it, but for the `changes`."""
    alice = w.alices[0]
    listing = next(iter(w.listings.values()))
    channel = "c" * 64
    if hold:
        params = {"provider": alice.id, "amount": amount, "key": f"hold-{task}", "task": task}
        held = await w.bob.clients["escrowd"].call("payment.hold", Hold, params)
        channel = held.payment.channel
    order = {
        "task": task,
        "provider": alice.id,
        "app": listing.app,
        "bundle": listing.record.body["bundle"],
        "input": None,
        "input_size": 0,
        "params": "{}",
        "price": PRICE,
        "channel": channel,
        "deadline": int(time.time()) + 60,
    }
    return order | (changes or {})


def sign(order: dict[str, Any], identity: Identity, network: str = NETWORK.id, kind: str = "order") -> dict[str, Any]:
    return sign_record(identity, kind, network, 1, order).model_dump()


async def send(w: World, record: dict[str, Any], peer: str | None = None, **more: Any) -> dict[str, Any]:
    """task.order as alice's gateway would hand it on."""
    params = {"order": record, "wait_s": 5.0, **more}
    return await w.alices[0].rpc_in.call_raw("task.order", params, peer=peer or w.bob.id)


def assert_untouched(w: World) -> None:
    """Nothing ran, nothing was accepted, no seat is taken."""
    alice = w.alices[0]
    assert alice.runtime.runs == []
    assert [p for p in alice.escrow.payments.values() if p.state != "REFUNDED"] == []
    assert alice.daemon.seats.use.running + alice.daemon.seats.use.queued == 0
    assert alice.daemon.ledger.live(lambda run: True) == 0


BENT: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("a price below the listing's", {"price": 1}, PriceChanged),
    ("a price above the listing's", {"price": PRICE + 1}, PriceChanged),
    ("another bundle", {"bundle": "d" * 64}, PriceChanged),
    ("an app that is not served", {"app": "d" * 64}, AppNotServed),
    ("another provider", {"provider": "d" * 64}, OrderRefused),
    ("a deadline that passed", {"deadline": 1}, DeadlinePassed),
    ("parameters the app does not know", {"params": '{"rm": "-rf"}'}, WrongParams),
    ("parameters that are no JSON", {"params": "rm -rf"}, WrongParams),
    ("parameters that are no text", {"params": {}}, BadRecord),
    ("a negative price", {"price": -PRICE}, BadRecord),
    ("a price as text", {"price": "0"}, BadRecord),
    ("a member too many", {"tip": 5}, BadRecord),
    ("an input without its size", {"input": "d" * 64, "input_size": -5}, OrderRefused),
    ("an input larger than allowed", {"input": "d" * 64, "input_size": 5000}, InputTooLarge),
]


@pytest.mark.parametrize(("changes", "error"), [(c, e) for _, c, e in BENT], ids=[i for i, _, _ in BENT])
def test_an_order_with_this_is_refused_and_nothing_runs(
    short_tmp: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    async def run() -> None:
        async with world(short_tmp, app=manifest(input=Files(required=False, max_bytes=4000))) as w:
            order = await body(w, changes)
            with pytest.raises(error) as caught:
                await send(w, sign(order, w.bob.identity))
            assert caught.value.hint  # type: ignore[attr-defined]
            assert_untouched(w)

    asyncio.run(run())


def test_a_forged_order_is_refused_and_nothing_runs(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            order = await body(w)
            good = sign(order, w.bob.identity)
            forged: list[tuple[dict[str, Any], type[Exception]]] = [
                ({**good, "sig": "0" * 128}, BadSignature),
                ({**good, "body": {**order, "deadline": order["deadline"] + 1}}, BadSignature),
                ({**good, "seq": 2}, BadSignature),
                (sign(order, MALLORY), BadSignature),
                ({**sign(order, MALLORY), "node": w.bob.id}, BadSignature),
                (sign(order, w.bob.identity, network="9" * 64), WrongNetwork),
                (sign(order, w.bob.identity, kind="receipt"), BadRecord),
            ]
            for record, error in forged:
                with pytest.raises(error):
                    await send(w, record)
            with pytest.raises(BadSignature):
                await send(w, good, peer=MALLORY.node_id)
            assert_untouched(w)
            assert (await send(w, good))["state"] == "done"

    asyncio.run(run())


def test_an_order_without_enough_money_behind_it_is_refused(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            with pytest.raises(NotCovered):
                await send(w, sign(await body(w, hold=False), w.bob.identity))
            with pytest.raises(NotCovered):
                await send(w, sign(await body(w, amount=PRICE - 1, task="cd" * 16), w.bob.identity))
            assert_untouched(w)

    asyncio.run(run())


def test_the_same_order_sent_again_and_again_runs_once(short_tmp: Path) -> None:
    async def slow(given: Any, params: Any, progress: Any) -> RunResult:
        await asyncio.sleep(0.1)
        return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].runtime.work = slow
            record = sign(await body(w), w.bob.identity)
            replies = await asyncio.gather(*(send(w, record) for _ in range(6)))
            assert all(reply == replies[0] for reply in replies)
            assert replies[0]["state"] == "done"
            # Signed anew, as after a restart of the buyer: still the same order.
            again = sign_record(w.bob.identity, "order", NETWORK.id, 99, record["body"]).model_dump()
            assert await send(w, again) == replies[0]
            assert len(w.alices[0].runtime.runs) == 1
            assert w.alices[0].escrow.calls.count("accept") == 1
            await w.alices[0].restart()
            assert await send(w, record) == replies[0]
            assert len(w.alices[0].runtime.runs) == 1

    asyncio.run(run())


def test_an_order_that_was_paid_and_forgotten_is_not_done_again_for_nothing(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            alice = w.alices[0]
            record = sign(await body(w), w.bob.identity)
            assert (await send(w, record))["state"] == "done"
            await until(lambda: [p.state for p in alice.escrow.payments.values()] == ["DONE"])
            await until(lambda: alice.daemon.ledger.live(lambda run: True) == 0)
            await alice.daemon.ledger.flush()
            # Its deadline is still ahead when `keep_days` are over.
            await alice.daemon.ledger.prune(2**40)
            with pytest.raises(OrderRefused):
                await send(w, record)
            assert len(alice.runtime.runs) == 1
            assert [p.state for p in alice.escrow.payments.values()] == ["DONE"]

    asyncio.run(run())


def test_another_order_under_the_same_task_is_refused(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            order = await body(w)
            await send(w, sign(order, w.bob.identity))
            with pytest.raises(Conflict):
                await send(w, sign({**order, "params": '{"n":1}'}, w.bob.identity))
            assert len(w.alices[0].runtime.runs) == 1

    asyncio.run(run())


def test_a_buyer_that_orders_under_anothers_task_id_does_not_meet_its_work(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            alice = w.alices[0]
            await send(w, sign(await body(w), w.bob.identity))
            w.escrows[MALLORY.node_id] = w.bob.escrow
            order = await body(w, {"params": '{"n":1}', "channel": "d" * 64}, hold=False)
            reply = await send(w, sign(order, MALLORY), peer=MALLORY.node_id)
            assert reply["state"] == "done"
            assert len(set(alice.runtime.runs)) == 2, "the sandbox would take both for one task"
            for peer in (w.bob.id, MALLORY.node_id):
                seen = await alice.rpc_in.call_raw("task.poll", {"task": TASK}, peer=peer)
                assert seen["state"] == "done"

    asyncio.run(run())


def test_strangers_can_neither_see_nor_stop_a_task(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            await send(w, sign(await body(w), w.bob.identity))
            for method in ("task.poll", "task.abort"):
                with pytest.raises(TaskUnknown):
                    await w.alices[0].rpc_in.call_raw(method, {"task": TASK}, peer=MALLORY.node_id)
            seen = await w.alices[0].rpc_in.call_raw("task.poll", {"task": TASK}, peer=w.bob.id)
            assert seen["state"] == "done"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "declared", "error"),
    [
        (b"something else", {}, OrderRefused),
        (b"tex", {"input_size": 3, "input": hashlib.sha256(b"text").hexdigest()}, OrderRefused),
        (b"text", {"app_input": Files(media=["image/png"])}, WrongMedia),
        (None, {"input": None, "input_size": 0, "app_input": Files()}, InputMissing),
        (bytes(70_000), {}, OrderRefused),
    ],
)
def test_an_input_that_is_not_the_ordered_one_is_refused(
    short_tmp: Path, given: bytes | None, declared: dict[str, Any], error: type[Exception]
) -> None:
    async def run() -> None:
        fields = dict(declared)
        app = manifest(input=fields.pop("app_input", Files(required=False)))
        async with world(short_tmp, app=app) as w:
            named = {"input": hashlib.sha256(b"text").hexdigest(), "input_size": 4}
            order = await body(w, named | fields)
            more = {} if given is None else {"input": base64.b64encode(given).decode()}
            with pytest.raises(error):
                await send(w, sign(order, w.bob.identity), **more)
            assert_untouched(w)

    asyncio.run(run())


def test_a_large_input_that_is_never_handed_over_costs_nobody_anything(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            order = await body(w, {"input": "d" * 64, "input_size": 90_000})
            reply = await send(w, sign(order, w.bob.identity))
            assert (reply["state"], reply["receipt"]["error"]) == ("failed", "InputMissing")
            assert w.alices[0].runtime.runs == []
            await until(lambda: [p.state for p in w.alices[0].escrow.payments.values()] == ["REFUNDED"])

    asyncio.run(run())


def test_a_flood_of_orders_is_refused_and_leaves_nothing_behind(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp, provider={"tasks": 1, "queue": 2}) as w:
            gate = asyncio.Event()

            async def wait(given: Any, params: Any, progress: Any) -> RunResult:
                await gate.wait()
                return RunResult(output=payload(b"x"), error=None, wall_ms=1, cpu_ms=1, log="")

            w.alices[0].runtime.work = wait
            records = [sign(await body(w, task=f"{n:032x}"), w.bob.identity) for n in range(10)]
            replies = await asyncio.gather(*(send(w, r, wait_s=0.0) for r in records), return_exceptions=True)
            refused = [reply for reply in replies if isinstance(reply, ProviderBusy)]
            assert len(refused) == 7
            gate.set()
            await until(lambda: w.alices[0].daemon.seats.use.running == 0)
            assert len(w.alices[0].runtime.runs) == 3

    asyncio.run(run())


def test_work_that_needs_more_than_is_lent_is_refused(short_tmp: Path) -> None:
    async def run() -> None:
        app = manifest(resources=Resources(memory_mb=4096))
        async with world(short_tmp, app=app, provider={"memory_mb": 1024}) as w:
            with pytest.raises(TaskTooLarge):
                await send(w, sign(await body(w), w.bob.identity))
            assert_untouched(w)

    asyncio.run(run())


@pytest.mark.parametrize("error", [SandboxMissing, SandboxDegraded])
def test_without_a_sandbox_no_task_is_taken(
    short_tmp: Path, error: type[SandboxMissing] | type[SandboxDegraded]
) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            w.alices[0].runtime.refuses = error("no sandbox here")
            with pytest.raises(error):
                await send(w, sign(await body(w), w.bob.identity))
            assert_untouched(w)
            await w.alices[0].daemon._tell()
            assert w.alices[0].registry.served == [], "nobody is told that it could be ordered"

    asyncio.run(run())
