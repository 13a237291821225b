"""Putting proposals, votes and approvals on the chain: queued in a commit, sent until a block holds them."""

import hashlib
import logging

from duxcommon import failpoint
from duxcommon.api.flopd import TxIntent
from duxcommon.coin.script import p2pkh_script
from duxcommon.db import Store
from duxcommon.errors import DuxError, NoPayoutCoin
from duxcommon.money import DUST

from . import rows
from .ports import Flopd
from .rows import CastRow
from .timeline import Timeline

PRICE = DUST
"""What a note pays to the fund: so much makes it visible to everybody, and costs whoever would flood the chain."""
COIN = 2 * DUST
"""What the payout address is given when it has no coin to prove its key with: a note's price and its fee."""

FAILPOINTS = {
    "cast-committed": "a note is queued, flopd was not asked for its transaction",
    "cast-built": "flopd has committed the transaction, nothing of it is noted here",
    "cast-built-committed": "it is noted which transaction carries the note, it was not sent",
    "cast-sent": "flopd sends the transaction, here it is not noted as sent",
    "cast-sent-committed": "it is noted as sent",
    "coin-built": "flopd has committed the payment that gives the payout address a coin, it was not sent",
    "coin-sent": "flopd sends that payment, nothing of it is noted here",
}
"""Where a crash test ends dux-airdropd → what has and what has not happened there."""

log = logging.getLogger("governance")


def _hit(name: str) -> None:
    FAILPOINTS[name]
    failpoint.hit(f"airdropd:{name}")


class Casting:
    """The notes of this node on their way."""

    def __init__(self, store: Store, flopd: Flopd) -> None:
        self._store = store
        self._flopd = flopd

    async def put(
        self, key: str, kind: rows.CastKind, proposal: str, data: bytes, *, yes: bool | None = None
    ) -> CastRow:
        """Queue a note, once for each key; it is sent by `send`."""
        await self._store.write(lambda c: rows.put_cast(c, key, kind, proposal, data, yes=yes))
        _hit("cast-committed")
        return self.by_key(key)

    def by_key(self, key: str) -> CastRow:
        """A note that was queued."""
        row = self._store.read(lambda c: rows.cast_by_key(c, key))
        assert row is not None
        return row

    def newest(self, kind: rows.CastKind, proposal: str) -> CastRow | None:
        """The last one of a kind for a proposal."""
        return self._store.read(lambda c: rows.newest_cast(c, kind, proposal))

    async def advance(self, timeline: Timeline, height: int) -> None:
        """Send what waits, and see what became of what was sent. Failures are noted and tried again."""
        for row in self._store.read(rows.open_casts):
            item = timeline.find(row.proposal)
            if item is not None and row.kind != "proposal" and height >= item.terms.deadline and row.state == "queued":
                await self._set(row, state="dropped", trouble="the deadline passed before it could be sent")
                continue
            await self.send(row, bytes.fromhex(timeline.book.at(height).fund_script))

    async def send(self, row: CastRow, fund_script: bytes) -> CastRow:
        """Send a queued note, or look after one that was sent. What keeps it back is its `trouble`; raises nothing."""
        try:
            if row.state == "queued":
                await self._send(row, fund_script)
            elif row.state == "sent" and row.intent is not None:
                await self._look(row, await self._flopd.intent(row.intent))
        except DuxError as error:
            await self._set(row, trouble=f"{error.message}. {error.hint}")
        return self.by_key(row.key)

    async def _send(self, row: CastRow, fund_script: bytes) -> None:
        try:
            intent = await self._flopd.fund(
                fund_script, PRICE, data=row.data, key=_key("governance", row), purpose=row.kind,
                ref=f"proposal/{row.proposal}", from_payout=row.kind != "approval",
            )  # fmt: skip
        except NoPayoutCoin:
            await self._give_coin(row)
            return
        _hit("cast-built")
        await self._set(row, intent=intent.id, txid=intent.txid, fee=intent.fee)
        _hit("cast-built-committed")
        sent = await self._flopd.broadcast(intent.id)
        _hit("cast-sent")
        await self._set(row, state="sent", txid=sent.txid, trouble="")
        _hit("cast-sent-committed")

    async def _give_coin(self, row: CastRow) -> None:
        """Pay the payout address from the wallet; the note goes when that is in a block."""
        key = _key("governance-coin", row)
        if row.coin is not None and (await self._flopd.intent(row.coin)).state not in ("built", "sent"):
            # It was spent before the note could: what is paid from the wallet may take any coin of it.
            key += f":{row.coin}"
        payout = await self._flopd.payout()
        coin = await self._flopd.fund(
            p2pkh_script(bytes.fromhex(payout.pubkey)), COIN, data=None, key=key,
            purpose="payout-coin", ref=f"proposal/{row.proposal}", from_payout=False,
        )  # fmt: skip
        _hit("coin-built")
        await self._flopd.broadcast(coin.id)
        _hit("coin-sent")
        await self._set(row, coin=coin.id, trouble="the payout address is given a coin first; it goes after a block")

    async def _look(self, row: CastRow, intent: TxIntent) -> None:
        if intent.state == "confirmed":
            await self._set(row, state="confirmed", txid=intent.txid, trouble="")
        elif intent.state in ("conflicted", "cancelled"):
            await self._set(row, state="dropped", trouble="its coins were spent otherwise; do it again")

    async def _set(self, row: CastRow, **values: str | int | None) -> None:
        await self._store.write(lambda c: rows.set_cast(c, row.n, **values))


def _key(what: str, row: CastRow) -> str:
    """Flopd's key for a part of a note's way; the caller's own may be as long as a key can be."""
    return f"{what}:{row.kind}:{hashlib.sha256(row.key.encode()).hexdigest()}"
