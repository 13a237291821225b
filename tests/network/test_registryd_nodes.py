"""What nodes say of themselves, and the filters over what is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duxcommon.errors import AlreadyRunning, InvalidParams, SigningRefused
from duxcommon.identity import Identity
from duxcommon.records import parse_record, sign_record, verify_record
from tests.registryd_kit import Net, Node, free_udp_port, module_net, net, until
from tests.support.logs import assert_clean_logs
from tests.support.schema import CheckedBlockingClient

APP = "ab" * 32


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[Net, Node, dict[str, str]]]:
    """alice, who knows six more nodes; their ids by name."""
    with module_net() as made:
        alice = made.add("alice")
        ids = {}
        with made.member() as member:
            for number in range(6):
                identity = Identity.generate()
                ids[f"n{number}"] = identity.node_id
                body = {
                    "name": f"n{number}",
                    "addresses": [f"10.0.0.{number}:1000"],
                    "roles": ["provider"] if number % 2 else ["buyer", "arbiter"],
                    "hardware": {
                        "cpu_cores": 1 + number,
                        "memory_mb": 1024 * (number + 1),
                        "storage_mb": 100 * number,
                        "arch": "aarch64" if number == 5 else "x86_64",
                        "gpu": "some card" if number == 4 else "",
                    },
                    "apps": [APP] if number in (1, 2) else [],
                    "load_pct": 10 * number,
                    "accepting": number < 3,
                    "version": "1",
                    "heartbeat_s": 300,
                }
                member.announce(sign_record(identity, "node", made.network.id, 1, body))
        until(lambda: len(alice.call("node.list")["nodes"]) == 7, "all are known")
        yield made, alice, ids


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({"role": "provider"}, {"n1", "n3", "n5"}),
        ({"role": "arbiter"}, {"n0", "n2", "n4"}),
        ({"app": APP}, {"n1", "n2"}),
        ({"app": APP, "accepting": True, "min_cpu": 3}, {"n2"}),
        ({"app": "cd" * 32}, set()),
        ({"min_memory_mb": 5000, "name": "n4"}, {"n4"}),
        ({"min_storage_mb": 500, "arch": "aarch64"}, {"n5"}),
        ({"gpu": True}, {"n4"}),
        ({"max_load_pct": 10, "role": "buyer", "accepting": True}, {"n0"}),
        ({"live": False}, set()),
    ],
)
def test_node_list_returns_exactly_the_nodes_that_meet_all_conditions(
    crowd: tuple[Net, Node, dict[str, str]], conditions: dict[str, Any], names: set[str]
) -> None:
    _, alice, ids = crowd
    found = {node["node"] for node in alice.call("node.list", **conditions)["nodes"]} - {alice.id}
    assert found == {ids[name] for name in names}


def test_pages_hold_every_node_once(crowd: tuple[Net, Node, dict[str, str]]) -> None:
    _, alice, ids = crowd
    found: list[str] = []
    after = None
    while True:
        page = alice.call("node.list", limit=3, **({"after": after} if after else {}))
        assert len(page["nodes"]) <= 3
        found += [node["node"] for node in page["nodes"]]
        after = page["next"]
        if after is None:
            break
    assert found == sorted([*ids.values(), alice.id])


def test_providers_of_an_app_count_only_when_they_accept_work(crowd: tuple[Net, Node, dict[str, str]]) -> None:
    _, alice, ids = crowd
    serving = alice.call("node.list", app=APP, accepting=True)["nodes"]
    assert {node["node"] for node in serving} == {ids["n1"], ids["n2"]}


def test_wrong_conditions_are_refused(crowd: tuple[Net, Node, dict[str, str]]) -> None:
    _, alice, _ = crowd
    for bad in ({"limit": 0}, {"limit": 10_000}, {"role": "king"}, {"min_cpu": -1}, {"after": "x"}, {"colour": "red"}):
        with pytest.raises(InvalidParams):
            alice.call("node.list", **bad)


def test_registry_replies_and_errors_follow_their_declarations(crowd: tuple[Net, Node, dict[str, str]]) -> None:
    _, alice, ids = crowd
    client = CheckedBlockingClient(alice.daemon.socket)
    for method, params in (
        ("node.self", {}),
        ("node.list", {"live": None}),
        ("node.show", {"node": ids["n0"]}),
        ("peer.list", {}),
        ("directory.stats", {}),
        ("node.sign", {"kind": "order", "body": {"a": 1}, "seq": 7}),
        ("daemon.status", {}),
    ):
        client.call(method, params)
    with pytest.raises(SigningRefused):
        client.call("node.sign", {"kind": "listing", "body": {}})
    client.close()


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def test_what_owner_and_taskd_set_reaches_others_at_once_and_survives_a_restart(made: Net) -> None:
    alice, bob = made.add("alice", heartbeat_s=60), made.add("bob", heartbeat_s=60)
    until(lambda: bob.knows(alice), "bob knows alice")
    alice.call("node.register", name="attic", roles=["provider", "arbiter"])
    alice.call("node.update", apps=[APP], load_pct=50, accepting=True)

    def seen() -> dict[str, Any]:
        record: dict[str, Any] = bob.call("node.show", node=alice.id)["record"]
        return {name: record[name] for name in ("name", "roles", "apps", "load_pct", "accepting")}

    wanted = {"name": "attic", "roles": ["provider", "arbiter"], "apps": [APP], "load_pct": 50, "accepting": True}
    # Far sooner than the next heartbeat.
    until(lambda: seen() == wanted, "bob hears of it")
    before = bob.call("node.show", node=alice.id)["seq"]
    alice.daemon.kill()
    alice.start()
    until(lambda: bob.call("node.show", node=alice.id)["seq"] > before, "alice is back")
    assert seen() == wanted


def test_the_configured_name_counts_until_another_one_is_given_at_run_time(made: Net) -> None:
    alice = made.add("attic")
    alice.call("node.update", apps=[APP], load_pct=50, accepting=True)
    alice.daemon.kill()
    alice.daemon.configure({**alice.settings, "name": "cellar", "roles": ["provider"]})
    alice.start()
    record = alice.call("node.show", node=alice.id)["record"]
    assert (record["name"], record["roles"], record["apps"]) == ("cellar", ["provider"], [APP])
    alice.call("node.register", name="loft")
    alice.daemon.kill()
    alice.start()
    record = alice.call("node.show", node=alice.id)["record"]
    assert (record["name"], record["roles"]) == ("loft", ["provider"])


def test_a_signed_record_verifies_and_its_number_grows(made: Net) -> None:
    alice = made.add("alice")
    first = parse_record(alice.call("node.sign", kind="receipt", body={"task": "00" * 16}))
    second = parse_record(alice.call("node.sign", kind="receipt", body={"task": "00" * 16}))
    verify_record(first, kind="receipt", network=made.network.id, node=alice.id)
    assert second.seq > first.seq


def test_a_second_daemon_on_the_same_database_or_a_taken_port_is_refused_by_name(made: Net, short_tmp: Path) -> None:
    port = free_udp_port()
    alice = made.add("alice", port=port)
    bob = Node(short_tmp / "bob", made.network, {"port": port})
    made.nodes.append(bob)
    bob.daemon.start(wait=False)
    assert bob.daemon.wait() == 1
    assert "EndpointDown" in bob.daemon.output()
    assert f"127.0.0.1:{port}" in bob.daemon.output()
    carol = Node(short_tmp / "carol", made.network, {"directory_port": made.port})
    made.nodes.append(carol)
    carol.daemon.start(wait=False)
    assert carol.daemon.wait() == 1
    assert "EndpointDown" in carol.daemon.output()
    dave = Node(short_tmp / "dave", made.network, {"state_dir": str(alice.folder)})
    made.nodes.append(dave)
    dave.daemon.start(wait=False)
    assert dave.daemon.wait() == 1
    assert AlreadyRunning.__name__ in dave.daemon.output()
    assert alice.call("node.self")["node"] == alice.id
