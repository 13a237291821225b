"""Things that several tests do on a booted machine with dux-node."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.os import inside, layers
from tests.os.nspawn import Failed, Machine, wait_until

PYTHON = "/usr/lib/duxnet/bin/python"
INSIDE = "/root/inside.py"
EXIT_CONFIG = 78


@contextmanager
def booted() -> Iterator[Machine]:
    """A machine that was booted for the first time after dux-node was installed on it."""
    with Machine(layers.installed()) as machine:
        state = machine.boot()
        assert state == "running", f"{state}\n{machine.journal('-p', 'warning')}"
        yield machine


def checks(machine: Machine, *only: str, demo: bool = False) -> dict[str, dict[str, Any]]:
    """What inside.py found, by check."""
    machine.path(INSIDE).write_text(Path(inside.__file__).read_text())
    options = [*(["--only", *only] if only else []), *(["--demo"] if demo else [])]
    done = machine.run(PYTHON, "-I", INSIDE, *options, limit_s=400, check=False)
    lines = done.stdout.splitlines()
    assert "CHECK-BEGIN" in lines, done.stdout + done.stderr
    assert lines[-1] == "CHECK-END", done.stdout + done.stderr
    found = [json.loads(line) for line in lines[lines.index("CHECK-BEGIN") + 1 : -1]]
    return {one["check"]: one for one in found}


def assert_well(machine: Machine) -> None:
    """The whole node runs, answers and has lost nothing of its order."""
    wrong = {name: one["detail"] for name, one in checks(machine, "units", "answers", "wallet-unlocked").items()
             if not one["ok"]}  # fmt: skip
    assert wrong == {}


def show(machine: Machine, unit: str, name: str) -> str:
    """One property of a unit."""
    return machine.run("systemctl", "show", unit, f"-p{name}", "--value").stdout.strip()


def ctl(machine: Machine, *words: str, user: str | None = None, limit_s: float = 90) -> dict[str, Any]:
    """What dux-ctl answers, as JSON. Raises Failed when it refuses."""
    reply: dict[str, Any] = json.loads(machine.run("dux-ctl", "--json", *words, user=user, limit_s=limit_s).stdout)
    return reply


def calls(machine: Machine, *wanted: tuple[str, str]) -> list[dict[str, Any]]:
    """What root gets for calls (daemon, method), all by one program; Failed when one is refused or unanswered."""
    path = machine.path(INSIDE)
    path.write_text(Path(inside.__file__).read_text())
    script = (
        f"import json, sys; sys.path.insert(0, {str(Path(INSIDE).parent)!r}); import inside; "
        "print(json.dumps([inside.result(*words, limit_s=60) for words in json.loads(sys.argv[1])]))"
    )
    found: list[dict[str, Any]] = json.loads(
        machine.run(PYTHON, "-I", "-B", "-c", script, json.dumps(wanted), limit_s=400).stdout
    )
    return found


def identity(machine: Machine) -> dict[str, Any]:
    """Who this node is and what it has: nothing of it may get lost."""
    balance, wallet, self, network, channels = calls(
        machine, ("flopd", "wallet.balance"), ("flopd", "wallet.status"), ("registryd", "node.self"),
        ("airdropd", "network.show"), ("escrowd", "channel.list"),
    )  # fmt: skip
    return {
        "node": self["node"],
        "payout": wallet["payout_pubkey"],
        "network": network["id"],
        "balance": {key: balance[key] for key in ("confirmed", "in_channels")},
        "channels": sorted((one["id"], one["state"]) for one in channels["channels"]),
    }


def drop_in(machine: Machine, service: str, text: str) -> Path:
    """A drop-in for a service; the machine reads it at its next boot, or reload."""
    folder = machine.path(f"/etc/systemd/system/{service}.service.d")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "90-test.conf"
    path.write_text(text)
    return path


def fund(machine: Machine, flop: int = 1) -> None:
    """Coins of the trial network's faucet for this node, confirmed."""
    before = ctl(machine, "wallet", "balance")["confirmed"]
    ctl(machine, "wallet", "faucet", str(flop))
    wait_until(lambda: ctl(machine, "wallet", "balance")["confirmed"] > before, "the faucet's coins are confirmed", 60)


def forget_restarts(machine: Machine) -> None:
    """Set systemd's counters of restarts and failures to zero; what runs goes on."""
    machine.sh("systemctl reset-failed 'dux-*'")


def restart(machine: Machine) -> None:
    """Stop everything and start it anew, with all counters of systemd at zero."""
    machine.sh(
        "systemctl stop dux.target 'dux-*.service' 'dux-*.socket'; systemctl reset-failed; "
        "systemctl start dux.target 'dux-*.socket'"
    )


def ends(machine: Machine, unit: str, state: str, limit_s: float = 60) -> None:
    """Wait until a unit is active, inactive or failed."""
    try:
        wait_until(lambda: show(machine, unit, "ActiveState") == state, f"{unit} is {state}", limit_s, 0.1)
    except Failed as error:
        raise Failed(f"{error}; it is {show(machine, unit, 'ActiveState')}\n{machine.journal('-u', unit)}") from error
