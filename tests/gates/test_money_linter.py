"""No float comes near money: the gate, and proof that it would notice one."""

from pathlib import Path

import pytest

from .money_lint import lint, lint_files

ROOT = Path(__file__).resolve().parent.parent.parent

MONEY_PATHS = (
    "duxcommon/money.py",
    "duxcommon/books.py",
    "duxcommon/coin/*.py",
    "duxcommon/api/common.py",
    "duxcommon/api/escrowd.py",
    "duxcommon/api/flopd.py",
    "duxcommon/api/airdropd.py",
    "dux_airdropd/*.py",
    "dux_escrowd/*.py",
    "dux_flopd/*.py",
    "dux_taskd/attempt.py",
    "dux_taskd/buyer.py",
    "dux_taskd/orders.py",
    "dux_taskd/scheduler.py",
    "dux_taskd/tasks.py",
    "dux_devnet/chain/*.py",
)

ALLOWED = {
    # Connections and transactions with the moment at which they were last seen.
    "kept: tuple[_Link, float] | None = getattr(self._local, \"kept\", None)",
    "self._ours: dict[str, float] = {}",
    # Moments and rates of calls at the trial chain, and when a login took how much from its faucet.
    "CALLS_PER_SECOND = 500.0",
    "BURST = 1000.0",
    "return max(0.0, -self.left / CALLS_PER_SECOND)",
    "if bucket is not None and bucket.wait(0) == 0.0 and bucket.left >= BURST:",
    "self._last_grew: float | None = None",
    "async def _watchdog(interval: float) -> None:",
    "self._taken: deque[tuple[float, int]] = deque()",
    # How often the trial chain mines, in seconds.
    "type=float,",
    "async def serve(datadir: Path, host: str, port: int, dialect: Dialect, auto_mine: float | None) -> None:",
}  # fmt: skip
"""Lines that hold a float for another reason, word by word."""


def money_files() -> list[Path]:
    return [path for pattern in MONEY_PATHS for path in sorted(ROOT.glob(pattern))]


def test_there_is_no_float_where_money_is_counted() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {fault}: {line}"
        for path, number, fault, line in lint_files(money_files())
        if line not in ALLOWED
    ]
    assert not found, "amounts are integers of koinu:\n" + "\n".join(found)


def test_the_list_of_exceptions_holds_nothing_that_is_gone() -> None:
    lines = {line.strip() for path in money_files() for line in path.read_text().splitlines()}
    assert lines >= ALLOWED


def test_every_pattern_names_something() -> None:
    assert [pattern for pattern in MONEY_PATHS if not list(ROOT.glob(pattern))] == []


@pytest.mark.parametrize(
    "source",
    [
        "fee = amount * 0.05",
        "tax = gross / 20",
        "gross /= 2",
        "price = float(text)",
        "def pay(amount: float) -> None: ...",
        "def tax(gross: int) -> float: ...",
        "amount: float = 0",
        "total = sum(amounts) / len(amounts)",
        "pay(amount=1.5)",
        "pay(1.5)",
        "body = {'price': 0.5}",
        "share = min(1e8, amount)",
        "COIN = 1e8",
        "def pay(amount=0.1): ...",
        "convert = float",
    ],
)
def test_the_linter_notices_a_float_in_an_amount(source: str) -> None:
    assert lint(source)


@pytest.mark.parametrize(
    "source",
    [
        "RETRY_S = 0.5",
        "def wait(timeout_s: float = 2.5) -> None: ...",
        "await asyncio.sleep(0.1)",
        "client.call(name, timeout=30.0)",
        "deadline = time.monotonic() + 5.0",
        "body = {'wait_s': float(wait)}",
        "database = folder / 'x.db'",
        "path = settings.state_dir / name",
        "tax = gross * 500 // 10_000",
    ],
)
def test_the_linter_leaves_seconds_and_paths_alone(source: str) -> None:
    assert lint(source) == []
