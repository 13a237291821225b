"""What all tests of machines share: who may not run, what a failure shows, and what the machine itself can't do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.os import changes, node, nspawn
from tests.os.nspawn import Machine

MACHINE_BOUND = (
    "needs KVM",
    "needs a TPM",
    "needs the memory and pids controllers of control groups",
    "needs the BPF filters of control groups",
)
"""What may be missing where all tests are run (CI is set); everything else that is not run there fails."""
LONG = (
    "test_packages", "test_node", "test_trouble", "test_two_machines", "test_flopcoin", "test_readme_install",
    "test_flopcoin_at_home", "test_first_boot", "test_configuration",
    "test_repository", "test_package_root", "test_credential",
)  # fmt: skip
"""Files by how long they take, the longest first."""


@pytest.fixture(autouse=True, scope="session")
def _able() -> None:
    if reason := nspawn.why_not():
        pytest.skip(f"not run: {reason}")
    nspawn.remove_leftovers()


@pytest.fixture(scope="module")
def settled() -> Iterator[Machine]:
    """A node that was booted once; each test leaves it as it found it."""
    with node.booted() as machine:
        yield machine


def excused(reason: str, everything_runs: bool) -> bool:
    """Whether a test may be left out for this reason."""
    return not everything_runs or any(words in reason for words in MACHINE_BOUND)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not excused(reason, bool(os.environ.get("CI"))):
            report.outcome = "failed"
            report.longrepr = f"{reason}\nIn CI only these may be missing: {', '.join(MACHINE_BOUND)}"
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Machine) and value.running:
                report.sections.append((f"journal of {name}", value.journal()))
    return report  # type: ignore[return-value]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The image takes minutes: it is tested where it is asked for, or where packaging changed.

    What takes long begins first, so that nobody waits for it at the end.
    """
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    images = [item for item in items if item.path.name.startswith("test_image")]
    asked = any("test_image" in Path(argument).name for argument in config.invocation_params.args)
    if images and not asked and not changes.packaging_changed():
        items[:] = [item for item in items if item not in images]
        config.hook.pytest_deselected(items=images)
