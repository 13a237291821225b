"""The airdrop epoch by epoch: inflow that changes, bonds that trail, rounds as the rules of the chain decide them.

An epoch is the step of time. All rounds of an epoch are taken as one at its end, with the keys that are in then.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.airdrop_model import (
    BLOCKS_A_WEEK,
    BLOCKS_A_YEAR,
    BOND_FEE,
    BOND_TOLL,
    BPS,
    INPUT_FEE,
    LOCK_WINDOWS,
    OPEN_FEE,
    PCT,
    SETTLE_FEE,
    TAX_BPS,
    WASH_BLOCKS,
    Node,
    Rules,
    bond_price,
    fitting,
    tax_needed,
)
from duxcommon.money import DUST

PAYEE_FEE = 39_000
"""What one recipient adds to the fee of a round."""
NOISE = 0.3
"""Spread of an honest node's work from epoch to epoch (sigma of a lognormal factor)."""


class Key:
    """A payout key on the chain: what it paid in the epochs of the window, and its bonds as (until, amount)."""

    __slots__ = ("bonded", "bonds", "earlier", "pending", "saved", "tax", "taxes")

    def __init__(self, span: int) -> None:
        self.taxes = deque([0] * span, span)
        self.tax = 0
        """Paid in the window."""
        self.earlier: deque[int] = deque()
        self.saved = 0
        """Paid for as long as a bond is locked, by epochs and in all: what its savings come from."""
        self.bonds: list[tuple[int, int]] = []
        self.bonded = deque([False] * (span + 1), span + 1)
        """For each of the last epochs: whether the bond then made it qualified a window later."""
        self.pending = 0
        """Earned but not settled yet."""

    def pay(self, tax: int) -> None:
        """Begin an epoch in which it pays this much."""
        self.tax += tax - self.taxes[0]
        self.taxes.append(tax)
        self.saved += tax
        self.earlier.append(tax)
        if len(self.earlier) > LOCK_WINDOWS * len(self.taxes):
            self.saved -= self.earlier.popleft()

    def add(self, tax: int) -> None:
        """Pay more in the epoch that has begun."""
        self.tax += tax
        self.taxes[-1] += tax

    def a_window(self) -> int:
        """Tax of a usual window: the last one or the mean of a bond's lock, whichever is more; savings stay."""
        return max(self.tax, self.saved * len(self.taxes) // len(self.earlier))

    def qualified(self, rules: Rules) -> bool:
        """All that eligibility asks but the share cap."""
        worked = sum(1 for tax in self.taxes if tax)
        return self.bonded[0] and self.tax >= rules.min_tax_paid and worked >= rules.epochs_needed

    def locked(self, epoch: int) -> int:
        """Koinu that are locked until this epoch or longer."""
        return sum(amount for until, amount in self.bonds if until >= epoch)


@dataclass(frozen=True, slots=True)
class Campaign:
    """Wash keys that mean to be in from the round of one epoch to that of another."""

    keys: int
    first: int
    last: int


@dataclass(slots=True)
class Account:
    """What one wash key has paid and got; `tied` is koinu times epochs."""

    shares: int = 0
    tax: int = 0
    fees: int = 0
    tied: int = 0

    def yearly(self, rules: Rules) -> float:
        """Return per year on what was tied up. 1.0 is 100 %."""
        epochs_a_year = BLOCKS_A_YEAR * rules.epochs / rules.window_blocks
        return (self.shares - self.tax - self.fees) * epochs_a_year / self.tied if self.tied else 0.0


@dataclass(slots=True)
class Run:
    """What happened. `taken + tolls == paid + fees + balance`, to the koinu."""

    taken: int = 0
    """Tax."""
    tolls: int = 0
    """What bonds paid to the fund."""
    fees: int = 0
    """What it cost to spend all that, and to pay it out."""
    balance: int = 0
    payouts: list[int] = field(default_factory=list)
    """Of each epoch, to all keys."""
    shares: list[int] = field(default_factory=list)
    """Of each epoch, to one key; 0 without a round."""
    prices: list[int] = field(default_factory=list)
    inside: list[float | None] = field(default_factory=list)
    """Of each epoch with a round: the part of the active honest nodes that was in."""
    attack: Account = field(default_factory=Account)
    attacked: int = 0
    """Paid to attackers in all."""

    @property
    def paid(self) -> int:
        """Paid to all keys in all."""
        return sum(self.payouts)

    def inclusion(self, first: int, last: int) -> float:
        """Mean over the rounds of these epochs; 0 when there was none."""
        seen = [part for part in self.inside[first : last + 1] if part is not None]
        return sum(seen) / len(seen) if seen else 0.0


class World:
    """A fund, honest nodes and at most one campaign.

    With `covered_pct` the share gives way: the cap may push out no more of the qualified keys than the rest, and what
    it does not let the smallest of the others have stays in the fund. 0 is the rule as it is.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        rules: Rules,
        weeks: int,
        trend: Callable[[int], float],
        campaign: Campaign | None = None,
        covered_pct: int = 0,
        seed: int = 1,
    ) -> None:
        self.nodes, self.rules, self.weeks, self.trend = nodes, rules, weeks, trend
        self.campaign, self.covered_pct = campaign, covered_pct
        self.rng = random.Random(seed)
        span = rules.epochs
        self.keys = [Key(span) for _ in nodes]
        self.hit = [-math.expm1(-node.settlements / span) for node in nodes]
        self.wash = Key(span)
        self.run = Run()

    def go(self, epochs: int) -> Run:
        """Live through them."""
        for epoch in range(epochs):
            self.run.prices.append(self._price(epoch))
            self._work(epoch)
            self._bond_honest(epoch)
            self._bond_wash(epoch)
            self._round(epoch)
        return self.run

    def _price(self, epoch: int) -> int:
        """The bond for windows that open in this epoch: known one epoch ahead, so the last epoch is not in it yet."""
        end = max(0, epoch - 1)
        return bond_price(sum(self.run.shares[max(0, end - self.rules.epochs) : end]), self.rules)

    def _pay_tax(self, tax: int, keys: int = 1) -> None:
        self.run.taken += keys * tax
        self.run.balance += keys * (tax - INPUT_FEE)
        self.run.fees += keys * INPUT_FEE

    def _work(self, epoch: int) -> None:
        level = self.trend(epoch) / self.rules.epochs
        for node, key, hit in zip(self.nodes, self.keys, self.hit, strict=True):
            key.pending += int(node.tax * level * self.rng.lognormvariate(-NOISE * NOISE / 2, NOISE))
            paid = key.pending if key.pending >= DUST and self.rng.random() < hit else 0
            key.pending -= paid
            key.pay(paid)
            if paid:
                self._pay_tax(paid)

    def _make_bond(self, key: Key, epoch: int, until: int, purse: int | None) -> int:
        """Lock what is missing at this epoch's price, a tenth more than was asked so that it lasts; what was locked."""
        price, span = self.run.prices[epoch], self.rules.epochs
        key.bonds = [bond for bond in key.bonds if bond[0] >= epoch]
        missing = price - key.locked(epoch + 2 * span)
        made = 0
        if missing > 0:
            room = None if purse is None else purse - key.locked(epoch)
            if room is None or missing <= room:
                spare = max(missing, price // 10)
                made = spare if room is None else min(spare, room)
                key.bonds.append((until, made))
        key.bonded.append(key.locked(epoch + 2 * span) >= price)
        return made

    def _bond_honest(self, epoch: int) -> None:
        span, rules = self.rules.epochs, self.rules
        for node, key in zip(self.nodes, self.keys, strict=True):
            # Before there is a whole window of work, its usual work stands for it.
            taxed = key.a_window() if epoch >= span else int(node.tax * self.trend(0))
            earned = taxed * (BPS - TAX_BPS) // TAX_BPS
            purse = earned * self.weeks * BLOCKS_A_WEEK // rules.window_blocks
            if self._make_bond(key, epoch, epoch + LOCK_WINDOWS * span, purse):
                self._toll()

    def _bond_wash(self, epoch: int) -> None:
        plan, span = self.campaign, self.rules.epochs
        if plan is None or not plan.first - span <= epoch <= plan.last - span:
            self.wash.bonded.append(False)
            return
        until = plan.last + span
        made = self._make_bond(self.wash, epoch, until, None)
        if made:
            self._toll(plan.keys)
            self.run.attack.fees += BOND_FEE + BOND_TOLL
            self.run.attack.tied += made * (until - epoch + 1)

    def _toll(self, keys: int = 1) -> None:
        self.run.tolls += keys * BOND_TOLL
        self.run.balance += keys * (BOND_TOLL - INPUT_FEE)
        self.run.fees += keys * INPUT_FEE

    def _past(self) -> int:
        """Shares that the rounds of the window before this epoch's paid to one key."""
        return sum(self.run.shares[-(self.rules.epochs - 1) :]) if self.rules.epochs > 1 else 0

    def _chosen(self, taxes: list[int], past: int, balance: int) -> tuple[int, int]:
        """How many of the qualified keys, by falling tax, get what share; (0, 0) without a round."""
        count = fitting(taxes, past, balance, self.rules.share_cap_pct)
        if not self.covered_pct or not taxes:
            return count, balance // count if count else 0
        count = max(count, -(-len(taxes) * self.covered_pct // PCT))
        return count, min(balance // count, self.rules.share_cap_pct * taxes[count - 1] // PCT - past)

    def _round(self, epoch: int) -> None:
        rules, run, plan = self.rules, self.run, self.campaign
        past = self._past()
        honest = sorted((key.tax for key in self.keys if key.qualified(rules)), reverse=True)
        active = sum(1 for key in self.keys if key.tax)
        self.wash.pay(0)
        washing = plan is not None and plan.first <= epoch <= plan.last and self.wash.bonded[0]
        if plan is not None and plan.first - rules.epochs < epoch <= plan.last:
            beat = epoch * rules.epochs_needed // rules.epochs != (epoch - 1) * rules.epochs_needed // rules.epochs
            extra = self._extra(honest, past) if washing else 0
            self._wash(max(extra, DUST if beat else 0), plan.keys)
        inside = washing and self.wash.qualified(rules)
        taxes = sorted(honest + [self.wash.tax] * plan.keys, reverse=True) if plan and inside else honest
        balance = run.balance - PAYEE_FEE * len(taxes)
        count, share = self._chosen(taxes, past, balance)
        if not count or share < DUST or run.balance < max(rules.threshold, count * DUST):
            run.shares.append(0)
            run.payouts.append(0)
            run.inside.append(None)
            return
        run.payouts.append(count * share)
        run.fees += count * PAYEE_FEE
        run.balance -= count * (share + PAYEE_FEE)
        run.shares.append(share)
        ahead = sum(1 for tax in honest if tax >= self.wash.tax)
        washed = min(plan.keys, max(0, count - ahead)) if plan and inside else 0
        run.inside.append((count - washed) / active)
        if plan and washed:
            run.attack.shares += share * washed // plan.keys
            run.attacked += share * washed

    def _extra(self, honest: list[int], past: int) -> int:
        """The smallest tax beside what they have paid with which all wash keys are in; 0 when it is not worth it."""
        assert self.campaign is not None
        keys, rules = self.campaign.keys, self.rules
        if self.run.balance < rules.threshold:
            return 0

        def inside(extra: int) -> bool:
            tax = self.wash.tax + extra
            taxes = sorted(honest + [tax] * keys, reverse=True)
            balance = self.run.balance + keys * (extra - INPUT_FEE if extra else 0) - PAYEE_FEE * len(taxes)
            count, share = self._chosen(taxes, past, balance)
            ahead = sum(1 for other in honest if other >= tax)
            return share >= DUST and count >= ahead + keys and tax >= tax_needed(past + share, rules)

        if inside(0):
            return 0
        low, high = 0, DUST
        while not inside(high):
            low, high = high, high * 2
            if high > self.run.balance:
                return 0
        while high - low > max(1, high // 1000):
            middle = (low + high) // 2
            low, high = (low, middle) if inside(middle) else (middle, high)
        return max(high, DUST)

    def _wash(self, tax: int, keys: int) -> None:
        """Every wash key settles once with this tax; nothing when it is 0."""
        if not tax:
            return
        self.wash.add(tax)
        self._pay_tax(tax, keys)
        epoch_blocks = self.rules.window_blocks // self.rules.epochs
        account = self.run.attack
        account.tax += tax
        account.fees += SETTLE_FEE + OPEN_FEE
        account.tied += tax * BPS // TAX_BPS * WASH_BLOCKS // epoch_blocks
