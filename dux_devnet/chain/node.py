"""The chain in force: what enters the mempool, how blocks are made, connected and taken back."""

import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from btclib import var_int
from btclib.hashes import hash256
from btclib.tx import Tx

from duxcommon.coin import genesis
from duxcommon.coin.tx import serialize_tx

from . import errors, policy, rules, validate
from .errors import RpcError
from .mempool import Entry, Mempool
from .store import Block, Coin, Store
from .validate import (
    CONFLICT,
    DUPLICATE,
    HIGH_FEE,
    INSUFFICIENT_FEE,
    INVALID,
    NONSTANDARD,
    MissingInputs,
    Reject,
    outpoint,
)
from .wallets import Confirmation, Wallets

log = logging.getLogger("devchain")

CHAIN_FILE = "chain.sqlite"
"""In the data folder: blocks, coins and wallets."""
_UNSPENDABLE = b"\x6a"
Transaction = tuple[Tx, bytes, bytes]
"""Parsed, id, bytes."""


class Node:
    """One chain with its mempool and wallets, used from one thread."""

    def __init__(self, datadir: Path) -> None:
        self.store = Store(datadir / CHAIN_FILE)
        self.wallets = Wallets(self.store)
        self.mempool = Mempool()
        self.syncing = False
        self.stopping = False
        if self.store.block_at(0) is None:
            self._add_genesis()
        self.tip = self.store.tip()
        with self.store.transaction():
            self._requeue(())

    def close(self) -> None:
        self.store.close()

    def _add_genesis(self) -> None:
        block_hash = hash256(genesis.header())[::-1]
        born = int.from_bytes(genesis.header()[68:72], "little")
        with self.store.transaction():
            self.store.add_block(Block(1, block_hash, bytes(32), 0, born, 1, True, 0), genesis.block())

    @contextmanager
    def change(self) -> Iterator[None]:
        """One durable change; when it fails, what is kept in memory is taken from the database again."""
        before = self.store.db.total_changes
        waiting = list(self.mempool)
        try:
            with self.store.transaction():
                yield
        except BaseException:
            if self.store.db.total_changes != before:
                self.tip = self.store.tip()
                self.wallets.reload()
                self.mempool.drain()
                for entry in waiting:
                    self.mempool.add(replace(entry, parents=set(), children=set()))
            raise

    # --- mempool

    def coin(self, txid: bytes, vout: int) -> Coin | None:
        """An output that is unspent by blocks, whether or not the mempool spends it."""
        return self.mempool.coin(txid, vout) or self.store.coin(txid, vout)

    def accept(self, tx: Tx, *, allow_high_fees: bool = False) -> bytes:
        """Check a transaction and take it into the mempool and the wallets; its id.

        Raises Reject or MissingInputs. The order of the checks is Core's.
        """
        raw = serialize_tx(tx)
        validate.check_structure(tx, len(raw))
        if tx.is_segwit:
            raise Reject(NONSTANDARD, "no-witness-yet")
        reason = policy.nonstandard(tx, len(raw))
        if reason is not None:
            raise Reject(NONSTANDARD, reason)
        if not validate.is_final(tx, self.tip.height + 1):
            raise Reject(NONSTANDARD, "non-final")
        if any(self.mempool.spender(*outpoint(given)) for given in tx.vin):
            raise Reject(CONFLICT, "txn-mempool-conflict")
        coins = self._coins_of(tx)
        fee = validate.check_inputs(coins, tx, self.tip.height + 1)
        prevouts = validate.prevouts_of(coins)
        if policy.nonstandard_inputs(tx, prevouts):
            raise Reject(NONSTANDARD, "bad-txns-nonstandard-inputs")
        needed = policy.min_fee(tx, len(raw))
        if fee < needed:
            raise Reject(INSUFFICIENT_FEE, "min relay fee not met", f"{fee} < {needed}")
        if fee > policy.ABSURD_FEE and not allow_high_fees:
            raise Reject(HIGH_FEE, "absurdly-high-fee", f"{fee} > {policy.ABSURD_FEE}")
        self.mempool.check_chain(tx, len(raw))
        if policy.uses_relative_lock(tx, prevouts):
            raise Reject(NONSTANDARD, "non-mandatory-script-verify-flag (NOPx reserved for soft-fork upgrades)")
        validate.check_scripts(prevouts, tx)
        txid = tx.id
        self.wallets.sync(tx, txid, raw, None)
        self.mempool.add(Entry(tx, txid, raw, fee, int(time.time())))
        return txid

    def _coins_of(self, tx: Tx) -> list[Coin]:
        coins = []
        for given in tx.vin:
            spent = outpoint(given)
            coin = self.coin(*spent)
            if coin is None:
                # Core 0.14 knows a transaction while any of its outputs is unspent, and nothing of it afterwards.
                if spent[0] in self.mempool or self.store.any_coin(spent[0]) is not None:
                    raise Reject(DUPLICATE, "bad-txns-inputs-spent")
                raise MissingInputs
            coins.append(coin)
        return coins

    # --- blocks

    def mine(self, script: bytes) -> bytes:
        """Make one block that pays `script` and holds what the mempool has, inside the caller's transaction."""
        chosen: list[Transaction] = []
        size = 1000  # of header and coinbase at most
        fees = 0
        left_out: set[bytes] = set()
        for entry in self.mempool:
            if size + len(entry.raw) > rules.MAX_BLOCK_SIZE or entry.parents & left_out:
                left_out.add(entry.txid)
                continue
            size += len(entry.raw)
            chosen.append((entry.tx, entry.txid, entry.raw))
            fees += entry.fee
        return self._make_block(script, chosen, fees)

    def mine_these(self, script: bytes, txs: Sequence[Tx]) -> bytes:
        """Make a block of these transactions alone, which need not relay and may conflict with the mempool.

        Raises Reject when a block can't hold them.
        """
        height = self.tip.height + 1
        made: dict[tuple[bytes, int], Coin] = {}
        spent: set[tuple[bytes, int]] = set()
        chosen: list[Transaction] = []
        fees = 0
        for tx in txs:
            raw, txid = serialize_tx(tx), tx.id
            validate.check_structure(tx, len(raw))
            if not validate.is_final(tx, height):
                raise Reject(INVALID, "bad-txns-nonfinal")
            coins = []
            for given in tx.vin:
                wanted = outpoint(given)
                coin = made.get(wanted) or self.store.coin(*wanted)
                if coin is None or wanted in spent:
                    raise Reject(INVALID, "bad-txns-inputs-missingorspent")
                spent.add(wanted)
                coins.append(coin)
            fees += validate.check_inputs(coins, tx, height)
            validate.check_block_scripts(validate.prevouts_of(coins), tx)
            for vout, output in enumerate(tx.vout):
                made[txid, vout] = Coin(output.value, output.script_pub_key.script, height, False)
            chosen.append((tx, txid, raw))
        return self._make_block(script, chosen, fees)

    def _make_block(self, script: bytes, chosen: Sequence[Transaction], fees: int) -> bytes:
        height = self.tip.height + 1
        seq = self.store.next_seq()
        coinbase = rules.coinbase(height, script, fees, seq)
        txs = [(coinbase, coinbase.id, serialize_tx(coinbase)), *chosen]
        block_time = rules.next_time(self.store.median_time(self.tip))
        header = rules.header(self.tip.hash, [txid for _, txid, _ in txs], block_time)
        raw = b"".join((header, var_int.serialize(len(txs)), *(tx_raw for _, _, tx_raw in txs)))
        block_hash = hash256(header)[::-1]
        block = Block(seq, block_hash, self.tip.hash, height, block_time, len(txs), False, 0)
        self.store.add_block(block, raw)
        self._connect(block, txs)
        return block_hash

    def _connect(self, block: Block, txs: Sequence[Transaction]) -> None:
        for pos, (tx, txid, raw) in enumerate(txs):
            if pos:
                for given in tx.vin:
                    if not self.store.spend(block.hash, *outpoint(given)):
                        raise RpcError(errors.DATABASE, "bad-txns-inputs-missingorspent")
            for vout, output in enumerate(tx.vout):
                script = output.script_pub_key.script
                if script[:1] != _UNSPENDABLE:
                    self.store.add_coin(txid, vout, Coin(output.value, script, block.height, pos == 0))
            self.wallets.sync(tx, txid, raw, Confirmation(block.hash, block.height, pos, block.time))
            self.mempool.confirmed(txid, tx)
        self.store.set_active(block.hash, True)
        self.tip = block._replace(active=True)

    def transactions(self, block_hash: bytes) -> Iterator[Transaction]:
        """The transactions of a stored block."""
        stream = io.BytesIO(self.store.raw_block(block_hash)[80:])
        for _ in range(var_int.parse(stream)):
            tx = Tx.parse(stream, check_validity=False)
            yield tx, tx.id, serialize_tx(tx)

    def rescan(self, scripts: Sequence[bytes]) -> None:
        """Book in the wallets all transactions of blocks that touch these scripts, oldest first."""
        block_hashes = self.store.db.execute("SELECT hash FROM blocks WHERE active = 1 ORDER BY height").fetchall()
        found: set[bytes] = set()
        for (block_hash,) in block_hashes:
            raw = self.store.raw_block(block_hash)
            # A later spend names the transaction that paid the script, so these bytes are enough to look for.
            if not any(script in raw for script in scripts) and not any(txid[::-1] in raw for txid in found):
                continue
            block = self.store.block(block_hash)
            assert block is not None
            for pos, (tx, txid, tx_raw) in enumerate(self.transactions(block_hash)):
                self.wallets.sync(tx, txid, tx_raw, Confirmation(block_hash, block.height, pos, block.time))
                if any(output.script_pub_key.script in scripts for output in tx.vout):
                    found.add(txid)

    def _disconnect_tip(self) -> list[tuple[Tx, bytes]]:
        """Take back the newest block; its transactions but the coinbase."""
        txs = list(self.transactions(self.tip.hash))
        self.store.unspend(self.tip.hash, [txid for _, txid, _ in txs])
        self.wallets.disconnect(self.tip.hash)
        self.store.set_active(self.tip.hash, False)
        parent = self.store.block(self.tip.prev)
        assert parent is not None
        self.tip = parent
        return [(tx, txid) for tx, txid, _ in txs[1:]]

    def invalidate(self, block: Block) -> None:
        """Core's invalidateblock: this block and all after it are out; the best of the others comes in force."""
        self._mark(block, 1, 2)
        self._activate_best()

    def reconsider(self, block: Block) -> None:
        """Core's reconsiderblock: lift the verdict from this block, its descendants and its ancestors."""
        self._mark(block, 0, 0)
        above: Block | None = block
        while above is not None and not above.active:
            self.store.db.execute("UPDATE blocks SET invalid = 0 WHERE hash = ?", (above.hash,))
            above = self.store.block(above.prev)
        self._activate_best()

    def _mark(self, block: Block, own: int, descendants: int) -> None:
        self.store.db.execute(
            "WITH RECURSIVE below(hash) AS (SELECT ? UNION SELECT b.hash FROM blocks b JOIN below ON b.prev = "
            "below.hash) UPDATE blocks SET invalid = ? WHERE hash IN (SELECT hash FROM below)",
            (block.hash, descendants),
        )
        self.store.db.execute("UPDATE blocks SET invalid = ? WHERE hash = ?", (own, block.hash))

    def _activate_best(self) -> None:
        """Move to the best block that is not invalid, and offer what fell out on the way to the mempool again."""
        best = self.store.best_candidate()
        branch: list[Block] = []
        while not (best.active and best.height <= self.tip.height):
            branch.append(best)
            parent = self.store.block(best.prev)
            assert parent is not None
            best = parent
        freed: list[list[tuple[Tx, bytes]]] = []
        while self.tip.hash != best.hash:
            freed.append(self._disconnect_tip())
        waiting = self.mempool.drain()
        for block in reversed(branch):
            self._connect(block, list(self.transactions(block.hash)))
        again = [pair for block_txs in reversed(freed) for pair in block_txs]
        self._requeue([*again, *((entry.tx, entry.txid) for entry in waiting)])

    def _requeue(self, entries: Sequence[tuple[Tx, bytes]]) -> None:
        """Offer transactions, then the wallets' unconfirmed ones, to the mempool; what no longer fits is left out."""
        waiting = [*entries, *((validate.parse_tx(known.raw), known.txid) for known in self.wallets.unconfirmed())]
        for tx, txid in waiting:
            if txid in self.mempool:
                continue
            try:
                self.accept(tx, allow_high_fees=True)
            except (Reject, MissingInputs) as error:
                log.info("transaction %s is not taken back into the mempool: %s", txid.hex(), error)
