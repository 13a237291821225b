"""Honest providers in several shapes: how the tax that they pay in a window is spread over them."""

import math
import random
from collections.abc import Callable
from statistics import NormalDist

from benchmarks.airdrop_model import Node
from duxcommon.money import COIN

MEAN_TAX = 5 * COIN
"""A provider of mean size earns 100 FLOP in a window of 30 days."""

Shape = Callable[[float], float]

SHAPES: dict[str, Shape] = {
    "equal": lambda u: 0.9 + 0.2 * u,
    "lognormal": lambda u: math.exp(NormalDist().inv_cdf(u)),
    "pareto": lambda u: (1 - u) ** (-1 / 1.5),
    "bimodal": lambda u: (10 if u > 0.5 else 1) * (0.8 + 0.4 * (2 * u % 1)),
    "few big": lambda u: (76 if u > 0.95 else 1) * (0.8 + 0.4 * (20 * u % 1)),
}
"""Relative size at each quantile. Of "few big" one in twenty does 80 % of the work; half of "bimodal" does 91 %."""
HELD_OUT: dict[str, Shape] = {
    "exponential": lambda u: -math.log(1 - u),
    "wide lognormal": lambda u: math.exp(1.5 * NormalDist().inv_cdf(u)),
    "three classes": lambda u: (16 if u > 0.9 else 4 if u > 0.5 else 1) * (0.8 + 0.4 * (10 * u % 1)),
}
"""Shapes that were not looked at when the defaults were picked."""


def settlements(relative: float) -> float:
    """Channels that a provider closes in a window of 30 days: 30 at mean size, fewer below it, at least 5."""
    return max(5.0, 30 * min(1.0, relative))


def population(shape: str, size: int, mean_tax: int = MEAN_TAX, seed: int | None = None) -> list[Node]:
    """`size` honest providers whose taxes have this mean, in koinu a window: at even quantiles, or drawn by a seed."""
    rng = random.Random(f"{shape} {size} {seed}")
    at = [(n + 0.5) / size if seed is None else rng.uniform(0.001, 0.999) for n in range(size)]
    drawn = [(SHAPES | HELD_OUT)[shape](u) for u in at]
    mean = sum(drawn) / size
    return [Node(round(value / mean * mean_tax), settlements(value / mean)) for value in drawn]
