"""Transactions that wait for a block: in memory only, as with Core, whose kill loses those that are not a wallet's."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from btclib.tx import Tx

from . import policy
from .store import Coin
from .validate import NONSTANDARD, Reject, outpoint


@dataclass(slots=True)
class Entry:
    """One waiting transaction; `fee` in koinu, `parents` and `children` are waiting too."""

    tx: Tx
    txid: bytes
    raw: bytes
    fee: int
    time: int
    parents: set[bytes] = field(default_factory=set)
    children: set[bytes] = field(default_factory=set)


class Mempool:
    """Entries in an order in which parents come first, and who spends which outpoint."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._spends: dict[tuple[bytes, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, txid: bytes) -> bool:
        return txid in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, txid: bytes) -> Entry | None:
        return self._entries.get(txid)

    def spender(self, txid: bytes, vout: int) -> bytes | None:
        """Who in the mempool spends an outpoint."""
        return self._spends.get((txid, vout))

    def coin(self, txid: bytes, vout: int) -> Coin | None:
        """An output of a waiting transaction, spent or not."""
        entry = self._entries.get(txid)
        if entry is None or vout >= len(entry.tx.vout):
            return None
        output = entry.tx.vout[vout]
        return Coin(output.value, output.script_pub_key.script, None, False)

    def relatives(self, start: set[bytes], *, down: bool) -> set[bytes]:
        """`start` and all its waiting descendants (or ancestors)."""
        found: set[bytes] = set()
        todo = list(start)
        while todo:
            txid = todo.pop()
            if txid in found:
                continue
            found.add(txid)
            entry = self._entries[txid]
            todo.extend(entry.children if down else entry.parents)
        return found

    def check_chain(self, tx: Tx, size: int) -> None:
        """Refuse a transaction that would make an unconfirmed chain too long; raises Reject."""
        parents = {given.prev_out.tx_id for given in tx.vin if given.prev_out.tx_id in self._entries}
        ancestors = self.relatives(parents, down=False)
        if len(ancestors) + 1 > policy.MAX_ANCESTORS:
            raise _too_long(f"too many unconfirmed ancestors [limit: {policy.MAX_ANCESTORS}]")
        if sum(len(self._entries[txid].raw) for txid in ancestors) + size > policy.MAX_CHAIN_SIZE:
            raise _too_long(f"exceeds ancestor size limit [limit: {policy.MAX_CHAIN_SIZE}]")
        for ancestor in ancestors:
            descendants = self.relatives({ancestor}, down=True)
            if len(descendants) + 1 > policy.MAX_ANCESTORS:
                raise _too_long(f"too many descendants for tx {ancestor.hex()} [limit: {policy.MAX_ANCESTORS}]")
            if sum(len(self._entries[txid].raw) for txid in descendants) + size > policy.MAX_CHAIN_SIZE:
                raise _too_long(f"exceeds descendant size limit for tx {ancestor.hex()}")

    def add(self, entry: Entry) -> None:
        """Take a transaction that was checked."""
        for given in entry.tx.vin:
            self._spends[outpoint(given)] = entry.txid
            parent = self._entries.get(given.prev_out.tx_id)
            if parent is not None:
                entry.parents.add(parent.txid)
                parent.children.add(entry.txid)
        self._entries[entry.txid] = entry

    def confirmed(self, txid: bytes, tx: Tx) -> None:
        """A block holds `tx`: drop it, and with its descendants every other spend of its inputs."""
        if txid in self._entries:
            self._drop(txid)
        for given in tx.vin:
            other = self._spends.get(outpoint(given))
            if other is not None:
                self.remove(other)

    def remove(self, txid: bytes) -> None:
        """Drop a transaction with all its descendants."""
        for gone in self.relatives({txid}, down=True):
            self._drop(gone)

    def drain(self) -> list[Entry]:
        """Empty the mempool; what was in it, parents first."""
        entries = list(self._entries.values())
        self._entries.clear()
        self._spends.clear()
        return entries

    def _drop(self, txid: bytes) -> None:
        entry = self._entries.pop(txid)
        for given in entry.tx.vin:
            self._spends.pop(outpoint(given), None)
        for parent in entry.parents & self._entries.keys():
            self._entries[parent].children.discard(txid)
        for child in entry.children & self._entries.keys():
            self._entries[child].parents.discard(txid)


def _too_long(debug: str) -> Reject:
    return Reject(NONSTANDARD, "too-long-mempool-chain", debug)
