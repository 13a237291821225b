"""The wallet as people see it: balance, addresses, payments, history."""

import asyncio

from duxcommon.api.flopd import Balance, History, HistoryEntry, NetworkLabel, ReceiveAddress, SendResult
from duxcommon.coin.params import CHAINS, ChainParams
from duxcommon.coin.script import script_of
from duxcommon.db import Store
from duxcommon.errors import BadAddress
from duxcommon.money import MAX_MONEY

from . import intents
from .core import Core, WalletTx
from .funding import MAX_SEND_FEE
from .sending import Transactions

_MAX_ENTRIES = 100_000

CHAIN_NAMES = {
    "main": "Flopcoin's main chain",
    "test": "Flopcoin's test chain",
    "regtest": "a regtest chain",
    "devnet": "a private trial network",
    "litecoin-regtest": "a Litecoin regtest chain",
}


def destination(address: str, params: ChainParams) -> bytes:
    """The script of an address of this chain. Raises BadAddress, naming the chain that it does belong to."""
    try:
        return script_of(address, params)
    except BadAddress:
        others = []
        for chain in CHAINS.values():
            try:
                script_of(address, chain)
            except BadAddress:
                continue
            others.append(CHAIN_NAMES[chain.name])
        if not others:
            raise
        raise BadAddress(
            f"{address} is an address of {' or '.join(others)}; this node is on {CHAIN_NAMES[params.name]}"
        ) from None


class Wallet:
    """Core's wallet, as far as people are concerned with it."""

    def __init__(
        self, core: Core, store: Store, params: ChainParams, label: NetworkLabel, transactions: Transactions
    ) -> None:
        self._core = core
        self._store = store
        self._params = params
        self._label = label
        self._transactions = transactions

    async def balance(self) -> Balance:
        """All sums at once; see `Balance`."""
        coins = await self._core.coins()
        built = self._store.read(lambda c: intents.held(c, "built"))
        sent = self._store.read(lambda c: intents.held(c, "sent"))
        own = self._store.read(lambda c: {intent.made_txid for intent in intents.waiting(c)})
        confirmed = pending = spendable = 0
        seen = set()
        for coin in coins:
            outpoint = (coin.txid, coin.vout)
            if outpoint in sent:
                continue
            seen.add(outpoint)
            if coin.confirmations > 0:
                confirmed += coin.amount
            else:
                pending += coin.amount
            if outpoint not in built and (coin.confirmations > 0 or coin.txid in own):
                spendable += coin.amount
        for outpoint, amount in built.items():
            # Core does not list locked coins.
            if outpoint not in seen and outpoint[0] in own:
                pending += amount
            elif outpoint not in seen:
                confirmed += amount
        return Balance(
            confirmed=confirmed,
            pending=pending,
            reserved=sum(built.values()),
            in_channels=self._store.read(intents.in_channels),
            spendable=spendable,
            network=self._label,
        )

    async def receive(self, label: str) -> ReceiveAddress:
        """A fresh address to be paid at."""
        return ReceiveAddress(address=await self._core.new_address(label), label=label)

    async def send(self, owner: int, to: str, amount: int, key: str, *, fee_rate: int, dry_run: bool) -> SendResult:
        """Pay an address; see `wallet.send`. `fee_rate` in koinu per 1000 bytes."""
        script = destination(to, self._params)
        if dry_run:
            plan = await self._transactions.plan([(script, amount)], fee_rate=fee_rate, max_fee=MAX_SEND_FEE)
            return SendResult(
                id="", state="dry-run", txid=None, to=to, amount=amount, fee=plan.fee, network=self._label
            )
        intent = await self._transactions.fund(
            owner,
            f"send:{key}",
            [(script, amount)],
            data=None,
            purpose="send",
            ref=to,
            fee_rate=fee_rate,
            max_fee=MAX_SEND_FEE,
            sending=True,
        )
        return SendResult(
            id=intent.id,
            state=intent.state,
            txid=intent.txid,
            to=to,
            amount=amount,
            fee=intent.fee,
            network=self._label,
        )

    async def history(self, limit: int, skip: int) -> History:
        """One page of what changed the balance, newest first."""
        wanted = skip + limit + 1
        count = 2 * wanted
        while True:
            listed = await self._core.newest(count)
            # A transaction with several entries stands once for each.
            txids = list(dict.fromkeys(listed))
            if len(txids) >= wanted or len(listed) < count or count >= _MAX_ENTRIES:
                break
            count *= 2
        height = (await self._core.chain_info()).height
        page = txids[skip : skip + limit]
        found = await asyncio.gather(*(self._core.transaction(txid) for txid in page))
        entries = [self._entry(tx, height) for tx in found if tx is not None]
        return History(entries=entries, next=skip + limit if len(txids) > skip + limit else None)

    def _entry(self, tx: WalletTx, height: int) -> HistoryEntry:
        purpose = self._store.read(lambda c: intents.purpose_of(c, tx.txid))
        change = max(-MAX_MONEY, min(MAX_MONEY, tx.change))
        return HistoryEntry(
            txid=tx.txid,
            time=tx.time,
            change=change,
            fee=max(0, tx.fee),
            confirmations=tx.confirmations,
            purpose=purpose or ("receive" if change >= 0 else "send"),
            label=tx.label,
            height=height - tx.confirmations + 1 if tx.confirmations > 0 else None,
        )
