"""What is right to sign, computed by this node alone from the chain: the next transaction, and the batches that wait.

Nothing here was told by another guardian. What was computed before is used again only while the chain it came from
stands; eligibility is asked for at heights where the fund could pay, and the keys only once they are to be paid.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from duxcommon.coin.tx import txid_of
from duxcommon.errors import EligibilityDiffers

from .failpoints import hit
from .fund import Fund, redeems_of
from .manifest import Manifest, Unsigned, batch_transaction, transaction, write
from .plan import DEPTH, STEP, Decision, FundCoin, Plan, Waiting, decide, first_snapshot
from .ports import Eligible, EligibleAt, Rules

CACHED = 64
"""So many manifests of past transactions are kept."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction that this node would sign."""

    manifest: Manifest
    batch: int | None
    """Number of the batch; None for the transaction of the fund itself."""
    unsigned: Unsigned
    txid: str
    """Id without signatures."""
    since: int
    """Height from which it is signed."""

    @property
    def sequence(self) -> int:
        """Number of the transaction of the fund."""
        return self.manifest.plan.sequence

    @property
    def name(self) -> str:
        """For people."""
        plan = self.manifest.plan
        what = f"transaction {plan.sequence} ({plan.kind})"
        return what if self.batch is None else f"batch {self.batch} of {what}"


@dataclass(frozen=True, slots=True)
class Next:
    """What a snapshot came to."""

    decision: Decision
    eligible: Eligible | None = None
    """Without keys; None where nobody had to count."""

    @property
    def plan(self) -> Plan | None:
        """The transaction that it asks for."""
        return self.decision if isinstance(self.decision, Plan) else None


@dataclass(frozen=True, slots=True)
class _Searched:
    chain: object
    """What the search was about; another value makes it worthless."""
    start: int
    """The first snapshot that was not looked at."""
    found: Next
    """The plan to carry out, or what the last snapshot came to."""


class Drafts:
    """Computes. A node that computes something else is outvoted, whatever its reasons."""

    def __init__(self, network: str, fund: Fund, rules: Rules, eligible: EligibleAt) -> None:
        self._network = network
        self._fund = fund
        self._rules = rules
        self._eligible = eligible
        self._searched: _Searched | None = None
        self._searching = asyncio.Lock()
        self._keys: Eligible | None = None
        self._made: dict[tuple[bytes, int | None, str], Draft] = {}
        self._past: dict[tuple[int, str], Manifest | None] = {}

    # --- the one place where it is decided what is signed ----------------------------------------------------

    def transaction(self, manifest: Manifest, keys: Sequence[bytes]) -> Unsigned:
        """The unsigned transaction of a manifest; `keys` are those that it pays."""
        return transaction(manifest, keys, redeems_of(self._rules.book()))

    def batch_transaction(self, manifest: Manifest, keys: Sequence[bytes], batch: int, waiting: FundCoin) -> Unsigned:
        """The unsigned transaction of one batch."""
        return batch_transaction(manifest, keys, batch, waiting)

    # --- plans -----------------------------------------------------------------------------------------------

    async def next(self, tip: int) -> Next:
        """What the fund does next, as far as the blocks up to `tip` decide it. Raises RulesPending and DuxError."""
        async with self._searching:
            sequence, anchor = self._fund.anchor()
            if anchor is None:
                return Next(Waiting("no-anchor"))
            chain = (self._fund.undone, sequence, anchor)
            last = self._searched
            if last is None or last.chain != chain:
                last = _Searched(chain, first_snapshot(anchor.height), Next(Waiting("below-threshold")))
            if last.found.plan is not None and tip < last.found.plan.lapses:
                return last.found
            found = await self._search(last.start, tip)
            if found:
                last = _Searched(chain, first_snapshot(tip), found[-1])
                plan = found[-1].plan
                if plan is not None:
                    last = _Searched(chain, plan.lapses, found[-1])
            self._searched = last
            return last.found

    async def _search(self, start: int, end: int) -> list[Next]:
        """All plans of snapshots from `start` to `end`, each in force until it lapses, and what the last came to."""
        found: list[Next] = []
        at = start
        while at <= end:
            one = await self._decide(at)
            if found and found[-1].plan is None:
                found.pop()
            found.append(one)
            if one.plan is not None:
                at = one.plan.lapses
            elif one.eligible is not None:
                at += STEP
            else:
                at = self._first_change(at, end)
        return found

    async def _decide(self, height: int) -> Next:
        snapshot = await asyncio.to_thread(self._fund.snapshot, height)
        decision = decide(snapshot, None)
        if isinstance(decision, Waiting) and decision.why == "ask-eligible":
            eligible = await self._eligible.total(height)
            counted = decide(snapshot, eligible.total, limit=eligible.share, full=eligible.full)
            return Next(counted, eligible)
        return Next(decision)

    def _first_change(self, above: int, end: int) -> int:
        """The first snapshot whose answer may differ from that of `above` without a change of eligibility."""
        changes = [end + 1]
        if (paid := self._fund.next_change(above)) is not None:
            changes.append(paid)
        changes += [rules.from_height for rules in self._rules.book().book.rules if rules.from_height > above]
        changes += [spend.from_height for spend in self._rules.spends_in_force(end) if spend.from_height > above]
        return -(-min(changes) // STEP) * STEP

    # --- drafts ----------------------------------------------------------------------------------------------

    def manifest(self, found: Next) -> Manifest:
        """The manifest of a plan."""
        plan = found.plan
        assert plan is not None
        digest = found.eligible.digest if found.eligible and plan.kind == "payout" else None
        return write(self._network, plan, digest, redeems_of(self._rules.book())[plan.script])

    async def current(self, tip: int) -> Draft | None:
        """The transaction to sign now, computed now; None when there is none. Raises RulesPending and DuxError."""
        found = await self.next(tip)
        if found.plan is None or tip < found.plan.height + DEPTH:
            return None
        try:
            manifest = self.manifest(found)
            return await self._draft(manifest, await self.keys(manifest), None, None, found.plan.height + DEPTH)
        except EligibilityDiffers:
            # Blocks were replaced after the plan was made.
            self._searched = None
            raise

    async def batches(self, tip: int) -> list[Draft]:
        """The batches to sign now. Raises RulesPending and DuxError."""
        drafts = []
        keys: dict[int, tuple[bytes, ...]] = {}
        for sequence, batch, waiting in self._fund.unpaid_batches(tip - DEPTH):
            manifest = await self.agreed(sequence)
            if manifest is not None:
                if sequence not in keys:
                    keys[sequence] = await self.keys(manifest)
                drafts.append(await self._draft(manifest, keys[sequence], batch, waiting, waiting.height + DEPTH))
        return drafts

    def forget(self, keep: Iterable[Draft]) -> None:
        """Drop the transactions that are not due any more: those of a large round take much memory."""
        txids = {draft.txid for draft in keep}
        self._made = {name: draft for name, draft in self._made.items() if draft.txid in txids}

    async def agreed(self, sequence: int) -> Manifest | None:
        """The manifest of a confirmed transaction, recomputed; None when no snapshot leads to the one it names."""
        done = self._fund.round(sequence)
        key = (self._fund.undone, done.txid)
        if key not in self._past:
            found = [self.manifest(one) for one in await self.past(sequence)]
            match = next((each for each in found if each.digest().hex() == done.manifest), None)
            self._past = {**dict(list(self._past.items())[-CACHED:]), key: match}
        return self._past[key]

    async def past(self, sequence: int) -> list[Next]:
        """The plans that a confirmed transaction may have carried out, in the order of their snapshots."""
        done, anchor = self._fund.round(sequence), self._fund.anchor_of(sequence)
        found = await self._search(first_snapshot(anchor.height), done.height - DEPTH - 1)
        return [one for one in found if one.plan is not None]

    async def keys(self, manifest: Manifest) -> tuple[bytes, ...]:
        """Those whom a manifest pays. Raises EligibilityDiffers when the chain says otherwise by now."""
        plan = manifest.plan
        if plan.kind != "payout":
            return ()
        known = self._keys
        if known is None or (known.height, known.digest) != (plan.height, manifest.eligible):
            known = self._keys = await self._eligible.keys(plan.height)
        else:
            total = await self._eligible.total(plan.height)
            known = known if (total.digest, total.share) == (known.digest, known.share) else total
        if (known.digest, known.share) != (manifest.eligible, plan.limit):
            raise EligibilityDiffers(f"other keys are eligible at block {plan.height} than when the plan was made")
        return known.keys

    async def _draft(
        self, manifest: Manifest, keys: Sequence[bytes], batch: int | None, waiting: FundCoin | None, since: int
    ) -> Draft:
        name = (manifest.digest(), batch, waiting.txid if waiting else "")
        if name not in self._made:
            made = await asyncio.to_thread(self._make, manifest, keys, batch, waiting)
            hit("computed")
            self._made[name] = Draft(manifest, batch, made, txid_of(made.tx), since)
        return self._made[name]

    def _make(self, manifest: Manifest, keys: Sequence[bytes], batch: int | None, waiting: FundCoin | None) -> Unsigned:
        if batch is None or waiting is None:
            return self.transaction(manifest, keys)
        return self.batch_transaction(manifest, keys, batch, waiting)
