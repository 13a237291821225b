"""The live image: built as a user builds it, started as a user starts it, with a running node inside."""

import hashlib
import json
import os
import shutil
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


@pytest.fixture(scope="module")
def kept(iso: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[qemu.Outcome, qemu.Outcome]:
    """Two starts from one stick with persistence; the first on a machine whose clock stands at 1970."""
    stick = with_persistence(iso, tmp_path_factory.mktemp("stick"))
    checks = ("units", "answers", "no-failed-units", "boot-log", "wallet-unlocked")

    def started(*more: str, options: tuple[str, ...] = ()) -> qemu.Outcome:
        scripts = [(HERE / "inside.py", ("--only", *checks, *more)), (HERE / "inside_live.py", ("--kept",))]
        return qemu.start(stick, scripts, key="p", writable=True, options=options, limit_s=900)

    return started("spender-may-spend", options=("-rtc", "base=1970-01-01")), started()


def with_persistence(iso: Path, folder: Path) -> Path:
    """A stick with the image and a partition behind it that keeps what changes, made as docs/image.md tells."""
    stick = folder / "stick"
    shutil.copyfile(iso, stick)
    os.truncate(stick, stick.stat().st_size + 700_000_000)

    def run(*command: str | Path, given: str = "") -> str:
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60).stdout

    run("sfdisk", "--append", stick, given=",,L\n")
    third = json.loads(run("sfdisk", "--json", stick))["partitiontable"]["partitions"][2]
    (folder / "files").mkdir()
    (folder / "files/persistence.conf").write_text("/ union\n")
    place = ("-E", f"offset={third['start'] * 512}", "-d", folder / "files", stick, f"{third['size'] // 2}k")
    run("mkfs.ext4", "-q", "-L", "persistence", *place)
    return stick


@pytest.mark.timeout(2400)
def test_a_clock_at_1970_begins_at_the_image_s_date_and_the_node_starts(
    kept: tuple[qemu.Outcome, qemu.Outcome],
) -> None:
    first, _ = kept
    assert_all_well(first)
    assert "hardware says 1970-01-01" in str(first.checks["live-clock"]["detail"]), first.checks["live-clock"]


@pytest.mark.timeout(2400)
def test_with_persistence_node_coins_and_files_outlast_switching_off(kept: tuple[qemu.Outcome, qemu.Outcome]) -> None:
    for outcome in kept:
        assert_all_well(outcome)
        print(f"login {outcome.login_s}, off {outcome.seconds:.0f} s, {outcome.checks['live-clock']['detail']}")
    first, second = (json.loads(str(outcome.checks["live-identity"]["detail"])) for outcome in kept)
    assert first["coins"] > 0
    assert second == first


def assert_all_well(outcome: qemu.Outcome) -> None:
    """Every check was made and holds, and the machine switched itself off."""
    assert outcome.checks, outcome.tail()
    wrong = {name: entry for name, entry in outcome.checks.items() if not entry["ok"]}
    assert not wrong, json.dumps(wrong, indent=1) + outcome.tail()
    assert not outcome.problem, outcome.tail()


@pytest.mark.timeout(900)
def test_the_medium_check_finds_all_whole_and_restarts(iso: Path) -> None:
    """live-boot restarts the machine by itself only when every sum is right; no login is reached."""
    outcome = qemu.start(iso, key="k", limit_s=600)
    print(f"the medium was checked in {outcome.seconds:.0f} s")
    assert not outcome.problem, outcome.tail()
    assert "sysrq: Resetting" in outcome.console, outcome.tail()
