"""What people and providers can get wrong in a paid call: each is refused with code, name and hint, and costs nothing.

Every item of bad input, and where it is tested. "calls" is this module, "trouble" test_bad_input_trouble.py, "disk"
test_bad_input_full_disk.py, "daemons" test_bad_input_daemons.py.

    unknown app or node                        calls
    no provider, none cheap enough             calls; tests/property/test_scheduler.py counts them
    too little money                           calls; tests/chain/test_flopd_wallet.py for each part of the balance
    a price that changed                       calls; tests/network/test_taskd_calls.py for one that changes midway
    input missing, too large, not an image     calls
    a decompression bomb                       calls; tests/unit/test_image_upscale.py, test_bundle_bombs.py for apps
    garbage, another result, no answer         calls; tests/hostile/test_taskd_providers.py has 30 lies
    a bad order                                tests/hostile/test_taskd_buyers.py
    a bad receipt                              tests/hostile/test_taskd_providers.py
    a bad state                                tests/hostile/test_escrowd_states.py: high S, key, amount, number
    a bad record                               tests/unit/test_store_listings.py, network/test_registryd_directory.py
    bad JSON, NaN, batches                     daemons (each real daemon); tests/hostile/test_rpc_wire.py has all forms
    unknown parameters                         daemons (each method of each daemon)
    without the right group                    trouble; tests/hostile/test_rpc_access.py with real users and groups
    flopd locked                               trouble
    chain down, wrong genesis, syncing         trouble; tests/chain/test_flopd_bad_core.py
    a daemon down                              trouble
    a full disk                                disk; tests/unit/test_db.py
    a second daemon                            trouble
"""

import asyncio
import base64
import hashlib
import shutil
import signal
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from dux_ctl import exits
from dux_devnet.network import wait_until
from dux_taskd.orders import body_hash
from duxcommon.api.common import Base64, Model, SignedRecord, TaskId
from duxcommon.config import Access
from duxcommon.errors import (
    AppFailed,
    AppUnknown,
    DeadlinePassed,
    DuxError,
    InputMissing,
    InputTooLarge,
    InsufficientFunds,
    InvalidParams,
    NoProvider,
    PriceChanged,
    ProviderGarbage,
    ProviderSilent,
    ProviderUnknown,
    ReceiptMismatch,
    TooExpensive,
    UnknownNode,
    WrongMedia,
    WrongParams,
)
from duxcommon.money import COIN
from duxcommon.rpc import Caller, Server, collect, method
from tests.support.devnet import APPS, ROOT, TestNet, running_devnet
from tests.support.refusals import assert_error, refused, refused_call, unchanged

TEST_APPS = ROOT / "tests" / "apps"
NOBODY = "f" * 64
DEAR, SLOW = "dear-echo", "slow-echo"
PURSE, DEPOSIT = 40, 25
"""FLOP of bob, and how much of it he can spend on his channel to alice."""
SILENCE_S = 2


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice sells apps at 0.5, 10 and 90 FLOP; bob has 40 FLOP and a channel to her; carol arbitrates."""
    settings = {
        "bob/escrowd": {"deposit_cap": 200 * COIN},
        "bob/taskd": {"buyer": {"silence_s": SILENCE_S, "listing_s": 0}},
    }
    with running_devnet(overrides=settings) as net, tempfile.TemporaryDirectory(prefix="dux") as folder:
        net.fund("bob", PURSE)
        provider = net.layout.node_ids["alice"]
        opened = net.call("bob", "channel.open", {"provider": provider, "amount": DEPOSIT * COIN, "key": net.key()})
        net.publish("alice", APPS / "hello-words")
        net.publish("alice", APPS / "image-upscale")
        net.publish("alice", TEST_APPS / SLOW)
        publish_at(net, Path(folder), "90", "1.0.0")
        net.wait_channel("bob", opened["id"], "OPEN")
        yield net
        net.run_task("bob", "hello-words", b"still here")
        net.assert_audit()


def publish_at(net: TestNet, folder: Path, price: str, version: str) -> None:
    """Publish the app DEAR at a price in FLOP."""
    app = folder / DEAR
    shutil.copytree(TEST_APPS / "ten-flop", app, dirs_exist_ok=True)
    manifest = yaml.safe_load((app / "dux.yaml").read_text()) | {"name": DEAR, "price": price, "version": version}
    (app / "dux.yaml").write_text(yaml.safe_dump(manifest))
    net.publish("alice", app)


@pytest.fixture
def text(short_tmp: Path) -> str:
    """A file that hello-words takes."""
    (short_tmp / "text.txt").write_bytes(b"one two two")
    return str(short_tmp / "text.txt")


def failed(net: TestNet, app: str, data: bytes, error: type[DuxError], words: str = "", **more: Any) -> Any:
    """The task is taken and ends with `error`; what was held for it is free again."""
    with unchanged(net, "bob"):
        task = net.wait_task("bob", net.order("bob", app, data, **more)["id"])
        assert task["state"] == "FAILED", task
        assert_error(task["error"], error, words)
        wait_until(lambda: not net.call("bob", "payment.list", {"state": "ORDERED"})["payments"], 60, "the refund")
    return task


# --- which app, which node -------------------------------------------------------------------------------------------


def test_an_unknown_app_is_named_and_the_search_pointed_out(net: TestNet, text: str) -> None:
    with unchanged(net, "bob"):
        error = refused(net, "bob", AppUnknown, exits.NOT_FOUND, ["task", "run", "nowhere", text], "no app 'nowhere'")
        assert "dux-ctl app search" in error["data"]["hint"]
        refused(net, "bob", AppUnknown, exits.NOT_FOUND, ["app", "show", NOBODY], "no app with the id ffff")
        for params in ({"app": "nowhere"}, {"app": NOBODY}, {"app": "hello-words@ffffffff"}):
            refused_call(net, "bob", AppUnknown, "task.run", {**params, "key": net.key()})
        near = refused_call(net, "bob", AppUnknown, "app.show", {"app": "hello-wods"})
        assert near.details["near"] == ["hello-words"]


def test_an_unknown_node_is_named_and_the_list_of_nodes_pointed_out(net: TestNet, text: str) -> None:
    with unchanged(net, "bob"):
        error = refused(net, "bob", UnknownNode, exits.NOT_FOUND, ["node", "show", NOBODY], "no node ffffffffffffffff")
        assert "dux-ctl node list" in error["data"]["hint"]
        opening = {"provider": NOBODY, "amount": COIN, "key": net.key()}
        refused_call(net, "bob", ProviderUnknown, "channel.open", opening, "ffffffffffffffff")
        refused(net, "bob", ProviderUnknown, exits.NOT_FOUND, ["channel", "open", NOBODY, "1"])
        chosen = ["task", "run", "hello-words", text, "--provider", NOBODY]
        refused(net, "bob", NoProvider, exits.UNAVAILABLE, chosen, "1 not the one asked for")


def test_without_a_fitting_provider_the_error_says_which_condition_failed_for_how_many(net: TestNet, text: str) -> None:
    given = {"hash": hashlib.sha256(b"x").hexdigest(), "size": 1, "media": "text/plain", "data": "eA=="}
    run = {"app": "hello-words", "key": net.key(), "input": given}
    alone = refused_call(net, "alice", NoProvider, "task.run", run, "1 this node itself")
    assert alone.details == {"failed": {"this node itself": 1}, "known": 1}
    net.call("alice", "provider.pause", {"paused": True})
    try:
        with unchanged(net, "bob"):
            wait_until(lambda: not _accepting(net), 60, "the pause to be known")
            said = "none of 1 nodes can do hello-words: 1 not accepting tasks"
            refused(net, "bob", NoProvider, exits.UNAVAILABLE, ["task", "run", "hello-words", text], said)
    finally:
        net.call("alice", "provider.pause", {"paused": False})
    wait_until(lambda: _accepting(net), 60, "the end of the pause")


def _accepting(net: TestNet) -> bool:
    providers = net.call("bob", "app.providers", {"app": "hello-words"})["providers"]
    return bool(providers[0]["accepting"])


# --- the price and the money -----------------------------------------------------------------------------------------


def test_when_none_is_cheap_enough_the_cheapest_price_is_named(net: TestNet, text: str) -> None:
    with unchanged(net, "bob"):
        command = ["task", "run", "hello-words", text, "--max-price", "0.25"]
        error = refused(net, "bob", TooExpensive, exits.FAILED, command, "the cheapest provider asks 0.50 FLOP")
        figures = error["data"]["details"]
        assert (figures["cheapest"], figures["max_price"]) == (COIN // 2, COIN // 4)
        assert figures["failed"] == {"too expensive": 1}
        assert "--max-price" in error["data"]["hint"]


def test_a_price_that_rose_since_the_search_is_not_paid(net: TestNet, text: str, short_tmp: Path) -> None:
    shown = net.call("bob", "app.show", {"app": DEAR})["price"]
    publish_at(net, short_tmp, "91.5", "1.0.1")
    wait_until(lambda: net.call("bob", "app.show", {"app": DEAR})["price"] > shown, 60, "the new price")
    with unchanged(net, "bob"):
        run = {"app": DEAR, "key": net.key(), "expect_price": shown}
        error = refused_call(net, "bob", PriceChanged, "task.run", run, "now costs 91.50 FLOP, not 90.00 FLOP")
        assert error.details == {"price": 9_150_000_000, "expected": 9_000_000_000}
        command = ["task", "run", DEAR, text, "--expect-price", "90"]
        refused(net, "bob", PriceChanged, exits.FAILED, command, "now costs 91.50 FLOP")


def test_too_little_money_says_what_is_there_what_is_needed_and_how_to_get_more(net: TestNet, text: str) -> None:
    have = net.call("bob", "wallet.balance")["spendable"]
    address = net.call("alice", "wallet.receive")["address"]
    task = failed(net, DEAR, b"x", InsufficientFunds, "you have")
    assert "wallet receive" in task["error"]["data"]["hint"]
    with unchanged(net, "bob"):
        error = refused(
            net, "bob", InsufficientFunds, exits.NO_MONEY, ["wallet", "send", address, "500"], "FLOP are missing"
        )
        figures = error["data"]["details"]
        assert figures["have"] == have
        assert figures["need"] > 500 * COIN
        assert figures["missing"] == figures["need"] - have
        refused(net, "bob", InsufficientFunds, exits.NO_MONEY, ["task", "run", DEAR, text], "you have")
        channel = net.call("bob", "channel.list", {"state": "OPEN"})["channels"][0]["id"]
        refused(net, "bob", InsufficientFunds, exits.NO_MONEY, ["channel", "topup", channel, "100"], "you have")


# --- the input -------------------------------------------------------------------------------------------------------


def test_a_missing_input_is_refused_before_anything_is_ordered(net: TestNet) -> None:
    with unchanged(net, "bob"):
        refused(net, "bob", InputMissing, exits.FAILED, ["task", "run", "hello-words"], "needs an input file")
        absent = {"hash": "ab" * 32, "size": 70_000, "media": "text/plain"}
        run = {"app": "hello-words", "key": net.key(), "input": absent}
        refused_call(net, "bob", InputMissing, "task.run", run, "was not uploaded")
        command = ["task", "run", "hello-words", "/no/such/file"]
        refused(net, "bob", InvalidParams, exits.USAGE, command, "can't read /no/such/file")


def test_an_input_that_is_not_what_its_hash_says_is_refused(net: TestNet) -> None:
    given = {"hash": "ab" * 32, "size": 3, "media": "text/plain", "data": "YWJj"}
    with unchanged(net, "bob"):
        for wrong in (given, given | {"hash": hashlib.sha256(b"abc").hexdigest(), "size": 4}):
            run = {"app": "hello-words", "key": net.key(), "input": wrong}
            refused_call(net, "bob", InvalidParams, "task.run", run, "the input")


def test_an_input_larger_than_the_app_takes_is_refused_before_anything_is_ordered(
    net: TestNet, short_tmp: Path
) -> None:
    large = short_tmp / "large.txt"
    large.write_bytes(b"word " * 250_000)
    with unchanged(net, "bob"):
        command = ["task", "run", "hello-words", str(large)]
        error = refused(net, "bob", InputTooLarge, exits.FAILED, command, "1250000")
        assert "1048576" in error["message"]


def test_an_input_that_is_no_image_is_refused_whatever_its_name(net: TestNet, short_tmp: Path) -> None:
    disguised = short_tmp / "photo.png"
    disguised.write_bytes(b"%PDF-1.7 no picture at all")
    with unchanged(net, "bob"):
        command = ["task", "run", "image-upscale", str(disguised)]
        error = refused(net, "bob", WrongMedia, exits.FAILED, command, "image/png")
        assert "its content counts" in error["data"]["hint"]


def test_unknown_parameters_of_an_app_are_refused_before_anything_is_ordered(net: TestNet, short_tmp: Path) -> None:
    picture = short_tmp / "photo.png"
    picture.write_bytes(png_claiming(4, 4))
    with unchanged(net, "bob"):
        for setting, words in (
            ("faktor=2", "no parameter faktor; it has factor, format"),
            ("factor=9", "factor: 9 is greater than"),
        ):
            command = ["task", "run", "image-upscale", str(picture), "--set", setting]
            refused(net, "bob", WrongParams, exits.FAILED, command, words)


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def test_a_decompression_bomb_harms_nobody_and_costs_nothing(net: TestNet, short_tmp: Path) -> None:
    bomb = short_tmp / "bomb.png"
    bomb.write_bytes(png_claiming(60_000, 60_000))
    with unchanged(net, "alice", "bob"):
        done = net.ctl("bob", "task", "run", "image-upscale", str(bomb), "--output", str(short_tmp / "big.png"))
        assert done.returncode == exits.TASK_FAILED, done
        assert "(AppFailed 4510)" in done.stderr.decode()
        assert not (short_tmp / "big.png").exists()
        task = net.call("bob", "task.list", {"limit": 1})["tasks"][0]
        assert_error(task["error"], AppFailed)
        log = net.call("bob", "task.logs", {"id": task["id"]})["text"]
        assert "pixels" in log
        assert task["attempts"][0]["outcome"] == "AppFailed"


# --- the provider ----------------------------------------------------------------------------------------------------


class Receipt(Model):
    """An answer of any form, whose receipt the gateway signs."""

    task: TaskId
    state: str
    progress: int
    log: str
    log_offset: int
    receipt: dict[str, Any] | None
    output: str | None


class Liar:
    """A provider's taskd that answers each order with whatever `lie` makes of it."""

    def __init__(self, lie: Callable[[SignedRecord], Any]) -> None:
        self._lie = lie

    @method("task.order", access="peer", reply_record="receipt")
    async def order(
        self, order: SignedRecord, caller: Caller, input: Base64 | None = None, state: Any = None, wait_s: float = 0
    ) -> Receipt:
        """Answer an order."""
        reply = self._lie(order)
        if reply is None:
            await asyncio.sleep(3600)
        return Receipt(**reply)

    @method("task.poll", access="peer", reply_record="receipt")
    async def poll(
        self, task: TaskId, caller: Caller, wait_s: float = 0, log_offset: Annotated[int, Field(ge=0)] = 0
    ) -> Receipt:
        """Never answers."""
        await asyncio.sleep(3600)
        raise AssertionError

    @method("task.abort", access="peer", reply_record="receipt")
    async def abort(self, task: TaskId, caller: Caller) -> Receipt:
        """Never answers."""
        await asyncio.sleep(3600)
        raise AssertionError


@contextmanager
def liar_at(net: TestNet, node: str, lie: Callable[[SignedRecord], Any]) -> Iterator[None]:
    """Put a liar in the place of a node's taskd; everything else of the node is real."""
    net.stop([f"{node}/taskd"])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve() -> None:
        path = net.socket_path(node, "taskd")
        server = Server(collect([Liar(lie)]), Access(), 1000)
        await asyncio.start_unix_server(server.serve_connection, path=str(path))

    async def end() -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        net.socket_path(node, "taskd").unlink(missing_ok=True)
        net.restart(f"{node}/taskd")


def answer(order: SignedRecord, output: bytes, signed: bytes) -> dict[str, Any]:
    """A reply with `output` whose receipt is for `signed`."""
    task = order.body["task"]
    receipt = {
        "task": task, "order": body_hash(order.body), "ok": True, "output": hashlib.sha256(signed).hexdigest(),
        "output_size": len(signed), "media": "application/json", "error": "", "detail": "", "wall_ms": 1, "cpu_ms": 1,
    }  # fmt: skip
    encoded = base64.b64encode(output).decode()
    return {
        "task": task, "state": "done", "progress": 100, "log": "", "log_offset": 0, "receipt": receipt,
        "output": encoded,
    }  # fmt: skip


def test_a_provider_that_answers_garbage_is_not_paid(net: TestNet) -> None:
    with liar_at(net, "alice", lambda order: answer(order, b"{}", b"{}") | {"state": "paid twice"}):
        failed(net, "hello-words", b"x", ProviderGarbage)


def test_a_provider_that_answers_something_else_than_it_signed_is_not_paid(net: TestNet) -> None:
    with liar_at(net, "alice", lambda order: answer(order, b"{}", b'{"words": 1}')):
        failed(net, "hello-words", b"x", ReceiptMismatch)


def test_a_provider_that_takes_the_order_and_says_nothing_is_ended_by_the_deadline(net: TestNet) -> None:
    with liar_at(net, "alice", lambda order: None):
        failed(net, "hello-words", b"x", DeadlinePassed, deadline_s=2)


def test_a_provider_that_is_not_there_is_given_up_and_not_paid(net: TestNet) -> None:
    net.stop(["alice/taskd"])
    try:
        failed(net, "hello-words", b"x", ProviderSilent, f"no answer from the provider for {SILENCE_S} s")
    finally:
        net.restart("alice/taskd")


def test_a_provider_that_falls_asleep_midway_stops_when_it_wakes_up_and_claims_nothing(net: TestNet) -> None:
    order = net.order("bob", SLOW, b"patience", params={"seconds": 30}, retries=0)["id"]
    wait_until(lambda: net.call("bob", "task.status", {"id": order})["progress"], 60, "the app to run")
    net.kill("alice/registryd", signal.SIGSTOP)
    try:
        task = net.wait_task("bob", order)
        assert_error(task["error"], ProviderSilent)
    finally:
        net.kill("alice/registryd", signal.SIGCONT)
    wait_until(lambda: not net.call("alice", "payment.list", {"state": "ORDERED"})["payments"], 60, "alice to stop")
    assert not net.call("alice", "payment.list", {"state": "DONE"})["payments"]
    wait_until(lambda: _live(net), 60, "alice to be heard of again")
    net.run_task("bob", "hello-words", b"served again")


def _live(net: TestNet) -> bool:
    providers = net.call("bob", "app.providers", {"app": "hello-words"})["providers"]
    return bool(providers[0]["live"])
