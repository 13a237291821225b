"""The tables of the price of a share: each is one question to the model, answered as Markdown."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import mean

from benchmarks.airdrop_model import (
    BLOCKS_A_WEEK,
    OPEN_FEE,
    SETTLE_FEE,
    Rules,
    keeping_fees,
    split_keys,
    split_return,
    steady,
    wash_return,
    with_knobs,
)
from benchmarks.airdrop_population import MEAN_TAX, SHAPES, population
from benchmarks.airdrop_run import Campaign, Run, World
from duxcommon.money import COIN, DUST

RULES = Rules()
WEEKS = 8
SIZE = 100
COVERED = 99
"""With the other rule: the part of the qualified keys that the cap may not push out, in per cent."""
SETTLED = 40
"""First epoch that is looked at: before it the fund and the bonds find their level."""
MULTIPLES = (0.5, 1, 2, 3, 4, 5, 6, 8, 12, 20, 30)
KAPPAS = (1.3, 2, 4, 8, 12, 16, 24, 50)

Trend = Callable[[int], float]


def flat(_: int) -> float:
    """Inflow that stays."""
    return 1.0


def wave(epoch: int) -> float:
    """Grows threefold over three windows from epoch 60 on, then falls back over three."""
    return 3 ** max(0.0, 1 - abs(epoch - 90) / 30)


def fall(epoch: int) -> float:
    """Falls to a third over three windows from epoch 60 on, and stays there."""
    return 3 ** -min(1.0, max(0.0, (epoch - 60) / 30))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(part: float) -> str:
    """A proportion as people read it."""
    return f"{part:.0%}"


def flop(koinu: float) -> str:
    """An amount to the hundredth."""
    return f"{koinu / COIN:,.2f}"


def live(
    shape: str,
    rules: Rules,
    trend: Trend = flat,
    epochs: int = 120,
    weeks: int = WEEKS,
    campaign: Campaign | None = None,
    covered_pct: int = 0,
) -> Run:
    """SIZE nodes of this shape, epoch by epoch."""
    return World(population(shape, SIZE), rules, weeks, trend, campaign, covered_pct).go(epochs)


def usual(shape: str, rules: Rules, weeks: int = WEEKS) -> float:
    """The part of the honest nodes that is in while inflow stays."""
    return live(shape, rules, epochs=100, weeks=weeks).inclusion(SETTLED, 99)


def yields(shape: str, rules: Rules, keys: int = SIZE // 9) -> tuple[float, float]:
    """Yearly return of wash keys and of split keys in the steady state, with a tenth of all keys the attackers'."""
    state = steady(population(shape, SIZE), rules, WEEKS, keys)
    return wash_return(state, rules), split_return(state, rules)


def by_multiple() -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """Inclusion by shape against the return, as the bond grows; and the curves."""
    curves: dict[str, list[tuple[float, float]]] = {shape: [] for shape in SHAPES}
    rows = []
    for multiple in MULTIPLES:
        rules = replace(RULES, bond_multiple_pct=round(multiple * 100))
        wash, split = yields("equal", rules)
        inside = {shape: usual(shape, rules) for shape in SHAPES}
        for shape, part in inside.items():
            curves[shape].append((wash, part))
        rows.append([f"{multiple:g}", *map(percent, inside.values()), percent(wash), percent(split)])
    return table(["bond multiple", *SHAPES, "wash, a year", "split, a year"], rows), curves


def by_kappa() -> str:
    """Inclusion by shape as the share cap is loosened."""
    rows = []
    for kappa in KAPPAS:
        rules = replace(RULES, share_cap_pct=round(kappa * 100))
        wash, _ = yields("equal", rules)
        rows.append([f"{kappa:g}", *(percent(usual(shape, rules)) for shape in SHAPES), percent(wash)])
    return table(["kappa", *SHAPES, "wash, a year"], rows)


def by_savings() -> str:
    """Inclusion, mean and worst shape, by the weeks of earnings that nodes can lock."""
    rows = []
    for multiple in (1, 2, 4, 6):
        rules = replace(RULES, bond_multiple_pct=multiple * 100)
        row = [f"{multiple}"]
        for weeks in (2, 4, 8, 12):
            inside = [usual(shape, rules, weeks) for shape in SHAPES]
            row.append(f"{mean(inside):.0%} / {min(inside):.0%}")
        rows.append(row)
    return table(["bond multiple", "2 weeks", "4 weeks", "8 weeks", "12 weeks"], rows)


def by_change() -> str:
    """Inclusion while inflow rises, falls back, and after it fell to a third for good."""
    rows = []
    for multiple in (1, 2, 3, 4):
        rules = replace(RULES, bond_multiple_pct=multiple * 100)
        for shape in ("lognormal", "bimodal", "few big"):
            up, down = live(shape, rules, wave, 160), live(shape, rules, fall, 160)
            parts = [up.inclusion(60, 89), up.inclusion(90, 119), up.inclusion(120, 159)]
            parts += [down.inclusion(60, 89), down.inclusion(120, 159)]
            rows.append([f"{multiple}, {shape}", *map(percent, parts)])
    return table(["multiple, shape", "rising x3", "falling back", "after", "falling to 1/3", "after that"], rows)


def by_attack() -> str:
    """What campaigns of wash keys earned, by their part of all keys and by when they come."""
    plans: list[tuple[Trend, int, int]] = [(flat, 40, 159), (wave, 60, 89), (wave, 60, 119), (wave, 90, 119)]
    rows = []
    for shape in ("lognormal", "pareto", "few big"):
        for part, keys in ((1, 1), (10, 11), (30, 43), (50, 100)):
            row = [f"{shape}, {part} %"]
            for trend, first, last in plans:
                run = live(shape, RULES, trend, 160, campaign=Campaign(keys, first, last))
                row.append(percent(run.attack.yearly(RULES)))
                if trend is flat:
                    row.append(percent(run.attacked / sum(run.payouts[first : last + 1])))
            state = steady(population(shape, SIZE), RULES, WEEKS, keys)
            rows.append([*row, percent(wash_return(state, RULES))])
    heads = [
        "shape, part of the keys",
        "a year, flat",
        "of the payouts",
        "rise only",
        "rise and fall",
        "fall only",
        "limit",
    ]
    return table(heads, rows)


def by_split() -> str:
    """What a real provider gains that splits into as many keys as its tax feeds."""
    rows = []
    for shape in ("lognormal", "pareto", "few big"):
        nodes = population(shape, SIZE)
        state = steady(nodes, RULES, WEEKS)
        taxes = sorted(node.tax for node in nodes)
        for name, tax in (("median", taxes[len(taxes) // 2]), ("mean", MEAN_TAX), ("largest", taxes[-1])):
            keys = split_keys(tax, state, RULES)
            gain = (keys - 1) * (state.share - int(keeping_fees(RULES)))
            rows.append([f"{shape}, {name}", flop(tax), f"{keys}", flop(gain), flop((keys - 1) * state.bond)])
    return table(["provider", "its tax", "keys", "more a window", "more bond"], rows)


def by_min_tax() -> str:
    """Inclusion, the share that is left when wash keys come until they earn 10 % a year, and what they then lock."""
    rows = []
    for flops in ("0.05", "0.10", "0.25", "0.50", "1.00", "2.50"):
        rules = replace(RULES, min_tax_paid=round(float(flops) * COIN))
        row = [flops]
        for shape in ("lognormal", "pareto", "few big"):
            nodes = population(shape, SIZE)
            keys = SIZE
            while wash_return(steady(nodes, rules, WEEKS, keys), rules) > 0.10:
                keys += keys // 10
            flooded = steady(nodes, rules, WEEKS, keys)
            honest = steady(nodes, rules, WEEKS).honest
            row += [percent(honest), f"{flop(flooded.share)}; {1 - flooded.leak:.1%}; {flop(keys * flooded.bond)}"]
        rows.append(row)
    heads = [f"{shape} {what}" for shape in ("lognormal", "pareto", "few big") for what in ("in", "flooded")]
    return table(["min tax", *heads], rows)


def by_epochs() -> str:
    """Inclusion by the number of epochs that are asked, and what they cost a wash key in a window."""
    rows = []
    for needed in (1, 2, 3, 4, 5):
        rules = replace(RULES, epochs_needed=needed)
        cost = needed * (SETTLE_FEE + OPEN_FEE + DUST)
        rows.append([f"{needed}", *(percent(usual(shape, rules)) for shape in SHAPES), flop(cost)])
    return table(["epochs needed", *SHAPES, "FLOP a window"], rows)


def by_window() -> str:
    """Inclusion and the return of a rise by the length of the window, the bond as many days' shares as at 30 days."""
    rows = []
    for days in (10, 20, 30, 60):
        rules = replace(
            RULES,
            window_blocks=days * 1440,
            bond_multiple_pct=RULES.bond_multiple_pct * 30 // days,
            min_tax_paid=RULES.min_tax_paid * days // 30,
        )
        row = [f"{days} days"]
        for shape in ("lognormal", "few big"):
            nodes = [
                replace(node, tax=node.tax * days // 30, settlements=node.settlements * days / 30)
                for node in population(shape, SIZE)
            ]
            # The same 90 days of growth, whatever an epoch is.
            rise = 900 // days
            run = World(nodes, rules, WEEKS, flat).go(120)
            plan = Campaign(11, 60, 60 + rise - 1)
            attack = World(nodes, rules, WEEKS, _rise(rise), plan).go(60 + rise).attack
            row += [percent(run.inclusion(SETTLED, 119)), percent(attack.yearly(rules))]
        rows.append([*row, f"{days + 7 * _weeks_to_earn(rules, days):.0f}"])
    heads = [
        "window",
        "lognormal in",
        "rise, a year",
        "few big in",
        "rise, a year",
        "days until a newcomer's first share",
    ]
    return table(heads, rows)


def _rise(epochs: int) -> Trend:
    return lambda epoch: 3 ** min(1.0, max(0.0, (epoch - 60) / epochs))


def _weeks_to_earn(rules: Rules, days: int) -> float:
    """Weeks in which a provider of half the mean size earns the bond (shares are those of the mean)."""
    share = MEAN_TAX * days / 30
    earned = share / 2 * 19
    return share * rules.bond_multiple_pct / 100 / rules.usable / (earned * BLOCKS_A_WEEK / rules.window_blocks)


def by_size() -> str:
    """Inclusion in networks of 20 to 5,000 providers drawn at random: the worst and the best of five draws."""
    rows = []
    for size in (20, 100, 500, 5000):
        row = [f"{size:,}"]
        for shape in SHAPES:
            seen = [steady(population(shape, size, seed=seed), RULES, WEEKS).honest for seed in range(5)]
            row.append(f"{min(seen):.0%} to {max(seen):.0%}")
        rows.append(row)
    return table(["providers", *SHAPES], rows)


def by_inflow() -> str:
    """What becomes of a network of 20 whose trade is small, over 40 windows, and of two wash keys beside it."""
    rows = []
    for covered in (0, COVERED):
        for total in (60, 30, 20, 12, 6):
            nodes = population("lognormal", 20, mean_tax=total * COIN // 20)
            run = World(nodes, RULES, WEEKS, flat, covered_pct=covered).go(400)
            plan = Campaign(2, SETTLED, 390)
            attacked = World(nodes, RULES, WEEKS, flat, plan, covered).go(400)
            rounds = sum(1 for share in run.shares if share)
            rows.append([
                f"{total}{', the share gives way' if covered else ''}",
                f"{rounds}", percent(run.inclusion(0, 399)), flop(run.balance),
                percent(attacked.attack.yearly(RULES)), flop(2 * attacked.attack.shares), flop(2 * attacked.attack.tax),
            ])  # fmt: skip
    heads = ["FLOP of tax a window", "rounds", "in", "left in the fund"]
    return table([*heads, "two wash keys, a year", "they got", "their tax"], rows)


def by_covered() -> str:
    """The other rule, in which the share gives way instead of the keys: inclusion, return, part of inflow paid."""
    rows = []
    variants = [(90, 1.1, 4.0), (99, 1.1, 4.0), (99, 1.1, 12.0), (99, 1.25, 4.0), (99, 2.0, 4.0), (99, 16.0, 2.0)]
    for covered, kappa, multiple in variants:
        rules = with_knobs(RULES, kappa, multiple)
        row = [f"{covered} %, {kappa:g}, {multiple:g}"]
        for shape in SHAPES:
            run = live(shape, rules, campaign=Campaign(11, SETTLED, 109), covered_pct=covered)
            fell = live(shape, rules, fall, 160, covered_pct=covered)
            paid = fell.paid / (fell.taken + fell.tolls)
            inside = f"{run.inclusion(SETTLED, 109):.0%}, {fell.inclusion(120, 159):.0%}"
            row.append(f"{inside}; {run.attack.yearly(rules):.0%}; {paid:.0%}")
        rows.append(row)
    return table(["keys covered, kappa, multiple", *SHAPES], rows)
