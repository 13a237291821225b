"""The database of dux-escrowd."""

from duxcommon.books import BOOKS_TABLES
from duxcommon.outbox import OUTBOX_TABLE

_TABLES = """
CREATE TABLE channel (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL CHECK (role IN ('buyer', 'provider')),
  peer TEXT NOT NULL,
  state TEXT NOT NULL,
  provider_pubkey TEXT NOT NULL, buyer_pubkey TEXT NOT NULL, arbiter_pubkey TEXT NOT NULL,
  lock_height INTEGER NOT NULL, tax_bps INTEGER NOT NULL, max_unpaid INTEGER NOT NULL,
  birth INTEGER NOT NULL,              -- chain tip when it was made
  key_index INTEGER,                   -- buyer: which of flopd's channel keys it uses
  usable INTEGER NOT NULL DEFAULT 0,   -- most that may be signed away now
  pending INTEGER NOT NULL DEFAULT 0,  -- the same once every deposit is deep enough
  gross INTEGER NOT NULL DEFAULT 0,
  held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
  open INTEGER NOT NULL DEFAULT 0 CHECK (open >= 0),
  seq INTEGER NOT NULL DEFAULT 0,
  acked_seq INTEGER NOT NULL DEFAULT 0,
  credit INTEGER NOT NULL DEFAULT 0,   -- provider: gross that no payment accounts for
  newest TEXT,                         -- the newest signed state, JSON
  pays TEXT NOT NULL DEFAULT '[]',     -- buyer: [seq, task] of what the provider has not acknowledged
  retiring INTEGER NOT NULL DEFAULT 0, -- takes no more holds and closes once nothing is open
  hex TEXT,                            -- our closing or refund transaction
  txid TEXT,                           -- the transaction that ends the channel
  reason TEXT NOT NULL DEFAULT '',     -- why it was given up
  version INTEGER NOT NULL DEFAULT 0,
  ended INTEGER,                       -- height at which it reached an end; followed 200 blocks more
  settled INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL,
  CHECK (role = 'provider' OR state <> 'OPEN' OR gross + held <= usable)
) STRICT;
CREATE UNIQUE INDEX channel_live ON channel (peer)
  WHERE role = 'buyer' AND retiring = 0 AND state IN ('NEW', 'FUND_BUILT', 'FUND_SENT', 'OPEN');
CREATE UNIQUE INDEX channel_key ON channel (key_index) WHERE key_index IS NOT NULL;
CREATE INDEX channel_followed ON channel (settled) WHERE settled = 0;
CREATE INDEX channel_unpushed ON channel (id) WHERE role = 'buyer' AND seq > acked_seq;
CREATE INDEX channel_promised ON channel (peer) WHERE role = 'provider' AND settled = 0;

CREATE TABLE funding (
  id TEXT PRIMARY KEY,
  channel TEXT NOT NULL REFERENCES channel (id),
  amount INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('NEW', 'BUILT', 'SENT', 'LOST')),
  intent TEXT, txid TEXT, vout INTEGER, fee INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX funding_channel ON funding (channel);

CREATE TABLE deposit (
  channel TEXT NOT NULL REFERENCES channel (id),
  txid TEXT NOT NULL, vout INTEGER NOT NULL,
  amount INTEGER NOT NULL, height INTEGER, spender TEXT,
  PRIMARY KEY (channel, txid, vout)
) STRICT, WITHOUT ROWID;

CREATE TABLE spend (
  channel TEXT NOT NULL REFERENCES channel (id),
  txid TEXT NOT NULL, kind TEXT NOT NULL,
  own INTEGER NOT NULL, gifts INTEGER NOT NULL,
  provider INTEGER NOT NULL, tax INTEGER NOT NULL, buyer INTEGER NOT NULL, other INTEGER NOT NULL,
  gross INTEGER NOT NULL DEFAULT 0,    -- of the channel's gross, what this transaction settles
  booked INTEGER NOT NULL DEFAULT 0,   -- how often it was booked or taken back; odd: it is in the books
  PRIMARY KEY (channel, txid)
) STRICT, WITHOUT ROWID;

CREATE TABLE payment (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL, channel TEXT NOT NULL, peer TEXT NOT NULL,
  amount INTEGER NOT NULL CHECK (amount > 0),
  state TEXT NOT NULL, task TEXT, reason TEXT NOT NULL DEFAULT '',
  created INTEGER NOT NULL, order_hash TEXT, receipt_hash TEXT
) STRICT;
CREATE INDEX payment_open ON payment (channel) WHERE state IN ('HELD', 'ORDERED', 'DONE');
CREATE INDEX payment_channel ON payment (channel, n);

CREATE TABLE transition (
  key TEXT PRIMARY KEY,                -- idempotency key, within its method and caller
  subject TEXT NOT NULL, event TEXT NOT NULL, after TEXT NOT NULL, time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS = (
    _TABLES + BOOKS_TABLES + OUTBOX_TABLE,
    "CREATE INDEX payment_delivered ON payment (id) WHERE role = 'provider' AND state = 'DONE';",
    # Empty: opened before fund scripts could change; `rows.name_fund_script` fills it in.
    "ALTER TABLE channel ADD COLUMN fund_script TEXT NOT NULL DEFAULT '';",
    "ALTER TABLE deposit ADD COLUMN noted INTEGER NOT NULL DEFAULT 1;",
)
