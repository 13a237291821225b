"""The node's own bonds: making them and taking them back, through dux-flopd.

Every step is a row before it is a call, and every call to flopd carries a key of that row: after a crash the row says
what may have been done, and doing it again changes nothing.
"""

import json
import logging
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from duxcommon import failpoint
from duxcommon.api.flopd import BondOutpoint, KeyInfo, TxIntent, TxOutput
from duxcommon.api.registryd import BondInfo, Bonds
from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import BondNote
from duxcommon.coin.tx import parse_tx
from duxcommon.db import Store
from duxcommon.eligibility import Lock
from duxcommon.errors import (
    Conflict,
    DaemonDown,
    DuxError,
    IntentUnknown,
    Internal,
    RemoteError,
    Stopping,
    TimedOut,
    TxRejected,
)
from duxcommon.money import DUST, format_flop
from duxcommon.rpc import Client

from .bondplan import LEAST, Due, Horizon, due, lasts
from .work import Ledger, OwnBond

DEEP = 200
"""Blocks above a transaction that no reorganisation takes away."""
AGAIN_BLOCKS = 60
"""A bond that could not be taken back is tried again after so many blocks."""

MIGRATION = """
-- Bonds that this node makes. `asked` and `outputs` are what flopd is told, again and again until it answers.
CREATE TABLE own_bond (
  key TEXT PRIMARY KEY, asked TEXT NOT NULL, amount INTEGER NOT NULL, lock_height INTEGER NOT NULL,
  outputs TEXT NOT NULL, note TEXT NOT NULL, state TEXT NOT NULL, intent TEXT, txid TEXT, vout INTEGER, height INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX own_bond_state ON own_bond (state);
-- Bonds that are being taken back to the payout address, or were.
CREATE TABLE bond_release (
  txid TEXT NOT NULL, vout INTEGER NOT NULL, lock_height INTEGER NOT NULL, state TEXT NOT NULL, intent TEXT,
  PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE INDEX bond_release_state ON bond_release (state);
"""

FAILPOINTS = {
    "bond-planned": "the bond is planned, nothing was asked of flopd",
    "bond-built": "flopd built and committed the bond, its row does not know it yet",
    "bond-built-committed": "the row knows its transaction, which was not sent",
    "bond-sent": "the bond was sent, its row does not know it yet",
    "release-planned": "the release is planned, nothing was asked of flopd",
    "release-sent": "flopd sent the release, its row does not know it yet",
}
"""Name → what has and what has not happened there."""

_AMBIGUOUS = (DaemonDown, TimedOut, RemoteError, Stopping, Internal)
"""After these it is not known whether flopd did what was asked; any other error says that it did not."""

log = logging.getLogger("bonds")


def _hit(name: str) -> None:
    """Die here when a crash test armed this point; KeyError for a name that is not in the table."""
    FAILPOINTS[name]
    failpoint.hit(f"registryd:{name}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the rules and the fund ask of bonds at the tip."""

    tip: int
    blocks: int
    """Length of a window; the longer one while a change of it is on its way."""
    price_now: int
    """For the window that opens at the tip…"""
    price_next: int
    """…and for those of the next tenth."""
    fund_script: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    asked: str
    amount: int
    lock_height: int
    outputs: str
    note: str
    state: Literal["planned", "built", "sent", "confirmed", "settled"]
    intent: str | None
    txid: str | None
    vout: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class _Release:
    txid: str
    vout: int
    lock_height: int
    state: Literal["planned", "sent", "confirmed", "settled"]
    intent: str | None


_COLUMNS = ", ".join(_Row.__slots__)
_RELEASE_STATES = ("planned", "sent", "confirmed", "settled")


class Bonding:
    """Makes, watches and takes back this node's bonds."""

    def __init__(self, store: Store, ledger: Ledger, flopd: Client, *, auto: bool, windows: int) -> None:
        self._store = store
        self._ledger = ledger
        self._flopd = flopd
        self._own: KeyInfo | None = None
        self._refused: dict[tuple[str, int], int] = {}
        """Bonds that flopd would not take back, and the height from which they are tried again."""
        self._note = "nothing was looked at yet"
        self.configure(auto=auto, windows=windows)

    def configure(self, *, auto: bool, windows: int) -> None:
        """Take `auto_bond` and `bond_windows`."""
        self._auto = auto
        self._windows = windows

    async def own(self) -> KeyInfo:
        """The node's payout key. Raises what flopd answers."""
        if self._own is None:
            self._own = await self._flopd.call("key.payout", KeyInfo, timeout=10.0)
        return self._own

    async def step(self, terms: Terms) -> None:
        """What a new block asks for: go on with what was begun, then make and take back when `auto_bond` is on."""
        pubkey = bytes.fromhex((await self.own()).pubkey)
        await self.go_on(terms.tip)
        if not self._auto:
            self._note = (
                "`auto_bond` is off: bonds are made by `dux-ctl node bond` and taken back by `dux-ctl node unbond`"
            )
            return
        await self._make(pubkey, terms)
        await self.release(terms.tip)

    async def _make(self, pubkey: bytes, terms: Terms) -> None:
        horizon = Horizon(terms.tip, terms.blocks)
        price = max(terms.price_now, terms.price_next)
        locks = self._locks(pubkey, terms.tip)
        wanted = due(horizon, price, locks, self._windows * terms.blocks)
        if wanted is None:
            last = lasts(locks, price, terms.blocks)
            self._note = f"bonds cover every window that opens up to block {last}; the next one is made before that"
            return
        if not self._ledger.worked_since(pubkey, terms.tip - terms.blocks):
            self._note = (
                "no settled work in the last window, so a bond would bring nothing; one is made after the first"
            )
            return
        key = f"auto/{terms.tip}/{wanted.amount}"
        try:
            await self._begin(key, "", wanted, pubkey, terms.fund_script)
        except DuxError as error:
            self._note = f"{_flop(wanted.amount)} are to be locked, and can't be now: {error.message}"
            log.info("a bond can't be made now", extra={"amount": wanted.amount, "why": error.message})
            return
        self._note = f"a bond of {_flop(wanted.amount)} is on its way, locked until block {wanted.lock_height}"

    async def by_hand(self, key: str, asked: tuple[int | None, int | None], wanted: Due, terms: Terms) -> BondInfo:
        """Make the bond that a person asked for; the same key never makes two.

        `asked` is what was given. Raises Conflict for the same key with something else, and what flopd answers.
        """
        pubkey = bytes.fromhex((await self.own()).pubkey)
        name = f"hand/{key}"
        await self._begin(name, json.dumps(asked), wanted, pubkey, terms.fund_script)
        return self._info(self._row(name))

    async def default(self, terms: Terms, lock_blocks: int | None) -> Due:
        """What to lock where nothing else is said: what is missing and the margin, or the whole price."""
        pubkey = bytes.fromhex((await self.own()).pubkey)
        blocks = lock_blocks or self._windows * terms.blocks
        price = max(terms.price_now, terms.price_next)
        found = due(Horizon(terms.tip, terms.blocks), price, self._locks(pubkey, terms.tip), blocks)
        return found or Due(max(price, LEAST), terms.tip + blocks)

    # --- rows -------------------------------------------------------------------------------------------------

    def _rows(self, *states: str) -> list[_Row]:
        marks = ", ".join("?" * len(states))
        return self._store.read(
            lambda c: [
                _Row(*row)
                for row in c.execute(
                    f"SELECT {_COLUMNS} FROM own_bond WHERE state IN ({marks}) ORDER BY lock_height",  # noqa: S608
                    states,
                )
            ]
        )

    def _row(self, key: str) -> _Row:
        columns = self._store.read(
            lambda c: c.execute(f"SELECT {_COLUMNS} FROM own_bond WHERE key = ?", (key,)).fetchone()  # noqa: S608
        )
        return _Row(*columns)

    async def _set(self, key: str, **values: Any) -> _Row:
        columns = ", ".join(f"{name} = ?" for name in values)
        await self._store.write(
            lambda c: c.execute(f"UPDATE own_bond SET {columns} WHERE key = ?", (*values.values(), key))  # noqa: S608
        )
        return self._row(key)

    # --- making -----------------------------------------------------------------------------------------------

    async def _begin(self, key: str, asked: str, wanted: Due, pubkey: bytes, fund_script: bytes) -> None:
        outputs = [(bond_output(pubkey, wanted.lock_height), wanted.amount), (fund_script, DUST)]
        texts = json.dumps([{"script": script.hex(), "amount": amount} for script, amount in outputs])
        note = BondNote(pubkey, wanted.lock_height).encode().hex()

        def plan(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT asked FROM own_bond WHERE key = ?", (key,)).fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO own_bond VALUES (?, ?, ?, ?, ?, ?, 'planned', NULL, NULL, NULL, NULL)",
                    (key, asked, wanted.amount, wanted.lock_height, texts, note),
                )
            elif row["asked"] != asked:
                raise Conflict(f"key {key.partition('/')[2]!r} was used before with other parameters")

        await self._store.write(plan)
        _hit("bond-planned")
        await self._carry_on(self._row(key))

    async def _carry_on(self, row: _Row) -> _Row:
        """Take a row as far as it goes now. Raises what flopd answers; a plan that it refused is forgotten."""
        if row.state == "planned":
            outputs = [TxOutput(**output).model_dump() for output in json.loads(row.outputs)]
            try:
                intent = await self._flopd.call(
                    "tx.fund",
                    TxIntent,
                    {
                        "outputs": outputs,
                        "data": row.note,
                        "key": f"bond/{row.key}",
                        "purpose": "bond",
                        "ref": f"bond/{row.lock_height}",
                    },
                )
            except _AMBIGUOUS:
                raise
            except DuxError:
                await self._forget(row.key)
                raise
            _hit("bond-built")
            scripts = [output.script_pub_key.script.hex() for output in parse_tx(intent.hex).vout]
            vout = scripts.index(outputs[0]["script"])
            row = await self._set(row.key, state="built", intent=intent.id, txid=intent.txid, vout=vout)
            _hit("bond-built-committed")
        if row.state == "built":
            try:
                await self._flopd.call("tx.broadcast", TxIntent, {"id": row.intent})
            except TxRejected:
                # Its coins are free for another try, and what the chain refused once is not offered for ever.
                await self._flopd.call("tx.cancel", TxIntent, {"id": row.intent})
                await self._forget(row.key)
                raise
            _hit("bond-sent")
            log.info("bond sent", extra={"amount": row.amount, "lock_height": row.lock_height, "txid": row.txid})
            row = await self._set(row.key, state="sent")
        return row

    async def go_on(self, tip: int) -> None:
        """Take everything that was begun one step further. Raises what flopd answers."""
        for row in self._rows("planned", "built"):
            await self._carry_on(row)
        for row in self._rows("sent", "confirmed"):
            intent = await self._status(row.intent)
            if intent is None or intent.state in ("conflicted", "cancelled"):
                # It will never confirm: another one is made when it is missing.
                await self._forget(row.key)
            else:
                await self._set(row.key, txid=intent.txid, height=intent.height, state=_progress(intent, tip))
        for release in self._releases("planned", "sent", "confirmed"):
            if release.state == "planned":
                await self._send_release(release)
                continue
            intent = await self._status(release.intent)
            if intent is None or intent.state in ("conflicted", "cancelled"):
                await self._forget_release(release)
            else:
                await self._release_is(release, _progress(intent, tip), intent)

    async def _forget(self, key: str) -> None:
        await self._store.write(lambda c: c.execute("DELETE FROM own_bond WHERE key = ?", (key,)))

    async def _status(self, intent: str | None) -> TxIntent | None:
        try:
            return await self._flopd.call("tx.status", TxIntent, {"id": intent})
        except IntentUnknown:
            return None

    # --- taking back ------------------------------------------------------------------------------------------

    def _releases(self, *states: str) -> list[_Release]:
        marks = ", ".join("?" * len(states))
        return self._store.read(
            lambda c: [
                _Release(*row)
                for row in c.execute(
                    "SELECT txid, vout, lock_height, state, intent FROM bond_release "  # noqa: S608
                    f"WHERE state IN ({marks})",
                    states,
                )
            ]
        )

    async def release(self, tip: int) -> None:
        """Take back the bonds that are free. Raises what flopd answers to the first one that it refuses.

        Each in a transaction of its own, whose key is the bond: after any crash, or the loss of this database, flopd
        answers the same question with the same transaction.
        """
        pubkey = bytes.fromhex((await self.own()).pubkey)
        begun = {(release.txid, release.vout) for release in self._releases(*_RELEASE_STATES)}
        for bond in self._ledger.bonds(pubkey):
            place = (bond.txid, bond.vout)
            if bond.lock_height > tip or bond.amount < LEAST or place in begun:
                continue
            if tip < self._refused.get(place, 0):
                continue
            release = _Release(*place, bond.lock_height, "planned", None)
            await self._plan_release(release)
            _hit("release-planned")
            try:
                await self._send_release(release)
            except DuxError:
                self._refused[place] = tip + AGAIN_BLOCKS
                raise

    async def _plan_release(self, release: _Release) -> None:
        values = (release.txid, release.vout, release.lock_height)
        await self._store.write(
            lambda c: c.execute("INSERT OR IGNORE INTO bond_release VALUES (?, ?, ?, 'planned', NULL)", values)
        )

    async def _send_release(self, release: _Release) -> None:
        bond = BondOutpoint(txid=release.txid, vout=release.vout, lock_height=release.lock_height)
        params = {"bonds": [bond.model_dump()], "key": f"{release.txid}:{release.vout}"}
        try:
            intent = await self._flopd.call("tx.release", TxIntent, params)
        except _AMBIGUOUS:
            raise
        except DuxError:
            await self._forget_release(release)
            raise
        _hit("release-sent")
        log.info("bond released", extra={"bond": params["key"], "txid": intent.txid})
        await self._release_is(release, "sent", intent)

    async def _forget_release(self, release: _Release) -> None:
        place = (release.txid, release.vout)
        await self._store.write(lambda c: c.execute("DELETE FROM bond_release WHERE txid = ? AND vout = ?", place))

    async def _release_is(self, release: _Release, state: str, intent: TxIntent) -> None:
        values = (state, intent.id, release.txid, release.vout)
        await self._store.write(
            lambda c: c.execute("UPDATE bond_release SET state = ?, intent = ? WHERE txid = ? AND vout = ?", values)
        )

    # --- telling ----------------------------------------------------------------------------------------------

    def _locks(self, pubkey: bytes, tip: int) -> list[Lock]:
        """Bonds that count or will: those in the chain, and those on their way, as if the next block held them."""
        known = [bond for bond in self._ledger.bonds(pubkey) if bond.counted]
        there = {bond.txid for bond in known}
        coming = self._rows("planned", "built", "sent", "confirmed")
        return [bond.lock for bond in known] + [
            Lock(tip + 1, row.lock_height, row.amount) for row in coming if row.txid not in there
        ]

    def _released(self) -> dict[tuple[str, int], Literal["releasing", "released"]]:
        return {
            (release.txid, release.vout): "released" if release.state in ("confirmed", "settled") else "releasing"
            for release in self._releases(*_RELEASE_STATES)
        }

    @staticmethod
    def _info(row: _Row) -> BondInfo:
        return BondInfo(
            txid=row.txid or "0" * 64,
            vout=row.vout or 0,
            amount=row.amount,
            lock_height=row.lock_height,
            confirmed=row.height,
            state="sent" if row.height is None else "locked",
        )

    async def tell(self, terms: Terms) -> Bonds:
        """This node's bonds, and what is done next. Raises what flopd answers."""
        pubkey = (await self.own()).pubkey
        known = self._ledger.bonds(bytes.fromhex(pubkey))
        there = {bond.txid for bond in known}
        states = self._released()

        def state(bond: OwnBond) -> Literal["locked", "free", "releasing", "released"]:
            return states.get((bond.txid, bond.vout)) or ("locked" if bond.lock_height > terms.tip else "free")

        found = [
            BondInfo(
                txid=bond.txid,
                vout=bond.vout,
                amount=bond.amount,
                lock_height=bond.lock_height,
                confirmed=bond.height,
                state=state(bond),
            )
            for bond in known
        ]
        coming = [self._info(row) for row in self._rows("built", "sent", "confirmed") if row.txid not in there]
        enough = terms.tip + 2 * terms.blocks
        return Bonds(
            auto=self._auto,
            pubkey=pubkey,
            bonds=found + coming,
            needed=terms.price_now,
            locked=sum(bond.amount for bond in known if bond.counted and bond.lock_height >= enough),
            note=self._note,
        )

    def trouble(self, text: str) -> None:
        """Say why nothing is done now."""
        self._note = text


def _progress(intent: TxIntent, tip: int) -> str:
    if intent.height is None:
        return "sent"
    return "settled" if tip - intent.height >= DEEP else "confirmed"


def _flop(koinu: int) -> str:
    return f"{format_flop(koinu)} FLOP"
