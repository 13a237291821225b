"""The rules change while nodes buy and sell: real daemons on a real chain, and a rule book that a test writes.

`dux-airdropd` is replaced by a small server that tells that book: what is tried here is what the others make of it.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.coin import settlement
from duxcommon.coin import tx as coin_tx
from duxcommon.config import Access
from duxcommon.errors import RulesPending
from duxcommon.money import COIN
from duxcommon.network import NetworkDefinition, load_network
from duxcommon.parameters import Parameters, with_value
from duxcommon.rpc import Server, collect, method
from duxcommon.rulebook import Book, first_rules
from tests.support.devnet import APPS, TestNet, running_devnet

PRICE = COIN // 2
"""Of apps/hello-words."""
NEW_TAX = 450


class Voted:
    """What a node finds behind `airdropd.sock`."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book

    @method("param.rules", access="daemon")
    async def rules(self) -> RuleBook:
        """The rules."""
        return self.book


class Airdropds:
    """The stand-ins of all nodes, in one thread."""

    def __init__(self, sockets: list[Path], book: RuleBook) -> None:
        self.voted = Voted(book)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(sockets), self._loop).result(10)

    async def _serve(self, sockets: list[Path]) -> None:
        server = Server(collect([self.voted]), Access(), 100_000)
        self._servers = [await asyncio.start_unix_server(server.serve_connection, path=str(one)) for one in sockets]

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def start_without_airdropd(net: TestNet) -> None:
    net.start_chain()
    net.mine(20)
    net.start([name for node in net.layout.nodes for name in net.layout.daemons(node) if "airdropd" not in name])


@contextmanager
def ruled(book: RuleBook | None, net: TestNet) -> Iterator[Airdropds | None]:
    """Stand-ins that tell `book`; None: nobody answers."""
    sockets = [net.socket_path(node, "airdropd") for node in net.layout.nodes]
    stand_ins = Airdropds(sockets, book) if book is not None else None
    try:
        start_without_airdropd(net)
        yield stand_ins
    finally:
        if stand_ins is not None:
            stand_ins.close()


def tax_falls_at(network: NetworkDefinition, height: int) -> RuleBook:
    first = first_rules(network)
    changes = {
        "version": 1,
        "from_height": height,
        "proposal": "ab" * 32,
        "parameters": with_value(first.parameters, "tax_bps", NEW_TAX),
    }
    second = Rules.model_validate({**first.model_dump(), **changes})
    return RuleBook(network=network.id, rules=[first, second], known_to=10_000)


def judged(net: TestNet, book: Book, channel: dict[str, Any]) -> settlement.Settlement:
    """What the chain's one rule says of the transaction that closed a channel."""

    def transaction(txid: str) -> tuple[coin_tx.Tx, int]:
        verbose = net.chain("getrawtransaction", txid, True)
        return coin_tx.parse_tx(verbose["hex"]), int(net.chain("getblockheader", verbose["blockhash"])["height"])

    prevouts = []
    for deposit in channel["deposits"]:
        funding, height = transaction(deposit["txid"])
        output = funding.vout[deposit["vout"]]
        note = settlement.note_in(funding)
        prevouts.append(settlement.Prevout(output.script_pub_key.script, output.value, height, note))
    closing, height = transaction(channel["close_txid"])
    found = settlement.settle(closing, prevouts, book.fund_scripts_at(height), book.tax_at)
    assert isinstance(found, settlement.Settlement), found
    return found


def only_open(net: TestNet, node: str) -> dict[str, Any]:
    (channel,) = net.call(node, "channel.list", {"state": "OPEN"})["channels"]
    found: dict[str, Any] = channel
    return found


def close(net: TestNet, channel: str) -> dict[str, Any]:
    net.call("bob", "channel.close", {"id": channel, "key": net.key()})
    net.wait_channel("alice", channel, "CLOSED")
    closed: dict[str, Any] = net.wait_channel("bob", channel, "CLOSED")
    return closed


def versions(net: TestNet) -> set[int | None]:
    """Of the rules that the escrow daemons use."""
    return {net.client(node, "escrowd").call("daemon.status")["rules"] for node in net.layout.nodes}


def test_channels_keep_the_rate_of_their_opening_and_new_ones_take_the_new_and_both_are_settled_work() -> None:
    with running_devnet(start=False) as net:
        network = load_network(net.layout.folder / "network.yaml")
        change = 600
        told = tax_falls_at(network, change)
        with ruled(told, net):
            book = Book(told)
            net.fund("bob", 100)
            net.publish("alice", APPS / "hello-words")
            net.run_task("bob", "hello-words", b"one two two")
            old = only_open(net, "bob")
            assert old["contract"]["tax_bps"] == 500
            assert versions(net) == {0}
            assert net.chain("getblockcount") < change, "the machine was too slow for this test"

            net.mine(change + 1 - net.chain("getblockcount"))
            wait_until(lambda: versions(net) == {1}, 60, "all nodes to use the new rules")
            net.run_task("bob", "hello-words", b"three")
            assert only_open(net, "bob")["id"] == old["id"], "the channel goes on"
            closed = close(net, old["id"])
            verdict = judged(net, book, closed)
            assert (verdict.gross, verdict.tax_bps, verdict.tax) == (2 * PRICE, 500, 2 * PRICE * 5 // 100)
            assert closed["tax"] == verdict.tax

            net.run_task("bob", "hello-words", b"four")
            new = only_open(net, "bob")
            assert new["contract"]["tax_bps"] == only_open(net, "alice")["contract"]["tax_bps"] == NEW_TAX
            verdict = judged(net, book, close(net, new["id"]))
            assert (verdict.gross, verdict.tax_bps, verdict.tax) == (PRICE, NEW_TAX, PRICE * NEW_TAX // 10_000)
            for node in net.layout.nodes:
                assert net.call(node, "books.audit")["ok"]


def test_without_airdropd_channels_are_opened_as_far_as_the_rules_are_known_and_open_ones_go_on() -> None:
    # Nothing that could be voted comes into force before block 100 + 60 + 30 of this network.
    parameters = Parameters(vote_blocks=100, time_lock_blocks=30)
    with running_devnet(start=False, parameters=parameters) as net, ruled(None, net):
        net.fund("bob", 100)
        net.publish("alice", APPS / "hello-words")
        net.run_task("bob", "hello-words", b"one two two")
        channel = only_open(net, "bob")["id"]
        assert net.chain("getblockcount") < 190, "the machine was too slow for this test"

        net.mine(200)
        wait_until(lambda: net.call("bob", "chain.status")["height"] > 190, 30, "the blocks to be seen")
        net.run_task("bob", "hello-words", b"three")
        assert only_open(net, "bob")["id"] == channel
        provider = net.layout.node_ids["carol"]
        wish = {"provider": provider, "amount": COIN, "key": net.key()}
        with pytest.raises(RulesPending, match="only those up to 190") as refused:
            net.call("bob", "channel.open", wish)
        assert "Open channels go on" in refused.value.hint
        notes = net.client("bob", "escrowd").call("daemon.status")["notes"]
        assert any("up to block 190 only" in note for note in notes)
        done = net.ctl("bob", "channel", "open", provider, "1")
        assert done.returncode == 4
        assert b"dux-ctl status" in done.stderr
        assert close(net, channel)["gross"] == 2 * PRICE
