"""dux-devchain under payments, blocks, reorganisations and restarts in any order: no koinu appears or is lost."""

import shutil
import tempfile
from pathlib import Path

import pytest
from btclib.tx import Tx, TxOut
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import DataObject

from dux_devnet.chain import faucet, rules, spending, validate
from dux_devnet.chain.node import Node
from dux_devnet.chain.validate import Reject
from duxcommon.money import COIN, DUST

WALLETS = ("alice", "bob", "carol")
wallets = st.integers(0, len(WALLETS) - 1)


class Books(RuleBasedStateMachine):
    """Three wallets on one chain that is restarted and reorganised at will."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
        self.open()
        with self.node.change():
            self.ids = [self.node.wallets.create(name) for name in WALLETS]
            for wallet in self.ids:
                faucet.give(self.node, self.node.wallets.new_script(wallet, ""), 100 * COIN)
            self.node.mine(faucet.miner_script(self.node))

    def teardown(self) -> None:
        self.node.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(payer=wallets, payee=wallets, amount=st.integers(DUST, 60 * COIN), lock=st.booleans())
    def pay(self, payer: int, payee: int, amount: int, lock: bool) -> None:
        """Fund, sign and send; a wallet that has too little sends nothing."""
        node, wallet = self.node, self.ids[payer]
        try:
            with node.change():
                script = node.wallets.new_script(self.ids[payee], "")
                wanted = Tx(1, 0, [], [TxOut(amount, script, check_validity=False)], check_validity=False)
                tx, fee, _ = spending.fund(node, wallet, wanted, spending.FundOptions(lock=lock))
                coins = [node.coin(*validate.outpoint(given)) for given in tx.vin]
                problems = spending.sign(tx, coins, lambda script: node.wallets.secret(wallet, script))
                assert problems == [None] * len(coins)
                assert sum(coin.value for coin in coins if coin) - sum(out.value for out in tx.vout) == fee
                node.accept(tx)
        except (spending.CannotFund, Reject) as error:
            if str(error) not in ("Insufficient funds", "too-long-mempool-chain"):
                raise
        finally:
            node.wallets.locked.clear()

    @rule(blocks=st.integers(1, 3))
    def mine(self, blocks: int) -> None:
        with self.node.change():
            for _ in range(blocks):
                self.node.mine(faucet.miner_script(self.node))

    @rule(depth=st.integers(0, 4))
    def invalidate(self, depth: int) -> None:
        block = self.node.store.block_at(max(1, self.node.tip.height - depth))
        if block is None:
            return  # nothing is left but the genesis block
        with self.node.change():
            self.node.invalidate(block)

    @rule(data=st.data())
    def reconsider(self, data: DataObject) -> None:
        bad = [row[0] for row in self.node.store.db.execute("SELECT hash FROM blocks WHERE invalid = 1 ORDER BY seq")]
        if bad:
            block = self.node.store.block(data.draw(st.sampled_from(bad)))
            assert block is not None
            with self.node.change():
                self.node.reconsider(block)

    @rule()
    def restart(self) -> None:
        """As after a kill: only what was committed is there."""
        waiting = {entry.txid for entry in self.node.mempool}
        tip = self.node.tip
        self.node.close()
        self.open()
        assert self.node.tip == tip
        # All of them are some wallet's; one that a reorganisation had made unripe may be ripe again and come back.
        assert waiting <= {entry.txid for entry in self.node.mempool}

    def open(self) -> None:
        self.node = Node(self.folder)
        self.node.store.db.execute("PRAGMA synchronous = OFF")  # the test kills no process

    @invariant()
    def the_unspent_outputs_are_what_the_blocks_created(self) -> None:
        total = self.node.store.db.execute("SELECT coalesce(sum(value), 0) FROM utxo").fetchone()[0]
        assert total == self.node.tip.height * rules.SUBSIDY

    @invariant()
    def the_tip_is_the_best_valid_block(self) -> None:
        assert self.node.store.best_candidate().hash == self.node.tip.hash

    @invariant()
    def every_waiting_transaction_could_be_mined_and_none_conflicts(self) -> None:
        spent = set()
        seen = set()
        for entry in self.node.mempool:
            for given in entry.tx.vin:
                outpoint = validate.outpoint(given)
                assert outpoint not in spent
                spent.add(outpoint)
                parent_waits = outpoint[0] in seen
                assert parent_waits or self.node.store.coin(*outpoint) is not None
            seen.add(entry.txid)

    @invariant()
    def each_wallet_holds_exactly_its_part_of_the_chain(self) -> None:
        for wallet in [*self.ids, faucet.miner_wallet(self.node)]:
            self.check_wallet(wallet)

    def check_wallet(self, wallet: int) -> None:
        """The index against a count from scratch: unspent outputs less what the wallet's open transactions spend."""
        node = self.node
        scripts = {script for script, owners in node.wallets.scripts.items() if wallet in owners}
        open_spends = {
            validate.outpoint(given)
            for known in node.wallets.newest_txs(wallet)
            if known.height is None and known.conflict_height is None
            for given in validate.parse_tx(known.raw).vin
        }
        expected = {
            (txid, vout): (value, height)
            for txid, vout, value, script, height in node.store.db.execute(
                "SELECT txid, vout, value, script, height FROM utxo"
            )
            if script in scripts and (txid, vout) not in open_spends
        }
        indexed = {
            (txid, vout): (value, height)
            for txid, vout, value, height in node.store.db.execute(
                "SELECT txid, vout, value, height FROM wallet_coins "
                "WHERE wallet = ? AND spent = 0 AND height IS NOT NULL",
                (wallet,),
            )
        }
        assert indexed == expected


Books.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBooks = Books.TestCase


def test_a_refused_transaction_is_no_part_of_the_books(short_tmp: Path) -> None:
    node = Node(short_tmp)
    with pytest.raises(Reject, match="bad-txns-vin-empty"), node.change():
        node.accept(Tx(1, 0, [], [], check_validity=False))
    assert len(node.mempool) == 0
    node.close()


def test_a_change_that_fails_leaves_database_and_memory_as_they_were(short_tmp: Path) -> None:
    node = Node(short_tmp)
    with node.change():
        wallet = node.wallets.create("w")
        gift = faucet.give(node, node.wallets.new_script(wallet, ""), COIN)
    tip, scripts = node.tip, {script: set(owners) for script, owners in node.wallets.scripts.items()}
    with pytest.raises(ZeroDivisionError), node.change():
        node.mine(node.wallets.new_script(wallet, ""))
        faucet.give(node, node.wallets.new_script(wallet, ""), COIN)
        raise ZeroDivisionError
    assert (node.tip, node.store.tip()) == (tip, tip)
    assert {script: set(owners) for script, owners in node.wallets.scripts.items()} == scripts
    assert [entry.txid for entry in node.mempool] == [gift]
    with node.change():
        node.mine(faucet.miner_script(node))
    assert spending.balances(node, wallet).trusted == COIN
    node.close()
