"""Listings between real nodes: published by one, found by all, there still when the publisher is not."""

import base64
from functools import partial
from pathlib import Path

import pytest
from registryd_kit import Net, Node, net, until
from store_kit import write_app

from duxcommon import bundle
from duxcommon.errors import AppUnknown, BundleMissing, NotPublisher


def publish(node: Node, folder: Path, key: str = "k1") -> dict[str, object]:
    """Upload and publish an app's folder by the node's own methods."""
    target = node.folder / "upload.bundle"
    packed = bundle.pack(folder, target)
    data = base64.b64encode(target.read_bytes()).decode()
    reply = node.call("blob.write", upload=f"up-{key}", offset=0, data=data, final=True)
    assert reply["blob"]["hash"] == packed.hash
    return node.call("app.publish", bundle=packed.hash, key=key)


def finds(node: Node, name: str) -> bool:
    return [listing["name"] for listing in node.call("app.search", words=name)["listings"]] == [name]


def three(made: Net) -> tuple[Node, Node, Node]:
    """A node where others join, a seller, a buyer; they know each other."""
    door, alice, bob = made.add("door"), made.add("alice"), made.add("bob")
    nodes = (door, alice, bob)
    until(lambda: all(a.knows(b) for a in nodes for b in nodes if a is not b), "the nodes find each other")
    return nodes


def test_an_app_is_found_by_all_replaced_by_its_next_version_and_gone_when_withdrawn(short_tmp: Path) -> None:
    with net(short_tmp) as made:
        door, alice, bob = three(made)
        reply = publish(alice, write_app(short_tmp / "app", name="word-count"))
        assert reply["announced"] is True
        for node in (door, bob):
            until(partial(finds, node, "word-count"), "the listing arrives")
        shown = bob.call("app.show", app="word-count")
        assert shown["publisher"] == alice.id
        assert shown["record"] == alice.call("app.show", app="word-count")["record"]
        with pytest.raises(NotPublisher):
            bob.call("app.withdraw", app="word-count")
        with pytest.raises(BundleMissing):
            bob.call("app.publish", bundle=reply["bundle"], key="mine")

        text = (short_tmp / "app/dux.yaml").read_text().replace('"0.5"', '"0.75"')
        (short_tmp / "app/dux.yaml").write_text(text)
        publish(alice, short_tmp / "app", key="k2")
        until(lambda: bob.call("app.show", app="word-count")["price"] == 75_000_000, "the new price arrives")

        alice.call("app.withdraw", app="word-count")
        until(lambda: not finds(bob, "word-count"), "the withdrawal arrives")
        with pytest.raises(AppUnknown, match="withdrawn"):
            bob.call("app.show", app="word-count")


def test_a_listing_outlives_its_publisher_and_a_restart_of_everyone_else(short_tmp: Path) -> None:
    with net(short_tmp) as made:
        door, alice, bob = three(made)
        publish(alice, write_app(short_tmp / "app", name="word-count"))
        until(lambda: finds(bob, "word-count") and finds(door, "word-count"), "the listing arrives")
        alice.daemon.kill()
        # What the directory's engine held in memory is gone with these two; their databases are not.
        for node in (door, bob):
            node.daemon.stop()
        for node in (door, bob):
            node.start()
        carol = made.add("carol")
        until(lambda: finds(carol, "word-count"), "a newcomer hears of the absent publisher's app", 90)
        assert carol.call("app.show", app="word-count")["publisher"] == alice.id
