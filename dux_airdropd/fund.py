"""The fund's outputs, kept in step with the chain: what came in, what is there, block by block."""

import sqlite3

from duxcommon.api.flopd import Watched
from duxcommon.db import Store

MIGRATIONS = (
    """
    CREATE TABLE output (
      txid TEXT NOT NULL, vout INTEGER NOT NULL, amount INTEGER NOT NULL, height INTEGER, spent INTEGER NOT NULL,
      PRIMARY KEY (txid, vout)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX output_height ON output (height);
    CREATE TABLE tip (one INTEGER PRIMARY KEY CHECK (one = 1), height INTEGER NOT NULL) STRICT;
    """,
)

REORG_DEPTH = 200
"""Blocks that are read again, because a reorg may have replaced them."""


class Fund:
    """What the chain says about the fund's address."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def next_height(self) -> int:
        """The height from which the chain is to be read again; 0 at first."""
        row = self._store.read(lambda c: c.execute("SELECT height FROM tip").fetchone())
        return max(0, row["height"] - REORG_DEPTH) if row else 0

    async def take(self, watched: Watched, since: int) -> None:
        """Replace everything from height `since` on, and what is unconfirmed, by what flopd sees now."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM output WHERE height IS NULL OR height >= ?", (since,))
            connection.executemany(
                "INSERT INTO output VALUES (?, ?, ?, ?, ?) ON CONFLICT (txid, vout) "
                "DO UPDATE SET height = excluded.height, spent = excluded.spent",
                [(o.txid, o.vout, o.amount, o.height, int(o.spender_txid is not None)) for o in watched.outputs],
            )
            connection.execute(
                "INSERT INTO tip VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET height = excluded.height",
                (watched.height,),
            )

        await self._store.write(change)

    def totals(self) -> tuple[int, int, int, int]:
        """Confirmed, pending and ever received amounts in koinu, and the number of payments."""
        row = self._store.read(
            lambda c: c.execute(
                "SELECT COALESCE(SUM(amount) FILTER (WHERE height IS NOT NULL AND NOT spent), 0),"
                " COALESCE(SUM(amount) FILTER (WHERE height IS NULL AND NOT spent), 0),"
                " COALESCE(SUM(amount) FILTER (WHERE height IS NOT NULL), 0), COUNT(*) FROM output"
            ).fetchone()
        )
        return (row[0], row[1], row[2], row[3])

    def height(self) -> int:
        """The chain's tip that the totals belong to."""
        row = self._store.read(lambda c: c.execute("SELECT height FROM tip").fetchone())
        return int(row["height"]) if row else 0
