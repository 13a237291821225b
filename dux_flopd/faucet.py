"""Coins of a trial network for whoever asks: the same key never asks twice, also over a crash or a lost answer."""

import asyncio
import sqlite3
from typing import NamedTuple

from duxcommon.api.flopd import Gift, NetworkLabel
from duxcommon.coin.params import ChainParams
from duxcommon.coin.script import script_of
from duxcommon.db import Store
from duxcommon.errors import ChainFault, Conflict, DustAmount, FaucetLimit, NoFaucet
from duxcommon.money import DUST, format_flop

from .core import METHOD_NOT_FOUND, Core
from .watch import Watcher

LABEL = "from the faucet"


class _Asked(NamedTuple):
    amount: int
    address: str
    txid: str | None


class Faucet:
    """Asks the chain's faucet."""

    def __init__(self, core: Core, store: Store, watcher: Watcher, params: ChainParams, label: NetworkLabel) -> None:
        self._core = core
        self._store = store
        self._watcher = watcher
        self._params = params
        self._label = label
        self._one = asyncio.Lock()

    async def give(self, owner: int, amount: int, key: str, wait_s: float) -> Gift:
        """Get `amount` koinu and wait up to `wait_s` seconds for a confirmation.

        Raises NoFaucet, FaucetLimit, DustAmount, Conflict, and what the chain raises.
        """
        if not self._label.worthless:
            raise NoFaucet("coins of this network have value: nobody gives them away")
        if amount < DUST:
            raise DustAmount(f"{format_flop(amount)} FLOP is less than the smallest payment, {format_flop(DUST)} FLOP")
        async with self._one:
            address, txid = await self._asked(owner, amount, key)
        return Gift(
            txid=txid,
            address=address,
            amount=amount,
            confirmations=await self._confirmed(txid, wait_s),
            network=self._label,
        )

    async def _asked(self, owner: int, amount: int, key: str) -> tuple[str, str]:
        known = self._store.read(lambda c: _find(c, owner, key))
        if known is not None and known.amount != amount:
            raise Conflict(f"key {key!r} was used before for {format_flop(known.amount)} FLOP")
        if known is None:
            address = await self._core.new_address(LABEL)
            await self._store.write(
                lambda c: c.execute("INSERT INTO gifts VALUES (?, ?, ?, ?, NULL)", (owner, key, amount, address))
            )
        elif known.txid is not None:
            return known.address, known.txid
        else:
            address = known.address
        # An answer may have been lost: nobody else pays to this address.
        txid = await self._came(address) if known is not None else None
        if txid is None:
            txid = await self._ask(address, amount)
        await self._store.write(
            lambda c: c.execute("UPDATE gifts SET txid = ? WHERE owner = ? AND key = ?", (txid, owner, key))
        )
        return address, txid

    async def _came(self, address: str) -> str | None:
        script = script_of(address, self._params)
        return next((coin.txid for coin in await self._core.coins() if coin.script == script), None)

    async def _ask(self, address: str, amount: int) -> str:
        try:
            return await self._core.faucet(address, amount)
        except ChainFault as error:
            if error.details.get("code") == METHOD_NOT_FOUND:
                raise NoFaucet(f"the Core of network {self._label.name} has no faucet") from error
            if "reason" in error.details:
                raise FaucetLimit(f"the faucet refused: {error.details['reason']}"[:300]) from error
            raise

    async def _confirmed(self, txid: str, wait_s: float) -> int:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            found = await self._core.transaction(txid)
            confirmations = max(0, found.confirmations) if found is not None else 0
            left = end - loop.time()
            if confirmations or left <= 0:
                return confirmations
            await self._watcher.wait(self._watcher.current().tip.hash, left)


def _find(connection: sqlite3.Connection, owner: int, key: str) -> _Asked | None:
    row = connection.execute(
        "SELECT amount, address, txid FROM gifts WHERE owner = ? AND key = ?", (owner, key)
    ).fetchone()
    return None if row is None else _Asked(*row)
