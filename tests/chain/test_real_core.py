"""The whole paid call on a real Core: publish, call, call again, close, and a refund, read back from the chain.

One Core for each node, as in life, connected with each other. The kinds are Debian's litecoind, the Core that
DUX_COIND names, and dux-devchain in litecoind's dialect (all other tests of whole networks run on Flopcoin's).
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from devchain_kit import LITECOIND
from flopd_kit import FLOPCOIND, RealCore, until

from dux_devnet.layout import ChainChoice
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
FIRST_TIME = 1_700_000_000


class Ground:
    """A chain whose blocks the test makes."""

    choice: ChainChoice
    overrides: dict[str, dict[str, Any]]
    title: str
    """The daemon and its version."""

    def attach(self, net: TestNet) -> None:
        """The network on this chain is there now."""

    def ask(self, method: str, *params: Any) -> Any:
        """A call to the node that makes the blocks."""
        raise AssertionError

    def mine(self, blocks: int) -> None:
        """Blocks, which every node's Core has when it returns."""
        raise AssertionError

    def give(self, address: str, flop: int) -> None:
        """Coins for an address; they are not mined yet."""
        raise AssertionError

    def close(self) -> None:
        """Stop what was started."""


class DevGround(Ground):
    """dux-devchain, which the devnet starts by itself."""

    def __init__(self) -> None:
        self.choice = ChainChoice(dialect="modern", auto_mine_s=0)
        self.overrides = {}

    def attach(self, net: TestNet) -> None:
        self.net = net
        self.title = f"dux-devchain, version {self.ask('getnetworkinfo')['subversion']}"

    def ask(self, method: str, *params: Any) -> Any:
        return self.net.chain(method, *params)

    def mine(self, blocks: int) -> None:
        self.net.mine(blocks)

    def give(self, address: str, flop: int) -> None:
        self.net.chain("faucet", address, str(flop))


class CoreGround(Ground):
    """A Core for each node; carol's makes the blocks."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.binary = binary
        self.cores: dict[str, RealCore] = {}
        try:
            self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        self.miner = self.cores["carol"] = RealCore(folder / "carol", self.binary)
        for node in ("alice", "bob"):
            self.cores[node] = RealCore(folder / node, self.binary, connect=self.miner.p2p_port)
        self.many = self.miner.dialect == "modern"
        self.purse = "purse" if self.many else None
        self.time = FIRST_TIME
        if self.many:
            self.miner.make_wallet("purse")
        for node in ("alice", "bob"):
            core = self.cores[node]
            until(lambda core=core: core.call("getconnectioncount") > 0, f"connection of {node}'s Core")  # type: ignore[misc]
        params = self.miner.params
        self.choice = ChainChoice(name=params.name, dialect=self.miner.dialect, url="real", birth_height=0)
        self.overrides = {
            f"{node}/flopd": {
                "core": {
                    "url": f"http://127.0.0.1:{core.port}/" + (f"wallet/{node}" if self.many else ""),
                    "cookie": str(core.cookie),
                }
            }
            for node, core in self.cores.items()
        }
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        self.title = f"{said.splitlines()[0]} ({self.binary}), {self.ask('getnetworkinfo')['subversion']}"
        self.mine(params.early_maturity + 10)

    def ask(self, method: str, *params: Any) -> Any:
        return self.miner.call(method, *params)

    def mine(self, blocks: int) -> None:
        for node in ("alice", "bob"):
            self._hand_over(self.cores[node], self.miner)
        target = self.miner.call("getnewaddress", "", *(["legacy"] if self.many else []), wallet=self.purse)
        if self.miner.litecoin:
            self.miner.call("generatetoaddress", blocks, target, wallet=self.purse)
        else:
            for _ in range(blocks):
                # Without this, a Dogecoin descendant's first blocks take minutes.
                self.time += 3
                for core in self.cores.values():
                    core.call("setmocktime", self.time)
                self.miner.call("generatetoaddress", 1, target)
        tip = self.ask("getbestblockhash")
        for node, core in self.cores.items():
            until(lambda core=core: core.call("getbestblockhash") == tip, f"the newest block at {node}'s Core", 60)  # type: ignore[misc]

    def give(self, address: str, flop: int) -> None:
        self.miner.call("sendtoaddress", address, str(flop), wallet=self.purse)

    @staticmethod
    def _hand_over(giver: RealCore, taker: RealCore) -> None:
        """What waits at one node, parents first: by themselves the nodes take seconds."""
        waiting, known = giver.call("getrawmempool", True), set(taker.call("getrawmempool"))
        for txid in sorted(set(waiting) - known, key=lambda txid: waiting[txid]["ancestorcount"]):
            taker.call("sendrawtransaction", giver.call("getrawtransaction", txid))

    def close(self) -> None:
        for core in self.cores.values():
            core.process.terminate()
        for core in self.cores.values():
            core.process.wait(60)


def open_ground(kind: str, folder: Path) -> Ground:
    """A fresh chain; skips the test where its daemon is missing."""
    if kind.startswith("devchain"):
        return DevGround()
    binary = LITECOIND if kind == "litecoind" else Path(FLOPCOIND)
    if kind == "litecoind" and not binary.exists():
        pytest.skip("not run: litecoind is not installed (apt install litecoind)")
    assert os.access(binary, os.X_OK), f"DUX_COIND={FLOPCOIND} is no program"
    return CoreGround(folder, binary)


@dataclass
class Stage:
    """A network on its chain."""

    ground: Ground
    net: TestNet

    def mining(self, question: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
        """A block about twice a second until the answer is true."""

        def look() -> Any:
            self.ground.mine(1)
            return question()

        return wait_until(look, seconds, what, pause=0.4)

    def called(self, data: bytes) -> Any:
        """One paid call of bob's, to its end."""
        task = self.net.order("bob", "hello-words", data, deadline_s=DEADLINE_S)["id"]

        def ended() -> Any:
            found = self.net.call("bob", "task.status", {"id": task, "wait_s": 0.5})
            return found if found["state"] in ENDED else None

        found = self.mining(ended, f"task {task[:8]}… to end")
        assert found["state"] == "DONE", found
        return found

    def seen(self, channel: str, state: str, *nodes: str) -> Any:
        """The channel when all these nodes see it in `state`."""
        views = [self.net.channel(node, channel) for node in nodes]
        return views[0] if all(view["state"] == state for view in views) else None


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
        task = stage.called(b"one two two " * (number + 1))
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
    assert net.channel("bob", opened["id"])["state"] == "OPEN"
    refunded = stage.mining(lambda: stage.seen(opened["id"], "REFUNDED", "bob"), "the refund")
    assert refunded["gross"] == 0
    wait_until(lambda: 0 < before - net.balance("bob") < COIN // 50, 60, "all but the fees of two transactions")
    print(f"  refunded at the lock height {refunded['contract']['lock_height']}", flush=True)
    net.assert_audit("bob")
