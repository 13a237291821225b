"""Which key of the directory a record goes to: a tree of buckets that grows with the network. Pure.

A key of the engine holds about a thousand values. A record's place is the hash of its slot, read as bits. The
lowest `FULL` places of a bucket stay in it; whoever finds that many below its own place goes one bit deeper. So a
full bucket stays full, readers who see it look into both halves, and without a coordinator all agree closely
enough: readers go deeper well before writers do.
"""

import hashlib
from collections import defaultdict

FULL = 200
"""Records that stay in a bucket."""
FOLLOW = 120
"""Records in a bucket from which on readers follow its halves."""
MAX_DEPTH = 16


def place(slot: str) -> str:
    """256 bits, as text of 0 and 1, that decide where the record of `slot` goes."""
    return f"{int.from_bytes(hashlib.sha256(slot.encode()).digest(), 'big'):0256b}"


def _rank(slot: str) -> bytes:
    # Independent of the place, which is all alike within a bucket.
    return hashlib.sha256(b"rank:" + slot.encode()).digest()


class BucketTree:
    """What this node has seen in the buckets of one kind of record; bucket paths are texts of 0 and 1."""

    def __init__(self, full: int = FULL, follow: int = FOLLOW) -> None:
        self._full = full
        self._follow = follow
        self._values: dict[str, dict[int, str]] = defaultdict(dict)
        self._ranks: dict[str, dict[str, bytes]] = defaultdict(dict)

    def add(self, path: str, value: int, slot: str) -> None:
        """The value with this id, the record of `slot`, is in the bucket."""
        self._values[path][value] = slot
        self._ranks[path][slot] = _rank(slot)

    def remove(self, path: str, value: int) -> None:
        """The value has expired."""
        slot = self._values[path].pop(value, None)
        if slot is not None and slot not in self._values[path].values():
            self._ranks[path].pop(slot, None)

    def bucket(self, slot: str) -> str:
        """Where the record of `slot` is to be put now."""
        bits, rank = place(slot), _rank(slot)
        path = ""
        while len(path) < MAX_DEPTH:
            lower = sum(1 for other in self._ranks.get(path, {}).values() if other < rank)
            if lower < self._full:
                break
            path = bits[: len(path) + 1]
        return path

    def wanted(self) -> set[str]:
        """The buckets to listen to now."""
        paths, open_ends = {""}, [""]
        while open_ends:
            path = open_ends.pop()
            if len(path) < MAX_DEPTH and len(self._ranks.get(path, {})) >= self._follow:
                halves = [path + "0", path + "1"]
                paths.update(halves)
                open_ends.extend(halves)
        return paths
