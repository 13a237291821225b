"""Building, committing and sending transactions, in this order and never another.

A crash between two steps loses nothing: before the commit nothing was promised; after it the row says what may be on
its way, and the same bytes are sent again until a block decides.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from btclib.tx import Tx

from duxcommon import failpoint
from duxcommon.coin.multisig import MAX_STANDARD_SIZE, max_fee
from duxcommon.coin.script import op_return_data
from duxcommon.coin.tx import outpoint_of, parse_tx, serialize_tx
from duxcommon.db import Store
from duxcommon.errors import (
    BadTransaction,
    ChainAuthFailed,
    ChainDown,
    ChainFault,
    DustAmount,
    DuxError,
    TxRejected,
    TxTooEarly,
    WrongChain,
)
from duxcommon.money import DUST, format_flop

from . import funding, intents, outputs
from .blocks import SeenTx, parse_seen, same_id
from .core import Core, OutpointKey
from .funding import Builder, Built, Output, Proof
from .intents import Draft, Input, Intent
from .watch import Watcher

UNREACHABLE = (ChainDown, ChainAuthFailed, WrongChain)


class Outcome(Enum):
    """What Core's answer to `sendrawtransaction` means."""

    ACCEPTED = "accepted"
    DECIDED = "decided"
    """A block holds it, or a block or the mempool spends its inputs otherwise: the chain tells which."""
    EARLY = "early"
    REFUSED = "refused"


_DECIDED = (
    "already in block chain",
    "txn-already-known",
    "already in utxo set",
    "inputs-spent",
    "inputs-missingorspent",
    "missing inputs",
    "mempool-conflict",
    "too-long-mempool-chain",
)
_ACCEPTED = ("already in mempool", "txn-already-in-mempool")
_EARLY = ("non-final", "non-bip68-final")


def outcome_of(reason: str) -> Outcome:
    """The meaning of a refusal, by its text: the codes differ between Cores."""
    text = reason.lower()
    for fragments, outcome in ((_ACCEPTED, Outcome.ACCEPTED), (_DECIDED, Outcome.DECIDED), (_EARLY, Outcome.EARLY)):
        if any(fragment in text for fragment in fragments):
            return outcome
    return Outcome.REFUSED


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants a transaction sent, and what for; the same key stands for the same `params` for ever."""

    owner: int
    key: str
    params: dict[str, Any]
    purpose: str
    ref: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction to send; amounts in koinu, those of the outputs that it spends as far as they are known."""

    tx: Tx
    fee: int
    amounts: Mapping[OutpointKey, int]


class Transactions:
    """All transactions that leave this node."""

    def __init__(self, core: Core, store: Store, watcher: Watcher, ready: Callable[[], None]) -> None:
        self._core = core
        self._store = store
        self._watcher = watcher
        self._ready = ready
        """Raises unless money can be moved now (unlocked, chain reachable and caught up)."""
        self._builder = Builder(core, lambda: store.read(lambda c: intents.held(c, "built", "sent")))
        self._log = logging.getLogger("flopd")

    def get(self, intent_id: str) -> Intent:
        """The intent. Raises IntentUnknown."""
        return self._store.read(lambda c: intents.get(c, intent_id))

    # --- making ----------------------------------------------------------------------------------------------

    async def plan(self, pay: Sequence[Output], *, fee_rate: int, max_fee: int) -> Built:
        """What a payment would cost, without signing or keeping anything."""
        self._ready()
        asked = funding.check_outputs(pay, None)
        async with self._builder.lock:
            return await self._builder.build(asked, fee_rate=fee_rate, max_fee=max_fee, sign=False)

    async def fund(
        self,
        owner: int,
        key: str,
        pay: Sequence[Output],
        *,
        data: bytes | None,
        purpose: str,
        ref: str,
        fee_rate: int,
        max_fee: int,
        sending: bool,
        proof: Proof | None = None,
    ) -> Intent:
        """Build and commit a payment and lock its coins; with `sending` it is sent as well.

        With a `proof` it spends a coin of that address. The same key gives the same intent again. Raises Conflict,
        InsufficientFunds, NoPayoutCoin, FeeTooHigh, DustAmount.
        """
        params = _canonical(
            {"pay": [[script.hex(), amount] for script, amount in pay], "data": data.hex() if data else None}
            | {"purpose": purpose, "ref": ref, "fee_rate": fee_rate}
            | ({"proof": proof.address} if proof else {})
        )
        async with self._builder.lock:
            known = self._store.read(lambda c: intents.by_key(c, owner, key, params))
            if known is None:
                self._ready()
                asked = funding.check_outputs(pay, data)
                built = await self._builder.build(asked, fee_rate=fee_rate, max_fee=max_fee, sign=True, proof=proof)
                failpoint.hit("flopd:built")
                draft = Draft(
                    *(owner, key, params, purpose, ref),
                    *(built.hex, built.txid, built.same, built.fee, built.inputs),
                    picked=True,
                )
                known = await self._store.write(lambda c: intents.add(c, draft, sending=sending))
                failpoint.hit("flopd:committed")
                if not sending:
                    await self._lock([given.key for given in built.inputs])
                    failpoint.hit("flopd:locked")
                    return known
            elif not sending or known.state != "built":
                return known
        return await self._first_send(known)

    async def submit(self, owner: int, key: str, raw: str, *, purpose: str, ref: str) -> Intent:
        """Commit and send a transaction that is signed already; it is sent again until a block decides.

        Raises Conflict, BadTransaction, DustAmount, FeeTooHigh, and TxTooEarly or TxRejected when the mempool refuses
        it: then the same call may be made again.
        """
        tx = parse_tx(raw)
        if not all(txin.script_sig for txin in tx.vin):
            raise BadTransaction("an input of the transaction is not signed")
        size = len(raw) // 2
        if size > MAX_STANDARD_SIZE:
            raise BadTransaction(f"the transaction has {size} bytes, and no node relays more than {MAX_STANDARD_SIZE}")
        for output in tx.vout:
            if output.value < DUST and op_return_data(output.script_pub_key.script) is None:
                raise DustAmount(f"an output of {format_flop(output.value)} FLOP does not reach the other nodes")
        order = Order(owner, key, {"hex": raw, "purpose": purpose, "ref": ref}, purpose, ref)

        def signed() -> Signed:
            spent = [outpoint_of(txin) for txin in tx.vin]
            amounts = self._store.read(lambda c: outputs.amounts(c, spent))
            fee = 0
            if len(amounts) == len(spent):
                fee = sum(amounts.values()) - sum(output.value for output in tx.vout)
                if fee < 0:
                    raise BadTransaction("the transaction pays more than it spends")
                # A fund's transaction over two hundred inputs may cost what no channel's does.
                funding.check_size(fee, size, max(funding.MAX_FEE, max_fee(size)))
            return Signed(tx, fee, amounts)

        return await self.send_signed(order, signed)

    async def send_signed(self, order: Order, make: Callable[[], Signed]) -> Intent:
        """Commit and send what `make` gives; it is only called for a key that was not used before.

        Raises Conflict, TxTooEarly, TxRejected and what `make` raises.
        """
        params = _canonical(order.params)
        known = self._store.read(lambda c: intents.by_key(c, order.owner, order.key, params))
        if known is None:
            signed = make()
            spent = [outpoint_of(txin) for txin in signed.tx.vin]
            draft = Draft(
                *(order.owner, order.key, params, order.purpose, order.ref),
                *(serialize_tx(signed.tx).hex(), signed.tx.id.hex(), same_id(signed.tx), signed.fee),
                tuple(Input(*outpoint, signed.amounts.get(outpoint, 0)) for outpoint in spent),
                picked=False,
            )
            known = await self._store.write(lambda c: _add_submitted(c, draft))
            failpoint.hit("flopd:committed")
        elif known.state != "built":
            return known
        return await self._first_send(known)

    async def broadcast(self, intent_id: str) -> Intent:
        """Send a funded intent; one that was sent already is only reported. Raises IntentUnknown, TxRejected."""
        intent = self.get(intent_id)
        return await self._first_send(intent) if intent.state == "built" else intent

    async def cancel(self, intent_id: str) -> Intent:
        """Give up an intent that was never sent and free its coins. Raises IntentUnknown, IntentSent."""
        held = self._store.read(lambda c: intents.inputs_of(c, intent_id))
        intent = await self._store.write(lambda c: intents.cancel(c, intent_id))
        if intent.picked:
            await self.unlock([given.key for given in held])
        return intent

    # --- sending ---------------------------------------------------------------------------------------------

    async def _first_send(self, intent: Intent) -> Intent:
        if intent.state == "built":
            intent = await self._store.write(lambda c: intents.move_if(c, intent.id, "built", "send"))
        if intent.state == "sent":
            failpoint.hit("flopd:sending")
            await self._send(intent, first=True)
            failpoint.hit("flopd:sent")
        return self.get(intent.id)

    async def _send(self, intent: Intent, *, first: bool) -> None:
        try:
            await self._core.send(intent.hex)
            outcome, reason = Outcome.ACCEPTED, ""
        except UNREACHABLE as error:
            # Perhaps it arrived, perhaps not; it is sent again when Core is back.
            self._log.warning("sent later", extra={"intent": intent.id, "why": error.message})
            return
        except ChainFault as error:
            if "reason" not in error.details:
                raise
            reason = str(error.details["reason"])
            outcome = outcome_of(reason)
        if outcome is Outcome.ACCEPTED:
            if first:
                self._log.info("transaction sent", extra={"intent": intent.id, "txid": intent.txid})
                await self._watcher.note(parse_seen(intent.hex))
        elif outcome is Outcome.DECIDED:
            await self._look_up(intent, reason)
        elif first:
            await self._store.write(lambda c: intents.move_if(c, intent.id, "sent", "refuse"))
            refused = TxTooEarly if outcome is Outcome.EARLY else TxRejected
            raise refused(f"Core refused the transaction: {reason[:200]}", details={"id": intent.id, "reason": reason})
        else:
            self._log.warning("Core refuses it now", extra={"intent": intent.id, "why": reason})

    async def _look_up(self, intent: Intent, reason: str) -> None:
        """Core says that a block may hold it already, perhaps one that was looked at before the intent was made."""
        found = await self._core.transaction(intent.txid)
        tip = self._watcher.tip
        if found is not None and found.confirmations > 0 and tip is not None:
            height = tip.height - found.confirmations + 1
            await self._store.write(lambda c: _mined(c, intent.id, height))
        elif "already" not in reason.lower():
            self._log.warning("its coins are spent or not there yet", extra={"intent": intent.id, "why": reason})

    async def resend(self) -> None:
        """Hand everything that no block holds yet to Core once more."""
        for intent in self._store.read(intents.waiting):
            try:
                await self._send(intent, first=False)
            except ChainFault as error:
                self._log.warning("can't send again", extra={"intent": intent.id, "why": error.message})

    # --- locks -----------------------------------------------------------------------------------------------

    async def relock(self) -> None:
        """Lock what open intents hold: Core forgets its locks when it restarts."""
        await self._core.lock(list(self._store.read(lambda c: intents.held(c, "built", "sent"))))

    async def unlock(self, outpoints: Sequence[OutpointKey]) -> None:
        """Let Core pick coins again; when it is away it has forgotten the lock anyway."""
        try:
            await self._core.unlock(outpoints)
        except DuxError as error:
            self._log.info("coins not unlocked", extra={"why": error.message})

    async def _lock(self, outpoints: Sequence[OutpointKey]) -> None:
        try:
            await self._core.lock(outpoints)
        except DuxError as error:
            # The row in the database holds them; the lock only spares Core a wrong pick.
            self._log.info("coins not locked", extra={"why": error.message})


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _add_submitted(connection: sqlite3.Connection, draft: Draft) -> Intent:
    """Commit it as sent, and decide it at once where a block that was looked at already did."""
    known = intents.by_key(connection, draft.owner, draft.key, draft.params)
    if known is not None:
        return known
    intent = intents.add(connection, draft, sending=True)
    for given in draft.inputs:
        spender = outputs.spender(connection, given.key)
        if spender is not None:
            intents.on_spend(connection, given.key, SeenTx(parse_tx(spender[0])), spender[1])
    return intents.get(connection, intent.id)


def _mined(connection: sqlite3.Connection, intent_id: str, height: int) -> None:
    intent = intents.get(connection, intent_id)
    if intent.state == "sent":
        intents.record_mined(connection, intent, height)
