"""A fund on a chain that exists only as facts: what flopd would tell is put into airdropd's own tables."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fund_kit import FIVE, NETWORK, Guardians

from dux_airdropd import events, fund, rounds, signing
from dux_airdropd.drafts import Draft, Drafts
from dux_airdropd.fund import Fund
from dux_airdropd.manifest import digest_of
from dux_airdropd.ports import ApprovedSpend, Eligible
from dux_airdropd.reading import scripts_and_amounts
from duxcommon import follow
from duxcommon.api.airdropd import RuleBook, Rules
from duxcommon.api.flopd import FundFact, Place
from duxcommon.coin.tx import outpoint_of, parse_tx, serialize_tx, txid_of
from duxcommon.db import Store
from duxcommon.rulebook import Book
from tests.support.network import definition

TABLES = follow.MIGRATION + fund.MIGRATION + signing.MIGRATION + rounds.MIGRATION + events.MIGRATION
FOR_EVER = 2**31


class Voted:
    """Rules that a test decides."""

    def __init__(self, *versions: Rules, spends: Sequence[ApprovedSpend] = ()) -> None:
        self.versions = list(versions)
        self.spends = list(spends)

    def book(self) -> Book:
        return Book(RuleBook(network=NETWORK, rules=self.versions, known_to=FOR_EVER))

    def spends_in_force(self, height: int) -> list[ApprovedSpend]:
        return [spend for spend in self.spends if spend.from_height <= height]


class Electors:
    """Eligibility that a test decides: the same keys at every height, unless a height has its own."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self.default = sorted(keys)
        self.at: dict[int, list[bytes]] = {}
        self.counted: list[int] = []
        self.fetched: list[int] = []
        self.trouble: Exception | None = None

    def _keys(self, height: int) -> list[bytes]:
        return self.at.get(height, self.default)

    async def total(self, height: int) -> Eligible:
        if self.trouble is not None:
            raise self.trouble
        self.counted.append(height)
        keys = self._keys(height)
        return Eligible(height, len(keys), digest_of(keys), ())

    async def keys(self, height: int) -> Eligible:
        self.fetched.append(height)
        keys = self._keys(height)
        return Eligible(height, len(keys), digest_of(keys), tuple(keys))


class World:
    """Blocks are heights; `read_to` is the tip."""

    def __init__(
        self,
        rules: Voted | None = None,
        keys: Sequence[bytes] = (),
        first_anchor: str | None = None,
        chain: str = "devnet",
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="dux")
        self.store = Store(Path(self.folder.name) / "airdropd.sqlite", (TABLES,))
        self.rules = rules or Voted(FIVE.rules())
        self.electors = Electors(keys)
        network = definition().model_copy(update={"first_anchor": first_anchor, "chain": chain})
        self.fund = Fund(self.store, network, self.rules)
        self.drafts = Drafts(NETWORK, self.fund, self.rules, self.electors)
        self._bytes: dict[str, str] = {}
        self._made = 0

    async def close(self) -> None:
        await self.store.close()
        self.folder.cleanup()

    async def _facts(self, *facts: FundFact) -> None:
        await self.store.write(lambda c: self.fund.kind.apply(c, facts))

    async def pay(
        self, height: int, amount: int, guardians: Guardians = FIVE, txid: str | None = None, *, coinbase: bool = False
    ) -> str:
        """A payment to the fund in a block; its transaction."""
        self._made += 1
        txid = txid or hashlib.sha256(b"payment %d" % self._made).hexdigest()
        at = Place(height=height, index=0 if coinbase else self._made)
        await self._facts(
            FundFact(at=at, event="paid", txid=txid, vout=0, amount=amount, script=guardians.script.hex(), spender=None)
        )
        return txid

    async def confirm(self, draft: Draft, height: int) -> str:
        """A block holds the transaction of a draft."""
        return await self.confirm_raw(serialize_tx(draft.unsigned.tx).hex(), height)

    async def confirm_raw(self, raw: str, height: int) -> str:
        """A block holds this transaction, which spends from the fund."""
        tx = parse_tx(raw)
        txid = txid_of(tx)
        self._bytes[txid] = raw
        self._made += 1
        at = Place(height=height, index=self._made)
        facts = []
        for txin in tx.vin:
            spent = outpoint_of(txin)
            known = self.fund.output(*spent)
            assert known is not None
            facts.append(
                FundFact(
                    at=at, event="spent", txid=spent[0], vout=spent[1], amount=known[0].amount,
                    script=known[0].script.hex(), spender=txid,
                )
            )  # fmt: skip
        scripts = {bytes.fromhex(rules.fund_script) for rules in self.rules.versions}
        for vout, (script, amount) in enumerate(scripts_and_amounts(tx)):
            if script in scripts:
                facts.append(
                    FundFact(
                        at=at, event="paid", txid=txid, vout=vout, amount=amount, script=script.hex(), spender=None
                    )
                )
        await self._facts(*facts)
        return txid

    async def read_to(self, tip: int) -> None:
        """All blocks up to a height are there."""
        await self.fund.extend(tip, self.raw)

    async def raw(self, txid: str) -> str:
        """The bytes of a transaction that spent from the fund."""
        return self._bytes[txid]

    async def reorganise(self, above: int) -> None:
        """Blocks above a height are replaced by empty ones."""
        await self.store.write(lambda c: self.fund.kind.undo(c, above))

    async def draft(self, tip: int) -> Draft:
        """The transaction that is due at a tip."""
        await self.read_to(tip)
        draft = await self.drafts.current(tip)
        assert draft is not None
        return draft
