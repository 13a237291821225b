"""From a request to a task: everything that can be refused is refused here, before any money is touched."""

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any

from duxcommon.api.common import Koinu, NodeId
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import INLINE_MAX, Payload
from duxcommon.blobs import BlobStore
from duxcommon.errors import InputMissing, InvalidParams, NotFound, PriceChanged
from duxcommon.money import format_flop
from duxcommon.params import check_params

from . import tasks, verify
from .market import Offer
from .orders import decode, encode
from .scheduler import Need, choose


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for. Amounts are koinu, `deadline_s` seconds from now."""

    uid: int
    input: Payload | None
    params: dict[str, Any]
    max_price: Koinu | None
    expect_price: Koinu | None
    provider: NodeId | None
    deadline_s: int
    priority: int
    retries: int


def load_input(blobs: BlobStore, given: Payload | None, manifest: Manifest) -> Payload | None:
    """The input with its size, kind and, where it is small, its bytes, all checked.

    Raises InputMissing, InputTooLarge, WrongMedia, or InvalidParams when hash and bytes disagree.
    """
    if given is None:
        verify.check_input(manifest.input, None, b"")
        return None
    if given.data is None:
        try:
            size = blobs.size(given.hash)
            head = blobs.read(given.hash, 0, verify.HEAD)
        except NotFound as error:
            raise InputMissing(f"the input {given.hash[:16]}… was not uploaded") from error
        if size != given.size:
            raise InvalidParams(f"the input is {size} bytes, not {given.size}")
        data = head if size <= INLINE_MAX else None
    else:
        data = head = decode(given.data)
        size = len(data)
        if size > INLINE_MAX:
            raise InvalidParams(
                f"an input of {size} bytes does not fit into the message (at most {INLINE_MAX})",
                hint="Upload it with blob.write and give its hash.",
            )
        if size != given.size:
            raise InvalidParams(f"the input is {size} bytes, not {given.size}")
    if data is not None and hashlib.sha256(data).hexdigest() != given.hash:
        raise InvalidParams("the input's bytes do not have the hash that was given")
    media = verify.check_input(manifest.input, size, head)
    return Payload(hash=given.hash, size=size, media=media, data=encode(data))


def check_price(offer: Offer, request: Request) -> Koinu:
    """What one attempt may cost at most. Raises PriceChanged when the price rose above what the user saw."""
    price = offer.body.manifest.price
    expected = request.expect_price
    if expected is not None and price > expected:
        raise PriceChanged(
            f"{offer.listing.name} now costs {format_flop(price)} FLOP, not {format_flop(expected)} FLOP",
            details={"price": price, "expected": expected},
        )
    if request.max_price is not None:
        return request.max_price
    return price if expected is None else expected


def make_job(offer: Offer, request: Request, blobs: BlobStore, buyer: NodeId, now: int) -> tasks.Job:
    """A task with its first provider chosen.

    Raises PriceChanged, WrongParams, the errors of `load_input`, NoProvider or TooExpensive.
    """
    manifest = offer.body.manifest
    max_price = check_price(offer, request)
    check_params(manifest.params, request.params)
    job = tasks.Job(
        id=secrets.token_hex(16),
        uid=request.uid,
        app=offer.listing.app,
        name=offer.listing.name,
        bundle=offer.body.bundle,
        manifest=manifest,
        input=load_input(blobs, request.input, manifest),
        params=request.params,
        max_price=max_price,
        pinned=request.provider,
        priority=request.priority,
        retries=request.retries,
        deadline=now + request.deadline_s,
        created=now,
    )
    return next_attempt(job, offer, buyer)


def next_attempt(job: tasks.Job, offer: Offer, buyer: NodeId) -> tasks.Job:
    """The task with its next attempt: by the newest listing, with a provider that has not failed it.

    Raises NoProvider or TooExpensive; InputMissing and the like when a new version no longer takes what is given.
    """
    # A price that changed in between is no fault of the provider.
    excluded = {t.provider: t.outcome for t in job.attempts if t.outcome != "PriceChanged"}
    need = Need(job.id, job.name, job.max_price, buyer, job.pinned, excluded)
    chosen = choose(offer.providers, need)
    if offer.body.bundle != job.bundle:
        check_params(offer.body.manifest.params, job.params)
        job = replace(job, bundle=offer.body.bundle, manifest=offer.body.manifest)
    return tasks.start(job, chosen.node, chosen.price)
