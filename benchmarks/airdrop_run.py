"""The airdrop epoch by epoch: inflow that changes, bonds that trail, rounds as the rules of the chain decide them.

An epoch is the step of time. All rounds of an epoch are taken as one at its end, with the keys that are in then; who
they are and what they get is decided by `duxcommon.eligibility`, as in the daemons.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.airdrop_model import (
    BLOCKS_A_WEEK,
    BLOCKS_A_YEAR,
    BOND_FEE,
    BOND_TOLL,
    BPS,
    INPUT_FEE,
    LOCK_WINDOWS,
    OPEN_FEE,
    SETTLE_FEE,
    TAX_BPS,
    WASH_BLOCKS,
    Node,
    Rules,
    bond_price,
    tax_needed,
)
from duxcommon.eligibility import Admission, Demands, Score, admitted
from duxcommon.money import DUST

PAYEE_FEE = 39_000
"""What one recipient adds to the fee of a round."""
NOISE = 0.3
"""Spread of an honest node's work from epoch to epoch (sigma of a lognormal factor)."""
BOUNDLESS = 10**18
"""A tax for whose cap every share is small."""


class Key:
    """A payout key on the chain: what it paid in the epochs of the window, and its bonds as (until, amount)."""

    __slots__ = ("bonded", "bonds", "earlier", "pending", "saved", "saving", "tax", "taxes")

    def __init__(self, span: int, saving: int) -> None:
        self.saving = saving
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
        if len(self.earlier) > self.saving:
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
        worked = len(self.taxes) - self.taxes.count(0)
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
    tax: int = 0
    """What each pays in a window, whatever it brings; 0: as little as lets it in."""


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
    """What happened. `begun + taken + tolls == paid + fees + balance`, to the koinu."""

    begun: int = 0
    """What the fund held at the beginning."""
    taken: int = 0
    """Tax."""
    tolls: int = 0
    """What bonds paid to the fund."""
    fees: int = 0
    """What it cost to spend all that, and to pay it out."""
    balance: int = 0
    incomes: list[int] = field(default_factory=list)
    """Of each epoch, net of what spending it costs."""
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
    gains: list[int] = field(default_factory=list)
    """What each honest node got from epoch `since` on."""
    since: int = 0

    @property
    def paid(self) -> int:
        """Paid to all keys in all."""
        return sum(self.payouts)

    def inclusion(self, first: int, last: int) -> float:
        """Mean over the rounds of these epochs; 0 when there was none."""
        seen = [part for part in self.inside[first : last + 1] if part is not None]
        return sum(seen) / len(seen) if seen else 0.0

    def passed_on(self) -> float:
        """The part of what came in from epoch `since` on that was paid out; more than 1 when older money was too."""
        came = sum(self.incomes[self.since :])
        return sum(self.payouts[self.since :]) / came if came else 0.0

    def evenness(self) -> float:
        """Mean over the honest nodes of what each got, at most an equal part of what came in, in such parts."""
        part = sum(self.incomes[self.since :]) / len(self.gains)
        return sum(min(1.0, gain / part) for gain in self.gains) / len(self.gains) if part > 0 else 0.0


class World:
    """A fund, honest nodes and at most one campaign."""

    def __init__(
        self,
        nodes: Sequence[Node],
        rules: Rules,
        weeks: int,
        trend: Callable[[int], float],
        campaign: Campaign | None = None,
        *,
        begun: int = 0,
        since: int = 0,
        lock_windows: int = LOCK_WINDOWS,
        seed: int = 1,
    ) -> None:
        self.nodes, self.rules, self.weeks, self.trend = nodes, rules, weeks, trend
        self.campaign, self.lock_epochs = campaign, lock_windows * rules.epochs
        self.rng = random.Random(seed)
        span = rules.epochs
        self.keys = [Key(span, self.lock_epochs) for _ in nodes]
        self.names = [number.to_bytes(4) for number in range(len(nodes) + (campaign.keys if campaign else 0))]
        self.hit = [-math.expm1(-node.settlements / span) for node in nodes]
        self.wash = Key(span, self.lock_epochs)
        self.run = Run(begun=begun, balance=begun, gains=[0] * len(nodes), since=since)

    def go(self, epochs: int) -> Run:
        """Live through them."""
        for epoch in range(epochs):
            self.run.prices.append(self._price(epoch))
            self.run.incomes.append(0)
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
        self._receive(tax, keys)

    def _toll(self, keys: int = 1) -> None:
        self.run.tolls += keys * BOND_TOLL
        self._receive(BOND_TOLL, keys)

    def _receive(self, amount: int, keys: int) -> None:
        self.run.balance += keys * (amount - INPUT_FEE)
        self.run.incomes[-1] += keys * (amount - INPUT_FEE)
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

    def _make_bond(self, key: Key, epoch: int, until: int, purse: Callable[[], int] | None) -> int:
        """Lock what is missing at this epoch's price, a tenth more than was asked so that it lasts; what was locked."""
        price, end = self.run.prices[epoch], epoch + 2 * self.rules.epochs
        missing = price - key.locked(end)
        made = 0
        if missing > 0:
            key.bonds = [bond for bond in key.bonds if bond[0] >= epoch]
            room = None if purse is None else purse() - key.locked(epoch)
            if room is None or missing <= room:
                spare = max(missing, price // 10)
                made = spare if room is None else min(spare, room)
                key.bonds.append((until, made))
                missing -= made if until >= end else 0
        key.bonded.append(missing <= 0)
        return made

    def _bond_honest(self, epoch: int) -> None:
        for node, key in zip(self.nodes, self.keys, strict=True):
            if self._make_bond(key, epoch, epoch + self.lock_epochs, partial(self._purse, node, key, epoch)):
                self._toll()

    def _purse(self, node: Node, key: Key, epoch: int) -> int:
        """What a node can have locked: before there is a whole window of work, its usual work stands for it."""
        taxed = key.a_window() if epoch >= self.rules.epochs else int(node.tax * self.trend(0))
        earned = taxed * (BPS - TAX_BPS) // TAX_BPS
        return earned * self.weeks * BLOCKS_A_WEEK // self.rules.window_blocks

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

    def _past(self) -> int:
        """Shares that the rounds of the window before this epoch's paid to one key."""
        return sum(self.run.shares[-(self.rules.epochs - 1) :]) if self.rules.epochs > 1 else 0

    def _admitted(self, taxes: Sequence[Score], washed: int, past: int, balance: int) -> Admission:
        """Who has a share of this balance, `washed` being each wash key's tax of the window; below 0: without them."""
        keys = list(taxes)
        if washed >= 0:
            keys += [Score(name, washed) for name in self.names[len(self.nodes) :]]
        rules = self.rules
        return admitted(keys, Demands(rules.min_tax_paid, rules.epochs_needed, 0, rules.share_cap_pct, past, balance))

    def _payable(self, chosen: Admission) -> int:
        """What each key of a round gets; 0 when there is none."""
        count, rules = len(chosen.keys), self.rules
        if not count or self.run.balance < max(rules.threshold, count * (DUST + PAYEE_FEE)):
            return 0
        return min(chosen.share, self.run.balance // count - PAYEE_FEE)

    def _round(self, epoch: int) -> None:
        rules, run, plan = self.rules, self.run, self.campaign
        past = self._past()
        workers = zip(self.names, self.keys, strict=False)
        honest = [Score(name, key.tax) for name, key in workers if key.qualified(rules)]
        active = sum(1 for key in self.keys if key.tax)
        self.wash.pay(0)
        washing = plan is not None and plan.first <= epoch <= plan.last and self.wash.bonded[0]
        if plan is not None and plan.first - rules.epochs < epoch <= plan.last:
            beat = epoch * rules.epochs_needed // rules.epochs != (epoch - 1) * rules.epochs_needed // rules.epochs
            least = max(DUST, -(-plan.tax // rules.epochs_needed))
            extra = self._extra(honest, past) if washing and not plan.tax else 0
            self._wash(max(extra, least if beat else 0), plan.keys)
        inside = washing and self.wash.qualified(rules)
        chosen = self._admitted(honest, self.wash.tax if inside else -1, past, run.balance)
        share = self._payable(chosen)
        count = len(chosen.keys) if share else 0
        run.shares.append(share)
        run.payouts.append(count * share)
        run.fees += count * PAYEE_FEE
        run.balance -= count * (share + PAYEE_FEE)
        if not share:
            run.inside.append(None)
            return
        numbers = [int.from_bytes(one.pubkey) for one in chosen.keys]
        real = [number for number in numbers if number < len(self.nodes)]
        run.inside.append(len(real) / active)
        if epoch >= run.since:
            for number in real:
                run.gains[number] += share
        if plan and len(numbers) > len(real):
            run.attack.shares += share
            run.attacked += share * plan.keys

    def _extra(self, honest: list[Score], past: int) -> int:
        """The smallest tax beside what they have paid with which all wash keys are in; 0 when it is not worth it.

        Wash keys with more room than anybody show what the share would be; the tax that gives room for that is enough.
        What they pay makes the fund larger, so it is asked again with it.
        """
        assert self.campaign is not None
        rules, keys = self.rules, self.campaign.keys
        extra = 0
        for _ in range(4):
            balance = self.run.balance + keys * max(0, extra - INPUT_FEE)
            if balance < rules.threshold:
                return 0
            share = self._admitted(honest, BOUNDLESS, past, balance).share
            needed = max(0, tax_needed(past + share, rules) - self.wash.tax)
            if needed <= extra:
                break
            extra = max(needed, DUST)
        return extra if extra < share else 0

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
