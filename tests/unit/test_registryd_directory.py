"""What a node does with the records it hears and makes while something is in the way; without a network."""

import asyncio
import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dux_registryd import directory as directory_module
from dux_registryd.database import MIGRATIONS
from dux_registryd.dht import Dht
from dux_registryd.directory import Directory
from dux_registryd.heartbeat import Heartbeat
from dux_registryd.sealing import Seal
from dux_registryd.settings import RegistrydSettings
from duxcommon.api.common import SignedRecord
from duxcommon.db import Store
from duxcommon.errors import DiskFull
from duxcommon.identity import Identity
from duxcommon.records import sign_record

NETWORK = "ab" * 32


def record(identity: Identity, seq: int) -> SignedRecord:
    return sign_record(identity, "node", NETWORK, seq, {"n": seq})


class Disk:
    """Takes records unless it is full; how often it was asked."""

    def __init__(self) -> None:
        self.full = True
        self.asked = 0
        self.kept: list[int] = []

    async def put(self, record: SignedRecord) -> bool:
        self.asked += 1
        if self.full:
            raise DiskFull("the database can't be written")
        self.kept.append(record.seq)
        return False


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dht, "listen", lambda self, key: None)


def hear(directory: Directory, record: SignedRecord) -> None:
    """As the engine does: once for each value."""
    directory._heard("node/", Seal(NETWORK).seal(record), False)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_comes_while_the_disk_is_full_is_kept_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "AGAIN_S", 0.05)
    disk, seller, other = Disk(), Identity.generate(), Identity.generate()

    async def main() -> None:
        directory = Directory("cd" * 32, NETWORK, lambda: 1)
        directory.on("node", disk.put)
        running = [asyncio.create_task(work) for work in (directory.run(), directory.catch_up())]
        try:
            for heard in (record(seller, 1), record(seller, 3), record(other, 7), record(seller, 2)):
                hear(directory, heard)
            # All were refused, and then at least twice more one of them, to see whether there is room.
            await until(lambda: disk.asked >= 6)
            assert disk.kept == []
            disk.full = False
            await until(lambda: len(disk.kept) >= 2)
            hear(directory, record(other, 8))
            await until(lambda: 8 in disk.kept)
            # Of each node the newest one, each once.
            assert sorted(disk.kept) == [3, 7, 8]
            assert directory.dropped.total() == 0
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def test_what_waits_for_room_on_the_disk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()

    async def main() -> None:
        directory = Directory("cd" * 32, NETWORK, lambda: 1)
        directory.on("node", disk.put)
        monkeypatch.setattr(directory_module, "MAX_WAITING", 3)
        running = asyncio.create_task(directory.run())
        try:
            for _ in range(5):
                hear(directory, record(Identity.generate(), 1))
            await until(lambda: directory.dropped["overflow"] == 2)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert disk.asked == 5


def test_a_neighbour_that_is_slow_to_store_a_record_does_not_delay_the_next_heartbeat(short_tmp: Path) -> None:
    times: list[float] = []

    class Slow:
        async def announce(self, record: SignedRecord) -> bool:
            times.append(time.monotonic())
            await asyncio.sleep(0.9)
            return False

    async def arrived(record: SignedRecord) -> bool:
        return False

    async def main() -> None:
        identity = Identity.generate()
        store = Store(short_tmp / "registryd.sqlite", MIGRATIONS)
        seqs = iter(range(1, 100))
        parts: dict[str, Any] = {
            "transport": SimpleNamespace(relay=lambda: "", addresses=lambda: ["127.0.0.1:9"]),
            "directory": Slow(),
            "nodes": SimpleNamespace(arrived=arrived, last_seq=lambda _: -1),
            "signer": SimpleNamespace(
                node_id=identity.node_id,
                next_seq=lambda after: next(seqs),
                sign=lambda kind, seq, body: sign_record(identity, kind, NETWORK, seq, body),
            ),
        }
        beating = asyncio.create_task(
            Heartbeat(RegistrydSettings(heartbeat_s=1, blobs_dir=short_tmp, state_dir=short_tmp), store, **parts).run()
        )
        try:
            await until(lambda: len(times) >= 3 or beating.done())
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            await store.close()

    asyncio.run(main())
    assert times[2] - times[0] < 3.2, times
