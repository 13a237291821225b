"""How long `dux-ctl --help` takes, beside a Python that does nothing."""

import subprocess
import sys
import time

from benchmarks.timing import median_ms

ROUNDS = 15


def run_time(command: list[str]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print both and the ratio."""
    helping = [sys.executable, "-m", "dux_ctl.main", "--help"]
    nothing = [sys.executable, "-c", ""]
    times = [(run_time(helping), run_time(nothing)) for _ in range(ROUNDS)]
    ours, bare = median_ms([a for a, _ in times]), median_ms([b for _, b in times])
    print(f"dux-ctl --help {ours:.0f} ms (aim: at most 150), python -c '' {bare:.0f} ms, ratio {ours / bare:.1f}")


if __name__ == "__main__":
    main()
