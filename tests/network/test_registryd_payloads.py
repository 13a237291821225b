"""Payloads: written by local programs, offered to one peer, fetched by hash, resumed, and refused."""

import base64
import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from duxcommon.api.manifest import MAX_PAYLOAD
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    BlobDamaged,
    BlobTooLarge,
    BlobUnknown,
    DiskFull,
    NotFound,
    NotOffered,
    PeerProtocol,
    PeerUnreachable,
    UnknownNode,
    UploadMismatch,
)
from tests.registryd_kit import Net, Node, module_net, net, until
from tests.support.logs import assert_clean_logs


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    """alice and bob, who know each other."""
    with module_net() as made:
        alice, bob = made.add("alice"), made.add("bob")
        until(lambda: alice.knows(bob) and bob.knows(alice), "the two nodes find each other")
        yield alice, bob


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def place(node: Node, data: bytes) -> str:
    """Put a payload into the node's blob store, as one of its daemons would."""
    return BlobStore(node.blobs).put(data)


def fetch(node: Node, source: Node, digest: str, size: int, seconds: float = 60.0) -> bytes:
    """Fetch to the end; the bytes."""
    status = node.call("peer.fetch", node=source.id, hash=digest, size=size, wait_s=20.0)
    deadline = time.monotonic() + seconds
    while not status["complete"]:
        assert time.monotonic() < deadline
        status = node.call("peer.fetch", node=source.id, hash=digest, size=size, wait_s=20.0)
    assert status["done"] == size
    return BlobStore(node.blobs).get(digest)


def bytes_from(node: Node, other: Node) -> int:
    return sum(peer["bytes_in"] for peer in node.call("peer.list")["peers"] if peer["node"] == other.id)


@pytest.mark.parametrize("size", [0, 1, 65_537, 5_000_000])
def test_a_payload_arrives_whole_and_under_its_name(pair: tuple[Node, Node], size: int) -> None:
    alice, bob = pair
    data = payload(size)
    digest = place(bob, data)
    bob.call("peer.offer", hash=digest, node=alice.id, ttl_s=60)
    assert fetch(alice, bob, digest, size) == data
    # A second fetch asks nobody.
    before = bytes_from(alice, bob)
    assert fetch(alice, bob, digest, size) == data
    assert bytes_from(alice, bob) - before < 1000


def test_the_largest_payload_arrives_and_tells_how_far_it_is(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    data = payload(MAX_PAYLOAD)
    digest = place(bob, data)
    bob.call("peer.offer", hash=digest, node=alice.id)
    seen = []
    while True:
        status = alice.call("peer.fetch", node=bob.id, hash=digest, size=len(data), wait_s=0.02)
        seen.append(status["done"])
        if status["complete"]:
            break
    assert seen == sorted(seen)
    assert len({done for done in seen if 0 < done < len(data)}) >= 3
    assert BlobStore(alice.blobs).get(digest) == data


def test_a_payload_is_handed_only_to_the_node_it_was_offered_to_and_only_in_time(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    digest = place(bob, payload(1001))
    with pytest.raises(NotOffered) as caught:
        fetch(alice, bob, digest, 1001)
    assert (caught.value.code, caught.value.details) == (5007, {"peer": bob.id})
    bob.call("peer.offer", hash=digest, node="ab" * 32)
    with pytest.raises(NotOffered):
        fetch(alice, bob, digest, 1001)
    bob.call("peer.offer", hash=digest, node=alice.id, ttl_s=1)
    time.sleep(1.2)
    with pytest.raises(NotOffered):
        fetch(alice, bob, digest, 1001)
    bob.call("peer.offer", hash=digest)
    assert len(fetch(alice, bob, digest, 1001)) == 1001


def test_what_is_not_there_can_be_neither_offered_nor_fetched(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(BlobUnknown):
        bob.call("peer.offer", hash="ab" * 32, node=alice.id)
    digest = place(bob, payload(1002))
    bob.call("peer.offer", hash=digest, node=alice.id)
    BlobStore(bob.blobs).remove(digest)
    with pytest.raises(BlobUnknown) as caught:
        fetch(alice, bob, digest, 1002)
    assert "ask for it to be sent again" in caught.value.hint
    with pytest.raises(UnknownNode):
        alice.call("peer.fetch", node="cd" * 32, hash=digest, size=1002, wait_s=5.0)
    with pytest.raises(NotFound):
        alice.call("blob.read", hash=digest)


def test_a_payload_of_another_size_than_agreed_or_too_large_is_refused(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    digest = place(bob, payload(1003))
    bob.call("peer.offer", hash=digest, node=alice.id)
    with pytest.raises(PeerProtocol, match="1003 bytes, not 1000"):
        alice.call("peer.fetch", node=bob.id, hash=digest, size=1000, wait_s=5.0)
    with pytest.raises(BlobTooLarge) as caught:
        alice.call("peer.fetch", node=bob.id, hash=digest, size=MAX_PAYLOAD + 1)
    assert "64 MiB" in caught.value.hint
    assert not BlobStore(alice.blobs).has(digest)


def test_a_download_goes_on_where_it_ended(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    data = payload(4_000_000)
    digest = place(bob, data)
    bob.call("peer.offer", hash=digest, node=alice.id)
    (alice.blobs / "partial" / digest).write_bytes(data[:3_000_000])
    before = bytes_from(alice, bob)
    assert fetch(alice, bob, digest, len(data)) == data
    assert bytes_from(alice, bob) - before < 1_100_000
    assert not (alice.blobs / "partial" / digest).exists()


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 3_000_000], ids=["wrong bytes", "too long"])
def test_a_part_that_was_damaged_on_disk_is_thrown_away(pair: tuple[Node, Node], left: bytes) -> None:
    alice, bob = pair
    data = payload(2_000_000 + len(left))[:2_000_000]
    digest = place(bob, data)
    bob.call("peer.offer", hash=digest, node=alice.id)
    (alice.blobs / "partial" / digest).write_bytes(left)
    if len(left) < len(data):
        with pytest.raises(BlobDamaged):
            fetch(alice, bob, digest, len(data))
    assert fetch(alice, bob, digest, len(data)) == data


def test_a_blob_that_was_damaged_at_the_source_never_becomes_visible(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    digest = place(bob, payload(100_001))
    bob.call("peer.offer", hash=digest, node=alice.id)
    BlobStore(bob.blobs).path(digest).write_bytes(b"y" * 100_001)
    with pytest.raises(BlobDamaged) as caught:
        fetch(alice, bob, digest, 100_001)
    assert caught.value.retry
    assert not BlobStore(alice.blobs).has(digest)


def test_an_upload_becomes_a_blob_that_can_be_read_back(pair: tuple[Node, Node]) -> None:
    alice, _ = pair
    data = payload(3_500_000)
    step = 1_000_000
    for start in range(0, len(data), step):
        piece = base64.b64encode(data[start : start + step]).decode()
        final = start + step >= len(data)
        for _ in range(2):
            # A caller that saw no reply sends the same again.
            status = alice.call("blob.write", upload="photo", offset=start, data=piece, final=final)
            assert status["received"] == min(start + step, len(data))
    digest = hashlib.sha256(data).hexdigest()
    assert status["blob"] == {"hash": digest, "size": len(data)}
    back = b""
    while len(back) < len(data):
        chunk = alice.call("blob.read", hash=digest, offset=len(back), length=1_234_567)
        assert chunk["size"] == len(data)
        back += base64.b64decode(chunk["data"])
    assert back == data


def test_a_piece_that_does_not_follow_is_refused_and_the_upload_goes_on(pair: tuple[Node, Node]) -> None:
    alice, _ = pair
    piece = base64.b64encode(b"hello").decode()
    with pytest.raises(UploadMismatch):
        alice.call("blob.write", upload="new", offset=5, data=piece)
    alice.call("blob.write", upload="new", offset=0, data=piece)
    with pytest.raises(UploadMismatch) as caught:
        alice.call("blob.write", upload="new", offset=6, data=piece)
    assert caught.value.details == {"offset": 5}
    status = alice.call("blob.write", upload="new", offset=5, data=piece, final=True)
    assert status["blob"]["hash"] == hashlib.sha256(b"hellohello").hexdigest()


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def test_a_disk_without_room_is_named_before_anything_is_written(made: Net) -> None:
    bob = made.add("bob")
    alice = made.add("alice", min_free_mb=10**9)
    until(lambda: alice.knows(bob), "alice knows bob")
    digest = place(bob, payload(1000))
    bob.call("peer.offer", hash=digest, node=alice.id)
    with pytest.raises(DiskFull) as caught:
        fetch(alice, bob, digest, 1000)
    assert caught.value.details["need"] > caught.value.details["free"]
    assert "Free some space" in caught.value.hint
    with pytest.raises(DiskFull):
        alice.call("blob.write", upload="a", offset=0, data="aGVsbG8=", final=True)
    assert not BlobStore(alice.blobs).has(digest)
    assert not list((alice.blobs / "partial").iterdir())


def test_a_source_that_dies_midway_is_reported_and_the_rest_comes_after_its_return(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
    data = payload(MAX_PAYLOAD)
    digest = place(bob, data)
    bob.call("peer.offer", hash=digest, node=alice.id)
    until(lambda: alice.call("peer.fetch", node=bob.id, hash=digest, size=len(data))["done"] > 0, "the first bytes")
    bob.daemon.kill()
    with pytest.raises(PeerUnreachable):
        fetch(alice, bob, digest, len(data))
    have = (alice.blobs / "partial" / digest).stat().st_size
    assert 0 < have < len(data)
    seen = alice.call("node.show", node=bob.id)["seq"]
    bob.start()
    until(lambda: alice.call("node.show", node=bob.id)["seq"] > seen, "bob is back")
    before = bytes_from(alice, bob)
    # The offer was kept over the restart.
    assert fetch(alice, bob, digest, len(data)) == data
    assert bytes_from(alice, bob) - before < len(data) - have + 100_000
