"""`dux-ctl status`: all daemons, the chain, the money and the work of this node on one screen."""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from duxcommon.errors import DaemonDown, DuxError, NotAllowed, TimedOut, VersionMismatch
from duxcommon.money import format_flop

from . import catalogue, exits, reach, render, screens_fund, units, versions
from .control import DAEMONS, Control

ENDED = ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED")
"""Channels that need no attention any more."""
ANSWER_S = 10.0
"""Longest wait for one answer."""


class _Asking:
    """Asks daemons within one time limit for all; those that can't answer are not asked, nor are others again."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._deadline = time.monotonic() + control.timeout
        self._known = reach.known_down(DAEMONS, control.run_dir)
        self._down: set[str] = set()

    def daemon(self, name: str) -> dict[str, Any]:
        """What a daemon says of itself, or the error."""
        try:
            if name in self._known:
                raise self._known[name]
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
    """Everything that `status` shows; a part that can't be had holds its error. Takes `--timeout` at most.

    Raises NotAllowed for somebody who may look at nothing here.
    """
    asking = _Asking(control)
    daemons = {name: asking.daemon(name) for name in DAEMONS}
    _may_look(daemons)
    chain = units.trial_chain(control.run_dir)
    return {
        "live": reach.is_live(control.run_dir),
        "daemons": daemons,
        "devchain": dataclasses.asdict(chain) if chain is not None else None,
        "node": asking.part("node.self"),
        "chain": asking.part("chain.status"),
        "wallet": asking.part("wallet.balance"),
        "keys": asking.part("wallet.status"),
        "channels": asking.part("channel.list", {"limit": 200}),
        "provider": asking.part("provider.limits"),
        "fund": asking.part("fund.status"),
    }


def _refusals(daemons: dict[str, Any]) -> list[dict[str, Any]]:
    """The errors of daemons that this user may not ask."""
    errors = [status["error"] for status in daemons.values() if "error" in status]
    return [error for error in errors if error["data"]["name"] == "NotAllowed"]


def _may_look(daemons: dict[str, Any]) -> None:
    refused = _refusals(daemons)
    if refused and all("error" in status for status in daemons.values()):
        why = "that takes the group duxnet" if reach.cause(refused[0]) == "denied" else refused[0]["message"]
        raise NotAllowed(f"you may not look at this node: {why}", hint=refused[0]["data"]["hint"])


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
            answered = _other_version(status) or status["error"]["data"]["name"] == "NotAllowed"
            lines.append(f"dux-{name:<10} {'??' if answered else 'DOWN'}  {reach.explain(status['error'])}")
            continue
        notes = "; ".join(status["notes"]) or "well"
        failures = f", {status['failures']} internal errors" if status["failures"] else ""
        lines.append(f"dux-{name:<10} up {status['uptime_s']} s, {status['calls']} calls{failures}: {notes}")
    trial_chain = _trial_chain(found)
    if trial_chain is not None:
        lines.append(f"{units.TRIAL_CHAIN:<14} {_trial_chain_line(trial_chain)}")
    if different := versions.lines(found["daemons"]):
        lines += ["", *different]
    return "\n".join([*lines, *_remedies(found["daemons"], trial_chain, run_dir)])


def _trial_chain(found: dict[str, Any]) -> units.Unit | None:
    return units.Unit(**found["devchain"]) if found["devchain"] else None


def _trial_chain_line(unit: units.Unit) -> str:
    if unit.down:
        return f"DOWN  systemd says {unit.state}"
    if not unit.running:
        return "??  systemd does not tell"
    return f"up: {unit.said or 'the private trial chain of this machine'}"


def _other_version(status: dict[str, Any]) -> bool:
    """Whether a daemon answered, and in a way that this version does not understand."""
    return "error" in status and status["error"]["data"]["name"] == "VersionMismatch"


def _remedies(daemons: dict[str, Any], chain: units.Unit | None, run_dir: Path) -> list[str]:
    """What to do about daemons that gave no answer, and a trial chain that does not run."""
    other = [f"dux-{name}" for name, status in daemons.items() if _other_version(status)]
    if other:
        return ["", f"Of another version than dux-ctl: {', '.join(other)}. {VersionMismatch.hint_default}"]
    down = {name: status["error"] for name, status in daemons.items() if "error" in status}
    if denied := _refusals(daemons):
        return ["", f"You may not look at all of this node. {denied[0]['data']['hint']}"]
    if len(down) == len(daemons) and not units.of_this_machine(run_dir):
        return [
            "",
            f"No node runs in {run_dir}.",
            "Start one, or say where it is: set DUXNET_RUN_DIR or add --run-dir.",
        ]
    if chain is not None and chain.down:
        down["devchain"] = reach.stopped(chain)
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
    if _refusals(found["daemons"]):
        return exits.NOT_ALLOWED
    chain = _trial_chain(found)
    down = any("error" in status for status in found["daemons"].values()) or (chain is not None and chain.down)
    return exits.UNAVAILABLE if down else exits.OK
