"""The tables of the price of a share: each is one question to the model, answered as Markdown."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from statistics import mean

from benchmarks.airdrop_model import (
    BLOCKS_A_WEEK,
    LOCK_WINDOWS,
    OPEN_FEE,
    SETTLE_FEE,
    Rules,
    keeping_fees,
    split_keys,
    split_return,
    steady,
    wash_return,
)
from benchmarks.airdrop_population import HELD_OUT, MEAN_TAX, SHAPES, population
from benchmarks.airdrop_run import Campaign, Run, World
from duxcommon.money import COIN, DUST

RULES = Rules()
WEEKS = 8
SIZE = 100
SETTLED = 40
"""First epoch that is looked at: before it the fund and the bonds find their level."""
MULTIPLES = (0, 50, 100, 150, 200, 300, 400, 600, 1200, 2000)
KNEE = (100, 150, 200, 300)
CAPS = (110, 400, 800, 1200, 1600, 2400, 3200)

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


@cache
def live(
    shape: str,
    rules: Rules,
    trend: Trend = flat,
    epochs: int = 100,
    campaign: Campaign | None = None,
    *,
    size: int = SIZE,
    seed: int | None = None,
    weeks: int = WEEKS,
    lock_windows: int = LOCK_WINDOWS,
    begun: int = 0,
) -> Run:
    """Nodes of this shape, epoch by epoch; with a seed they and their luck are others."""
    nodes = population(shape, size, seed=seed)
    world = World(
        nodes, rules, weeks, trend, campaign, begun=begun, since=SETTLED, lock_windows=lock_windows, seed=seed or 1
    )
    return world.go(epochs)


def usual(shape: str, rules: Rules, weeks: int = WEEKS) -> float:
    """The part of the honest nodes that is in while inflow stays."""
    return live(shape, rules, weeks=weeks).inclusion(SETTLED, 99)


def fallen(shape: str, rules: Rules) -> float:
    """The part of the honest nodes that is in after inflow fell to a third."""
    return live(shape, rules, fall, 150).inclusion(120, 149)


def yields(shape: str, rules: Rules, keys: int = SIZE // 9) -> tuple[float, float]:
    """Yearly return of wash keys and of split keys in the steady state, with a tenth of all keys the attackers'."""
    state = steady(population(shape, SIZE), rules, WEEKS, keys)
    return wash_return(state, rules), split_return(state, rules)


def by_multiple() -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """Inclusion by shape against the return, as the bond grows; and the curves."""
    curves: dict[str, list[tuple[float, float]]] = {shape: [] for shape in SHAPES}
    rows = []
    for multiple in MULTIPLES:
        rules = replace(RULES, bond_multiple_pct=multiple)
        wash, split = yields("equal", rules)
        inside = {shape: usual(shape, rules) for shape in SHAPES}
        for shape, part in inside.items() if multiple else ():
            curves[shape].append((wash, part))
        rows.append([f"{multiple} %", *map(percent, inside.values()), percent(wash), percent(split)])
    return table(["bond multiple", *SHAPES, "wash, a year", "split, a year"], rows), curves


def by_knee() -> str:
    """Cap against bond: the worst shape's inclusion while inflow stays and after a fall, and a wash key's limit."""
    rows = []
    for cap in CAPS[1:]:
        row = [f"{cap} %"]
        for multiple in KNEE:
            rules = replace(RULES, share_cap_pct=cap, bond_multiple_pct=multiple)
            worst = min(usual(shape, rules) for shape in SHAPES)
            after = min(fallen(shape, rules) for shape in SHAPES)
            row.append(f"{worst:.0%}, {after:.0%}; {yields('equal', rules)[0]:.0%}")
        rows.append(row)
    return table(["share cap", *(f"bond {multiple} %" for multiple in KNEE)], rows)


def by_cap() -> str:
    """Inclusion by shape as the share cap is loosened, and the part of the inflow that is paid out."""
    rows = []
    for cap in CAPS:
        rules = replace(RULES, share_cap_pct=cap)
        runs = [live(shape, rules) for shape in SHAPES]
        fields = [f"{run.inclusion(SETTLED, 99):.0%}; {min(run.passed_on(), 1):.0%}" for run in runs]
        rows.append([f"{cap} %", *fields, percent(yields("equal", rules)[0])])
    return table(["share cap", *SHAPES, "wash, a year"], rows)


def by_defaults() -> str:
    """What the defaults reach, shape by shape; the lower part was not looked at when they were picked."""
    drawn: list[tuple[str, int, int | None]] = [(shape, SIZE, None) for shape in SHAPES]
    drawn += [(shape, SIZE, 51) for shape in HELD_OUT]
    drawn += [(shape, size, seed) for shape in ("lognormal", "few big") for size, seed in ((40, 52), (200, 53))]
    rows = []
    for shape, size, seed in drawn:
        run = live(shape, RULES, size=size, seed=seed)
        up = live(shape, RULES, wave, 160, size=size, seed=seed)
        down = live(shape, RULES, fall, 150, size=size, seed=seed)
        tenth = size // 9
        steadily = live(shape, RULES, flat, 160, Campaign(tenth, SETTLED, 149), size=size, seed=seed)
        rising = live(shape, RULES, wave, 160, Campaign(tenth, 60, 89), size=size, seed=seed)
        name = shape if seed is None else f"*{shape}, {size}*"
        parts = [run.inclusion(SETTLED, 99), run.evenness(), min(run.passed_on(), 1)]
        parts += [up.inclusion(60, 89), down.inclusion(120, 149)]
        parts += [account.yearly(RULES) for account in (steadily.attack, rising.attack)]
        rows.append([name, *map(percent, parts)])
    heads = ["network", "in", "of an equal part", "paid out", "in, rising x3", "in, fallen to 1/3"]
    return table([*heads, "wash, flat", "wash, rise"], rows)


def by_savings() -> str:
    """Inclusion, mean and worst shape, by the weeks of earnings that nodes can lock."""
    rows = []
    for multiple in (100, 150, 200, 400):
        rules = replace(RULES, bond_multiple_pct=multiple)
        row = [f"{multiple} %"]
        for weeks in (2, 4, 8, 12):
            inside = [usual(shape, rules, weeks) for shape in SHAPES]
            row.append(f"{mean(inside):.0%} / {min(inside):.0%}")
        rows.append(row)
    return table(["bond multiple", "2 weeks", "4 weeks", "8 weeks", "12 weeks"], rows)


def by_change() -> str:
    """Inclusion while inflow rises, falls back, and after it fell to a third for good."""
    rows = []
    for multiple in (100, 150, 200, 300):
        rules = replace(RULES, bond_multiple_pct=multiple)
        for shape in ("lognormal", "bimodal", "few big"):
            up, down = live(shape, rules, wave, 160), live(shape, rules, fall, 160)
            parts = [up.inclusion(60, 89), up.inclusion(90, 119), up.inclusion(120, 159)]
            parts += [down.inclusion(60, 89), down.inclusion(120, 159)]
            rows.append([f"{multiple} %, {shape}", *map(percent, parts)])
    return table(["bond, shape", "rising x3", "falling back", "after", "falling to 1/3", "after that"], rows)


def by_attack() -> str:
    """What campaigns of wash keys earned, by their part of all keys and by when they come."""
    plans: list[tuple[Trend, int, int]] = [(flat, 40, 149), (wave, 60, 89), (wave, 60, 119), (wave, 90, 119)]
    rows = []
    for shape in ("lognormal", "pareto", "few big"):
        for part, keys in ((1, 1), (10, 11), (30, 43), (50, 100)):
            row = [f"{shape}, {part} %"]
            for trend, first, last in plans:
                run = live(shape, RULES, trend, 160, Campaign(keys, first, last))
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
    for total in (60, 30, 12, 6, 4, 2):
        nodes = population("lognormal", 20, mean_tax=total * COIN // 20)
        run = World(nodes, RULES, WEEKS, flat).go(400)
        attacked = World(nodes, RULES, WEEKS, flat, Campaign(2, SETTLED, 390)).go(400)
        account, rounds = attacked.attack, sum(1 for share in run.shares if share)
        fields = [percent(run.inclusion(0, 399)), percent(run.passed_on()), flop(run.balance)]
        fields += [percent(account.yearly(RULES)), flop(2 * account.shares), flop(2 * account.tax)]
        rows.append([f"{total}", f"{rounds}", *fields])
    heads = ["FLOP of tax a window", "rounds", "in", "paid out", "left in the fund"]
    return table([*heads, "two wash keys, a year", "they got", "their tax"], rows)


def by_grief() -> str:
    """What honest nodes get beside keys that don't look at their gain, of what they get alone; and what it costs."""
    plans = [
        ("10 % of the keys, least tax", 11, RULES.min_tax_paid),
        ("40 % of the keys, least tax", 67, RULES.min_tax_paid),
    ]
    plans += [("1 key, the mean's tax 20 times", 1, 20 * MEAN_TAX), ("1 key, all others' tax", 1, SIZE * MEAN_TAX)]
    rows = []
    for shape in ("lognormal", "pareto", "few big"):
        alone = live(shape, RULES, epochs=150)
        for name, keys, tax in plans:
            run = live(shape, RULES, flat, 150, Campaign(keys, SETTLED, 139, tax))
            got = percent(sum(run.gains) / sum(alone.gains))
            account = run.attack
            costs = [flop(keys * account.tax), flop(keys * account.shares), flop(keys * max(run.prices[SETTLED:]))]
            rows.append([f"{shape}, {name}", got, percent(run.inclusion(SETTLED, 139)), *costs])
    return table(["network, attack", "honest nodes get", "in", "the attacker's tax", "its shares", "its bonds"], rows)


def by_start() -> str:
    """Inclusion in the end where the fund had collected something before the first share, and a wash key beside it."""
    rows = []
    for begun in (0, 1000, 3000, 10_000):
        row = [f"{begun:,}"]
        for shape in SHAPES:
            run = live(shape, RULES, flat, 200, begun=begun * COIN)
            row.append(f"{run.inclusion(SETTLED, 99):.0%}; {run.inclusion(150, 199):.0%}")
        rows.append(row)
    return table(["FLOP at the beginning", *SHAPES], rows)


def by_lock() -> str:
    """Inclusion by how long a bond is locked, and the part of that time in which it counts."""
    rows = []
    for windows in (3, 6, 12, 18, 24):
        runs = [
            (live(shape, RULES, lock_windows=windows), live(shape, RULES, fall, 240, lock_windows=windows))
            for shape in SHAPES
        ]
        inside = [run.inclusion(SETTLED, 99) for run, _ in runs]
        after = [run.inclusion(120, 239) for _, run in runs]
        fields = [f"{mean(part):.0%} / {min(part):.0%}" for part in (inside, after)]
        rows.append([f"{windows}", *fields, percent((windows - 2) / windows)])
    return table(["windows locked", "in", "in, fallen to 1/3", "of the time it counts"], rows)
