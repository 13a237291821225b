"""Every wallet's books in the chain's database: scripts, transactions, coins, conflicts. One process, many wallets."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from btclib.tx import Tx

from duxcommon.coin import script as coin_script

from .store import Store
from .validate import outpoint, parse_tx

MINER = "devchain-miner"
"""The chain's own wallet, out of which the faucet pays; no node's."""
WALLET_NAME = re.compile(r"[0-9a-f]{32}")
"""The names that users of the chain give to their wallets: whoever knows one may use it."""
ENTRY_BYTES = 300
"""What a wallet or a script takes in the database and in memory, beside script and label."""
WATCHED = 1
SPENDABLE = 2


class NoRoom(Exception):
    """The books would grow by more than the present caller may add."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A script of a wallet: with a secret it can be spent, without it is only watched; change has no label."""

    script: bytes
    secret: bytes | None
    label: str | None
    created: int

    @property
    def mine(self) -> int:
        return WATCHED if self.secret is None else SPENDABLE


class Confirmation(NamedTuple):
    """Where a block holds a transaction."""

    block: bytes
    height: int
    pos: int
    time: int


class WalletTx(NamedTuple):
    """A transaction of a wallet as stored."""

    n: int
    txid: bytes
    raw: bytes
    received: int
    coinbase: bool
    block: bytes | None
    height: int | None
    pos: int | None
    block_time: int | None
    conflict_height: int | None

    def depth(self, tip: int) -> int:
        """Confirmations as Core counts: negative when a block holds a conflicting transaction."""
        if self.height is not None:
            return tip - self.height + 1
        return 0 if self.conflict_height is None else self.conflict_height - tip - 1


_TX = "n, txid, raw, received, coinbase, block, height, pos, block_time, conflict_height"


class Wallets:
    """The index from scripts to wallets, and what blocks and the mempool do to their books."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.db = store.db
        self.scripts: dict[bytes, dict[int, Owned]] = {}
        self.locked: dict[int, set[tuple[bytes, int]]] = {}  # Core keeps coin locks in memory, a restart frees them
        self.room: int | None = None
        """Bytes that the present call may still add to the books; None for any."""
        self.reload()

    def reload(self) -> None:
        """Read the scripts again, at start and after a rollback."""
        self.scripts.clear()
        for wallet, *row in self.db.execute("SELECT wallet, script, secret, label, created FROM wallet_scripts"):
            owned = Owned(*row)
            self.scripts.setdefault(owned.script, {})[wallet] = owned

    # --- wallets and scripts

    def names(self) -> list[str]:
        """The nodes' wallets."""
        return [row[0] for row in self.db.execute("SELECT name FROM wallets WHERE name != ? ORDER BY id", (MINER,))]

    def find(self, name: str) -> int | None:
        row = self.db.execute("SELECT id FROM wallets WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def _grow(self, size: int) -> None:
        if self.room is not None:
            if size > self.room:
                raise NoRoom
            self.room -= size

    def create(self, name: str) -> int:
        self._grow(ENTRY_BYTES)
        self.db.execute("INSERT INTO wallets (name, created) VALUES (?, ?)", (name, int(time.time())))
        found = self.find(name)
        assert found is not None
        return found

    def unspent_coins(self, wallet: int, most: int) -> int:
        """How many unspent coins a wallet has, counted up to `most`."""
        row = self.db.execute(
            "SELECT count(*) FROM (SELECT 1 FROM wallet_coins WHERE wallet = ? AND spent = 0 LIMIT ?)", (wallet, most)
        ).fetchone()
        return int(row[0])

    def has_coin(self, wallet: int, txid: bytes, vout: int) -> bool:
        """Whether a coin is or was the wallet's."""
        query = "SELECT 1 FROM wallet_coins WHERE wallet = ? AND txid = ? AND vout = ?"
        return self.db.execute(query, (wallet, txid, vout)).fetchone() is not None

    def owned(self, wallet: int, script: bytes) -> Owned | None:
        return self.scripts.get(script, {}).get(wallet)

    def secret(self, wallet: int, script: bytes) -> bytes | None:
        """The private key of a script, when the wallet has it."""
        owned = self.owned(wallet, script)
        return None if owned is None else owned.secret

    def first_script(self, wallet: int) -> bytes | None:
        """The wallet's oldest address, or None."""
        row = self.db.execute(
            "SELECT script FROM wallet_scripts WHERE wallet = ? AND label IS NOT NULL ORDER BY created LIMIT 1",
            (wallet,),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def new_script(self, wallet: int, label: str | None) -> bytes:
        """A fresh P2PKH script of the wallet's own; `label` None makes it a change address."""
        secret = os.urandom(32)
        owned = Owned(coin_script.p2pkh_script(coin_script.pubkey_of(secret)), secret, label, int(time.time()))
        self._put_script(wallet, owned)
        return owned.script

    def add_script(self, wallet: int, owned: Owned) -> None:
        """Own or watch a script from now on, also in transactions that the wallet has already."""
        self._put_script(wallet, owned)
        self.db.execute(
            "UPDATE wallet_coins SET mine = ? WHERE wallet = ? AND script = ?", (owned.mine, wallet, owned.script)
        )
        rows = self.db.execute(
            f"SELECT {_TX} FROM wallet_txs WHERE wallet = ? AND instr(raw, ?) > 0",  # noqa: S608
            (wallet, owned.script),
        ).fetchall()
        for row in rows:
            known = WalletTx(*row)
            self._add_coins(wallet, parse_tx(known.raw), known.txid, known.height)

    def _put_script(self, wallet: int, owned: Owned) -> None:
        old = self.owned(wallet, owned.script)
        if old is None or old.label != owned.label:
            self._grow(ENTRY_BYTES + len(owned.script) + len((owned.label or "").encode("utf-8", "replace")))
        self.db.execute(
            "INSERT INTO wallet_scripts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "secret = excluded.secret, label = excluded.label",
            (wallet, owned.script, owned.secret, owned.label, owned.created),
        )
        self.scripts.setdefault(owned.script, {})[wallet] = owned

    # --- transactions

    def tx(self, wallet: int, txid: bytes) -> WalletTx | None:
        row = self.db.execute(
            f"SELECT {_TX} FROM wallet_txs WHERE wallet = ? AND txid = ?",  # noqa: S608
            (wallet, txid),
        ).fetchone()
        return None if row is None else WalletTx(*row)

    def txs_since(self, wallet: int, height: int) -> list[WalletTx]:
        """In the order of arrival: what is unconfirmed, conflicted, or in a block above `height`."""
        query = f"SELECT {_TX} FROM wallet_txs WHERE wallet = ? AND (block IS NULL OR height > ?) ORDER BY n"  # noqa: S608
        return [WalletTx(*row) for row in self.db.execute(query, (wallet, height))]

    def newest_txs(self, wallet: int) -> Iterator[WalletTx]:
        """All transactions, the last to arrive first."""
        for row in self.db.execute(f"SELECT {_TX} FROM wallet_txs WHERE wallet = ? ORDER BY n DESC", (wallet,)):  # noqa: S608
            yield WalletTx(*row)

    def unconfirmed(self) -> list[WalletTx]:
        """What every wallet still waits for, oldest first: sent again to the mempool after a restart or a reorg."""
        query = f"SELECT {_TX} FROM wallet_txs WHERE block IS NULL AND conflict IS NULL AND coinbase = 0 ORDER BY n"  # noqa: S608
        return [WalletTx(*row) for row in self.db.execute(query)]

    def sync(self, tx: Tx, txid: bytes, raw: bytes, where: Confirmation | None) -> None:
        """Book a transaction that entered the mempool (`where` None) or a block in all wallets that it concerns."""
        concerned: set[int] = set()
        for output in tx.vout:
            concerned.update(self.scripts.get(output.script_pub_key.script, ()))
        if not tx.is_coinbase:
            for given in tx.vin:
                spent = outpoint(given)
                for row in self.db.execute("SELECT wallet FROM wallet_coins WHERE txid = ? AND vout = ?", spent):
                    concerned.add(row[0])
                if where is not None:
                    self._mark_conflicts(spent, txid, where)
        for wallet in concerned:
            self._book(wallet, tx, (txid, raw), where)

    def _book(self, wallet: int, tx: Tx, known: tuple[bytes, bytes], where: Confirmation | None) -> None:
        txid, raw = known
        coinbase = tx.is_coinbase
        block, height, pos, block_time = where or (None, None, None, None)
        self.db.execute(
            "INSERT INTO wallet_txs (wallet, txid, raw, received, coinbase, block, height, pos, block_time) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (wallet, txid) DO UPDATE SET block = excluded.block, "
            "height = excluded.height, pos = excluded.pos, block_time = excluded.block_time, "
            "conflict = NULL, conflict_height = NULL",
            (wallet, txid, raw, int(time.time()), coinbase, block, height, pos, block_time),
        )
        self._add_coins(wallet, tx, txid, height)
        if not coinbase:
            for given in tx.vin:
                spent = outpoint(given)
                self.db.execute("INSERT OR IGNORE INTO wallet_spends VALUES (?, ?, ?, ?)", (*spent, wallet, txid))
                self._refresh_spent(wallet, spent)
                self.locked.get(wallet, set()).discard(spent)

    def _add_coins(self, wallet: int, tx: Tx, txid: bytes, height: int | None) -> None:
        coinbase = tx.is_coinbase
        for vout, output in enumerate(tx.vout):
            script = output.script_pub_key.script
            owned = self.scripts.get(script, {}).get(wallet)
            if owned is None:
                continue
            spent = self._is_spent(wallet, (txid, vout))
            self.db.execute(
                "INSERT INTO wallet_coins VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "height = excluded.height, mine = excluded.mine",
                (txid, vout, wallet, output.value, script, owned.mine, coinbase, height, spent),
            )

    def _is_spent(self, wallet: int, spent: tuple[bytes, int]) -> bool:
        """Whether a transaction of the wallet spends an outpoint and no block speaks against it."""
        found = self.db.execute(
            "SELECT 1 FROM wallet_spends s JOIN wallet_txs t ON t.wallet = s.wallet AND t.txid = s.spender "
            "WHERE s.txid = ? AND s.vout = ? AND s.wallet = ? AND t.conflict IS NULL",
            (*spent, wallet),
        ).fetchone()
        return found is not None

    def _refresh_spent(self, wallet: int, spent: tuple[bytes, int]) -> None:
        self.db.execute(
            "UPDATE wallet_coins SET spent = ? WHERE txid = ? AND vout = ? AND wallet = ?",
            (self._is_spent(wallet, spent), *spent, wallet),
        )

    def _spenders(self, spent: tuple[bytes, int]) -> list[tuple[int, bytes]]:
        return self.db.execute(
            "SELECT wallet, spender FROM wallet_spends WHERE txid = ? AND vout = ?", spent
        ).fetchall()

    def _mark_conflicts(self, spent: tuple[bytes, int], txid: bytes, where: Confirmation) -> None:
        """A block spends an outpoint: every other spend of it is conflicted, and what hangs on those."""
        todo = [(wallet, spender) for wallet, spender in self._spenders(spent) if spender != txid]
        while todo:
            wallet, loser = todo.pop()
            marked = self.db.execute(
                "UPDATE wallet_txs SET conflict = ?, conflict_height = ? "
                "WHERE wallet = ? AND txid = ? AND block IS NULL AND conflict IS NULL",
                (where.block, where.height, wallet, loser),
            ).rowcount
            if marked:
                self._refresh_inputs(wallet, loser)
                todo += self.db.execute(
                    "SELECT wallet, spender FROM wallet_spends WHERE txid = ? AND wallet = ?", (loser, wallet)
                ).fetchall()

    def _refresh_inputs(self, wallet: int, txid: bytes) -> None:
        known = self.tx(wallet, txid)
        assert known is not None
        for given in parse_tx(known.raw).vin:
            self._refresh_spent(wallet, outpoint(given))

    def disconnect(self, block: bytes) -> None:
        """Undo what a block said: its transactions are unconfirmed again, and conflicts with it are open again."""
        self.db.execute(
            "UPDATE wallet_coins SET height = NULL WHERE (wallet, txid) IN "
            "(SELECT wallet, txid FROM wallet_txs WHERE block = ?)",
            (block,),
        )
        self.db.execute(
            "UPDATE wallet_txs SET block = NULL, height = NULL, pos = NULL, block_time = NULL WHERE block = ?", (block,)
        )
        reopened = self.db.execute("SELECT wallet, txid FROM wallet_txs WHERE conflict = ?", (block,)).fetchall()
        self.db.execute("UPDATE wallet_txs SET conflict = NULL, conflict_height = NULL WHERE conflict = ?", (block,))
        for wallet, txid in reopened:
            self._refresh_inputs(wallet, txid)

    def conflicts(self, wallet: int, tx: Tx, txid: bytes) -> list[bytes]:
        """Other transactions of the wallet that spend an input of this one."""
        found: list[bytes] = []
        for given in tx.vin:
            for owner, spender in self._spenders(outpoint(given)):
                if owner == wallet and spender != txid and spender not in found:
                    found.append(spender)
        return found
