"""Double-entry books: every movement of money is written twice, and all entries of a movement sum to zero.

Accounts are names such as `wallet`, `channel:<id>`, `income`, `spending`, `tax`, `fees`. A positive entry
is money that an account received. Amounts are koinu.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

BOOKS_TABLES = """
CREATE TABLE journal (
  id INTEGER PRIMARY KEY, ref TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, time INTEGER NOT NULL
) STRICT;
CREATE TABLE entry (
  journal INTEGER NOT NULL REFERENCES journal (id), account TEXT NOT NULL, amount INTEGER NOT NULL,
  PRIMARY KEY (journal, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_account ON entry (account);
CREATE TABLE balance (account TEXT PRIMARY KEY, amount INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


class Unbalanced(ValueError):
    """The entries of a movement do not sum to zero: a fault of the program, so nothing is written."""


def book(connection: sqlite3.Connection, ref: str, kind: str, time: int, entries: Mapping[str, int]) -> bool:
    """Inside a write: book a movement once; False when `ref` is booked already. Raises Unbalanced."""
    if sum(entries.values()) != 0:
        raise Unbalanced(f"{kind} {ref}: entries sum to {sum(entries.values())} koinu")
    row = connection.execute(
        "INSERT INTO journal (ref, kind, time) VALUES (?, ?, ?) ON CONFLICT (ref) DO NOTHING RETURNING id",
        (ref, kind, time),
    ).fetchone()
    if row is None:
        return False
    changes = [(account, amount) for account, amount in entries.items() if amount]
    connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", [(row["id"], *change) for change in changes])
    connection.executemany(
        "INSERT INTO balance VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET amount = amount + excluded.amount",
        changes,
    )
    return True


def balance(connection: sqlite3.Connection, account: str) -> int:
    """What an account holds, in koinu."""
    row = connection.execute("SELECT amount FROM balance WHERE account = ?", (account,)).fetchone()
    return int(row["amount"]) if row else 0


def balances(connection: sqlite3.Connection, prefix: str = "") -> dict[str, int]:
    """All accounts whose name begins with `prefix`."""
    rows = connection.execute(
        "SELECT account, amount FROM balance WHERE account >= ? AND account < ? ORDER BY account",
        (prefix, prefix + "\U0010ffff"),
    )
    return {row["account"]: row["amount"] for row in rows}


@dataclass(frozen=True)
class BooksCheck:
    """`total` and each `difference` are 0 when the books are in order."""

    movements: int
    total: int
    differences: dict[str, int]


def check(connection: sqlite3.Connection) -> BooksCheck:
    """Add all entries up anew and compare them with the balances that were kept along the way."""
    sums = dict(connection.execute("SELECT account, SUM(amount) FROM entry GROUP BY account").fetchall())
    kept = balances(connection)
    differences = {a: kept.get(a, 0) - sums.get(a, 0) for a in kept.keys() | sums.keys()}
    movements = connection.execute("SELECT COUNT(*) FROM journal").fetchone()[0]
    return BooksCheck(movements, sum(sums.values()), {a: d for a, d in differences.items() if d})
