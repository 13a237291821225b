"""Durable transitions of payments against bare SQLite on the same disk, in one run.

A transition is one step of a payment: held, accepted, done, released. Each is on disk when its call returns. The
signatures are made and checked as in life; only the sockets between the daemons are left out.
"""

import asyncio
import cProfile
import json
import pstats
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dux_escrowd.payments import Order, Wish
from duxcommon.db import connect
from duxcommon.money import COIN
from tests.escrow_world import House, World, market, opened

AT_ONCE = 64
CALLS = 1500
ROUNDS = 3
PRICE = 10_000
RAW_TABLES = """
CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL) STRICT;
CREATE TABLE journal (id INTEGER PRIMARY KEY, ref TEXT NOT NULL, amount INTEGER NOT NULL) STRICT;
CREATE TABLE message (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL) STRICT;
"""


def raw(folder: Path, group: int, seconds: float = 1.0) -> float:
    """Transactions a second of a plain loop: a transfer, a journal row and an outbox row, `group` to a commit."""
    path = folder / f"raw-{group}-{time.monotonic_ns()}.sqlite"
    connection = connect(path)
    connection.executescript(RAW_TABLES)
    connection.execute("INSERT INTO account VALUES (1, 0), (2, 0)")
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        connection.execute("BEGIN IMMEDIATE")
        for number in range(group):
            connection.execute("UPDATE account SET amount = amount + 1 WHERE id = ?", (1 + number % 2,))
            connection.execute("INSERT INTO journal (ref, amount) VALUES (?, ?)", (f"transfer-{done}", 1))
            connection.execute("INSERT INTO message (kind, payload) VALUES (?, ?)", ("state", '{"seq": 1}'))
        connection.execute("COMMIT")
        done += group
    connection.close()
    return done / seconds


async def calls(buyer: House, provider: House, first: int, count: int) -> float:
    """Transitions a second while 64 callers make paid calls; four transitions each."""
    left = iter(range(first, first + count))
    buying, selling = buyer.services.payments, provider.services.payments

    async def caller() -> None:
        for number in left:
            task = f"{number:032x}"
            hold = await buying.hold(Wish(provider.id, PRICE, task, task), 30.0)
            order = Order(buyer.id, hold.payment.channel, PRICE, task, "ab" * 32, None)
            await selling.accept(order, hold.state)
            await selling.done(order.channel, task, "cd" * 32)
            await buying.release(hold.payment.id, "cd" * 32, f"pay/{task}")

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return 4 * count / (time.perf_counter() - start)


async def measure(folder: Path) -> None:
    """Interleave all so that a busy machine slows them alike."""
    world = World()
    buyer, provider = await market(folder, world, max_unpaid=AT_ONCE)
    await opened(buyer, provider, world, 20 * COIN)
    await calls(buyer, provider, 0, 100)
    found: dict[str, list[float]] = {"single": [], "group": [], "ours": []}
    commits = buyer.store.commits + provider.store.commits
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    for number in range(ROUNDS):
        found["single"].append(await asyncio.to_thread(raw, folder, 1))
        found["group"].append(await asyncio.to_thread(raw, folder, 16))
        if profile is not None:
            profile.enable()
        found["ours"].append(await calls(buyer, provider, 1000 * 1000 * (number + 1), CALLS))
        if profile is not None:
            profile.disable()
    commits = buyer.store.commits + provider.store.commits - commits
    single, group, ours = (sorted(found[name])[ROUNDS // 2] for name in ("single", "group", "ours"))
    print(f"bare SQLite, a commit each      {single:8.0f} transactions/s")
    print(f"bare SQLite, 16 to a commit     {group:8.0f} transactions/s")
    together = 4 * CALLS * ROUNDS / commits
    print(f"escrow transitions, {AT_ONCE} at once  {ours:8.0f} transitions/s, {together:.0f} to a commit")
    print(f"ratio to bare commits (aim: at least 0.8): {ours / single:.2f}; to grouped ones: {ours / group:.2f}")
    assert (await buyer.services.audit.run()).ok
    print(
        json.dumps({"escrow_transitions_s": ours, "escrow_ratio": ours / single, "escrow_ratio_grouped": ours / group})
    )
    if profile is not None:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    await buyer.stop()
    await provider.stop()


def main() -> None:
    """Print the rates and their ratios."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    try:
        asyncio.run(measure(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
