"""The `app.*` methods: publishing, withdrawing, looking up, and what is refused."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from store_kit import NETWORK, Shop, listing, seller, shop, write_app

from dux_store import listings as listings_module
from duxcommon.api.registryd import PublishReply
from duxcommon.errors import (
    AppUnknown,
    BadBundle,
    BundleMissing,
    Conflict,
    DuxError,
    InvalidParams,
    NotPublisher,
    ScanRefused,
    StoreFull,
)
from duxcommon.records import verify_record
from duxcommon.rpc import collect


async def call(here: Shop, method: str, **params: Any) -> Any:
    """As the RPC server calls: parameters checked against the declaration, and the reply against its model."""
    bound = collect([here.methods])[method]
    try:
        reply = await bound.call(**bound.spec.parse(params))
    except DuxError as error:
        if not error.hint or not isinstance(error, (*bound.spec.errors, InvalidParams)):
            pytest.fail(f"{method} does not declare {error.name}, or it has no hint")
        raise
    assert isinstance(reply, bound.spec.reply)
    assert bound.spec.reply.model_validate_json(reply.model_dump_json()) == reply
    return reply


async def publish(here: Shop, folder: Path, key: str = "k1") -> PublishReply:
    reply = await call(here, "app.publish", bundle=here.upload(folder), key=key)
    assert isinstance(reply, PublishReply)
    return reply


def test_a_published_app_is_signed_announced_found_and_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            reply = await publish(here, write_app(tmp_path / "app"))
            assert reply.announced
            assert reply.findings == []
            (record,) = here.directory.announced
            verify_record(record, kind="listing", network=NETWORK, node=here.signer.node_id)
            shown = await call(here, "app.show", app="hello")
            assert shown.record == record
            assert (shown.price, shown.publisher, shown.app) == (50_000_000, here.signer.node_id, reply.app)
            page = await call(here, "app.search", words="hello", tags=["text"], max_price=50_000_000)
            assert page.listings == [shown]
            assert (page.network, page.worthless) == ("testnet", True)

    asyncio.run(scenario())


def test_the_same_key_publishes_once_and_with_another_bundle_conflicts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            first = await publish(here, write_app(tmp_path / "app"))
            assert await publish(here, tmp_path / "app") == first
            changed = write_app(tmp_path / "app", main_dot_py="print(1)")
            with pytest.raises(Conflict):
                await publish(here, changed)
            second = await publish(here, changed, key="k2")
            assert second.seq > first.seq
            assert second.app == first.app
            assert (await call(here, "app.show", app="hello")).record.body["bundle"] == second.bundle

    asyncio.run(scenario())


def test_an_app_with_errors_is_not_published_and_the_findings_are_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            folder = write_app(tmp_path / "app", key_dot_txt="-----BEGIN PRIVATE KEY-----")
            with pytest.raises(ScanRefused, match=r"hello is not published: key\.txt holds a private key") as caught:
                await publish(here, folder)
            assert caught.value.details["findings"][0]["rule"] == "secret"
            assert here.directory.announced == []
            report = await call(here, "app.scan", bundle=here.upload(folder))
            assert [finding.rule for finding in report.findings] == ["secret"]
            with pytest.raises(AppUnknown):
                await call(here, "app.show", app="hello")

    asyncio.run(scenario())


def test_a_bundle_that_was_not_uploaded_and_a_blob_that_is_none_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            for method in ("app.scan", "app.publish"):
                more = {"key": "k"} if method == "app.publish" else {}
                with pytest.raises(BundleMissing, match="no bundle abababababababab"):
                    await call(here, method, bundle="ab" * 32, **more)
                with pytest.raises(BadBundle):
                    await call(here, method, bundle=here.blobs.put(b"garbage" * 1000), **more)

    asyncio.run(scenario())


def test_an_unreachable_directory_does_not_stop_publishing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path / "node") as here:
            here.directory.reachable = False
            reply = await publish(here, write_app(tmp_path / "app"))
            assert not reply.announced
        async with shop(tmp_path / "node") as here:
            assert [record.seq for record in here.directory.announced] == [reply.seq]

    asyncio.run(scenario())


def test_a_withdrawn_app_is_announced_as_gone_and_only_by_its_publisher(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            first = await publish(here, write_app(tmp_path / "app"))
            reply = await call(here, "app.withdraw", app="hello")
            assert reply.seq > first.seq
            assert here.directory.announced[-1].body["withdrawn"] is True
            with pytest.raises(AppUnknown, match="withdrawn"):
                await call(here, "app.withdraw", app="hello")
            again = await publish(here, tmp_path / "app", key="k2")
            assert again.seq > reply.seq
            assert (await call(here, "app.show", app="hello")).seq == again.seq
            await here.listings.accept(listing(seller(tmp_path), name="other"))
            with pytest.raises(NotPublisher):
                await call(here, "app.withdraw", app="other")

    asyncio.run(scenario())


def test_a_seller_with_too_many_apps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings_module, "MAX_PER_PUBLISHER", 1)

    async def scenario() -> None:
        async with shop(tmp_path) as here:
            await publish(here, write_app(tmp_path / "app"))
            with pytest.raises(StoreFull, match="1 listings"):
                await publish(here, write_app(tmp_path / "two", name="second"), key="k2")
            assert len(here.directory.announced) == 1

    asyncio.run(scenario())


def test_providers_are_sorted_by_readiness(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            app = (await publish(here, write_app(tmp_path / "app"))).app
            here.nodes.add("5" * 64, [app], live=False)
            here.nodes.add("4" * 64, [app], accepting=False)
            here.nodes.add("3" * 64, [app], load_pct=90)
            here.nodes.add("2" * 64, [app], latency_ms=None)
            here.nodes.add("1" * 64, [app], latency_ms=2.5)
            here.nodes.add("9" * 64, [])
            reply = await call(here, "app.providers", app="hello")
            assert [provider.node[0] for provider in reply.providers] == ["1", "2", "3", "4", "5"]
            assert {provider.price for provider in reply.providers} == {50_000_000}
            assert reply.listing.live_providers == 3
            assert (await call(here, "app.show", app=app)).live_providers == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("app.show", {"app": "No Such App"}),
        ("app.show", {"app": "x" * 65}),
        ("app.show", {"app": "../etc"}),
        ("app.search", {"limit": 0}),
        ("app.search", {"limit": 10_000}),
        ("app.search", {"words": "x" * 201}),
        ("app.search", {"tags": ["Not A Tag"]}),
        ("app.search", {"max_price": -1}),
        ("app.search", {"max_price": 0.5}),
        ("app.search", {"unknown": 1}),
        ("app.publish", {"bundle": "ab" * 32}),
        ("app.publish", {"bundle": "../../etc/passwd", "key": "k"}),
        ("app.scan", {"bundle": 7}),
    ],
)
def test_malformed_parameters_are_refused(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            with pytest.raises(InvalidParams):
                await call(here, method, **params)

    asyncio.run(scenario())


def test_every_method_has_help_an_example_that_is_valid_and_no_way_in_for_remote_nodes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path) as here:
            bound = collect([here.methods])
            assert set(bound) == {
                f"app.{verb}" for verb in ("scan", "publish", "withdraw", "search", "show", "providers")
            }
            for item in bound.values():
                assert item.spec.summary.endswith(".")
                assert not item.spec.peers
                item.spec.parse(item.spec.example)

    asyncio.run(scenario())


def test_a_version_published_while_the_node_starts_is_not_overlaid_by_the_old_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with shop(tmp_path / "node") as here:
            await publish(here, write_app(tmp_path / "app"))
            await publish(here, write_app(tmp_path / "two", name="second"), key="k2")
            stale = here.listings.own()
            newer = await publish(here, write_app(tmp_path / "app", main_dot_py="print(2)"), key="k3")
            here.directory.announced.clear()
            for record in stale:
                await here.publisher._put(record)
            seqs = {record.body["app"]: record.seq for record in here.directory.announced}
            assert seqs[newer.app] == newer.seq

    asyncio.run(scenario())
