"""Listings: which records are kept, which one of several counts, and how a name finds its app."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from store_kit import NETWORK, OTHER_NETWORK, listing, seller, shop

from dux_store import listings as listings_module
from duxcommon.api.common import SignedRecord
from duxcommon.api.registryd import ListingBody
from duxcommon.errors import (
    AppAmbiguous,
    AppUnknown,
    BadRecord,
    BadSignature,
    DuxError,
    StaleRecord,
    StoreFull,
    WrongNetwork,
)


def forged(record: SignedRecord, **body: Any) -> SignedRecord:
    return record.model_copy(update={"body": {**record.body, **body}})


def test_the_newest_sequence_wins_in_whatever_order_records_arrive(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice = seller(tmp_path)
            first, second, third = (listing(alice, seq, price=seq) for seq in (1, 2, 3))
            assert await here.listings.accept(second) == "new"
            assert await here.listings.accept(first) == "stale"
            with pytest.raises(StaleRecord):
                await here.directory.deliver(first)
            assert here.listings.resolve("hello").record == second
            assert await here.listings.accept(third) == "newer"
            assert await here.listings.accept(third) == "known"
            assert here.listings.resolve("hello").record == third

    asyncio.run(scenario())


def test_of_two_records_with_one_number_every_node_keeps_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        alice = seller(tmp_path)
        pair = [listing(alice, 7, price=1), listing(alice, 7, price=2)]
        kept = []
        for number, order in enumerate((pair, pair[::-1])):
            async with shop(tmp_path / str(number)) as here:
                for record in order:
                    await here.listings.accept(record)
                kept.append(here.listings.resolve("hello").record)
        assert kept[0] == kept[1]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda alice, bob: forged(listing(alice), bundle="cd" * 32), BadSignature),
        (lambda alice, bob: listing(alice).model_copy(update={"node": bob.node_id}), BadSignature),
        (lambda alice, bob: listing(alice).model_copy(update={"seq": 99}), BadSignature),
        (lambda alice, bob: listing(alice, network=OTHER_NETWORK), WrongNetwork),
        (lambda alice, bob: listing(alice).model_copy(update={"time": 2**40}), BadRecord),
        (lambda alice, bob: listing(alice, body={"app": listing(bob).body["app"]}), BadRecord),
        (lambda alice, bob: listing(alice, body={"extra": 1}), BadRecord),
        (lambda alice, bob: listing(alice, body={"bundle_size": 10**12}), BadRecord),
        (lambda alice, bob: listing(alice, body={"bundle_size": 0}), BadRecord),
        (lambda alice, bob: listing(alice, name="ab" * 32), BadRecord),
        (lambda alice, bob: listing(alice, params={"type": "object", "description": "x" * 40_000}), BadRecord),
        (lambda alice, bob: listing(alice, body={"manifest": {}}), BadRecord),
    ],
)
def test_a_forged_or_malformed_listing_is_refused_and_changes_nothing(
    tmp_path: Path, damage: Any, error: type[DuxError]
) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice, bob = seller(tmp_path, "alice"), seller(tmp_path, "bob")
            good = listing(alice, price=1)
            await here.listings.accept(good)
            evil = damage(alice, bob)
            with pytest.raises(error) as caught:
                await here.listings.accept(evil)
            assert caught.value.hint
            with pytest.raises(error):
                await here.directory.deliver(evil)
            assert here.listings.others() == [good]

    asyncio.run(scenario())


def test_nobody_can_publish_withdraw_or_replace_anothers_app(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice, mallory = seller(tmp_path, "alice"), seller(tmp_path, "mallory")
            good = listing(alice)
            await here.listings.accept(good)
            for body in ({"app": good.body["app"]}, {"app": good.body["app"], "withdrawn": True}):
                with pytest.raises(BadRecord):
                    await here.listings.accept(listing(mallory, 99, body=body))
            assert here.listings.resolve("hello").record == good

    asyncio.run(scenario())


def test_a_withdrawn_app_is_gone_and_does_not_come_back_with_an_old_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice = seller(tmp_path)
            await here.listings.accept(listing(alice, 1))
            await here.listings.accept(listing(alice, 2, body={"withdrawn": True}))
            assert await here.listings.accept(listing(alice, 1)) == "stale"
            with pytest.raises(AppUnknown, match="hello was withdrawn by its publisher") as caught:
                here.listings.resolve("hello")
            assert caught.value.hint
            assert (await here.methods.search()).listings == []
            assert await here.listings.accept(listing(alice, 3)) == "newer"
            assert len((await here.methods.search()).listings) == 1

    asyncio.run(scenario())


def test_listings_survive_a_restart_and_are_handed_back_to_the_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        record = listing(seller(tmp_path))
        async with shop(tmp_path / "node") as here:
            assert await here.directory.deliver(record) is True
        async with shop(tmp_path / "node") as here:
            assert here.listings.resolve("hello").record == record
            assert here.directory.kept == [record]
            assert here.directory.announced == []

    asyncio.run(scenario())


def test_a_name_an_id_and_a_publisher_prefix_find_the_app(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice = seller(tmp_path)
            record = listing(alice)
            await here.listings.accept(record)
            for ref in ("hello", record.body["app"], f"hello@{alice.node_id[:4]}", f"hello@{alice.node_id}"):
                assert here.listings.resolve(ref).record == record

    asyncio.run(scenario())


def test_a_name_of_several_publishers_names_the_candidates(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice, bob = seller(tmp_path, "alice"), seller(tmp_path, "bob")
            for identity, price in ((alice, 1), (bob, 2)):
                await here.listings.accept(listing(identity, price=price))
            with pytest.raises(AppAmbiguous, match="2 publishers offer 'hello'") as caught:
                here.listings.resolve("hello")
            refs = [candidate["ref"] for candidate in caught.value.details["candidates"]]
            assert all(ref in caught.value.hint for ref in refs)
            found = [here.listings.resolve(ref).record.node for ref in refs]
            assert sorted(found) == sorted([alice.node_id, bob.node_id])
            await here.listings.accept(listing(bob, 2, body={"withdrawn": True}))
            assert here.listings.resolve("hello").record.node == alice.node_id

    asyncio.run(scenario())


def test_an_unknown_app_is_answered_with_names_that_are_near(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            alice = seller(tmp_path)
            for name in ("image-upscale", "image-crop", "word-count"):
                await here.listings.accept(listing(alice, name=name))
            with pytest.raises(AppUnknown, match="there is no app 'image-upscael'") as caught:
                here.listings.resolve("image-upscael")
            assert caught.value.code == 5500
            assert caught.value.details["near"][0] == "image-upscale"
            assert caught.value.hint.startswith("Did you mean image-upscale")
            assert "dux-ctl app search" in caught.value.hint
            for ref in ("zzzzzz", "z", "hello@ffff", "ef" * 32):
                with pytest.raises(AppUnknown) as caught:
                    here.listings.resolve(ref)
                assert "dux-ctl app search" in caught.value.hint

    asyncio.run(scenario())


def test_a_flood_from_one_publisher_stops_at_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings_module, "MAX_PER_PUBLISHER", 3)

    async def scenario() -> None:
        async with shop(tmp_path) as here:
            mallory, alice = seller(tmp_path, "mallory"), seller(tmp_path, "alice")
            for number in range(3):
                await here.directory.deliver(listing(mallory, name=f"spam-{number}"))
            with pytest.raises(StoreFull):
                await here.directory.deliver(listing(mallory, name="spam-3"))
            assert await here.listings.accept(listing(mallory, 2, name="spam-0")) == "newer"
            assert await here.listings.accept(listing(alice)) == "new"

    asyncio.run(scenario())


def test_strangers_can_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings_module, "MAX_DATABASE_BYTES", 1)

    async def scenario() -> None:
        async with shop(tmp_path) as here:
            with pytest.raises(StoreFull):
                await here.listings.accept(listing(seller(tmp_path)))
            assert await here.listings.accept(listing(here.signer.identity)) == "new"

    asyncio.run(scenario())


def test_a_seller_who_lost_its_database_outranks_its_old_listings(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            old = listing(here.signer.identity, seq=1_700_000_000)
            body = ListingBody.model_validate(old.body)
            entry = await here.listings.publish("k", {}, body)
            assert entry.record.seq > old.seq
            assert entry.record.network == NETWORK

    asyncio.run(scenario())
