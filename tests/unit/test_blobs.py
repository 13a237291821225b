"""Blobs: named by their hash, whole or not there at all."""

import hashlib
import os
from pathlib import Path

import pytest

from duxcommon.blobs import BlobStore
from duxcommon.errors import BlobDamaged, NotFound

DATA = b"some bytes " * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.directory.rglob("*") if path.is_file())


def test_bytes_are_found_again_by_their_hash(store: BlobStore) -> None:
    assert store.put(DATA) == DIGEST
    assert store.put(DATA) == DIGEST
    assert store.has(DIGEST)
    assert store.size(DIGEST) == len(DATA)
    assert store.get(DIGEST) == DATA
    assert store.read(DIGEST, 5, 5) == DATA[5:10]
    assert store.read(DIGEST, len(DATA) + 5, 5) == b""
    assert files(store) == [DIGEST]
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o640


def test_what_nobody_used_for_long_is_deleted_and_nothing_else(store: BlobStore) -> None:
    unused, read, written, kept = (store.put(name * 100) for name in (b"unused", b"read", b"written", b"kept"))
    for digest in (unused, read, written, kept):
        os.utime(store.path(digest), (1000, 1000))
    os.utime(store.path(read), (3000, 1000))
    store.put(b"written" * 100)
    assert store.forget_unused(2000, {kept}) == 1
    assert files(store) == sorted([read, written, kept])


def test_a_file_is_stored_as_a_copy(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    digest = store.put_file(source)
    source.write_bytes(b"changed")
    assert store.get(digest) == b"x" * 3_000_000


def test_nothing_is_visible_before_the_last_byte_and_the_check(store: BlobStore) -> None:
    with store.writer() as writer:
        for start in range(0, len(DATA), 1000):
            writer.write(DATA[start : start + 1000])
            assert not store.has(DIGEST)
        assert writer.size == len(DATA)
        assert writer.commit(DIGEST) == DIGEST
    assert store.get(DIGEST) == DATA


def test_bytes_that_are_not_what_was_announced_are_refused_and_leave_nothing(store: BlobStore) -> None:
    with store.writer() as writer:
        writer.write(DATA + b"!")
        with pytest.raises(BlobDamaged) as caught:
            writer.commit(DIGEST)
    assert caught.value.hint
    assert files(store) == []


def test_an_upload_that_is_given_up_leaves_nothing(store: BlobStore) -> None:
    with store.writer() as writer:
        writer.write(DATA)
        assert len(files(store)) == 1
    assert files(store) == []


def test_what_a_crash_left_half_written_is_removed_at_the_next_start(store: BlobStore) -> None:
    store.put(DATA)
    writer = store.writer()
    writer.write(b"half")
    BlobStore(store.directory).clear_unfinished()
    assert files(store) == [DIGEST]


def test_a_blob_that_was_damaged_on_disk_is_noticed_and_removed(store: BlobStore) -> None:
    store.put(DATA)
    store.path(DIGEST).write_bytes(DATA[:-1])
    with pytest.raises(BlobDamaged, match="damaged on disk"):
        store.get(DIGEST)
    assert not store.has(DIGEST)
    # It can be stored anew.
    store.put(DATA)
    assert store.get(DIGEST) == DATA


def test_a_blob_that_is_not_here_is_not_found(store: BlobStore) -> None:
    for ask in (store.get, store.read, store.size):
        with pytest.raises(NotFound) as caught:
            ask(DIGEST)
        assert caught.value.hint
    assert not store.has(DIGEST)
    store.remove(DIGEST)


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "a" * 63, "A" * 64, "g" * 64, "/" + "a" * 63, "a" * 65])
def test_a_name_that_is_no_hash_reaches_no_file(store: BlobStore, name: str) -> None:
    with pytest.raises(NotFound, match="is not a hash"):
        store.get(name)
    with pytest.raises(NotFound):
        store.remove(name)
