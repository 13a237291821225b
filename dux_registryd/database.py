"""The tables of dux-registryd; those of the store and of the chain's facts are in databases of their own."""

from .bonding import MIGRATION as BONDS

MIGRATIONS = (
    """
CREATE TABLE nodes (
  node TEXT PRIMARY KEY, seq INTEGER NOT NULL, seen INTEGER NOT NULL, expires INTEGER NOT NULL,
  name TEXT NOT NULL, accepting INTEGER NOT NULL, load_pct INTEGER NOT NULL, arch TEXT NOT NULL,
  cpu_cores INTEGER NOT NULL, memory_mb INTEGER NOT NULL, storage_mb INTEGER NOT NULL, gpu TEXT NOT NULL,
  record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX nodes_by_expires ON nodes (expires);
CREATE INDEX nodes_by_name ON nodes (name);
CREATE INDEX nodes_by_hardware ON nodes (cpu_cores, memory_mb);
CREATE TABLE node_roles (role TEXT NOT NULL, node TEXT NOT NULL, PRIMARY KEY (role, node)) STRICT, WITHOUT ROWID;
CREATE INDEX node_roles_by_node ON node_roles (node);
CREATE TABLE node_apps (app TEXT NOT NULL, node TEXT NOT NULL, PRIMARY KEY (app, node)) STRICT, WITHOUT ROWID;
CREATE INDEX node_apps_by_node ON node_apps (node);
-- What the owner set by node.register, and what taskd said last: one row.
CREATE TABLE own (id INTEGER PRIMARY KEY CHECK (id = 1), settings TEXT NOT NULL) STRICT;
-- node is empty where every node may fetch the blob.
CREATE TABLE offers (
  hash TEXT NOT NULL, node TEXT NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (hash, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX offers_by_expires ON offers (expires);
""",
    BONDS,
)
