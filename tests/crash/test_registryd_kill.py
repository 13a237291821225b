"""kill -9 of registryd in the middle of a call or a payload: the caller is told, and the same again succeeds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from duxcommon.blobs import BlobStore
from duxcommon.errors import DaemonDown, PeerUnreachable
from tests.registryd_kit import Net, Node, free_udp_port, net, until
from tests.support.logs import assert_clean_logs


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def restart(node: Node, other: Node, point: str) -> None:
    """Start it again with this failpoint, and wait until both know each other's newest record."""
    node.arm(point)
    seen = other.call("node.show", node=node.id)["seq"]
    node.start()
    until(lambda: other.call("node.show", node=node.id)["seq"] > seen, "the other one heard of the restart")
    until(lambda: node.knows(other), "it knows the other one")


def died(node: Node) -> None:
    assert node.daemon.wait() == -9


@pytest.mark.parametrize("point", ["call-arrived", "call-served"])
def test_the_called_node_dies_and_the_call_is_repeated_after_its_return(made: Net, point: str) -> None:
    alice, bob = made.add("alice"), made.add("bob", port=free_udp_port()).stub()
    until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
    restart(bob, alice, f"registryd:{point}")
    with pytest.raises(PeerUnreachable):
        alice.peer(bob, "task.echo", value=1)
    died(bob)
    restart(bob, alice, "")
    assert alice.peer(bob, "task.echo", value=1)["value"] == 1


def test_the_calling_node_dies_with_the_answer_and_asks_again(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob").stub()
    until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
    restart(alice, bob, "registryd:call-answered")
    with pytest.raises(DaemonDown):
        alice.peer(bob, "task.echo", value=1)
    died(alice)
    restart(alice, bob, "")
    assert alice.peer(bob, "task.echo", value=1)["value"] == 1


@pytest.mark.parametrize("point", ["payload-whole", "payload-adopted"])
def test_a_payload_is_whole_or_not_there_when_the_fetching_node_dies(made: Net, point: str) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
    data = b"payload" * 100_000
    digest = BlobStore(bob.blobs).put(data)
    bob.call("peer.offer", hash=digest)
    params = {"node": bob.id, "hash": digest, "size": len(data), "wait_s": 20.0}
    restart(alice, bob, f"registryd:{point}")
    with pytest.raises(DaemonDown):
        alice.call("peer.fetch", **params)
    died(alice)
    assert BlobStore(alice.blobs).has(digest) is (point == "payload-adopted")
    restart(alice, bob, "")
    assert alice.call("peer.fetch", **params)["complete"]
    assert BlobStore(alice.blobs).get(digest) == data


def test_the_key_and_what_was_said_survive_a_kill(made: Net) -> None:
    alice = made.add("alice")
    before = alice.call("node.self")["node"]
    alice.call("node.register", name="attic", roles=["arbiter"])
    alice.daemon.kill()
    alice.start()
    shown = alice.call("node.show", node=before)
    assert (alice.call("node.self")["node"], shown["record"]["name"], shown["record"]["roles"]) == (
        before,
        "attic",
        ["arbiter"],
    )
