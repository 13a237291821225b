"""Transactions of ours, from the first plan to a block: the states, and the rows that hold them.

An intent is committed with its bytes, id and inputs before anything is sent. After a crash the row says what may
already be on its way; sending the same bytes again does no harm. What became of it is told by the outputs that it
spends, not by its id, because a miner can change the id of any transaction.

Everything here runs inside a write of the store and does no other I/O.
"""

import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from duxcommon.api.flopd import IntentState
from duxcommon.errors import Conflict, IntentSent, IntentUnknown

from .blocks import SeenTx
from .core import OutpointKey
from .schema import FUND_REF

Event = Literal["send", "refuse", "cancel", "confirm", "conflict", "undo", "undo_unsent"]

STATES: tuple[IntentState, ...] = get_args(IntentState)

MACHINE: dict[tuple[IntentState, Event], IntentState] = {
    ("built", "send"): "sent",
    # The mempool refused it when it was first sent, so nobody else has it.
    ("sent", "refuse"): "built",
    ("built", "cancel"): "cancelled",
    # A transaction that a peer also holds can confirm before we send it.
    ("built", "confirm"): "confirmed",
    ("sent", "confirm"): "confirmed",
    ("built", "conflict"): "conflicted",
    ("sent", "conflict"): "conflicted",
    # The block that decided was lost in a reorganisation.
    ("confirmed", "undo"): "sent",
    ("conflicted", "undo"): "sent",
    ("conflicted", "undo_unsent"): "built",
}
"""Every transition there is."""

OPEN = ("built", "sent")
"""States in which a block may still decide."""


def step(state: IntentState, event: Event) -> IntentState:
    """The state after an event. Raises KeyError for one that can't happen in `state`."""
    return MACHINE[state, event]


@dataclass(frozen=True, slots=True)
class Input:
    """An output that an intent spends."""

    txid: str
    vout: int
    amount: int
    """Koinu; 0 where it is not known."""

    @property
    def key(self) -> OutpointKey:
        return self.txid, self.vout


@dataclass(frozen=True, slots=True)
class Draft:
    """A signed transaction, ready to be committed."""

    owner: int
    key: str
    params: str
    purpose: str
    ref: str
    hex: str
    txid: str
    same: str
    fee: int
    inputs: tuple[Input, ...]
    picked: bool
    """Its inputs are coins of the wallet that were picked for it; no other intent may pick them."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A committed intent."""

    id: str
    owner: int
    key: str
    params: str
    purpose: str
    ref: str
    state: IntentState
    hex: str
    made_txid: str
    txid: str
    same: str
    fee: int
    picked: int
    sends: int
    height: int | None
    created: int


_COLUMNS = ", ".join(Intent.__slots__)


def _intents(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Intent]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM intents WHERE {where}", values)  # noqa: S608
    return [Intent(*row) for row in rows]


def get(connection: sqlite3.Connection, intent_id: str) -> Intent:
    """The intent. Raises IntentUnknown."""
    found = _intents(connection, "id = ?", (intent_id,))
    if not found:
        raise IntentUnknown(f"there is no transaction {intent_id[:64]!r}")
    return found[0]


def by_key(connection: sqlite3.Connection, owner: int, key: str, params: str) -> Intent | None:
    """What an idempotency key stands for. Raises Conflict when it was used with other parameters."""
    found = _intents(connection, "owner = ? AND key = ?", (owner, key))
    if found and found[0].params != params:
        raise Conflict(f"key {key!r} was used before with other parameters")
    return found[0] if found else None


def waiting(connection: sqlite3.Connection) -> list[Intent]:
    """Sent and not yet in a block, oldest first: these are sent again."""
    return _intents(connection, "state = 'sent' ORDER BY created, rowid", ())


def of_txid(connection: sqlite3.Connection, txid: str) -> Intent | None:
    """The intent with this transaction id, as it was made or as it was mined."""
    found = _intents(connection, "txid = ?1 OR made_txid = ?1", (txid,))
    return found[0] if found else None


def inputs_of(connection: sqlite3.Connection, intent_id: str) -> list[Input]:
    """The outputs that an intent spends."""
    rows = connection.execute("SELECT txid, vout, amount FROM intent_inputs WHERE intent = ?", (intent_id,))
    return [Input(*row) for row in rows]


def held(connection: sqlite3.Connection, *states: IntentState) -> dict[OutpointKey, int]:
    """The wallet's coins that intents in these states hold, with their amounts."""
    marks = ", ".join("?" * len(states))
    rows = connection.execute(
        f"SELECT i.txid, vout, amount FROM intent_inputs i JOIN intents ON id = intent "  # noqa: S608
        f"WHERE held = 1 AND state IN ({marks})",
        states,
    )
    return {(row[0], row[1]): row[2] for row in rows}


def add(connection: sqlite3.Connection, draft: Draft, *, sending: bool) -> Intent:
    """Commit a draft, as `sent` when it is sent right after this commit.

    Raises sqlite3.IntegrityError when another intent holds one of its coins.
    """
    intent_id = secrets.token_hex(16)
    connection.execute(
        "INSERT INTO intents (id, owner, key, params, purpose, ref, state, hex, made_txid, txid, same, fee, picked, "
        "sends, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(intent_id, draft.owner, draft.key, draft.params, draft.purpose, draft.ref),
            *("sent" if sending else "built", draft.hex, draft.txid, draft.txid, draft.same, draft.fee),
            *(int(draft.picked), int(sending), int(time.time())),
        ),
    )
    connection.executemany(
        "INSERT INTO intent_inputs VALUES (?, ?, ?, ?, ?)",
        [(intent_id, given.txid, given.vout, given.amount, int(draft.picked)) for given in draft.inputs],
    )
    return get(connection, intent_id)


def move(connection: sqlite3.Connection, intent: Intent, event: Event) -> Intent:
    """Take one step that no block decides: send, refuse, cancel.

    A refused or cancelled intent was never out of our hands; a cancelled one lets go of its coins.
    """
    state = step(intent.state, event)
    connection.execute("UPDATE intents SET state = ?, sends = ? WHERE id = ?", (state, int(event == "send"), intent.id))
    if event == "cancel":
        _release(connection, intent.id)
    return get(connection, intent.id)


def move_if(connection: sqlite3.Connection, intent_id: str, state: IntentState, event: Event) -> Intent:
    """Like `move`, unless the intent has left `state` in the meantime."""
    intent = get(connection, intent_id)
    return move(connection, intent, event) if intent.state == state else intent


def cancel(connection: sqlite3.Connection, intent_id: str) -> Intent:
    """Give up an intent that was never sent; doing it again changes nothing. Raises IntentUnknown, IntentSent."""
    intent = get(connection, intent_id)
    if intent.state == "cancelled":
        return intent
    if intent.state != "built":
        raise IntentSent(f"the transaction was sent (it is {intent.state}) and can't be cancelled")
    return move(connection, intent, "cancel")


def on_spend(connection: sqlite3.Connection, spent: OutpointKey, seen: SeenTx, height: int) -> list[OutpointKey]:
    """A block at `height` holds `seen`, which spends `spent`: decide the open intents that wanted that output.

    Returns the coins that are free again.
    """
    rivals = _intents(
        connection,
        "state IN ('built', 'sent') AND id IN (SELECT intent FROM intent_inputs WHERE txid = ? AND vout = ?)",
        spent,
    )
    freed: list[OutpointKey] = []
    for intent in rivals:
        if intent.same == seen.same:
            _confirm(connection, intent, seen, height)
            if seen.txid != intent.made_txid:
                # Whatever spends the id that we made spends an output that will never exist.
                freed += _orphan(connection, intent.made_txid, height)
        else:
            freed += _conflict(connection, intent, height)
    return freed


def _confirm(connection: sqlite3.Connection, intent: Intent, seen: SeenTx, height: int) -> None:
    connection.execute(
        "UPDATE intents SET state = ?, txid = ?, height = ?, sends = 1 WHERE id = ?",
        (step(intent.state, "confirm"), seen.txid, height, intent.id),
    )


def _conflict(connection: sqlite3.Connection, intent: Intent, height: int) -> list[OutpointKey]:
    connection.execute(
        "UPDATE intents SET state = ?, height = ? WHERE id = ?", (step(intent.state, "conflict"), height, intent.id)
    )
    return _release(connection, intent.id) + _orphan(connection, intent.made_txid, height)


def _orphan(connection: sqlite3.Connection, txid: str, height: int) -> list[OutpointKey]:
    children = _intents(
        connection,
        "state IN ('built', 'sent') AND id IN (SELECT intent FROM intent_inputs WHERE txid = ?)",
        (txid,),
    )
    return [freed for child in children for freed in _conflict(connection, child, height)]


def _release(connection: sqlite3.Connection, intent_id: str) -> list[OutpointKey]:
    rows = connection.execute(
        "UPDATE intent_inputs SET held = 0 WHERE intent = ? AND held = 1 RETURNING txid, vout", (intent_id,)
    )
    return [(row[0], row[1]) for row in rows.fetchall()]


def undo_above(connection: sqlite3.Connection, height: int) -> None:
    """The blocks above `height` are gone: what they decided is open again."""
    for intent in _intents(connection, "height > ?", (height,)):
        state = step(intent.state, "undo" if intent.sends else "undo_unsent")
        connection.execute(
            "UPDATE intents SET state = ?, height = NULL, txid = made_txid WHERE id = ?", (state, intent.id)
        )
        # Its coins are its own again, unless they were given to another transaction in the meantime.
        connection.execute(
            "UPDATE OR IGNORE intent_inputs SET held = 1 WHERE intent = ? AND ?", (intent.id, intent.picked)
        )


def followed(connection: sqlite3.Connection) -> set[OutpointKey]:
    """The outputs whose spending decides an open intent."""
    rows = connection.execute(
        "SELECT i.txid, vout FROM intent_inputs i JOIN intents ON id = intent WHERE state IN ('built', 'sent')"
    )
    return {(row[0], row[1]) for row in rows}


def confirmed_spender(connection: sqlite3.Connection, spent: OutpointKey) -> str | None:
    """The id of the transaction of ours in a block that spends an output."""
    row = connection.execute(
        "SELECT intents.txid FROM intent_inputs i JOIN intents ON id = intent "
        "WHERE i.txid = ? AND vout = ? AND state = 'confirmed'",
        spent,
    ).fetchone()
    return row[0] if row else None


def record_mined(connection: sqlite3.Connection, intent: Intent, height: int) -> Intent:
    """Core says that a block holds the transaction, one that was looked at before the intent was made."""
    connection.execute(
        "UPDATE intents SET state = ?, height = ?, sends = 1 WHERE id = ?",
        (step(intent.state, "confirm"), height, intent.id),
    )
    return get(connection, intent.id)


_PAYS_THE_FUND = f"EXISTS (SELECT 1 FROM watches WHERE watches.script = outputs.script AND ref GLOB '{FUND_REF}*')"  # noqa: S608
"""Of an output: it belongs to the community fund, under one of the names by which its scripts are watched."""


def in_channels(connection: sqlite3.Connection) -> int:
    """Koinu that the wallet paid to watched scripts and that nobody has spent."""
    row = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM outputs WHERE spender_txid IS NULL "  # noqa: S608
        "AND EXISTS (SELECT 1 FROM intents WHERE intents.txid = outputs.txid AND picked = 1) "
        f"AND NOT {_PAYS_THE_FUND}"
    ).fetchone()
    return int(row[0])


def purpose_of(connection: sqlite3.Connection, txid: str) -> str | None:
    """What a transaction was for: as its intent says, or what spent a watched output.

    `payout` when that was the community fund's, whichever guardian sent it, and `close` when a peer closed one of our
    channels.
    """
    intent = of_txid(connection, txid)
    if intent is not None and not intent.purpose.startswith("fund-"):
        return intent.purpose
    query = f"SELECT {_PAYS_THE_FUND} FROM outputs WHERE spender_txid = ? LIMIT 1"  # noqa: S608
    row = connection.execute(query, (txid,)).fetchone()
    if row is None:
        return None
    return "payout" if row[0] else "close"
