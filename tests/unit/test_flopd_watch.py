"""Following the chain: each block is read once, whatever is watched; deep losses and a full disk are survived."""

import asyncio
import sqlite3
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from btclib import var_int
from btclib.hashes import hash256
from btclib.tx import Tx

from dux_flopd import facts, outputs
from dux_flopd.core import ChainInfo, Coin, Core, Dialect, Funded
from dux_flopd.schema import KEPT_BLOCKS, MIGRATIONS
from dux_flopd.sending import Transactions
from dux_flopd.settings import CoreSettings
from dux_flopd.watch import BATCH, Watcher
from duxcommon.coin.params import DEVNET
from duxcommon.coin.script import p2sh_script
from duxcommon.coin.tx import make_tx, parse_tx, serialize_tx, with_script_sigs
from duxcommon.db import Store
from duxcommon.errors import ChainDown, ChainFault, DiskFull, WatchUnknown
from duxcommon.money import COIN

T = TypeVar("T")
SCRIPTS = [p2sh_script(bytes([high, low])) for high in range(2) for low in range(250)]
FILLER = make_tx([("99" * 32, 0)], [(p2sh_script(b"\xff\xff"), COIN)])


def payment(script: bytes, number: int) -> Tx:
    return make_tx([(f"{number + 1:064x}", 0)], [(script, COIN)])


@dataclass
class FakeCore(Core):
    """A chain in a list, which counts how often its blocks are read."""

    blocks: list[bytes] = field(default_factory=list)
    reads: int = 0
    imports: int = 0
    down: bool = False
    pool: list[Tx] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(CoreSettings(url="http://127.0.0.1:1/", cookie=Path("/nowhere")), DEVNET.genesis)
        self.mine(1)

    def mine(self, count: int, *txs: Tx, salt: int = 0) -> None:
        """Blocks; the first of them holds `txs`."""
        for number in range(count):
            prev = hash256(self.blocks[-1][:80]) if self.blocks else bytes(32)
            header = struct.pack("<i32s32sIII", 1, prev, bytes(32), len(self.blocks), salt, 0)
            held = list(txs) if number == 0 and txs else [FILLER]
            self.blocks.append(header + var_int.serialize(len(held)) + b"".join(map(serialize_tx, held)))

    def hashes(self) -> list[str]:
        """Of the whole chain."""
        return [self._hash(height) for height in range(len(self.blocks))]

    def _hash(self, height: int) -> str:
        return hash256(self.blocks[height][:80])[::-1].hex()

    def _check(self) -> None:
        if self.down:
            raise ChainDown("gone")

    async def chain_info(self) -> ChainInfo:
        self._check()
        top = len(self.blocks) - 1
        return ChainInfo(top, top, self._hash(top), 0)

    async def best_hash(self) -> str:
        return (await self.chain_info()).best

    async def network_info(self) -> tuple[str, int]:
        return "/Fake:1/", 0

    async def dialect(self) -> Dialect:
        return "flopcoin"

    async def block_hash(self, height: int) -> str | None:
        self._check()
        return self._hash(height) if height < len(self.blocks) else None

    async def block(self, block_hash: str) -> bytes:
        self._check()
        self.reads += 1
        await asyncio.sleep(0)
        return next(raw for raw in self.blocks if hash256(raw[:80])[::-1].hex() == block_hash)

    async def watch(self, address_or_script: str, label: str) -> None:
        self._check()
        self.imports += 1

    async def unconfirmed(self, best: str) -> dict[str, int]:
        return {}

    async def transaction(self, txid: str) -> None:
        return None

    async def coins(self) -> list[Coin]:
        return [Coin("77" * 32, 0, 10 * COIN, 6, b"")]

    async def fund(self, raw: str, *, change_at: int, fee_rate: int, change_to: str | None = None) -> Funded:
        asked = Tx.parse_without_witness(bytes.fromhex(raw), check_validity=False)
        out = [(output.script_pub_key.script, output.value) for output in asked.vout]
        total = sum(amount for _, amount in out)
        made = make_tx([("77" * 32, 0)], [*out, (FILLER.vout[0].script_pub_key.script, 10 * COIN - total - 5_000_000)])
        return Funded(serialize_tx(made).hex(), 5_000_000, change_at)

    async def sign(self, raw: str) -> str:
        return serialize_tx(with_script_sigs(parse_tx(raw), [b"\x01\x01"])).hex()

    async def send(self, raw: str) -> str:
        self._check()
        self.pool.append(parse_tx(raw))
        return self.pool[-1].id.hex()

    async def lock(self, outpoints: Any) -> None:
        return

    async def unlock(self, outpoints: Any) -> None:
        return


async def caught_up(store: Store, watcher: Watcher) -> None:
    while watcher.reading() is not None or store.read(facts.tip) != watcher.tip:
        await asyncio.sleep(0.01)


def fact_hashes(store: Store) -> list[str]:
    query = "SELECT hash FROM fact_blocks ORDER BY height"
    return store.read(lambda c: [row[0].hex() for row in c.execute(query)])


def follow(folder: Path, work: Callable[[FakeCore, Store, Watcher], Coroutine[Any, Any, T]], birth: int = 0) -> T:
    async def run() -> T:
        core, store = FakeCore(), Store(folder / "flopd.sqlite", MIGRATIONS)
        watcher = Watcher(core, store, DEVNET, 0.01, birth)
        watcher.on_connect = [watcher.import_scripts]
        task = asyncio.create_task(watcher.run())
        try:
            async with asyncio.timeout(30):
                await watcher.first_round(5)
                return await work(core, store, watcher)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.close()
            await core.close()

    return asyncio.run(run())


def test_a_block_is_read_once_however_many_scripts_are_watched(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        await asyncio.gather(*(watcher.watch(s.hex(), f"r{n}", None) for n, s in enumerate(SCRIPTS)))
        assert core.reads == 1
        core.mine(3 * BATCH + 1, *(payment(script, n) for n, script in enumerate(SCRIPTS)))
        await watcher.fresh()
        assert core.reads == 1 + 3 * BATCH + 1
        for number in range(len(SCRIPTS)):
            (output,) = (await watcher.watched(f"r{number}", 0)).outputs
            assert output.confirmations == 3 * BATCH + 1

    follow(short_tmp, work)


def test_a_transaction_that_spends_hundreds_of_outputs_is_told_once(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        await watcher.watch(SCRIPTS[0].hex(), "r", None)
        gifts = [payment(SCRIPTS[0], n) for n in range(400)]
        sweep = make_tx([(gift.id.hex(), 0) for gift in gifts], [(p2sh_script(b"mine"), 1)])
        sweep = with_script_sigs(sweep, [bytes(220)] * len(gifts))
        core.mine(1, *gifts)
        core.mine(1, sweep)
        await watcher.fresh()
        outputs = (await watcher.watched("r", 0)).outputs
        assert {output.spender_txid for output in outputs} == {sweep.id.hex()}
        assert len(outputs) == 400
        assert [output.spender_hex for output in outputs if output.spender_hex] == [serialize_tx(sweep).hex()]
        assert outputs[0].spender_hex is not None

    follow(short_tmp, work)


def test_a_database_from_before_facts_finds_its_outputs_again(short_tmp: Path) -> None:
    gift = payment(SCRIPTS[0], 0)
    spender = make_tx([(gift.id.hex(), 0)], [(p2sh_script(b"mine"), COIN)])
    core = FakeCore()
    core.mine(3, gift)
    core.mine(3, spender)
    known = Store(short_tmp / "flopd.sqlite", MIGRATIONS[:1])

    def old(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO blocks VALUES (6, ?)", (core.hashes()[6],))
        connection.execute("INSERT INTO scripts VALUES (?, 1, 6, 1)", (SCRIPTS[0].hex(),))
        connection.execute("INSERT INTO watches VALUES ('fund/0', ?)", (SCRIPTS[0].hex(),))
        row = (gift.id.hex(), 0, SCRIPTS[0].hex(), COIN, 1, spender.id.hex(), serialize_tx(spender).hex(), 4)
        connection.execute("INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    async def upgrade() -> None:
        await known.write(old)
        await known.close()
        store = Store(short_tmp / "flopd.sqlite", MIGRATIONS)
        watcher = Watcher(core, store, DEVNET, 0.01, 0)
        await watcher.round()
        (output,) = (await watcher.watched("fund/0", 0)).outputs
        assert (output.height, output.spender_height, output.spender_hex) == (1, 4, serialize_tx(spender).hex())
        page = store.read(lambda c: facts.fund(c, facts.Asked(0, None, None, None, 10)))
        assert [(fact.event, fact.at.height, fact.at.index, fact.at.part) for fact in page.facts] == [
            ("paid", 1, 0, 1),
            ("spent", 4, 0, 0),
        ]
        await store.close()

    asyncio.run(upgrade())


def test_scripts_that_are_added_late_share_the_reading_of_old_blocks(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        core.mine(100, *(payment(script, n) for n, script in enumerate(SCRIPTS[:50])))
        await watcher.fresh()
        read = core.reads
        await asyncio.gather(*(watcher.watch(s.hex(), f"r{n}", 1) for n, s in enumerate(SCRIPTS[:50])))
        # Those that came while the first were being scanned are scanned together after them.
        assert core.reads - read <= 2 * 100 + BATCH
        for number in range(50):
            (output,) = (await watcher.watched(f"r{number}", 0)).outputs
            assert output.confirmations == 100

    follow(short_tmp, work)


def test_a_scan_that_takes_long_says_how_far_it_has_come(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dux_flopd.watch.SETTLE_S", 0.0)

    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        core.mine(60, payment(SCRIPTS[0], 0))
        await watcher.fresh()
        heights = []
        await watcher.watch(SCRIPTS[0].hex(), "r", 1)
        while not heights or heights[-1] < 60:
            heights.append((await watcher.watched("r", 0)).height)
            await asyncio.sleep(0)
        assert heights == sorted(heights)
        assert heights[0] < 60
        assert len((await watcher.watched("r", 0)).outputs) == 1

    follow(short_tmp, work)


def test_every_block_is_read_once_for_what_it_says_to_everybody(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        core.mine(1000)
        assert (await watcher.fresh()).tip.height == 1000
        assert core.reads == 1001
        assert store.read(facts.tip) == watcher.tip
        with pytest.raises(WatchUnknown):
            await watcher.watched("r", 0)

    follow(short_tmp, work)


def test_a_reorganisation_deeper_than_what_is_kept_is_survived(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        await watcher.watch(SCRIPTS[0].hex(), "r", None)
        core.mine(KEPT_BLOCKS + 50, payment(SCRIPTS[0], 0))
        await watcher.fresh()
        assert len((await watcher.watched("r", 0)).outputs) == 1
        assert len(store.read(outputs.kept)) == KEPT_BLOCKS
        del core.blocks[1:]
        core.mine(10, salt=7)
        core.mine(KEPT_BLOCKS + 50, payment(SCRIPTS[0], 1), salt=7)
        status = await watcher.fresh()
        assert status.tip.height == KEPT_BLOCKS + 60
        while (found := await watcher.watched("r", 0)).height < status.tip.height:
            await asyncio.sleep(0.01)
        assert [output.height for output in found.outputs if output.height is not None] == [11]
        await caught_up(store, watcher)
        assert fact_hashes(store) == core.hashes()

    follow(short_tmp, work)


@pytest.mark.parametrize(("kept", "new"), [(1, 900), (400, 600), (640, 300), (690, 20)])
def test_facts_of_blocks_that_fell_out_at_any_depth_are_forgotten(short_tmp: Path, kept: int, new: int) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        core.mine(700)
        await watcher.fresh()
        core.down = True
        del core.blocks[kept:]
        core.mine(new, salt=9)
        core.down = False
        await watcher.fresh()
        await caught_up(store, watcher)
        assert fact_hashes(store) == core.hashes()

    follow(short_tmp, work)


def test_blocks_before_the_networks_birth_are_not_read(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        assert core.reads == 0
        core.mine(40)
        await watcher.fresh()
        await caught_up(store, watcher)
        heights = store.read(lambda c: [row[0] for row in c.execute("SELECT height FROM fact_blocks ORDER BY height")])
        assert heights == list(range(30, 41))

    follow(short_tmp, work, birth=30)


def test_the_reading_of_old_blocks_goes_on_where_it_was_and_is_told(short_tmp: Path) -> None:
    async def start(core: FakeCore, store: Store, watcher: Watcher) -> int:
        core.mine(400)
        await watcher.fresh()
        return 0

    follow(short_tmp, start)
    core, store = FakeCore(), Store(short_tmp / "flopd.sqlite", MIGRATIONS)
    core.mine(400)
    asyncio.run(store.write(lambda c: c.execute("DELETE FROM fact_blocks WHERE height > 123")))
    watcher = Watcher(core, store, DEVNET, 0.01, 0)
    assert watcher.reading() == (124, 400)

    async def read_on() -> None:
        # One round reads for a second, which on a busy machine is not enough.
        while watcher.reading() is not None:
            await watcher.round()

    asyncio.run(asyncio.wait_for(read_on(), 60))
    assert watcher.reading() is None
    assert core.reads == 400 - 123
    asyncio.run(store.close())


def test_blocks_that_came_while_core_was_away_are_read_afterwards(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        await watcher.watch(SCRIPTS[0].hex(), "r", None)
        core.down = True
        with pytest.raises(ChainDown):
            await watcher.fresh()
        with pytest.raises(ChainDown):
            await watcher.watch(SCRIPTS[1].hex(), "while-down", None)
        core.mine(5, payment(SCRIPTS[0], 0), payment(SCRIPTS[1], 1))
        core.down = False
        await watcher.fresh()
        for ref in ("r", "while-down"):
            assert (await watcher.watched(ref, 0)).outputs[0].confirmations == 5
        assert core.imports == 2

    follow(short_tmp, work)


def test_a_full_disk_stops_nothing_for_good_and_sends_nothing(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        transactions = Transactions(core, store, watcher, lambda: None)
        await watcher.watch(SCRIPTS[0].hex(), "r", None)
        order: dict[str, Any] = {
            "data": None,
            "purpose": "send",
            "ref": "x" * 200,
            "fee_rate": 1_020_000,
            "max_fee": 10_000_000,
            "sending": True,
        }
        pages = store.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await store.write(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchone())
        many = [(script, COIN // 100) for script in SCRIPTS[:100]]
        with pytest.raises(DiskFull) as caught:
            await transactions.fund(0, "k", many, **order)
        assert (caught.value.code, caught.value.retry) == (1007, True)
        assert core.pool == []
        await store.write(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchone())
        assert (await transactions.fund(0, "k", many, **order)).state == "sent"
        assert (await transactions.fund(0, "k", many, **order)).state == "sent"
        assert len(core.pool) == 1
        core.mine(1, *core.pool)
        await watcher.fresh()
        assert (await watcher.watched("r", 0)).outputs[0].height == 1

    follow(short_tmp, work)


def test_what_core_makes_of_an_order_is_checked_before_it_is_signed(short_tmp: Path) -> None:
    async def work(core: FakeCore, store: Store, watcher: Watcher) -> None:
        transactions = Transactions(core, store, watcher, lambda: None)
        order: dict[str, Any] = {"data": b"note", "purpose": "fund", "ref": "r", "fee_rate": 1_020_000}
        order |= {"max_fee": 10_000_000, "sending": True}
        honest = core.fund

        def lie(change: Callable[[Tx], Tx]) -> Callable[..., Coroutine[Any, Any, Funded]]:
            async def fund(raw: str, *, change_at: int, fee_rate: int, change_to: str | None = None) -> Funded:
                funded = await honest(raw, change_at=change_at, fee_rate=fee_rate)
                return Funded(serialize_tx(change(parse_tx(funded.hex))).hex(), funded.fee, change_at)

            return fund

        def outs(tx: Tx) -> list[tuple[bytes, int]]:
            return [(output.script_pub_key.script, output.value) for output in tx.vout]

        lies: list[Callable[[Tx], Tx]] = [
            lambda tx: make_tx([("77" * 32, 0)], outs(tx)[1:]),
            lambda tx: make_tx([("77" * 32, 0)], [*outs(tx), (SCRIPTS[9], COIN)]),
            lambda tx: make_tx([("77" * 32, 0)], [(SCRIPTS[9], COIN), *outs(tx)[1:]]),
            lambda tx: make_tx([("77" * 32, 0)], [(SCRIPTS[0], COIN - 1), *outs(tx)[1:]]),
            lambda tx: make_tx([("88" * 32, 0)], outs(tx)),
            lambda tx: make_tx([("77" * 32, 0)], [*outs(tx)[:2], (SCRIPTS[9], 11 * COIN)]),
        ]
        for number, change in enumerate(lies):
            core.fund = lie(change)  # type: ignore[method-assign]
            with pytest.raises(ChainFault) as caught:
                await transactions.fund(0, f"k{number}", [(SCRIPTS[0], COIN)], **order)
            assert "nothing was signed" in caught.value.message
        core.fund = honest  # type: ignore[method-assign]

        async def forged(raw: str) -> str:
            return serialize_tx(make_tx([("77" * 32, 0)], [(SCRIPTS[9], 9 * COIN)])).hex()

        core.sign = forged  # type: ignore[method-assign]
        with pytest.raises(ChainFault):
            await transactions.fund(0, "forged", [(SCRIPTS[0], COIN)], **order)
        assert core.pool == []
        assert store.read(lambda c: c.execute("SELECT count(*) FROM intents").fetchone()[0]) == 0

    follow(short_tmp, work)
