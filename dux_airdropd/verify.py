"""Any node recomputes a transaction of the fund from the chain and names the first thing that differs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from btclib.tx import Tx

from duxcommon.api.airdropd import SpentFrom, Verified
from duxcommon.coin.tx import outpoint_of, parse_tx
from duxcommon.money import format_flop

from .drafts import Drafts
from .fund import Fund
from .manifest import Manifest
from .ports import Flopd
from .reading import scripts_and_amounts

Name = Callable[[bytes], str]
"""What people call an output script."""


def difference(expected: Tx, found: Tx, name: Name) -> str:
    """The first thing in which a transaction differs from the one that was computed; empty where nothing does."""
    ours, theirs = ([outpoint_of(txin) for txin in tx.vin] for tx in (expected, found))
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return f"input {number} spends {other[0]}:{other[1]}, not {mine[0]}:{mine[1]}"
    if len(ours) != len(theirs):
        return f"it spends {len(theirs)} outputs, not {len(ours)}"
    wanted, given = scripts_and_amounts(expected), scripts_and_amounts(found)
    for number, (mine_out, other_out) in enumerate(zip(wanted[1:], given[1:], strict=False), 1):
        if mine_out != other_out:
            return f"output {number} pays {_paid(other_out, name)}, not {_paid(mine_out, name)}"
    if len(wanted) > len(given):
        return f"output {len(given)}, {_paid(wanted[len(given)], name)}, is missing"
    if len(given) > len(wanted):
        return f"output {len(wanted)} pays {_paid(given[len(wanted)], name)}, which nobody is to get"
    if wanted[0] != given[0]:
        return "its note names another manifest"
    settings = [(tx.version, tx.lock_time, [txin.sequence for txin in tx.vin]) for tx in (expected, found)]
    return "" if settings[0] == settings[1] else "its version, lock time or sequence numbers differ"


def _paid(output: tuple[bytes, int], name: Name) -> str:
    return f"{format_flop(output[1])} FLOP to {name(output[0])}"


@dataclass(frozen=True, slots=True)
class Verifier:
    """Works on the chain that this node has; other nodes are asked nothing."""

    fund: Fund
    drafts: Drafts
    flopd: Flopd
    name: Name

    async def verify(self, sequence: int) -> Verified:
        """Raises RoundUnknown, RulesPending, EligibilityDiffers and DuxError."""
        done = self.fund.round(sequence)
        manifest = await self.drafts.agreed(sequence)
        if manifest is None:
            past = await self.drafts.past(sequence)
            if not past:
                text = "at no snapshot before it was a transaction of the fund due"
                return _answer(done, None, text, 0)
            manifest = self.drafts.manifest(past[-1])
        keys = await self.drafts.keys(manifest)
        found = parse_tx(self.fund.raw(sequence))
        expected = await asyncio.to_thread(self.drafts.transaction, manifest, keys)
        text = difference(expected.tx, found, self.name)
        paid = 0
        if not text:
            paid, text = await self._batches(done, manifest, keys)
        return _answer(done, manifest, text, paid)

    async def _batches(self, done: SpentFrom, manifest: Manifest, keys: tuple[bytes, ...]) -> tuple[int, str]:
        """How many batches are confirmed and right, and the first difference."""
        right = 0
        for batch in range(len(manifest.batches)):
            output = self.fund.output(done.txid, 2 + batch)
            if output is None or output[1] is None:
                continue
            found = parse_tx((await self.flopd.spender(output[1])).hex)
            expected = await asyncio.to_thread(self.drafts.batch_transaction, manifest, keys, batch, output[0])
            if text := difference(expected.tx, found, self.name):
                return right, f"batch {batch}: {text}"
            right += 1
        return right, ""


def _answer(done: SpentFrom, manifest: Manifest | None, text: str, batches: int) -> Verified:
    return Verified(
        sequence=done.sequence,
        txid=done.txid,
        right=not text,
        difference=text,
        snapshot=manifest.plan.height if manifest else None,
        recipients=manifest.plan.recipients if manifest else 0,
        share=manifest.share if manifest else 0,
        manifest=manifest.digest().hex() if manifest else None,
        batches_paid=batches,
    )
