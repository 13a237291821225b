"""The cache of unpacked bundles: what is used stays, what was used longest ago goes first."""

import asyncio
from pathlib import Path

import pytest
from sandbox_lab import bundle_of

from dux_taskd.sandbox.bundles import BundleCache
from duxcommon import bundle
from duxcommon.blobs import BlobStore
from duxcommon.errors import BadBundle, NotFound


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def put(blobs: BlobStore, name: str) -> str:
    return blobs.put(bundle_of({"main.py": name, "pad": b"x" * 100_000}))


def present(cache: BundleCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def test_the_least_recently_used_is_deleted_first_and_a_used_one_never(tmp_path: Path, blobs: BlobStore) -> None:
    async def scenario() -> None:
        cache = BundleCache(tmp_path / "cache", blobs, 250_000)
        first, second, third = (put(blobs, name) for name in "abc")
        for digest in (first, second, first):
            async with cache.lease(digest) as name:
                assert (cache.folder / name / "main.py").is_file()
        async with cache.lease(third):
            assert present(cache) == {first, third}
        async with cache.lease(first), cache.lease(third), cache.lease(second):
            assert present(cache) == {first, second, third}
        async with cache.lease(second):
            assert len(present(cache)) == 2

    asyncio.run(scenario())


def test_many_who_want_the_same_bundle_unpack_it_once(
    tmp_path: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []
    unpack = bundle.unpack

    def counted(source: Path, target: Path) -> None:
        unpacked.append(target)
        unpack(source, target)

    monkeypatch.setattr(bundle, "unpack", counted)

    async def use(cache: BundleCache, digest: str) -> None:
        async with cache.lease(digest):
            await asyncio.sleep(0)

    async def scenario() -> None:
        cache = BundleCache(tmp_path / "cache", blobs, 1 << 20)
        await asyncio.gather(*(use(cache, put(blobs, "a")) for _ in range(8)))

    asyncio.run(scenario())
    assert len(unpacked) == 1


def test_a_start_forgets_what_a_power_cut_may_have_damaged(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "cache" / "old").mkdir(parents=True)
    assert present(BundleCache(tmp_path / "cache", blobs, 1 << 20)) == set()


def test_a_bundle_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path: Path, blobs: BlobStore) -> None:
    async def scenario() -> None:
        cache = BundleCache(tmp_path / "cache", blobs, 1 << 20)
        data = bundle_of({"main.py": "x"})
        for digest, error in ((blobs.put(b"no tar" * 500), BadBundle), ("ab" * 32, NotFound)):
            with pytest.raises(error):
                async with cache.lease(digest):
                    pass
        assert present(cache) == set()
        async with cache.lease(blobs.put(data)) as name:
            assert present(cache) == {name}

    asyncio.run(scenario())
