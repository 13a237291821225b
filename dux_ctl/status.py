"""`dux-ctl status`: all daemons, the chain, the money and the work of this node on one screen."""

import argparse
import time
from pathlib import Path
from typing import Any

from duxcommon.errors import DaemonDown, DuxError, TimedOut, VersionMismatch
from duxcommon.money import format_flop

from . import catalogue, exits, reach, render, screens_fund, units, versions
from .control import DAEMONS, Control

ENDED = ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED")
"""Channels that need no attention any more."""
ANSWER_S = 10.0
"""Longest wait for one answer."""


class _Asking:
    """Asks daemons within one time limit for all; a daemon that did not answer is not asked again."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._deadline = time.monotonic() + control.timeout
        self._down: set[str] = set()

    def daemon(self, name: str) -> dict[str, Any]:
        """What a daemon says of itself, or the error."""
        try:
            return self._control.client(name).call("daemon.status", timeout=self._left())
        except DuxError as error:
            self._down.add(name)
            return {"error": error.to_rpc()}

    def part(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """A reply, or the error."""
        daemon = catalogue.load()["methods"][method]["daemon"]
        if daemon in self._down:
            return {"error": DaemonDown(f"dux-{daemon} gives no answer").to_rpc()}
        try:
            return self._control.call(method, params, timeout=self._left())
        except DuxError as error:
            return {"error": error.to_rpc()}

    def _left(self) -> float:
        """Raises TimedOut when the time is over."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"not asked: {self._control.timeout:g} s were over", hint="Add --timeout SECONDS.")
        return min(left, ANSWER_S)


def collect(control: Control) -> dict[str, Any]:
    """Everything that `status` shows; a part that can't be had holds its error. Takes `--timeout` at most."""
    asking = _Asking(control)
    return {
        "live": reach.is_live(control.run_dir),
        "daemons": {name: asking.daemon(name) for name in DAEMONS},
        "node": asking.part("node.self"),
        "chain": asking.part("chain.status"),
        "wallet": asking.part("wallet.balance"),
        "keys": asking.part("wallet.status"),
        "channels": asking.part("channel.list", {"limit": 200}),
        "provider": asking.part("provider.limits"),
        "fund": asking.part("fund.status"),
    }


def _line(part: dict[str, Any], text: str) -> str:
    if "error" not in part:
        return text
    # What a daemon that is down would have told: the list of daemons says that once.
    return "unknown" if part["error"]["data"]["name"] == "DaemonDown" else _trouble(part)


def _trouble(part: dict[str, Any]) -> str:
    return f"{part['error']['message']}\n             {part['error']['data']['hint']}"


def text(found: dict[str, Any], run_dir: Path) -> str:
    """The screen."""
    wallet, chain, node, provider = found["wallet"], found["chain"], found["node"], found["provider"]
    lines = []
    if found["live"]:
        lines.append("live system  keys and coins are in memory: they are gone when the machine is switched off")
    label = wallet.get("network") or chain.get("network")
    if label:
        lines.append(f"network      {render.network(label)}")
    lines.append("node         " + _line(node, str(node.get("node"))))
    lines.append("chain        " + (_line(chain, "") if "error" in chain else _chain(chain)))
    if "error" not in wallet:
        parts = [f"{format_flop(wallet['spendable'])} FLOP spendable"]
        parts += [
            f"{format_flop(wallet[key])} {key.replace('_', ' ')}"
            for key in ("pending", "reserved", "in_channels")
            if wallet[key]
        ]
        if found["keys"].get("locked"):
            parts.append("locked (`dux-ctl wallet unlock`)")
        lines.append("wallet       " + ", ".join(parts))
    else:
        lines.append("wallet       " + _line(wallet, ""))
    channels = found["channels"]
    lines.append("channels     " + _line(channels, _channels(channels.get("channels", []))))
    sells = (
        f"{provider.get('running')} running, {provider.get('queued')} queued, {provider.get('tasks')} at once; "
        f"sandbox {provider.get('sandbox')}" + (f" ({provider['reason']})" if provider.get("reason") else "")
        + (", paused" if provider.get("paused") else "")
    )  # fmt: skip
    lines.append("lending      " + _line(provider, sells))
    fund = found["fund"]
    lines.append("fund         " + (_line(fund, "") if "error" in fund else screens_fund.progress(fund)))
    lines.append("rules        " + _rules(found["daemons"]))
    lines.append("")
    for name, status in found["daemons"].items():
        if "error" in status:
            state = "??" if _other_version(status) else "DOWN"
            lines.append(f"dux-{name:<10} {state}  {reach.explain(status['error'])}")
            continue
        notes = "; ".join(status["notes"]) or "well"
        failures = f", {status['failures']} internal errors" if status["failures"] else ""
        lines.append(f"dux-{name:<10} up {status['uptime_s']} s, {status['calls']} calls{failures}: {notes}")
    if different := versions.lines(found["daemons"]):
        lines += ["", *different]
    return "\n".join([*lines, *_remedies(found["daemons"], run_dir)])


def _other_version(status: dict[str, Any]) -> bool:
    """Whether a daemon answered, and in a way that this version does not understand."""
    return "error" in status and status["error"]["data"]["name"] == "VersionMismatch"


def _remedies(daemons: dict[str, Any], run_dir: Path) -> list[str]:
    """What to do about daemons that gave no answer."""
    other = [f"dux-{name}" for name, status in daemons.items() if _other_version(status)]
    if other:
        return ["", f"Of another version than dux-ctl: {', '.join(other)}. {VersionMismatch.hint_default}"]
    down = {name: status["error"] for name, status in daemons.items() if "error" in status}
    denied = [error for error in down.values() if reach.cause(error) == "denied"]
    if denied:
        return ["", f"You may not look at this node. {denied[0]['data']['hint']}"]
    if len(down) == len(daemons) and not units.of_this_machine(run_dir):
        return [
            "",
            f"No node runs in {run_dir}.",
            "Start one, or say where it is: set DUXNET_RUN_DIR or add --run-dir.",
        ]
    lines = reach.what_to_do(down, run_dir)
    return ["", *lines] if lines else []


def _chain(chain: dict[str, Any]) -> str:
    """How far this node has read, and what it asks: Core by its own name, or the trial chain."""
    syncing = "syncing" if chain["syncing"] else "in sync"
    core = str(chain["version"]).strip("/").replace(":", " ")
    return f"block {chain['height']} of {chain['headers']}, {syncing}; {core}, {chain['peers']} peers"


def _rules(daemons: dict[str, Any]) -> str:
    """The version that each daemon uses; they should be one."""
    used = {name: status.get("rules") for name, status in daemons.items() if status.get("rules") is not None}
    versions = sorted(set(used.values()))
    if not versions:
        return "unknown"
    if len(versions) == 1:
        return f"version {versions[0]}"
    parts = [f"{', '.join(n for n, v in used.items() if v == version)} use {version}" for version in versions]
    return "; ".join(parts) + " (one of them is still reading the chain)"


def _channels(channels: list[dict[str, Any]]) -> str:
    states: dict[str, int] = {}
    for channel in channels:
        if channel["state"] not in ENDED:
            states[channel["state"]] = states.get(channel["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"


def run(args: argparse.Namespace, control: Control) -> int:
    """Print the screen; unavailable (4) when a daemon is down, not allowed (3) for somebody who may not look."""
    found = collect(control)
    control.emit(found, lambda: text(found, control.run_dir))
    errors = [status["error"] for status in found["daemons"].values() if "error" in status]
    if any(reach.cause(error) == "denied" for error in errors):
        return exits.NOT_ALLOWED
    return exits.UNAVAILABLE if errors else exits.OK
