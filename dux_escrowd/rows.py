"""The rows of the database: reading them, and the one way each of them may change.

Everything here runs inside a write (or a read) of the store. A transition is written with its idempotency key in the
same commit as the row that it changes.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelContract, ChannelState, Payment, PaymentState, Role, SignedState
from duxcommon.errors import ChannelUnknown, Conflict, PaymentUnknown

from .channel import ChainDeposit, ChannelEvent, Line, PaymentEvent, StateClaim, next_channel, next_payment
from .contract import Found


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A channel as it is stored; see the schema for the columns."""

    n: int
    id: str
    role: Role
    peer: str
    state: ChannelState
    provider_pubkey: str
    buyer_pubkey: str
    arbiter_pubkey: str
    lock_height: int
    tax_bps: int
    fund_script: str
    max_unpaid: int
    birth: int
    key_index: int | None
    created: int
    usable: int = 0
    pending: int = 0
    gross: int = 0
    held: int = 0
    open: int = 0
    seq: int = 0
    acked_seq: int = 0
    credit: int = 0
    newest: str | None = None
    pays: str = "[]"
    retiring: int = 0
    hex: str | None = None
    txid: str | None = None
    reason: str = ""
    version: int = 0
    ended: int | None = None
    settled: int = 0

    @property
    def line(self) -> Line:
        """Its money."""
        return Line(self.role, self.state, self.usable, self.gross, self.held, self.open, self.seq, self.max_unpaid)

    @property
    def contract(self) -> ChannelContract:
        """Its terms."""
        return ChannelContract(
            provider_pubkey=self.provider_pubkey,
            buyer_pubkey=self.buyer_pubkey,
            arbiter_pubkey=self.arbiter_pubkey,
            lock_height=self.lock_height,
            tax_bps=self.tax_bps,
            fund_script=self.fund_script,
        )

    @property
    def newest_state(self) -> SignedState | None:
        """The newest signed state."""
        return None if self.newest is None else SignedState.model_validate_json(self.newest)


def claim_of(state: SignedState) -> StateClaim:
    """The numbers of a signed state."""
    return StateClaim(state.seq, state.gross, frozenset((d.txid, d.vout) for d in state.deposits))


_CHANNEL = ", ".join(field.name for field in fields(ChannelRow))
_MARKS = ", ".join("?" for _ in fields(ChannelRow))


def _channels(connection: sqlite3.Connection, where: str, params: Iterable[Any]) -> list[ChannelRow]:
    rows = connection.execute(f"SELECT {_CHANNEL} FROM channel WHERE {where}", tuple(params))  # noqa: S608 (our text)
    return [ChannelRow(*row) for row in rows]


def find_channel(connection: sqlite3.Connection, channel_id: str) -> ChannelRow | None:
    """A channel, or None."""
    found = _channels(connection, "id = ?", (channel_id,))
    return found[0] if found else None


def channel(connection: sqlite3.Connection, channel_id: str) -> ChannelRow:
    """Raises ChannelUnknown."""
    found = find_channel(connection, channel_id)
    if found is None:
        raise ChannelUnknown(f"there is no channel {channel_id}")
    return found


def live_channel(connection: sqlite3.Connection, peer: str) -> ChannelRow | None:
    """The buyer's channel to a provider that takes holds, or will once its deposit is deep."""
    found = _channels(
        connection,
        "peer = ? AND role = 'buyer' AND retiring = 0 AND state IN ('NEW', 'FUND_BUILT', 'FUND_SENT', 'OPEN')",
        (peer,),
    )
    return found[0] if found else None


def followed_channels(connection: sqlite3.Connection) -> list[ChannelRow]:
    """Every channel that the chain can still change."""
    return _channels(connection, "settled = 0 ORDER BY n", ())


def unpushed_channels(connection: sqlite3.Connection) -> list[str]:
    """The buyer's channels whose newest state the provider has not acknowledged."""
    rows = connection.execute("SELECT id FROM channel WHERE role = 'buyer' AND seq > acked_seq")
    return [row[0] for row in rows]


def channels_page(connection: sqlite3.Connection, state: str | None, limit: int, after: int | None) -> list[ChannelRow]:
    """Newest first, `limit` of them before number `after`."""
    where = "n < ?" + (" AND state = ?" if state else "") + " ORDER BY n DESC LIMIT ?"
    below = after if after is not None else 2**62
    return _channels(connection, where, (below, state, limit) if state else (below, limit))


def live_with(connection: sqlite3.Connection, peer: str) -> tuple[int, int]:
    """A buyer's channels with this provider that are not at an end: how many, and their unpaid payments."""
    row = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(open), 0) FROM channel WHERE peer = ? AND role = 'provider' AND settled = 0 "
        "AND state IN ('NEW', 'FUND_BUILT', 'FUND_SENT', 'OPEN')",
        (peer,),
    ).fetchone()
    return int(row[0]), int(row[1])


def unfunded(connection: sqlite3.Connection) -> int:
    """The provider's channels whose deposit was announced and never seen."""
    row = connection.execute(
        "SELECT COUNT(*) FROM channel WHERE role = 'provider' AND settled = 0 AND state = 'FUND_SENT' AND pending = 0"
    ).fetchone()
    return int(row[0])


def next_key_index(connection: sqlite3.Connection) -> int:
    """The first of flopd's channel keys that no channel uses."""
    return int(connection.execute("SELECT COALESCE(MAX(key_index), -1) + 1 FROM channel").fetchone()[0])


def insert_channel(connection: sqlite3.Connection, row: ChannelRow) -> ChannelRow:
    """Store a new channel; its number is given by the database."""
    values = [getattr(row, field.name) for field in fields(row)]
    cursor = connection.execute(f"INSERT INTO channel ({_CHANNEL}) VALUES ({_MARKS})", (None, *values[1:]))  # noqa: S608
    return replace(row, n=cursor.lastrowid or 0)


def name_fund_script(connection: sqlite3.Connection, script: str) -> None:
    """Channels from before their fund script was stored pay to the network's first one."""
    connection.execute("UPDATE channel SET fund_script = ? WHERE fund_script = ''", (script,))


@lru_cache(maxsize=256)
def _update(table: str, names: tuple[str, ...]) -> str:
    return f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ?"  # noqa: S608 (our names)


def change(connection: sqlite3.Connection, row: ChannelRow, **changes: Any) -> ChannelRow:
    """Change columns without a step of the state machine."""
    connection.execute(_update("channel", tuple(changes)), (*changes.values(), row.id))
    return replace(row, **changes)


def keep_line(connection: sqlite3.Connection, row: ChannelRow, line: Line, **changes: Any) -> ChannelRow:
    """Store the money of a channel, and other columns with it."""
    return change(connection, row, gross=line.gross, held=line.held, open=line.open, seq=line.seq, **changes)


def move(
    connection: sqlite3.Connection, row: ChannelRow, event: ChannelEvent, key: str | None = None, **changes: Any
) -> ChannelRow:
    """Take a step: the row and its transition. Raises BadTransition, and Conflict for a key that was used."""
    after = next_channel(row.state, event)
    version = row.version + 1
    note(connection, key or f"{row.id}/{version}", row.id, event, after)
    return change(connection, row, state=after, version=version, **changes)


def note(connection: sqlite3.Connection, key: str, subject: str, event: str, after: str) -> None:
    """Write a transition; raises Conflict when its key was used."""
    try:
        connection.execute(
            "INSERT INTO transition VALUES (?, ?, ?, ?, ?)", (key, subject, event, after, int(time.time()))
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"key {key.rsplit('/', 1)[-1]!r} was used before for something else") from error


def noted(connection: sqlite3.Connection, key: str, event: str) -> str | None:
    """The subject of the transition with this key; None when there is none. Raises Conflict for another event."""
    row = connection.execute("SELECT subject, event FROM transition WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row["event"] != event:
        raise Conflict(f"key {key.rsplit('/', 1)[-1]!r} was used before for {row['event']!r}")
    return str(row["subject"])


def is_noted(connection: sqlite3.Connection, key: str) -> bool:
    """Whether any transition has this key."""
    return connection.execute("SELECT 1 FROM transition WHERE key = ?", (key,)).fetchone() is not None


# --- deposits ------------------------------------------------------------------------------------------------------


def deposits(connection: sqlite3.Connection, channel_id: str) -> list[ChainDeposit]:
    """The deposits of a channel as the chain showed them last."""
    rows = connection.execute(
        "SELECT txid, vout, amount, height, spender, noted FROM deposit WHERE channel = ? ORDER BY txid, vout",
        (channel_id,),
    )
    return [ChainDeposit(*row) for row in rows]


def keep_deposits(connection: sqlite3.Connection, channel_id: str, seen: Iterable[ChainDeposit]) -> None:
    """Store what the chain shows in place of what it showed before."""
    connection.execute("DELETE FROM deposit WHERE channel = ?", (channel_id,))
    connection.executemany(
        "INSERT INTO deposit VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(channel_id, d.txid, d.vout, d.amount, d.height, d.spender, d.noted) for d in seen],
    )


def as_deposit(seen: ChainDeposit) -> Deposit:
    """The wire form."""
    return Deposit(txid=seen.txid, vout=seen.vout, amount=seen.amount)


@dataclass(frozen=True, slots=True)
class FundingRow:
    """A transaction by which the buyer pays into a channel."""

    id: str
    channel: str
    amount: int
    state: str
    intent: str | None = None
    txid: str | None = None
    vout: int | None = None
    fee: int = 0


def funding(connection: sqlite3.Connection, funding_id: str) -> FundingRow | None:
    """One of them, or None."""
    row = connection.execute(
        "SELECT id, channel, amount, state, intent, txid, vout, fee FROM funding WHERE id = ?", (funding_id,)
    ).fetchone()
    return None if row is None else FundingRow(*row)


def fundings(connection: sqlite3.Connection, channel_id: str) -> list[FundingRow]:
    """All of a channel."""
    rows = connection.execute(
        "SELECT id, channel, amount, state, intent, txid, vout, fee FROM funding WHERE channel = ? ORDER BY id",
        (channel_id,),
    )
    return [FundingRow(*row) for row in rows]


def insert_funding(connection: sqlite3.Connection, row: FundingRow) -> None:
    """Store a new one."""
    connection.execute(
        "INSERT INTO funding VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (row.id, row.channel, row.amount, row.state, row.intent, row.txid, row.vout, row.fee),
    )


def change_funding(connection: sqlite3.Connection, funding_id: str, **changes: Any) -> None:
    """Change columns of one."""
    connection.execute(_update("funding", tuple(changes)), (*changes.values(), funding_id))


@dataclass(frozen=True, slots=True)
class SpendRow:
    """A transaction that ended a channel, or a part of it, in koinu."""

    txid: str
    kind: str
    own: int
    """Of the deposits that it spends, what this node paid in; 0 at the provider."""
    gifts: int
    """The rest of them."""
    provider: int
    tax: int
    buyer: int
    other: int
    gross: int = 0
    """Of the channel's gross, what this transaction settles."""
    booked: int = 0
    """How often it was booked or taken back; odd: it is in the books."""


_SPEND = ", ".join(field.name for field in fields(SpendRow))


def spends(connection: sqlite3.Connection, channel_id: str) -> dict[str, SpendRow]:
    """What spent deposits of a channel, by transaction id."""
    found = connection.execute(f"SELECT {_SPEND} FROM spend WHERE channel = ?", (channel_id,))  # noqa: S608 (our text)
    return {row["txid"]: SpendRow(*row) for row in found}


def insert_spend(connection: sqlite3.Connection, channel_id: str, found: Found, *, own: int, gifts: int) -> SpendRow:
    """Store a transaction that was seen for the first time."""
    row = SpendRow(found.txid, found.kind, own, gifts, found.provider, found.tax, found.buyer, found.other)
    connection.execute(
        f"INSERT INTO spend (channel, {_SPEND}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our text)
        (channel_id, *(getattr(row, field.name) for field in fields(row))),
    )
    return row


def change_spend(connection: sqlite3.Connection, channel_id: str, row: SpendRow, **changes: int) -> SpendRow:
    """Change what is booked of it."""
    fresh = replace(row, **changes)  # type: ignore[arg-type]
    connection.execute(
        "UPDATE spend SET gross = ?, booked = ? WHERE channel = ? AND txid = ?",
        (fresh.gross, fresh.booked, channel_id, row.txid),
    )
    return fresh


# --- payments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment as it is stored."""

    n: int
    id: str
    role: Role
    channel: str
    peer: str
    amount: int
    state: PaymentState
    task: str | None
    reason: str
    created: int
    order_hash: str | None
    receipt_hash: str | None

    def wire(self) -> Payment:
        """What callers see."""
        return Payment(
            id=self.id,
            role=self.role,
            channel=self.channel,
            peer=self.peer,
            amount=self.amount,
            state=self.state,
            task=self.task,
            reason=self.reason,
            created=self.created,
            order_hash=self.order_hash,
            receipt_hash=self.receipt_hash,
        )


_PAYMENT = ", ".join(field.name for field in fields(PaymentRow))


def payment_id(*parts: object) -> str:
    """128 bits that follow from what makes a payment one and the same."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _payments(connection: sqlite3.Connection, where: str, params: Iterable[Any]) -> list[PaymentRow]:
    rows = connection.execute(f"SELECT {_PAYMENT} FROM payment WHERE {where}", tuple(params))  # noqa: S608 (our text)
    return [PaymentRow(*row) for row in rows]


def find_payment(connection: sqlite3.Connection, identity: str) -> PaymentRow | None:
    """A payment, or None."""
    found = _payments(connection, "id = ?", (identity,))
    return found[0] if found else None


def payment(connection: sqlite3.Connection, identity: str) -> PaymentRow:
    """Raises PaymentUnknown."""
    found = find_payment(connection, identity)
    if found is None:
        raise PaymentUnknown(f"there is no payment {identity}")
    return found


def open_payments(connection: sqlite3.Connection, channel_id: str) -> list[PaymentRow]:
    """Those that are reserved on a channel, oldest first."""
    return _payments(connection, "channel = ? AND state IN ('HELD', 'ORDERED', 'DONE') ORDER BY n", (channel_id,))


def payments_page(
    connection: sqlite3.Connection, channel_id: str | None, state: str | None, limit: int, after: int | None
) -> list[PaymentRow]:
    """Newest first, `limit` of them before number `after`."""
    where, params = ["n < ?"], [after if after is not None else 2**62]
    for column, value in (("channel", channel_id), ("state", state)):
        if value is not None:
            where.append(f"{column} = ?")
            params.append(value)  # type: ignore[arg-type]
    return _payments(connection, " AND ".join(where) + " ORDER BY n DESC LIMIT ?", (*params, limit))


def insert_payment(connection: sqlite3.Connection, row: PaymentRow, event: PaymentEvent, key: str) -> PaymentRow:
    """Store a new payment with the transition that made it. Raises Conflict for a key that was used."""
    values = [getattr(row, field.name) for field in fields(row)]
    cursor = connection.execute(
        f"INSERT INTO payment ({_PAYMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our text)
        (None, *values[1:]),
    )
    note(connection, key, row.id, event, row.state)
    return replace(row, n=cursor.lastrowid or 0)


def unpaid_since(connection: sqlite3.Connection, before: int) -> list[PaymentRow]:
    """As a provider: payments for results that were delivered before then (Unix seconds) and never paid."""
    late = "SELECT 1 FROM transition WHERE key = payment.id || '/done' AND time < ?"
    return _payments(connection, f"role = 'provider' AND state = 'DONE' AND EXISTS ({late})", (before,))


def move_payment(
    connection: sqlite3.Connection, row: PaymentRow, event: PaymentEvent, key: str | None = None, **changes: Any
) -> PaymentRow:
    """Take a step: the row and its transition. Raises BadTransition, and Conflict for a key that was used."""
    after = next_payment(row.state, event)
    note(connection, key or f"{row.id}/{event}", row.id, event, after)
    changes = {"state": after, **changes}
    connection.execute(_update("payment", tuple(changes)), (*changes.values(), row.id))
    return replace(row, **changes)
