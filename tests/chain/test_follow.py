"""Following flopd's facts: everything once, whatever is killed, whatever is reorganised meanwhile."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import follow_kit
import pytest
from devchain_kit import Devchain
from facts_kit import FUND, OWN_KEY, P, bond_tx, close_tx, deposit, mine_tx, page, terms_of, told, vote_tx
from flopd_kit import Flopd, TestChain, chains

from duxcommon import follow
from duxcommon.api.flopd import BlockRef
from duxcommon.coin.script import p2pkh_script
from duxcommon.db import Store
from duxcommon.errors import DaemonDown
from duxcommon.follow import Follower, Kind
from duxcommon.rpc import Client

T = TypeVar("T")
chain = chains(("devchain-flopcoin",))
CONSUMER = Path(follow_kit.__file__)


@pytest.fixture
def core(chain: TestChain) -> Devchain:
    assert isinstance(chain.core, Devchain)
    return chain.core


@pytest.fixture
def node(chain: TestChain, short_tmp: Path, daemon_logs: list[str]) -> Iterator[Flopd]:
    (short_tmp / "f").mkdir()
    with Flopd(short_tmp / "f", chain) as running:
        running.start()
        for number, script in enumerate((FUND, p2pkh_script(OWN_KEY))):
            params = {"script": script.hex(), "ref": f"fund/{number}", "birth_height": 0}
            running.call("chain.watch", params)
        yield running


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "CHUNK", 7)
    monkeypatch.setattr(follow, "PAGE", 2)


def facts(core: Devchain, blocks: int = 4) -> None:
    """Blocks with facts of every kind, one of them with more than two pages hold."""
    for _ in range(blocks):
        terms = terms_of(core.height() + 5000)
        coin = deposit(core, terms, 11 * 100_000_000)
        mine_tx(core, close_tx(terms, coin), bond_tx(core, 2), vote_tx(core, P))
    mine_tx(core, *(vote_tx(core, P) for _ in range(6)), bond_tx(core, 5))


def follower(
    folder: Path, node: Flopd, work: Callable[[Follower, Store], Coroutine[Any, Any, T]], observer: Any = None
) -> T:
    async def run() -> T:
        store, client = follow_kit.open_store(folder / "kept.sqlite"), Client(node.socket, observer)
        try:
            async with asyncio.timeout(60):
                return await work(Follower(store, client, 0, follow_kit.kinds()), store)
        finally:
            await client.close()
            await store.close()

    return asyncio.run(run())


def assert_in_step(folder: Path, node: Flopd) -> None:
    """What is kept is what flopd tells, and the block up to which it was read is flopd's tip."""
    tip = page(node, "fund")["tip"]
    models = {kind: model.model_fields["facts"].annotation.__args__[0] for kind, model in follow_kit.PAGES.items()}
    expected = {
        kind: [models[kind](**fact).model_dump_json() for fact in told(node, kind, limit=500)] for kind in models
    }
    assert all(expected.values())

    async def look(reader: Follower, store: Store) -> None:
        synced = reader.synced()
        assert synced is not None
        assert synced.model_dump() == tip
        assert {kind: follow_kit.kept(store, kind) for kind in models} == expected

    follower(folder, node, look)


async def sync(reader: Follower, _: Store) -> BlockRef:
    return await reader.sync()


def test_everything_is_read_once_and_later_what_is_new(node: Flopd, core: Devchain, short_tmp: Path) -> None:
    facts(core)
    node.at_tip()
    reached = follower(short_tmp, node, sync)
    assert reached.height == core.height()
    assert_in_step(short_tmp, node)
    assert follower(short_tmp, node, sync) == reached
    facts(core, 1)
    node.at_tip()
    assert follower(short_tmp, node, sync).height == core.height()
    assert_in_step(short_tmp, node)


def test_nothing_above_the_limit_is_read(node: Flopd, core: Devchain, short_tmp: Path) -> None:
    facts(core)
    limit = core.height() - 1
    node.at_tip()

    async def work(reader: Follower, store: Store) -> None:
        assert reader.synced() is None
        for height in (limit - 3, limit - 9, limit):
            reached = await reader.sync(height)
            assert reached.height == max(height, limit - 3)
            assert reached.hash == core.call("getblockhash", reached.height)
        highest = "SELECT max(height) FROM kept"
        assert store.read(lambda c: c.execute(highest).fetchone()[0]) <= limit
        await reader.sync()

    follower(short_tmp, node, work)
    assert_in_step(short_tmp, node)


@pytest.mark.parametrize("at", [1, 3, 6, 14, 40])
def test_a_reorganisation_during_the_first_reading_leaves_no_trace(
    node: Flopd, core: Devchain, short_tmp: Path, at: int
) -> None:
    facts(core, 3)
    node.at_tip()
    answers = 0

    def reorganise(*_: Any) -> None:
        nonlocal answers
        answers += 1
        if answers == at:
            core.call("invalidateblock", core.call("getblockhash", core.height() - 5))
            mine_tx(core)
            core.mine(3)
            facts(core, 1)
            node.at_tip()

    follower(short_tmp, node, sync, reorganise)
    assert answers > at
    follower(short_tmp, node, sync)
    assert_in_step(short_tmp, node)


def test_a_reorganisation_is_undone_to_the_newest_block_that_is_still_there(
    node: Flopd, core: Devchain, short_tmp: Path
) -> None:
    facts(core)
    node.at_tip()
    follower(short_tmp, node, sync)
    undone: list[int] = []

    def fork(depth: int) -> int:
        core.call("invalidateblock", core.call("getblockhash", core.height() - depth + 1))
        kept_height = core.height()
        mine_tx(core)
        core.mine(depth)
        node.at_tip()
        return kept_height

    async def work(reader: Follower, store: Store) -> None:
        for kind in reader._kinds:
            kept_undo = kind.undo
            object.__setattr__(kind, "undo", lambda c, above, u=kept_undo: (undone.append(above), u(c, above)))
        for _ in range(6):
            core.mine(1)
            await asyncio.to_thread(node.at_tip)
            await reader.sync()
        height = await asyncio.to_thread(fork, 3)
        await reader.sync()
        assert set(undone) == {height}
        undone.clear()
        # Before single blocks were followed, every seventh was kept.
        height = await asyncio.to_thread(fork, 15)
        await reader.sync()
        assert len(set(undone)) == 1
        assert height - 7 <= undone[0] <= height

    follower(short_tmp, node, work)
    assert_in_step(short_tmp, node)


def test_a_chain_that_is_another_from_the_start_is_read_anew(node: Flopd, core: Devchain, short_tmp: Path) -> None:
    facts(core, 1)
    node.at_tip()

    async def work(reader: Follower, store: Store) -> None:
        await reader.sync()
        await store.write(lambda c: c.execute("UPDATE followed SET hash = ?", ("00" * 32,)))
        assert (await reader.sync()).height == core.height()

    follower(short_tmp, node, work)
    assert_in_step(short_tmp, node)


def test_a_consumer_that_is_killed_between_pages_goes_on_without_gap_or_double(
    node: Flopd, core: Devchain, short_tmp: Path
) -> None:
    facts(core, 2)
    node.at_tip()
    command = [sys.executable, str(CONSUMER), str(short_tmp / "kept.sqlite"), str(node.socket)]
    kills = 0
    for dies_at in (1, 2, 5, 9, 17, 30, 45):
        code = subprocess.run([*command, str(dies_at)], check=False, timeout=60).returncode
        kills += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
    assert kills >= 4
    assert subprocess.run([*command, "0"], check=False, timeout=60).returncode == 0
    assert_in_step(short_tmp, node)


def test_while_flopd_is_down_nothing_is_lost(node: Flopd, core: Devchain, short_tmp: Path) -> None:
    facts(core, 2)
    node.at_tip()
    answers = 0

    def kill(*_: Any) -> None:
        nonlocal answers
        answers += 1
        if answers == 12:
            node.kill()

    with pytest.raises(DaemonDown):
        follower(short_tmp, node, sync, kill)

    async def look(reader: Follower, store: Store) -> BlockRef | None:
        before = reader.synced()
        with pytest.raises(DaemonDown):
            await reader.sync()
        assert reader.synced() == before
        return before

    assert follower(short_tmp, node, look) is not None
    node.start()
    node.at_tip()
    follower(short_tmp, node, sync)
    assert_in_step(short_tmp, node)


def test_an_apply_that_fails_keeps_nothing_of_its_chunk(node: Flopd, core: Devchain, short_tmp: Path) -> None:
    facts(core, 1)
    node.at_tip()

    async def work(reader: Follower, store: Store) -> None:
        honest = list(reader._kinds)

        def fail(connection: sqlite3.Connection, given: Sequence[Any]) -> None:
            honest[-1].apply(connection, given)
            raise LookupError("not today")

        reader._kinds = [*honest[:-1], Kind("chain.fund", honest[-1].page, fail, honest[-1].undo)]
        with pytest.raises(LookupError):
            await reader.sync()
        synced = reader.synced()
        last = store.read(lambda c: c.execute("SELECT max(height) FROM kept").fetchone()[0])
        assert last is None or (synced is not None and last <= synced.height)
        reader._kinds = honest
        await reader.sync()

    follower(short_tmp, node, work)
    assert_in_step(short_tmp, node)


def test_of_old_readings_one_in_a_chunk_is_remembered(
    node: Flopd, core: Devchain, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "KEPT", 5)
    core.mine(max(0, 40 - core.height()))
    node.at_tip()

    async def work(reader: Follower, store: Store) -> None:
        for height in range(35):
            await reader.sync(height)
        heights = store.read(lambda c: [row[0] for row in c.execute("SELECT height FROM followed ORDER BY height")])
        assert heights == [0, 7, 14, 21, 28, 30, 31, 32, 33, 34]

    follower(short_tmp, node, work)
