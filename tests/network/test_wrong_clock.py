"""Nodes on a machine whose clock is wrong or jumps: nothing false is signed, and all goes on once it is right."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from duxcommon.errors import ClockWrong
from tests.registryd_kit import Net, Node, net, until
from tests.support.process import DaemonProcess

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
YEAR = 365 * 86_400
TASK = {"kind": "order", "body": {"task": "00" * 16}}


@pytest.fixture
def made(short_tmp: Path) -> Iterator[Net]:
    if LIBRARY is None:
        pytest.skip("not run: needs Debian's package faketime")
    with net(short_tmp) as network:
        yield network


def clock_of(node: Node) -> Path:
    """The file that says what the node's clock says."""
    return node.folder / "clock"


def set_clock(node: Node, offset: float | None = None, at: str | None = None) -> None:
    """Move the clock of a node, by seconds or to a date."""
    part = clock_of(node).with_suffix(".part")
    part.write_text(f"{at}\n" if at else f"{offset:+.0f}\n")
    part.replace(clock_of(node))


def on_its_own_clock(node: Node) -> Node:
    """Start it again with a clock of its own."""
    node.daemon.__exit__(None, None, None)
    if not clock_of(node).exists():
        set_clock(node, 0)
    env = {
        "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock_of(node)), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
    }  # fmt: skip
    node.daemon = DaemonProcess(node.folder, "registryd", env=env)
    return node.start()


def clock_notes(node: Node) -> list[str]:
    return [note for note in node.call("daemon.status")["notes"] if "clock" in note]


def announced(node: Node, other: Node) -> int:
    """The number of the newest record that another node has of this one."""
    seq: int = other.call("node.show", node=node.id)["seq"]
    return seq


def test_a_node_that_wakes_up_in_1970_signs_nothing_and_is_there_once_the_clock_is_set(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob), "they know each other")
    last = announced(bob, alice)
    set_clock(bob, at="1970-01-02 03:04:05")
    on_its_own_clock(bob)
    (note,) = clock_notes(bob)
    assert "it says 1970-01-02" in note
    assert "timedatectl" in note
    assert "it says 1970-01-02" in bob.daemon.wait_log("the clock of this machine is wrong")
    with pytest.raises(ClockWrong):
        bob.call("node.sign", **TASK)
    assert bob.call("node.register", name="attic")["record"]["name"] != "attic"
    assert bob.call("node.self")["node"] == bob.id
    assert announced(bob, alice) == last
    set_clock(bob, 0)
    until(lambda: announced(bob, alice) > last, "the first heartbeat with the right time")
    assert alice.call("node.show", node=bob.id)["record"]["name"] == "attic"
    assert clock_notes(bob) == []
    assert bob.call("node.sign", **TASK)["time"] > time.time() - 60


def test_a_new_node_in_1970_starts_and_joins_once_the_clock_is_set(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob), "they know each other")
    bob.daemon.stop()
    for old in bob.folder.glob("*.db*"):
        old.unlink()
    set_clock(bob, at="1970-01-01 00:10:00")
    on_its_own_clock(bob)
    with pytest.raises(ClockWrong):
        bob.call("node.register", name="attic")
    last = announced(bob, alice)
    set_clock(bob, 0)
    until(lambda: announced(bob, alice) > last, "its heartbeat")
    assert bob.call("node.register", name="attic")["record"]["name"] == "attic"


def test_a_clock_that_jumps_by_years_and_back_neither_stops_heartbeats_nor_forgets_nodes(made: Net) -> None:
    alice, bob = made.add("alice"), made.add("bob")
    until(lambda: alice.knows(bob) and bob.knows(alice), "they know each other")
    on_its_own_clock(bob)
    until(lambda: bob.knows(alice), "bob hears of alice again")
    set_clock(bob, 20 * YEAR)
    until(lambda: clock_notes(bob), "bob to notice")
    assert "moved forward by 7300 days" in clock_notes(bob)[0]
    # What bob says then is dated in the future, and nobody takes it.
    until(lambda: bob.knows(alice), "alice is live again for bob: her next heartbeat came")
    set_clock(bob, 0)
    last = announced(bob, alice)
    until(lambda: announced(bob, alice) > last, "bob's heartbeats are taken again")
    assert clock_notes(bob) == []
    # The numbers of its records never went back, not even over a restart on the right clock.
    set_clock(bob, -YEAR / 6)
    last = announced(bob, alice)
    until(lambda: announced(bob, alice) > last, "heartbeats on a clock that was set back")
    set_clock(bob, 0)
    on_its_own_clock(bob)
    last = announced(bob, alice)
    until(lambda: announced(bob, alice) > last, "heartbeats after a restart")
    until(lambda: bob.knows(alice), "alice is live")
