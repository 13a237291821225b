"""Whatever order listings arrive in, every node ends with the same ones."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import listing, shop

from duxcommon.api.common import SignedRecord
from duxcommon.identity import Identity

SELLERS = [Identity.generate(), Identity.generate()]
RECORDS = [
    listing(seller, seq, name=name, price=price, body={"withdrawn": withdrawn})
    for seller in SELLERS
    for name in ("one", "two")
    for seq, price, withdrawn in ((1, 5, False), (2, 6, False), (2, 7, False), (3, 8, True), (4, 9, False))
]


async def kept(folder: Path, records: list[SignedRecord]) -> tuple[list[SignedRecord], list[str]]:
    """What a node holds in the end, and what a search shows."""
    async with shop(folder) as here:
        for record in records:
            await here.listings.accept(record)
        found = (await here.methods.search()).listings
        assert [item.record for item in found] == [here.listings.resolve(item.app).record for item in found]
        return sorted(here.listings.others(), key=lambda record: record.sig), [item.app for item in found]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(RECORDS), max_size=20), st.randoms(use_true_random=False))
def test_every_order_of_arrival_ends_with_the_same_listings(records: list[SignedRecord], random: Random) -> None:
    shuffled = records + records[: len(records) // 2]
    random.shuffle(shuffled)
    folder = Path(tempfile.mkdtemp(prefix="dux"))
    try:
        first = asyncio.run(kept(folder / "a", records))
        assert asyncio.run(kept(folder / "b", shuffled)) == first
        newest: dict[str, SignedRecord] = {}
        for record in records:
            if record.seq >= newest.get(record.body["app"], record).seq:
                newest[record.body["app"]] = record
        assert {record.body["app"]: record.seq for record in first[0]} == {app: r.seq for app, r in newest.items()}
        assert set(first[1]) == {app for app, record in newest.items() if not record.body["withdrawn"]}
    finally:
        shutil.rmtree(folder)
