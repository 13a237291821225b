"""The price of a share of the airdrop: how many honest nodes are in, and what attackers earn, by each rule.

python -m benchmarks price                  print the tables
python -m benchmarks.bench_price --write    put them, and the chart, into docs/airdrop-price.md
"""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import airdrop_tables as tables
from benchmarks.airdrop_chart import chart

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "airdrop-price.md"
CHART = DOCS / "airdrop-price.svg"

TABLES: dict[str, Callable[[], str]] = {
    "defaults": tables.by_defaults,
    "knee": tables.by_knee,
    "cap": tables.by_cap,
    "savings": tables.by_savings,
    "change": tables.by_change,
    "attack": tables.by_attack,
    "split": tables.by_split,
    "min-tax": tables.by_min_tax,
    "epochs": tables.by_epochs,
    "window": tables.by_window,
    "size": tables.by_size,
    "inflow": tables.by_inflow,
    "start": tables.by_start,
    "grief": tables.by_grief,
    "lock": tables.by_lock,
}


def put(page: str, name: str, text: str) -> str:
    """The page with this table between its marks. Raises LookupError when the page has no such marks."""
    begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), page, re.DOTALL)
    if found is None:
        raise LookupError(f"{PAGE.name} has no place for the table {name}")
    return page[: found.start()] + begin + text + "\n" + end + page[found.end() :]


def main() -> None:
    """Print every table; with --write also renew the page."""
    start = time.perf_counter()
    first, curves = tables.by_multiple()
    made = {"multiple": first}
    print(f"multiple\n{first}\n", flush=True)
    for name, make in TABLES.items():
        made[name] = make()
        print(f"{name}\n{made[name]}\n", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    if "--write" in sys.argv:
        page = PAGE.read_text()
        for name, text in made.items():
            page = put(page, name, text)
        PAGE.write_text(page)
        chosen, _ = tables.yields("equal", tables.RULES)
        CHART.write_text(chart(curves, chosen))


if __name__ == "__main__":
    main()
