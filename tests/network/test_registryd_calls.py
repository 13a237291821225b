"""Calls between real nodes: what reaches a daemon, what comes back, and what happens when a node goes away."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from duxcommon.errors import (
    DaemonDown,
    InsufficientFunds,
    InvalidParams,
    MessageTooLarge,
    MethodNotForPeers,
    PeerUnreachable,
    QuotaExceeded,
    SigningRefused,
    TimedOut,
    UnknownNode,
    WrongNetwork,
)
from duxcommon.identity import Identity
from duxcommon.records import parse_record, sign_record, verify_record
from tests.registryd_kit import Net, Node, free_udp_port, module_net, net, until
from tests.support.logs import assert_clean_logs


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    """alice, and bob with a stub of taskd; for tests that leave both running."""
    with module_net() as made:
        yield made.pair()


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    """A network for tests that stop and start nodes."""
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def test_a_call_reaches_the_peers_daemon_with_the_callers_node_id(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    assert alice.peer(bob, "task.echo", value={"deep": [1, "ü", None]}) == {
        "value": {"deep": [1, "ü", None]},
        "peer": alice.id,
    }


def test_an_error_of_the_peers_daemon_comes_back_as_its_class_and_names_the_peer(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(InsufficientFunds, match="have 1, need 2 koinu") as caught:
        alice.peer(bob, "task.refuse")
    assert caught.value.details == {"have": 1, "need": 2, "peer": bob.id}


@pytest.mark.parametrize(
    "method", ["task.local", "task.nothing", "wallet.send", "rpc.discover", "peer.call", "node.sign"]
)
def test_a_method_that_is_not_declared_for_peers_is_refused(pair: tuple[Node, Node], method: str) -> None:
    alice, bob = pair
    with pytest.raises(MethodNotForPeers) as caught:
        alice.peer(bob, method)
    assert caught.value.code == 5002
    assert "declared for peers" in caught.value.hint


def test_wrong_parameters_are_named_by_the_peers_daemon(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(InvalidParams, match="unknown parameter 'nonsense'"):
        alice.peer(bob, "task.echo", nonsense=1)


def test_a_daemon_that_is_not_running_there_is_named_without_its_paths(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(DaemonDown, match="dux-escrowd of this node is not running") as caught:
        alice.peer(bob, "channel.propose")
    assert "/" not in caught.value.message + caught.value.hint
    assert caught.value.details["peer"] == bob.id


def test_a_reply_record_is_signed_on_its_way_out_and_an_empty_one_stays_empty(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    body = {"task": "00" * 16, "ok": True}
    receipt = parse_record(alice.peer(bob, "task.answer", body=body)["receipt"])
    verify_record(receipt, kind="receipt", network=alice.call("node.self")["network"], node=bob.id)
    assert receipt.body == body
    assert alice.peer(bob, "task.answer") == {"receipt": None}


def test_an_order_is_signed_on_its_way_to_the_peer(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    reply = alice.call(
        "peer.call", node=bob.id, method="task.order", params={"order": {"price": 5}, "input": None}, sign="order"
    )
    order = parse_record(reply["result"]["value"])
    verify_record(order, kind="order", network=alice.call("node.self")["network"], node=alice.id)
    assert order.body == {"price": 5}


def test_peer_call_signs_only_kinds_that_belong_to_a_daemon(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(SigningRefused):
        alice.call("peer.call", node=bob.id, method="task.echo", params={"node": {}}, sign="node")
    with pytest.raises(InvalidParams, match="must be the body"):
        alice.call("peer.call", node=bob.id, method="task.echo", params={"order": "text"}, sign="order")


def test_an_unknown_node_and_oneself_are_refused(pair: tuple[Node, Node]) -> None:
    alice, _ = pair
    with pytest.raises(UnknownNode) as caught:
        alice.call("peer.call", node="ab" * 32, method="task.echo")
    assert (caught.value.code, caught.value.name) == (5000, "UnknownNode")
    assert "node list" in caught.value.hint
    with pytest.raises(InvalidParams, match="does not call itself"):
        alice.call("peer.call", node=alice.id, method="task.echo")


def test_a_message_that_is_too_large_is_refused_on_either_side(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    with pytest.raises(MessageTooLarge):
        alice.peer(bob, "task.echo", value="x" * 600_000)
    with pytest.raises(MessageTooLarge) as caught:
        alice.peer(bob, "task.large", size=600_000)
    assert caught.value.details["peer"] == bob.id
    assert len(alice.peer(bob, "task.large", size=400_000)["value"]) == 400_000


def test_a_call_that_takes_too_long_ends_in_time_and_leaves_the_connection_good(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    begun = time.monotonic()
    with pytest.raises(TimedOut):
        alice.call("peer.call", node=bob.id, method="task.wait", params={"wait_s": 30.0}, timeout_s=0.5)
    assert time.monotonic() - begun < 20
    assert alice.peer(bob, "task.echo", value=1)["value"] == 1


def test_long_polls_do_not_hold_up_other_calls(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    polls = [threading.Thread(target=alice.peer, args=(bob, "task.wait"), kwargs={"wait_s": 4.0}) for _ in range(20)]
    for poll in polls:
        poll.start()
    assert bob.taskd is not None
    until(lambda: bob.taskd and bob.taskd.call("task.running")["running"] >= 20, "all polls have arrived")
    alice.peer(bob, "task.echo", value=1)
    assert bob.taskd.call("task.running")["running"] >= 20
    for poll in polls:
        poll.join()


def test_calls_go_both_ways_over_the_connection_that_one_side_opened(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    alice.peer(bob, "task.echo", value=1)
    with pytest.raises(DaemonDown):
        bob.peer(alice, "task.echo", value=1)
    for node, other in ((alice, bob), (bob, alice)):
        info = next(p for p in node.call("peer.list")["peers"] if p["node"] == other.id)
        assert info["connected"]
        assert info["bytes_in"] > 0
        assert info["bytes_out"] > 0
        assert 0 < info["latency_ms"] < 1000


def test_concurrent_calls_of_one_peer_are_limited_and_all_others_are_answered(made: Net) -> None:
    alice = made.add("alice")
    bob = made.add("bob", peers={"concurrent_calls": 5}).stub()
    until(lambda: alice.knows(bob), "alice knows bob")
    outcomes: list[str] = []

    def poll() -> None:
        try:
            alice.peer(bob, "task.wait", wait_s=1.5)
            outcomes.append("ok")
        except QuotaExceeded:
            outcomes.append("refused")

    polls = [threading.Thread(target=poll) for _ in range(8)]
    for one in polls:
        one.start()
    for one in polls:
        one.join()
    assert sorted(outcomes) == ["ok"] * 5 + ["refused"] * 3
    info = next(p for p in bob.call("peer.list")["peers"] if p["node"] == alice.id)
    assert info["refused"] == 3


def test_a_node_that_stops_is_unreachable_at_once_and_calls_in_flight_fail(made: Net) -> None:
    alice, bob = made.pair()
    caught: list[Exception] = []

    def poll() -> None:
        try:
            alice.peer(bob, "task.wait", wait_s=20.0)
        except PeerUnreachable as error:
            caught.append(error)

    waiting = threading.Thread(target=poll)
    waiting.start()
    assert bob.taskd is not None
    until(lambda: bob.taskd and bob.taskd.call("task.running")["running"] == 1, "the poll has arrived")
    bob.daemon.stop()
    waiting.join(60)
    assert [error.name for error in caught if isinstance(error, PeerUnreachable)] == ["PeerUnreachable"]


def test_a_node_that_was_killed_is_reported_unreachable_within_seconds(made: Net) -> None:
    alice, bob = made.pair()
    alice.peer(bob, "task.echo", value=1)
    bob.daemon.kill()
    begun = time.monotonic()
    with pytest.raises(PeerUnreachable) as caught:
        alice.peer(bob, "task.echo", value=2)
    assert time.monotonic() - begun < 30
    assert caught.value.retry
    assert "try again" in caught.value.hint
    begun = time.monotonic()
    with pytest.raises(PeerUnreachable):
        alice.peer(bob, "task.echo", value=2)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("moved", [False, True], ids=["same address", "new address"])
def test_a_call_to_a_node_that_was_killed_and_restarted_succeeds_on_a_new_connection(made: Net, moved: bool) -> None:
    alice = made.add("alice")
    bob = made.add("bob", port=0 if moved else free_udp_port()).stub()
    until(lambda: alice.knows(bob), "alice knows bob")
    alice.peer(bob, "task.echo", value=1)
    seen = alice.call("node.show", node=bob.id)["seq"]
    bob.daemon.kill()
    bob.start()
    until(lambda: alice.call("node.show", node=bob.id)["seq"] > seen, "alice heard of the restarted bob")
    assert alice.peer(bob, "task.echo", value=2)["value"] == 2


def test_nodes_of_another_network_are_refused_with_a_clear_error(made: Net, short_tmp: Path) -> None:
    alice = made.add("alice")
    (short_tmp / "other").mkdir()
    with net(short_tmp / "other") as foreign:
        mallory = foreign.add("mallory")
        # alice is told of mallory by a record that is good in alice's network.
        identity = Identity.load_or_create(mallory.folder / "node.key")
        body = mallory.call("node.show", node=mallory.id)["record"] | {"heartbeat_s": 300}
        with made.member() as member:
            member.announce(sign_record(identity, "node", made.network.id, 1, body))
        until(lambda: alice.knows(mallory), "alice has the record")
        with pytest.raises(WrongNetwork) as caught:
            alice.peer(mallory, "task.echo")
        assert "belongs to network" in caught.value.message
        assert "same network definition" in caught.value.hint
