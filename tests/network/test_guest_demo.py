"""`dux-ctl demo` on a running node: two real paid calls with a real guest, and nothing left however it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import exits
from dux_devnet.network import wait_until
from duxcommon.money import COIN, split
from tests.support.devnet import APPS, TestNet, running_devnet
from tests.support.invitation import write_guest_invitation

NODE = "alice"
LIMIT_S = 240
ENDED = ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED")
PARTS = split(COIN // 2, 500)
"""Of one call of hello-words."""


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice is the machine's node; bob only arbitrates, as the key of a machine's own network does."""
    with running_devnet(2, guardians=1) as found:
        write_guest_invitation(found)
        yield found


class Demo:
    """One run of the command."""

    def __init__(self, net: TestNet, *words: str) -> None:
        self.invitation = net.layout.folder / "guest.yaml"
        command = [sys.executable, "-I", "-m", "dux_ctl.main", "demo", "--invitation", str(self.invitation), *words]
        self.process = subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "DUXNET_RUN_DIR": str(net.layout.run_dir(NODE))}, start_new_session=True,
        )  # fmt: skip
        self.said: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read on until the story has come to this."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}: {''.join(self.said)}")

    def end(self) -> tuple[int, str, str]:
        """Status, standard output, and everything on standard error."""
        try:
            out, err = self.process.communicate(timeout=LIMIT_S)
        finally:
            self.process.kill()
        return self.process.returncode, out, "".join(self.said) + err

    def guests(self) -> list[Path]:
        """Processes of its guest: the forked daemons keep their parent's command line."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"dux_devnet.guest" in words and os.fsencode(self.invitation) in words:
                found.append(entry.parent)
        return found

    def folder(self) -> Path:
        """Where the guest lies, while it runs."""
        words = (self.guests()[0] / "cmdline").read_bytes().split(b"\0")
        return Path(os.fsdecode(words[words.index(b"dux_devnet.guest") + 1]))


def assert_nothing_is_left(net: TestNet, demo: Demo, folder: Path | None = None, *, channels: bool = True) -> None:
    wait_until(lambda: not demo.guests(), 60, "the guest's processes to end")
    if folder is not None:
        wait_until(lambda: not folder.exists(), 60, "the guest's folder to be removed")
        assert not folder.with_name(f"{folder.name}.err").exists()
    assert net.call(NODE, "app.search", {"words": "hello"})["listings"] == []
    if channels:
        left = [one for one in net.call(NODE, "channel.list", {})["channels"] if one["state"] not in ENDED]
        assert left == []
    tasks = net.call(NODE, "task.list", {})["tasks"]
    assert [task for task in tasks if task["state"] not in ("DONE", "FAILED", "CANCELLED")] == []


def test_each_side_is_paid_95_percent_by_the_other_and_nothing_is_left(net: TestNet) -> None:
    begun = time.monotonic()
    demo = Demo(net, "--json")
    code, out, err = demo.end()
    assert code == exits.OK, err
    assert err == ""
    found = json.loads(out)
    assert found["difference"] == 0
    assert found["remains"] == []
    assert found["audit"] == {"this node": 0, "the guest": 0}
    assert found["network"]["worthless"] is True
    assert found["seconds"] <= time.monotonic() - begun
    assert [(call["buyer"], call["provider"]) for call in found["calls"]] == [
        ("this node", "the guest"),
        ("the guest", "this node"),
    ]
    for call in found["calls"]:
        gains = {row["party"]: row for row in call["account"]}
        assert gains[f"{call['provider']} (sells)"]["chain"] == PARTS.provider
        assert gains["community fund"]["chain"] == PARTS.tax
        assert all(row["books"] == row["chain"] for row in call["account"] if row["books"] is not None)
        assert sum(row["chain"] for row in call["account"]) == 0
        assert call["sandbox"]["state"] in ("ok", "degraded")
        assert "words" in json.loads(call["result"])
    assert_nothing_is_left(net, demo)
    net.assert_audit()


def test_the_story_names_each_step_with_its_time_and_ends_with_the_table(net: TestNet) -> None:
    demo = Demo(net)
    demo.wait_for("starting the guest's daemons")
    folder = demo.folder()
    code, out, err = demo.end()
    assert code == exits.OK, err
    assert all(re.match(r"\[ *\d+\.\d s\] ", line) for line in err.splitlines())
    for step in (
        "publishes hello-words at 0.50 FLOP a call",
        "opens a payment channel for 0.90 FLOP",
        "it ran on the guest (sandbox",
        "it ran on this node (sandbox",
        "nothing of the demonstration is left",
    ):
        assert step in err
    assert out.count("0.475           0.475") == 2
    assert "difference 0 koinu in all" in out
    assert "private trial network, coins have no value" in out
    assert_nothing_is_left(net, demo, folder)


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("starting a second node", signal.SIGINT),
        ("making the keys", signal.SIGTERM),
        ("starting the guest's daemons", signal.SIGINT),
        ("the guest publishes", signal.SIGINT),
        ("this node opens a payment channel", signal.SIGINT),
        ("this node calls it", signal.SIGHUP),
        ("it ran on the guest", signal.SIGINT),
        ("closes its channel", signal.SIGINT),
        ("ending the guest node", signal.SIGINT),
    ],
)
def test_interrupted_at_any_point_it_leaves_nothing(net: TestNet, point: str, number: signal.Signals) -> None:
    demo = Demo(net)
    demo.wait_for(point)
    folder = demo.folder() if demo.guests() else None
    for _ in range(3):  # impatience must not stop the clearing up
        os.killpg(demo.process.pid, number)
        time.sleep(0.05)
    code, out, err = demo.end()
    assert code == exits.INTERRUPTED, err
    assert "Traceback" not in err
    assert "REMAINS" not in err
    assert out == ""
    assert_nothing_is_left(net, demo, folder)


def test_when_the_command_itself_is_killed_the_guest_goes_too(net: TestNet) -> None:
    demo = Demo(net)
    demo.wait_for("the guest is node")
    folder = demo.folder()
    demo.process.kill()
    demo.end()
    wait_until(lambda: not demo.guests(), 60, "the guest's processes to end")
    wait_until(lambda: not folder.exists(), 60, "the guest's folder to be removed")
    listed = net.call(NODE, "app.search", {"words": "hello"})["listings"]
    for listing in listed:
        if listing["publisher"] == net.layout.node_ids[NODE]:
            net.call(NODE, "app.withdraw", {"app": listing["app"]})


def test_a_guest_that_dies_in_the_middle_is_told_and_what_remains_is_named(net: TestNet) -> None:
    demo = Demo(net)
    demo.wait_for("this node calls it")
    folder = demo.folder()
    for process in demo.guests():
        os.kill(int(process.name), signal.SIGKILL)
    code, out, err = demo.end()
    assert code not in (exits.OK, exits.INTERRUPTED), out
    assert "the guest node ended in the middle of it" in err
    remains = (
        r"REMAINS: a channel with the guest, which is gone: 0\.90\d* FLOP \(without value\) come back \d+ blocks from"
    )
    channel = re.search(remains + r" now by `dux-ctl channel refund ([0-9a-f]{64})`", err)
    assert channel is not None
    assert net.channel(NODE, channel[1])["state"] not in ENDED
    wait_until(lambda: not demo.guests(), 60, "the guest's processes to end")
    assert not folder.exists()


def test_what_the_owner_offers_already_stays(net: TestNet) -> None:
    done = net.ctl(NODE, "app", "publish", str(APPS / "hello-words"))
    assert done.returncode == 0, done.stderr
    code, _, err = Demo(net).end()
    assert code == exits.OK, err
    assert "this node offers hello-words already, at 0.50 FLOP a call" in err
    own = net.layout.node_ids[NODE]
    assert net.call(NODE, "app.show", {"app": f"hello-words@{own}"})["publisher"] == own
    net.call(NODE, "app.withdraw", {"app": f"hello-words@{own}"})


def test_a_second_demonstration_at_the_same_time_is_refused(net: TestNet) -> None:
    first = Demo(net)
    first.wait_for("starting a second node")
    # It waits: on a busy machine it could be over before the second one has begun.
    os.kill(first.process.pid, signal.SIGSTOP)
    code, _, err = Demo(net).end()
    assert code == exits.UNAVAILABLE
    assert "a demonstration runs on this node already" in err
    os.killpg(first.process.pid, signal.SIGINT)
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.end()[0] == exits.INTERRUPTED


def test_a_node_that_takes_no_tasks_or_lacks_a_daemon_is_told_before_anything_starts(net: TestNet) -> None:
    def refused() -> tuple[int, Any]:
        code, out, _ = Demo(net, "--json").end()
        return code, json.loads(out)["error"]

    net.call(NODE, "provider.pause", {"paused": True})
    code, error = refused()
    assert (code, error["data"]["name"]) == (exits.UNAVAILABLE, "DemoFailed")
    assert "dux-ctl provider resume" in error["data"]["hint"]
    net.call(NODE, "provider.pause", {"paused": False})
    net.stop([f"{NODE}/airdropd"])
    code, error = refused()
    assert (code, error["data"]["name"]) == (exits.UNAVAILABLE, "DaemonDown")
    assert "dux-airdropd" in error["message"]
    assert "journalctl -u dux-airdropd -b" in error["data"]["hint"]
    net.restart(f"{NODE}/airdropd")
