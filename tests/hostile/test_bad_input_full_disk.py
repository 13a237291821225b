"""A disk that is really full under a whole node: refused by name, nothing lost, and on it goes when there is room.

Small file systems are mounted below a devnet's folder. The database alone: tests/unit/test_db.py, which needs no root.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import exits
from dux_devnet.layout import DAEMONS
from dux_devnet.network import wait_until
from duxcommon.errors import AppUnknown, DeadlinePassed, DiskFull, DuxError
from duxcommon.money import COIN
from tests.support.devnet import APPS, ROOT, TestNet, running_devnet
from tests.support.refusals import assert_error, refused, refused_call, status, unchanged

PRICE = COIN // 2
"""Of both apps."""
HEARTBEAT_S = 60
"""As by default: a node that could not note or send a heartbeat for as long as a test takes stays live."""
STATE_MB, BLOBS_MB, KEPT_MB = 24, 300, 256
"""KEPT_MB is what registryd leaves free for others."""


def small_disk(path: Path, megabytes: int) -> None:
    """Put a small file system in the place of a folder, with what is in it. Skips the test where that is forbidden."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: needs root that may mount file systems")
    shutil.copytree(aside, path, dirs_exist_ok=True)
    shutil.rmtree(aside)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on this disk inside."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice sells, bob buys over a channel that is good for all calls here; both have small disks, logs included."""
    settings: dict[str, dict[str, Any]] = {"bob/taskd": {"buyer": {"listing_s": 0}}}
    settings["alice/registryd"] = {"heartbeat_s": HEARTBEAT_S}
    with running_devnet(overrides=settings, start=False) as net:
        disks = [state(net, "alice"), state(net, "bob"), net.layout.folder / "bob" / "blobs"]
        try:
            for disk in disks:
                small_disk(disk, STATE_MB if disk.name == "lib" else BLOBS_MB)
            for node in ("alice", "bob"):
                log_to_disk(net, node)
            net.start_all()
            net.fund("bob", 30)
            provider = net.layout.node_ids["alice"]
            opened = net.call("bob", "channel.open", {"provider": provider, "amount": 15 * COIN, "key": net.key()})
            net.publish("alice", APPS / "hello-words")
            net.publish("alice", ROOT / "tests" / "apps" / "slow-echo")
            net.wait_channel("bob", opened["id"], "OPEN")
            net.run_task("bob", "hello-words", b"one")
            yield net
            net.assert_audit()
        finally:
            net.down(remove=False)
            for disk in disks:
                subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def state(net: TestNet, node: str) -> Path:
    """Where a node's databases are."""
    return net.layout.folder / node / "lib"


def log_to_disk(net: TestNet, node: str) -> None:
    """Log files on the small disk; what daemons print stays outside, where the test can see all of it."""
    folder = state(net, node) / "log"
    folder.mkdir()
    for daemon in DAEMONS:
        more = net.layout.folder / node / "etc" / f"{daemon}.d"
        more.mkdir()
        (more / "log.yaml").write_text(f"log_dir: {folder}\n")


@pytest.fixture
def text(short_tmp: Path) -> str:
    """A file that the apps take."""
    (short_tmp / "text.txt").write_bytes(b"one two two")
    return str(short_tmp / "text.txt")


def gross(net: TestNet) -> int:
    """What bob has signed away to alice."""
    return int(net.call("bob", "channel.list", {"state": "OPEN"})["channels"][0]["gross"])


def pays_again(net: TestNet) -> None:
    """A call goes through and is paid, once the node has noticed that there is room."""

    def ready() -> bool:
        with contextlib.suppress(DuxError):
            net.call("bob", "wallet.balance")
            return True
        return False

    before = gross(net)
    wait_until(ready, 60, "the node to notice that there is room")
    net.run_task("bob", "hello-words", b"again")
    assert gross(net) == before + PRICE


def test_a_full_disk_refuses_new_work_by_name_and_every_daemon_goes_on(net: TestNet, text: str) -> None:
    address = net.call("alice", "wallet.receive")["address"]
    provider, before = net.layout.node_ids["alice"], gross(net)
    coins = net.call("bob", "wallet.balance")
    sending = {"to": address, "amount": COIN, "key": "while-full"}
    with full(state(net, "bob")):
        error = refused(net, "bob", DiskFull, exits.UNAVAILABLE, ["task", "run", "hello-words", text])
        assert "Free some space" in error["data"]["hint"]
        refused(net, "bob", DiskFull, exits.UNAVAILABLE, ["wallet", "send", address, "1"])
        refused(net, "bob", DiskFull, exits.UNAVAILABLE, ["app", "publish", str(APPS / "hello-words")])
        refused_call(net, "bob", DiskFull, "wallet.send", sending)
        holding = {"provider": provider, "amount": PRICE, "key": net.key()}
        refused_call(net, "bob", DiskFull, "payment.hold", holding)
        assert net.ctl("bob", "task", "list").returncode == exits.OK
        assert net.ctl("bob", "channel", "list").returncode == exits.OK
        for daemon in DAEMONS:
            assert status(net, "bob", daemon)["failures"] == 0
    pays_again(net)
    assert net.call("bob", "wallet.balance") == coins
    assert gross(net) == before + PRICE
    # What was refused was not done: the same key pays now, for the first time.
    paid = net.call("alice", "wallet.balance")["confirmed"] + COIN
    net.call("bob", "wallet.send", sending)
    wait_until(lambda: net.call("alice", "wallet.balance")["confirmed"] == paid, 60, "the payment")


def test_what_was_published_while_the_disk_was_full_is_known_once_there_is_room(net: TestNet) -> None:
    with full(state(net, "bob")):
        published = net.ctl("alice", "app", "publish", str(ROOT / "tests" / "apps" / "ten-flop"))
        assert published.returncode == exits.OK, published
        net.wait_live("carol", "ten-flop")
        refused_call(net, "bob", AppUnknown, "app.show", {"app": "ten-flop"})
    net.wait_live("bob", "ten-flop")


def test_a_call_under_way_when_the_disk_fills_up_is_paid_once_when_there_is_room(net: TestNet) -> None:
    before = gross(net)
    task = net.order("bob", "slow-echo", b"patience", params={"seconds": 2})["id"]

    def look() -> dict[str, object]:
        found: dict[str, object] = net.call("bob", "task.status", {"id": task})
        return found

    wait_until(lambda: look()["progress"], 60, "the app to run")
    with full(state(net, "bob")):
        wait_until(lambda: "DiskFull" in str(look()["step"]), 60, "the task to wait for room")
        assert gross(net) == before
    done = net.wait_task("bob", task)
    assert done["state"] == "DONE", done
    assert net.ctl("bob", "task", "result", task).stdout == b"patience"
    assert gross(net) == before + PRICE
    pays_again(net)


def test_a_provider_whose_disk_is_full_takes_no_order_and_is_not_paid(net: TestNet) -> None:
    pays_again(net)
    with unchanged(net, "bob"), full(state(net, "alice")):
        order = net.order("bob", "hello-words", b"one", deadline_s=4)
        task = net.wait_task("bob", order["id"])
        assert task["state"] == "FAILED", task
        assert_error(task["error"], DeadlinePassed)
        for daemon in DAEMONS:
            assert status(net, "alice", daemon)["failures"] == 0
    pays_again(net)


def test_payloads_leave_room_for_others_on_the_disk(net: TestNet, short_tmp: Path) -> None:
    large = short_tmp / "large.txt"
    large.write_bytes(b"word " * 200_000)
    blobs = net.layout.folder / "bob" / "blobs"
    filler = blobs / "filler"
    with unchanged(net, "bob"):
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (BLOBS_MB - KEPT_MB) << 20)
        try:
            command = ["task", "run", "hello-words", str(large)]
            refused(net, "bob", DiskFull, exits.UNAVAILABLE, command, f"{KEPT_MB} MB are kept free")
            assert not [path for path in (blobs / "tmp").iterdir() if path.stat().st_size > 0]
        finally:
            filler.unlink()
    done = net.ctl("bob", "task", "run", "hello-words", str(large))
    assert done.returncode == exits.OK, done
