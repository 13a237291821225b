"""The whole paid call on a real Core: publish, call, call again, close, and a refund, read back from the chain.

One Core for each node, as in life, connected with each other. The kinds are Debian's litecoind, the Core that
DUX_COIND names, and dux-devchain in litecoind's dialect (all other tests of whole networks run on Flopcoin's).
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flopd_kit import FLOPCOIND
from ground_kit import Ground, Stage, open_ground

from dux_devnet.network import wait_until
from dux_flopd.blocks import SeenTx, parse_block
from duxcommon.coin import settlement
from duxcommon.coin.fund import fund_script
from duxcommon.money import COIN, format_flop
from duxcommon.network import load_network
from tests.support.devnet import APPS, ENDED, TestNet, running_devnet

KINDS = ("devchain-modern", "litecoind", *(["coind"] if FLOPCOIND else []))
NODES = ("alice", "bob", "carol")
PRICE = COIN // 2
"""Of apps/hello-words."""
CALLS = 4
ESCROW = {"lock_blocks": 600, "close_margin": 20}
"""A lock height that a test can mine up to."""
DEADLINE_S = 120
"""A trial chain counts a block for each second of it, and all of them must lie before the lock height."""


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """alice sells hello-words, bob has 100 FLOP, carol arbitrates."""
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as folder:
        ground = open_ground(request.param, Path(folder))
        try:
            overrides = {"*/escrowd": ESCROW, **ground.overrides}
            with running_devnet(NODES, overrides=overrides, chain=ground.choice) as net:
                ground.attach(net)
                print(f"\non {ground.title}", flush=True)
                made = Stage(ground, net)
                ground.give(net.call("bob", "wallet.receive")["address"], 100)
                made.mining(lambda: net.balance("bob") == 100 * COIN, "bob's coins")
                net.publish("alice", APPS / "hello-words")
                yield made
        finally:
            ground.close()


def called(stage: Stage, data: bytes) -> Any:
    """One paid call of bob's, to its end."""
    task = stage.net.order("bob", "hello-words", data, deadline_s=DEADLINE_S)["id"]

    def ended() -> Any:
        found = stage.net.call("bob", "task.status", {"id": task, "wait_s": 0.5})
        return found if found["state"] in ENDED else None

    found = stage.mining(ended, f"task {task[:8]}… to end")
    assert found["state"] == "DONE", found
    return found


def read_chain(ground: Ground) -> dict[str, tuple[int, SeenTx]]:
    """Every transaction of the chain but coinbases, with its height."""
    found = {}
    for height in range(1, ground.ask("getblockcount") + 1):
        raw = bytes.fromhex(ground.ask("getblock", ground.ask("getblockhash", height), False))
        found |= {seen.txid: (height, seen) for seen in parse_block(raw).txs[1:]}
    return found


def gains(net: TestNet, chain: dict[str, tuple[int, SeenTx]], closed: Any) -> dict[str, int]:
    """What the channel's transactions moved, by the one rule of settled work, from the blocks alone."""
    network = load_network(net.layout.folder / "network.yaml")
    paid, fees, prevouts = 0, 0, []
    for deposit in closed["deposits"]:
        height, funding = chain[deposit["txid"]]
        spent = sum(chain[txid][1].pays[vout][1] for txid, vout in funding.spends)
        script, amount = funding.pays[deposit["vout"]]
        kept = sum(value for _, value in funding.pays) - amount
        paid += spent - kept
        fees += spent - kept - amount
        prevouts.append(settlement.Prevout(script, amount, height, settlement.note_in(funding.tx)))
    closing = chain[closed["close_txid"]][1]
    settled = settlement.settle(closing.tx, prevouts, [fund_script(network)], lambda _: network.parameters.tax_bps)
    assert isinstance(settled, settlement.Settlement), settled
    return {
        "alice": settled.payout,
        "fund": settled.tax,
        "bob": settled.change - paid,
        "fees": fees + settled.fee,
    }


def table(on_chain: dict[str, int], in_books: dict[str, int]) -> str:
    """For people: `make test-chain` shows it."""
    lines = [f"  {'':<8}{'on the chain':>16}{'in the books':>16}   (FLOP, of no value)"]
    for name, moved in on_chain.items():
        booked = format_flop(in_books[name]) if name in in_books else ""
        lines.append(f"  {name:<8}{format_flop(moved):>16}{booked:>16}")
    return "\n".join(lines)


def test_four_paid_calls_cost_two_transactions_and_chain_and_books_agree_to_the_koinu(stage: Stage) -> None:
    ground, net = stage.ground, stage.net
    before = {node: net.balance(node) for node in ("alice", "bob")}
    start = ground.ask("getblockcount")
    for number in range(CALLS):
        task = called(stage, b"one two two " * (number + 1))
        assert task["price"] == PRICE
    words = json.loads(net.ctl("bob", "task", "result", task["id"]).stdout)
    assert (words["words"], words["different"]) == (12, 2)

    channel = net.call("bob", "channel.list")["channels"][0]["id"]
    net.call("bob", "channel.close", {"id": channel, "key": net.key()})
    closed = stage.mining(lambda: stage.seen(channel, "CLOSED", "bob", "alice"), "the close")
    gross, tax = CALLS * PRICE, CALLS * PRICE * 5 // 100
    assert closed["gross"] == gross

    wait_until(lambda: net.balance("alice") - before["alice"] == gross - tax, 60, "alice's earnings")
    fund = wait_until(lambda: net.call("bob", "fund.status")["confirmed"], 60, "the fund's part")
    chain = read_chain(ground)
    moved = gains(net, chain, closed)
    booked = {node: net.balance(node) - before[node] for node in ("alice", "bob")} | {"fund": fund}
    print(table(moved, booked), flush=True)
    assert (moved["alice"], moved["fund"]) == (gross - tax, tax)
    assert {name: moved[name] for name in booked} == booked
    assert sum(moved.values()) == 0
    assert len([height for height, _ in chain.values() if height > start]) == 2
    net.assert_audit()


def test_a_buyer_whose_provider_is_gone_takes_its_deposit_back_after_the_lock_height(stage: Stage) -> None:
    ground, net = stage.ground, stage.net
    before = net.balance("bob")
    provider = net.layout.node_ids["alice"]
    opened = net.call("bob", "channel.open", {"provider": provider, "amount": 2 * COIN, "key": net.key()})
    stage.mining(lambda: stage.seen(opened["id"], "OPEN", "bob", "alice"), "the deposit")
    for name in net.layout.daemons("alice"):
        net.kill(name)
    lock = net.channel("bob", opened["id"])["contract"]["lock_height"]
    # By the chain's own height: what bob has told of it may be many blocks old.
    ground.mine(lock - ground.ask("getblockcount") - 20)
    # An idle channel near its end asks its provider to give the deposit back early; nobody answers here.
    assert net.channel("bob", opened["id"])["state"] in ("OPEN", "REFUND_BUILT")
    refunded = stage.mining(lambda: stage.seen(opened["id"], "REFUNDED", "bob"), "the refund")
    assert refunded["gross"] == 0
    wait_until(lambda: 0 < before - net.balance("bob") < COIN // 50, 60, "all but the fees of two transactions")
    print(f"  refunded at the lock height {refunded['contract']['lock_height']}", flush=True)
    net.assert_audit("bob")
