"""Eligibility of 1,000 to 100,000 payout keys with 10 settlements each: to index, to recompute cold, to read out.

Indexing begins with what flopd answers, page by page as JSON, and ends on disk. Recomputing is one snapshot with empty
caches; reading out is all pages of `node.eligible` over a Unix socket.
"""

import asyncio
import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from btclib_secp256k1 import keys

from benchmarks.timing import pss_mb
from dux_registryd.bonding import Bonding
from dux_registryd.chain import ChainFollower
from dux_registryd.database import MIGRATIONS as OWN_MIGRATIONS
from dux_registryd.eligibility_methods import EligibilityMethods
from dux_registryd.snapshots import Snapshots
from dux_registryd.work import MIGRATIONS, Ledger
from duxcommon.api.airdropd import FundAt, RuleBook
from duxcommon.api.flopd import BondFact, SettlementFact
from duxcommon.api.registryd import EligiblePage
from duxcommon.coin.script import pubkey_of
from duxcommon.config import Access
from duxcommon.db import Store
from duxcommon.identity import Identity
from duxcommon.money import COIN, DUST, tax
from duxcommon.network import Member, NetworkDefinition
from duxcommon.rpc import Client, Server, collect, wire
from duxcommon.rulebook import Book, first_rules
from duxcommon.rulekeeper import RuleKeeper

SIZES = (1_000, 10_000, 100_000)
SETTLEMENTS = 10
PAGE = 2000
GROSS = 10 * COIN
AIM_S = 10.0


def network() -> NetworkDefinition:
    """Any network with the default parameters."""
    guardian = Identity.generate()
    member = Member(node=guardian.node_id, pubkey=pubkey_of(b"\x01" * 32).hex())
    made = NetworkDefinition(
        name="bench", chain="devnet", genesis="00" * 32, birth_height=0, bootstrap=[], guardians=[member],
        guardians_m=1, arbiters=[member],
    )  # fmt: skip
    return made.signed_by(guardian)


def pubkeys(count: int) -> list[str]:
    """That many different payout keys."""
    return [keys.pubkey_from_prvkey(hashlib.sha256(b"%d" % n).digest()).hex() for n in range(count)]


def settlements(payout: list[str], blocks: int, fund: str) -> Iterator[str]:
    """Every key's settled work, spread over one window, as pages of JSON."""
    chance = random.Random(1)
    heights = sorted((chance.randrange(blocks) + blocks + 1, key) for key in payout for _ in range(SETTLEMENTS))
    part = tax(GROSS, 500)
    for start in range(0, len(heights), PAGE):
        yield json.dumps(
            [
                {
                    "at": {"height": height, "index": start + number, "part": 0}, "txid": f"{start + number:064x}",
                    "provider": key, "buyer": payout[0], "arbiter": payout[1], "lock_height": height + 10_080,
                    "payout": GROSS - part, "tax": part, "change": 0, "fee": 451_000, "awarded": False,
                    "fund_script": fund, "deposits": [height - 100],
                }
                for number, (height, key) in enumerate(heights[start : start + PAGE])
            ]
        )  # fmt: skip


def bonds(payout: list[str], blocks: int, fund: str) -> Iterator[str]:
    """A bond of every key, made before the window opens."""
    for start in range(0, len(payout), PAGE):
        yield json.dumps(
            [
                {
                    "at": {"height": blocks, "index": start + number, "part": 0}, "txid": f"{start + number:064x}",
                    "vout": 0, "pubkey": key, "lock_height": 6 * blocks, "amount": 2 * COIN, "paid": {fund: DUST},
                }
                for number, key in enumerate(payout[start : start + PAGE])
            ]
        )  # fmt: skip


async def measure(count: int, folder: Path) -> tuple[float, float, float]:
    """Seconds to index, to recompute and to page out."""
    definition = network()
    first = first_rules(definition)
    blocks = first.parameters.window_blocks
    work, own = Store(folder / "work.sqlite", MIGRATIONS), Store(folder / "own.db", OWN_MIGRATIONS)
    ledger = Ledger(work)
    book = RuleBook(network=definition.id, rules=[first], known_to=10 * blocks)
    keeper = RuleKeeper(folder / "rules.json", Client(folder / "nobody.sock"), definition)
    keeper.book = Book(book)
    await ledger.use(keeper.book)
    payout = pubkeys(count)
    told = [(SettlementFact, list(settlements(payout, blocks, first.fund_script)))]
    told_bonds = list(bonds(payout, blocks, first.fund_script))

    started = time.perf_counter()
    kind, bond_kind = ledger.kinds()
    for model, pages in told:
        for page in pages:
            facts = [model.model_validate(fact) for fact in json.loads(page)]
            await work.write(lambda c, facts=facts: kind.apply(c, facts))
    for page in told_bonds:
        facts = [BondFact.model_validate(fact) for fact in json.loads(page)]
        await work.write(lambda c, facts=facts: bond_kind.apply(c, facts))
    await work.write(lambda c: c.execute("INSERT INTO followed VALUES (?, ?)", (3 * blocks, "00" * 32)))
    indexed = time.perf_counter() - started
    del told, told_bonds

    async def fund_at(height: int) -> FundAt:
        return FundAt(height=height, spendable=100 * COIN, shares_paid=0, bond_price=COIN)

    snapshots = Snapshots(ledger, keeper, fund_at)
    started = time.perf_counter()
    await snapshots.at(2 * blocks)
    recomputed = time.perf_counter() - started

    nobody = Client(folder / "nobody.sock")
    chain = ChainFollower(definition, work, keeper, ledger, flopd=nobody, airdropd=nobody)
    methods = EligibilityMethods(snapshots, Bonding(own, ledger, nobody, auto=False, windows=6), chain)
    server = Server(collect([methods]), Access(), 1_000_000)
    path = folder / "registryd.sock"
    served = await asyncio.start_unix_server(server.serve_connection, path=str(path), limit=wire.MAX_MESSAGE)
    client = Client(path)
    started = time.perf_counter()
    after, seen = None, 0
    while True:
        params = {"height": 2 * blocks, "after": after, "limit": 5000}
        page = await client.call("node.eligible", EligiblePage, params)
        seen += len(page.keys)
        if (after := page.next) is None:
            break
    paged = time.perf_counter() - started
    assert seen == page.total > 0.9 * count, (seen, page.total)
    await client.close()
    served.close()
    await work.close()
    await own.close()
    return indexed, recomputed, paged


def main() -> None:
    """Print the three times for each number of keys."""
    import os

    print(f"{'keys':>8} {'settlements':>12} {'index':>9} {'recompute':>10} {'read out':>9} {'memory':>9}")
    for count in SIZES:
        folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
        try:
            indexed, recomputed, paged = asyncio.run(measure(count, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sizes = f"{count:>8,} {count * SETTLEMENTS:>12,}"
        print(
            f"{sizes} {indexed:>7.2f} s {recomputed:>8.2f} s {paged:>7.2f} s {pss_mb(os.getpid()):>6.0f} MB", flush=True
        )
    print(f"(aim: {SIZES[-1]:,} keys recomputed in at most {AIM_S:.0f} s)")


if __name__ == "__main__":
    main()
