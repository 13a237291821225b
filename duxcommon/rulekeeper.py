"""Keeps the last known rule book, so that a daemon goes on with what was decided while dux-airdropd is down.

    keeper = RuleKeeper(state_dir / "rules.json", self.rpc("airdropd"), network)
    book = await keeper.refresh()       # asks airdropd; what is known already when it does not answer
    book.tax_at(height)                 # RulesPending above book.known_to

Whoever stores what was judged by a book stores that book with it, in the same commit. After a refresh,
`book.difference(stored)` is the first height from which it must be judged again; None is the usual answer.
"""

import asyncio
import itertools
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .api.airdropd import RuleBook, RulesPage
from .errors import DuxError, RemoteError, RulesPending
from .files import write_atomic
from .network import NetworkDefinition
from .rpc import Client
from .rulebook import Book, first_rules

ASK_S = 10.0
"""How long airdropd may take for an answer."""
SAVED_EVERY = 10
"""The file is written when the rules change, else once in so many blocks; they are known further ahead than that."""
TALLY_DEPTH = 60
"""Blocks from a proposal's deadline to its tally."""

log = logging.getLogger("rules")


def first_book(network: NetworkDefinition) -> Book:
    """The book before anything could be voted: it follows from the network definition alone.

    A proposal can confirm at the birth height at the earliest; then come the vote, the tally and the time lock. Up
    to there the rules are those of the definition, whatever the chain holds.
    """
    values = network.parameters
    known_to = network.birth_height + values.vote_blocks + TALLY_DEPTH + values.time_lock_blocks
    return Book(RuleBook(network=network.id, rules=[first_rules(network)], known_to=known_to))


class RuleKeeper:
    """The last rule book that airdropd told, in memory and in a file that outlives a restart."""

    def __init__(self, path: Path, client: Client, network: NetworkDefinition) -> None:
        self._path = path
        self._client = client
        self._network = network
        self._saving = asyncio.Lock()
        self._saved_to = -SAVED_EVERY
        """`known_to` of the book on disk."""
        self.trouble = ""
        """Why airdropd's last answer is missing, for people; empty when all is well."""
        self.book = self._stored() or first_book(network)
        """The rules as known now."""

    async def refresh(self) -> Book:
        """Ask airdropd for the rule book and keep it. Never raises; `trouble` says why nothing new was learned.

        A book that says the same as the one known, but less far, teaches nothing: airdropd is reading the chain again.
        """
        try:
            book = await self._ask()
        except DuxError as error:
            self._trouble(f"the rules can't be asked for: {error.message}")
            return self.book
        if (fault := self._fault(book.book)) is not None:
            self._trouble(f"the rules that airdropd told are not this network's: {fault}")
            return self.book
        self.trouble = ""
        behind = book.known_to < self.book.known_to and book.difference(self.book) is None
        if not behind and (book.digest, book.known_to) != (self.book.digest, self.book.known_to):
            if (height := book.difference(self.book)) is not None:
                log.warning("the rules were changed by a reorganisation", extra={"from_height": height})
            same = book.digest == self.book.digest
            self.book = book
            if not same or abs(book.known_to - self._saved_to) >= SAVED_EVERY:
                await self._save()
        return self.book

    async def _ask(self) -> Book:
        """What airdropd says now; versions are sent only when they are others than those known. Raises DuxError."""
        have = self.book
        page = await self._page({"have": have.digest})
        if (page.network, page.digest) == (have.book.network, have.digest):
            return have.reaching(page.known_to)
        digest, rules = page.digest, page.rules
        while page.next is not None:
            page = await self._page({"after": page.next})
            rules = [*rules, *page.rules]
        book = None if not rules else Book(RuleBook(network=page.network, rules=rules, known_to=page.known_to))
        if book is None or (page.digest, book.digest) != (digest, digest):
            raise RulesPending("they changed while they were read")
        return book

    async def _page(self, params: dict[str, Any]) -> RulesPage:
        page = await self._client.call("param.rules", RulesPage, params, timeout=ASK_S)
        if page.next is not None and page.next <= params.get("after", -1):
            raise RemoteError("param.rules tells the same versions again and again")
        return page

    def _trouble(self, text: str) -> None:
        if text != self.trouble:
            log.info(text)
        self.trouble = text

    def _fault(self, told: RuleBook) -> str | None:
        if told.network != self._network.id:
            return f"they are of network {told.network[:16]}…"
        if told.rules[0].model_dump() != first_rules(self._network).model_dump():
            return "version 0 is not the network definition"
        order = [(rules.version, rules.from_height) for rules in told.rules]
        if any(b[0] != a[0] + 1 or b[1] < a[1] for a, b in itertools.pairwise(order)):
            return "the versions are not in order"
        return None

    def _stored(self) -> Book | None:
        try:
            told = RuleBook.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("the rules on disk can't be read; airdropd is asked again", extra={"why": str(error)[:200]})
            return None
        if (fault := self._fault(told)) is not None:
            log.warning("the rules on disk are not used", extra={"why": fault})
            return None
        return Book(told)

    async def _save(self) -> None:
        async with self._saving:
            book = self.book
            text = book.book.model_dump_json().encode()
            try:
                await asyncio.to_thread(write_atomic, self._path, text)
                self._saved_to = book.known_to
            except OSError as error:
                # The book in memory is as good; only a restart without airdropd would know less.
                self._trouble(f"the rules can't be kept on disk: {error}")
