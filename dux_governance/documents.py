"""The documents of proposals: made, checked against the hash on the chain, offered to guardians and fetched from nodes.

Nothing that a proposal does depends on its document: a node that never finds it has the same rules.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from duxcommon.api.airdropd import Rules
from duxcommon.api.common import NodeId
from duxcommon.api.governance import (
    MAX_DOCUMENT,
    ArbitersWish,
    Document,
    DocumentText,
    GuardiansWish,
    ParameterWish,
    SpendWish,
    Wish,
)
from duxcommon.coin.notes import ArbiterChange, Change, GuardianChange, ParameterChange, Spend
from duxcommon.coin.params import ChainParams
from duxcommon.coin.script import script_of
from duxcommon.db import Store
from duxcommon.errors import DocumentRefused, DuxError, InvalidParams, ProposalImpossible
from duxcommon.network import Member, Seat
from duxcommon.parameters import declared
from duxcommon.records import canonical

from . import rows
from .ports import Registryd
from .proposals import guardians_in_order
from .timeline import Item

FETCH_TRIES = 20
"""A document that nobody had so often is not asked for again until the next start."""
AT_ONCE = 20
KEPT = 2_000
"""Documents of so many proposals are kept, the newest, besides our own and those that name a seat's node…"""
UNSURE = 500
"""…and of so many of which it is not known yet whether their authors may propose: anybody can send those."""

log = logging.getLogger("governance")


def text_of(document: Document) -> DocumentText:
    """The one text of a document. Raises InvalidParams for one that is too long."""
    data = canonical(document.model_dump())
    if len(data) > MAX_DOCUMENT:
        raise InvalidParams(f"the document has {len(data)} bytes; it may have {MAX_DOCUMENT}")
    return DocumentText(hash=hashlib.sha256(data).hexdigest(), text=data.decode())


def parse(text: str) -> Document | None:
    """The document in a text; None for something else."""
    try:
        return Document.model_validate_json(text)
    except ValidationError:
        return None


def change_of(wish: Wish, rules: Rules, chain: ChainParams) -> Change:
    """What a document's words are on the chain, under the rules in force.

    Raises InvalidParams for an unknown parameter, ProposalImpossible for a seat that nobody has, BadAddress.
    """
    match wish:
        case ParameterWish(name=name, value=value):
            return ParameterChange(declared(name).governed.number, value)
        case GuardiansWish(out=out, into=into, m=m):
            return GuardianChange(_index(out, guardians_in_order(rules), "guardian"), _key(into), m)
        case ArbitersWish(out=out, into=into):
            return ArbiterChange(_index(out, rules.arbiters, "arbiter"), _key(into))
        case SpendWish(to=to, amount=amount):
            return Spend(script_of(to, chain), amount)


def _index(out: str | None, seats: Sequence[Seat], what: str) -> int | None:
    if out is None:
        return None
    found = [number for number, seat in enumerate(seats) if seat.pubkey == out]
    if not found:
        raise ProposalImpossible(f"key {out[:16]}… is no {what}", hint="`dux-ctl network show` lists them.")
    return found[0]


def _key(into: Member | None) -> bytes | None:
    return None if into is None else bytes.fromhex(into.pubkey)


def wanted(items: Iterable[Item]) -> list[Item]:
    """The proposals whose documents are kept, in the order of the chain.

    Nothing about a refused one is worth a stranger's 16 kB. What named a seat's node is needed as long as the seat.
    """
    known: deque[Item] = deque(maxlen=KEPT)
    unsure: deque[Item] = deque(maxlen=UNSURE)
    seats = []
    for item in items:
        if item.provisional:
            unsure.append(item)
        elif item.refusal is None:
            known.append(item)
            if item.passed and isinstance(item.change, GuardianChange | ArbiterChange):
                seats.append(item)
    found = {item.id: item for item in (*seats, *known, *unsure)}
    return sorted(found.values(), key=lambda item: item.place)


def fault(document: Document | None, item: Item, network: str, chain: ChainParams) -> str:
    """What is wrong with the text behind a proposal's hash; empty when it says what the chain does."""
    if document is None:
        return "the text behind its hash is no proposal's document"
    if document.network != network:
        return "the document belongs to another network"
    try:
        same = change_of(document.change, item.rules, chain) == item.change
    except DuxError:
        same = False
    return "" if same else "the document says something else than what the proposal does; the chain counts"


def _check(document: DocumentText) -> None:
    data = document.text.encode()
    if len(data) > MAX_DOCUMENT or hashlib.sha256(data).hexdigest() != document.hash:
        raise DocumentRefused("the document is not what its hash says, or too long")


class Documents:
    """Those of this network's proposals."""

    def __init__(self, store: Store, registryd: Registryd, network: str, chain: ChainParams) -> None:
        self._store = store
        self._registryd = registryd
        self._network = network
        self._chain = chain
        self._here: set[str] = set(store.read(rows.documents))
        self.changes = 0
        """Counts those that came or went."""
        self._tries: dict[str, int] = {}
        self._offered: set[tuple[str, NodeId]] = set()

    def text(self, digest: str) -> DocumentText | None:
        """A document that is here."""
        text = self._store.read(lambda c: rows.document(c, digest)) if digest in self._here else None
        return None if text is None else DocumentText(hash=digest, text=text)

    def title(self, document: DocumentText) -> str:
        """Its title; empty for a text that is no document."""
        parsed = parse(document.text)
        return "" if parsed is None else parsed.title

    def of(self, item: Item) -> tuple[Document | None, str]:
        """A proposal's document if it is here and good, and what is wrong with it."""
        text = self.text(item.document)
        if text is None:
            return None, ""
        document = parse(text.text)
        wrong = fault(document, item, self._network, self._chain)
        return (None, wrong) if wrong else (document, "")

    def node_of(self, item: Item) -> NodeId | None:
        """Whose node the seat is that a proposal gives out, if its document is here."""
        document, _ = self.of(item)
        if document is None or not isinstance(document.change, GuardiansWish | ArbitersWish):
            return None
        return None if document.change.into is None else document.change.into.node

    async def keep(self, document: DocumentText, *, own: bool = False) -> None:
        """Keep a document. Raises DocumentRefused when it has another hash or is too long."""
        _check(document)
        await self._store.write(lambda c: rows.put_document(c, document.hash, document.text, own=own))
        self._here.add(document.hash)
        self.changes += 1

    async def take(self, document: DocumentText, items: Iterable[Item]) -> None:
        """Keep what another node offers, if it is one of a proposal's that are kept. Raises DocumentRefused."""
        if not any(item.document == document.hash for item in wanted(items)):
            raise DocumentRefused("no proposal that this node has read, and that was not refused, names this document")
        _check(document)
        if document.hash not in self._here:
            await self.keep(document)

    async def _trim(self, keep: Sequence[Item]) -> None:
        own = self._store.read(rows.own_documents)
        if superfluous := self._here.difference(own, [item.document for item in keep]):
            await self._store.write(lambda c: rows.drop_documents(c, superfluous))
            self._here -= superfluous
            self.changes += 1

    # --- between nodes ---------------------------------------------------------------------------------------------

    async def exchange(self, items: Sequence[Item], guardians: Sequence[Seat]) -> None:
        """Offer our own documents to the guardians, and ask for those that are missing; one pass."""
        kept = wanted(items)
        await self._trim(kept)
        own = await self._registryd.node()
        nodes = [seat.node for seat in guardians if seat.node not in (None, own)]
        named = [node for node in nodes if node is not None]
        await self._offer(kept, named)
        missing = [
            item for item in kept if item.document not in self._here and self._tries.get(item.document, 0) < FETCH_TRIES
        ]
        if missing:
            live = [node for node in await self._registryd.live_nodes() if node != own]
            sources = list(dict.fromkeys([*named, *live]))
            # The newest first: those are the ones that somebody wants to read now.
            for item in missing[::-1][:AT_ONCE]:
                await self._fetch(item.document, sources)

    async def _offer(self, items: Sequence[Item], nodes: Sequence[NodeId]) -> None:
        ours = set(self._store.read(rows.own_documents))
        for item in items:
            left = [node for node in nodes if (item.document, node) not in self._offered]
            document = self.text(item.document) if left and item.document in ours else None
            if document is None:
                continue
            for node in left:
                try:
                    await self._registryd.offer(node, document)
                except DuxError as error:
                    # It may not have read the block yet, or be away; the next pass offers again.
                    log.debug("a document was not taken", extra={"peer": node[:16], "why": error.message})
                else:
                    self._offered.add((item.document, node))

    async def _fetch(self, digest: str, nodes: Sequence[NodeId]) -> None:
        self._tries[digest] = self._tries.get(digest, 0) + 1
        for node in nodes:
            try:
                document = await self._registryd.document(node, digest)
                if document.hash == digest:
                    await self.keep(document)
                    return
            except DuxError as error:
                log.debug("a document was not given", extra={"peer": node[:16], "why": error.message})
                await asyncio.sleep(0)
