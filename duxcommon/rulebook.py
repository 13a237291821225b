"""Looking things up in the rule book: which version is in force at a height, and what follows from it. Pure."""

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from functools import cached_property

from .api.airdropd import RuleBook, Rules, RulesPage
from .coin.fund import guardians_redeem
from .coin.script import p2sh_script
from .errors import RulesPending
from .network import Member, NetworkDefinition, Seat

OLD_FUND_BLOCKS = 12_000
"""So long after the guardians changed a payment to the old address still counts; a channel lives 10,080 blocks."""

RULES_PAGE = 100
"""Versions in a page: 1.4 MB with the most guardians and arbiters that there can be."""


def first_rules(network: NetworkDefinition) -> Rules:
    """Version 0: the network definition."""
    redeem = guardians_redeem(network.guardians, network.guardians_m)
    return Rules(
        version=0,
        from_height=0,
        proposal=None,
        parameters=network.parameters,
        guardians=[_seat(member) for member in network.guardians],
        guardians_m=network.guardians_m,
        arbiters=[_seat(member) for member in network.arbiters],
        fund_script=p2sh_script(redeem).hex(),
    )


def _seat(member: Member) -> Seat:
    # A Member that says the same is another thing to pydantic, and a rule book that was read back holds Seats.
    return Seat(node=member.node, pubkey=member.pubkey)


class _Versions:
    """What is worked out once about all versions, however far they are known."""

    def __init__(self, rules: Sequence[Rules]) -> None:
        self._rules = rules
        self.starts = [one.from_height for one in rules]

    @cached_property
    def moves(self) -> list[tuple[int, int, str]]:
        """Changes of the fund's script, the latest first: version, its first block, the script before."""
        pairs = itertools.pairwise(self._rules)
        found = [(b.version, b.from_height, a.fund_script) for a, b in pairs if a.fund_script != b.fund_script]
        return found[::-1]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(one.model_dump_json() for one in self._rules).encode()).hexdigest()


class Book:
    """A rule book with its lookups; every height above `known_to` raises RulesPending."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book
        self._versions = _Versions(book.rules)

    def reaching(self, known_to: int) -> "Book":
        """The same versions, known up to another height."""
        if known_to == self.known_to:
            return self
        twin = copy(self)
        twin.book = self.book.model_copy(update={"known_to": known_to})
        return twin

    @property
    def digest(self) -> str:
        """SHA-256 of all versions, and of whose nodes the seats are."""
        return self._versions.digest

    def page(self, have: str | None = None, after: int = -1) -> RulesPage:
        """The versions after one, for who does not have those of the digest `have` already."""
        rules = [] if have == self.digest else self.book.rules[after + 1 : after + 1 + RULES_PAGE]
        more = bool(rules) and rules[-1].version < self.newest.version
        return RulesPage(
            network=self.book.network,
            rules=rules,
            known_to=self.known_to,
            digest=self.digest,
            next=rules[-1].version if more else None,
        )

    @property
    def known_to(self) -> int:
        """The last height whose rules can't change any more."""
        return self.book.known_to

    @property
    def newest(self) -> Rules:
        """The last version, which may not be in force yet."""
        return self.book.rules[-1]

    def at(self, height: int) -> Rules:
        """The version in force at a height. Raises RulesPending."""
        if height > self.book.known_to:
            raise RulesPending(
                f"the rules at block {height} are not known yet; those up to {self.book.known_to} are",
                details={"height": height, "known_to": self.book.known_to},
            )
        return self.book.rules[bisect_right(self._versions.starts, height) - 1]

    def tax_at(self, height: int) -> int:
        """The tax rate in force, in basis points. Raises RulesPending."""
        return self.at(height).parameters.tax_bps

    def fund_scripts_at(self, height: int) -> list[bytes]:
        """The fund scripts that a payment confirmed at a height may use, the one in force first. Raises RulesPending.

        Those replaced within OLD_FUND_BLOCKS still count.
        """
        return [bytes.fromhex(self.at(height).fund_script), *self.old_fund_scripts_at(height)]

    def old_fund_scripts_at(self, height: int) -> dict[bytes, int]:
        """Those of them that are not in force any more → the last block in which they count. Raises RulesPending."""
        last = self.at(height)
        found: dict[bytes, int] = {}
        for version, from_height, before in self._versions.moves:
            until = from_height + OLD_FUND_BLOCKS - 1
            if version <= last.version and until >= height and before != last.fund_script:
                found.setdefault(bytes.fromhex(before), until)
        return found

    def difference(self, other: "Book") -> int | None:
        """The first height, known to both, at which two books disagree; None where they don't."""
        shared = min(self.known_to, other.known_to)
        starts = sorted({*self._versions.starts, *other._versions.starts})
        for height in starts[: bisect_right(starts, shared)]:
            one, two = self.at(height), other.at(height)
            if one is not two and _content(one) != _content(two):
                return height
        return None


def _content(rules: Rules) -> str:
    # Whose node a seat belongs to is no rule: it is known to those who found the document.
    unnamed = {"__all__": {"node"}}
    return rules.model_dump_json(exclude={"guardians": unnamed, "arbiters": unnamed})
