"""`dux-ctl status`: all daemons, the chain, the money and the work of this node on one screen."""

import argparse
from pathlib import Path
from typing import Any

from duxcommon.errors import DuxError
from duxcommon.money import format_flop

from . import exits, render, screens_fund
from .control import DAEMONS, Control

ENDED = ("CLOSED", "REFUNDED", "CONFLICTED", "ABANDONED")
"""Channels that need no attention any more."""


def _ask(control: Control, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        return control.call(method, params, timeout=min(control.timeout, 10.0))
    except DuxError as error:
        return {"error": error.to_rpc()}


def collect(control: Control) -> dict[str, Any]:
    """Everything that `status` shows; a part that can't be had holds its error."""
    daemons: dict[str, Any] = {}
    for name in DAEMONS:
        try:
            daemons[name] = control.client(name).call("daemon.status", timeout=min(control.timeout, 5.0))
        except DuxError as error:
            daemons[name] = {"error": error.to_rpc()}
    return {
        "daemons": daemons,
        "node": _ask(control, "node.self"),
        "chain": _ask(control, "chain.status"),
        "wallet": _ask(control, "wallet.balance"),
        "keys": _ask(control, "wallet.status"),
        "channels": _ask(control, "channel.list", {"limit": 200}),
        "provider": _ask(control, "provider.limits"),
        "fund": _ask(control, "fund.status"),
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
    label = wallet.get("network") or chain.get("network")
    if label:
        lines.append(f"network      {render.network(label)}")
    lines.append("node         " + _line(node, str(node.get("node"))))
    syncing = "syncing" if chain.get("syncing") else "in sync"
    lines.append("chain        " + _line(chain, f"block {chain.get('height')} of {chain.get('headers')}, {syncing}"))
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
            error = status["error"]
            lines.append(
                f"dux-{name:<10} DOWN" + ("" if error["data"]["name"] == "DaemonDown" else f"  {error['message']}")
            )
            continue
        notes = "; ".join(status["notes"]) or "well"
        failures = f", {status['failures']} internal errors" if status["failures"] else ""
        lines.append(f"dux-{name:<10} up {status['uptime_s']} s, {status['calls']} calls{failures}: {notes}")
    down = [f"dux-{name}" for name, status in found["daemons"].items() if "error" in status]
    if len(down) == len(found["daemons"]):
        lines += [
            "",
            f"No node runs in {run_dir}.",
            "Start one, or say where it is: set DUXNET_RUN_DIR or add --run-dir.",
        ]
    elif down:
        lines += ["", f"Start what is down: systemctl start {' '.join(down)}"]
    return "\n".join(lines)


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
    """Print the screen; unavailable (4) when a daemon is down."""
    found = collect(control)
    control.emit(found, lambda: text(found, control.run_dir))
    return exits.UNAVAILABLE if any("error" in status for status in found["daemons"].values()) else exits.OK
