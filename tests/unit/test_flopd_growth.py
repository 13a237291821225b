"""What a block costs does not grow with what the fund was ever paid: old payments are neither read nor sorted again."""

import sqlite3
from collections.abc import Callable

import pytest

from dux_flopd import facts, outputs
from dux_flopd.blocks import Block, SeenTx
from dux_flopd.facts import Asked
from dux_flopd.schema import MIGRATIONS
from duxcommon.coin.script import p2sh_script
from duxcommon.coin.tx import make_tx
from duxcommon.money import DUST

SCRIPT = p2sh_script(b"\x51")
STEPS = 100
"""Steps of SQLite's machine that are counted as one."""


def paid_so_far(payments: int) -> tuple[sqlite3.Connection, int]:
    """A database in which the fund was paid so often, ten times a block, and spent half of it; and its last block."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    for migration in MIGRATIONS:
        connection.executescript(migration)
    last = payments // 10
    connection.execute("INSERT INTO scripts VALUES (?, 0, ?, 1)", (SCRIPT.hex(), last))
    connection.execute("INSERT INTO watches VALUES ('fund/0', ?)", (SCRIPT.hex(),))
    connection.execute("INSERT INTO blocks VALUES (?, ?)", (last, f"{last:064x}"))
    connection.executemany(
        "INSERT INTO fact_blocks VALUES (?, ?)", ((h, h.to_bytes(32, "big")) for h in range(last + 1))
    )
    connection.executemany(
        "INSERT INTO outputs (txid, vout, script, amount, height, idx, part, spender_txid, spender_height, spender_idx,"
        " spender_part) VALUES (?, 0, ?, ?, ?, ?, 1, ?, ?, 1, 1)",
        (
            (f"{n:064x}", SCRIPT.hex(), DUST, n // 10, n % 10, *((f"{n:063x}f", n // 10) if n % 2 else (None, None)))
            for n in range(payments)
        ),
    )
    return connection, last


def cost(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
    """How many STEPS some work takes."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, STEPS)
    work()
    connection.set_progress_handler(None, 0)
    return steps


def read_last_block(payments: int) -> int:
    connection, last = paid_so_far(payments)
    found = facts.fund(connection, Asked(last - 1, last, None, None, 500))
    assert len(found.facts) == 15
    return cost(connection, lambda: facts.fund(connection, Asked(last - 1, last, None, None, 500)))


def take_next_block(payments: int) -> int:
    connection, last = paid_so_far(payments)
    spending = SeenTx(make_tx([(f"{0:064x}", 0), ("ee" * 32, 0)], [(SCRIPT, DUST)]))
    block = Block("ff" * 32, f"{last:064x}", [spending])
    steps = cost(connection, lambda: outputs.apply(connection, block, last + 1, live=True))
    row = connection.execute("SELECT spender_height FROM outputs WHERE txid = ?", (f"{0:064x}",)).fetchone()
    assert row[0] == last + 1
    assert connection.execute("SELECT count(*) FROM outputs").fetchone()[0] == payments + 1
    return steps


@pytest.mark.parametrize("work", [read_last_block, take_next_block])
def test_a_block_costs_the_same_after_twenty_times_as_many_payments(work: Callable[[int], int]) -> None:
    assert work(20_000) <= 2 * work(1_000) + 1
