"""Paid calls fill the fund; at 100 FLOP it pays itself out, and again, and again, while a test only makes blocks.

Told on a devnet of nine nodes (five guardians, three of whom sign); and on a real Core for each of three nodes (two of
three guardians): Debian's litecoind, and the one that DUX_COIND names. What was paid is read from raw blocks alone.
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flopd_kit import FLOPCOIND
from ground_kit import Stage, open_ground

from dux_airdropd.plan import DEPTH, STEP
from dux_devnet.network import wait_until
from duxcommon.coin.fund import fund_script
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, script_of
from duxcommon.money import COIN, DUST, format_flop
from duxcommon.network import load_network
from tests.community_kit import RULES, THRESHOLD, WINDOW, Paid, Reader, assert_equal_shares
from tests.support.devnet import ROOT, running_devnet

PRICE = 300
"""FLOP of one call: few of them fill the fund."""
WAIT_S = 90.0


@dataclass(frozen=True)
class Cast:
    """Who does what on a kind of chain."""

    nodes: int
    sales: tuple[tuple[str, str], ...]
    """Buyer and seller."""
    bonded: tuple[str, ...]
    """The sellers with a bond; others work as much and have no share."""
    calls: int
    """Of each buyer, in each round."""

    @property
    def sellers(self) -> list[str]:
        """Their nodes."""
        return [seller for _, seller in self.sales]


DEVNET = Cast(
    nodes=9,
    sales=tuple(("heidi", seller) for seller in ("alice", "bob", "carol", "frank")),
    bonded=("alice", "bob", "carol"),
    calls=2,
)
CORES = Cast(nodes=3, sales=(("alice", "bob"), ("bob", "alice")), bonded=("alice", "bob"), calls=4)
KINDS = {"devchain-flopcoin": DEVNET, "litecoind": CORES, **({"coind": CORES} if FLOPCOIND else {})}


class Market:
    """A network that buys and sells, and the chain that it does it on."""

    def __init__(self, stage: Stage, cast: Cast) -> None:
        self.cast = cast
        self.stage, self.net, self.ground = stage, stage.net, stage.ground
        self.network = load_network(self.net.layout.folder / "network.yaml")
        self.params = CHAINS[self.network.chain]
        self.reader = Reader(self.ground.ask, fund_script(self.network))
        self.planned: dict[int, Any] = {}
        """What the nodes said of each round before it was paid."""

    def height(self) -> int:
        return int(self.ground.ask("getblockcount"))

    def mine_to(self, height: int) -> None:
        if (missing := height - self.height()) > 0:
            self.ground.mine(missing)

    def caught_up(self) -> None:
        tip = self.height()

        def there(node: str) -> bool:
            return bool(self.net.call(node, "airdrop.history", {"limit": 1})["height"] >= tip)

        for node in self.net.layout.nodes:
            wait_until(lambda node=node: there(node), WAIT_S, f"{node} to read block {tip}")

    def shop(self) -> None:
        """One round of paid calls: channels opened, used and settled on the chain."""
        cast, net = self.cast, self.net
        deposit = (cast.calls * PRICE + 1) * COIN
        channels = {}
        for buyer, seller in cast.sales:
            params = {"provider": net.layout.node_ids[seller], "amount": deposit, "key": net.key()}
            channels[buyer, seller] = net.call(buyer, "channel.open", params)["id"]
        self.ground.mine(30 if deposit <= 1000 * COIN else 120)
        for sale, channel in channels.items():
            self.stage.mining(lambda sale=sale, channel=channel: self.stage.seen(channel, "OPEN", *sale), "the deposit")
        for number in range(cast.calls):
            tasks = []
            for buyer, seller in cast.sales:
                app = f"dear@{net.layout.node_ids[seller][:16]}"
                tasks.append((buyer, net.order(buyer, app, b"call %d" % number, params={"seconds": 0})["id"]))
            for buyer, task in tasks:
                ended = net.wait_task(buyer, task)
                assert (ended["state"], ended["price"]) == ("DONE", PRICE * COIN), ended
        for sale, channel in channels.items():
            net.call(sale[0], "channel.close", {"id": channel, "key": net.key()})
        for sale, channel in channels.items():
            self.stage.mining(lambda sale=sale, channel=channel: self.stage.seen(channel, "CLOSED", *sale), "the close")

    def round(self, sequence: int) -> Paid:
        """Make blocks until the fund has paid; nobody calls anything that moves money."""
        self.mine_to(-(-self.height() // STEP) * STEP)
        self.caught_up()
        stranger = self.net.layout.nodes[-1]
        work = wait_until(lambda: self.net.call(stranger, "airdrop.next")["work"], WAIT_S, "the round to be planned")
        self.planned[sequence] = work
        assert (work["kind"], work["sequence"], work["state"]) == ("payout", sequence, "waiting-for-depth")
        assert work["signed_from"] == work["snapshot"] + DEPTH
        self.mine_to(work["signed_from"] - 1)

        def paid() -> list[Paid]:
            self.caught_up()
            found = self.reader.rounds()
            return found if len(found) == sequence else []

        found: list[Paid] = self.stage.mining(paid, f"round {sequence}")
        return found[-1]

    def payout(self, node: str) -> bytes:
        """Where a node's share goes, as its wallet says."""
        return script_of(self.net.call(node, "wallet.status")["payout_address"], self.params)

    def entitled(self, paid: Paid) -> set[bytes]:
        """Who has a share by the blocks alone: work in the window of the snapshot, and a bond."""
        snapshot = self.planned[paid.sequence]["snapshot"]
        earned = self.reader.earned(snapshot - WINDOW, snapshot)
        bonds = self.reader.bonded(snapshot - WINDOW, snapshot + WINDOW)
        return {
            script for script in earned
            if earned[script] >= RULES.min_tax_paid and bonds.get(script, 0) >= RULES.bond_min
        }  # fmt: skip

    def table(self, rounds: list[Paid]) -> str:
        """For people: `make test-chain` shows it."""
        lines = [f"\n{'round':>7}{'block':>7}{'paid in':>16}{'share':>16}{'kept':>12}{'fee':>12}  recipients   (FLOP)"]
        for paid in rounds:
            names = " ".join(f"{address_of(script, self.params)}"[:10] for script in sorted(paid.shares))
            amounts = (sum(amount for _, amount in paid.spent), max(paid.shares.values()), paid.anchor, paid.fee)
            first, second, third, fourth = (format_flop(amount) for amount in amounts)
            lines.append(f"{paid.sequence:>7}{paid.height:>7}{first:>16}{second:>16}{third:>12}{fourth:>12}  {names}")
        return "\n".join(lines)


@pytest.fixture(scope="module", params=KINDS)
def market(request: pytest.FixtureRequest) -> Iterator[Market]:
    """Sellers of a dear app, most of them with a bond that is old enough; buyers with coins."""
    cast = KINDS[request.param]
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as folder:
        ground = open_ground(request.param, Path(folder))
        try:
            overrides = {
                **ground.overrides,
                "*/escrowd": {"deposit_cap": 2000 * COIN},
                "*/registryd": {"bond_windows": 24},
            }
            with running_devnet(cast.nodes, overrides=overrides, chain=ground.choice, parameters=RULES) as net:
                ground.attach(net)
                print(f"\non {ground.title}", flush=True)
                made = Market(Stage(ground, net), cast)
                prepare(made, Path(folder))
                yield made
        finally:
            ground.close()


def prepare(market: Market, folder: Path) -> None:
    """Coins, apps and bonds."""
    net, ground, cast = market.net, market.ground, market.cast
    dear = folder / "dear"
    shutil.copytree(ROOT / "tests" / "apps" / "ten-flop", dear)
    manifest = (dear / "dux.yaml").read_text()
    (dear / "dux.yaml").write_text(manifest.replace("ten-flop", "dear").replace('"10"', f'"{PRICE}"'))
    purses = {buyer: 0 for buyer, _ in cast.sales} | dict.fromkeys(cast.bonded, 5)
    for buyer, _ in cast.sales:
        # Who sells as well has most of it back in the next round.
        rounds = 1.2 if buyer in cast.sellers else 3
        purses[buyer] += int(rounds * (cast.calls * PRICE + 10))
    # Litecoin's regtest makes 50 coins a block, and they ripen for 100.
    ground.mine(100)
    for node, flop in purses.items():
        ground.give(net.call(node, "wallet.receive")["address"], flop)
    market.stage.mining(lambda: all(net.balance(node) == flop * COIN for node, flop in purses.items()), "the coins")
    market.caught_up()
    for node in cast.bonded:
        net.bond(node)
    ground.mine(1)
    ground.mine(WINDOW)
    for seller in cast.sellers:
        net.publish(seller, dear)


def test_paid_calls_fill_the_fund(market: Market) -> None:
    assert market.net.call(market.cast.sellers[0], "airdrop.next")["work"] is None
    market.shop()
    market.caught_up()
    status = market.net.call(market.cast.sellers[0], "fund.status")
    tax = PRICE * COIN * RULES.tax_bps // 10_000 * market.cast.calls * len(market.cast.sales)
    assert status["received"] == tax + len(market.cast.bonded) * DUST
    assert sum(market.reader.earned(0, market.height()).values()) == tax
    assert status["spendable"] >= THRESHOLD
    assert market.reader.rounds() == []


def test_at_100_flop_it_pays_equal_shares_to_the_koinu_while_only_blocks_are_made(market: Market) -> None:
    paid = market.round(1)
    entitled = market.entitled(paid)
    assert entitled == {market.payout(node) for node in market.cast.bonded}
    share = assert_equal_shares(paid, entitled)
    assert share == market.planned[1]["share"]
    assert paid.note is not None
    assert paid.note.manifest.hex() == market.planned[1]["manifest"]
    print(market.table([paid]), flush=True)


def test_two_more_rounds_follow_chained_by_their_anchors(market: Market) -> None:
    for sequence in (2, 3):
        market.shop()
        paid = market.round(sequence)
        assert_equal_shares(paid, market.entitled(paid))
        assert set(paid.shares) == {market.payout(node) for node in market.cast.bonded}
    rounds = market.reader.rounds()
    assert [paid.sequence for paid in rounds] == [1, 2, 3]
    for before, after in itertools.pairwise(rounds):
        assert after.tx.spends[0] == (before.tx.txid, 1)
        assert after.spent[0] == (before.tx.pays[1])
    print(market.table(rounds), flush=True)


def test_every_node_verifies_every_round(market: Market) -> None:
    rounds = market.reader.rounds()
    for node in market.net.layout.nodes:
        for paid in rounds:
            found = market.net.call(node, "airdrop.verify", {"sequence": paid.sequence})
            assert found["right"], (node, found)
            assert (found["txid"], found["recipients"]) == (paid.tx.txid, len(paid.shares))

    def verify(node: str) -> Any:
        done = market.net.ctl(node, "airdrop", "verify", "--json")
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return json.loads(done.stdout)

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(verify, market.net.layout.nodes))
    assert all(each == told[0] for each in told)


def test_the_books_of_every_node_agree_with_the_chain(market: Market) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(market.net.assert_audit, market.net.layout.nodes))
    rounds = {paid.tx.txid: paid for paid in market.reader.rounds()}
    for node in market.cast.bonded:
        entries = market.net.call(node, "wallet.history", {"limit": 200})["entries"]
        got = {entry["txid"]: entry["change"] for entry in entries if entry["txid"] in rounds}
        assert got == {txid: paid.shares[market.payout(node)] for txid, paid in rounds.items()}
