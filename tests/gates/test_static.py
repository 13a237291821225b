"""ruff, mypy --strict, the import contracts and what is generated: the checks of `make lint`, as tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent


def run(*command: str) -> None:
    """Run a check in the project's folder; its output is the failure."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def tool(name: str) -> str:
    """The tool of this environment."""
    found = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if found is None:
        pytest.skip(f"not run: needs {name} (requirements-dev.lock)")
    return found


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", "--quiet", ".")


def test_all_files_are_formatted() -> None:
    run(tool("ruff"), "format", "--check", "--quiet", ".")


def test_all_packages_are_fully_typed() -> None:
    run(sys.executable, "-m", "mypy")


def test_no_package_imports_what_it_must_not() -> None:
    run(tool("lint-imports"), "--no-cache")


def test_what_is_generated_from_the_declarations_is_up_to_date() -> None:
    # `make generate` makes it anew.
    run(sys.executable, str(ROOT / "build_script" / "generate.py"), "--check")
