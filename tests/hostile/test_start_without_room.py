"""/var full or read-only when the machine boots: each daemon says so in one sentence and runs once there is room.

It ends with 1, so that systemd tries again (ever more slowly, see the units), or it runs and notes what it lacks.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from devchain_service_kit import ChainService

from dux_devnet.network import wait_until
from duxcommon.coin.params import CHAINS
from duxcommon.identity import Identity
from duxcommon.network import dump_network
from tests.support.network import definition
from tests.support.process import ROOT, DaemonProcess

DAEMONS = ("flopd", "escrowd", "taskd", "registryd", "airdropd", "sandbox")
MODULES = {"sandbox": "dux_taskd.sandbox"}


@pytest.fixture
def disk(short_tmp: Path) -> Iterator[Path]:
    """A small file system of its own in the place of /var."""
    if os.geteuid() != 0:
        pytest.skip("not run: needs root that may mount file systems")
    folder = short_tmp / "var"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: this machine does not let us mount a tiny disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def daemon(folder: Path, disk: Path, name: str) -> DaemonProcess:
    """A daemon with the settings that its package ships, and its state, payloads and log on the small disk."""
    value = yaml.safe_load((ROOT / "etc-duxnet" / f"{name}.yaml").read_text()) or {}
    for part in ("state", "blobs", "log"):
        (disk / part).mkdir(exist_ok=True)
    if "blobs_dir" in value or name in ("taskd", "registryd", "sandbox"):
        value["blobs_dir"] = str(disk / "blobs")
    if name == "registryd":
        value |= {"listen": "127.0.0.1", "port": 0, "directory_port": 0, "min_free_mb": 0}
    if name == "flopd":
        value["core"] = {"url": "http://127.0.0.1:9/", "cookie": str(folder / "no-cookie")}
    guardian = Identity.generate()
    network = definition(guardian).model_copy(update={"genesis": CHAINS["devnet"].genesis}).signed_by(guardian)
    (folder / "network.yaml").write_text(dump_network(network))
    here = {"state_dir": str(disk / "state"), "log_dir": str(disk / "log"), "run_dir": str(folder)}
    module = MODULES.get(name, f"dux_{name}")
    return DaemonProcess(folder, name, {**value, **here}, command=[sys.executable, "-m", module])


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left inside."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing can be written inside."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def refusal(node: DaemonProcess) -> dict[str, str] | None:
    """What it said as it ended with 1; None for one that runs all the same."""
    node.start(wait=False)
    with contextlib.suppress(AssertionError):
        node.wait_message("READY=1")
        if node.name == "sandbox":
            return None  # It keeps no state, and may run.
    assert node.wait(20) == 1, node.output()
    lines = [json.loads(line) for line in node.output().splitlines() if line.startswith("{")]
    assert "Traceback" not in node.output()
    said = [line for line in lines if line["message"].startswith("can't run: ")]
    assert len(said) == 1, node.output()
    assert any(message.startswith("STATUS=can't run: ") for message in node.told())
    found: dict[str, str] = said[0]
    return found


@pytest.mark.parametrize(
    ("name", "fresh"), [*((name, False) for name in DAEMONS), ("flopd", True), ("registryd", True), ("sandbox", True)]
)
def test_a_full_disk_at_the_start_is_named_and_left_behind_once_there_is_room(
    short_tmp: Path, disk: Path, name: str, fresh: bool
) -> None:
    with daemon(short_tmp, disk, name) as node:
        if not fresh:
            node.start()
            node.stop()
            node.error_file.write_text("")
        with full(disk):
            said = refusal(node)
            if said is not None:
                assert said["error"] == "DiskFull"
                assert str(disk) in said["message"]
                assert said["hint"]
            else:
                node.stop()
        shutil.rmtree(disk / "log", ignore_errors=True)
        (disk / "log").mkdir()
        node.start()
        assert node.call("daemon.status")["name"] == name
        assert node.stop() == 0
        assert not list((disk / "state").glob("*.new"))


@pytest.mark.parametrize("name", DAEMONS)
def test_a_read_only_disk_at_the_start_is_named_and_left_behind_once_it_can_be_written(
    short_tmp: Path, disk: Path, name: str
) -> None:
    with daemon(short_tmp, disk, name) as node:
        node.start()
        node.stop()
        node.error_file.write_text("")
        with read_only(disk):
            said = refusal(node)
            if said is not None:
                assert said["error"] == "DiskReadOnly"
                assert "read-only" in said["message"].lower()
                assert "remount,rw" in said["hint"]
            else:
                (note,) = [n for n in node.call("daemon.status")["notes"] if str(disk / "log") in n]
                assert "the journal has what is missing" in note
                node.stop()
        node.start()
        assert not [n for n in node.call("daemon.status")["notes"] if "written" in n]
        assert node.stop() == 0


# --- the trial chain, which is no daemon of six and says the same -----------------------------------------------------


def trial_chain(folder: Path, disk: Path) -> ChainService:
    """With all that it keeps on the small disk."""
    (disk / "log").mkdir()
    return ChainService(folder, datadir=str(disk / "chain"), log_dir=str(disk / "log"))


@pytest.mark.parametrize("trouble", [full, read_only])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_trial_chain_without_room_names_it_and_runs_once_there_is_some(
    short_tmp: Path, disk: Path, trouble: Callable[[Path], contextlib.AbstractContextManager[None]], fresh: bool
) -> None:
    with trial_chain(short_tmp, disk) as chain:
        if not fresh:
            chain.start()
            chain.stop()
            chain.error_file.write_text("")
        with trouble(disk):
            said = refusal(chain)
        assert said is not None
        assert said["error"] == ("DiskFull" if trouble is full else "DiskReadOnly")
        assert str(disk) in said["message"]
        (told,) = {message for message in chain.told() if "can't run" in message}
        assert said["hint"] in told
        chain.start()
        assert chain.stop() == 0


def no_block(message: str) -> bool:
    return message.startswith("STATUS=no block is made: the database can't be written")


def test_a_trial_chain_that_finds_no_room_for_a_block_says_so_and_goes_on_later(short_tmp: Path, disk: Path) -> None:
    with trial_chain(short_tmp, disk) as chain:
        chain.reconfigure(busy_block_s=0.1, idle_block_s=0.1)
        chain.start()
        with full(disk):
            wait_until(lambda: any(map(no_block, chain.told())), 60, "systemd to hear of the block that was not made")
            assert "Free some space" in next(filter(no_block, chain.told()))
        chain.wait_message("STATUS=")
        assert chain.stop() == 0
