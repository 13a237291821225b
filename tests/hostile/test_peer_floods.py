"""Peers that ask for too much: refused by quota, then barred, while the node answers others."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import iroh
import pytest

from duxcommon.identity import Identity
from duxcommon.records import sign_record
from tests.peer_kit import Enemy, attack, enemy, is_well, memory_mb
from tests.registryd_kit import Net, net, until
from tests.support.logs import assert_clean_logs


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    with net(short_tmp) as network:
        yield network
    assert_clean_logs(short_tmp)


def test_a_flood_of_calls_is_refused_then_barred_and_others_are_answered_meanwhile(made: Net) -> None:
    bob = made.add("bob", peers={"calls_per_second": 100}).stub()
    alice = made.add("alice")
    until(lambda: alice.knows(bob), "alice knows bob")
    slowest = 0.0

    async def flood(one: Enemy) -> str:
        line = await one.greet(bob)
        with contextlib.suppress(iroh.IrohError):
            for number in range(30_000):
                await line.send({"jsonrpc": "2.0", "id": number, "method": "task.echo", "params": {}})
        return await line.closed()

    async def run(one: Enemy) -> None:
        nonlocal slowest
        flooding = asyncio.create_task(flood(one))
        while not flooding.done():
            begun = time.monotonic()
            await asyncio.to_thread(alice.peer, bob, "task.echo", value=1)
            slowest = max(slowest, time.monotonic() - begun)
        assert "flood" in await flooding
        again = await one.greet(bob)
        assert again.answer["refused"]["data"]["name"] == "QuotaExceeded"

    attack(run)
    assert slowest < 10
    is_well(bob, alice)


def test_refusals_name_the_quota_and_end_when_the_peer_slows_down(made: Net) -> None:
    bob = made.add("bob", peers={"calls_per_second": 20}).stub()

    async def run(one: Enemy) -> None:
        line = await one.greet(bob)
        replies = [await line.call(number, "task.echo") for number in range(40)]
        errors = [reply["error"]["data"] for reply in replies if "error" in reply]
        assert errors
        assert {error["name"] for error in errors} == {"QuotaExceeded"}
        assert all(error["hint"] and error["retry"] for error in errors)
        await asyncio.sleep(1)
        assert "result" in await line.call(100, "task.echo")

    attack(run)


def test_a_peer_that_never_reads_its_answers_is_cut_off_and_fills_no_memory(made: Net) -> None:
    bob = made.add("bob").stub()
    alice = made.add("alice")
    until(lambda: alice.knows(bob), "alice knows bob")
    before = memory_mb(bob)

    async def run(one: Enemy) -> None:
        line = await one.greet(bob)
        with contextlib.suppress(iroh.IrohError, TimeoutError):
            for number in range(60):
                await line.send({"jsonrpc": "2.0", "id": number, "method": "task.large", "params": {"size": 400_000}})
        assert "does not read" in await line.closed(40)

    attack(run)
    assert memory_mb(bob) - before < 100
    is_well(bob, alice)


def test_a_flood_of_pings_is_barred(made: Net) -> None:
    bob = made.add("bob", peers={"calls_per_second": 50})

    async def run(one: Enemy) -> None:
        line = await one.greet(bob)
        with contextlib.suppress(iroh.IrohError):
            for _ in range(300):
                await line.send(*({"ping": n} for n in range(50)))
        assert "flood" in await line.closed()

    attack(run)


def test_bytes_beyond_the_rate_are_read_slowly(made: Net) -> None:
    bob = made.add("bob", peers={"bytes_per_second": 200_000}).stub()

    async def run(one: Enemy) -> None:
        line = await one.greet(bob)
        begun = time.monotonic()
        for number in range(4):
            reply = await line.call(number, "task.echo", value="x" * 250_000)
            assert len(reply["result"]["value"]) == 250_000
        # A megabyte, of which 400 kB are free at first.
        assert time.monotonic() - begun > 1.5

    attack(run)


def test_many_keys_from_one_address_do_not_take_all_places(made: Net) -> None:
    bob = made.add("bob", peers={"connections_per_address": 10}).stub()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(enemy()) for _ in range(14)]
            welcome, refused = [], 0
            for one in crowd:
                try:
                    welcome.append(await asyncio.wait_for(one.greet(bob), 60))
                except (iroh.IrohError, TimeoutError):
                    refused += 1
            assert (len(welcome), refused) == (10, 4)
            assert (await welcome[0].call(1, "task.echo", value=1))["result"]["value"] == 1

    asyncio.run(main())


def test_a_full_node_gives_the_place_of_an_idle_peer_to_a_new_one(made: Net) -> None:
    bob = made.add("bob", peers={"connections_total": 4}).stub()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(enemy()) for _ in range(6)]
            lines = [await one.greet(bob) for one in crowd]
            for old in lines[:2]:
                assert "making room" in await old.closed()
            for line in lines[2:]:
                assert (await line.call(1, "task.echo", value=1))["result"]["value"] == 1

    asyncio.run(main())


def test_hundreds_of_invented_nodes_do_not_stop_the_directory(made: Net) -> None:
    alice = made.add("alice")
    body = {
        "name": "sybil",
        "addresses": ["10.0.0.1:1"],
        "hardware": {"cpu_cores": 1, "memory_mb": 1, "storage_mb": 0, "arch": "x"},
        "version": "1",
        "heartbeat_s": 300,
    }
    with made.member() as member:
        for number in range(300):
            member.announce(
                sign_record(Identity.generate(), "node", made.network.id, 1, {**body, "name": f"s{number}"})
            )
        until(lambda: len(alice.call("node.list", limit=500)["nodes"]) > 150, "many have arrived")
    bob = made.add("bob")
    until(lambda: alice.knows(bob), "an honest node still arrives")
