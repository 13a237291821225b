"""What the notes on the chain have decided up to a block: proposals with their votes, and the rule book. Pure: no I/O.

Everything follows from three things that every node has alike: the network definition, the notes, and for each
proposal its electorate (what registryd reads from the chain). How it follows is in `reading.py`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from duxcommon.api.airdropd import Rules
from duxcommon.coin.notes import Change, Note
from duxcommon.rulebook import Book

from . import tally
from .proposals import Circumstances, Place, Reason, Refusal, Running
from .tally import TALLY_DEPTH, Count, Terms


@dataclass(frozen=True, slots=True)
class Entry:
    """A note as it stands in the chain."""

    place: Place
    txid: str
    note: Note
    data: bytes
    """The note's bytes."""
    paid: Mapping[str, int]
    """P2SH script (hex) → koinu that the transaction paid to it."""
    signers: frozenset[str]
    """Public keys, hex."""


@dataclass(frozen=True, slots=True)
class Census:
    """What about a proposal can only be asked of others, once it is 60 blocks deep."""

    electorate: frozenset[str]
    """Payout keys with qualified work in the block before it."""
    spendable: int | None
    """Koinu that the fund could pay then; None where it is not about spending."""


Asked = tuple[str, Place]
"""A proposal and its place: the same note can stand in the chain twice, and only one of the two be qualified."""


class Censuses(Protocol):
    """What was asked for so far; a dict will do."""

    def get(self, asked: Asked, /) -> Census | None:
        """The census of a proposal at its place."""
        ...


@dataclass(slots=True)
class Item:
    """A proposal that confirmed, with its votes."""

    id: str
    place: Place
    txid: str
    change: Change
    document: str
    terms: Terms
    rules: Rules
    """In force when it confirmed."""
    signers: frozenset[str]
    proposers: frozenset[str]
    """Those of its signers that may propose; all of them while the electorate is not known."""
    refusal: Refusal | None = None
    census: Census | None = None
    """None while it is not known, and again once the proposal has ended."""
    ballots: dict[str, bool] = field(default_factory=dict)
    approvals: set[str] = field(default_factory=set)
    provisional: bool = False
    """The electorate of this or an earlier proposal is not known: what it came to may change."""
    shortfall: str | None = None
    """Once it is decided: empty when it passed, else why it did not."""
    outcome: Count | None = None
    """Once it has ended: the votes. The ballots are gone then."""

    @property
    def passed(self) -> bool | None:
        """None while it is not decided."""
        return None if self.shortfall is None else not self.shortfall

    @property
    def running(self) -> bool:
        """It is neither rejected nor decided."""
        return self.refusal is None and self.shortfall is None

    @property
    def replaceable(self) -> bool:
        """It was refused for who sent it and not for what it says: somebody else may still put the same to the vote."""
        return self.refusal is not None and self.refusal.reason in (Reason.NOT_QUALIFIED, Reason.PROPOSER_BUSY)

    def counted(self) -> Count:
        """The votes so far."""
        if self.outcome is not None:
            return self.outcome
        return tally.count(self.ballots, self.approvals, None if self.census is None else self.census.electorate)

    def end(self) -> None:
        """Nothing about it changes any more but by a reorganisation: keep the figures, forget who voted."""
        self.outcome = self.counted()
        self.census, self.ballots = None, {}


@dataclass(frozen=True, slots=True)
class AcceptedSpend:
    """A spend that was accepted: to be carried out from a block on."""

    proposal: str
    script: bytes
    amount: int
    from_height: int


@dataclass(frozen=True)
class Timeline:
    """What the chain up to `height` has decided."""

    height: int
    by_id: Mapping[str, Item]
    """All proposals in the order of the chain."""
    book: Book
    alive: Sequence[Item]
    """Those that run or wait for the end of their time lock."""
    changed: Mapping[str, int]
    """Subject → block from which its last change is in force."""
    unasked: Sequence[Item]
    """Those whose electorate is not known."""
    accepted: Sequence[AcceptedSpend]
    """By the block from which they are in force, then in the order of the chain."""

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All proposals in the order of the chain."""
        return tuple(self.by_id.values())

    def find(self, proposal: str) -> Item | None:
        """The proposal of that id."""
        return self.by_id.get(proposal)

    def spends(self, height: int) -> list[AcceptedSpend]:
        """All spends in force at a height, by the block from which they are, then in the order of the chain.

        Raises RulesPending.
        """
        self.book.at(height)
        return [spend for spend in self.accepted if spend.from_height <= height]

    def circumstances(self, strangers: Collection[str] = ()) -> Circumstances:
        """What a proposal meets that confirms in the next block; `strangers` are ids of proposals that won't stand."""
        scripts = {bytes.fromhex(rules.fund_script) for rules in self.book.book.rules}
        birth = self.height + 1
        standing = [item for item in self.alive if item.id not in strangers]
        return circumstances(standing, self.changed, birth, self.book.at(birth), scripts)

    def lacking(self) -> list[Item]:
        """Proposals 60 blocks deep whose electorate must be asked for, in the order of the chain."""
        return [item for item in self.unasked if item.place[0] + TALLY_DEPTH <= self.height]


def circumstances(
    alive: Iterable[Item], changed: Mapping[str, int], birth: int, rules: Rules, scripts: Iterable[bytes]
) -> Circumstances:
    """What a proposal that confirms in `birth` meets of these others, under the rules in force then."""
    running = [
        Running(item.id, item.change, item.proposers)
        for item in alive
        if item.running or (item.passed and item.terms.from_height > birth)
    ]
    return Circumstances(birth, rules, running, changed, frozenset(scripts))
