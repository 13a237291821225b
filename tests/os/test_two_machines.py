"""Two booted machines on one cable: one opens its trial network, the other joins, pays it for a task, and leaves."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.os import layers
from tests.os.nspawn import Machine, wait_until

HOST, GUEST = "10.77.0.1", "10.77.0.2"
JOIN_S = 120.0


@dataclass
class Pair:
    host: Machine
    guest: Machine


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Both after their first boot, and nothing between them but a cable."""
    installed = layers.installed()
    with Machine(installed) as host, Machine(installed) as guest:
        for machine in (host, guest):
            machine.boot(wait=False)
        for machine in (host, guest):
            assert machine.settled() == "running"
        connect(host, guest)
        yield Pair(host, guest)


def connect(host: Machine, guest: Machine) -> None:
    """A cable between the network cards of both; it goes when one of them goes."""
    ends = [str(machine._leader) for machine in (host, guest)]
    command = ["ip", "link", "add", "eth0", "netns", ends[0], "type", "veth", "peer", "name", "eth0", "netns", ends[1]]
    subprocess.run(command, check=True, timeout=30)
    for machine, address in ((host, HOST), (guest, GUEST)):
        machine.sh(f"ip address add {address}/24 dev eth0; ip link set eth0 up")


def ctl(machine: Machine, *words: str, user: str | None = None, limit_s: float = 60.0) -> dict[str, Any]:
    """What `dux-ctl --json` answers."""
    reply: dict[str, Any] = json.loads(machine.run("dux-ctl", "--json", *words, user=user, limit_s=limit_s).stdout)
    return reply


def copy(pair: Pair) -> None:
    """As on a stick: readable by everybody."""
    pair.guest.path("/tmp/home.yaml").write_bytes(pair.host.path("/root/home.yaml").read_bytes())


def node(machine: Machine) -> str:
    node_id: str = ctl(machine, "node", "self")["node"]
    return node_id


def coins(machine: Machine) -> int:
    """What the wallet holds; nothing while it does not reach its chain."""
    done = machine.run("dux-ctl", "--json", "wallet", "balance", check=False)
    return int(json.loads(done.stdout)["confirmed"]) if done.returncode == 0 else 0


def test_a_machine_opens_its_trial_network_and_says_what_that_means(pair: Pair) -> None:
    before = node(pair.host)
    done = pair.host.run("dux-ctl", "network", "host", "/root/home.yaml")
    assert HOST in done.stdout
    for port in ("32554/tcp", "4747/udp", "4748/udp"):
        assert port in done.stdout
    assert pair.host.sh("stat -c '%a %U' /root/home.yaml").strip() == "600 root"
    first = pair.host.path("/root/home.yaml").read_bytes()
    pair.host.run("dux-ctl", "network", "host", "/root/home.yaml")
    assert pair.host.path("/root/home.yaml").read_bytes() == first
    assert node(pair.host) == before
    listening = pair.host.sh("ss -Htln")
    assert "0.0.0.0:32554" in listening
    assert "127.0.0.1:32553" in listening


def test_an_address_that_is_named_is_the_only_one_that_is_opened(pair: Pair) -> None:
    first = pair.host.path("/root/home.yaml").read_bytes()
    done = pair.host.run("dux-ctl", "network", "host", "/root/home.yaml", "--address", HOST)
    assert f"listens on {HOST}, port 32554/tcp, and on no other address" in done.stdout + done.stderr
    assert pair.host.path("/root/home.yaml").read_bytes() == first, "who has the first invitation needs no other"
    listening = pair.host.sh("ss -Htln")
    assert f"{HOST}:32554" in listening
    assert "0.0.0.0:32554" not in listening


def test_who_is_not_root_gets_the_line_to_type(pair: Pair) -> None:
    copy(pair)
    done = pair.guest.run("dux-ctl", "network", "join", "/tmp/home.yaml", user="ann", check=False)
    assert done.returncode == 3
    assert "su - -c 'dux-ctl network join /tmp/home.yaml'" in done.stderr


def test_the_other_machine_joins_and_both_know_each_other(pair: Pair) -> None:
    before = node(pair.guest)
    done = pair.guest.run("dux-ctl", "network", "join", "/tmp/home.yaml", limit_s=JOIN_S)
    assert "whose coins have no value" in done.stdout
    assert node(pair.guest) != before
    assert ctl(pair.guest, "network", "show")["id"] == ctl(pair.host, "network", "show")["id"]
    assert pair.guest.sh("stat -c '%a %U' /var/lib/duxnet/old").strip() == "700 root"
    assert pair.guest.run("systemctl", "is-active", "dux-devchain", check=False).stdout.strip() == "inactive"
    for one, other in ((pair.host, pair.guest), (pair.guest, pair.host)):
        wait_until(lambda one=one, other=other: knows(one, other), "they know each other", 60)  # type: ignore[misc]
    for machine in (pair.host, pair.guest):
        assert machine.sh("systemctl --failed --no-legend").strip() == ""


def knows(one: Machine, other: Machine) -> bool:
    return node(other) in {found["node"] for found in ctl(one, "node", "list")["nodes"]}


def test_the_one_pays_the_other_for_a_task_with_coins_of_the_faucet(pair: Pair) -> None:
    ctl(pair.host, "app", "publish", "/usr/share/duxnet/apps/hello-words")
    gift = ctl(pair.guest, "wallet", "faucet", "50")
    assert gift["confirmations"] >= 1
    assert gift["network"]["worthless"] is True

    def offered() -> bool:
        found = ctl(pair.guest, "app", "search", "hello")["listings"]
        return any(listing["live_providers"] for listing in found)

    wait_until(offered, "the host offers its app", 60)
    pair.guest.sh("printf 'a home of two machines' >/tmp/in.txt")
    pair.guest.run("dux-ctl", "task", "run", "hello-words", "/tmp/in.txt", "--output", "/tmp/out.txt", limit_s=120)
    assert pair.guest.sh("cat /tmp/out.txt").strip()
    for machine in (pair.host, pair.guest):
        assert machine.run("dux-ctl", "audit", check=False).returncode == 0


def test_coins_in_channels_are_not_left_behind_unasked(pair: Pair) -> None:
    done = pair.guest.run("dux-ctl", "network", "leave", check=False)
    assert done.returncode == 1
    assert "FLOP" in done.stderr
    assert "--yes" in done.stderr


def test_after_a_power_cut_in_the_middle_of_leaving_the_machine_is_on_its_old_network(pair: Pair) -> None:
    before = node(pair.guest), ctl(pair.guest, "network", "show")["id"]
    killed = pair.guest.run(
        "dux-ctl", "network", "leave", "--yes", env={"DUXNET_FAILPOINT": "switch:moved:5"}, check=False
    )
    assert killed.returncode != 0
    pair.guest.cut()
    assert pair.guest.boot() == "running"
    connect(pair.host, pair.guest)
    assert (node(pair.guest), ctl(pair.guest, "network", "show")["id"]) == before
    wait_until(lambda: coins(pair.guest) > 0, "its coins are there", 60)


def test_leaving_gives_the_machine_a_network_of_its_own_again(pair: Pair) -> None:
    pair.guest.run("dux-ctl", "network", "leave", "--yes", limit_s=JOIN_S)
    assert ctl(pair.guest, "network", "show")["id"] != ctl(pair.host, "network", "show")["id"]
    assert pair.guest.run("systemctl", "is-active", "dux-devchain").stdout.strip() == "active"
    assert ctl(pair.guest, "wallet", "faucet", "1")["amount"] == 100_000_000


def test_a_host_that_closes_shuts_out_who_was_invited(pair: Pair) -> None:
    pair.host.run("dux-ctl", "network", "host", "--off")
    before = node(pair.guest)
    copy(pair)
    done = pair.guest.run("dux-ctl", "network", "join", "/tmp/home.yaml", check=False)
    assert done.returncode == 4
    assert f"{HOST}, port 32554/tcp" in done.stderr
    assert node(pair.guest) == before
    pair.host.run("dux-ctl", "network", "host", "/root/again.yaml")
    done = pair.guest.run("dux-ctl", "network", "join", "/tmp/home.yaml", check=False)
    assert "no longer takes this invitation's login" in done.stderr
