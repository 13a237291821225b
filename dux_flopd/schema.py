"""The database of dux-flopd (`flopd.sqlite`)."""

KEPT_BLOCKS = 200
"""So many (height, hash) pairs are kept: a reorganisation up to this depth is followed exactly."""

MIGRATIONS = (
    """
CREATE TABLE blocks (height INTEGER PRIMARY KEY, hash TEXT NOT NULL) STRICT;

-- Transactions of ours, each stored here before it is sent.
CREATE TABLE intents (
  id TEXT PRIMARY KEY,
  owner INTEGER NOT NULL,           -- uid of the caller
  key TEXT NOT NULL,                -- its idempotency key
  params TEXT NOT NULL,             -- what was asked for, canonical JSON
  purpose TEXT NOT NULL,
  ref TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('built', 'sent', 'confirmed', 'conflicted', 'cancelled')),
  hex TEXT NOT NULL,
  made_txid TEXT NOT NULL,          -- its id as we made it
  txid TEXT NOT NULL,               -- its id in the chain, which a miner may have changed
  same TEXT NOT NULL,               -- what no miner can change: see blocks.same_id
  fee INTEGER NOT NULL,
  picked INTEGER NOT NULL,          -- 1: Core's wallet picked its inputs
  sends INTEGER NOT NULL DEFAULT 0, -- 1 as soon as it may have left this machine
  height INTEGER,                   -- of the block that confirmed it, or its rival
  created INTEGER NOT NULL,
  UNIQUE (owner, key)
) STRICT;
CREATE INDEX intents_open ON intents (state) WHERE state IN ('built', 'sent');
CREATE INDEX intents_height ON intents (height) WHERE height IS NOT NULL;
CREATE INDEX intents_txid ON intents (txid);
CREATE TABLE intent_inputs (
  intent TEXT NOT NULL REFERENCES intents (id),
  txid TEXT NOT NULL,
  vout INTEGER NOT NULL,
  amount INTEGER NOT NULL,          -- 0 where it is not known
  held INTEGER NOT NULL,            -- 1: a coin of the wallet that no other intent may pick
  PRIMARY KEY (txid, vout, intent)
) STRICT, WITHOUT ROWID;
CREATE INDEX intent_inputs_intent ON intent_inputs (intent);
CREATE UNIQUE INDEX one_intent_a_coin ON intent_inputs (txid, vout) WHERE held = 1;

-- Scripts that daemons follow.
CREATE TABLE scripts (
  script TEXT PRIMARY KEY,
  birth INTEGER NOT NULL,           -- first block that is looked at
  scanned INTEGER NOT NULL,         -- last block that was looked at, without a gap since birth
  imported INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX scripts_scanned ON scripts (scanned);
CREATE TABLE watches (ref TEXT PRIMARY KEY, script TEXT NOT NULL REFERENCES scripts (script)) STRICT;
CREATE TABLE outputs (
  txid TEXT NOT NULL,
  vout INTEGER NOT NULL,
  script TEXT NOT NULL REFERENCES scripts (script),
  amount INTEGER NOT NULL,
  height INTEGER,                   -- null: in the mempool
  spender_txid TEXT,
  spender_hex TEXT,
  spender_height INTEGER,           -- null: in the mempool, or unspent
  PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE INDEX outputs_script ON outputs (script);
CREATE INDEX outputs_spender ON outputs (spender_txid) WHERE spender_txid IS NOT NULL;
CREATE INDEX outputs_unspent ON outputs (script) WHERE spender_height IS NULL;

-- Keys that were made for other daemons.
CREATE TABLE keys (
  number INTEGER PRIMARY KEY,
  owner INTEGER NOT NULL,
  ref TEXT NOT NULL,
  pubkey TEXT NOT NULL UNIQUE,
  imported INTEGER NOT NULL DEFAULT 0,
  UNIQUE (owner, ref)
) STRICT;
""",
)
