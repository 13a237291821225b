"""What holds for every file of the project."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "duxcommon", "dux_airdropd", "dux_ctl", "dux_devnet", "dux_escrowd", "dux_flopd", "dux_governance",
    "dux_registryd", "dux_setup", "dux_store", "dux_taskd",
)  # fmt: skip
MAX_LINES = 600
MAX_FILE_BYTES = 600_000

BINARIES = (
    "apps/*/sample/*",
    "tests/apps/*/sample/*",
    "dux_taskd/sandbox/filters/*.bpf",
    "build_script/duxos.png",
)
"""The only tracked files that need not be text: samples of apps, and the compiled system call filters."""

FOREIGN = re.compile(r"/work/(main|shared|\.)|/root/\.|files\.pythonhosted|pypi\.org|artifactory")
"""Registries and folders of the machine that something was made on."""

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplemented(Error)?)\b")

PURE = (
    "duxcommon/coin/bond.py",
    "duxcommon/coin/multisig.py",
    "duxcommon/coin/notes.py",
    "duxcommon/coin/params.py",
    "duxcommon/coin/script.py",
    "duxcommon/coin/settlement.py",
    "duxcommon/eligibility.py",
    "duxcommon/rulebook.py",
    "duxcommon/coin/tx.py",
    "duxcommon/money.py",
    "duxcommon/params.py",
    "dux_airdropd/costs.py",
    "dux_airdropd/manifest.py",
    "dux_airdropd/plan.py",
    "dux_airdropd/price.py",
    "dux_airdropd/reading.py",
    "dux_devnet/chain/policy.py",
    "dux_escrowd/channel.py",
    "dux_escrowd/contract.py",
    "dux_escrowd/terms.py",
    "dux_flopd/blocks.py",
    "dux_flopd/scan.py",
    "dux_governance/proposals.py",
    "dux_governance/reading.py",
    "dux_governance/replay.py",
    "dux_governance/tally.py",
    "dux_governance/timeline.py",
    "dux_registryd/bondplan.py",
    "dux_registryd/buckets.py",
    "dux_registryd/sealing.py",
    "dux_setup/coreconf.py",
    "dux_taskd/capacity.py",
    "dux_taskd/orders.py",
    "dux_taskd/sandbox/output.py",
    "dux_taskd/sandbox/profile.py",
    "dux_taskd/scheduler.py",
    "dux_taskd/tasks.py",
    "dux_taskd/verify.py",
)
IMPURE_MODULES = frozenset(
    {
        "asyncio", "fcntl", "grp", "http", "logging", "multiprocessing", "pwd", "random", "select", "selectors",
        "shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "urllib.request", "aiohttp",
        "bitcoinrpc", "iroh", "opendht", "duxcommon.daemon", "duxcommon.db", "duxcommon.outbox", "duxcommon.rpc",
        "duxcommon.blobs", "duxcommon.files", "duxcommon.eventlog",
    }
)  # fmt: skip
IMPURE_CALLS = frozenset(
    {
        "open", "print", "input", "time.time", "time.monotonic", "datetime.now", "os.open", "os.stat", "os.environ",
        "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir", "exists", "is_file", "token_hex",
        "token_bytes",
    }
)  # fmt: skip


@cache
def tracked() -> list[Path]:
    """Every file that git keeps, but for this one, which names what it looks for."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not run: needs a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60)
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__).resolve()]


def text_of(path: Path) -> str | None:
    """The text of a file; None for a binary one."""
    data = path.read_bytes()
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def python_files() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_module_is_longer_than_600_lines() -> None:
    modules = [path for path in python_files() if path.relative_to(ROOT).parts[0] in (*PACKAGES, "build_script")]
    lines = {name_of(path): len(path.read_text().splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_the_tracked_files_are_text_but_for_a_few_samples() -> None:
    allowed = {path for pattern in BINARIES for path in ROOT.glob(pattern)}
    assert [name_of(path) for path in tracked() if text_of(path) is None and path not in allowed] == []
    assert [name_of(path) for path in tracked() if path.stat().st_size > MAX_FILE_BYTES] == []


def test_no_file_names_a_registry_or_a_folder_of_the_machine_it_was_made_on() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate((text_of(path) or "").splitlines(), 1):
            if (match := FOREIGN.search(line)) is not None:
                found.append(f"{name_of(path)}:{number}: {match[0]}")
    assert found == []


def test_nothing_is_marked_as_unfinished() -> None:
    found = []
    for path in python_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if (match := UNFINISHED.search(line)) is not None:
                found.append(f"{name_of(path)}:{number}: {match[0]}")
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    modules = [path for path in python_files() if path.relative_to(ROOT).parts[0] in PACKAGES]
    assert [name_of(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


def impurities(source: str, package: str) -> list[str]:
    """What a module imports or calls that reads or changes something outside its arguments."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call | ast.Attribute):
            text = ast.unparse(node.func if isinstance(node, ast.Call) else node)
            method = text.rpartition(".")[2] if isinstance(node, ast.Call) and "." in text else ""
            if text in IMPURE_CALLS or method in IMPURE_CALLS - {"open"}:
                found.append(f"line {node.lineno}: {text}")
        for name in names:
            parts = name.split(".")
            if name.startswith("duxcommon.rpc.wire") or name == "duxcommon.rpc":
                continue  # Parsing and printing JSON is no I/O; what else is in there is named with its module.
            if any(".".join(parts[:length]) in IMPURE_MODULES for length in range(1, len(parts) + 1)):
                found.append(f"line {node.lineno}: import of {name}")
    return found


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_does_no_input_or_output(name: str) -> None:
    path = ROOT / name
    assert impurities(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import sqlite3", "from . import db", "from .rpc import Client", "from duxcommon.daemon import run",
        "import urllib.request", "x = open('y')", "import time\nx = time.time()", "p.read_text()",
        "import os\nos.environ",
    ],
)  # fmt: skip
def test_the_check_of_purity_notices_what_it_is_there_for(source: str) -> None:
    assert impurities(source, "duxcommon")


def test_every_module_that_calls_itself_pure_is_checked() -> None:
    claims = [
        name_of(path)
        for path in python_files()
        if re.search(r"\b[Pp]ure\b", ast.get_docstring(ast.parse(path.read_text())) or "")
        and path.relative_to(ROOT).parts[0] in PACKAGES
    ]
    assert set(claims) - set(PURE) <= {"dux_registryd/quota.py"}  # counts with the clock it is given


def test_dux_ctl_starts_without_loading_what_only_daemons_need() -> None:
    heavy = [
        "aiohttp", "asyncio", "btclib", "cryptography", "iroh", "jsonrpcserver", "jsonschema", "opendht", "pydantic",
        "rich", "sqlite3", "yaml", "duxcommon.config", "duxcommon.rpc",
    ]  # fmt: skip
    code = f"import sys, dux_ctl.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
