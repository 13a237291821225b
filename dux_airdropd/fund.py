"""The fund as the chain shows it: what was paid to its addresses, what spent it, and the chain of its transactions.

Everything is a function of the blocks read so far; a reorganisation takes back what stood in the lost ones.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from duxcommon.api.airdropd import FundAt, SpentFrom
from duxcommon.api.flopd import FundFact, FundPage, Place
from duxcommon.coin.params import CHAINS, ChainParams
from duxcommon.coin.script import multisig_script
from duxcommon.coin.tx import parse_tx
from duxcommon.db import Store
from duxcommon.errors import RoundUnknown, RulesPending
from duxcommon.follow import Kind
from duxcommon.money import DUST
from duxcommon.network import NetworkDefinition
from duxcommon.parameters import EPOCHS, Parameters
from duxcommon.rulebook import Book

from .costs import MAX_INPUTS, input_fee
from .failpoints import hit
from .plan import DEPTH, FundCoin, Snapshot, available
from .ports import ApprovedSpend, Rules
from .reading import Read, read

MIGRATION = """
CREATE TABLE fund_output (
  txid TEXT NOT NULL, vout INTEGER NOT NULL, script BLOB NOT NULL, amount INTEGER NOT NULL,
  block INTEGER NOT NULL, -- which holds it
  height INTEGER NOT NULL, -- from which it counts
  number INTEGER NOT NULL,
  spent_height INTEGER, spender TEXT,
  PRIMARY KEY (txid, vout)
) STRICT, WITHOUT ROWID;
CREATE INDEX fund_output_block ON fund_output (block);
CREATE INDEX fund_output_place ON fund_output (height, number, vout);
CREATE INDEX fund_output_there ON fund_output (script, amount DESC, height, txid, vout) WHERE spent_height IS NULL;
CREATE INDEX fund_output_spent ON fund_output (spent_height) WHERE spent_height IS NOT NULL;

CREATE TABLE round (
  sequence INTEGER PRIMARY KEY,
  txid TEXT NOT NULL UNIQUE, height INTEGER NOT NULL,
  kind TEXT NOT NULL, manifest TEXT, anchor_txid TEXT NOT NULL, anchor_vout INTEGER NOT NULL,
  share INTEGER NOT NULL, recipients INTEGER NOT NULL, paid INTEGER NOT NULL, fee INTEGER NOT NULL,
  batches INTEGER NOT NULL, proposal TEXT, hex TEXT NOT NULL
) STRICT;
CREATE INDEX round_height ON round (height);

-- What was paid in: neither an anchor that a transaction of the fund made nor what waits there for its batch.
CREATE VIEW income AS SELECT o.* FROM fund_output o WHERE NOT EXISTS (
  SELECT 1 FROM round r WHERE r.txid = o.txid AND (o.vout = 1 OR o.vout > 1 AND r.batches > 0)
);
"""


def apply(
    connection: sqlite3.Connection, facts: Sequence[FundFact], births: Mapping[bytes, int], chain: ChainParams
) -> None:
    """Store facts, in the order of their places.

    Only what was paid to a script from the block on from which it was the fund's: a node that learned of it early must
    see no more than one that learned of it late.
    """
    for fact in facts:
        script = bytes.fromhex(fact.script)
        if fact.event == "spent":
            connection.execute(
                "UPDATE fund_output SET spent_height = ?, spender = ? WHERE txid = ? AND vout = ?",
                (fact.at.height, fact.spender, fact.txid, fact.vout),
            )
        elif fact.at.height >= births.get(script, fact.at.height + 1):
            connection.execute(
                "INSERT OR REPLACE INTO fund_output (txid, vout, script, amount, block, height, number)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    fact.txid,
                    fact.vout,
                    script,
                    fact.amount,
                    fact.at.height,
                    _counts_from(fact.at, chain),
                    fact.at.index,
                ),
            )


def _counts_from(at: Place, chain: ChainParams) -> int:
    """The first snapshot that may spend a payment: a coinbase must be mature when it is signed."""
    unripe = chain.coinbase_maturity(at.height) if at.index == 0 else 0
    return at.height + max(0, unripe - DEPTH)


def undo(connection: sqlite3.Connection, above: int) -> None:
    """Take back what stood in blocks above a height."""
    connection.execute("DELETE FROM round WHERE height > ?", (above,))
    connection.execute("DELETE FROM fund_output WHERE block > ?", (above,))
    connection.execute("UPDATE fund_output SET spent_height = NULL, spender = NULL WHERE spent_height > ?", (above,))


@lru_cache(maxsize=256)
def _redeem(keys: tuple[str, ...], m: int) -> bytes:
    return multisig_script(m, sorted(bytes.fromhex(key) for key in keys))


def redeems_of(book: Book) -> dict[bytes, bytes]:
    """Fund script → redeem script, of all versions so far."""
    return {
        bytes.fromhex(rules.fund_script): _redeem(tuple(seat.pubkey for seat in rules.guardians), rules.guardians_m)
        for rules in book.book.rules
    }


def births(book: Book) -> dict[bytes, int]:
    """Fund script → the first block from which it was in force."""
    found: dict[bytes, int] = {}
    for rules in book.book.rules:
        found.setdefault(bytes.fromhex(rules.fund_script), rules.from_height)
    return found


_Spent = tuple[int, FundCoin, str, int]
"""Number of a transaction, the anchor that it spent, its id and its height."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the fund's outputs, in koinu."""

    confirmed: int
    received: int
    payments: int
    inflow: int


class Fund:
    """Reads what was stored; every method is of one moment. `extend` alone writes."""

    def __init__(self, store: Store, network: NetworkDefinition, rules: Rules) -> None:
        self._store = store
        self._network = network
        self._rules = rules
        self.undone = 0
        """How often blocks were taken back; what was computed before may be wrong then."""
        self.read_to = -1
        """Everything up to this height is known, the chain of transactions included."""

    @property
    def kind(self) -> Kind:
        """What a Follower has to follow."""
        return Kind("chain.fund", FundPage, self._apply, self._undo)

    def _apply(self, connection: sqlite3.Connection, facts: Sequence[FundFact]) -> None:
        apply(connection, facts, births(self._rules.book()), CHAINS[self._network.chain])

    def _undo(self, connection: sqlite3.Connection, above: int) -> None:
        self.undone += 1
        self.read_to = min(self.read_to, above)
        undo(connection, above)

    # --- the chain of anchors ---------------------------------------------------------------------------------

    async def extend(self, height: int, raw_of: Callable[[str], Awaitable[str]]) -> None:
        """Read the transactions that spent the anchor since the last time; all blocks up to `height` are stored.

        `raw_of` tells a transaction's bytes. Raises what it raises.
        """
        undone = self.undone
        while (found := self._store.read(self._spent_anchor)) is not None:
            raw = await raw_of(found[2])
            hit("round-read")
            done = read(raw, redeems_of(self._rules.book()))

            def change(
                connection: sqlite3.Connection, found: _Spent = found, raw: str = raw, done: Read = done
            ) -> None:
                # The block may have been lost while the bytes were asked for.
                if self._spent_anchor(connection) == found:
                    self._add(connection, found, done, raw)

            await self._store.write(change)
            hit("round-committed")
        if undone == self.undone:
            self.read_to = height

    def _spent_anchor(self, connection: sqlite3.Connection) -> _Spent | None:
        sequence, anchor = self._anchor(connection, None)
        if anchor is None:
            return None
        query = "SELECT spender, spent_height FROM fund_output WHERE txid = ? AND vout = ?"
        row = connection.execute(query, (anchor.txid, anchor.vout)).fetchone()
        return None if row["spender"] is None else (sequence, anchor, row["spender"], row["spent_height"])

    def _add(self, connection: sqlite3.Connection, spent: _Spent, done: Read, raw: str) -> None:
        sequence, anchor, txid, height = spent
        known = (_coin(connection, *outpoint) for outpoint in done.inputs)
        fee = max(0, sum(coin.amount for coin in known if coin) - done.out)
        proposal = self._granted(connection, height, raw) if done.kind == "grant" else None
        connection.execute(
            "INSERT INTO round VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                sequence, txid, height, done.kind, done.manifest, anchor.txid, anchor.vout, done.share,
                done.recipients, done.paid, fee, done.batches, proposal, raw,
            ),
        )  # fmt: skip

    def _granted(self, connection: sqlite3.Connection, height: int, raw: str) -> str | None:
        """The proposal that a grant carried out: the first in force that says what it paid."""
        tx = parse_tx(raw)
        if len(tx.vout) < 3:
            return None
        paid = (tx.vout[2].script_pub_key.script, tx.vout[2].value)
        open_spends = self._open_spends(connection, height)
        return next((spend.proposal for spend in open_spends if (spend.script, spend.amount) == paid), None)

    def _anchor(self, connection: sqlite3.Connection, height: int | None) -> tuple[int, FundCoin | None]:
        """Number of the next transaction after those up to a height, and the output that it spends."""
        limit = 2**62 if height is None else height
        query = "SELECT sequence, txid, height FROM round WHERE height <= ? ORDER BY sequence DESC LIMIT 1"
        last = connection.execute(query, (limit,)).fetchone()
        if last is None:
            return 1, self._first_anchor(connection, limit)
        anchor = _coin(connection, last["txid"], 1)
        if anchor is None:
            # Whoever signed it gave the anchor away; the fund goes on with the next payment that it receives.
            anchor = _first_payment(connection, limit, above=last["height"])
        return last["sequence"] + 1, anchor

    def _first_anchor(self, connection: sqlite3.Connection, limit: int) -> FundCoin | None:
        if self._network.first_anchor is None:
            script = bytes.fromhex(self._rules.book().book.rules[0].fund_script)
            return _first_payment(connection, limit, script=script)
        txid, vout = self._network.first_anchor.split(":")
        coin = _coin(connection, txid, int(vout))
        return coin if coin is not None and coin.height <= limit else None

    # --- at a height ------------------------------------------------------------------------------------------

    def snapshot(self, height: int) -> Snapshot:
        """All that the next transaction depends on at a height. Raises RulesPending."""
        return self._store.read(lambda c: self._snapshot(c, height))

    def _snapshot(self, connection: sqlite3.Connection, height: int) -> Snapshot:
        book = self._rules.book()
        rules = book.at(height)
        redeems = redeems_of(book)
        sequence, anchor = self._anchor(connection, height)
        scripts = book.fund_scripts_at(height)
        if anchor is not None and anchor.script not in scripts:
            scripts.append(anchor.script)
        held = {script: _there(connection, script, redeems[script], height, anchor) for script in scripts}
        return Snapshot(
            height=height,
            sequence=sequence,
            anchor=anchor,
            coins=held[scripts[0]],
            old=[coin for script in scripts[1:] for coin in held[script]],
            rules=rules,
            redeems=redeems,
            spends=self._open_spends(connection, height),
            last_payout=self._last_payout(connection, height),
        )

    def _last_payout(self, connection: sqlite3.Connection, height: int) -> int:
        query = "SELECT MAX(height) AS last FROM round WHERE kind = 'payout' AND height <= ?"
        last = connection.execute(query, (height,)).fetchone()["last"]
        return -1 if last is None else int(last)

    def _open_spends(self, connection: sqlite3.Connection, height: int) -> list[ApprovedSpend]:
        query = "SELECT proposal FROM round WHERE proposal IS NOT NULL AND height <= ?"
        done = {row["proposal"] for row in connection.execute(query, (height,)).fetchall()}
        return [spend for spend in self._rules.spends_in_force(height) if spend.proposal not in done]

    def next_change(self, height: int) -> int | None:
        """The first height above this one at which a payment confirmed; None when there is none yet."""
        query = "SELECT MIN(height) AS first FROM fund_output WHERE height > ?"
        first = self._store.read(lambda c: c.execute(query, (height,)).fetchone()["first"])
        return None if first is None else int(first)

    def at(self, height: int, *, ahead: bool = False) -> FundAt:
        """What eligibility at a height depends on. Raises RulesPending.

        `ahead` answers for heights to come with what is known by now: the bond's price is final an epoch before the
        window opens as long as the rules stay, the rest is that of the last block read.
        """
        known = min(height, self.read_to)
        if known < height and not (ahead and known >= 0):
            read = f"it was read up to block {self.read_to}" if self.read_to >= 0 else "no block was read yet"
            raise RulesPending(
                f"the fund at block {height} is not known yet; {read}",
                details={"height": height, "known_to": self.read_to},
            )
        parameters = self._rules.book().at(known).parameters
        return FundAt(
            height=height,
            spendable=available(self.snapshot(known)),
            shares_paid=self._shares(height - parameters.window_blocks, height),
            bond_price=self._bond_price(height, parameters),
        )

    def _bond_price(self, height: int, parameters: Parameters) -> int:
        """What the bond must be at a snapshot."""
        window = parameters.window_blocks
        epoch = window // EPOCHS
        opened = height - window
        aligned = (opened // epoch) * epoch - epoch
        paid = self._shares(aligned - window, aligned)
        return max(parameters.bond_min, paid * parameters.bond_multiple_pct // 100)

    def _shares(self, above: int, to: int) -> int:
        query = "SELECT COALESCE(SUM(share), 0) AS paid FROM round WHERE kind = 'payout' AND height > ? AND height <= ?"
        return int(self._store.read(lambda c: c.execute(query, (above, to)).fetchone()["paid"]))

    # --- history ----------------------------------------------------------------------------------------------

    def rounds(self, before: int | None, limit: int) -> list[SpentFrom]:
        """Transactions of the fund below a sequence, the newest first."""
        query = "SELECT * FROM round WHERE sequence < ? ORDER BY sequence DESC LIMIT ?"
        rows = self._store.read(lambda c: c.execute(query, (before or 2**62, limit)).fetchall())
        return [_wire(row) for row in rows]

    def round(self, sequence: int) -> SpentFrom:
        """One of them. Raises RoundUnknown."""
        return _wire(self._row(sequence))

    def raw(self, sequence: int) -> str:
        """Its bytes. Raises RoundUnknown."""
        return str(self._row(sequence)["hex"])

    def anchor_of(self, sequence: int) -> FundCoin:
        """The anchor that it spent. Raises RoundUnknown."""
        row = self._row(sequence)
        coin = self._store.read(lambda c: _coin(c, row["anchor_txid"], row["anchor_vout"]))
        assert coin is not None
        return coin

    def anchor(self) -> tuple[int, FundCoin | None]:
        """Number of the next transaction, and the output that it spends."""
        return self._store.read(lambda c: self._anchor(c, None))

    def _row(self, sequence: int) -> sqlite3.Row:
        query = "SELECT * FROM round WHERE sequence = ?"
        row: sqlite3.Row | None = self._store.read(lambda c: c.execute(query, (sequence,)).fetchone())
        if row is None:
            raise RoundUnknown(f"the fund has made no transaction number {sequence}")
        return row

    def output(self, txid: str, vout: int) -> tuple[FundCoin, str | None] | None:
        """An output that pays the fund, and the transaction that spent it."""

        def find(connection: sqlite3.Connection) -> tuple[FundCoin, str | None] | None:
            coin = _coin(connection, txid, vout)
            query = "SELECT spender FROM fund_output WHERE txid = ? AND vout = ?"
            return None if coin is None else (coin, connection.execute(query, (txid, vout)).fetchone()["spender"])

        return self._store.read(find)

    def unpaid_batches(self, to_height: int) -> list[tuple[int, int, FundCoin]]:
        """(sequence, batch, output) of every batch that waits, of payouts confirmed up to a height; oldest first."""
        query = (
            "SELECT r.sequence, o.* FROM round r JOIN fund_output o ON o.txid = r.txid AND o.vout > 1"
            " WHERE r.batches > 0 AND r.height <= ? AND o.spent_height IS NULL ORDER BY r.sequence, o.vout"
        )
        rows = self._store.read(lambda c: c.execute(query, (to_height,)).fetchall())
        return [(row["sequence"], row["vout"] - 2, _from_row(row)) for row in rows]

    def executed(self) -> dict[str, str]:
        """Proposal → the transaction that carried it out."""
        query = "SELECT proposal, txid FROM round WHERE proposal IS NOT NULL"
        return {row["proposal"]: row["txid"] for row in self._store.read(lambda c: c.execute(query).fetchall())}

    def totals(self, since: int) -> Totals:
        """What is there, and what came in ever and above a height."""
        query = (
            "SELECT COALESCE(SUM(amount), 0) AS received, COUNT(*) AS payments,"
            " COALESCE(SUM(amount) FILTER (WHERE height > ?), 0) AS inflow,"
            " COALESCE(SUM(amount) FILTER (WHERE spent_height IS NULL), 0) AS there"
            " FROM income"
        )

        def add(connection: sqlite3.Connection) -> Totals:
            row = connection.execute(query, (since,)).fetchone()
            _, anchor = self._anchor(connection, None)
            made = connection.execute(
                "SELECT COUNT(*) AS made FROM round WHERE txid = ?", (anchor.txid if anchor else "",)
            ).fetchone()["made"]
            own = anchor.amount if anchor and made else 0
            return Totals(row["there"] + own, row["received"], row["payments"], row["inflow"])

        return self._store.read(add)


def _from_row(row: sqlite3.Row) -> FundCoin:
    return FundCoin(row["txid"], row["vout"], row["amount"], row["script"], row["height"], row["number"])


def _coin(connection: sqlite3.Connection, txid: str, vout: int) -> FundCoin | None:
    query = "SELECT * FROM fund_output WHERE txid = ? AND vout = ?"
    row = connection.execute(query, (txid, vout)).fetchone()
    return None if row is None else _from_row(row)


def _first_payment(
    connection: sqlite3.Connection, limit: int, *, above: int = -1, script: bytes | None = None
) -> FundCoin | None:
    query = (
        "SELECT * FROM fund_output WHERE amount >= ? AND height > ? AND height <= ? AND (? IS NULL OR script = ?)"
        " ORDER BY height, number, vout LIMIT 1"
    )
    row = connection.execute(query, (DUST, above, limit, script, script)).fetchone()
    return None if row is None else _from_row(row)


_UNSPENT = (
    "SELECT * FROM income WHERE spent_height IS NULL"
    " AND script = ? AND amount >= ? AND height <= ? ORDER BY amount DESC, height, txid, vout LIMIT ?"
)
_SPENT_SINCE = _UNSPENT.replace("spent_height IS NULL", "spent_height > ?")


def _there(
    connection: sqlite3.Connection, script: bytes, redeem: bytes, height: int, anchor: FundCoin | None
) -> list[FundCoin]:
    """The coins at a script, as of a height, that are worth spending, in their order; as many as can matter."""
    worth = 2 * input_fee(redeem)
    values = (script, worth, height, MAX_INPUTS + 1)
    unspent = connection.execute(_UNSPENT, values).fetchall()
    since = connection.execute(_SPENT_SINCE, (height, *values)).fetchall()
    own = (anchor.txid, anchor.vout) if anchor else None
    coins = (_from_row(row) for row in [*unspent, *since])
    return [coin for coin in coins if (coin.txid, coin.vout) != own]


def _wire(row: sqlite3.Row) -> SpentFrom:
    return SpentFrom(
        sequence=row["sequence"],
        kind=row["kind"],
        txid=row["txid"],
        height=row["height"],
        recipients=row["recipients"],
        share=row["share"],
        paid=row["paid"],
        fee=row["fee"],
        batches=row["batches"],
        manifest=row["manifest"],
    )
