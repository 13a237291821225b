"""The guardians of a community fund on a trial chain whose blocks the test makes, and a reader of that chain's own.

with guarded() as fund:
    fund.work()
    fund.give(110)
    fund.mine_to(fund.due())
    paid = fund.until_paid(1)

Only what the fund needs of a node runs: dux-flopd, dux-registryd and dux-airdropd. Work and bonds are made by hand,
with the real payout keys of the nodes. The reader sums up blocks and knows nothing of what the daemons say.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from btclib.tx import Tx, TxIn
from devchain_kit import OWN, SECRETS, spend

from dux_airdropd.plan import DEPTH, STEP, turn
from dux_devnet.layout import ChainChoice
from dux_devnet.network import DevnetError, wait_until
from dux_flopd.blocks import SeenTx, parse_block
from dux_flopd.keystore import GUARDIAN_PATH, PAYOUT_PATH, Keystore, read_passphrase
from duxcommon.coin import multisig
from duxcommon.coin.bond import bond_output
from duxcommon.coin.fund import fund_script, guardians_redeem
from duxcommon.coin.notes import BondNote, FundNote, decode
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import (
    EscrowTerms,
    FundingNote,
    address_of,
    op_return_data,
    op_return_script,
    p2pkh_script,
    p2sh_script,
    parse_escrow,
    pubkey_of,
)
from duxcommon.coin.tx import Coin, closing_tx, finish_close, make_tx, parse_tx, serialize_tx, sign_input, txid_of
from duxcommon.errors import DaemonDown, DuxError
from duxcommon.money import COIN, DUST
from duxcommon.network import NetworkDefinition, load_network
from duxcommon.parameters import Parameters
from tests.support.devnet import ROOT, TestNet, running_devnet

WINDOW = 100
RULES = Parameters(
    window_blocks=WINDOW,
    epochs_needed=1,
    min_tax_paid=DUST,
    share_cap_pct=100_000,
    bond_multiple_pct=0,
    bond_min=COIN,
)
THRESHOLD = RULES.airdrop_threshold
DAEMONS = ("flopd", "registryd", "airdropd")
BUYER, ARBITER = b"\x31" * 32, b"\x32" * 32
ROUND_S = 90.0
FEE = 2 * DUST
"""What a transaction of the test's own leaves to the miner."""


# --- what the blocks say --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paid:
    """One transaction that spent the anchor, as it stands in a block."""

    sequence: int
    height: int
    tx: SeenTx
    note: FundNote | None
    spent: list[tuple[bytes, int]]
    """Script and koinu of each output that it spends, the anchor first."""

    @property
    def anchor(self) -> int:
        """What the next anchor holds."""
        return self.tx.pays[1][1]

    @property
    def shares(self) -> dict[bytes, int]:
        """Script → koinu of all who were paid."""
        return dict(self.tx.pays[2:])

    @property
    def fee(self) -> int:
        """What the miner got."""
        return sum(amount for _, amount in self.spent) - sum(amount for _, amount in self.tx.pays)


class Reader:
    """Reads raw blocks one after the other, and finds the fund's transactions in them."""

    def __init__(self, ask: Callable[..., Any], fund: bytes) -> None:
        self._ask = ask
        self._fund = fund
        self._blocks: dict[int, tuple[str, list[SeenTx]]] = {}

    def blocks(self) -> list[list[SeenTx]]:
        """The transactions of each block from the first on."""
        tip = self._ask("getblockcount")
        above = tip
        while above > 0 and self._blocks.get(above, ("", []))[0] != (name := self._ask("getblockhash", above)):
            self._blocks[above] = (name, parse_block(bytes.fromhex(self._ask("getblock", name, False))).txs)
            above -= 1
        return [self._blocks[height][1] for height in range(1, tip + 1)]

    def rounds(self) -> list[Paid]:
        """Everything that spent an anchor, in order: the chain of the fund's transactions."""
        made: dict[tuple[str, int], tuple[bytes, int]] = {}
        anchor: tuple[str, int] | None = None
        found: list[Paid] = []
        for height, txs in enumerate(self.blocks(), 1):
            for tx in txs:
                if anchor is not None and anchor in tx.spends:
                    assert tx.spends[0] == anchor, "the anchor is the first input"
                    data = op_return_data(tx.pays[0][0])
                    note = decode(data) if data else None
                    spent = [made[outpoint] for outpoint in tx.spends]
                    found.append(Paid(len(found) + 1, height, tx, note if isinstance(note, FundNote) else None, spent))
                    anchor = (tx.txid, 1)
                for vout, (script, amount) in enumerate(tx.pays):
                    made[tx.txid, vout] = (script, amount)
                    if anchor is None and script == self._fund and amount >= DUST:
                        anchor = (tx.txid, vout)
        return found

    def earned(self, above: int, to: int) -> dict[bytes, int]:
        """Provider's script → koinu of tax that its settled work paid in blocks above a height, up to another."""
        taxes: dict[bytes, int] = {}
        for txs in self.blocks()[above if above > 0 else 0 : to]:
            for tx in txs[1:]:
                if len(tx.pays) < 2 or tx.pays[1][0] != self._fund or not all(map(_closes, tx.tx.vin)):
                    continue
                (provider, payout), (_, tax) = tx.pays[:2]
                assert tax == max((payout + tax) * RULES.tax_bps // 10_000, DUST)
                taxes[provider] = taxes.get(provider, 0) + tax
        return taxes

    def bonded(self, to: int, until: int) -> dict[bytes, int]:
        """Owner's script → koinu of its bonds that confirmed up to a height and are locked until another at least."""
        bonds: dict[bytes, int] = {}
        for txs in self.blocks()[:to]:
            for tx in txs:
                note = decode(tx.note) if tx.note else None
                if not isinstance(note, BondNote) or note.lock_height < until:
                    continue
                locked = bond_output(note.pubkey, note.lock_height)
                amount = sum(amount for script, amount in tx.pays if script == locked)
                owner = p2pkh_script(note.pubkey)
                bonds[owner] = bonds.get(owner, 0) + amount
        return bonds

    def notes(self, sequence: int) -> int:
        """How many transactions of all blocks say that they are the fund's of that number."""
        count = 0
        for txs in self.blocks():
            for tx in txs:
                note = decode(tx.note) if tx.note else None
                count += isinstance(note, FundNote) and note.sequence == sequence
        return count


def _closes(txin: TxIn) -> bool:
    """Whether an input shows the script of a channel."""
    script_sig = bytes(txin.script_sig)
    return any(
        script_sig[-len(redeem) :] == redeem and parse_escrow(redeem) is not None
        for redeem in (script_sig[-size:] for size in range(140, 152))
    )


def assert_equal_shares(paid: Paid, scripts: Iterable[bytes]) -> int:
    """The share: everybody in `scripts` and nobody else got the same, and what is left can't be divided; in koinu."""
    wanted = set(scripts)
    assert set(paid.shares) == wanted
    assert len(paid.tx.pays) == 2 + len(wanted), "nobody was paid twice"
    (share,) = set(paid.shares.values())
    assert paid.note is not None
    assert (paid.note.kind, paid.note.sequence) == ("payout", paid.sequence)
    assert DUST <= paid.anchor < DUST + len(wanted), "what is left could not be divided by another koinu"
    assert sum(amount for _, amount in paid.spent) == share * len(wanted) + paid.anchor + paid.fee
    return share


# --- the network ----------------------------------------------------------------------------------------------------


@dataclass
class Guarded:
    """Five guardians on a chain that grows only when the test says so; three of them sign."""

    net: TestNet
    workers: Sequence[str]
    liars: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    silent: dict[str, socket.socket] = field(default_factory=dict)
    _purse: list[Coin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network: NetworkDefinition = load_network(self.net.layout.folder / "network.yaml")
        self.script = fund_script(self.network)
        self.redeem = guardians_redeem(self.network.guardians, self.network.guardians_m)
        self.tax_bps = self.network.parameters.tax_bps
        self.chain = self.net.chain
        self.reader = Reader(self.chain, self.script)

    # --- keys -------------------------------------------------------------------------------------------------

    def secret(self, node: str, path: str = PAYOUT_PATH) -> bytes:
        """A private key of a node, from its keystore."""
        home = self.net.layout.folder / node
        keystore = Keystore.open(home / "lib" / "flopd" / "keystore.json")
        keystore.unlock(read_passphrase(home / "etc" / "wallet.pass"))
        return keystore.key(path).secret

    @cached_property
    def payouts(self) -> dict[str, bytes]:
        """Node → private payout key."""
        return {node: self.secret(node) for node in self.net.layout.nodes}

    @cached_property
    def by_key(self) -> list[str]:
        """The guardians' nodes in the order of their keys, in which the lead goes round."""
        names = {identity: node for node, identity in self.net.layout.node_ids.items()}
        return [names[seat.node] for seat in sorted(self.network.guardians, key=lambda seat: seat.pubkey)]

    @property
    def guardians(self) -> list[str]:
        """Their nodes."""
        return self.net.layout.guardians

    def paid_script(self, node: str) -> bytes:
        """Where a node's share goes."""
        return p2pkh_script(pubkey_of(self.payouts[node]))

    def scripts(self, nodes: Sequence[str] | None = None) -> list[bytes]:
        """The same of several, by default of all who work."""
        return [self.paid_script(node) for node in (self.workers if nodes is None else nodes)]

    def node_id(self, node: str) -> str:
        """A node's id."""
        return self.net.layout.node_ids[node]

    # --- blocks -----------------------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        """The tip."""
        return int(self.chain("getblockcount"))

    def mine_to(self, height: int) -> None:
        """Blocks up to a height."""
        if (missing := height - self.height) > 0:
            self.net.mine(missing)

    def running(self) -> list[str]:
        """The nodes whose own dux-airdropd runs."""
        there = self.net.status()
        return [node for node in self.net.layout.nodes if there[f"{node}/airdropd"]["alive"]]

    def read_to(self, node: str) -> int:
        """The last block that a node's fund was read up to."""
        return int(self.net.call(node, "airdrop.history", {"limit": 1})["height"])

    def caught_up(self, *nodes: str) -> int:
        """Wait until these nodes (by default all that run) have read all blocks; the tip."""
        tip = self.height

        def there(node: str) -> bool:
            try:
                return self.read_to(node) >= tip
            except DaemonDown:
                # A crash test may end it meanwhile.
                return node not in self.running()

        for node in nodes or self.running():
            wait_until(lambda node=node: there(node), ROUND_S, f"{node} to read block {tip}")
        return tip

    def reorganise(self, height: int) -> None:
        """Throw away the block at a height and all above it; what was in them waits to be mined again."""
        self.chain("invalidateblock", self.chain("getblockhash", height))

    # --- money ------------------------------------------------------------------------------------------------

    def fill_purse(self, coins: int = 12, flop: int = 1000) -> None:
        """Coins that the test itself can spend."""
        address = address_of(OWN, CHAINS[self.network.chain])
        txids = [self.chain("faucet", address, str(flop)) for _ in range(coins)]
        raws = [self.chain("getrawtransaction", txid) for txid in txids]
        self.net.mine(1)
        for txid, raw in zip(txids, raws, strict=True):
            vout = [output.script_pub_key.script for output in parse_tx(raw).vout].index(OWN)
            self._purse.append(Coin(txid, vout, flop * COIN))

    def pay(self, outputs: Sequence[tuple[bytes, int]], fee: int = FEE) -> str:
        """Send a transaction of the test's own with these outputs and change; it is not mined. Its id."""
        coin = self._purse.pop(0)
        rest = coin.amount - sum(amount for _, amount in outputs) - fee
        tx = spend(coin, [*outputs, (p2pkh_script(pubkey_of(SECRETS[0])), rest)])
        self._purse.append(Coin(txid_of(tx), len(outputs), rest))
        return self.send(tx)

    def send(self, tx: Tx) -> str:
        """Hand a transaction to the chain. Raises DevnetError when it is refused."""
        return str(self.chain("sendrawtransaction", serialize_tx(tx).hex()))

    def give(self, flop: int) -> None:
        """Coins for the fund, in the next block."""
        self.pay([(self.script, flop * COIN)])

    def bond(self, secret: bytes, amount: int = COIN) -> None:
        """Lock coins to a key for as long as any test runs, in the next block."""
        pubkey, lock = pubkey_of(secret), 1_000_000
        self.pay(
            [
                (bond_output(pubkey, lock), amount),
                (op_return_script(BondNote(pubkey, lock).encode()), 0),
                (self.script, DUST),
            ]
        )

    def deposit(self, secret: bytes, gross: int) -> Callable[[], str]:
        """A channel's deposit in the next block; the function sends the close that settles it, which takes another."""
        terms = EscrowTerms(pubkey_of(secret), pubkey_of(BUYER), pubkey_of(ARBITER), 1_000_000)
        note = FundingNote(terms.provider, terms.arbiter, terms.lock_height)
        amount = gross + FEE
        txid = self.pay([(p2sh_script(terms.script()), amount), (op_return_script(note.encode()), 0)])

        def close() -> str:
            closing = closing_tx(terms, [Coin(txid, 0, amount)], gross, self.tax_bps, self.script)
            signed = [[sign_input(closing.tx, 0, closing.redeem, each)] for each in (BUYER, secret)]
            return self.send(finish_close(closing, *signed))

        return close

    def work(self, nodes: Sequence[str] | None = None, gross: int = 4 * COIN) -> None:
        """Settled work of these nodes (by default of all who work), in the two blocks that come."""
        closes = [self.deposit(self.payouts[node], gross) for node in (self.workers if nodes is None else nodes)]
        self.net.mine(1)
        for close in closes:
            close()
        self.net.mine(1)

    # --- rounds -----------------------------------------------------------------------------------------------

    def due(self) -> int:
        """The height from which the next payout is signed, when the fund is full enough as of the tip."""
        return -(-self.height // STEP) * STEP + DEPTH

    def fill(self, flop: int = 110) -> int:
        """Work, and coins for the fund; the height from which the round is signed. No guardian has to run."""
        self.work()
        self.give(flop)
        self.net.mine(1)
        return self.due()

    def planned(self, node: str) -> Any:
        """The transaction of the fund that a node sees coming."""
        return wait_until(lambda: self.net.call(node, "airdrop.next")["work"], ROUND_S, "a round to be planned")

    def leader(self, sequence: int, since: int, tip: int) -> str:
        """Whose turn it is at a height."""
        return self.by_key[turn(sequence, since, tip, len(self.by_key))]

    def until_paid(self, sequence: int, *, step: int = 1, seconds: float = ROUND_S) -> Paid:
        """Blocks until one holds the transaction of that number and every running node has read it; what it paid."""

        def look() -> list[Paid]:
            found = self.reader.rounds()
            if len(found) < sequence:
                self.net.mine(step)
                self.caught_up()
                self.wait_sent(0.5)
            return found if len(found) >= sequence else []

        found = wait_until(look, seconds, f"transaction {sequence} of the fund in a block")
        self.caught_up()
        return list(found)[sequence - 1]

    def wait_sent(self, seconds: float) -> bool:
        """Whether something waits for a block within so many seconds."""
        end = time.monotonic() + seconds
        while not (there := bool(self.chain("getrawmempool"))) and time.monotonic() < end:
            time.sleep(0.02)
        return there

    def assert_right(self, paid: Paid) -> None:
        """Every running node tells the transaction as it stands in the block, and finds it right."""
        for node in self.running():
            verified = self.net.call(node, "airdrop.verify", {"sequence": paid.sequence})
            assert verified["right"], (node, verified)
            assert verified["txid"] == paid.tx.txid

    def assert_everybody_agrees(self, paid: Paid) -> None:
        """The same of a payout; and no other says that it is this one."""
        self.assert_right(paid)
        assert self.reader.notes(paid.sequence) == 1

    def sign(self, tx: Tx, nodes: Sequence[str]) -> Tx:
        """The same transaction of the fund, signed with the real keys of these guardians."""
        redeems = [self.redeem] * len(tx.vin)
        signatures = {}
        for node in nodes:
            secret = self.secret(node, GUARDIAN_PATH)
            key = pubkey_of(secret)
            signatures[key] = multisig.sign(tx, redeems, key, secret)
        return multisig.merge(tx, redeems, signatures)

    # --- bad guardians ----------------------------------------------------------------------------------------

    def kill(self, node: str) -> None:
        """kill -9 of its dux-airdropd."""
        self.net.kill(f"{node}/airdropd")

    def turn_bad(self, nodes: Sequence[str], how: Sequence[str]) -> None:
        """Put something else in the place of these guardians' dux-airdropd; `how` is dead, silent, or a way to lie."""
        for node, kind in zip(nodes, how, strict=True):
            self.kill(node)
            path = self.net.socket_path(node, "airdropd")
            if kind == "silent":
                path.unlink(missing_ok=True)
                listener = self.silent[node] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(str(path))
                listener.listen(128)
            elif kind != "dead":
                self.liars[node] = self._lie(node, kind)
        for node in self.liars:
            wait_until(lambda node=node: self.answers(node), ROUND_S, f"{node}'s dux-airdropd to answer")

    def _lie(self, node: str, how: str) -> "subprocess.Popen[bytes]":
        argv, log = self.net.layout.command(node, "airdropd")
        with open(log, "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.liar", how, *argv],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def answers(self, node: str) -> bool:
        """Whether its dux-airdropd has read the chain."""
        try:
            return self.read_to(node) >= self.height
        except DuxError:
            return False

    def turn_good(self) -> None:
        """Start the real dux-airdropd of every guardian that was not itself, or was killed."""
        for process in self.liars.values():
            process.send_signal(signal.SIGKILL)
        for process in self.liars.values():
            process.wait(30)
        for listener in self.silent.values():
            listener.close()
        self.liars.clear()
        self.silent.clear()
        there = self.net.status()
        ended = [f"{node}/airdropd" for node in self.net.layout.nodes if not there[f"{node}/airdropd"]["alive"]]
        if ended:
            self.net.start(ended)


def altered(paid: SeenTx, change: Callable[[list[tuple[bytes, int]]], None]) -> Tx:
    """Another version of a transaction of the fund: the same inputs, outputs that `change` changed; unsigned."""
    outputs = list(paid.pays)
    change(outputs)
    return make_tx(paid.spends, outputs)


@contextmanager
def guarded(
    workers: Sequence[str] = ("alice", "bob", "carol"),
    nodes: int = 5,
    *,
    parameters: Parameters = RULES,
    guardians: int | None = None,
) -> Iterator[Guarded]:
    """Nodes of which the first five guard the fund; the workers have bonds that count at the tip."""
    chain = ChainChoice(auto_mine_s=0)
    with running_devnet(nodes, parameters=parameters, guardians=guardians, chain=chain, start=False) as net:
        net.start_chain()
        net.mine(20)
        made = Guarded(net, workers)
        made.fill_purse()
        for node in workers:
            made.bond(made.payouts[node])
        net.mine(parameters.window_blocks + 1)
        net.start([f"{node}/{daemon}" for node in net.layout.nodes for daemon in DAEMONS])
        try:
            made.caught_up()
            yield made
        finally:
            made.turn_good()


def secret_of(text: str) -> bytes:
    """A private key that belongs to nobody's node."""
    return hashlib.sha256(text.encode()).digest()


def folder_of(net: TestNet, node: str) -> Path:
    """A node's files."""
    return net.layout.folder / node


def refused(send: Callable[[], Any]) -> str:
    """Why the chain refuses."""
    try:
        send()
    except DevnetError as error:
        return error.message
    raise AssertionError("the chain took it")
