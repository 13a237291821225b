"""Orders and receipts: what is signed is what was meant, and nothing else is believed."""

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest

from dux_taskd import orders, tasks
from duxcommon.api.common import SignedRecord
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import OrderReply, Payload, ReceiptBody
from duxcommon.errors import (
    AppNotServed,
    BadRecord,
    BadSignature,
    DeadlinePassed,
    InsufficientFunds,
    OrderRefused,
    ProviderGarbage,
    ReceiptMismatch,
    RemoteError,
    WrongNetwork,
)
from duxcommon.identity import Identity
from duxcommon.records import sign_record

NETWORK, OTHER_NETWORK = "1" * 64, "2" * 64
ALICE, BOB, MALLORY = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_700_000_000
INPUT = b"hello"
MANIFEST = Manifest(name="echo", version="1", summary="echo", price=10, runtime="command", command=["cat"])


def payload(data: bytes) -> Payload:
    return Payload(hash=hashlib.sha256(data).hexdigest(), size=len(data), data=base64.b64encode(data).decode())


def job() -> tasks.Job:
    blank = tasks.Job(
        id="ab" * 16,
        uid=0,
        app="a" * 64,
        name="echo",
        bundle="b" * 64,
        manifest=MANIFEST,
        input=payload(INPUT),
        params={"times": 2},
        max_price=10,
        pinned=None,
        priority=0,
        retries=2,
        deadline=NOW + 100,
        created=NOW,
    )
    return tasks.held(tasks.start(blank, ALICE.node_id, 10), "c" * 32, "d" * 64)


ORDER = orders.build_order(job())


def signed_order(body: dict[str, Any] = ORDER, identity: Identity = BOB, network: str = NETWORK) -> SignedRecord:
    return sign_record(identity, "order", network, 1, body, time=NOW)


def check(record: SignedRecord, data: bytes | None = INPUT) -> Any:
    text = None if data is None else base64.b64encode(data).decode()
    return orders.check_order(record, text, network=NETWORK, me=ALICE.node_id, buyer=BOB.node_id, now=NOW)


def reply(receipt: ReceiptBody, state: str = "done", output: bytes | None = None, **changes: Any) -> OrderReply:
    identity = changes.pop("identity", ALICE)
    network = changes.pop("network", NETWORK)
    fields = {
        "task": ORDER["task"],
        "state": state,
        "progress": 100,
        "log": "",
        "log_offset": 0,
        "receipt": sign_record(identity, "receipt", network, 1, receipt.model_dump(), time=NOW).model_dump(),
        "output": None if output is None else base64.b64encode(output).decode(),
    }
    return orders.parse_reply(fields | changes, ORDER)


def receipt(output: bytes | None = b"result", **changes: Any) -> ReceiptBody:
    made = orders.build_receipt(
        orders.body_hash(ORDER), ORDER["task"], None if output is None else payload(output), 5, 4
    )
    return made.model_copy(update=changes)


def test_the_order_of_an_attempt_is_the_same_after_a_restart() -> None:
    assert orders.build_order(job()) == ORDER
    assert orders.body_hash(orders.build_order(job())) == orders.body_hash(ORDER)


def test_a_good_order_comes_through_with_its_input() -> None:
    order, data = check(signed_order())
    assert order.price == 10
    assert data == INPUT


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (signed_order(identity=MALLORY), BadSignature),
        (signed_order(network=OTHER_NETWORK), WrongNetwork),
        (signed_order().model_copy(update={"body": ORDER | {"price": 1}}), BadSignature),
        (signed_order().model_copy(update={"node": MALLORY.node_id}), BadSignature),
        (sign_record(BOB, "receipt", NETWORK, 1, ORDER, time=NOW), BadRecord),
        (signed_order(ORDER | {"provider": MALLORY.node_id}), OrderRefused),
        (signed_order(ORDER | {"price": -5}), BadRecord),
        (signed_order(ORDER | {"price": "10"}), BadRecord),
        (signed_order(ORDER | {"tip": 1}), BadRecord),
        (signed_order({k: v for k, v in ORDER.items() if k != "channel"}), BadRecord),
        (signed_order(ORDER | {"input_size": -1}), OrderRefused),
        (signed_order(ORDER | {"input": None}), OrderRefused),
        (signed_order(ORDER | {"deadline": NOW}), DeadlinePassed),
    ],
)
def test_an_order_that_was_bent_is_refused(record: SignedRecord, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(record)


@pytest.mark.parametrize("data", [b"other", b"hellO", b"hello "])
def test_an_input_that_is_not_the_ordered_one_is_refused(data: bytes) -> None:
    with pytest.raises(OrderRefused):
        check(signed_order(), data)


def test_an_input_that_is_not_base64_is_refused() -> None:
    with pytest.raises(BadRecord):
        orders.check_order(signed_order(), "a===", network=NETWORK, me=ALICE.node_id, buyer=BOB.node_id, now=NOW)


def test_a_large_input_may_not_ride_in_the_message() -> None:
    big = bytes(70_000)
    body = ORDER | {"input": hashlib.sha256(big).hexdigest(), "input_size": len(big)}
    with pytest.raises(OrderRefused, match="offered by its hash"):
        check(signed_order(body), big)


def test_a_good_receipt_yields_the_result() -> None:
    answer = reply(receipt(), output=b"result")
    checked = orders.check_receipt(answer, ORDER, NETWORK)
    assert orders.inline_output(checked, answer.output) == b"result"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(receipt(), identity=MALLORY), BadSignature),
        (reply(receipt(), network=OTHER_NETWORK), WrongNetwork),
        (reply(receipt(order="0" * 64)), ReceiptMismatch),
        (reply(receipt(task="0" * 32)), ReceiptMismatch),
        (reply(receipt(ok=False)), ReceiptMismatch),
        (reply(receipt(), state="failed"), ReceiptMismatch),
    ],
)
def test_a_receipt_for_something_else_is_refused(answer: OrderReply, error: type[Exception]) -> None:
    with pytest.raises(error):
        orders.check_receipt(answer, ORDER, NETWORK)


@pytest.mark.parametrize("output", [b"resulT", b"result!", b"", None])
def test_a_result_that_was_not_signed_is_refused(output: bytes | None) -> None:
    text = None if output is None else base64.b64encode(output).decode()
    with pytest.raises(ReceiptMismatch):
        orders.inline_output(receipt(), text)


def test_a_large_result_is_left_to_be_fetched() -> None:
    assert orders.inline_output(receipt(bytes(70_000)), None) is None


def test_a_result_nobody_signed_for_is_refused() -> None:
    with pytest.raises(ReceiptMismatch):
        orders.inline_output(receipt(None), base64.b64encode(b"x").decode())


@pytest.mark.parametrize(
    "value",
    [None, [], "done", {}, {"task": "x"}, {"task": ORDER["task"], "state": "paid"}, 7, {"receipt": {"sig": "00"}}],
)
def test_garbage_is_called_garbage(value: Any) -> None:
    with pytest.raises(ProviderGarbage):
        orders.parse_reply(value, ORDER)


def test_an_answer_about_another_task_is_garbage() -> None:
    with pytest.raises(ProviderGarbage):
        reply(receipt(), task="0" * 32)


def test_done_without_a_receipt_is_garbage() -> None:
    with pytest.raises(ProviderGarbage):
        orders.parse_reply(reply(receipt()).model_dump() | {"receipt": None}, ORDER)


def test_a_failure_comes_back_as_the_error_it_names() -> None:
    failed = orders.failure_receipt(orders.body_hash(ORDER), ORDER["task"], AppNotServed("gone\x1b[2J"))
    error = orders.provider_error(failed)
    assert error.name == "AppNotServed"
    assert "\x1b" not in error.message


def test_a_provider_cannot_pretend_that_the_buyers_money_is_short() -> None:
    failed = orders.failure_receipt(orders.body_hash(ORDER), ORDER["task"], InsufficientFunds("pay me elsewhere"))
    assert isinstance(orders.provider_error(failed), RemoteError)


@pytest.mark.parametrize(("change", "what"), [({}, None), ({"price": 11}, "price"), ({"bundle": "e" * 64}, "version")])
def test_a_deal_that_changed_is_noticed(change: dict[str, Any], what: str | None) -> None:
    order, _ = check(signed_order(ORDER | change))
    assert orders.check_deal(order, MANIFEST, "b" * 64) == what


def test_an_order_needs_money_behind_it() -> None:
    bare = replace(job(), attempts=())
    with pytest.raises(Exception, match="no channel"):
        orders.build_order(bare)
