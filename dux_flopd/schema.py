"""The database of dux-flopd (`flopd.sqlite`)."""

KEPT_BLOCKS = 200
"""So many (height, hash) pairs are kept: a reorganisation up to this depth is followed exactly."""

FUND_REF = "fund/"
"""Scripts that are watched under such names are addresses of the community fund."""

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
    """
-- Where in its block a payment or its spending stands, and what the paying transaction says in its note. Outputs that
-- were known before are found again.
ALTER TABLE outputs ADD COLUMN idx INTEGER;          -- number of the transaction in its block
ALTER TABLE outputs ADD COLUMN part INTEGER;         -- number within it: inputs first, then outputs
ALTER TABLE outputs ADD COLUMN spender_idx INTEGER;
ALTER TABLE outputs ADD COLUMN spender_part INTEGER;
ALTER TABLE outputs ADD COLUMN note BLOB;
UPDATE outputs SET height = NULL, spender_height = NULL;
UPDATE scripts SET scanned = birth - 1;
CREATE INDEX outputs_paid ON outputs (height, idx, part) WHERE height IS NOT NULL;
CREATE INDEX outputs_spent ON outputs (spender_height, spender_idx, spender_part) WHERE spender_height IS NOT NULL;

-- One transaction of the fund spends hundreds of outputs: its bytes are here once.
CREATE TABLE spenders (txid TEXT PRIMARY KEY, hex TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO spenders SELECT spender_txid, spender_hex FROM outputs WHERE spender_hex IS NOT NULL;
ALTER TABLE outputs DROP COLUMN spender_hex;
CREATE TRIGGER spender_replaced AFTER UPDATE OF spender_txid ON outputs
WHEN OLD.spender_txid IS NOT NULL AND OLD.spender_txid IS NOT NEW.spender_txid BEGIN
  DELETE FROM spenders WHERE txid = OLD.spender_txid
  AND NOT EXISTS (SELECT 1 FROM outputs WHERE spender_txid = OLD.spender_txid);
END;
CREATE TRIGGER spender_forgotten AFTER DELETE ON outputs WHEN OLD.spender_txid IS NOT NULL BEGIN
  DELETE FROM spenders WHERE txid = OLD.spender_txid
  AND NOT EXISTS (SELECT 1 FROM outputs WHERE spender_txid = OLD.spender_txid);
END;

-- Facts of the chain, for everybody; see facts.py. `idx` is the number of the transaction in its block.
CREATE TABLE fact_blocks (height INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
CREATE TABLE deposits (             -- P2SH outputs of transactions with a funding note
  txid BLOB NOT NULL, vout INTEGER NOT NULL, height INTEGER NOT NULL, amount INTEGER NOT NULL, script BLOB NOT NULL,
  note BLOB NOT NULL, PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE INDEX deposits_height ON deposits (height);
CREATE TABLE settlements (          -- transactions that have the form of settled work
  height INTEGER NOT NULL, idx INTEGER NOT NULL, part INTEGER NOT NULL, txid BLOB NOT NULL, provider BLOB NOT NULL,
  buyer BLOB NOT NULL, arbiter BLOB NOT NULL, lock_height INTEGER NOT NULL, payout INTEGER NOT NULL,
  tax INTEGER NOT NULL, change INTEGER NOT NULL, fee INTEGER NOT NULL, awarded INTEGER NOT NULL,
  fund_script BLOB NOT NULL, deposits TEXT NOT NULL, PRIMARY KEY (height, idx, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE bonds (                -- `part` is the output
  height INTEGER NOT NULL, idx INTEGER NOT NULL, part INTEGER NOT NULL, txid BLOB NOT NULL, pubkey BLOB NOT NULL,
  lock_height INTEGER NOT NULL, amount INTEGER NOT NULL, paid TEXT NOT NULL, PRIMARY KEY (height, idx, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX bonds_pubkey ON bonds (pubkey);
CREATE TABLE notes (                -- proposals, votes and approvals
  height INTEGER NOT NULL, idx INTEGER NOT NULL, part INTEGER NOT NULL, txid BLOB NOT NULL, data BLOB NOT NULL,
  paid TEXT NOT NULL, signers BLOB NOT NULL, PRIMARY KEY (height, idx, part)
) STRICT, WITHOUT ROWID;
""",
    """
-- What the faucet of a trial network was asked for; `txid` is missing as long as no answer came.
CREATE TABLE gifts (
  owner INTEGER NOT NULL, key TEXT NOT NULL, amount INTEGER NOT NULL, address TEXT NOT NULL, txid TEXT,
  PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
""",
)
