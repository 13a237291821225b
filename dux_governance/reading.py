"""From the notes on the chain, in their order, to what they have decided. Pure: no I/O.

The rule book is known a stretch ahead of the tip: what is not counted yet can't be in force before its own time lock is
over, and what is not proposed yet not before that.

A reader can be forked: what it has read so far is shared, and whichever of the two reads on does not change the other.
So a block costs what is new in it, and what was read before is kept for the next block and for reorganisations.
"""

import copy
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import replace

from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.coin.notes import (
    PROPOSAL_PREFIX,
    ApprovalNote,
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
from .proposals import Place, Refusal, Running
from .tally import TALLY_DEPTH
from .timeline import AcceptedSpend, Censuses, Entry, Item, Timeline, circumstances

_NEVER = 2**62
"""Above any height: for lookups in a book where it was checked before that the rules are known."""


def read(network: NetworkDefinition, entries: Iterable[Entry], censuses: Censuses, height: int) -> Timeline:
    """What the notes up to `height`, in the order of the chain, have decided; from scratch.

    What depends on a census that is missing stays undecided, and `known_to` stays before it.
    """
    reader = Reader(network)
    reader.feed(entries, censuses, height)
    return reader.close(height)


class Reader:
    """The state of one reading."""

    def __init__(self, network: NetworkDefinition) -> None:
        self._network = network
        self._items: dict[str, Item] = {}
        """In the order of the chain."""
        self._own: set[str] = set()
        """Items that no other reader and no timeline shares."""
        self._prefixes: dict[bytes, tuple[str, ...]] = {}
        self._alive: dict[str, None] = {}
        """Running, or accepted and in their time lock; in the order of the chain."""
        self._about: dict[str, tuple[str, ...]] = {}
        """Subject → those of them that are about it."""
        self._busy: dict[str, tuple[str, ...]] = {}
        """Key → those of them that it proposed."""
        self._due: list[tuple[int, Place, str]] = []
        """When the votes of what is running are counted, the next one first."""
        self._ends: list[tuple[int, Place, str]] = []
        """When the time locks of what was accepted are over."""
        self._ahead: list[tuple[int, str]] = []
        """When what is not decided would be in force."""
        self._rivals: list[int] = []
        """When proposals would be in force that count only if the same one before them turns out not to."""
        self._changed: dict[str, int] = {}
        self._unasked: tuple[str, ...] = ()
        self._passed: list[Item] = []
        """Changes of the rules, in the order in which they come into force."""
        self._accepted: list[tuple[int, Place, AcceptedSpend]] = []
        self._set_versions([first_rules(network)])
        self._scripts = frozenset([bytes.fromhex(self._versions[0].fund_script)])
        """Every one that the fund had or will have."""
        self._at = -1
        """The block whose notes are being taken, …"""
        self._known = -1
        """…the last one whose rules are known then, …"""
        self._payable: tuple[str, ...] = ()
        """…and the fund scripts that count in it."""
        self._stopped: int | None = None
        self.uncertain_from: int | None = None
        """The first block with a proposal of unknown electorate: everything from there on is provisional."""

    def fork(self) -> "Reader":
        """Another reader that goes on from here; this one must not be used for reading any more."""
        twin = copy.copy(self)
        for name in (
            "_items", "_prefixes", "_alive", "_about", "_busy", "_due", "_ends", "_ahead", "_rivals", "_changed",
            "_passed", "_accepted",
        ):  # fmt: skip
            setattr(twin, name, copy.copy(getattr(self, name)))
        twin._own = set()
        return twin

    def feed(self, entries: Iterable[Entry], censuses: Censuses, height: int) -> None:
        """Take the next notes, in the order of the chain, up to a height. A block's notes must come all at once."""
        for entry in entries:
            if entry.place[0] > height or not self._take(entry, censuses):
                break

    def due(self, height: int) -> bool:
        """Whether `close` would find anything to count."""
        last = height if self._stopped is None else min(height, self._stopped)
        return bool((self._due and self._due[0][0] <= last) or (self._ends and self._ends[0][0] <= last))

    def close(self, height: int) -> Timeline:
        """What is decided at a height, with all notes up to it taken."""
        # Votes behind the place at which reading had to stop are not counted yet.
        last = height if self._stopped is None else min(height, self._stopped)
        self._decide(last)
        return Timeline(
            height=height,
            by_id=self._items,
            book=self._lookup.reaching(self._known_to(last)),
            alive=[self._items[ident] for ident in self._alive],
            changed=self._changed,
            unasked=[self._items[ident] for ident in self._unasked],
            accepted=[spend for _, _, spend in self._accepted],
        )

    # --- the rules at a height -----------------------------------------------------------------------------------

    def _set_versions(self, versions: list[Rules]) -> None:
        self._versions = versions
        self._lookup = Book(RuleBook(network=self._network.id, rules=versions, known_to=_NEVER))

    def _take_over(self, item: Item) -> None:
        """A change was accepted: make the versions anew, as an earlier time lock may end after a later one."""

        def order(one: Item) -> tuple[int, Place]:
            return one.terms.from_height, one.place

        first = bisect_left(self._passed, order(item), key=order)
        self._passed.insert(first, item)
        # Version 0 is the network definition, so version n is what the n-th change made.
        versions = self._versions[: first + 1]
        for one in self._passed[first:]:
            versions.append(
                proposals.apply(versions[-1], one.change, proposal=one.id, from_height=one.terms.from_height)
            )
        self._scripts |= {bytes.fromhex(rules.fund_script) for rules in versions[first + 1 :]}
        self._set_versions(versions)

    def _known_to(self, height: int) -> int:
        """The last block whose rules can't change any more, with the chain read up to `height`."""
        bounds = [*self._rivals]
        if self._ahead:
            bounds.append(self._ahead[0][0])
        # A reorg of 60 blocks may still bring a proposal that is not there now.
        start = max(height - TALLY_DEPTH + 1, self._network.birth_height)
        for rules in reversed(self._versions):
            bounds.append(_earliest(rules, max(start, rules.from_height)))
            if rules.from_height <= start:
                break
        return min(bounds) - 1

    # --- notes -----------------------------------------------------------------------------------------------------

    def _take(self, entry: Entry, censuses: Censuses) -> bool:
        """Take the next note; False when the rules at its place can't be known yet."""
        height = entry.place[0]
        if self._stopped is not None:
            return False
        if height != self._at:
            self._decide(height)
            self._at, self._known = height, self._known_to(height)
            self._payable = tuple(script.hex() for script in self._lookup.fund_scripts_at(height))
        if height > self._known:
            self._stopped = height - 1
            return False
        if all(entry.paid.get(script, 0) < DUST for script in self._payable):
            return True
        match entry.note:
            case ProposalNote():
                self._propose(entry, entry.note, censuses)
            case VoteNote(proposal=proposal, yes=yes):
                self._vote(entry, proposal.hex(), yes)
            case ApprovalNote():
                self._approve(entry, entry.note)
            case _:
                pass
        return True

    def _propose(self, entry: Entry, note: ProposalNote, censuses: Censuses) -> None:
        ident = proposal_id(self._network.id, entry.data)
        birth = entry.place[0]
        rules = self._lookup.at(birth)
        terms = tally.terms_of(note.change, rules, birth)
        first = self._items.get(ident)
        if first is not None:
            # The first that confirmed is the proposal, unless whoever sent it may not propose, or has one running: so
            # nobody can spoil a proposal by sending its note before its author does.
            if first.provisional:
                self._rivals.append(terms.from_height)
                return
            if not first.replaceable:
                return
            del self._items[ident]
        item = Item(
            id=ident,
            place=entry.place,
            txid=entry.txid,
            change=note.change,
            document=note.document.hex(),
            terms=terms,
            rules=rules,
            signers=entry.signers,
            proposers=entry.signers,
        )
        others = self._others(item.signers, proposals.subject(item.change))
        now = circumstances(others, self._changed, birth, rules, self._scripts)
        item.refusal = proposals.check(note.change, now)
        if item.refusal is None:
            item.census = censuses.get((ident, entry.place))
            if item.census is None:
                self._unasked += (ident,)
                self.uncertain_from = birth if self.uncertain_from is None else self.uncertain_from
            else:
                item.proposers = item.signers & item.census.electorate
                item.refusal = _unfit(item, item.census.spendable, now.running)
        item.provisional = self.uncertain_from is not None
        self._add(item)

    def _others(self, signers: Iterable[str], about: str | None) -> list[Item]:
        """Those alive that a proposal of these keys could contradict, in the order of the chain."""
        found = {ident for key in signers for ident in self._busy.get(key, ())}
        found.update(self._about.get(about or "", ()))
        return sorted((self._items[ident] for ident in found), key=lambda item: item.place)

    def _vote(self, entry: Entry, proposal: str, yes: bool) -> None:
        item = self._items.get(proposal)
        if item is None or item.outcome is not None or not item.terms.birth < entry.place[0] <= item.terms.deadline:
            return
        voters = entry.signers if item.census is None else entry.signers & item.census.electorate
        if voters:
            self._mine(proposal).ballots.update(dict.fromkeys(voters, yes))

    def _approve(self, entry: Entry, note: ApprovalNote) -> None:
        for ident in self._prefixes.get(note.proposal, ()):
            item = self._items[ident]
            if item.outcome is not None or not item.terms.birth < entry.place[0] <= item.terms.deadline:
                continue
            if not item.terms.approvals:
                continue
            for key in item.terms.guardians - item.approvals:
                if approves(note, self._network.id, item.id, bytes.fromhex(key)):
                    self._mine(ident).approvals.add(key)

    # --- proposals ---------------------------------------------------------------------------------------------------

    def _mine(self, ident: str) -> Item:
        """An item that may be changed in place."""
        item = self._items[ident]
        if ident not in self._own:
            item = replace(item, ballots=dict(item.ballots), approvals=set(item.approvals))
            self._items[ident] = item
            self._own.add(ident)
        return item

    def _add(self, item: Item) -> None:
        self._items[item.id] = item
        self._own.add(item.id)
        prefix = bytes.fromhex(item.id)[:PROPOSAL_PREFIX]
        if item.id not in self._prefixes.get(prefix, ()):
            self._prefixes[prefix] = (*self._prefixes.get(prefix, ()), item.id)
        if item.provisional or item.running:
            insort(self._ahead, (item.terms.from_height, item.id))
        if item.running:
            self._alive[item.id] = None
            insort(self._due, (item.terms.tally_at, item.place, item.id))
            for index, name in self._indexed(item):
                index[name] = (*index.get(name, ()), item.id)
        elif not item.provisional:
            item.end()

    def _indexed(self, item: Item) -> list[tuple[dict[str, tuple[str, ...]], str]]:
        about = proposals.subject(item.change)
        return [*((self._busy, key) for key in item.proposers), *([(self._about, about)] if about is not None else [])]

    def _leave(self, item: Item) -> None:
        """It is neither running nor in its time lock any more."""
        del self._alive[item.id]
        for index, name in self._indexed(item):
            if left := tuple(ident for ident in index[name] if ident != item.id):
                index[name] = left
            else:
                del index[name]

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, height: int) -> None:
        """Count the votes of what is due at a height, in the order in which it falls due."""
        while self._due and self._due[0][0] <= height:
            _, _, ident = self._due.pop(0)
            if not self._items[ident].provisional:
                self._count(self._mine(ident))
        while self._ends and self._ends[0][0] <= height:
            _, _, ident = self._ends.pop(0)
            self._leave(self._items[ident])

    def _count(self, item: Item) -> None:
        item.shortfall = tally.shortfall(item.terms, item.counted())
        item.end()
        since = item.terms.from_height
        del self._ahead[bisect_left(self._ahead, (since, item.id))]
        if not item.passed:
            self._leave(item)
            return
        insort(self._ends, (since, item.place, item.id))
        if (about := proposals.subject(item.change)) is not None:
            self._changed[about] = max(since, self._changed.get(about, 0))
        if isinstance(item.change, Spend):
            spend = AcceptedSpend(item.id, item.change.script, item.change.amount, since)
            insort(self._accepted, (since, item.place, spend), key=lambda one: one[:2])
        else:
            self._take_over(item)


def _earliest(rules: Rules, birth: int) -> int:
    """The first block in which a proposal that confirms in `birth` under these rules could be in force."""
    return birth + rules.parameters.vote_blocks + TALLY_DEPTH + rules.parameters.time_lock_blocks + 1


def _unfit(item: Item, spendable: int | None, running: Sequence[Running]) -> Refusal | None:
    """What the census says against a proposal."""
    refusal = proposals.check_proposers(item.proposers, running)
    if refusal is None and spendable is not None:
        refusal = proposals.check_spendable(item.change, spendable)
    return refusal
