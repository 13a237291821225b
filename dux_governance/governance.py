"""Governance put together, for the daemon that mounts it: follows the notes, asks for electorates, keeps the book."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.api.flopd import NetworkLabel
from duxcommon.api.governance import ProposalState
from duxcommon.coin.notes import Spend
from duxcommon.coin.params import CHAINS
from duxcommon.db import Store
from duxcommon.errors import DuxError, ProposalUnknown, RulesPending
from duxcommon.follow import Kind
from duxcommon.network import NetworkDefinition, Seat
from duxcommon.rpc import Client
from duxcommon.rulebook import Book

from . import rows, tally
from .casting import Casting
from .documents import Documents
from .ports import Event, Flopd, Fund, Registryd
from .reckoning import Reckoning
from .timeline import AcceptedSpend, Asked, Census, Item, Timeline

Spawn = Callable[[Coroutine[Any, Any, None], str], object]

log = logging.getLogger("governance")


class Governance:
    """The rules that the network votes on. Everything about them is a pure function of the blocks read so far."""

    def __init__(
        self,
        store: Store,
        network: NetworkDefinition,
        label: NetworkLabel,
        rpc: Callable[[str], Client],
        *,
        spawn: Spawn,
        event: Event,
    ) -> None:
        self.store = store
        self.network = network
        self.label = label
        self.chain = CHAINS[network.chain]
        self.flopd_client = rpc("flopd")
        self.flopd, self.registryd = Flopd(self.flopd_client), Registryd(rpc("registryd"))
        self.documents = Documents(store, self.registryd, network.id, self.chain)
        self.casting = Casting(store, self.flopd)
        self._spawn = spawn
        self._event = event
        self._fund: Fund | None = None
        self._exchanging = False
        self._trouble = ""
        self._told: dict[str, ProposalState] = {}
        self.stored = rows.Stored(store)
        self._reckoning = Reckoning(network, self.stored)
        self._undone: list[int] = []
        """Heights above which the follower has undone what it read."""
        self._asked: dict[Asked, frozenset[str]] = {}
        """Proposals whose electorate was asked for and may be more than is needed → their signers."""
        self._named: tuple[Rules, int, Book] | None = None
        self._final: dict[str, Item] = {}
        """Proposals of which nothing more will be told, as long as they stay what they are."""
        self.timeline = self._read(network.birth_height - 1)
        """What the chain has decided so far."""

    def connect(self, fund: Fund) -> None:
        """Tell governance of the fund; it is made of the rule book, so it comes later."""
        self._fund = fund

    # --- what airdropd asks ---------------------------------------------------------------------------------

    def kinds(self) -> Sequence[Kind]:
        """The facts that are followed."""
        return [rows.kind(self._undone.append)]

    def book(self) -> Book:
        """The rule book, with the nodes of those who were voted in as far as their documents are here."""
        book, known = self.timeline.book, self.documents.changes
        # Every version is made from the one before it, so the same last version has the same ones before it.
        if self._named is None or self._named[0] is not book.newest or self._named[1] != known:
            self._named = (book.newest, known, self._with_nodes(book))
        return self._named[2].reaching(book.known_to)

    def spends_in_force(self, height: int) -> Sequence[AcceptedSpend]:
        """See Timeline.spends."""
        return self.timeline.spends(height)

    def notes(self) -> list[str]:
        """What is not as it should be."""
        return [self._trouble] if self._trouble else []

    def methods(self) -> Iterable[object]:
        """`network.* param.* proposal.*`."""
        # Here, because the methods are typed with this class.
        from .methods import NetworkMethods, ParamMethods, ProposalMethods

        return [NetworkMethods(self), ParamMethods(self), ProposalMethods(self)]

    @property
    def height(self) -> int:
        """The last block that was taken into account; before the network's first one there is none."""
        return self.timeline.height

    def now(self) -> Rules:
        """The rules in force at that block."""
        return self.book().at(max(0, self.height))

    @property
    def fund(self) -> Fund:
        """The community fund."""
        assert self._fund is not None
        return self._fund

    async def read(self, height: int) -> None:
        """Take into account what was stored up to `height`, and ask nobody for what is lacking."""
        self.timeline = await asyncio.to_thread(self._read, height)

    async def advance(self, height: int) -> None:
        """Take into account what was stored up to `height`: count votes, ask for electorates, send what waits.

        An electorate that can't be had now is asked for again at the next block; what depends on it waits.
        """
        await self.read(height)
        try:
            while await self._take_censuses():
                await self.read(height)
            self._trouble = ""
        except DuxError as error:
            self._trouble = f"who may vote can't be asked now, so nothing is counted: {error.message}"
            log.info(self._trouble, extra={"error": error.name})
        await self._forget_electorates()
        await self._tell()
        await self.casting.advance(self.timeline, height)
        if self.timeline.items and not self._exchanging:
            self._exchanging = True
            self._spawn(self._exchange(), "documents of proposals")

    # --- reading --------------------------------------------------------------------------------------------

    def _read(self, height: int) -> Timeline:
        while self._undone:
            self._reckoning.undo(self._undone.pop())
        return self._reckoning.at(height)

    async def _take_censuses(self) -> bool:
        """Ask for what is lacking; whether anything was found out."""
        lacking = self.timeline.lacking()
        electorates: dict[int, frozenset[str]] = {}
        for item in lacking:
            census = await self.census(item, electorates)
            await self.store.write(lambda c, i=item, s=census: rows.put_census(c, (i.id, i.place), s))  # type: ignore[misc]
            self._asked[item.id, item.place] = item.signers
            self._reckoning.asked()
        return bool(lacking)

    async def census(self, item: Item, electorates: dict[int, frozenset[str]]) -> Census:
        """Who may vote on a proposal, and what the fund could pay then. Raises RulesPending and DuxError.

        `electorates` has those that were asked for already, by their height.
        """
        height = item.place[0]
        if height - 1 not in electorates:
            electorates[height - 1] = await self._electorate(height - 1)
        electorate = electorates[height - 1]
        if not item.signers & electorate:
            # Whoever proposes without a right to can't make this node keep thousands of keys for it.
            electorate = frozenset()
        is_spend = isinstance(item.change, Spend)
        spendable = (await asyncio.to_thread(self.fund.at, height)).spendable if is_spend else None
        return Census(electorate, spendable)

    async def _forget_electorates(self) -> None:
        """Of the electorates of refused proposals keep only who proposed.

        Otherwise one key could make this node keep thousands with every proposal that is refused because it has one.
        """
        for asked, signers in list(self._asked.items()):
            item = self.timeline.find(asked[0])
            # Another one in its place means that it was refused for who sent it.
            here = item is not None and item.place == asked[1]
            if here and item is not None and item.provisional:
                continue
            del self._asked[asked]
            census = self.stored.get(asked)
            if census is not None and item is not None and not (here and item.refusal is None):
                small = Census(census.electorate & signers, census.spendable)
                await self.store.write(lambda c, a=asked, s=small: rows.put_census(c, a, s))  # type: ignore[misc]

    async def _electorate(self, height: int) -> frozenset[str]:
        """Payout keys with qualified work at a height. Raises RulesPending and DuxError."""
        told = await self.registryd.qualified(height)
        for tip, block in told.tips:
            # It is kept for good: in a deep reorganisation registryd may still be on the chain that was left.
            if not await self.flopd.holds(tip, block):
                raise RulesPending(f"registryd has read another block {tip} than is in the chain now")
        return told.keys

    def _with_nodes(self, book: Book) -> Book:
        """The book with the node ids that documents name."""
        nodes: dict[str, str] = {}
        for rules in book.book.rules[1:]:
            item = self.timeline.find(rules.proposal or "")
            if item is not None and (node := self.documents.node_of(item)) is not None:
                into = getattr(item.change, "into", None)
                nodes[into.hex() if into is not None else ""] = node

        def named(seats: Sequence[Seat]) -> list[Seat]:
            return [
                Seat(node=nodes.get(seat.pubkey), pubkey=seat.pubkey) if seat.node is None else seat for seat in seats
            ]

        def filled(rules: Rules) -> Rules:
            return rules.model_copy(update={"guardians": named(rules.guardians), "arbiters": named(rules.arbiters)})

        if not nodes:
            return book
        versions = [filled(each) for each in book.book.rules]
        return Book(RuleBook(network=book.book.network, rules=versions, known_to=book.known_to))

    async def _exchange(self) -> None:
        try:
            rules = self.book().at(self.timeline.height)
            await self.documents.exchange(self.timeline.items, rules.guardians)
        except DuxError as error:
            log.info("documents can't be exchanged now", extra={"error": error.name, "why": error.message})
        finally:
            self._exchanging = False

    # --- states ---------------------------------------------------------------------------------------------

    def state(self, item: Item, executed: dict[str, str] | None = None) -> ProposalState:
        """The state of a confirmed proposal now."""
        done = self.fund.executed() if executed is None and isinstance(item.change, Spend) else executed or {}
        return tally.state_of(
            item.terms,
            item.change,
            self.timeline.height,
            refused=item.refusal is not None and not item.provisional,
            passed=item.passed,
            executed=item.id in done,
        )

    def find(self, proposal: str) -> Item:
        """A proposal on the chain. Raises ProposalUnknown."""
        item = self.timeline.find(proposal)
        if item is None:
            raise ProposalUnknown(f"there is no proposal {proposal[:16]}… in a block that this node has read")
        return item

    async def _tell(self) -> None:
        """Note in the event log what became of proposals."""
        executed = self.fund.executed() if self._fund is not None else {}
        new = {}
        for item in self.timeline.by_id.values():
            if self._final.get(item.id) is item:
                continue
            state = self.state(item, executed)
            if state not in ("VOTING", "COUNTING") and self._told.get(item.id) != state:
                new[item.id] = (item, state)
            if not tally.MACHINE[state] or (state == "ACTIVE" and not isinstance(item.change, Spend)):
                self._final[item.id] = item
        if not new:
            return

        def change(connection: Any) -> None:
            for item, state in new.values():
                body = {"proposal": item.id, "state": state, "height": item.place[0], "from": item.terms.from_height}
                self._event(connection, f"proposal-{item.id}-{state}", "proposal", body)

        await self.store.write(change)
        self._told |= {name: state for name, (_, state) in new.items()}
