"""What pays the watched scripts and what spends those payments, block by block.

Each script carries the height up to which it was scanned, so that one block is read once for all scripts that are at
the same height, and a script that was added later catches up by itself. Everything here runs inside a read or a
write of the store and does no other I/O.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from duxcommon.api.flopd import Watched, WatchedOutput
from duxcommon.errors import Conflict, WatchUnknown

from . import intents
from .blocks import Block, SeenTx
from .core import OutpointKey
from .schema import KEPT_BLOCKS


class Unconnected(Exception):
    """The block does not continue the blocks that are stored: the chain was reorganised in the meantime."""


@dataclass(frozen=True, slots=True)
class Tip:
    """The last block that was looked at."""

    height: int
    hash: str


def tip(connection: sqlite3.Connection) -> Tip | None:
    """The last block that was applied."""
    row = connection.execute("SELECT height, hash FROM blocks ORDER BY height DESC LIMIT 1").fetchone()
    return Tip(*row) if row else None


def kept(connection: sqlite3.Connection) -> list[Tip]:
    """The stored blocks, newest first."""
    return [Tip(*row) for row in connection.execute("SELECT height, hash FROM blocks ORDER BY height DESC")]


def jump(connection: sqlite3.Connection, to: Tip) -> None:
    """Start afresh at a block, without looking at those before it."""
    connection.execute("DELETE FROM blocks")
    connection.execute("INSERT INTO blocks VALUES (?, ?)", (to.height, to.hash))


# --- watching ----------------------------------------------------------------------------------------------------


def watch(connection: sqlite3.Connection, script: str, ref: str, birth: int | None) -> None:
    """Follow a script under a name, from block `birth` on (by default from the next block).

    Doing it again changes nothing; an earlier birth makes the script be scanned from there. Raises Conflict when the
    name stands for another script.
    """
    known = connection.execute("SELECT script FROM watches WHERE ref = ?", (ref,)).fetchone()
    if known is not None and known["script"] != script:
        raise Conflict(f"{ref!r} already stands for another script", hint="Choose another name for this script.")
    at = tip(connection)
    now = at.height if at else -1
    first = now + 1 if birth is None else min(birth, now + 1)
    connection.execute(
        "INSERT INTO scripts (script, birth, scanned) VALUES (?1, ?2, ?2 - 1) ON CONFLICT (script) DO UPDATE SET "
        "scanned = min(scanned, excluded.scanned), birth = excluded.birth WHERE excluded.birth < birth",
        (script, first),
    )
    connection.execute("INSERT OR IGNORE INTO watches VALUES (?, ?)", (ref, script))


def lagging(connection: sqlite3.Connection, height: int) -> int | None:
    """The lowest block that some script still has to be scanned in, up to `height`; None when all are done."""
    row = connection.execute("SELECT min(scanned) FROM scripts WHERE scanned < ?", (height,)).fetchone()
    return None if row[0] is None else int(row[0]) + 1


def scanned(connection: sqlite3.Connection, script: str) -> int:
    """The last block in which a watched script was looked for."""
    return int(connection.execute("SELECT scanned FROM scripts WHERE script = ?", (script,)).fetchone()[0])


def watched(connection: sqlite3.Connection, ref: str, min_height: int) -> Watched:
    """All outputs under a name, oldest first; see `chain.watched`. Raises WatchUnknown."""
    found = connection.execute(
        "SELECT script, scanned FROM watches JOIN scripts USING (script) WHERE ref = ?", (ref,)
    ).fetchone()
    if found is None:
        raise WatchUnknown(f"nothing is watched under the name {ref[:80]!r}")
    at = tip(connection)
    now = at.height if at else found["scanned"]
    rows = connection.execute(
        "SELECT txid, vout, amount, height, note, spender_txid, spender_height FROM outputs "
        "WHERE script = ? AND (height IS NULL OR height >= ? OR "
        "(spender_txid IS NOT NULL AND (spender_height IS NULL OR spender_height >= ?))) "
        "ORDER BY height IS NULL, height, txid, vout",
        (found["script"], min_height, min_height),
    )
    return Watched(
        ref=ref,
        script=found["script"],
        height=max(0, min(now, found["scanned"])),
        outputs=_replies(connection, rows.fetchall(), now),
    )


def _replies(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row], now: int) -> list[WatchedOutput]:
    """The wire form. A transaction can spend hundreds of outputs: its bytes are told with the first one alone."""
    told: set[str] = set()
    replies = []
    for row in rows:
        raw, spender = None, row["spender_txid"]
        if spender is not None and spender not in told:
            told.add(spender)
            raw = connection.execute("SELECT hex FROM spenders WHERE txid = ?", (spender,)).fetchone()[0]
        replies.append(_reply(row, raw, now))
    return replies


def _reply(row: sqlite3.Row, raw: str | None, now: int) -> WatchedOutput:
    return WatchedOutput(
        txid=row["txid"],
        vout=row["vout"],
        amount=row["amount"],
        height=row["height"],
        confirmations=_depth(row["height"], now),
        note=row["note"].hex() if row["note"] is not None else None,
        spender_txid=row["spender_txid"],
        spender_height=row["spender_height"],
        spender_confirmations=_depth(row["spender_height"], now),
        spender_hex=raw,
    )


def _depth(height: int | None, now: int) -> int:
    return 0 if height is None else max(0, now - height + 1)


# --- blocks ------------------------------------------------------------------------------------------------------


def apply(connection: sqlite3.Connection, block: Block, height: int, *, live: bool) -> list[OutpointKey]:
    """Look at one block for all scripts that were scanned up to the one before.

    A `live` block extends the chain and decides open intents; one that is not only lets scripts catch up. Returns the
    coins that are free again. Raises Unconnected.
    """
    _check_place(connection, block, height, live=live)
    scripts = {
        bytes.fromhex(row[0])
        for row in connection.execute("SELECT script FROM scripts WHERE scanned = ?", (height - 1,))
    }
    followed = intents.followed(connection) if live else set()
    freed: list[OutpointKey] = []
    # Where nothing is looked for, the block is not even read.
    for index, seen in enumerate(block.txs if scripts or followed else ()):
        for number, spent in enumerate(seen.spends):
            if scripts and _is_unspent(connection, spent, height - 1):
                _spend(connection, spent, seen, (height, index, number))
            if spent in followed:
                freed += intents.on_spend(connection, spent, seen, height)
        for vout, (script, amount) in enumerate(seen.pays):
            if script in scripts:
                connection.execute(
                    "INSERT INTO outputs (txid, vout, script, amount, note, height, idx, part) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (txid, vout) DO UPDATE SET "
                    "note = excluded.note, height = excluded.height, idx = excluded.idx, part = excluded.part",
                    (seen.txid, vout, script.hex(), amount, seen.note, height, index, len(seen.spends) + vout),
                )
    connection.execute("UPDATE scripts SET scanned = ? WHERE scanned = ?", (height, height - 1))
    if live:
        connection.execute("INSERT INTO blocks VALUES (?, ?)", (height, block.hash))
        connection.execute("DELETE FROM blocks WHERE height <= ?", (height - KEPT_BLOCKS,))
    return freed


def _is_unspent(connection: sqlite3.Connection, spent: OutpointKey, scanned: int) -> bool:
    """Whether no block spends this output, of a script that was scanned so far: one look for each input of a block,
    as the fund may have a million payments that wait, and a block has some thousand inputs at most.
    """
    found = connection.execute(
        "SELECT 1 FROM outputs JOIN scripts USING (script) "
        "WHERE txid = ? AND vout = ? AND spender_height IS NULL AND scanned = ?",
        (*spent, scanned),
    ).fetchone()
    return found is not None


def _check_place(connection: sqlite3.Connection, block: Block, height: int, *, live: bool) -> None:
    stored = dict(
        connection.execute("SELECT height, hash FROM blocks WHERE height IN (?, ?)", (height - 1, height)).fetchall()
    )
    if stored.get(height - 1, block.prev) != block.prev or stored.get(height, block.hash) != block.hash:
        raise Unconnected
    if live and height in stored:
        raise Unconnected


def _spend(
    connection: sqlite3.Connection, spent: OutpointKey, seen: SeenTx, place: tuple[int, int, int] | None
) -> None:
    """A transaction spends a watched output: at that height, place in the block and input, or in the mempool."""
    spender = connection.execute(
        "UPDATE outputs SET spender_txid = ?, spender_height = ?, spender_idx = ?, spender_part = ? "
        "WHERE txid = ? AND vout = ? AND spender_height IS NULL RETURNING spender_txid",
        (seen.txid, *(place or (None, None, None)), *spent),
    ).fetchone()
    if spender is not None:
        connection.execute("INSERT OR IGNORE INTO spenders VALUES (?, ?)", (seen.txid, seen.hex))


def undo_above(connection: sqlite3.Connection, height: int) -> None:
    """The blocks above `height` are gone; what was in them waits in the mempool again, until that says otherwise."""
    connection.execute("UPDATE outputs SET height = NULL, idx = NULL, part = NULL WHERE height > ?", (height,))
    connection.execute(
        "UPDATE outputs SET spender_height = NULL, spender_idx = NULL, spender_part = NULL WHERE spender_height > ?",
        (height,),
    )
    connection.execute("UPDATE scripts SET scanned = max(?, birth - 1) WHERE scanned > ?", (height, height))
    connection.execute("DELETE FROM blocks WHERE height > ?", (height,))
    intents.undo_above(connection, height)


# --- the mempool -------------------------------------------------------------------------------------------------


def note(connection: sqlite3.Connection, seen: Iterable[SeenTx]) -> None:
    """These transactions are in the mempool."""
    for tx in seen:
        for spent in tx.spends:
            _spend(connection, spent, tx, None)
        for vout, (script, amount) in enumerate(tx.pays):
            connection.execute(
                "INSERT OR IGNORE INTO outputs (txid, vout, script, amount, note) "
                "SELECT ?, ?, script, ?, ? FROM scripts WHERE script = ?",
                (tx.txid, vout, amount, tx.note, script.hex()),
            )


def unconfirmed(connection: sqlite3.Connection) -> set[str]:
    """Ids of the transactions that are noted as waiting in the mempool."""
    rows = connection.execute(
        "SELECT txid FROM outputs WHERE height IS NULL UNION "
        "SELECT spender_txid FROM outputs WHERE spender_height IS NULL AND spender_txid IS NOT NULL"
    )
    return {row[0] for row in rows}


def vanish(connection: sqlite3.Connection, txids: Collection[str]) -> None:
    """These are neither in the mempool nor in a block any more."""
    for txid in txids:
        connection.execute("DELETE FROM outputs WHERE height IS NULL AND txid = ?", (txid,))
        connection.execute(
            "UPDATE outputs SET spender_txid = NULL WHERE spender_height IS NULL AND spender_txid = ?",
            (txid,),
        )


def mempool(connection: sqlite3.Connection, gone: Collection[str], seen: Iterable[SeenTx]) -> None:
    """Forget some transactions and note others."""
    vanish(connection, gone)
    note(connection, seen)


def any_watched(connection: sqlite3.Connection) -> bool:
    """Whether there is any script to look for."""
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM scripts)").fetchone()[0])


def spender(connection: sqlite3.Connection, spent: OutpointKey) -> tuple[str, int] | None:
    """The confirmed transaction (hex) that spends a watched output, and its height."""
    row = connection.execute(
        "SELECT hex, spender_height FROM outputs JOIN spenders ON spenders.txid = spender_txid "
        "WHERE outputs.txid = ? AND vout = ? AND spender_height IS NOT NULL",
        spent,
    ).fetchone()
    return (row[0], row[1]) if row else None


def spending(connection: sqlite3.Connection, txid: str) -> tuple[str, int] | None:
    """A confirmed transaction (hex) that spends some watched output, and its height."""
    row = connection.execute(
        "SELECT hex, spender_height FROM outputs JOIN spenders ON spenders.txid = spender_txid "
        "WHERE spender_txid = ? AND spender_height IS NOT NULL LIMIT 1",
        (txid,),
    ).fetchone()
    return (row[0], row[1]) if row else None


def amounts(connection: sqlite3.Connection, spent: Sequence[OutpointKey]) -> dict[OutpointKey, int]:
    """The amounts of those outputs that are known here."""
    found = {}
    for outpoint in spent:
        row = connection.execute("SELECT amount FROM outputs WHERE txid = ? AND vout = ?", outpoint).fetchone()
        if row is not None:
            found[outpoint] = int(row[0])
    return found


def paid(connection: sqlite3.Connection, spent: Sequence[OutpointKey]) -> dict[OutpointKey, tuple[bytes, int]]:
    """Script and amount of those outputs that are known here."""
    found = {}
    for outpoint in spent:
        row = connection.execute("SELECT script, amount FROM outputs WHERE txid = ? AND vout = ?", outpoint).fetchone()
        if row is not None:
            found[outpoint] = (bytes.fromhex(row["script"]), int(row["amount"]))
    return found


# --- Core's watch-only imports -----------------------------------------------------------------------------------


def to_import(connection: sqlite3.Connection) -> list[str]:
    """Scripts that Core's wallet was not told of yet."""
    return [row[0] for row in connection.execute("SELECT script FROM scripts WHERE imported = 0")]


def is_imported(connection: sqlite3.Connection, script: str) -> bool:
    """Whether Core's wallet was told of a watched script."""
    row = connection.execute("SELECT imported FROM scripts WHERE script = ?", (script,)).fetchone()
    return bool(row[0])


def imported(connection: sqlite3.Connection, script: str) -> None:
    """Core's wallet knows the script."""
    connection.execute("UPDATE scripts SET imported = 1 WHERE script = ?", (script,))
