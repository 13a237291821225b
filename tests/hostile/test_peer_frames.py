"""Peers that send what they should not: each is refused by name, and the node goes on serving everyone else."""

import asyncio
from collections.abc import Iterator
from typing import Any

import iroh
import pytest

from dux_registryd.frames import MAX_FRAME
from tests.peer_kit import Enemy, attack, deep, is_well, memory_mb, plain, raw
from tests.registryd_kit import Node, module_net

CALL = {"jsonrpc": "2.0", "id": 1, "method": "task.echo", "params": {"value": 1}}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    """alice, a friend; bob with a stub of taskd, whom the enemies attack."""
    with module_net() as made:
        yield made.pair()


def test_a_good_call_from_a_raw_peer_works_so_that_the_refusals_below_mean_something(pair: tuple[Node, Node]) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        assert "welcome" in line.answer
        assert (await line.call(1, "task.echo", value=5))["result"] == {"value": 5, "peer": enemy.id}

    attack(run)


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        raw(b"nonsense"),
        raw(b"[]"),
        raw(b"\xff\xfe"),
        deep(100),
        deep(200_000),
        plain({**CALL, "params": {"value": float("nan")}}),
        plain({**CALL, "params": [1]}),
        plain({**CALL, "id": "text"}),
        plain({**CALL, "id": -1}),
        plain({**CALL, "id": 2**60}),
        plain({**CALL, "method": 5}),
        plain({**CALL, "ttl_ms": "long"}),
        plain({"something": "else"}),
        plain({"ping": "x" * 1000}),
    ],
    ids=lambda data: data[:24].hex(),
)
def test_a_message_that_breaks_the_protocol_ends_that_connection_only(pair: tuple[Node, Node], data: bytes) -> None:
    alice, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        await line.send_raw(data)
        assert "protocol" in await line.closed()

    attack(run)
    is_well(bob, alice)


def test_the_same_number_twice_at_once_ends_the_connection(pair: tuple[Node, Node]) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        call = {"jsonrpc": "2.0", "id": 7, "method": "task.wait", "params": {"wait_s": 5.0}}
        await line.send(call, call)
        assert "fresh number" in await line.closed()

    attack(run)


def test_the_node_id_is_the_keys_and_nothing_a_peer_says_changes_it(pair: tuple[Node, Node]) -> None:
    alice, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob, node=alice.id, peer=alice.id)
        await line.send({**CALL, "peer": alice.id, "node": alice.id})
        assert (await line.read())["result"]["peer"] == enemy.id

    attack(run)


@pytest.mark.parametrize(
    ("hello", "name"),
    [({"network": "cd" * 32}, "WrongNetwork"), ({"network": None}, "WrongNetwork"), ({"version": 99}, "PeerProtocol")],
)
def test_a_greeting_of_another_network_or_version_is_refused_with_a_clear_error(
    pair: tuple[Node, Node], hello: dict[str, Any], name: str
) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob, **hello)
        error = line.answer["refused"]
        assert error["data"]["name"] == name
        assert error["data"]["hint"]

    attack(run)


@pytest.mark.parametrize(
    "first", [plain(CALL), plain({"hello": 1}), raw(b"rubbish"), (2**20).to_bytes(4, "big"), plain({"payload": {}})]
)
def test_whoever_does_not_greet_is_turned_away(pair: tuple[Node, Node], first: bytes) -> None:
    alice, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.connect(bob)
        await line.send_raw(first)
        await line.closed()

    attack(run)
    is_well(bob, alice)


def test_a_peer_that_connects_and_says_nothing_is_cut_off(pair: tuple[Node, Node]) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.connect(bob)
        await line.send_raw(b"\x00")
        assert "greeting" in await line.closed(15)

    attack(run)


def test_another_protocol_is_not_spoken(pair: tuple[Node, Node]) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        with pytest.raises(iroh.IrohError):
            await enemy.connect(bob, b"something/else")

    attack(run)


def test_an_endless_frame_never_fills_the_memory(pair: tuple[Node, Node]) -> None:
    alice, bob = pair
    before = memory_mb(bob)

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        await line.send_raw(MAX_FRAME.to_bytes(4, "big"))
        with pytest.raises(iroh.IrohError):
            for _ in range(200):
                await line.send_raw(b"[" * 65_536)

    attack(run)
    assert memory_mb(bob) - before < 60
    is_well(bob, alice)


def test_payload_streams_that_ask_for_rubbish_or_nothing_are_ended(pair: tuple[Node, Node]) -> None:
    alice, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        for request in (
            plain({"payload": {"hash": "../../etc/passwd", "offset": 0}}),
            plain({"payload": {"hash": 5, "offset": 0}}),
            plain({"payload": {"hash": "ab" * 32, "offset": -1}}),
            plain({"payload": {"hash": "ab" * 32, "offset": 2**62}}),
            plain({"payload": {"hash": "ab" * 32, "offset": 0}}),
            plain({"payload": []}),
            raw(b"nonsense"),
            b"\xff\xff\xff\xff",
        ):
            stream = await line.connection.open_bi()
            await stream.send().write_all(request)
            answer = await asyncio.wait_for(stream.recv().read_to_end(10_000), 60)
            assert b'"error"' in answer
            assert b"passwd" not in answer
        assert (await line.call(1, "task.echo", value=1))["result"]["value"] == 1

    attack(run)
    is_well(bob, alice)


def test_streams_beyond_the_quota_are_refused_and_calls_go_on(pair: tuple[Node, Node]) -> None:
    alice, bob = pair

    async def run(enemy: Enemy) -> None:
        line = await enemy.greet(bob)
        held, refused = [], 0
        for _ in range(20):
            # Begun and never finished: each takes one of the peer's places until the node gives it up.
            stream = await asyncio.wait_for(line.connection.open_bi(), 60)
            await stream.send().write_all(b"\x00")
            held.append(stream)
        for _ in range(20):
            stream = await asyncio.wait_for(line.connection.open_bi(), 60)
            await stream.send().write_all(plain({"payload": {"hash": "ab" * 32, "offset": 0}}))
            answer = await asyncio.wait_for(stream.recv().read_to_end(10_000), 60)
            refused += b"QuotaExceeded" in answer
        assert refused == 20
        assert (await line.call(1, "task.echo", value=1))["result"]["value"] == 1

    attack(run)
    is_well(bob, alice)


def test_connections_of_one_peer_are_limited_to_the_newest(pair: tuple[Node, Node]) -> None:
    _, bob = pair

    async def run(enemy: Enemy) -> None:
        lines = [await enemy.greet(bob) for _ in range(6)]
        for old in lines[:3]:
            assert "newer connection" in await old.closed()
        for line in lines[3:]:
            assert (await line.call(1, "task.echo", value=1))["result"]["value"] == 1

    attack(run)
