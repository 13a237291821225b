"""Orders and receipts: what a buyer asks and a provider says it did, each signed by its node. Pure.

The order names code, input, parameters and price by hash and amount; the receipt names the order and the result.
Both are known by the SHA-256 of their body's canonical bytes, which both sides compute for themselves.
"""

import base64
import binascii
import hashlib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from duxcommon.api.common import Hash32, NodeId, SignedRecord, UnixTime
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import INLINE_MAX, OrderBody, OrderReply, Payload, ReceiptBody
from duxcommon.errors import (
    BY_NAME,
    BadRecord,
    DeadlinePassed,
    DiskFull,
    DuxError,
    Internal,
    OrderRefused,
    OutputInvalid,
    ProviderGarbage,
    ReceiptMismatch,
    RemoteError,
)
from duxcommon.params import encode_params
from duxcommon.records import canonical, verify_record

from .tasks import Job

M = TypeVar("M", bound=BaseModel)

DETAIL_MAX = 500
"""Characters of a stranger's text that are kept."""

OUR_ERRORS = ("taskd", "sandbox")
"""Components whose errors a receipt may name; others (say, of money) would mislead the buyer."""


def body_hash(body: dict[str, Any]) -> Hash32:
    """SHA-256 of an order's or receipt's canonical bytes, hex."""
    return hashlib.sha256(canonical(body)).hexdigest()


def decode(data: str) -> bytes:
    """The bytes of a base64 text. Raises BadRecord."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRecord("not valid base64") from error


def encode(data: bytes | None) -> str | None:
    """Bytes as they travel inside a message."""
    return None if data is None else base64.b64encode(data).decode()


def clean(text: str) -> str:
    """A stranger's text, short and without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:DETAIL_MAX]).strip()


def _parse(model: type[M], value: Any, what: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRecord(f"the {what} is malformed: {place}: {first['msg']}"[:300]) from error


ELSEWHERE = ("common", "escrowd", "registryd", *OUR_ERRORS)
"""Components whose errors a call to another node may end in."""


# --- the buyer's side ------------------------------------------------------------------------------------------


def build_order(job: Job) -> dict[str, Any]:
    """The body of the order for the attempt under way: the same after a restart, byte for byte."""
    attempt = job.current
    if attempt is None or attempt.channel is None:
        raise Internal(f"task {job.id} has no channel to order on")
    return OrderBody(
        task=job.id,
        provider=attempt.provider,
        app=job.app,
        bundle=job.bundle,
        input=job.input.hash if job.input else None,
        input_size=job.input.size if job.input else 0,
        params=encode_params(job.params),
        price=attempt.price,
        channel=attempt.channel,
        deadline=job.deadline,
    ).model_dump()


def parse_reply(value: Any, order: dict[str, Any]) -> OrderReply:
    """A provider's answer to `order`. Raises ProviderGarbage when it is no answer to it."""
    try:
        reply = _parse(OrderReply, value, "reply")
    except BadRecord as error:
        raise ProviderGarbage(error.message) from error
    if reply.task != order["task"]:
        raise ProviderGarbage("the provider answered about another task")
    if reply.state in ("done", "failed") and reply.receipt is None:
        raise ProviderGarbage(f"the provider says {reply.state!r} and gives no receipt")
    return reply


def check_receipt(reply: OrderReply, order: dict[str, Any], network: Hash32) -> ReceiptBody:
    """The receipt of a finished `order`, signed by the node that was asked.

    Raises BadSignature, WrongNetwork or BadRecord for the record, ReceiptMismatch when it is about something else.
    """
    if reply.receipt is None:
        raise ProviderGarbage("the provider gives no receipt")
    verify_record(reply.receipt, kind="receipt", network=network, node=order["provider"])
    receipt = _parse(ReceiptBody, reply.receipt.body, "receipt")
    if receipt.task != order["task"] or receipt.order != body_hash(order):
        raise ReceiptMismatch("the receipt is for another order")
    if receipt.ok != (reply.state == "done"):
        raise ReceiptMismatch(f"the provider says {reply.state!r}, its receipt the opposite")
    return receipt


def provider_error(receipt: ReceiptBody) -> DuxError:
    """Why the provider could not do it, in its words."""
    known = BY_NAME.get(receipt.error)
    message = f"the provider says: {clean(receipt.detail) or 'no reason given'}"
    if known is not None and known.component in OUR_ERRORS:
        return known(message)
    return RemoteError(message, details={"name": clean(receipt.error)[:100]})


def of_peer(error: DuxError) -> bool:
    """Whether another node said it: registryd marks what comes from there, and nothing of it is certain."""
    return "peer" in error.details


def remote_error(error: DuxError) -> DuxError:
    """An error that came over the network, without the words that only this node may say.

    Its hint is our own for that error, and what is wrong with this node's wallet, store or disk only it says itself.
    """
    message = clean(error.message)
    if error.component in ELSEWHERE and not isinstance(error, DiskFull):
        return type(error)(message, details=error.details)
    return RemoteError(message, details={"name": error.name})


def inline_output(receipt: ReceiptBody, output: str | None) -> bytes | None:
    """The result that came inside the reply, checked against the receipt; None when it must be fetched.

    Raises ReceiptMismatch when the bytes are not those that were signed, OutputInvalid for an impossible receipt.
    """
    if receipt.output is None:
        if output or receipt.output_size:
            raise ReceiptMismatch("the receipt names no result, but one came")
        return None
    if not receipt.output_size >= 0:
        raise OutputInvalid("the result has a negative size")
    if output is None:
        if receipt.output_size <= INLINE_MAX:
            raise ReceiptMismatch("the result is missing from the reply")
        return None
    try:
        data = decode(output)
    except BadRecord as error:
        raise ProviderGarbage("the result is not valid base64") from error
    if len(data) != receipt.output_size or hashlib.sha256(data).hexdigest() != receipt.output:
        raise ReceiptMismatch("the result is not the one that the provider signed")
    return data


# --- the provider's side ---------------------------------------------------------------------------------------


def check_order(
    record: SignedRecord, input_data: str | None, *, network: Hash32, me: NodeId, buyer: NodeId, now: UnixTime
) -> tuple[OrderBody, bytes | None]:
    """An order that `buyer` signed for this node, and its inline input.

    Raises BadSignature, WrongNetwork, BadRecord, OrderRefused or DeadlinePassed.
    """
    verify_record(record, kind="order", network=network, node=buyer)
    order = _parse(OrderBody, record.body, "order")
    if order.provider != me:
        raise OrderRefused("the order names another provider")
    if order.input_size < 0 or (order.input is None and (order.input_size or input_data)):
        raise OrderRefused("the order names no input, but gives its size or its bytes")
    if order.deadline <= now:
        raise DeadlinePassed(f"the order's deadline passed {now - order.deadline} s ago")
    if input_data is None:
        return order, None
    data = decode(input_data)
    if len(data) > INLINE_MAX:
        raise OrderRefused(f"an input of {len(data)} bytes must be offered by its hash")
    if len(data) != order.input_size or hashlib.sha256(data).hexdigest() != order.input:
        raise OrderRefused("the input is not the one that the order names")
    return order, data


def check_deal(order: OrderBody, manifest: Manifest, bundle: Hash32) -> str | None:
    """What of the order is no longer on offer: "price", "version", or None when all of it is."""
    if order.price != manifest.price:
        return "price"
    return None if order.bundle == bundle else "version"


def build_receipt(order_hash: Hash32, task: str, output: Payload | None, wall_ms: int, cpu_ms: int) -> ReceiptBody:
    """The receipt for work that was done; `output` is its result."""
    return ReceiptBody(
        task=task,
        order=order_hash,
        ok=True,
        output=output.hash if output else None,
        output_size=output.size if output else 0,
        media=output.media if output else "",
        error="",
        detail="",
        wall_ms=wall_ms,
        cpu_ms=cpu_ms,
    )


def failure_receipt(order_hash: Hash32, task: str, reason: DuxError, wall_ms: int = 0, cpu_ms: int = 0) -> ReceiptBody:
    """The receipt for work that failed and is not charged."""
    return ReceiptBody(
        task=task,
        order=order_hash,
        ok=False,
        output=None,
        output_size=0,
        media="",
        error=reason.name,
        detail=reason.message[:DETAIL_MAX],
        wall_ms=wall_ms,
        cpu_ms=cpu_ms,
    )
