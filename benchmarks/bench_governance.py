"""The rules after each block: with 10 to 10,000 proposals behind them, and while 100,000 votes come in.

Every block goes the way it goes in dux-airdropd: notes into the database, then everything that governance does at a
block. A block with nothing new is what a block nearly always is.
"""

import asyncio
import hashlib
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from benchmarks.bench_eligible import network, pubkeys
from benchmarks.timing import pss_mb
from dux_governance import rows
from dux_governance.governance import Governance
from dux_governance.ports import Flopd, Qualified, Registryd
from duxcommon.api.airdropd import FundAt, SpentFrom
from duxcommon.api.flopd import NetworkLabel, NoteFact, Place
from duxcommon.coin.notes import Change, ParameterChange, ProposalNote, Spend, VoteNote, proposal_id
from duxcommon.coin.script import p2pkh_script
from duxcommon.db import Store
from duxcommon.money import COIN, DUST
from duxcommon.network import NetworkDefinition
from duxcommon.parameters import BY_NAME
from duxcommon.rpc import Client
from duxcommon.rulebook import first_rules

PROPOSALS = (10, 1_000, 10_000)
VOTES_EACH = 3
ELECTORATE = 100
VOTES, VOTES_A_BLOCK = 100_000, 2_000
SMALL = {"vote_blocks": 100, "time_lock_blocks": 100, "window_blocks": 1000}


class Voters(Registryd):
    """A registryd that always names the same keys."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys

    async def qualified(self, height: int) -> Qualified:
        """The keys."""
        return Qualified(self.keys, frozenset())


class Wallet(Flopd):
    """A flopd that is not asked."""

    def __init__(self) -> None: ...


class Purse:
    """A fund with coins enough."""

    def at(self, height: int) -> FundAt:
        """The fund at a height."""
        return FundAt(height=height, spendable=10**6 * COIN, shares_paid=0, bond_price=COIN)

    def rounds(self, before: int | None, limit: int) -> list[SpentFrom]:
        """None."""
        return []

    def executed(self) -> dict[str, str]:
        """None."""
        return {}


class Chain:
    """Blocks with notes, taken into account one by one or many at once."""

    def __init__(self, folder: Path, definition: NetworkDefinition, keys: list[str]) -> None:
        self.definition, self.keys, self.folder = definition, keys, folder
        self.fund = first_rules(definition).fund_script
        self.store = Store(folder / "airdropd.sqlite", (rows.MIGRATION,))
        self.governance = self.mounted()
        self.height = 0
        self.waiting: list[NoteFact] = []

    def mounted(self) -> Governance:
        """Governance as after a start of dux-airdropd."""
        label = NetworkLabel(name="bench", chain="devnet", worthless=True)
        made = Governance(
            self.store, self.definition, label, lambda name: Client(self.folder / name), spawn=spawn, event=note
        )
        made.connect(Purse())
        made.registryd, made.flopd = Voters(frozenset(self.keys)), Wallet()
        return made

    def put(self, data: bytes, signer: str) -> None:
        """A note in the block that comes."""
        place = Place(height=self.height + 1, index=len(self.waiting))
        txid = hashlib.sha256(repr((place.height, place.index)).encode()).hexdigest()
        self.waiting.append(NoteFact(at=place, txid=txid, note=data.hex(), paid={self.fund: DUST}, signers=[signer]))

    def propose(self, number: int, change: Change | None = None) -> str:
        """A change (by default a payment of the fund), proposed by the next key in turn; its id."""
        spend = Spend(p2pkh_script(bytes.fromhex(self.keys[0])), COIN)
        data = ProposalNote(change or spend, number.to_bytes(32, "big")).encode()
        self.put(data, self.keys[number % len(self.keys)])
        return proposal_id(self.definition.id, data)

    def vote(self, proposal: str, signer: str) -> None:
        """A vote in favour."""
        self.put(VoteNote(bytes.fromhex(proposal), True).encode(), signer)

    async def store_notes(self) -> None:
        """All notes that wait into the database."""
        (kind,) = self.governance.kinds()
        new, self.waiting = self.waiting, []
        if new:
            await self.store.write(lambda c: kind.apply(c, new))

    async def block(self) -> float:
        """The next block; seconds from the block to the rules after it, without the notes' way to the disk."""
        self.height += 1
        await self.store_notes()
        started = time.perf_counter()
        await self.governance.advance(self.height)
        return time.perf_counter() - started


def spawn(work: Coroutine[Any, Any, None], name: str) -> None:
    """Nobody has documents."""
    work.close()


def note(connection: sqlite3.Connection, name: str, kind: str, body: dict[str, Any]) -> None:
    """Nobody reads events."""


async def behind(folder: Path, definition: NetworkDefinition, proposals: int) -> list[float]:
    """Seconds to read the whole past at a start, and then for blocks with nothing, a vote, and a proposal."""
    chain = Chain(folder, definition, pubkeys(ELECTORATE))
    for number in range(proposals):
        name = chain.propose(number)
        chain.height += 1
        for key in chain.keys[:VOTES_EACH]:
            chain.vote(name, key)
        # So a key has one proposal running at a time.
        chain.height += 2
    chain.height += 300
    await chain.store_notes()
    await chain.governance.advance(chain.height)
    chain.governance = chain.mounted()
    started = time.perf_counter()
    await chain.governance.advance(chain.height)
    found = [time.perf_counter() - started]
    running = chain.propose(proposals)
    await chain.block()
    found.append(statistics.median([await chain.block() for _ in range(9)]))
    voted = []
    for key in chain.keys[:9]:
        chain.vote(running, key)
        voted.append(await chain.block())
    proposed = []
    for number in range(proposals + 1, proposals + 10):
        chain.propose(number)
        proposed.append(await chain.block())
    await chain.store.close()
    return [*found, statistics.median(voted), statistics.median(proposed)]


async def counting(folder: Path, definition: NetworkDefinition) -> tuple[float, float, float]:
    """Seconds for the median and the slowest block while all vote, and to count them at a start."""
    chain = Chain(folder, definition, pubkeys(VOTES))
    name = chain.propose(0, ParameterChange(BY_NAME["tax_bps"].governed.number, 450))
    taken = [await chain.block()]
    for start in range(0, VOTES, VOTES_A_BLOCK):
        for key in chain.keys[start : start + VOTES_A_BLOCK]:
            chain.vote(name, key)
        taken.append(await chain.block())
    while chain.height < 1 + SMALL["vote_blocks"] + 60:
        taken.append(await chain.block())
    item = chain.governance.find(name)
    assert item.passed, item.shortfall
    chain.governance = chain.mounted()
    started = time.perf_counter()
    await chain.governance.advance(chain.height)
    anew = time.perf_counter() - started
    await chain.store.close()
    return statistics.median(taken), max(taken), anew


def main() -> None:
    """Print both tables."""
    import os

    base = network()
    definition = base.model_copy(update={"parameters": base.parameters.model_copy(update=SMALL)})

    def in_folder(work: Any) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
        try:
            return asyncio.run(work(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    print(
        f"{'proposals':>9} {'notes':>7} {'at a start':>11} {'block with':>12}: {'nothing':>8} {'a vote':>9} "
        f"{'a proposal':>10}"
    )
    for count in PROPOSALS:
        start, nothing, vote, proposal = in_folder(lambda folder, n=count: behind(folder, definition, n))
        notes = count * (1 + VOTES_EACH)
        print(
            f"{count:>9,} {notes:>7,} {start:>9.2f} s {'':>13} {nothing * 1000:>6.1f} ms {vote * 1000:>6.1f} ms "
            f"{proposal * 1000:>7.1f} ms",
            flush=True,
        )
    median, slowest, anew = in_folder(lambda folder: counting(folder, definition))
    print(
        f"{VOTES:,} votes, {VOTES_A_BLOCK:,} a block: {median * 1000:.1f} ms a block, the slowest {slowest:.2f} s, "
        f"all of them at a start {anew:.2f} s; {pss_mb(os.getpid()):.0f} MB"
    )


if __name__ == "__main__":
    main()
