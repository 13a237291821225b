"""The rules block by block: what was read before is kept, and a block costs what is new in it.

    reckoning = Reckoning(network, source)
    timeline = reckoning.at(height)     # every note up to there is in the source
    reckoning.undo(above)               # a reorganisation: what stood above is no more
    reckoning.asked()                   # the source has more censuses than before

Kept are readings up to which nothing depends on a census that is missing: the newest, and older ones for
reorganisations. The result is that of `read`, which reads everything from scratch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from duxcommon.network import NetworkDefinition

from .reading import Reader
from .timeline import Censuses, Entry, Timeline

APART = 60
"""Blocks between two marks; so the oldest of them is deeper than any usual reorganisation."""
MARKS = 3


class Source(Censuses, Protocol):
    """Where notes and censuses are kept."""

    def notes(self, above: int, to: int) -> Iterator[Entry]:
        """All notes above one height up to another, in the order of the chain."""
        ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """A reading of all notes up to a height; only forks of it read on."""

    height: int
    reader: Reader


class Reckoning:
    """What the chain has decided, kept from block to block. Not to be used by two threads at once."""

    def __init__(self, network: NetworkDefinition, source: Source) -> None:
        self._source = source
        self._birth = network.birth_height - 1
        self._marks = [_Mark(self._birth, Reader(network))]
        self._first = self._marks[0]
        self._tip = self._first
        """The last reading, of which a part may be provisional."""

    def undo(self, above: int) -> None:
        """Forget what was read above a height."""
        self._marks = [mark for mark in self._marks if mark.height <= above] or [self._first]
        if self._tip.height > above:
            self._tip = self._marks[-1]

    def asked(self) -> None:
        """There are new censuses: read again what depended on them."""
        self._tip = self._marks[-1]

    def at(self, height: int) -> Timeline:
        """What is decided at a height."""
        if height < self._tip.height:
            self.undo(height)
        reader, start = self._tip.reader, self._tip.height
        notes = self._source.notes(start, height)
        first = next(notes, None)
        if first is not None or reader.due(height):
            reader = reader.fork()
            if first is not None:
                reader.feed((first, *notes), self._source, height)
        timeline = reader.close(height)
        self._tip = _Mark(height, reader)
        if reader.uncertain_from is None:
            self._keep(self._tip)
        elif reader.uncertain_from - 1 > self._marks[-1].height:
            self._keep(self._certain(reader.uncertain_from - 1))
        return timeline

    def _certain(self, height: int) -> _Mark:
        """The reading up to a height, where nothing was uncertain yet."""
        base = self._marks[-1]
        reader = base.reader.fork()
        reader.feed(self._source.notes(base.height, height), self._source, height)
        return _Mark(height, reader)

    def _keep(self, mark: _Mark) -> None:
        if len(self._marks) > 1 and mark.height - self._marks[-2].height < APART:
            self._marks.pop()
        self._marks = [*self._marks, mark][-MARKS:]
