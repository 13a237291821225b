"""What airdropd asks of others: of governance, mounted in it, the rules and what was decided to be spent; of the other
daemons of the node, typed calls and nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from duxcommon.api.common import Hash32
from duxcommon.rulebook import Book

# --- governance ------------------------------------------------------------------------------------------------------


class ApprovedSpend(Protocol):
    """A proposal to spend from the fund that was accepted."""

    @property
    def proposal(self) -> Hash32:
        """Its id."""
        ...

    @property
    def script(self) -> bytes:
        """The output script to pay."""
        ...

    @property
    def amount(self) -> int:
        """In koinu, at least DUST."""
        ...

    @property
    def from_height(self) -> int:
        """In force from this block on."""
        ...


class Rules(Protocol):
    """The rules as far as the chain has decided them. Everything is a pure function of the blocks read so far."""

    def book(self) -> Book:
        """The rule book; it grows with the chain."""
        ...

    def spends_in_force(self, height: int) -> Sequence[ApprovedSpend]:
        """All spends in force at a height, executed or not, in the order in which they are to be carried out.

        By `from_height`, then by the place of the proposal. Which of them were carried out is read from the fund's own
        transactions. Raises RulesPending above the book's `known_to`.
        """
        ...


class Governance(Rules, Protocol):
    """What dux_governance delivers to be mounted.

    airdropd's one loop: `Follower.sync(min(tip, book().known_to))` with the kinds of both → `advance()` → the rounds.
    """

    def kinds(self) -> Sequence[Any]:
        """The facts it follows, as `duxcommon.follow.Kind`; stored in airdropd's database beside the fund's."""
        ...

    async def advance(self, height: int) -> None:
        """Take into account what was stored up to `height`. Raises DuxError; it is called again then."""
        ...

    def methods(self) -> Iterable[object]:
        """`param.* proposal.* network.*`."""
        ...

    def notes(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        ...


# --- eligibility -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Eligible:
    """Who has a share at a snapshot."""

    height: int
    total: int
    digest: Hash32
    """SHA-256 of all keys, ascending."""
    keys: tuple[bytes, ...]
    """Compressed public keys, ascending; empty where only the total was asked for."""


class EligibleAt(Protocol):
    """registryd's `node.eligible`."""

    async def total(self, height: int) -> Eligible:
        """How many have a share at a snapshot, without their keys. Raises RulesPending and DuxError."""
        ...

    async def keys(self, height: int) -> Eligible:
        """All of them; the digest was checked against the keys. Raises RulesPending and DuxError."""
        ...
