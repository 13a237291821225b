"""The chain's SQLite file: schema, durable transactions, and the queries over blocks and unspent outputs."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE blocks (
    seq INTEGER PRIMARY KEY,           -- order of arrival: at equal height the first seen wins, as with Core
    hash BLOB NOT NULL UNIQUE,
    prev BLOB NOT NULL,
    height INTEGER NOT NULL,
    time INTEGER NOT NULL,
    txs INTEGER NOT NULL,
    active INTEGER NOT NULL,           -- 1 on the chain that is in force
    invalid INTEGER NOT NULL DEFAULT 0,-- 1 by invalidateblock, 2 as a descendant of such a block
    raw BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX blocks_active ON blocks (height) WHERE active = 1;
CREATE INDEX blocks_prev ON blocks (prev);
CREATE INDEX blocks_height ON blocks (height);
CREATE TABLE utxo (
    txid BLOB NOT NULL, vout INTEGER NOT NULL, value INTEGER NOT NULL, script BLOB NOT NULL,
    height INTEGER NOT NULL, coinbase INTEGER NOT NULL,
    PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE TABLE spent (                   -- what a block spent, to undo it
    block BLOB NOT NULL, txid BLOB NOT NULL, vout INTEGER NOT NULL, value INTEGER NOT NULL, script BLOB NOT NULL,
    height INTEGER NOT NULL, coinbase INTEGER NOT NULL,
    PRIMARY KEY (block, txid, vout)
) STRICT, WITHOUT ROWID;
CREATE TABLE wallets (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL
) STRICT;
CREATE TABLE wallet_scripts (
    wallet INTEGER NOT NULL, script BLOB NOT NULL, secret BLOB, label TEXT, created INTEGER NOT NULL,
    PRIMARY KEY (wallet, script)       -- no secret: watch-only; no label: change
) STRICT, WITHOUT ROWID;
CREATE TABLE wallet_txs (
    n INTEGER PRIMARY KEY, wallet INTEGER NOT NULL, txid BLOB NOT NULL, raw BLOB NOT NULL, received INTEGER NOT NULL,
    coinbase INTEGER NOT NULL,
    block BLOB, height INTEGER, pos INTEGER, block_time INTEGER,  -- null: unconfirmed
    conflict BLOB, conflict_height INTEGER,                       -- the block that holds another spend of an input
    UNIQUE (wallet, txid)
) STRICT;
CREATE INDEX wallet_txs_block ON wallet_txs (block);
CREATE INDEX wallet_txs_open ON wallet_txs (wallet) WHERE block IS NULL;
CREATE INDEX wallet_txs_height ON wallet_txs (wallet, height);
CREATE INDEX wallet_txs_conflict ON wallet_txs (conflict) WHERE conflict IS NOT NULL;
CREATE TABLE wallet_coins (            -- outputs to the wallet's scripts
    txid BLOB NOT NULL, vout INTEGER NOT NULL, wallet INTEGER NOT NULL, value INTEGER NOT NULL, script BLOB NOT NULL,
    mine INTEGER NOT NULL, coinbase INTEGER NOT NULL, height INTEGER, spent INTEGER NOT NULL,
    PRIMARY KEY (txid, vout, wallet)
) STRICT, WITHOUT ROWID;
CREATE INDEX wallet_coins_open ON wallet_coins (wallet, mine, coinbase, height, value) WHERE spent = 0;
CREATE TABLE wallet_spends (           -- every input of every transaction of the wallet
    txid BLOB NOT NULL, vout INTEGER NOT NULL, wallet INTEGER NOT NULL, spender BLOB NOT NULL,
    PRIMARY KEY (txid, vout, wallet, spender)
) STRICT, WITHOUT ROWID;
"""
_VERSION = 1


class Block(NamedTuple):
    """One row of `blocks` without its bytes."""

    seq: int
    hash: bytes
    prev: bytes
    height: int
    time: int
    txs: int
    active: bool
    invalid: int


class Coin(NamedTuple):
    """An unspent output; `height` is None while it is in the mempool only."""

    value: int
    script: bytes
    height: int | None
    coinbase: bool


_BLOCK = "seq, hash, prev, height, time, txs, active, invalid"


class Store:
    """One connection, used from one thread; every change belongs to a `transaction()`."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        # FULL: what an RPC reply has told must be there after a power cut, as Core's wallet is.
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA cache_size = -16384")
        if self.db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self.db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is durable when it ends, or nothing of it has happened."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def close(self) -> None:
        self.db.close()

    def _block(self, where: str, *values: bytes | int) -> Block | None:
        row = self.db.execute(f"SELECT {_BLOCK} FROM blocks WHERE {where}", values).fetchone()  # noqa: S608
        if row is None:
            return None
        seq, block_hash, prev, height, time, txs, active, invalid = row
        return Block(seq, block_hash, prev, height, time, txs, bool(active), invalid)

    def block(self, block_hash: bytes) -> Block | None:
        return self._block("hash = ?", block_hash)

    def block_at(self, height: int) -> Block | None:
        """The block of the chain in force at a height."""
        return self._block("height = ? AND active = 1", height)

    def tip(self) -> Block:
        tip = self._block("active = 1 ORDER BY height DESC LIMIT 1")
        assert tip is not None, "the genesis block is always there"
        return tip

    def best_candidate(self) -> Block:
        """The block that Core would make its tip: most work, and of several the first seen."""
        best = self._block("invalid = 0 ORDER BY height DESC, seq LIMIT 1")
        assert best is not None, "the genesis block is always there"
        return best

    def median_time(self, tip: Block) -> int:
        """Median time of the eleven blocks up to `tip`, which is on the chain in force."""
        times = self.db.execute(
            "SELECT time FROM blocks WHERE active = 1 AND height BETWEEN ? AND ?", (tip.height - 10, tip.height)
        ).fetchall()
        ordered = sorted(row[0] for row in times)
        return int(ordered[len(ordered) // 2])

    def raw_block(self, block_hash: bytes) -> bytes:
        raw: bytes = self.db.execute("SELECT raw FROM blocks WHERE hash = ?", (block_hash,)).fetchone()[0]
        return raw

    def add_block(self, block: Block, raw: bytes) -> None:
        self.db.execute(f"INSERT INTO blocks ({_BLOCK}, raw) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*block, raw))  # noqa: S608

    def next_seq(self) -> int:
        return int(self.db.execute("SELECT coalesce(max(seq), 0) + 1 FROM blocks").fetchone()[0])

    def set_active(self, block_hash: bytes, active: bool) -> None:
        self.db.execute("UPDATE blocks SET active = ? WHERE hash = ?", (active, block_hash))

    def coin(self, txid: bytes, vout: int) -> Coin | None:
        row = self.db.execute(
            "SELECT value, script, height, coinbase FROM utxo WHERE txid = ? AND vout = ?", (txid, vout)
        ).fetchone()
        return None if row is None else Coin(row[0], row[1], row[2], bool(row[3]))

    def any_coin(self, txid: bytes) -> Coin | None:
        """Some unspent output of a transaction: what Core 0.14 knows of a confirmed transaction without an index."""
        row = self.db.execute(
            "SELECT value, script, height, coinbase FROM utxo WHERE txid = ? LIMIT 1", (txid,)
        ).fetchone()
        return None if row is None else Coin(row[0], row[1], row[2], bool(row[3]))

    def add_coin(self, txid: bytes, vout: int, coin: Coin) -> None:
        self.db.execute(
            "INSERT INTO utxo VALUES (?, ?, ?, ?, ?, ?)",
            (txid, vout, coin.value, coin.script, coin.height, coin.coinbase),
        )

    def spend(self, block_hash: bytes, txid: bytes, vout: int) -> bool:
        """Move an output from the unspent ones to those that `block_hash` spent; False when it is not there."""
        self.db.execute("INSERT INTO spent SELECT ?, * FROM utxo WHERE txid = ? AND vout = ?", (block_hash, txid, vout))
        return self.db.execute("DELETE FROM utxo WHERE txid = ? AND vout = ?", (txid, vout)).rowcount == 1

    def unspend(self, block_hash: bytes, txids: list[bytes]) -> None:
        """Undo a block: bring back what it spent, then drop what its transactions made."""
        self.db.execute(
            "INSERT INTO utxo SELECT txid, vout, value, script, height, coinbase FROM spent WHERE block = ?",
            (block_hash,),
        )
        self.db.execute("DELETE FROM spent WHERE block = ?", (block_hash,))
        self.db.executemany("DELETE FROM utxo WHERE txid = ?", [(txid,) for txid in txids])
