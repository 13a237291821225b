"""Coins for everyone who asks: the chain mines for a wallet of its own and pays out of that."""

from btclib.tx import Tx, TxOut

from duxcommon.money import COIN

from . import rules, spending, validate
from .node import Node
from .validate import NONSTANDARD, Reject
from .wallets import MINER

MAX_GIFT = 10_000_000 * COIN
PURSE = 200
"""Coins that the faucet keeps ready, of 500,000 FLOP each; a purse with all coins of a year would make it slow."""
_NOBODY = b"\x6a"
"""OP_RETURN: what is paid there is gone, and no book has to be kept of it."""


def miner_wallet(node: Node) -> int:
    """The wallet that the chain mines for; made on first use, inside the caller's change."""
    found = node.wallets.find(MINER)
    return node.wallets.create(MINER) if found is None else found


def miner_script(node: Node) -> bytes:
    """The one script that blocks without a wish of their own pay to."""
    wallet = miner_wallet(node)
    owned = node.wallets.first_script(wallet)
    return node.wallets.new_script(wallet, "mined") if owned is None else owned


def idle_script(node: Node) -> bytes:
    """Where a block that nobody asked for pays to: the faucet's purse until that is full, then nowhere.

    May make the purse, inside the caller's change.
    """
    script = miner_script(node)
    held = node.wallets.unspent_coins(miner_wallet(node), PURSE)
    return script if held < PURSE else _NOBODY


def give(node: Node, script: bytes, amount: int) -> bytes:
    """Pay `amount` koinu to a script and return the transaction's id; it waits in the mempool.

    Blocks are mined while the faucet has too few ripe coins, or too many of its payments wait for one. Raises Reject
    or CannotFund for amounts that no transaction can pay.
    """
    wallet = miner_wallet(node)
    most_blocks = rules.maturity(node.tip.height) + 2 + 2 * amount // rules.SUBSIDY
    wanted = Tx(1, 0, [], [TxOut(amount, script, check_validity=False)], check_validity=False)
    for _ in range(most_blocks):
        try:
            return _pay(node, wallet, wanted)
        except spending.CannotFund as error:
            if str(error) != "Insufficient funds":
                raise
        except Reject as reject:
            if reject.code != NONSTANDARD or reject.reason != "too-long-mempool-chain":
                raise
        node.mine(miner_script(node))
    return _pay(node, wallet, wanted)


def _pay(node: Node, wallet: int, wanted: Tx) -> bytes:
    tx, _, _ = spending.fund(node, wallet, wanted, spending.FundOptions())
    coins = [node.coin(*validate.outpoint(given)) for given in tx.vin]
    spending.sign(tx, coins, lambda script: node.wallets.secret(wallet, script))
    return node.accept(tx)
