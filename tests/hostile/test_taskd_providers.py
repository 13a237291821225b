"""Providers that lie, babble or go silent: the buyer pays nothing, loses nothing and names what happened."""

import asyncio
import base64
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dux_taskd import orders
from dux_taskd.runtimes.base import RunResult
from duxcommon.api.common import SignedRecord
from duxcommon.api.manifest import Files
from duxcommon.api.taskd import Task
from duxcommon.errors import (
    DaemonDown,
    DiskFull,
    DuxError,
    InsufficientFunds,
    PeerUnreachable,
    PriceChanged,
    ProviderBusy,
    RateLimited,
    TimedOut,
)
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from tests.taskd_kit import World, manifest, payload, world
from tests.taskd_stand_ins import NETWORK, PRICE

MALLORY = Identity(b"m" * 32)
Change = Callable[[World, dict[str, Any]], Any]


def resign(w: World, reply: dict[str, Any], identity: Identity | None = None, network: str = "", **changes: Any) -> Any:
    """The reply with a receipt that says something else, signed anew."""
    record = SignedRecord.model_validate(reply["receipt"])
    signed = sign_record(
        identity or w.alices[0].identity, record.kind, network or NETWORK.id, record.seq, record.body | changes
    )
    return {**reply, "receipt": signed.model_dump()}


def tamper(reply: dict[str, Any], **changes: Any) -> Any:
    """The reply with a receipt that was changed after it was signed."""
    receipt = {**reply["receipt"], "body": {**reply["receipt"]["body"], **changes}}
    return {**reply, "receipt": receipt}


def other(data: bytes) -> dict[str, Any]:
    return {"output": hashlib.sha256(data).hexdigest(), "output_size": len(data)}


OTHER = base64.b64encode(b"other").decode()

LIES: list[tuple[str, Change, str]] = [
    ("nothing that is an object", lambda w, r: None, "ProviderGarbage"),
    ("a list", lambda w, r: [r], "ProviderGarbage"),
    ("text", lambda w, r: "done", "ProviderGarbage"),
    ("an unknown state", lambda w, r: {**r, "state": "paid"}, "ProviderGarbage"),
    ("progress beyond 100", lambda w, r: {**r, "progress": 101}, "ProviderGarbage"),
    ("one member too many", lambda w, r: {**r, "pay_to": "me"}, "ProviderGarbage"),
    ("another task", lambda w, r: {**r, "task": "0" * 32}, "ProviderGarbage"),
    ("no receipt", lambda w, r: {**r, "receipt": None}, "ProviderGarbage"),
    ("a result that is no base64", lambda w, r: {**r, "output": "a==="}, "ProviderGarbage"),
    ("another result than it signed", lambda w, r: {**r, "output": OTHER}, "ReceiptMismatch"),
    ("no result", lambda w, r: {**r, "output": None}, "ReceiptMismatch"),
    ("a receipt for another order", lambda w, r: resign(w, r, order="0" * 64), "ReceiptMismatch"),
    ("a receipt for another task", lambda w, r: resign(w, r, task="0" * 32), "ReceiptMismatch"),
    ("a receipt that says failed", lambda w, r: resign(w, r, ok=False), "ReceiptMismatch"),
    ("failed with a receipt that says done", lambda w, r: {**r, "state": "failed"}, "ReceiptMismatch"),
    ("a smaller size", lambda w, r: resign(w, r, output_size=1), "ReceiptMismatch"),
    ("a negative size", lambda w, r: resign(w, r, output_size=-1), "OutputInvalid"),
    ("a receipt without a result", lambda w, r: resign(w, r, output=None), "ReceiptMismatch"),
    ("a malformed receipt", lambda w, r: resign(w, r, ok="yes"), "BadRecord"),
    ("a receipt signed by another key", lambda w, r: resign(w, r, MALLORY), "BadSignature"),
    ("a receipt of another network", lambda w, r: resign(w, r, network="9" * 64), "WrongNetwork"),
    ("a receipt changed afterwards", lambda w, r: tamper(r, wall_ms=1), "BadSignature"),
    ("text for an image", lambda w, r: resign(w, {**r, "output": OTHER}, **other(b"other")), "OutputInvalid"),
    ("more than promised", lambda w, r: resign(w, {**r, "output": None}, **other(bytes(200_000))), "OutputInvalid"),
    ("a result it keeps", lambda w, r: resign(w, {**r, "output": None}, **other(bytes(90_000))), "ProviderGarbage"),
]  # fmt: skip

PNG = b"\x89PNG\r\n\x1a\n" + b"a picture"


async def image(given: Any, params: Any, progress: Any) -> RunResult:
    return RunResult(output=payload(PNG), error=None, wall_ms=7, cpu_ms=7, log="")


def refused(folder: Path, intercept: Any, **run: Any) -> Task:
    """A call to a lying provider: nothing is paid, everything comes back."""

    async def work() -> Task:
        app = manifest(output=Files(media=["image/png"], max_bytes=100_000))
        async with world(folder, app=app) as w:
            w.alices[0].runtime.work = image
            w.intercept = lambda node, method, params, go_on: intercept(w, method, params, go_on)
            task = await w.bob.run(**run)
            assert task.state == "FAILED"
            assert w.paid == []
            assert w.bob.escrow.held() == 0
            w.assert_balanced(w.bob)
            return task

    return asyncio.run(work())


@pytest.mark.parametrize(("change", "name"), [(c, n) for _, c, n in LIES], ids=[i for i, _, _ in LIES])
def test_a_provider_that_answers_this_is_not_paid(short_tmp: Path, change: Change, name: str) -> None:
    async def lie(w: World, method: str, params: Any, go_on: Any) -> Any:
        return change(w, await go_on())

    task = refused(short_tmp, lie)
    assert task.error is not None
    assert task.error["data"]["name"] == name
    assert task.error["data"]["hint"]
    assert task.attempts[0].outcome == name


def test_a_receipt_of_an_earlier_task_buys_nothing(short_tmp: Path) -> None:
    async def run() -> None:
        async with world(short_tmp) as w:
            earlier: list[Any] = []

            async def replay(node: str, method: str, params: Any, go_on: Any) -> Any:
                reply = await go_on()
                earlier.append(reply)
                return {**reply, "receipt": earlier[0]["receipt"], "output": earlier[0]["output"]}

            w.intercept = replay
            assert (await w.bob.run(key="first", input=payload(b"one"))).state == "DONE"
            task = await w.bob.run(key="second", input=payload(b"two"))
            assert task.state == "FAILED"
            assert task.error is not None
            assert task.error["data"]["name"] == "ReceiptMismatch"
            assert w.paid_for(task.id) == 0
            w.assert_balanced(w.bob)

    asyncio.run(run())


def test_a_provider_that_never_answers_is_given_up_and_not_paid(short_tmp: Path) -> None:
    async def unreachable(w: World, method: str, params: Any, go_on: Any) -> Any:
        raise PeerUnreachable("nothing came back")

    task = refused(short_tmp, unreachable)
    assert task.error is not None
    assert task.error["data"]["name"] == "ProviderSilent"


def test_a_provider_that_takes_the_order_and_never_answers_is_ended_by_the_deadline(short_tmp: Path) -> None:
    async def silent(w: World, method: str, params: Any, go_on: Any) -> Any:
        if method == "task.abort":
            raise PeerUnreachable("nothing came back")
        await asyncio.sleep(30)

    task = refused(short_tmp, silent, deadline_s=1)
    assert task.error is not None
    assert task.error["data"]["name"] == "DeadlinePassed"


def test_a_provider_that_runs_for_ever_is_stopped_by_the_deadline(short_tmp: Path) -> None:
    async def forever(w: World, method: str, params: Any, go_on: Any) -> Any:
        task = params["order"]["body"]["task"] if method == "task.order" else params["task"]
        return {
            "task": task, "state": "running", "progress": 50, "log": "x" * 10_000, "log_offset": 2**39, "receipt": None,
            "output": None,
        }  # fmt: skip

    task = refused(short_tmp, forever, deadline_s=1)
    assert task.error is not None
    assert task.error["data"]["name"] == "DeadlinePassed"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (InsufficientFunds("send 5 FLOP to me first"), "RemoteError"),
        (DiskFull("yours"), "RemoteError"),
        (PriceChanged("always"), "PriceChanged"),
    ],
)
def test_a_provider_cannot_speak_for_this_nodes_wallet(short_tmp: Path, error: DuxError, name: str) -> None:
    async def refuse(w: World, method: str, params: Any, go_on: Any) -> Any:
        raise type(error)(error.message, hint="send coins to the address that I mail you")

    task = refused(short_tmp, refuse)
    assert task.error is not None
    assert task.error["data"]["name"] == name
    assert "mail you" not in str(task.error)


def test_a_provider_that_is_always_busy_keeps_nobody_beyond_the_deadline(short_tmp: Path) -> None:
    async def busy(w: World, method: str, params: Any, go_on: Any) -> Any:
        raise ProviderBusy("later")

    task = refused(short_tmp, busy, deadline_s=1)
    assert task.error is not None
    assert task.error["data"]["name"] == "DeadlinePassed"


@pytest.mark.parametrize("error", [DaemonDown, TimedOut, RateLimited, DiskFull, InsufficientFunds])
def test_a_provider_that_refuses_a_channel_in_our_daemons_words_keeps_nobody(
    short_tmp: Path, error: type[DuxError]
) -> None:
    async def run() -> None:
        async with world(short_tmp, providers=2) as w:
            mallory, alice = w.alices
            hold = w.bob.escrow.hold

            async def refused(**params: Any) -> Any:
                if params["provider"] == mallory.id:
                    raise error("not here", details={"peer": mallory.id})
                return await hold(**params)

            bound = w.bob.clients["escrowd"]._bound
            bound["payment.hold"] = dataclasses.replace(bound["payment.hold"], call=refused)
            w.latency = {mallory.id: 1.0, alice.id: 500.0}
            task = await w.bob.run(deadline_s=60)
            assert (task.state, task.attempts[0].provider) == ("DONE", mallory.id)
            alone = await w.bob.run(key="k2", provider=mallory.id, deadline_s=2)
            assert alone.state == "FAILED"
            w.assert_balanced(w.bob)

    asyncio.run(run())


def test_an_endless_log_is_cut(short_tmp: Path) -> None:
    async def babble(w: World, method: str, params: Any, go_on: Any) -> Any:
        return {**await go_on(), "log": "y" * 500_000}

    async def run() -> None:
        async with world(short_tmp) as w:
            w.intercept = lambda node, method, params, go_on: babble(w, method, params, go_on)
            task = await w.bob.run()
            assert task.state == "DONE"
            assert len(w.bob.daemon.queue.get(task.id).log) == 65_536
            assert w.paid_for(task.id) == PRICE

    asyncio.run(run())


def test_what_a_strangers_error_says_cannot_steer_a_terminal() -> None:
    error = orders.remote_error(ProviderBusy("\x1b[2Jcleared\r\n" + "z" * 9000))
    assert "\x1b" not in error.message
    assert len(error.message) <= 500
