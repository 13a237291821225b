"""The directory between real nodes: who is found, what outlives whom, and what is dropped for which reason."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dux_registryd.sealing import MAX_SEALED, Seal
from dux_store.listings import app_id
from duxcommon.api.common import SignedRecord
from duxcommon.errors import UnknownNode
from duxcommon.identity import Identity
from duxcommon.records import sign_record
from tests.registryd_kit import Net, Node, free_udp_port, module_net, net, until
from tests.support.logs import assert_clean_logs
from tests.support.network import definition

BODY: dict[str, Any] = {
    "name": "ghost",
    "addresses": ["127.0.0.1:9"],
    "hardware": {"cpu_cores": 2, "memory_mb": 1024, "storage_mb": 10, "arch": "x86_64"},
    "version": "1",
    "heartbeat_s": 300,
}


@pytest.fixture(scope="module")
def alone() -> Iterator[tuple[Net, Node]]:
    """A network of one node, to which the tests put all sorts of records."""
    with module_net() as made:
        yield made, made.add("alice")


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    """A network for tests that stop and start nodes."""
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def dropped(node: Node, reason: str) -> int:
    count: int = node.call("directory.stats")["dropped"].get(reason, 0)
    return count


def record(made: Net, identity: Identity, seq: int = 1, **body: Any) -> SignedRecord:
    return sign_record(identity, "node", made.network.id, seq, BODY | body)


def listing(made: Net, identity: Identity, seq: int, name: str = "shout") -> SignedRecord:
    """A listing as dux_store makes it."""
    manifest = {"name": name, "version": "1.0", "summary": "SHOUTS", "price": 5, "runtime": "command", "command": ["x"]}
    body = {"app": app_id(identity.node_id, name), "manifest": manifest, "bundle": "ab" * 32, "bundle_size": 10}
    return sign_record(identity, "listing", made.network.id, seq, body)


def seq_of(node: Node, identity: Identity) -> int | None:
    try:
        seq: int = node.call("node.show", node=identity.node_id)["seq"]
    except UnknownNode:
        return None
    return seq


def test_a_newer_record_replaces_an_older_one_and_never_the_other_way_round(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    ghost = Identity.generate()
    with made.member() as member:
        member.announce(record(made, ghost, 5, name="five"))
        until(lambda: seq_of(alice, ghost) == 5, "the record arrived")
        before = dropped(alice, "stale")
        member.announce(record(made, ghost, 4, name="four"))
        until(lambda: dropped(alice, "stale") == before + 1, "the older one is counted as stale")
        assert alice.call("node.show", node=ghost.node_id)["record"]["name"] == "five"
        member.announce(record(made, ghost, 6, name="six"))
        until(lambda: seq_of(alice, ghost) == 6, "the newer one is taken")


def test_a_forged_record_is_dropped_and_changes_nothing(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    ghost = Identity.generate()
    good = record(made, ghost, 1)
    changed = good.model_copy(update={"body": BODY | {"name": "mallory"}})
    stolen = record(made, Identity.generate(), 2).model_copy(update={"node": ghost.node_id})
    before = dropped(alice, "forged")
    with made.member() as member:
        member.announce(changed)
        member.announce(stolen)
        until(lambda: dropped(alice, "forged") == before + 2, "both are counted as forged")
    assert seq_of(alice, ghost) is None


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("malformed", {"hardware": None}),
        ("malformed", {"addresses": ["example.org:80"]}),
        ("malformed", {"addresses": ["10.0.0.1:1"] * 9}),
        ("malformed", {"hardware": BODY["hardware"] | {"memory_mb": 2**70}}),
        ("malformed", {"load_pct": -1}),
        ("malformed", {"unknown": 1}),
        ("malformed", {"name": "x" * 65}),
    ],
)
def test_a_record_whose_body_breaks_the_format_is_dropped(
    alone: tuple[Net, Node], reason: str, body: dict[str, Any]
) -> None:
    made, alice = alone
    ghost = Identity.generate()
    before = dropped(alice, reason)
    with made.member() as member:
        member.announce(record(made, ghost, 1, **body))
        until(lambda: dropped(alice, reason) == before + 1, f"it is counted as {reason}")
    assert seq_of(alice, ghost) is None


def test_records_of_another_network_of_another_kind_and_from_the_future_are_dropped(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    ghost = Identity.generate()
    seal = Seal(made.network.id)
    foreign = sign_record(ghost, "node", "cd" * 32, 1, BODY)
    receipt = sign_record(ghost, "receipt", made.network.id, 1, BODY)
    future = sign_record(ghost, "node", made.network.id, 1, BODY, time=int(time.time()) + 3600)
    counts = {reason: dropped(alice, reason) for reason in ("wrong-network", "malformed")}
    with made.member() as member:
        for one in (foreign, receipt, future):
            member.put("node", seal.seal(one))
        until(lambda: dropped(alice, "wrong-network") == counts["wrong-network"] + 1, "the foreign one is counted")
        until(lambda: dropped(alice, "malformed") == counts["malformed"] + 2, "the other two are counted")
    assert seq_of(alice, ghost) is None


def test_rubbish_and_oversize_values_are_counted_and_nothing_else_happens(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    foreign, oversize = dropped(alice, "foreign"), dropped(alice, "oversize")
    with made.member() as member:
        for _ in range(3):
            member.put("node", secrets.token_bytes(200))
        member.put("node", secrets.token_bytes(MAX_SEALED + 10))
        until(lambda: dropped(alice, "foreign") == foreign + 3, "the rubbish is counted")
        until(lambda: dropped(alice, "oversize") == oversize + 1, "the oversize value is counted")
        ghost = Identity.generate()
        member.announce(record(made, ghost))
        until(lambda: seq_of(alice, ghost) == 1, "good records still arrive")


def test_nodes_of_another_network_on_the_same_engine_do_not_see_each_other(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    ghost = Identity.generate()
    # The same first digits: the engine itself can't tell the two networks apart.
    other = made.network.id[:8] + "00" * 28
    with made.member(other) as member:
        member.announce(sign_record(ghost, "node", other, 1, BODY))
    assert seq_of(alice, ghost) is None


def test_a_node_that_joins_late_and_one_that_restarts_know_the_others(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob) and bob.knows(alice), "alice and bob find each other")
    carol = made.add("carol")
    until(lambda: all(carol.knows(n) and n.knows(carol) for n in (alice, bob)), "carol finds both")
    bob_id = bob.id
    for node in (alice, bob):
        node.daemon.kill()
    carol.daemon.kill()
    carol.start()
    # Nobody is left to ask: this is what it remembers.
    shown = carol.call("node.show", node=bob_id)
    assert shown["record"]["name"] == "bob"


def test_a_node_that_stops_is_gone_after_three_heartbeats_and_back_when_it_returns(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob), "alice finds bob")
    bob.daemon.stop()
    until(lambda: not alice.knows(bob), "bob counts as gone")
    shown = alice.call("node.show", node=bob.id)
    assert not shown["live"]
    assert bob.id in {n["node"] for n in alice.call("node.list", live=False)["nodes"]}
    bob.start()
    until(lambda: alice.knows(bob), "bob is back")


def test_a_listing_outlives_its_publisher_because_others_put_it_again(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob) and bob.knows(alice), "alice and bob find each other")
    seller = Identity.generate()
    app = app_id(seller.node_id, "shout")

    def has(node: Node) -> bool:
        return [found["app"] for found in node.call("app.search")["listings"]] == [app]

    with made.member() as member:
        member.announce(listing(made, seller, 1))
        until(lambda: has(alice) and has(bob), "alice and bob have the listing")
    # The publisher is gone for good, and so is every copy that the engines held.
    for node in (alice, bob):
        node.daemon.kill()
    for node in (alice, bob):
        node.start()
    carol = made.add("carol")
    until(lambda: has(carol), "carol has the listing")
    until(lambda: carol.call("directory.stats")["records"] == 2, "carol keeps it as well")


def test_a_listing_of_a_name_that_belongs_to_another_is_dropped(alone: tuple[Net, Node]) -> None:
    made, alice = alone
    seller, thief = Identity.generate(), Identity.generate()
    good = listing(made, seller, 1, "mine")
    stolen = sign_record(thief, "listing", made.network.id, 2, good.body)
    with made.member() as member:
        member.announce(good)
        until(lambda: alice.call("app.search", words="mine")["listings"], "the listing arrived")
        before = dropped(alice, "malformed")
        member.announce(stolen)
        until(lambda: dropped(alice, "malformed") == before + 1, "the stolen one is dropped")
    assert alice.call("app.show", app=good.body["app"])["publisher"] == seller.node_id


def test_nodes_find_each_other_by_a_setting_where_the_definition_names_none(short_tmp: Path) -> None:
    folder = short_tmp / "n"
    folder.mkdir()
    made = Net(folder)
    guardian = Identity.generate()
    made.network = definition(guardian).model_copy(update={"bootstrap": []}).signed_by(guardian)
    try:
        port = free_udp_port()
        alice = made.add("alice", directory_port=port)
        bob = made.add("bob", bootstrap=[f"127.0.0.1:{port}"])
        until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
        until(lambda: not any("no other node" in note for note in bob.call("daemon.status")["notes"]), "no note of it")
    finally:
        for node in made.nodes:
            node.close()
