"""The listings that this node knows: signed records, the newest sequence of each app, indexed for search.

A listing is kept until its publisher withdraws it, whether the publisher is there or not; the record carries its
signature, so anyone may hand it on.
"""

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from pydantic import ValidationError

from duxcommon.api.common import SignedRecord
from duxcommon.api.registryd import ListingBody
from duxcommon.bundle import LIMITS, MANIFEST_BYTES
from duxcommon.db import IDEMPOTENCY_TABLE, Store, idempotent
from duxcommon.errors import AppAmbiguous, AppUnknown, BadRecord, StoreFull
from duxcommon.records import canonical, record_hash, verify_record

from .ports import Signer

KIND = "listing"
MAX_DATABASE_BYTES = 2 * 1024**3
"""Beyond it strangers' new listings are dropped, the node's own never."""
MAX_PER_PUBLISHER = 500
MAX_BODY_BYTES = MANIFEST_BYTES + 8192
NEAR = 5
"""Names that are offered when one is not found."""
NEAR_ENOUGH = 0.5
_NEAR_CANDIDATES = 200

MIGRATIONS = (
    """
CREATE TABLE listings (
  id INTEGER PRIMARY KEY, app TEXT NOT NULL UNIQUE, name TEXT NOT NULL, publisher TEXT NOT NULL,
  seq INTEGER NOT NULL, hash TEXT NOT NULL, withdrawn INTEGER NOT NULL, price INTEGER NOT NULL
) STRICT;
-- Apart, so that a search that goes over all listings reads narrow rows.
CREATE TABLE listing_records (id INTEGER PRIMARY KEY REFERENCES listings (id), record TEXT NOT NULL) STRICT;
CREATE INDEX listings_by_name ON listings (name, app, withdrawn, price);
CREATE INDEX listings_by_publisher ON listings (publisher);
CREATE TABLE listing_tags (
  tag TEXT NOT NULL, listing INTEGER NOT NULL REFERENCES listings (id), PRIMARY KEY (tag, listing)
) STRICT, WITHOUT ROWID;
CREATE INDEX listing_tags_by_listing ON listing_tags (listing);
CREATE VIRTUAL TABLE listing_words USING fts5 (
  name, tags, summary, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);
CREATE VIRTUAL TABLE listing_names USING fts5 (name, tokenize = 'trigram');
""",
    IDEMPOTENCY_TABLE,
)

_SELECT = "SELECT record FROM listings JOIN listing_records USING (id)"

Outcome = Literal["new", "newer", "known", "stale"]


def app_id(publisher: str, name: str) -> str:
    """SHA-256 of `publisher/name`, hex."""
    return hashlib.sha256(f"{publisher}/{name}".encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A listing and the signed record that it stands in."""

    record: SignedRecord
    body: ListingBody

    @property
    def name(self) -> str:
        """The app's name; unique for its publisher only."""
        return self.body.manifest.name


def entry_of(row: sqlite3.Row) -> Entry:
    """The entry of a row that has the column `record`; it was checked before it was stored."""
    record = SignedRecord.model_validate_json(row["record"])
    return Entry(record, ListingBody.model_validate(record.body))


def check(record: SignedRecord, network: str) -> ListingBody:
    """The listing in a record from anywhere. Raises BadRecord, BadSignature or WrongNetwork."""
    verify_record(record, kind=KIND, network=network)
    if len(canonical(record.body)) > MAX_BODY_BYTES:
        raise BadRecord(f"a listing may have {MAX_BODY_BYTES} bytes")
    try:
        body = ListingBody.model_validate(record.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRecord(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if body.app != app_id(record.node, body.manifest.name):
        raise BadRecord("the app's id is not that of its publisher and name")
    if is_id(body.manifest.name):
        raise BadRecord("the name can't be told from an app's id")
    if not 0 < body.bundle_size <= LIMITS.bytes:
        raise BadRecord(f"a bundle has at most {LIMITS.bytes} bytes")
    return body


def is_id(ref: str) -> bool:
    """Whether an AppRef is an app's id, not a name."""
    return len(ref) == 64 and all(character in "0123456789abcdef" for character in ref)


class Listings:
    """All listings of the network, in one database; `signer` is the node's key."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self.store = store
        self._signer = signer

    async def accept(self, record: SignedRecord) -> Outcome:
        """Keep a record that arrived, if it is good and newer than what is known.

        `known` is the very record that is kept, `stale` an older one. Raises BadRecord, BadSignature,
        WrongNetwork, and StoreFull for a publisher with too many listings.
        """
        body = check(record, self._signer.network_id)
        return await self.store.write(lambda connection: self._put(connection, record, body))

    async def publish(self, key: str, params: dict[str, Any], body: ListingBody) -> Entry:
        """Sign and keep a listing of this node.

        Repeating `key` with equal `params` gives the first record again. Raises Conflict and StoreFull.
        """

        def change(connection: sqlite3.Connection) -> SignedRecord:
            def once() -> dict[str, Any]:
                row = connection.execute("SELECT seq FROM listings WHERE app = ?", (body.app,)).fetchone()
                # A node that lost its database must still outrank the records that others kept.
                seq = max(row["seq"] + 1 if row else 1, int(time.time()))
                record = self._signer.sign(KIND, seq, body.model_dump(mode="json"))
                self._put(connection, record, check(record, self._signer.network_id))
                return record.model_dump()

            return SignedRecord.model_validate(idempotent(connection, key, params, once))

        record = await self.store.write(change)
        return Entry(record, ListingBody.model_validate(record.body))

    def get(self, app: str) -> Entry | None:
        """The listing with this id, withdrawn or not."""
        row = self.store.read(lambda c: c.execute(f"{_SELECT} WHERE app = ?", (app,)).fetchone())
        return entry_of(row) if row else None

    def own(self) -> list[SignedRecord]:
        """What this node published, withdrawals included."""
        return self._records("publisher = ?")

    def others(self) -> list[SignedRecord]:
        """What other nodes published, withdrawals included."""
        return self._records("publisher <> ?")

    def _records(self, condition: str) -> list[SignedRecord]:
        query = f"{_SELECT} WHERE {condition}"
        rows = self.store.read(lambda c: c.execute(query, (self._signer.node_id,)).fetchall())
        return [SignedRecord.model_validate_json(row["record"]) for row in rows]

    def resolve(self, ref: str) -> Entry:
        """The app that `name`, `name@publisher-prefix` or an id means.

        Raises AppUnknown with the nearest names, or AppAmbiguous with the candidates.
        """
        if is_id(ref):
            entry = self.get(ref)
            if entry is None:
                raise AppUnknown(f"there is no app with the id {ref[:16]}…")
        else:
            entry = self._by_name(ref)
        if entry.body.withdrawn:
            raise AppUnknown(f"{entry.name} was withdrawn by its publisher", hint="Look for another app that does it.")
        return entry

    def _by_name(self, ref: str) -> Entry:
        name, _, prefix = ref.partition("@")
        rows = self.store.read(
            lambda c: c.execute(
                f"{_SELECT} WHERE name = ? AND substr(publisher, 1, ?) = ? ORDER BY withdrawn, publisher LIMIT 21",
                (name, len(prefix), prefix),
            ).fetchall()
        )
        entries = [entry_of(row) for row in rows]
        offered = [entry for entry in entries if not entry.body.withdrawn]
        if len(offered) > 1:
            raise _ambiguous(ref, offered)
        if not entries:
            near = self.near(name)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise AppUnknown(f"there is no app {ref!r}", hint=hint + AppUnknown.hint_default, details={"near": near})
        return entries[0]

    def near(self, name: str) -> list[str]:
        """Names on offer that look like `name`, best first."""
        grams = {name[start : start + 3] for start in range(len(name) - 2)}
        if not grams:
            return []
        query = " OR ".join(f'"{gram}"' for gram in sorted(grams))
        rows = self.store.read(
            lambda c: c.execute(
                "SELECT DISTINCT name FROM listing_names WHERE listing_names MATCH ? ORDER BY rank LIMIT ?",
                (query, _NEAR_CANDIDATES),
            ).fetchall()
        )
        scored = sorted((-SequenceMatcher(None, name, row["name"]).ratio(), row["name"]) for row in rows)
        return [found for score, found in scored[:NEAR] if -score >= NEAR_ENOUGH]

    def _put(self, connection: sqlite3.Connection, record: SignedRecord, body: ListingBody) -> Outcome:
        row = connection.execute("SELECT id, seq, hash FROM listings WHERE app = ?", (body.app,)).fetchone()
        digest = record_hash(record)
        if row is None:
            self._check_room(connection, record.node)
        elif row["hash"] == digest:
            return "known"
        elif (record.seq, digest) < (row["seq"], row["hash"]):
            # Of two records with one number every node keeps the same, whichever came first.
            return "stale"
        else:
            _unlink(connection, row["id"])
        manifest = body.manifest
        number = connection.execute(
            "INSERT INTO listings (app, name, publisher, seq, hash, withdrawn, price) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (app) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, "
            "withdrawn = excluded.withdrawn, price = excluded.price RETURNING id",
            (body.app, manifest.name, record.node, record.seq, digest, body.withdrawn, manifest.price),
        ).fetchone()["id"]
        connection.execute("REPLACE INTO listing_records VALUES (?, ?)", (number, record.model_dump_json()))
        if not body.withdrawn:
            tags = sorted(set(manifest.tags))
            connection.executemany("INSERT INTO listing_tags VALUES (?, ?)", [(tag, number) for tag in tags])
            connection.execute(
                "INSERT INTO listing_words (rowid, name, tags, summary) VALUES (?, ?, ?, ?)",
                (number, manifest.name, " ".join(tags), manifest.summary),
            )
            connection.execute("INSERT INTO listing_names (rowid, name) VALUES (?, ?)", (number, manifest.name))
        return "newer" if row else "new"

    def _check_room(self, connection: sqlite3.Connection, publisher: str) -> None:
        count = connection.execute("SELECT count(*) FROM listings WHERE publisher = ?", (publisher,)).fetchone()[0]
        if count >= MAX_PER_PUBLISHER:
            raise StoreFull(f"a node may have {MAX_PER_PUBLISHER} listings")
        if publisher != self._signer.node_id:
            pages, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            if pages * page > MAX_DATABASE_BYTES:
                raise StoreFull("the listings of other nodes fill the space that they may use")


def _unlink(connection: sqlite3.Connection, number: int) -> None:
    """Take a listing out of every index."""
    connection.execute("DELETE FROM listing_tags WHERE listing = ?", (number,))
    connection.execute("DELETE FROM listing_words WHERE rowid = ?", (number,))
    connection.execute("DELETE FROM listing_names WHERE rowid = ?", (number,))


def _ambiguous(ref: str, entries: Sequence[Entry]) -> AppAmbiguous:
    length = 8
    while len({entry.record.node[:length] for entry in entries}) < len(entries):
        length += 4
    refs = [f"{entry.name}@{entry.record.node[:length]}" for entry in entries]
    return AppAmbiguous(
        f"{len(entries)} publishers offer {ref!r}",
        hint=f"Write one of: {', '.join(refs[:20])}.",
        details={
            "candidates": [
                {"ref": ref, "app": entry.body.app, "price": entry.body.manifest.price, "publisher": entry.record.node}
                for ref, entry in zip(refs, entries, strict=True)
            ]
        },
    )
