"""The unit files, judged by the systemd that they are for: Debian 13's, all of them together as installed."""

from collections.abc import Iterator

import pytest

from tests.gates.test_system_files import EXPOSURE, UNITS, without_our_programs
from tests.os import layers
from tests.os.nspawn import Machine

FOLDER = "/usr/lib/systemd/system"


@pytest.fixture(scope="module")
def debian() -> Iterator[Machine]:
    """Debian 13 with the units enabled, and a program that exists in place of ours; not booted."""
    with Machine(layers.base()) as machine:
        without_our_programs(machine.path(FOLDER))
        for name in ("sysusers", "tmpfiles"):
            (machine.path(f"/usr/lib/{name}.d") / "dux.conf").write_text((UNITS / f"{name}.conf").read_text())
        machine.prepare("systemd-sysusers")
        machine.prepare("bash", "-c", f"cd {FOLDER} && systemctl enable dux*")
        yield machine


def complaints(machine: Machine, *units: str) -> list[str]:
    """What `systemd-analyze verify` says of our units, and every ordering cycle."""
    done = machine.prepare("systemd-analyze", "verify", "--man=no", *units, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if "dux" in line or "cycle" in line]


def test_systemd_understands_every_line_and_finds_no_cycle(debian: Machine) -> None:
    units = sorted(path.name for path in UNITS.glob("dux*"))
    assert len(units) > 12
    assert complaints(debian, *units) == []
    assert complaints(debian, "multi-user.target") == []


def test_a_cycle_would_be_found(debian: Machine) -> None:
    folder = debian.path(f"{FOLDER}/dux-flopd.service.d")
    folder.mkdir()
    (folder / "cycle.conf").write_text("[Unit]\nAfter=dux-taskd.service\n")
    try:
        assert any("cycle" in line for line in complaints(debian, "multi-user.target"))
    finally:
        (folder / "cycle.conf").unlink()
        folder.rmdir()


@pytest.mark.parametrize("name", EXPOSURE)
def test_systemds_measure_of_exposure_stays_within_the_table(debian: Machine, name: str) -> None:
    done = debian.prepare(
        "systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name]}",
        f"{name}.service", check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-400:]
