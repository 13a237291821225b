"""The live image: built as a user builds it, started as a user starts it, with a running node inside."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.os import qemu

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def iso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image, built by the command that users know."""
    out = Path(os.environ.get("DUX_IMAGE_DIR") or ROOT / "build")
    command = [str(ROOT / "build_script/build_duxos.sh"), "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    version = subprocess.run([*command[:1], "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return out / f"duxos-minimal-{version}-amd64.iso"


@pytest.fixture(scope="module")
def booted(iso: Path) -> qemu.Outcome:
    """What the image said, started by BIOS: all checks, and the demo's paid calls, inside."""
    scripts = [(HERE / "inside.py", ("--demo",)), (HERE / "inside_live.py", ())]
    return qemu.start(iso, scripts, limit_s=900)


def test_the_image_comes_with_its_packages_and_sums(iso: Path) -> None:
    listing = iso.with_suffix(".packages").read_text().splitlines()
    names = {line.split("\t")[0] for line in listing}
    assert {"dux-node", "dux-common", "linux-image-amd64", "live-boot"} <= names
    assert all(len(line.split("\t")) == 3 for line in listing)
    sums = dict(reversed(line.split("  ")) for line in iso.with_suffix(".sha256").read_text().splitlines())
    with iso.open("rb") as file:
        assert sums[iso.name] == hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(1800)
def test_the_node_passes_every_check_inside(booted: qemu.Outcome) -> None:
    assert booted.checks, booted.tail()
    wrong = {name: entry for name, entry in booted.checks.items() if entry["ok"] is False}
    assert not wrong, json.dumps(wrong, indent=1) + booted.tail()
    not_run = {name: str(entry["detail"]) for name, entry in booted.checks.items() if entry["ok"] is None}
    assert all("TPM" in detail for detail in not_run.values()), not_run
    assert not booted.problem, booted.tail()


@pytest.mark.timeout(1800)
def test_people_can_log_in_and_every_daemon_answers(booted: qemu.Outcome) -> None:
    """After how many seconds is printed, not judged: under emulation that says as much of the host as of the image."""
    answered = booted.at('"check": "answers"')
    print(f"login {booted.login_s}, all units answer {answered}, off {booted.seconds:.0f} s")
    assert booted.login_s is not None, booted.tail()
    assert answered is not None, booted.tail()


@pytest.mark.timeout(1800)
def test_the_console_shows_menu_and_login_and_no_failed_unit(booted: qemu.Outcome) -> None:
    assert "with persistence" in booted.console, booted.tail()
    assert 'log in as "dux", password "live"' in booted.console
    assert "NOTHING IS KEPT" in booted.console
    assert "FAILED" not in booted.console, booted.tail()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("firmware", ["uefi", "secure"])
def test_uefi_starts_it_up_to_the_login(iso: Path, firmware: str) -> None:
    outcome = qemu.start(iso, firmware=firmware, limit_s=400)
    assert outcome.login_s is not None, outcome.tail()
    assert 'log in as "dux"' in outcome.console, outcome.tail()
    assert not outcome.problem, outcome.tail()
