"""What the benchmarks share: medians, rates, memory."""

import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path


def median_ms(samples: list[float]) -> float:
    """Median of durations in seconds, as milliseconds."""
    return statistics.median(samples) * 1000


async def latencies(call: Callable[[], Awaitable[object]], rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls, one after the other."""
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        await call()
        samples.append(time.perf_counter() - start)
    return samples


def pss_mb(pid: int) -> float:
    """Proportional set size of a process, in MB (shared pages count by their share)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    """CPU time that a process has used so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
