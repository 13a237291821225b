"""A guardian's signer with a real keystore and database, and fund transactions to sign, for tests without a chain."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btclib.tx import Tx

from dux_flopd import outputs
from dux_flopd.blocks import SeenTx
from dux_flopd.core import Core
from dux_flopd.cosign import Guardian
from dux_flopd.keyring import Keyring
from dux_flopd.keystore import GUARDIAN_PATH, Keystore
from dux_flopd.outputs import Tip
from dux_flopd.schema import MIGRATIONS
from dux_flopd.settings import CoreSettings
from duxcommon.api.flopd import PrevOut
from duxcommon.coin.multisig import signed_size
from duxcommon.coin.notes import FundNote
from duxcommon.coin.params import DEVNET
from duxcommon.coin.script import multisig_script, op_return_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import fee_for, make_tx, serialize_tx
from duxcommon.db import Store
from duxcommon.money import COIN, DUST
from duxcommon.rpc import Caller

PASS = "a passphrase"
NETWORK_ID = "ab" * 32
OTHERS = [bytes([number]) * 32 for number in range(1, 5)]
"""Secrets of the other four guardians."""
OTHER_KEYS = [pubkey_of(secret) for secret in OTHERS]
ME = Caller(os.geteuid(), frozenset())
NOTE = FundNote("payout", 7, bytes(32)).encode()


class NoCore(Core):
    """Fails the test when Core is asked for anything."""

    async def call(self, method: str, *params: Any, timeout_s: int | None = None) -> Any:
        raise AssertionError(f"Core was asked for {method}")


class Stand:
    """One guardian among five, three of whom must sign."""

    def __init__(self, folder: Path) -> None:
        keystore = Keystore.create(folder / "keys.json", PASS, log_n=10)
        self.pubkey = keystore.key(GUARDIAN_PATH).pubkey
        self.store = Store(folder / "flopd.sqlite", MIGRATIONS)
        core = NoCore(CoreSettings(url="http://127.0.0.1:1/", cookie=folder / "c"), DEVNET.genesis)
        self.keyring = Keyring(folder / "keys.json", self.store, core, DEVNET)
        asyncio.run(self.keyring.unlock(PASS))
        self.guardian = Guardian(self.keyring, self.store, NETWORK_ID, "nobody")
        self.redeem = multisig_script(3, sorted([*OTHER_KEYS, self.pubkey]))
        self.foreign = multisig_script(2, sorted(OTHER_KEYS))
        """A script of other guardians, as after one was replaced."""
        asyncio.run(self.store.write(lambda c: outputs.jump(c, Tip(0, "00" * 32))))
        self.watch(self.redeem)

    def watch(self, redeem: bytes) -> None:
        script = p2sh_script(redeem)
        asyncio.run(self.store.write(lambda c: outputs.watch(c, script.hex(), f"fund/{script.hex()[:8]}", 0)))

    def coins(self, *amounts: int, redeem: bytes | None = None, seen: bool = True) -> list[PrevOut]:
        """Outputs of one transaction that pay the fund, and that this node has seen."""
        redeem = redeem or self.redeem
        paid = [(p2sh_script(redeem), amount) for amount in amounts]
        tx = make_tx([(os.urandom(32).hex(), 0)], paid)
        if seen:
            asyncio.run(self.store.write(lambda c: outputs.note(c, [SeenTx(tx)])))
        return [
            PrevOut(txid=tx.id.hex(), vout=vout, amount=amount, redeem=redeem.hex())
            for vout, amount in enumerate(amounts)
        ]

    def close(self) -> None:
        asyncio.run(self.store.close())


@dataclass(frozen=True)
class Order:
    """What is asked of a guardian."""

    tx: Tx
    prevouts: list[PrevOut]

    @property
    def raw(self) -> str:
        return serialize_tx(self.tx).hex()

    @property
    def redeems(self) -> list[bytes]:
        return [bytes.fromhex(prevout.redeem) for prevout in self.prevouts]


def order(
    prevouts: Sequence[PrevOut],
    *,
    shares: int = 3,
    fee: int | None = None,
    extra: Sequence[tuple[bytes, int]] = (),
    note: bool = True,
) -> Order:
    """A payout: the note, what is left for the next anchor, and the shares; by default at the rule's fee."""
    spent = [(prevout.txid, prevout.vout) for prevout in prevouts]
    total = sum(prevout.amount for prevout in prevouts)
    notes = [(op_return_script(NOTE), 0)] if note else []
    paid = [(p2pkh_script(OTHER_KEYS[index % 4]), COIN + index) for index in range(shares)]
    rest = [*paid, *extra]

    def made(kept: int) -> Tx:
        return make_tx(spent, [*notes, (p2sh_script(bytes.fromhex(prevouts[0].redeem)), kept), *rest])

    if fee is None:
        fee = fee_for(signed_size(made(DUST), [bytes.fromhex(prevout.redeem) for prevout in prevouts]))
    return Order(made(total - fee - sum(amount for _, amount in rest)), list(prevouts))
