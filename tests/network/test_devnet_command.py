"""`dux-devnet` as its user types it: wrong words, a second start, Ctrl-C at any moment."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dux_devnet.network import wait_until
from duxcommon.blocking import BlockingClient
from duxcommon.money import COIN

ROOT = Path(__file__).parents[2]


def devnet(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dux_devnet.main", "--dir", str(folder), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def assert_gone(folder: Path) -> None:
    """No process of the devnet is left, or is still ending after a minute."""
    deadline = time.monotonic() + 60
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.decode(errors="replace").startswith(str(folder)) for word in words):
            found.append(f"{entry.parent.name} {b' '.join(words).decode(errors='replace')}")
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("faucet", "bob", "abc"), "'abc' is not an amount of FLOP"),
        (("faucet", "bob", "-3"), "'-3' is not an amount of FLOP"),
        (("mine", "0"), "'0' is not a number from 1 to 20000"),
        (("up", "--nodes", "2"), "'2' is not a number from 3 to 30"),
        (("dwon",), "invalid choice: 'dwon'"),
    ],
)
def test_a_wrong_command_line_is_answered_in_two_lines(short_tmp: Path, words: tuple[str, ...], says: str) -> None:
    done = devnet(short_tmp / "net", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not (short_tmp / "net").exists()


def test_down_where_nothing_is_changes_nothing_and_is_no_failure(short_tmp: Path) -> None:
    done = devnet(short_tmp / "net", "down")
    assert (done.returncode, done.stdout) == (0, f"there is no devnet in {short_tmp}/net: nothing to stop\n")


def test_a_quick_devnet_has_short_windows_and_votes_and_bonds_by_itself(short_tmp: Path) -> None:
    folder = short_tmp / "net"
    try:
        assert (up := devnet(folder, "up", "--quick")).returncode == 0, up.stderr
        run_dir = devnet(folder, "path", "bob").stdout.strip()
        with closing(BlockingClient(Path(run_dir) / "airdropd.sock")) as airdropd:
            found = {one["name"]: one["value"] for one in airdropd.call("param.list")["parameters"]}
        assert (found["window_blocks"], found["vote_blocks"], found["airdrop_threshold"]) == (300, 300, COIN)
        with closing(BlockingClient(Path(run_dir) / "registryd.sock")) as registryd:
            bonds = wait_until(lambda: registryd.call("node.bonds"), 60, "the node to read the blocks so far")
            assert bonds["auto"]
    finally:
        devnet(folder, "down")


def test_a_second_up_a_killed_supervisor_and_down_twice(short_tmp: Path) -> None:
    folder = short_tmp / "net"
    try:
        first = devnet(folder, "up")
        assert first.returncode == 0, first.stderr
        assert f"`dux-devnet --dir {folder} down`" in first.stdout
        second = devnet(folder, "up")
        assert second.returncode == 1
        assert f"a devnet runs in {folder} already" in second.stderr
        supervisor = next(line for line in processes_of(folder) if "dux_devnet.supervisor" in line)
        os.kill(int(supervisor.split()[0]), signal.SIGKILL)
        third = devnet(folder, "up")
        assert third.returncode == 1
        assert f"Remove it with `dux-devnet --dir {folder} down`" in third.stderr
    finally:
        down = devnet(folder, "down")
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert_gone(folder)
    assert devnet(folder, "down").returncode == 0


@pytest.mark.parametrize("waits_for", ["alice/etc", "layout.json", "supervisor.log", "control.sock", "chain/rpc.json"])
def test_ctrl_c_while_it_comes_up_leaves_no_process_and_no_folder(short_tmp: Path, waits_for: str) -> None:
    folder = short_tmp / "net"
    command = [sys.executable, "-m", "dux_devnet.main", "--dir", str(folder), "up"]
    up = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / waits_for).exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        for _ in range(3):  # impatience must not stop the cleaning up
            os.killpg(up.pid, signal.SIGINT)
            time.sleep(0.05)
        output, _ = up.communicate(timeout=120)
    finally:
        up.kill()
    assert up.returncode == 130, output
    assert "Traceback" not in output
    assert not folder.exists()
    assert_gone(folder)


def test_a_picture_that_the_app_would_refuse_stops_the_demo_before_anything_starts(short_tmp: Path) -> None:
    text = short_tmp / "not a picture.txt"
    text.write_text("hello")
    for picture, says in (
        (text, "the input is something else; the app takes image/png"),
        (short_tmp / "no.png", "No such file"),
    ):
        done = devnet(short_tmp / "net", "demo", "--image", str(picture))
        assert done.returncode == 1
        assert says in done.stderr
        assert "make demo IMAGE=" in done.stderr
        assert done.stdout == ""
