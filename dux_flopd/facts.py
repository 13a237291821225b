"""The index of what the chain says of settled work, bonds, proposals and votes, from the network's first block on.

Rows are raw facts and each stands at its place in the chain, so a node that reads the whole chain today holds the same
rows as one that followed it, and undoing blocks is deleting what is above a height. The hashes of all blocks that were
read are kept: whoever follows the facts can say up to which block it has read. Everything here runs inside a read or a
write of the store and does no other I/O.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from duxcommon.api.flopd import (
    BlockRef,
    BondFact,
    BondPage,
    FundFact,
    FundPage,
    NoteFact,
    NotePage,
    Place,
    SettlementFact,
    SettlementPage,
)
from duxcommon.coin.script import FundingNote
from duxcommon.coin.settlement import Prevout
from duxcommon.errors import ChainMoved, ChainSyncing, InvalidParams

from . import outputs
from .blocks import Block
from .core import OutpointKey
from .outputs import Tip, Unconnected
from .scan import Found
from .schema import FUND_REF

TABLES = ("settlements", "bonds", "notes", "deposits", "fact_blocks")

_FUNDS = f"(SELECT script FROM watches WHERE ref GLOB '{FUND_REF}*')"  # noqa: S608 - a constant
_RANGE = "({0}height, {0}idx, {0}part) > (:height, :index, :part) AND {0}height <= :end"
_ORDER = "ORDER BY height, idx, part LIMIT :limit"
_TABLE = f"SELECT * FROM {{}} WHERE {_RANGE.format('')} {_ORDER}"  # noqa: S608 - filled with constants
# The indexes are named, so that what the fund was ever paid is not read and sorted for what is new in the last block.
_FUND_ROWS = f"""
SELECT height, idx, part, 'paid' AS event, txid, vout, amount, script, NULL AS spender
FROM outputs INDEXED BY outputs_paid WHERE height IS NOT NULL AND {_RANGE.format("")} AND script IN {_FUNDS}
UNION ALL
SELECT spender_height, spender_idx, spender_part, 'spent', txid, vout, amount, script, spender_txid
FROM outputs INDEXED BY outputs_spent
WHERE spender_height IS NOT NULL AND {_RANGE.format("spender_")} AND height IS NOT NULL AND script IN {_FUNDS}
{_ORDER}
"""  # noqa: S608 - constants

T = TypeVar("T")


# --- blocks --------------------------------------------------------------------------------------------------------


def tip(connection: sqlite3.Connection) -> Tip | None:
    """The last block whose facts are here."""
    row = connection.execute("SELECT height, hash FROM fact_blocks ORDER BY height DESC LIMIT 1").fetchone()
    return Tip(row[0], row[1].hex()) if row else None


def hash_at(connection: sqlite3.Connection, height: int) -> str | None:
    """The hash of a block that was read."""
    row = connection.execute("SELECT hash FROM fact_blocks WHERE height = ?", (height,)).fetchone()
    return row[0].hex() if row else None


def deposit(connection: sqlite3.Connection, spent: OutpointKey) -> Prevout | None:
    """An output of a transaction with a funding note."""
    row = connection.execute(
        "SELECT script, amount, height, note FROM deposits WHERE txid = ? AND vout = ?",
        (bytes.fromhex(spent[0]), spent[1]),
    ).fetchone()
    return Prevout(row[0], row[1], row[2], FundingNote.decode(row[3])) if row else None


def apply(connection: sqlite3.Connection, block: Block, height: int, found: Found) -> None:
    """Add what a block says, if it is the next one. Raises Unconnected."""
    last = tip(connection)
    if last is not None and (last.height != height - 1 or last.hash != block.prev):
        raise Unconnected
    connection.execute("INSERT INTO fact_blocks VALUES (?, ?)", (height, bytes.fromhex(block.hash)))
    connection.executemany(
        "INSERT INTO deposits VALUES (?, ?, ?, ?, ?, ?)",
        [
            (bytes.fromhex(made.outpoint[0]), made.outpoint[1], height, out.amount, out.script, out.note.encode())
            for made in found.deposits
            if (out := made.prevout).note is not None
        ],
    )
    connection.executemany(
        "INSERT INTO settlements VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (height, one.index, bytes.fromhex(c.txid), c.terms.provider, c.terms.buyer, c.terms.arbiter,
             c.terms.lock_height, c.payout, c.tax, c.change, c.fee, c.awarded, c.fund_script, json.dumps(c.deposits))
            for one in found.settled
            for c in (one.candidate,)
        ],
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO bonds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (height, one.index, one.vout, bytes.fromhex(one.txid), one.pubkey, one.lock_height, one.amount,
             _dump_paid(one.paid))
            for one in found.bonded
        ],
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO notes VALUES (?, ?, 0, ?, ?, ?, ?)",
        [
            (height, one.index, bytes.fromhex(one.txid), one.data, _dump_paid(one.paid), b"".join(one.signers))
            for one in found.noted
        ],
    )


def undo_above(connection: sqlite3.Connection, height: int) -> None:
    """Forget what the blocks above `height` said."""
    for table in TABLES:
        connection.execute(f"DELETE FROM {table} WHERE height > ?", (height,))  # noqa: S608 - constants


def _dump_paid(paid: dict[bytes, int]) -> str:
    return json.dumps({script.hex(): amount for script, amount in paid.items()})


# --- pages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Which facts are wanted: see `chain.settlements`."""

    from_height: int
    to_height: int | None
    after: Place | None
    base: BlockRef | None
    limit: int


def settlements(connection: sqlite3.Connection, asked: Asked) -> SettlementPage:
    """A page of candidates for settled work. Raises ChainMoved, ChainSyncing, InvalidParams."""

    def fact(row: sqlite3.Row) -> SettlementFact:
        return SettlementFact(
            at=_place(row),
            txid=row["txid"].hex(),
            provider=row["provider"].hex(),
            buyer=row["buyer"].hex(),
            arbiter=row["arbiter"].hex(),
            lock_height=row["lock_height"],
            payout=row["payout"],
            tax=row["tax"],
            change=row["change"],
            fee=row["fee"],
            awarded=bool(row["awarded"]),
            fund_script=row["fund_script"].hex(),
            deposits=json.loads(row["deposits"]),
        )

    facts, after, end = _page(connection, asked, _TABLE.format("settlements"), fact)
    return SettlementPage(facts=facts, next=after, tip=end)


def bonds(connection: sqlite3.Connection, asked: Asked) -> BondPage:
    """A page of bonds. Raises like `settlements`."""

    def fact(row: sqlite3.Row) -> BondFact:
        return BondFact(
            at=_place(row),
            txid=row["txid"].hex(),
            vout=row["part"],
            pubkey=row["pubkey"].hex(),
            lock_height=row["lock_height"],
            amount=row["amount"],
            paid=json.loads(row["paid"]),
        )

    facts, after, end = _page(connection, asked, _TABLE.format("bonds"), fact)
    return BondPage(facts=facts, next=after, tip=end)


def notes(connection: sqlite3.Connection, asked: Asked) -> NotePage:
    """A page of proposals, votes and approvals. Raises like `settlements`."""

    def fact(row: sqlite3.Row) -> NoteFact:
        keys = row["signers"].hex()
        return NoteFact(
            at=_place(row),
            txid=row["txid"].hex(),
            note=row["data"].hex(),
            paid=json.loads(row["paid"]),
            signers=[keys[start : start + 66] for start in range(0, len(keys), 66)],
        )

    facts, after, end = _page(connection, asked, _TABLE.format("notes"), fact)
    return NotePage(facts=facts, next=after, tip=end)


def fund(connection: sqlite3.Connection, asked: Asked) -> FundPage:
    """A page of payments to the fund and spendings of them. Raises like `settlements`."""

    def fact(row: sqlite3.Row) -> FundFact:
        return FundFact(
            at=_place(row),
            event=row["event"],
            txid=row["txid"],
            vout=row["vout"],
            amount=row["amount"],
            script=row["script"],
            spender=row["spender"],
        )

    scanned = connection.execute(f"SELECT min(scanned) FROM scripts WHERE script IN {_FUNDS}").fetchone()[0]  # noqa: S608
    facts, after, end = _page(connection, asked, _FUND_ROWS, fact, scanned)
    return FundPage(facts=facts, next=after, tip=end)


def _page(
    connection: sqlite3.Connection,
    asked: Asked,
    query: str,
    fact: Callable[[sqlite3.Row], T],
    scanned: int | None = None,
) -> tuple[list[T], Place | None, BlockRef]:
    """Facts of one kind, the place to go on after, and the block up to which this tells everything."""
    connection.execute("BEGIN")
    try:
        end = _end(connection, asked, scanned)
        start = max(asked.from_height, asked.base.height + 1 if asked.base else 0)
        after = (start, -1, -1)
        if asked.after is not None:
            after = max(after, (asked.after.height, asked.after.index, asked.after.part))
        bounds = dict(zip(("height", "index", "part"), after, strict=True))
        rows = connection.execute(query, {**bounds, "end": end.height, "limit": asked.limit + 1}).fetchall()
    finally:
        connection.execute("COMMIT")
    told = rows[: asked.limit]
    return [fact(row) for row in told], _place(told[-1]) if len(rows) > len(told) else None, end


def _end(connection: sqlite3.Connection, asked: Asked, scanned: int | None) -> BlockRef:
    """The block at which the answer ends, after a look at the one up to which the caller has read."""
    last = tip(connection)
    base = asked.base
    if base is not None:
        known = hash_at(connection, base.height)
        # A block above those read may still come, while old blocks are being read.
        caught_up = last is not None and last == outputs.tip(connection)
        if known != base.hash and (known is not None or caught_up):
            raise ChainMoved(f"block {base.height} is another one now", details={"height": base.height})
    if last is None:
        raise ChainSyncing("no block of this network was read yet")
    heights = [height for height in (last.height, asked.to_height, scanned) if height is not None]
    found = hash_at(connection, min(heights))
    if found is not None:
        return BlockRef(height=min(heights), hash=found)
    if asked.to_height is not None and asked.to_height == min(heights):
        raise InvalidParams(f"block {asked.to_height} lies before the network's first block")
    raise ChainSyncing("the community fund's addresses are being looked for in old blocks")


def _place(row: sqlite3.Row) -> Place:
    return Place(height=row["height"], index=row["idx"], part=row["part"])
