"""Settled work and bonds as the chain tells them, judged by the rule book, and added up for a snapshot.

A database of its own, made anew from the chain when it is lost. What flopd tells is kept with all that the judgement
needs: when the rules of heights that were judged change, it is judged again without reading the chain again.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from duxcommon.api.airdropd import RuleBook
from duxcommon.api.flopd import BlockRef, BondFact, BondPage, SettlementFact, SettlementPage
from duxcommon.coin.settlement import RATE_GRACE, rates_for, tax_rate
from duxcommon.db import Store
from duxcommon.eligibility import Lock, Score, Window, Work, score
from duxcommon.follow import MIGRATION as FOLLOW_TABLE
from duxcommon.follow import Kind
from duxcommon.money import DUST
from duxcommon.parameters import EPOCHS
from duxcommon.rulebook import Book

T = TypeVar("T")

MIGRATIONS = (
    FOLLOW_TABLE,
    """
CREATE TABLE payout_key (id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE) STRICT;
-- Transactions that have the form of settled work; `counted` are those that are settled work by the rules.
CREATE TABLE settlement (
  height INTEGER NOT NULL, place INTEGER NOT NULL, part INTEGER NOT NULL, key INTEGER NOT NULL, payout INTEGER NOT NULL,
  tax INTEGER NOT NULL, fund_script BLOB NOT NULL, deposits TEXT NOT NULL, counted INTEGER NOT NULL,
  PRIMARY KEY (height, place, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX settlement_counted ON settlement (height, key, tax) WHERE counted = 1;
CREATE INDEX settlement_of_key ON settlement (key, height, tax) WHERE counted = 1;
-- `paid` is what the same transaction paid to P2SH scripts.
CREATE TABLE bond (
  height INTEGER NOT NULL, place INTEGER NOT NULL, part INTEGER NOT NULL, key INTEGER NOT NULL, txid TEXT NOT NULL,
  vout INTEGER NOT NULL, lock_height INTEGER NOT NULL, amount INTEGER NOT NULL, paid TEXT NOT NULL,
  counted INTEGER NOT NULL,
  PRIMARY KEY (height, place, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX bond_counted ON bond (lock_height, height, key, amount) WHERE counted = 1;
CREATE INDEX bond_of_key ON bond (key, lock_height);
-- The rule book by which everything here was judged; `generation` changes whenever something that was told changes.
CREATE TABLE judged (one INTEGER PRIMARY KEY CHECK (one = 1), book TEXT, generation INTEGER NOT NULL) STRICT;
INSERT INTO judged VALUES (1, NULL, 0);
""",
    # Of the book; apart, because it changes with every block and the book hardly ever.
    "ALTER TABLE judged ADD COLUMN known_to INTEGER;",
)

_HIGH = 32
"""Bits of an amount that are added up apart: SQLite's sums end at 2^63, which an attacker's taxes could reach."""
_LOW = (1 << _HIGH) - 1

_KEY_OF = "(SELECT id FROM payout_key WHERE pubkey = ?)"
_WORK_BY_KEY = f"""
SELECT pubkey, high, low, epochs, key FROM (
  SELECT key, SUM(tax >> {_HIGH}) AS high, SUM(tax & {_LOW}) AS low,
    COUNT(DISTINCT (height - :opens - 1) * {EPOCHS} / :blocks) AS epochs
  FROM settlement INDEXED BY settlement_counted
  WHERE counted = 1 AND height > :opens AND height <= :height GROUP BY key
) JOIN payout_key ON id = key
"""  # noqa: S608 - constants of this module


@dataclass(frozen=True, slots=True)
class OwnBond:
    """A bond of one key as the chain holds it; koinu."""

    txid: str
    vout: int
    amount: int
    lock_height: int
    height: int
    """Where it confirmed."""
    counted: bool
    """Its transaction paid the fund."""

    @property
    def lock(self) -> Lock:
        """What eligibility sees of it."""
        return Lock(self.height, self.lock_height, self.amount)


@dataclass(frozen=True, slots=True)
class State:
    """Which facts were there when something was read."""

    generation: int
    """Another one whenever facts were undone or judged otherwise; those that are added don't change it."""
    tip: BlockRef | None
    """Everything up to this block is there; None before the first reading."""

    @property
    def height(self) -> int:
        """Of that block; -1 before the first reading."""
        return -1 if self.tip is None else self.tip.height


class Judge:
    """Says what counts by one rule book. Raises RulesPending for facts above its `known_to`."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._min_tax = book.at(0).parameters.min_tax
        self._scripts: dict[int, frozenset[bytes]] = {}

    def work(self, height: int, payout: int, tax: int, fund_script: bytes, deposits: Sequence[int]) -> bool:
        """Whether a transaction that has the form of settled work is settled work."""
        if fund_script not in self._funds(height):
            return False
        return tax_rate(payout, tax, self._rates(deposits), self._min_tax) is not None

    def bond(self, height: int, paid: dict[str, int]) -> bool:
        """Whether the transaction of a bond paid the fund, so that everybody finds it."""
        return any(amount >= DUST and bytes.fromhex(script) in self._funds(height) for script, amount in paid.items())

    def _funds(self, height: int) -> frozenset[bytes]:
        if height not in self._scripts:
            self._scripts[height] = frozenset(self._book.fund_scripts_at(height))
        return self._scripts[height]

    def _rates(self, deposits: Sequence[int]) -> list[int]:
        first, last = (self._book.at(height) for height in (max(0, min(deposits) - RATE_GRACE), max(deposits)))
        if first.version != last.version:
            return rates_for(deposits, self._book.tax_at)
        # Nearly always: no need to look up 145 blocks one by one.
        return [last.parameters.tax_bps]


class Ledger:
    """The facts, judged. `kinds` are for the follower; call `use` before it syncs, with a book that reaches as far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._judge: Judge | None = None
        self._used = ("", -1)
        """Digest of the book by which everything is judged, and up to which block it is known."""

    def kinds(self) -> list[Kind]:
        """What is followed."""
        return [
            Kind("chain.settlements", SettlementPage, self._add_work, lambda c, above: _undo(c, "settlement", above)),
            Kind("chain.bonds", BondPage, self._add_bonds, lambda c, above: _undo(c, "bond", above)),
        ]

    async def use(self, book: Book) -> None:
        """Judge what comes by this book, and what is there again from the first height at which it says otherwise."""
        if (book.digest, book.known_to) == self._used:
            return
        judge = Judge(book)

        def change(connection: sqlite3.Connection) -> None:
            if book.digest != self._used[0]:
                stored, known_to = connection.execute("SELECT book, known_to FROM judged").fetchone()
                if stored is not None:
                    before = Book(RuleBook.model_validate_json(stored))
                    before = before if known_to is None else before.reaching(known_to)
                    if (height := book.difference(before)) is not None:
                        _judge_again(connection, judge, height)
                connection.execute("UPDATE judged SET book = ?", (book.book.model_dump_json(),))
            connection.execute("UPDATE judged SET known_to = ?", (book.known_to,))

        await self._store.write(change)
        self._judge, self._used = judge, (book.digest, book.known_to)

    @property
    def _judged_by(self) -> Judge:
        if self._judge is None:
            raise AssertionError("facts came before any rules")
        return self._judge

    def _add_work(self, connection: sqlite3.Connection, facts: Sequence[SettlementFact]) -> None:
        judge = self._judged_by
        _add_keys(connection, {fact.provider for fact in facts})

        def row(fact: SettlementFact) -> tuple[object, ...]:
            script = bytes.fromhex(fact.fund_script)
            counted = judge.work(fact.at.height, fact.payout, fact.tax, script, fact.deposits)
            return (
                fact.at.height, fact.at.index, fact.at.part, bytes.fromhex(fact.provider), fact.payout, fact.tax,
                script, json.dumps(fact.deposits), counted,
            )  # fmt: skip

        connection.executemany(
            f"INSERT INTO settlement VALUES (?, ?, ?, {_KEY_OF}, ?, ?, ?, ?, ?)",  # noqa: S608
            map(row, facts),
        )

    def _add_bonds(self, connection: sqlite3.Connection, facts: Sequence[BondFact]) -> None:
        judge = self._judged_by
        _add_keys(connection, {fact.pubkey for fact in facts})

        def row(fact: BondFact) -> tuple[object, ...]:
            return (
                fact.at.height, fact.at.index, fact.at.part, bytes.fromhex(fact.pubkey), fact.txid, fact.vout,
                fact.lock_height, fact.amount, json.dumps(fact.paid), judge.bond(fact.at.height, fact.paid),
            )  # fmt: skip

        connection.executemany(
            f"INSERT INTO bond VALUES (?, ?, ?, {_KEY_OF}, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            map(row, facts),
        )

    # --- what it adds up to -----------------------------------------------------------------------------------

    def state(self) -> State:
        """Which facts there are now."""
        return self._store.read(_state)

    def scores(self, window: Window) -> tuple[State, list[Score]]:
        """Every key that has settled work in the window, in no order, and the state that this was read from."""

        def query(connection: sqlite3.Connection) -> tuple[State, list[Score]]:
            bonds: dict[int, int] = {}
            for row in connection.execute(
                "SELECT key, amount FROM bond INDEXED BY bond_counted "
                "WHERE counted = 1 AND lock_height >= ? AND height <= ?",
                (window.locked_until, window.opens),
            ):
                bonds[row[0]] = bonds.get(row[0], 0) + row[1]
            given = {"opens": window.opens, "blocks": window.blocks, "height": window.height}
            found = [
                Score(pubkey, (high << _HIGH) + low, epochs, bonds.get(key, 0))
                for pubkey, high, low, epochs, key in connection.execute(_WORK_BY_KEY, given)
            ]
            return _state(connection), found

        return self._consistent(query)

    def of_key(self, pubkey: bytes, window: Window) -> tuple[Score, list[Lock]]:
        """One key's score, and all its bonds that count."""

        def query(connection: sqlite3.Connection) -> tuple[Score, list[Lock]]:
            rows = connection.execute(
                f"SELECT height, tax FROM settlement WHERE counted = 1 AND key = {_KEY_OF} "  # noqa: S608
                "AND height > ? AND height <= ?",
                (pubkey, window.opens, window.height),
            )
            work = [Work(*row) for row in rows]
            locks = [bond.lock for bond in _bonds(connection, pubkey) if bond.counted]
            return score(pubkey, work, locks, window), locks

        return self._consistent(query)

    def bonds(self, pubkey: bytes) -> list[OwnBond]:
        """All bonds of a key, those that come free first first."""
        return self._store.read(lambda connection: _bonds(connection, pubkey))

    def worked_since(self, pubkey: bytes, height: int) -> bool:
        """Whether a key has settled work above a height."""
        return self._store.read(
            lambda c: (
                c.execute(
                    f"SELECT 1 FROM settlement WHERE counted = 1 AND key = {_KEY_OF} AND height > ? LIMIT 1",  # noqa: S608
                    (pubkey, height),
                ).fetchone()
                is not None
            )
        )

    def _consistent(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Several statements that see the same state, whatever is written meanwhile."""

        def read(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("COMMIT")

        return self._store.read(read)


def _state(connection: sqlite3.Connection) -> State:
    generation, height, block = connection.execute(
        "SELECT generation, height, hash FROM judged LEFT JOIN followed ON height = (SELECT max(height) FROM followed)"
    ).fetchone()
    return State(generation, None if height is None else BlockRef(height=height, hash=block))


def _add_keys(connection: sqlite3.Connection, pubkeys: set[str]) -> None:
    # Sorted, so that neighbours in the index are written together.
    connection.executemany(
        "INSERT OR IGNORE INTO payout_key (pubkey) VALUES (?)", [(bytes.fromhex(key),) for key in sorted(pubkeys)]
    )


def _undo(connection: sqlite3.Connection, table: str, above: int) -> None:
    connection.execute(f"DELETE FROM {table} WHERE height > ?", (above,))  # noqa: S608 - one of two names
    connection.execute("UPDATE judged SET generation = generation + 1")


def _bonds(connection: sqlite3.Connection, pubkey: bytes) -> list[OwnBond]:
    rows = connection.execute(
        "SELECT txid, vout, amount, lock_height, height, counted FROM bond "  # noqa: S608
        f"WHERE key = {_KEY_OF} ORDER BY lock_height, height, place, part",
        (pubkey,),
    )
    return [OwnBond(row[0], row[1], row[2], row[3], row[4], bool(row[5])) for row in rows]


def _judge_again(connection: sqlite3.Connection, judge: Judge, from_height: int) -> None:
    """What rules of these heights decide confirmed at them or later: a deposit confirms before it is spent."""
    changed = [
        (int(counted), *place)
        for *place, payout, tax, script, deposits, before in connection.execute(
            "SELECT height, place, part, payout, tax, fund_script, deposits, counted FROM settlement WHERE height >= ?",
            (from_height,),
        )
        if (counted := judge.work(place[0], payout, tax, script, json.loads(deposits))) != bool(before)
    ]
    connection.executemany("UPDATE settlement SET counted = ? WHERE height = ? AND place = ? AND part = ?", changed)
    changed = [
        (int(counted), *place)
        for *place, paid, before in connection.execute(
            "SELECT height, place, part, paid, counted FROM bond WHERE height >= ?", (from_height,)
        )
        if (counted := judge.bond(place[0], json.loads(paid))) != bool(before)
    ]
    connection.executemany("UPDATE bond SET counted = ? WHERE height = ? AND place = ? AND part = ?", changed)
    connection.execute("UPDATE judged SET generation = generation + 1")
