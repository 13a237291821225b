"""The rules where nothing is voted: those of the network definition, for ever."""

from collections.abc import Iterable, Sequence

from duxcommon.api.airdropd import RuleBook
from duxcommon.follow import Kind
from duxcommon.network import NetworkDefinition
from duxcommon.rpc import method
from duxcommon.rulebook import Book, first_rules

from .ports import ApprovedSpend

FOR_EVER = 2**31


class FixedRules:
    """A Governance that decides nothing."""

    def __init__(self, network: NetworkDefinition) -> None:
        self._book = Book(RuleBook(network=network.id, rules=[first_rules(network)], known_to=FOR_EVER))

    def book(self) -> Book:
        """See Rules."""
        return self._book

    def spends_in_force(self, height: int) -> Sequence[ApprovedSpend]:
        """See Rules."""
        return ()

    def kinds(self) -> Sequence[Kind]:
        """See Governance."""
        return ()

    async def advance(self, height: int) -> None:
        """See Governance."""

    def methods(self) -> Iterable[object]:
        """See Governance."""
        return [ParamMethods(self._book)]

    def notes(self) -> list[str]:
        """See Governance."""
        return []


class ParamMethods:
    """The rules, for the other daemons."""

    def __init__(self, book: Book) -> None:
        self._book = book

    @method("param.rules", access="daemon")
    async def rules(self) -> RuleBook:
        """Tell all versions of the rules so far, and up to which block no other can come."""
        return self._book.book
