"""Whatever blocks come and go, the books of flopd are those of the chain that remains."""

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_flopd import intents, outputs
from dux_flopd.blocks import Block, SeenTx, same_id
from dux_flopd.intents import Draft, Input
from dux_flopd.outputs import Tip
from dux_flopd.schema import MIGRATIONS
from duxcommon.coin.script import p2sh_script
from duxcommon.coin.tx import make_tx, serialize_tx, with_script_sigs
from duxcommon.db import connect

SCRIPTS = [p2sh_script(bytes([number])) for number in range(3)]
ELSEWHERE = p2sh_script(b"\xff")
COINS = [(f"{number:064x}", 0) for number in range(1, 5)]
"""Outputs of the wallet, as old as the hills."""


def transaction(spent: list[tuple[str, int]], pays: list[bytes], signature: bytes) -> SeenTx:
    tx = make_tx(spent, [(script, 1_000_000 + index) for index, script in enumerate(pays)])
    return SeenTx(with_script_sigs(tx, [signature] * len(spent)))


def deposits(coin: int) -> SeenTx:
    """Our payment from one of the coins to a watched script."""
    return transaction([COINS[coin]], [SCRIPTS[coin % 3], ELSEWHERE], b"\x01\x01")


def pool() -> list[SeenTx]:
    """Transactions that blocks may hold, those that exclude each other included."""
    found = []
    for coin in range(len(COINS)):
        made = deposits(coin)
        twin = SeenTx(with_script_sigs(made.tx, [b"\x01\x02"]))
        rival = transaction([COINS[coin]], [ELSEWHERE], b"\x01\x03")
        found += [made, twin, rival]
        for parent in (made, twin):
            found.append(transaction([(parent.txid, 0)], [ELSEWHERE], b"\x01\x04"))
            found.append(transaction([(parent.txid, 0)], [SCRIPTS[(coin + 1) % 3]], b"\x01\x05"))
    return found


POOL = pool()


def open_books(folder: Path, name: str) -> sqlite3.Connection:
    connection = connect(folder / name)
    connection.executescript("".join(MIGRATIONS))
    outputs.jump(connection, Tip(0, "genesis"))
    for number, script in enumerate(SCRIPTS):
        outputs.watch(connection, script.hex(), f"ref{number}", None)
    for coin, outpoint in enumerate(COINS):
        seen = deposits(coin)
        draft = Draft(
            owner=0,
            key=f"key{coin}",
            params="",
            purpose="fund",
            ref="",
            hex=serialize_tx(seen.tx).hex(),
            txid=seen.txid,
            same=same_id(seen.tx),
            fee=1,
            inputs=(Input(*outpoint, 5_000_000),),
            picked=True,
        )
        # Half of them are not sent yet.
        intents.add(connection, draft, sending=coin % 2 == 0)
    return connection


def state(connection: sqlite3.Connection) -> dict[str, Any]:
    """All that the chain decides."""
    rows = connection.execute("SELECT * FROM outputs ORDER BY txid, vout").fetchall()
    confirmed = [
        {
            **dict(row),
            # What waits in the mempool is not the blocks' business.
            **({} if row["spender_height"] is not None else {"spender_txid": None}),
        }
        for row in rows
        if row["height"] is not None
    ]
    plans = connection.execute("SELECT key, state, txid, height, sends FROM intents ORDER BY key").fetchall()
    held = connection.execute("SELECT txid, vout, held FROM intent_inputs ORDER BY txid, vout").fetchall()
    scanned = connection.execute("SELECT scanned FROM scripts ORDER BY script").fetchall()
    return {
        "outputs": confirmed,
        "intents": [dict(row) for row in plans],
        "held": [tuple(row) for row in held],
        "scanned": [row[0] for row in scanned],
        "tip": outputs.tip(connection),
    }


class Chain:
    """The model: a list of blocks, no two of which spend the same output."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.made = 0

    def possible(self, seen: SeenTx, also: list[SeenTx]) -> bool:
        txs = [tx for block in self.blocks for tx in block.txs] + also
        spent = {outpoint for tx in txs for outpoint in tx.spends}
        there = {tx.txid for tx in txs} | {coin[0] for coin in COINS}
        return not spent & set(seen.spends) and all(txid in there for txid, _ in seen.spends)

    def next_block(self, picks: list[int]) -> Block:
        chosen: list[SeenTx] = []
        for pick in picks:
            seen = POOL[pick % len(POOL)]
            if self.possible(seen, chosen):
                chosen.append(seen)
        self.made += 1
        block = Block(f"block{self.made}", self.blocks[-1].hash if self.blocks else "genesis", chosen)
        self.blocks.append(block)
        return block


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), st.lists(st.integers(0, len(POOL) - 1), max_size=5)),
        st.tuples(st.just("undo"), st.lists(st.integers(0, 3), min_size=1, max_size=1)),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_after_any_reorganisation_the_books_are_those_of_the_remaining_chain(
    steps: list[tuple[str, list[int]]],
) -> None:
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        folder = Path(name)
        books, chain = open_books(folder, "books"), Chain()
        ever: set[str] = set()
        for kind, numbers in steps:
            if kind == "block":
                block = chain.next_block(numbers)
                outputs.apply(books, block, len(chain.blocks), live=True)
                ever |= {row["key"] for row in books.execute("SELECT key FROM intents WHERE sends = 1")}
            else:
                kept = max(0, len(chain.blocks) - numbers[0])
                del chain.blocks[kept:]
                outputs.undo_above(books, kept)
        fresh = open_books(folder, "fresh")
        for height, block in enumerate(chain.blocks, 1):
            outputs.apply(fresh, block, height, live=True)
        # A peer's copy that was in a block once stays known as sent: that is no matter of the remaining chain.
        for row in fresh.execute("SELECT key, state FROM intents WHERE sends = 0").fetchall():
            if row["key"] in ever:
                undone = "sent" if row["state"] == "built" else row["state"]
                fresh.execute("UPDATE intents SET sends = 1, state = ? WHERE key = ?", (undone, row["key"]))
        assert state(books) == state(fresh)
        books.close()
        fresh.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, len(POOL) - 1), max_size=5), min_size=1, max_size=8), st.integers(1, 8))
def test_a_script_that_is_watched_late_ends_with_the_same_outputs(blocks: list[list[int]], birth: int) -> None:
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as name:
        folder = Path(name)
        early, late, chain = open_books(folder, "early"), connect(folder / "late"), Chain()
        late.executescript("".join(MIGRATIONS))
        outputs.jump(late, Tip(0, "genesis"))
        made = [chain.next_block(picks) for picks in blocks]
        for height, block in enumerate(made, 1):
            outputs.apply(early, block, height, live=True)
            outputs.apply(late, block, height, live=True)
        birth = min(birth, len(made) + 1)
        for number, script in enumerate(SCRIPTS):
            outputs.watch(late, script.hex(), f"ref{number}", birth)
            outputs.watch(late, script.hex(), f"ref{number}", 1)
        while (height := outputs.lagging(late, len(made)) or 0) > 0:
            outputs.apply(late, made[height - 1], height, live=False)
        assert state(late)["outputs"] == state(early)["outputs"]
        assert set(state(late)["scanned"]) == {len(made)}
        early.close()
        late.close()


@pytest.mark.parametrize("height", [1, 3])
def test_a_block_that_does_not_continue_the_stored_ones_is_refused(short_tmp: Path, height: int) -> None:
    books = open_books(short_tmp, "books")
    first = Block("a", "genesis", [])
    outputs.apply(books, first, 1, live=True)
    outputs.apply(books, Block("b", "a", []), 2, live=True)
    with pytest.raises(outputs.Unconnected):
        outputs.apply(books, Block("x", "elsewhere", []), height, live=True)
    assert outputs.tip(books) == Tip(2, "b")
    books.close()
