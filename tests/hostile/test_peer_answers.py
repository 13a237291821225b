"""Nodes that are called and answer garbage, something else, or nothing: the caller gets a clear error in time."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from dux_registryd.frames import encode
from duxcommon.errors import (
    BlobDamaged,
    DuxError,
    InsufficientFunds,
    PeerProtocol,
    PeerUnreachable,
    RemoteError,
    TimedOut,
)
from duxcommon.records import sign_record
from tests.peer_kit import Enemy, Line, attack, deep, plain, raw
from tests.registryd_kit import Net, Node, module_net, until


@pytest.fixture(scope="module")
def alone() -> Iterator[tuple[Net, Node]]:
    """alice, who calls enemies."""
    with module_net() as made:
        yield made, made.add("alice", silence_s=2.0, connect_timeout_s=2.0)


def introduce(made: Net, alice: Node, enemy: Enemy, addresses: list[str] | None = None) -> None:
    """Let alice know the enemy as a node."""
    body = {
        "name": "enemy",
        "addresses": addresses or enemy.addresses,
        "hardware": {"cpu_cores": 1, "memory_mb": 1, "storage_mb": 0, "arch": "x"},
        "version": "1",
        "heartbeat_s": 300,
    }
    with made.member() as member:
        member.announce(sign_record(enemy.identity, "node", made.network.id, 1, body))
        until(lambda: enemy.id in {n["node"] for n in alice.call("node.list")["nodes"]}, "alice knows the enemy")


def call(alice: Node, enemy: Enemy, timeout_s: float = 10.0) -> Any:
    return alice.call("peer.call", node=enemy.id, method="task.echo", params={"value": 1}, timeout_s=timeout_s)


def answered_by(
    alone: tuple[Net, Node], serve: Callable[[Line], Awaitable[None]], timeout_s: float = 10.0
) -> tuple[DuxError | Any, float]:
    """What alice's caller gets when an enemy serves its connections like that, and after how long."""
    made, alice = alone
    outcome: list[Any] = []

    async def run(enemy: Enemy) -> None:
        await asyncio.to_thread(introduce, made, alice, enemy)

        async with enemy.serving(serve):
            begun = time.monotonic()
            try:
                outcome.append(await asyncio.to_thread(call, alice, enemy, timeout_s))
            except DuxError as error:
                outcome.append(error)
            outcome.append(time.monotonic() - begun)

    attack(run)
    return outcome[0], outcome[1]


def reply_with(*data: bytes) -> Callable[[Line], Awaitable[None]]:
    async def serve(line: Line) -> None:
        request = await line.read()
        assert request["method"] == "task.echo"
        for piece in data:
            await line.send_raw(piece.replace(b'"NUMBER"', str(request["id"]).encode()))
        await line.closed()

    return serve


def test_a_good_answer_arrives_so_that_the_bad_ones_below_mean_something(alone: tuple[Net, Node]) -> None:
    result, _ = answered_by(alone, reply_with(plain({"jsonrpc": "2.0", "id": 1, "result": {"a": 1}})))
    assert result == {"result": {"a": 1}}


@pytest.mark.parametrize(
    "data",
    [raw(b"garbage"), b"\xff\xff\xff\xff", deep(1000), plain({"hello": 1}), plain({"id": 1, "result": float("nan")})],
    ids=lambda data: data[:20].hex(),
)
def test_garbage_instead_of_an_answer_is_an_unreachable_peer(alone: tuple[Net, Node], data: bytes) -> None:
    error, _ = answered_by(alone, reply_with(data))
    assert isinstance(error, PeerUnreachable)
    assert "protocol" in error.message


@pytest.mark.parametrize("result", [None, 5, [1], "text"])
def test_an_answer_that_is_no_object_is_named_as_such(alone: tuple[Net, Node], result: Any) -> None:
    error, _ = answered_by(alone, reply_with(plain({"jsonrpc": "2.0", "id": 1, "result": result})))
    assert isinstance(error, PeerProtocol)
    assert "no object" in error.message
    assert "compare the versions" in error.hint


@pytest.mark.parametrize(
    "sent",
    [
        5,
        {"code": 1, "message": "m"},
        {"code": "x", "message": {"a": 1}, "data": {"name": "NoSuchError", "hint": 7, "details": "x"}},
        {"code": 1, "message": "m" * 100_000, "data": {"name": "Internal" * 100, "details": {"a": "b" * 300_000}}},
    ],
)
def test_an_odd_error_becomes_a_remote_error_of_bounded_size(alone: tuple[Net, Node], sent: Any) -> None:
    error, _ = answered_by(alone, reply_with(plain({"jsonrpc": "2.0", "id": 1, "error": sent})))
    assert isinstance(error, RemoteError)
    assert len(str(error.to_rpc())) < 20_000
    assert "peer" in error.details


def test_an_error_of_a_peer_can_not_pass_for_one_of_this_nodes_own(alone: tuple[Net, Node]) -> None:
    lie = InsufficientFunds("your wallet is empty", details={"peer": "me", "have": 0}).to_rpc()
    error, _ = answered_by(alone, reply_with(plain({"jsonrpc": "2.0", "id": 1, "error": lie})))
    assert isinstance(error, InsufficientFunds)
    assert len(error.details["peer"]) == 64


def test_a_peer_that_answers_pings_but_not_the_call_times_out(alone: tuple[Net, Node]) -> None:
    async def serve(line: Line) -> None:
        while True:
            await line.read()

    error, seconds = answered_by(alone, serve, timeout_s=4.0)
    assert isinstance(error, TimedOut)
    assert 3.5 < seconds < 30


def test_a_peer_that_goes_silent_is_unreachable_long_before_the_timeout(alone: tuple[Net, Node]) -> None:
    async def serve(line: Line) -> None:
        await asyncio.sleep(60)

    error, seconds = answered_by(alone, serve, timeout_s=60.0)
    assert isinstance(error, PeerUnreachable)
    assert error.retry
    assert seconds < 40


def test_a_node_that_is_not_where_its_record_says_is_unreachable_quickly(alone: tuple[Net, Node]) -> None:
    made, alice = alone

    async def run(enemy: Enemy) -> None:
        # Someone else's address: the key there is not the enemy's.
        await asyncio.to_thread(introduce, made, alice, enemy, alice.call("node.self")["addresses"])
        begun = time.monotonic()
        with pytest.raises(PeerUnreachable):
            await asyncio.to_thread(call, alice, enemy)
        assert time.monotonic() - begun < 20

    attack(run)


def serve_payload(head: dict[str, Any], body: bytes, *, end: bool = True) -> Callable[[Line], Awaitable[None]]:
    async def serve(line: Line) -> None:
        while True:
            stream = await line.connection.accept_bi()
            await stream.recv().read(1000)
            await stream.send().write_all(encode(head))
            for start in range(0, len(body), 65_536):
                await stream.send().write_all(body[start : start + 65_536])
            if end:
                await stream.send().finish()

    return serve


@pytest.mark.parametrize(
    ("head", "body", "error"),
    [
        ({"size": 1000}, b"x" * 1000, BlobDamaged),
        ({"size": 1000}, b"x" * 100_000, PeerProtocol),
        ({"size": 1000}, b"x" * 10, PeerUnreachable),
        ({"size": 10**12}, b"", PeerProtocol),
        ({"size": "many"}, b"", PeerProtocol),
        ({}, b"", PeerProtocol),
        ({"error": {"code": 1}}, b"", RemoteError),
    ],
)
def test_a_payload_that_is_not_what_was_agreed_never_becomes_a_blob(
    alone: tuple[Net, Node], head: dict[str, Any], body: bytes, error: type[DuxError]
) -> None:
    made, alice = alone
    digest = hashlib.sha256(repr((head, len(body))).encode()).hexdigest()

    async def run(enemy: Enemy) -> None:
        await asyncio.to_thread(introduce, made, alice, enemy)

        async with enemy.serving(serve_payload(head, body)):
            with pytest.raises(error):
                await asyncio.to_thread(alice.call, "peer.fetch", node=enemy.id, hash=digest, size=1000, wait_s=25.0)

    attack(run)
    assert not (alice.blobs / digest[:2] / digest).exists()


def test_a_source_that_stops_sending_is_given_up(alone: tuple[Net, Node]) -> None:
    made, alice = alone

    async def run(enemy: Enemy) -> None:
        await asyncio.to_thread(introduce, made, alice, enemy)

        async def serve(line: Line) -> None:
            await asyncio.gather(serve_payload({"size": 1000}, b"x" * 10, end=False)(line), line.read(60))

        async with enemy.serving(serve):
            begun = time.monotonic()
            with pytest.raises(PeerUnreachable, match="stopped sending"):
                await asyncio.to_thread(alice.call, "peer.fetch", node=enemy.id, hash="cd" * 32, size=1000, wait_s=25.0)
            assert time.monotonic() - begun < 25

    attack(run)
