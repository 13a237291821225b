"""Who is eligible at a height: the facts, the rules and the state of the fund put together, and kept for a while."""

import asyncio
import hashlib
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from duxcommon.api.airdropd import FundAt
from duxcommon.api.flopd import BlockRef
from duxcommon.api.registryd import EligibleKey, EligiblePage, Standing
from duxcommon.eligibility import Demands, Score, Window, admitted, missing, qualifies
from duxcommon.errors import RulesPending
from duxcommon.rulekeeper import RuleKeeper

from .work import Ledger

SNAPSHOT_DEPTH = 60
"""Blocks above a snapshot that is paid by, and of the default one here."""
KEPT = 6
"""Snapshots in memory, at some 4 MB for 100,000 keys."""
_KEY = 33


class Keys:
    """Payout keys in ascending order with the tax of each, packed."""

    def __init__(self, scores: Sequence[Score]) -> None:
        ordered = sorted(scores, key=lambda one: one.pubkey)
        self._joined = b"".join(one.pubkey for one in ordered)
        self._taxes = [one.tax for one in ordered]
        self.digest = hashlib.sha256(self._joined).hexdigest()
        """SHA-256 of all of them, one after the other."""

    def __len__(self) -> int:
        return len(self._taxes)

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._joined[index * _KEY : (index + 1) * _KEY]

    def __contains__(self, pubkey: bytes) -> bool:
        at = bisect_left(self, pubkey)
        return at < len(self) and self[at] == pubkey

    def page(self, after: bytes | None, limit: int) -> tuple[list[EligibleKey], bool]:
        """The next keys after one, and whether there are more."""
        first = 0 if after is None else bisect_right(self, after)
        last = min(first + limit, len(self))
        found = [EligibleKey(pubkey=self[at].hex(), tax=self._taxes[at]) for at in range(first, last)]
        return found, last < len(self)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything about one height that does not depend on which key is asked about."""

    window: Window
    rules: int
    demands: Demands
    qualified: Keys
    eligible: Keys
    share: int
    """The largest share that all eligible keys can have."""
    full: bool
    """All qualified keys have an equal part."""


_Name = tuple[Window, int, Demands, int]
_TRIES = 3


class Snapshots:
    """Answers `node.eligible` and `node.standing`.

    No lock is held while airdropd is asked, because airdropd may be waiting for an answer from here.
    """

    def __init__(
        self,
        ledger: Ledger,
        keeper: RuleKeeper,
        fund_at: Callable[[int], Awaitable[FundAt]],
    ) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self._fund_at = fund_at
        self._kept: OrderedDict[_Name, asyncio.Task[Snapshot | None]] = OrderedDict()

    def height(self, asked: int | None) -> int:
        """The snapshot that is meant: by default one that no usual reorganisation reaches. Raises RulesPending."""
        known = self._ledger.state().height
        if known < 0:
            raise RulesPending("this node has not read the chain yet")
        if asked is None:
            return max(0, known - SNAPSHOT_DEPTH)
        if asked > known:
            raise RulesPending(
                f"this node has read settled work up to block {known}, not to {asked}",
                hint="If the chain is that long (`dux-ctl chain status`), the node still reads it: try again soon.",
                details={"height": asked, "known_to": known},
            )
        return asked

    async def at(self, asked: int | None) -> tuple[Snapshot, BlockRef]:
        """The snapshot of a height and the last block of the chain that it is of.

        Raises RulesPending, and what airdropd answers.
        """
        for _ in range(_TRIES):
            height = self.height(asked)
            rules = self._keeper.book.at(height)
            fund = await self._fund_at(height)
            window = Window(height, rules.parameters.window_blocks)
            demands = Demands.of(
                rules.parameters, bond_price=fund.bond_price, shares_paid=fund.shares_paid, spendable=fund.spendable
            )
            # The generation stands for the blocks' hashes: it changes when one is replaced.
            state = self._ledger.state()
            name = (window, rules.version, demands, state.generation)
            found = await self._kept_or_made(name)
            if found is not None and state.tip is not None:
                return found, state.tip
        raise RulesPending("the chain is being reorganised; the blocks that were replaced are read again")

    async def _kept_or_made(self, name: _Name) -> Snapshot | None:
        """The snapshot, computed once however many ask; None when the facts changed under it."""
        if name not in self._kept:
            task = asyncio.create_task(asyncio.to_thread(self._compute, *name))
            # Whoever asked may have gone away; its failure is told to the next one who asks.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._kept[name] = task
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        try:
            found = await asyncio.shield(self._kept[name])
        except Exception:
            self._kept.pop(name, None)
            raise
        if found is None:
            self._kept.pop(name, None)
        return found

    def _compute(self, window: Window, rules: int, demands: Demands, generation: int) -> Snapshot | None:
        state, scores = self._ledger.scores(window)
        if state.generation != generation or state.height < window.height:
            return None
        qualified = [one for one in scores if qualifies(one, demands)]
        found = admitted(qualified, demands)
        return Snapshot(window, rules, demands, Keys(qualified), Keys(found.keys), found.share, found.full)

    async def page(self, asked: int | None, after: str | None, limit: int, *, qualified: bool) -> EligiblePage:
        """Eligible keys (or all qualified ones) of a snapshot, by key."""
        snapshot, tip = await self.at(asked)
        listed = snapshot.qualified if qualified else snapshot.eligible
        keys, more = listed.page(None if after is None else bytes.fromhex(after), limit)
        return EligiblePage(
            height=snapshot.window.height,
            rules=snapshot.rules,
            total=len(snapshot.eligible),
            qualified=len(snapshot.qualified),
            share=snapshot.share,
            full=snapshot.full,
            digest=listed.digest,
            keys=keys,
            next=keys[-1].pubkey if keys and more else None,
            tip=tip,
        )

    async def standing(self, pubkey: bytes, asked: int | None) -> Standing:
        """Whether a key has a share, and what it lacks."""
        snapshot, _ = await self.at(asked)
        window, demands = snapshot.window, snapshot.demands
        found, locks = await asyncio.to_thread(self._ledger.of_key, pubkey, window)
        eligible = pubkey in snapshot.eligible
        lacks = missing(
            found,
            window,
            demands,
            locks=locks,
            share=snapshot.share,
            capped=not eligible and qualifies(found, demands),
        )
        return Standing(
            pubkey=pubkey.hex(),
            height=window.height,
            rules=snapshot.rules,
            eligible=eligible,
            tax=found.tax,
            epochs=found.epochs,
            bond=found.bond,
            bond_needed=demands.bond_price,
            missing=lacks,
        )
