"""What this guardian signs, and what it answers to the others.

It signs the bytes that it computed itself at this moment, nothing else, and notes them before anybody gets the
signatures. Its signatures are always the same for the same bytes, so signing twice gives nothing away.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator

from duxcommon.api.airdropd import Cosigned
from duxcommon.api.common import NodeId
from duxcommon.api.flopd import PrevOut
from duxcommon.coin.multisig import parse_multisig
from duxcommon.coin.tx import serialize_tx
from duxcommon.db import Store
from duxcommon.errors import KeystoreMissing, NotGuardian, NothingToSign, TransactionDiffers, WalletLocked
from duxcommon.rulebook import Book

from . import events
from .drafts import Draft, Drafts
from .failpoints import hit
from .fund import Fund
from .plan import DEPTH
from .ports import Flopd, Registryd, Rules

MIGRATION = """
CREATE TABLE signed (
  unsigned TEXT PRIMARY KEY,
  sequence INTEGER NOT NULL, batch INTEGER, kind TEXT NOT NULL, snapshot INTEGER NOT NULL,
  manifest TEXT NOT NULL, reply TEXT NOT NULL, time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


def signers(draft: Draft) -> set[str]:
    """Public keys that the scripts of a transaction's inputs name, hex."""
    return {key.hex() for redeem in set(draft.unsigned.redeems) for key in keys_of(redeem)}


def keys_of(redeem: bytes) -> tuple[bytes, ...]:
    """The guardians' keys in a fund script, in its order."""
    script = parse_multisig(redeem)
    return script.keys if script else ()


def prevouts(draft: Draft) -> Iterator[PrevOut]:
    """The inputs as flopd wants them."""
    unsigned = draft.unsigned
    for coin, redeem in zip(unsigned.inputs, unsigned.redeems, strict=True):
        yield PrevOut(txid=coin.txid, vout=coin.vout, amount=coin.amount, redeem=redeem.hex())


def node_of(book: Book, pubkey: str) -> NodeId | None:
    """The node of a present or former guardian, as far as this node knows it."""
    seats = (seat for rules in reversed(book.book.rules) for seat in rules.guardians)
    return next((seat.node for seat in seats if seat.pubkey == pubkey and seat.node is not None), None)


def guardian_nodes(book: Book) -> set[NodeId]:
    """All nodes that guard the fund or did; what a former one asks for is computed here all the same."""
    return {seat.node for rules in book.book.rules for seat in rules.guardians if seat.node is not None}


class Signing:
    """This node's own signatures."""

    def __init__(
        self, store: Store, flopd: Flopd, registryd: Registryd, fund: Fund, rules: Rules, drafts: Drafts
    ) -> None:
        self._store = store
        self._flopd = flopd
        self._registryd = registryd
        self._pubkey: str | None = None
        self._node: NodeId | None = None
        self._fund = fund
        self._rules = rules
        self._drafts = drafts

    async def pubkey(self) -> str | None:
        """This node's guardian key, hex; None as long as its wallet has been locked. Raises DaemonDown."""
        if self._pubkey is None:
            with contextlib.suppress(WalletLocked, KeystoreMissing):
                self._pubkey = (await self._flopd.guardian()).pubkey
        return self._pubkey

    async def node(self) -> NodeId:
        """This node's id. Raises DaemonDown."""
        if self._node is None:
            self._node = await self._registryd.node()
        return self._node

    async def guards(self) -> bool:
        """Whether this node is a guardian or was one. Raises DaemonDown."""
        own = await self.pubkey()
        seats = [seat for rules in self._rules.book().book.rules for seat in rules.guardians]
        if own is not None:
            return any(seat.pubkey == own for seat in seats)
        return await self.node() in {seat.node for seat in seats}

    async def own(self, draft: Draft) -> Cosigned:
        """This node's signatures of its own draft. Raises NotGuardian, WalletLocked and what else flopd answers."""
        if (noted := self._noted(draft.txid)) is not None:
            return noted
        pubkey = (await self._flopd.guardian()).pubkey
        if pubkey not in signers(draft):
            raise NotGuardian(f"{draft.name} spends no coins that this node guards")
        raw = serialize_tx(draft.unsigned.tx).hex()
        made = await self._flopd.cosign(raw, list(prevouts(draft)))
        hit("own-signed")
        reply = Cosigned(unsigned=draft.txid, pubkey=made.pubkey, signatures=made.signatures)
        await self._store.write(lambda c: _note(c, draft, reply))
        hit("own-signed-committed")
        return reply

    def _noted(self, unsigned: str) -> Cosigned | None:
        query = "SELECT reply FROM signed WHERE unsigned = ?"
        row = self._store.read(lambda c: c.execute(query, (unsigned,)).fetchone())
        return Cosigned.model_validate_json(row["reply"]) if row else None

    async def answer(self, node: NodeId, sequence: int, batch: int | None, unsigned: str) -> Cosigned:
        """What another guardian gets. Raises NotGuardian, NothingToSign, TransactionDiffers, WalletLocked, DuxError."""
        if node not in guardian_nodes(self._rules.book()):
            raise NotGuardian(f"node {node[:16]}… does not guard the fund, as far as this node knows")
        draft = await self._asked(sequence, batch)
        if draft.txid != unsigned:
            raise TransactionDiffers(
                f"this node computed another {draft.name}",
                details={
                    "unsigned": draft.txid,
                    "manifest": draft.manifest.digest().hex(),
                    "snapshot": draft.manifest.plan.height,
                },
            )
        reply = await self.own(draft)
        hit("answer-ready")
        return reply

    async def _asked(self, sequence: int, batch: int | None) -> Draft:
        """The draft with that name, computed now."""
        tip = self._fund.read_to
        if batch is not None:
            found = [
                each for each in await self._drafts.batches(tip) if (each.sequence, each.batch) == (sequence, batch)
            ]
        else:
            current = await self._drafts.current(tip)
            found = [current] if current is not None and current.sequence == sequence else []
        if not found:
            raise NothingToSign(
                f"at block {tip} this node has nothing to sign as transaction {sequence} of the fund",
                details={"height": tip, "sequence": self._fund.anchor()[0], "depth": DEPTH},
            )
        return found[0]


def _note(connection: sqlite3.Connection, draft: Draft, reply: Cosigned) -> None:
    plan, now = draft.manifest.plan, int(time.time())
    manifest = draft.manifest.digest().hex()
    connection.execute(
        "INSERT OR IGNORE INTO signed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (draft.txid, plan.sequence, draft.batch, plan.kind, plan.height, manifest, reply.model_dump_json(), now),
    )
    body = {"sequence": plan.sequence, "batch": draft.batch, "manifest": manifest, "unsigned": draft.txid}
    events.note(connection, f"signed-{draft.txid}", "fund-signed", body)
