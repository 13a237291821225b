"""Search of the listings by words, tags, price and publisher, page by page.

Apps that a live node serves come first; within that, the better match of the words, then the name. Words match
from their beginning; an app that has all of them is found, and where none has all, those that have some.
"""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from duxcommon.db import Store
from duxcommon.errors import BadCursor

from .listings import Entry, entry_of

MAX_WORDS = 16
MAX_OFFSET = 100_000
_WEIGHTS = "10.0, 5.0, 1.0"
"""Of a hit in name, tags and summary."""
_LIVE = "l.app IN (SELECT value FROM json_each(:live))"
_LIVE_OF_FEW = f"+{_LIVE}"
"""The plus keeps SQLite from pairing every live app with every tagged one."""
_TAGS = """l.id IN (
  SELECT listing FROM listing_tags WHERE tag IN (SELECT value FROM json_each(:tags))
  GROUP BY listing HAVING count(*) = :tag_count)"""


@dataclass(frozen=True)
class Query:
    """What to look for; prices in koinu. Empty fields match everything."""

    words: str = ""
    tags: Sequence[str] = ()
    max_price: int | None = None
    publisher: str | None = None


@dataclass
class _Clause:
    conditions: list[str] = field(default_factory=lambda: ["l.withdrawn = 0"])
    values: dict[str, Any] = field(default_factory=dict)
    source: str = "listings l"
    order: str = "l.name, l.app"

    def both(self, condition: str) -> str:
        return f"FROM {self.source} WHERE {' AND '.join([*self.conditions, condition])}"


def search(
    store: Store, query: Query, live: Mapping[str, int], limit: int, after: str | None
) -> tuple[list[Entry], str | None]:
    """One page of entries and the cursor of the next; `live` maps app ids to live providers.

    A page may skip or repeat an app whose listing changed between two calls. Raises BadCursor.
    """
    offset = _offset(after)
    return store.read(lambda connection: _page(connection, query, live, limit, offset))


def _offset(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isascii() or not after.isdigit() or len(after) > 6 or int(after) > MAX_OFFSET:
        raise BadCursor(f"{after[:40]!r} is not the `next` of a page")
    return int(after)


def _page(
    connection: sqlite3.Connection, query: Query, live: Mapping[str, int], limit: int, offset: int
) -> tuple[list[Entry], str | None]:
    clause = _clause(connection, query)
    if clause is None:
        return [], None
    served = [app for app, count in live.items() if count > 0]
    clause.values["live"] = json.dumps(served)
    inside = _LIVE_OF_FEW if query.tags else _LIVE
    wanted = limit + 1
    rows: list[sqlite3.Row] = []
    first_part = 0
    if served:
        first_part = connection.execute(f"SELECT count(*) {clause.both(inside)}", clause.values).fetchone()[0]
        if offset < first_part:
            rows += _rows(connection, clause, inside, wanted, offset)
    if len(rows) < wanted:
        outside = f"NOT {inside}" if served else "1"
        rows += _rows(connection, clause, outside, wanted - len(rows), max(offset - first_part, 0))
    more = len(rows) > limit and offset + limit <= MAX_OFFSET
    return [entry_of(row) for row in rows[:limit]], str(offset + limit) if more else None


def _rows(
    connection: sqlite3.Connection, clause: _Clause, condition: str, limit: int, offset: int
) -> list[sqlite3.Row]:
    page = f"SELECT l.id {clause.both(condition)} ORDER BY {clause.order} LIMIT {limit:d} OFFSET {offset:d}"
    record = "SELECT record FROM listing_records WHERE id = ?"
    ids = [row["id"] for row in connection.execute(page, clause.values)]
    return [connection.execute(record, (number,)).fetchone() for number in ids]


def _clause(connection: sqlite3.Connection, query: Query) -> _Clause | None:
    """The SQL of a query; None where nothing can match."""
    clause = _Clause()
    if tags := sorted(set(query.tags)):
        clause.conditions.append(_TAGS)
        clause.values |= {"tags": json.dumps(tags), "tag_count": len(tags)}
        clause.order = "+l.name, l.app"  # the plus: few have the tags, so sort those instead of walking all names
    if query.words.strip():
        match = _match(connection, query.words)
        if match is None:
            return None
        clause.source += " JOIN listing_words w ON w.rowid = l.id"
        clause.conditions.append("w.listing_words MATCH :words")
        clause.values["words"] = match
        clause.order = f"bm25(w.listing_words, {_WEIGHTS}), l.name, l.app"
    if query.max_price is not None:
        clause.conditions.append("l.price <= :max_price")
        clause.values["max_price"] = query.max_price
    if query.publisher is not None:
        clause.conditions.append("l.publisher = :publisher")
        clause.values["publisher"] = query.publisher
    return clause


def _match(connection: sqlite3.Connection, words: str) -> str | None:
    """FTS5's expression for words as people type them; None where they hold no letter or digit."""
    terms = [f'"{word}"*' for word in re.findall(r"[^\W_]+", words.lower())[:MAX_WORDS]]
    if not terms:
        return None
    every = " AND ".join(terms)
    probe = "SELECT 1 FROM listing_words WHERE listing_words MATCH ? LIMIT 1"
    return every if connection.execute(probe, (every,)).fetchone() else " OR ".join(terms)
