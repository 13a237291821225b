"""The nodes of the network as this one knows them: their newest records, indexed for filters."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from duxcommon.api.common import SignedRecord
from duxcommon.api.registryd import NodeInfo, NodePage, NodeRecord
from duxcommon.db import Store
from duxcommon.errors import BadRecord, StaleRecord, UnknownNode

from .settings import Role
from .transport import Addresses

KIND = "node"
MISSED = 3
"""A node of which nothing was heard for so many of its heartbeats counts as gone."""
MAX_NODES = 100_000
"""Beyond it a new node is known only in place of one that is gone."""
FORGET_S = 30 * 86_400
"""A node that was not heard of for so long is forgotten."""

AHEAD_S = 3600
"""A record that was heard of so far in the future was heard of on a wrong clock."""


@dataclass(frozen=True)
class Filter:
    """Conditions of `node.list`; None is no condition."""

    live: bool | None = None
    accepting: bool | None = None
    app: str | None = None
    role: Role | None = None
    name: str | None = None
    arch: str | None = None
    gpu: bool | None = None
    min_cpu: int | None = None
    min_memory_mb: int | None = None
    min_storage_mb: int | None = None
    max_load_pct: int | None = None

    def sql(self, now: int) -> tuple[list[str], list[Any]]:
        """Conditions and their values."""
        plain: list[tuple[str, Any]] = [
            ("accepting = ?", self.accepting),
            ("name = ?", self.name),
            ("arch = ?", self.arch),
            ("(gpu <> '') = ?", self.gpu),
            ("cpu_cores >= ?", self.min_cpu),
            ("memory_mb >= ?", self.min_memory_mb),
            ("storage_mb >= ?", self.min_storage_mb),
            ("load_pct <= ?", self.max_load_pct),
            ("node IN (SELECT node FROM node_apps WHERE app = ?)", self.app),
            ("node IN (SELECT node FROM node_roles WHERE role = ?)", self.role),
        ]
        chosen = [(text, value) for text, value in plain if value is not None]
        if self.live is not None:
            chosen.append(("expires > ?" if self.live else "expires <= ?", now))
        return [text for text, _ in chosen], [value for _, value in chosen]


class Nodes:
    """Takes node records from the directory and answers who is there."""

    def __init__(self, store: Store, own: str, latency_ms: Callable[[str], float | None]) -> None:
        self._store = store
        self._own = own
        self._latency_ms = latency_ms
        self._live = (0.0, 1)

    # --- what arrives -----------------------------------------------------------------------------------------

    async def arrived(self, record: SignedRecord) -> bool:
        """Take a heartbeat. Raises BadRecord, or StaleRecord when a newer one is known."""
        body = parse(record)
        await self._store.write(lambda connection: self._put(connection, record, body, int(time.time())))
        return False

    def _put(self, connection: sqlite3.Connection, record: SignedRecord, body: NodeRecord, now: int) -> None:
        row = connection.execute("SELECT seq FROM nodes WHERE node = ?", (record.node,)).fetchone()
        if row is not None and row["seq"] >= record.seq:
            if row["seq"] == record.seq:
                return
            raise StaleRecord(f"node {record.node[:16]}… is known with sequence {row['seq']}, this is {record.seq}")
        if row is None:
            _make_room(connection, now)
        # The first record of a node may have lain in the directory since it left; later ones are news.
        seen = min(now, record.time) if row is None else now
        # `now` lost its fraction of a second, which must not make the last heartbeat in time one too late.
        expires = seen + MISSED * body.heartbeat_s + 1
        hardware = body.hardware
        connection.execute(
            "REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.node, record.seq, seen, expires, body.name, body.accepting,
                body.load_pct, hardware.arch, hardware.cpu_cores, hardware.memory_mb, hardware.storage_mb,
                hardware.gpu, record.model_dump_json(),
            ),
        )  # fmt: skip
        connection.execute("DELETE FROM node_roles WHERE node = ?", (record.node,))
        connection.execute("DELETE FROM node_apps WHERE node = ?", (record.node,))
        connection.executemany("INSERT OR IGNORE INTO node_roles VALUES (?, ?)", [(r, record.node) for r in body.roles])
        connection.executemany("INSERT OR IGNORE INTO node_apps VALUES (?, ?)", [(a, record.node) for a in body.apps])

    async def forget_old(self) -> None:
        """Drop nodes that were not heard of for a month."""
        limit = int(time.time()) - FORGET_S
        await self._store.write(lambda c: _forget(c, "seen < ?", limit))

    def knows(self, node: str) -> bool:
        """Whether any record of this node was seen."""
        return self.last_seq(node) >= 0

    def last_seq(self, node: str) -> int:
        """The number of the newest record of this node; -1 without one."""
        row = self._store.read(lambda c: c.execute("SELECT seq FROM nodes WHERE node = ?", (node,)).fetchone())
        return -1 if row is None else int(row["seq"])

    async def doubt_the_future(self) -> None:
        """Count nodes as gone that were heard of on a clock ahead of this one, until they are heard of again.

        After a clock that ran years ahead was set right, they would seem live for years.
        """
        now = int(time.time())
        await self._store.write(
            lambda c: c.execute("UPDATE nodes SET seen = ?, expires = ? WHERE seen > ?", (now, now, now + AHEAD_S))
        )

    # --- what is asked ----------------------------------------------------------------------------------------

    def show(self, node: str) -> NodeInfo:
        """One node. Raises UnknownNode."""
        row = self._store.read(lambda c: c.execute("SELECT * FROM nodes WHERE node = ?", (node,)).fetchone())
        if row is None:
            raise UnknownNode(f"no node {node[:16]}… is known")
        return self._info(row)

    def page(self, wanted: Filter, limit: int, after: str | None) -> NodePage:
        """Nodes in the order of their ids; `after` is the last id of the page before."""
        conditions, values = wanted.sql(int(time.time()))
        if after is not None:
            conditions.append("node > ?")
            values.append(after)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT * FROM nodes{where} ORDER BY node LIMIT ?"  # noqa: S608 - texts of this module alone
        rows = self._store.read(lambda c: c.execute(query, (*values, limit + 1)).fetchall())
        found = [self._info(row) for row in rows[:limit]]
        return NodePage(nodes=found, next=found[-1].node if len(rows) > limit else None)

    def serving(self, app: str) -> list[NodeInfo]:
        """Nodes whose newest record names the app, live or not."""
        query = "SELECT nodes.* FROM node_apps JOIN nodes USING (node) WHERE app = ? ORDER BY expires DESC LIMIT 1000"
        return [self._info(row) for row in self._store.read(lambda c: c.execute(query, (app,)).fetchall())]

    def live_apps(self) -> Mapping[str, int]:
        """App id → how many live nodes serve it and accept work."""
        query = (
            "SELECT app, count(*) AS live FROM node_apps JOIN nodes USING (node) "
            "WHERE expires > ? AND accepting GROUP BY app"
        )
        rows = self._store.read(lambda c: c.execute(query, (int(time.time()),)).fetchall())
        return {row["app"]: row["live"] for row in rows}

    def live(self) -> int:
        """How many nodes are live, this one included; at most ten seconds old."""
        then, count = self._live
        if time.monotonic() - then > 10:
            query = "SELECT count(*) FROM nodes WHERE expires > ?"
            count = self._store.read(lambda c: c.execute(query, (int(time.time()),)).fetchone()[0])
            self._live = (time.monotonic(), max(1, count))
        return self._live[1]

    def addresses(self, node: str) -> Addresses | None:
        """Where a node's newest record says that it can be reached."""
        row = self._store.read(lambda c: c.execute("SELECT record FROM nodes WHERE node = ?", (node,)).fetchone())
        if row is None:
            return None
        body = NodeRecord.model_validate(SignedRecord.model_validate_json(row["record"]).body)
        return Addresses(tuple(body.addresses), body.relay)

    def _info(self, row: sqlite3.Row) -> NodeInfo:
        record = SignedRecord.model_validate_json(row["record"])
        return NodeInfo(
            node=row["node"],
            seq=row["seq"],
            seen=row["seen"],
            live=row["expires"] > time.time(),
            latency_ms=0.0 if row["node"] == self._own else self._latency_ms(row["node"]),
            record=NodeRecord.model_validate(record.body),
        )


def parse(record: SignedRecord) -> NodeRecord:
    """The body of a node record. Raises BadRecord."""
    try:
        return NodeRecord.model_validate(record.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRecord(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _make_room(connection: sqlite3.Connection, now: int) -> None:
    if connection.execute("SELECT count(*) FROM nodes").fetchone()[0] < MAX_NODES:
        return
    oldest = connection.execute("SELECT node FROM nodes WHERE expires <= ? ORDER BY expires LIMIT 1", (now,)).fetchone()
    if oldest is None:
        raise BadRecord("more nodes than this one can know")
    _forget(connection, "node = ?", oldest["node"])


def _forget(connection: sqlite3.Connection, condition: str, value: Any) -> None:
    for table in ("node_roles", "node_apps"):
        connection.execute(
            f"DELETE FROM {table} WHERE node IN (SELECT node FROM nodes WHERE {condition})",  # noqa: S608
            (value,),
        )
    connection.execute(f"DELETE FROM nodes WHERE {condition}", (value,))  # noqa: S608
