"""What governance keeps in dux-airdropd's database: notes and electorates of the chain, documents, own votes."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from duxcommon.api.flopd import NoteFact, NotePage
from duxcommon.coin.notes import ApprovalNote, ProposalNote, VoteNote, decode
from duxcommon.db import Store
from duxcommon.follow import Kind
from duxcommon.money import DUST

from .proposals import Place
from .timeline import Asked, Census, Entry

MIGRATION = """
CREATE TABLE vote_note (
  height INTEGER NOT NULL, number INTEGER NOT NULL, part INTEGER NOT NULL,
  txid TEXT NOT NULL, data BLOB NOT NULL, paid TEXT NOT NULL, signers TEXT NOT NULL,
  PRIMARY KEY (height, number, part)
) STRICT, WITHOUT ROWID;

-- Electorate: the keys, ascending, 33 bytes each.
CREATE TABLE electorate (
  proposal TEXT NOT NULL, height INTEGER NOT NULL, number INTEGER NOT NULL, part INTEGER NOT NULL,
  keys BLOB NOT NULL, spendable INTEGER,
  PRIMARY KEY (proposal, height, number, part)
) STRICT, WITHOUT ROWID;

CREATE TABLE document (hash TEXT PRIMARY KEY, text TEXT NOT NULL, own INTEGER NOT NULL) STRICT, WITHOUT ROWID;

-- What this node puts on the chain; sent again until a block holds it.
CREATE TABLE cast_note (
  n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, proposal TEXT NOT NULL, yes INTEGER,
  data BLOB NOT NULL, state TEXT NOT NULL, intent TEXT, coin TEXT, txid TEXT, fee INTEGER NOT NULL DEFAULT 0,
  trouble TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX cast_note_proposal ON cast_note (proposal);
CREATE INDEX cast_note_open ON cast_note (state) WHERE state IN ('queued', 'sent');
"""

_KEY = 33
_LAST = 2**62
"""Above the number of anything within a block."""
PAGE = 5000
"""Notes that are read from the database at once."""

CastKind = Literal["proposal", "vote", "approval"]
CastState = Literal["queued", "sent", "confirmed", "dropped"]


# --- the chain's notes ---------------------------------------------------------------------------------------------


def entry_of(fact: NoteFact) -> Entry | None:
    """A note in the form in which it is judged; None for one that can't be about governance."""
    data = bytes.fromhex(fact.note)
    note = decode(data)
    # What pays nobody enough can't pay the fund enough, whatever its address was.
    if not isinstance(note, ProposalNote | VoteNote | ApprovalNote) or max(fact.paid.values(), default=0) < DUST:
        return None
    place = (fact.at.height, fact.at.index, fact.at.part)
    return Entry(place, fact.txid, note, data, fact.paid, frozenset(fact.signers))


def _apply(connection: sqlite3.Connection, facts: Sequence[NoteFact]) -> None:
    rows = []
    for entry in map(entry_of, facts):
        if entry is not None:
            signers = json.dumps(sorted(entry.signers))
            rows.append((*entry.place, entry.txid, entry.data, json.dumps(dict(entry.paid)), signers))
    connection.executemany("INSERT INTO vote_note VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _undo(connection: sqlite3.Connection, above: int) -> None:
    connection.execute("DELETE FROM vote_note WHERE height > ?", (above,))
    connection.execute("DELETE FROM electorate WHERE height > ?", (above,))


def kind(undone: Callable[[int], None]) -> Kind:
    """How dux-airdropd's follower keeps the notes.

    `undone` is called in the writer's thread, before the commit, with the height above which all is forgotten.
    """

    def undo(connection: sqlite3.Connection, above: int) -> None:
        _undo(connection, above)
        undone(above)

    return Kind("chain.notes", NotePage, _apply, undo)


def _entry(row: sqlite3.Row) -> Entry:
    note = decode(row["data"])
    assert note is not None
    place = (row["height"], row["number"], row["part"])
    signers = frozenset(json.loads(row["signers"]))
    return Entry(place, row["txid"], note, row["data"], json.loads(row["paid"]), signers)


def entries(connection: sqlite3.Connection, after: Place, to: int, limit: int) -> list[Entry]:
    """The first notes after a place, up to a height, in the order of the chain."""
    query = (
        "SELECT * FROM vote_note WHERE (height, number, part) > (?, ?, ?) AND height <= ? "
        "ORDER BY height, number, part LIMIT ?"
    )
    return [_entry(row) for row in connection.execute(query, (*after, to, limit))]


# --- electorates ---------------------------------------------------------------------------------------------------


def pack(keys: Sequence[str]) -> bytes:
    """Public keys, ascending, one after the other."""
    return b"".join(sorted(map(bytes.fromhex, keys)))


def put_census(connection: sqlite3.Connection, asked: Asked, census: Census) -> None:
    """Keep what was asked for a proposal at its place."""
    proposal, place = asked
    values = (proposal, *place, pack(sorted(census.electorate)), census.spendable)
    connection.execute("INSERT OR REPLACE INTO electorate VALUES (?, ?, ?, ?, ?, ?)", values)


def census(connection: sqlite3.Connection, asked: Asked) -> Census | None:
    """What was kept for a proposal at its place."""
    proposal, place = asked
    query = "SELECT keys, spendable FROM electorate WHERE proposal = ? AND height = ? AND number = ? AND part = ?"
    row = connection.execute(query, (proposal, *place)).fetchone()
    if row is None:
        return None
    keys = row["keys"]
    return Census(frozenset(keys[at : at + _KEY].hex() for at in range(0, len(keys), _KEY)), row["spendable"])


class Stored:
    """The notes and electorates of a database, read as they are needed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, asked: Asked, /) -> Census | None:
        """The census of a proposal at its place."""
        return self._store.read(lambda c: census(c, asked))

    def notes(self, above: int, to: int) -> Iterator[Entry]:
        """All notes above one height up to another, in the order of the chain."""
        after = (above, _LAST, _LAST)
        while found := self._store.read(partial(entries, after=after, to=to, limit=PAGE)):
            yield from found
            after = found[-1].place


# --- documents -------------------------------------------------------------------------------------------------------


def put_document(connection: sqlite3.Connection, digest: str, text: str, *, own: bool) -> None:
    """Keep a document whose hash was checked."""
    connection.execute(
        "INSERT INTO document VALUES (?, ?, ?) ON CONFLICT (hash) DO UPDATE SET own = max(own, excluded.own)",
        (digest, text, int(own)),
    )


def documents(connection: sqlite3.Connection) -> list[str]:
    """Hashes of all documents that are here."""
    return [row["hash"] for row in connection.execute("SELECT hash FROM document")]


def document(connection: sqlite3.Connection, digest: str) -> str | None:
    """The text of a document."""
    row = connection.execute("SELECT text FROM document WHERE hash = ?", (digest,)).fetchone()
    return None if row is None else str(row["text"])


def drop_documents(connection: sqlite3.Connection, digests: Iterable[str]) -> None:
    """Forget these documents."""
    connection.executemany("DELETE FROM document WHERE hash = ?", [(digest,) for digest in digests])


def own_documents(connection: sqlite3.Connection) -> list[str]:
    """Hashes of those that this node wrote."""
    return [row["hash"] for row in connection.execute("SELECT hash FROM document WHERE own ORDER BY hash")]


# --- what this node casts --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CastRow:
    """A note that this node puts on the chain."""

    n: int
    key: str
    """The caller's idempotency key, with the kind before it."""
    kind: CastKind
    proposal: str
    yes: bool | None
    data: bytes
    state: CastState
    intent: str | None
    """Of the transaction that carries it."""
    coin: str | None
    """Of the payment that gives the payout address a coin to vote with."""
    txid: str | None
    fee: int
    trouble: str


def _cast(row: sqlite3.Row) -> CastRow:
    yes = None if row["yes"] is None else bool(row["yes"])
    return CastRow(**{**dict(row), "yes": yes})


def put_cast(
    connection: sqlite3.Connection, key: str, kind: CastKind, proposal: str, data: bytes, *, yes: bool | None
) -> None:
    """Queue a note; nothing happens when the key was used before."""
    connection.execute(
        "INSERT INTO cast_note (key, kind, proposal, yes, data, state) VALUES (?, ?, ?, ?, ?, 'queued')"
        " ON CONFLICT (key) DO NOTHING",
        (key, kind, proposal, yes, data),
    )


def cast_by_key(connection: sqlite3.Connection, key: str) -> CastRow | None:
    """The note that was queued with a key."""
    row = connection.execute("SELECT * FROM cast_note WHERE key = ?", (key,)).fetchone()
    return None if row is None else _cast(row)


def newest_cast(connection: sqlite3.Connection, kind: CastKind, proposal: str) -> CastRow | None:
    """The last note of a kind for a proposal that was not dropped."""
    query = "SELECT * FROM cast_note WHERE kind = ? AND proposal = ? AND state != 'dropped' ORDER BY n DESC LIMIT 1"
    row = connection.execute(query, (kind, proposal)).fetchone()
    return None if row is None else _cast(row)


def open_casts(connection: sqlite3.Connection) -> list[CastRow]:
    """Those that are not in a block yet, in the order in which they were queued."""
    return [
        _cast(r) for r in connection.execute("SELECT * FROM cast_note WHERE state IN ('queued', 'sent') ORDER BY n")
    ]


def sent_proposals(connection: sqlite3.Connection) -> list[CastRow]:
    """Proposals of this node, the newest first."""
    return [_cast(r) for r in connection.execute("SELECT * FROM cast_note WHERE kind = 'proposal' ORDER BY n DESC")]


def set_cast(connection: sqlite3.Connection, n: int, **values: str | int | None) -> None:
    """Change columns of a note that is being sent."""
    columns = ", ".join(f"{name} = ?" for name in values)
    connection.execute(f"UPDATE cast_note SET {columns} WHERE n = ?", (*values.values(), n))  # noqa: S608
