"""Token buckets: how often each caller may call."""

import time
from collections import OrderedDict

from ..errors import RateLimited

MAX_CALLERS = 10_000


class RateLimit:
    """At most `calls` in `seconds` for each key, refilled evenly; the least recently seen keys are forgotten."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._rate = calls / seconds
        self._full = float(calls)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, what: str) -> None:
        """Count one call. Raises RateLimited with the time to wait, in seconds, as detail `wait_s`."""
        now = time.monotonic()
        level, then = self._buckets.pop(key, (self._full, now))
        level = min(self._full, level + (now - then) * self._rate)
        if level < 1.0:
            self._buckets[key] = (level, now)
            wait = (1.0 - level) / self._rate
            raise RateLimited(f"too many calls of {what}", details={"wait_s": round(wait, 3)})
        self._buckets[key] = (level - 1.0, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
