"""The records that the network shares: signed by their nodes, sealed for the network, kept by many.

What arrives comes from anyone: it is opened, checked and counted (`dropped`, by reason) before a handler sees it.
The handlers of the kinds decide which of two records is newer and keep them in their databases.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from duxcommon.api.common import SignedRecord
from duxcommon.errors import DiskFull, DuxError
from duxcommon.records import verify_record

from .buckets import BucketTree
from .dht import Dht
from .sealing import Foreign, Seal, value_id

log = logging.getLogger("directory")

Handler = Callable[[SignedRecord], Awaitable[bool]]
"""Takes a checked record; True means: put it again for its publisher. A DuxError it raises is counted."""

MAX_WAITING = 4096
"""Values that were heard and not looked at yet; more are dropped."""
AT_ONCE = 64
"""Values that are looked at together, so that their commits are grouped."""
SEEN = 20_000
"""Values that are remembered, so that the same one is not checked again."""
MAX_KEPT = 10_000
"""Records of others that this node may put again."""
KEEPERS = 6
"""Nodes that keep a record, on average; in a small network all do."""
AGAIN_S = 1.0
"""So long after a record found the disk full it is tried whether there is room."""
TIDY_S = 30.0
KEEP_AFTER_S = (0.5, 3.0)
REASONS = {
    "BadSignature": "forged",
    "BadRecord": "malformed",
    "RecordTooLarge": "oversize",
    "StaleRecord": "stale",
    "WrongNetwork": "wrong-network",
}
"""Error → the reason under which a dropped record is counted."""


@dataclass
class _Put:
    """A record that this node puts: where, and what the engine needs to stop it."""

    record: SignedRecord
    key: str = ""
    value: Any = None


def slot_of(record: SignedRecord) -> str:
    """What a record replaces: the older one of the same node, and the same app where it is about one."""
    app = record.body.get("app")
    return f"{record.node}/{app}" if isinstance(app, str) else record.node


class Directory:
    """`on` first, then `start`; callbacks run on the event loop."""

    def __init__(self, node: str, network: str, live_nodes: Callable[[], int]) -> None:
        self._node = node
        self._network = network
        self._live_nodes = live_nodes
        self._seal = Seal(network)
        self._dht = Dht(network, self._heard)
        self._handlers: dict[str, Handler] = {}
        self._trees: dict[str, BucketTree] = defaultdict(BucketTree)
        self._waiting: asyncio.Queue[tuple[str, str, int, bytes]] = asyncio.Queue(MAX_WAITING)
        self._seen: OrderedDict[int, tuple[str, str] | None] = OrderedDict()
        self._own: dict[tuple[str, str], _Put] = {}
        self._kept: dict[tuple[str, str], _Put] = {}
        self._kept_more = asyncio.Event()
        self._postponed: dict[tuple[str, str], SignedRecord] = {}
        """Good records that came while the disk was full."""
        self._postponed_some = asyncio.Event()
        self._started = False
        self.dropped: Counter[str] = Counter()
        """Reason → values that were refused."""
        self.arrived = 0

    # --- for the kinds ----------------------------------------------------------------------------------------

    def on(self, kind: str, callback: Handler) -> None:
        """Call back for every good record of a kind that arrives; True keeps it for its publisher."""
        self._handlers[kind] = callback
        if self._started:
            self._dht.listen(_key(kind, ""))

    async def announce(self, record: SignedRecord) -> bool:
        """Put a record of this node, in place of the one before, and keep it put.

        True once another node has stored it; False when none has within some seconds, which is no error: the
        engine goes on trying. Raises RecordTooLarge.
        """
        # A record that is too large must not take the old one's place.
        sealed = self._seal.seal(record)
        name = (record.kind, slot_of(record))
        for old in (self._own.get(name), self._kept.pop(name, None)):
            if old is not None:
                self._cancel(old)
        put = self._own[name] = _Put(record)
        return await self._put(put, sealed) if self._started else False

    def keep(self, record: SignedRecord) -> None:
        """Put another node's record again from time to time, so that it outlives its publisher's absence."""
        name = (record.kind, slot_of(record))
        if name in self._own:
            return
        old = self._kept.get(name)
        if old is not None and old.record.seq >= record.seq:
            return
        if old is None and len(self._kept) >= MAX_KEPT:
            self.dropped["keep-full"] += 1
            return
        if old is not None:
            self._cancel(old)
        self._kept[name] = _Put(record)
        self._kept_more.set()

    def nodes(self) -> int:
        """Other nodes that stored what this one put last."""
        return self._dht.nodes

    def records(self) -> int:
        """Records that this node puts: its own and those that it keeps for others."""
        return len(self._own) + sum(1 for put in self._kept.values() if put.value is not None)

    # --- life -------------------------------------------------------------------------------------------------

    def start(self, address: str, port: int, bootstrap: Sequence[str], *, lan: bool) -> None:
        """Join the network. Call it after any fork. Raises EndpointDown."""
        self._dht.start(address, port, bootstrap, lan=lan)
        self._started = True
        for kind in self._handlers:
            self._dht.listen(_key(kind, ""))

    @property
    def port(self) -> int:
        """The UDP port in use."""
        return self._dht.port

    def stop(self) -> None:
        """Leave the network. The process must end by `os._exit` (see dht.py)."""
        self._started = False
        self._dht.stop()

    async def run(self) -> None:
        """Look at what arrives, until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await asyncio.gather(*(self._look(*item) for item in batch))

    async def catch_up(self) -> None:
        """Hand over what came while the disk was full, once there is room, until cancelled."""
        while True:
            await self._postponed_some.wait()
            await asyncio.sleep(AGAIN_S)
            self._postponed_some.clear()
            for name, record in list(self._postponed.items()):
                if not await self._take(record):
                    self._postponed_some.set()
                    break
                if self._postponed.get(name) is record:
                    del self._postponed[name]

    async def tidy(self) -> None:
        """Put the records of absent publishers, and follow the buckets as they fill, until cancelled."""
        while True:
            for name, put in list(self._own.items()):
                if put.value is None or put.key != self._place(*name):
                    self._cancel(put)
                    await self._put(put, self._seal.seal(put.record))
            for name, put in list(self._kept.items()):
                await self._tend(name, put)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIDY_S):
                    await self._kept_more.wait()
                # Not all keepers at the moment that a record is published, when nobody needs them.
                await asyncio.sleep(random.uniform(*KEEP_AFTER_S))
            self._kept_more.clear()

    async def _tend(self, name: tuple[str, str], put: _Put) -> None:
        mine = self._is_keeper(name[1])
        if put.value is not None and (not mine or put.key != self._place(*name)):
            self._cancel(put)
        if mine and put.value is None:
            await self._put(put, self._seal.seal(put.record))

    def _is_keeper(self, slot: str) -> bool:
        # Each node decides by itself: comparing all nodes for all records would cost their product.
        share = KEEPERS / max(1, self._live_nodes())
        draw = int.from_bytes(hashlib.sha256(f"{self._node}:{slot}".encode()).digest()[:8], "big")
        return draw < share * 2**64

    # --- putting ----------------------------------------------------------------------------------------------

    def _place(self, kind: str, slot: str) -> str:
        return _key(kind, self._trees[kind].bucket(slot))

    async def _put(self, put: _Put, sealed: bytes) -> bool:
        put.key = self._place(put.record.kind, slot_of(put.record))
        # Its own value comes back by the listeners; there is nothing to learn from it.
        stored, put.value = await self._dht.put(put.key, sealed, value_id(sealed))
        if not self._started or put is not (self._own | self._kept).get((put.record.kind, slot_of(put.record))):
            self._cancel(put)
        return stored

    def _cancel(self, put: _Put) -> None:
        if put.value is not None and self._started:
            self._dht.cancel(put.key, put.value)
        put.value = None

    # --- hearing ----------------------------------------------------------------------------------------------

    def _heard(self, key: str, sealed: bytes, expired: bool) -> None:
        kind, path = key.split("/")
        # By content: under the engine's id anyone could have put something else before.
        value = value_id(sealed)
        if expired:
            self._trees[kind].remove(path, value)
            self._seen.pop(value, None)
            return
        if value in self._seen:
            self._seen.move_to_end(value)
            known = self._seen[value]
            if known is not None and known[0] == kind:
                self._trees[kind].add(path, value, known[1])
            return
        if self._waiting.full():
            self.dropped["overflow"] += 1
            return
        self._waiting.put_nowait((kind, path, value, sealed))

    async def _look(self, kind: str, path: str, value: int, sealed: bytes) -> None:
        self.arrived += 1
        record, reason = self._open(kind, sealed)
        self._remember(value, None if record is None else (kind, slot_of(record)))
        if record is None:
            self.dropped[reason] += 1
            return
        tree = self._trees[kind]
        tree.add(path, value, slot_of(record))
        for wanted in tree.wanted():
            self._dht.listen(_key(kind, wanted))
        if not await self._take(record):
            self._postpone(record)

    async def _take(self, record: SignedRecord) -> bool:
        """Hand a checked record to the handler of its kind; False where the disk is full."""
        about = {"kind": record.kind, "node": record.node}
        try:
            if await self._handlers[record.kind](record) and record.node != self._node:
                self.keep(record)
        except DiskFull:
            return False
        except DuxError as error:
            self.dropped[REASONS.get(error.name, error.name)] += 1
            log.info("record refused", extra={**about, "why": error.message})
        except Exception:
            # One record that trips a handler must not end the daemon.
            self.dropped["internal"] += 1
            log.exception("a record could not be handled", extra=about)
        return True

    def _postpone(self, record: SignedRecord) -> None:
        # The engine tells of each value once: what is not kept now would stay unknown.
        name = (record.kind, slot_of(record))
        known = self._postponed.get(name)
        if known is None and len(self._postponed) >= MAX_WAITING:
            self.dropped["overflow"] += 1
            return
        if known is None or known.seq < record.seq:
            self._postponed[name] = record
        self._postponed_some.set()

    def _open(self, kind: str, sealed: bytes) -> tuple[SignedRecord | None, str]:
        """The checked record, or None and the reason why not."""
        try:
            record = self._seal.open(sealed)
            verify_record(record, kind=kind, network=self._network)
        except Foreign:
            return None, "foreign"
        except DuxError as error:
            return None, REASONS.get(error.name, error.name)
        return record, ""

    def _remember(self, value: int, what: tuple[str, str] | None) -> None:
        self._seen[value] = what
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)


def _key(kind: str, path: str) -> str:
    return f"{kind}/{path}"
