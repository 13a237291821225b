"""Looking things up in the rule book: which version is in force at a height, and what follows from it. Pure."""

from bisect import bisect_right
from functools import cached_property

from .api.airdropd import RuleBook, Rules
from .coin.fund import guardians_redeem
from .coin.script import p2sh_script
from .errors import RulesPending
from .network import Member, NetworkDefinition, Seat

OLD_FUND_BLOCKS = 12_000
"""So long after the guardians changed a payment to the old address still counts; a channel lives 10,080 blocks."""


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


class Book:
    """A rule book with its lookups; every height above `known_to` raises RulesPending."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book

    @property
    def known_to(self) -> int:
        """The last height whose rules can't change any more."""
        return self.book.known_to

    @property
    def newest(self) -> Rules:
        """The last version, which may not be in force yet."""
        return self.book.rules[-1]

    @cached_property
    def _starts(self) -> list[int]:
        return [rules.from_height for rules in self.book.rules]

    def at(self, height: int) -> Rules:
        """The version in force at a height. Raises RulesPending."""
        if height > self.book.known_to:
            raise RulesPending(
                f"the rules at block {height} are not known yet; those up to {self.book.known_to} are",
                details={"height": height, "known_to": self.book.known_to},
            )
        return self.book.rules[bisect_right(self._starts, height) - 1]

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
        for older, newer in reversed(list(zip(self.book.rules, self.book.rules[1:], strict=False))):
            until = newer.from_height + OLD_FUND_BLOCKS - 1
            if newer.version <= last.version and until >= height and older.fund_script != last.fund_script:
                found.setdefault(bytes.fromhex(older.fund_script), until)
        return found

    def difference(self, other: "Book") -> int | None:
        """The first height, known to both, at which two books disagree; None where they don't."""
        shared = min(self.known_to, other.known_to)
        starts = sorted({*self._starts, *other._starts})
        for height in starts:
            if height <= shared and _content(self.at(height)) != _content(other.at(height)):
                return height
        return None


def _content(rules: Rules) -> str:
    # Whose node a seat belongs to is no rule: it is known to those who found the document.
    unnamed = {"__all__": {"node"}}
    return rules.model_dump_json(exclude={"guardians": unnamed, "arbiters": unnamed})
