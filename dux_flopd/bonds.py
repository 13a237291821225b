"""Taking bonds back: coins that the payout key locked to itself return to the payout address at their lock height."""

import sqlite3
from collections.abc import Sequence

from duxcommon.api.flopd import BondOutpoint
from duxcommon.coin.bond import Bond, bond_release_tx, finish_release
from duxcommon.coin.script import p2pkh_script
from duxcommon.coin.tx import sign_input
from duxcommon.db import Store
from duxcommon.errors import BondUnknown, TxTooEarly

from . import intents
from .core import OutpointKey
from .intents import Intent
from .keyring import Keyring
from .sending import Order, Signed, Transactions
from .watch import Watcher

MAX_BONDS = 50
PURPOSE = "release"


class Releases:
    """Spends bonds of the payout key, and of no other."""

    def __init__(self, keyring: Keyring, store: Store, watcher: Watcher, transactions: Transactions) -> None:
        self._keyring = keyring
        self._store = store
        self._watcher = watcher
        self._transactions = transactions

    async def release(self, owner: int, key: str, wanted: Sequence[BondOutpoint]) -> Intent:
        """Send these bonds back to the payout address in one transaction, the fee from them.

        The same key gives the same intent again, and it is sent again until a block holds it. Raises BondUnknown,
        TxTooEarly before the last lock height, NotPayable, TooManyInputs, BadTransaction, WalletLocked, ChainSyncing.
        """
        names = sorted([bond.txid, bond.vout, bond.lock_height] for bond in wanted)
        order = Order(owner, f"release:{key}", {"bonds": names}, PURPOSE, "bonds")
        return await self._transactions.send_signed(order, lambda: self._signed(wanted))

    def _signed(self, wanted: Sequence[BondOutpoint]) -> Signed:
        pair = self._keyring.payout_pair()
        self._watcher.ready()
        bonds = self._store.read(lambda c: find(c, pair.pubkey, wanted))
        tip = self._watcher.tip
        free_at = max((bond.lock_height for bond in bonds), default=0)
        if tip is None or tip.height < free_at:
            height = tip.height if tip else 0
            raise TxTooEarly(
                f"the bonds are locked until block {free_at}; the chain is at {height}",
                details={"height": height, "lock_height": free_at},
            )
        release = bond_release_tx(pair.pubkey, bonds, p2pkh_script(pair.pubkey))
        signatures = [
            sign_input(release.tx, index, redeem, pair.secret) for index, redeem in enumerate(release.redeems)
        ]
        amounts: dict[OutpointKey, int] = {(bond.txid, bond.vout): bond.amount for bond in bonds}
        return Signed(finish_release(release, signatures), release.fee, amounts)


def find(connection: sqlite3.Connection, pubkey: bytes, wanted: Sequence[BondOutpoint]) -> list[Bond]:
    """The bonds of this key that are named, with their amounts as the chain has them.

    Raises BondUnknown for one that no block holds, that is another key's or has another lock height, or that a
    confirmed release has spent.
    """
    rows = connection.execute("SELECT txid, part, lock_height, amount FROM bonds WHERE pubkey = ?", (pubkey,))
    known = {(row["txid"].hex(), row["part"]): row for row in rows}
    found = []
    for bond in wanted:
        name = f"{bond.txid}:{bond.vout}"
        row = known.get((bond.txid, bond.vout))
        if row is None or row["lock_height"] != bond.lock_height:
            raise BondUnknown(f"{name} is no bond of the payout key that is locked until block {bond.lock_height}")
        spender = intents.confirmed_spender(connection, (bond.txid, bond.vout))
        if spender is not None:
            raise BondUnknown(f"{name} was taken back already, by {spender}")
        found.append(Bond(bond.txid, bond.vout, row["amount"], bond.lock_height))
    return found
