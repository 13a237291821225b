"""From the notes on the chain, in their order, to the rule book. Pure: no I/O.

Everything follows from three things that every node has alike: the network definition, the notes, and for each
proposal its electorate (what registryd reads from the chain). The rule book is known a stretch ahead of the tip: what
is not counted yet can't be in force before its own time lock is over, and what is not proposed yet not before that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.coin.notes import (
    PROPOSAL_PREFIX,
    ApprovalNote,
    Change,
    Note,
    ProposalNote,
    Spend,
    VoteNote,
    approves,
    proposal_id,
)
from duxcommon.money import DUST
from duxcommon.network import NetworkDefinition
from duxcommon.rulebook import Book, first_rules

from . import proposals, tally
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
    refusal: Refusal | None = None
    census: Census | None = None
    ballots: dict[str, bool] = field(default_factory=dict)
    approvals: set[str] = field(default_factory=set)
    provisional: bool = False
    """The electorate of this or an earlier proposal is not known: what it came to may change."""
    shortfall: str | None = None
    """Once it is decided: empty when it passed, else why it did not."""

    @property
    def proposers(self) -> frozenset[str]:
        """Those of its signers that may propose; all of them while the electorate is not known."""
        return self.signers if self.census is None else self.signers & self.census.electorate

    @property
    def passed(self) -> bool | None:
        """None while it is not decided."""
        return None if self.shortfall is None else not self.shortfall

    @property
    def running(self) -> bool:
        """It is neither rejected nor decided."""
        return self.refusal is None and self.shortfall is None

    @property
    def unqualified(self) -> bool:
        """None of those who signed it may propose."""
        return self.refusal is not None and self.refusal.reason is Reason.NOT_QUALIFIED

    def counted(self) -> Count:
        """The votes so far."""
        return tally.count(self.ballots, self.approvals, None if self.census is None else self.census.electorate)


@dataclass(frozen=True, slots=True)
class AcceptedSpend:
    """A spend that was accepted: to be carried out from a block on."""

    proposal: str
    script: bytes
    amount: int
    from_height: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the chain up to `height` has decided."""

    height: int
    items: tuple[Item, ...]
    """All proposals in the order of the chain."""
    book: Book

    def find(self, proposal: str) -> Item | None:
        """The proposal of that id."""
        return next((item for item in self.items if item.id == proposal), None)

    def spends(self, height: int) -> list[AcceptedSpend]:
        """All spends in force at a height, by the block from which they are, then in the order of the chain.

        Raises RulesPending.
        """
        self.book.at(height)
        found = [
            AcceptedSpend(item.id, item.change.script, item.change.amount, item.terms.from_height)
            for item in self.items
            if isinstance(item.change, Spend) and item.passed and item.terms.from_height <= height
        ]
        return sorted(found, key=lambda spend: spend.from_height)

    def circumstances(self) -> Circumstances:
        """What a proposal meets that confirms in the next block."""
        scripts = {bytes.fromhex(rules.fund_script) for rules in self.book.book.rules}
        return circumstances(self.items, self.height + 1, self.book.at(self.height + 1), scripts)

    def lacking(self) -> list[Item]:
        """Proposals 60 blocks deep whose electorate must be asked for, in the order of the chain."""
        return [
            item
            for item in self.items
            if item.census is None and item.refusal is None and item.place[0] + TALLY_DEPTH <= self.height
        ]


def read(
    network: NetworkDefinition, entries: Sequence[Entry], censuses: Mapping[Asked, Census], height: int
) -> Timeline:
    """What the notes up to `height`, in the order of the chain, have decided.

    `censuses` by proposal and its place; what depends on one that is missing stays undecided, and `known_to` stays
    before it.
    """
    reader = _Reader(network, censuses)
    for entry in entries:
        if entry.place[0] > height or not reader.take(entry):
            break
    return reader.close(height)


class _Reader:
    """The state of one reading."""

    def __init__(self, network: NetworkDefinition, censuses: Mapping[Asked, Census]) -> None:
        self._network = network
        self._id = network.id
        self._censuses = censuses
        self._items: dict[str, Item] = {}
        self._prefixes: dict[bytes, set[str]] = {}
        self._passed: list[Item] = []
        """Changes of the rules, in the order in which they come into force."""
        self._versions = [first_rules(network)]
        self._scripts = {bytes.fromhex(self._versions[0].fund_script)}
        self._uncertain = False
        """A census is missing: everything from here on is provisional."""
        self._rivals: list[int] = []
        """Where proposals would be in force that count only if the same one before them turns out not to."""
        self._book: Book | None = None
        """As known in block `_at`."""
        self._payable: tuple[str, ...] = ()
        """The fund scripts that count in that block."""
        self._at = -1
        self._stopped: int | None = None

    # --- the rules at a height -----------------------------------------------------------------------------------

    def _known(self, height: int) -> Book:
        """The book as it is known with the chain read up to a height."""
        if self._book is None or self._at != height:
            rules = RuleBook(network=self._id, rules=self._versions, known_to=self._known_to(height))
            self._book, self._at = Book(rules), height
            at = min(height, rules.known_to)
            self._payable = tuple(script.hex() for script in self._book.fund_scripts_at(at))
        return self._book

    def _take_over(self, item: Item) -> None:
        """A change was accepted: make the versions anew, as an earlier time lock may end after a later one."""
        self._passed = sorted([*self._passed, item], key=lambda one: (one.terms.from_height, one.place))
        versions = [first_rules(self._network)]
        for one in self._passed:
            versions.append(
                proposals.apply(versions[-1], one.change, proposal=one.id, from_height=one.terms.from_height)
            )
        self._versions = versions
        self._scripts.update(bytes.fromhex(rules.fund_script) for rules in versions)
        self._book = None

    def _known_to(self, height: int) -> int:
        """The last block whose rules can't change any more, with the chain read up to `height`."""
        undecided = [item.terms.from_height for item in self._items.values() if item.provisional or item.running]
        # A reorg of 60 blocks may still bring a proposal that is not there now.
        start = max(height - TALLY_DEPTH + 1, self._network.birth_height)
        ends = [rules.from_height for rules in self._versions[1:]]
        unborn = [
            _earliest(rules, max(start, rules.from_height))
            for rules, end in zip(self._versions, [*ends, None], strict=True)
            if end is None or end > start
        ]
        return min([*undecided, *self._rivals, *unborn]) - 1

    # --- notes -----------------------------------------------------------------------------------------------------

    def take(self, entry: Entry) -> bool:
        """Take the next note; False when the rules at its place can't be known yet."""
        height = entry.place[0]
        if height != self._at:
            self._decide(height)
        book = self._known(height)
        if height > book.known_to:
            self._stopped = height - 1
            return False
        if all(entry.paid.get(script, 0) < DUST for script in self._payable):
            return True
        match entry.note:
            case ProposalNote():
                self._propose(entry, entry.note, book.at(height))
            case VoteNote(proposal=proposal, yes=yes):
                self._vote(entry, proposal.hex(), yes)
            case ApprovalNote():
                self._approve(entry, entry.note)
            case _:
                pass
        return True

    def _propose(self, entry: Entry, note: ProposalNote, rules: Rules) -> None:
        ident = proposal_id(self._id, entry.data)
        birth = entry.place[0]
        terms = tally.terms_of(note.change, rules, birth)
        first = self._items.get(ident)
        if first is not None and not first.unqualified:
            # The first that confirmed is the proposal, unless whoever sent it may not propose: so nobody can spoil
            # a proposal by sending its note before its author does.
            if first.provisional:
                self._rivals.append(terms.from_height)
            return
        item = Item(
            id=ident,
            place=entry.place,
            txid=entry.txid,
            change=note.change,
            document=note.document.hex(),
            terms=terms,
            rules=rules,
            signers=entry.signers,
        )
        now = circumstances(self._items.values(), birth, rules, self._scripts)
        item.refusal = proposals.check(note.change, now)
        if item.refusal is None:
            item.census = self._censuses.get((ident, entry.place))
            self._uncertain = self._uncertain or item.census is None
            item.refusal = _unfit(item, now.running)
        item.provisional = self._uncertain
        self._items[ident] = item
        self._prefixes.setdefault(bytes.fromhex(ident)[:PROPOSAL_PREFIX], set()).add(ident)

    def _vote(self, entry: Entry, proposal: str, yes: bool) -> None:
        item = self._items.get(proposal)
        if item is not None and item.terms.birth < entry.place[0] <= item.terms.deadline:
            item.ballots.update(dict.fromkeys(entry.signers, yes))

    def _approve(self, entry: Entry, note: ApprovalNote) -> None:
        for item in (self._items[ident] for ident in self._prefixes.get(note.proposal, ())):
            if not item.terms.birth < entry.place[0] <= item.terms.deadline or not item.terms.approvals:
                continue
            for key in item.terms.guardians - item.approvals:
                if approves(note, self._id, item.id, bytes.fromhex(key)):
                    item.approvals.add(key)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, height: int) -> None:
        """Count the votes of what is due at a height, in the order in which it falls due."""
        due = [item for item in self._items.values() if item.running and item.terms.tally_at <= height]
        for item in sorted(due, key=lambda one: (one.terms.tally_at, one.place)):
            if item.provisional:
                continue
            item.shortfall = tally.shortfall(item.terms, item.counted())
            if item.passed and not isinstance(item.change, Spend):
                self._take_over(item)

    def close(self, height: int) -> Timeline:
        """The end of the reading."""
        # Votes behind the place at which reading had to stop are not counted yet.
        last = height if self._stopped is None else min(height, self._stopped)
        self._decide(last)
        self._book = None
        items = tuple(sorted(self._items.values(), key=lambda one: one.place))
        return Timeline(height, items, self._known(last))


def circumstances(items: Iterable[Item], birth: int, rules: Rules, scripts: Iterable[bytes]) -> Circumstances:
    """What a proposal that confirms in `birth` meets, under the rules in force then."""
    running = []
    changed: dict[str, int] = {}
    for item in items:
        since = item.terms.from_height
        if item.running or (item.passed and since > birth):
            running.append(Running(item.id, item.change, item.proposers))
        elif item.passed and (about := proposals.subject(item.change)) is not None:
            changed[about] = max(since, changed.get(about, 0))
    return Circumstances(birth, rules, running, changed, frozenset(scripts))


def _earliest(rules: Rules, birth: int) -> int:
    """The first block in which a proposal that confirms in `birth` under these rules could be in force."""
    return birth + rules.parameters.vote_blocks + TALLY_DEPTH + rules.parameters.time_lock_blocks + 1


def _unfit(item: Item, running: Sequence[Running]) -> Refusal | None:
    """What the census says against a proposal; nothing while there is none."""
    if item.census is None:
        return None
    refusal = proposals.check_proposers(item.proposers, running)
    if refusal is None and item.census.spendable is not None:
        refusal = proposals.check_spendable(item.change, item.census.spendable)
    return refusal
