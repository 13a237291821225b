"""`dux-ctl audit`: every daemon checks its part against the chain; one difference anywhere fails the whole."""

import argparse
from typing import Any

from duxcommon.errors import DuxError
from duxcommon.money import format_flop

from . import catalogue, exits, render, screens
from .control import Control


def _methods() -> list[str]:
    return [name for name in catalogue.load()["methods"] if name.endswith(".audit")]


def collect(control: Control) -> dict[str, Any]:
    """All checks: name, expected, found, difference (koinu); and the parts that could not be asked."""
    checks: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for method in _methods():
        daemon = catalogue.load()["methods"][method]["daemon"]
        try:
            reply = control.call(method, timeout=control.timeout)
        except DuxError as error:
            missing.append({"daemon": daemon, "error": error.to_rpc()})
            continue
        checks += [{"daemon": daemon, **check} for check in reply["checks"]]
    return {"difference": sum(abs(check["difference"]) for check in checks), "checks": checks, "missing": missing}


def _figure(check: dict[str, Any], name: str) -> str:
    return str(check[name]) if check["unit"] == "count" else format_flop(check[name])


def text(found: dict[str, Any]) -> str:
    """The table for people."""
    rows = [
        [c["daemon"], c["name"], _figure(c, "expected"), _figure(c, "found"), str(c["difference"])]
        for c in found["checks"]
    ]
    lines = [render.columns(["daemon", "check", "expected", "found", "difference (koinu)"], rows)] if rows else []
    lines += [f"not checked: dux-{part['daemon']}: {part['error']['message']}" for part in found["missing"]]
    lines.append(f"difference: {found['difference']} koinu")
    return "\n".join(lines)


def run(args: argparse.Namespace, control: Control) -> int:
    """Print all checks; status 8 on a difference, 4 when a part could not be checked."""
    found = collect(control)
    control.emit(found, lambda: screens.labelled(text(found), found, control))
    if found["difference"]:
        return exits.DIFFERENCE
    return exits.UNAVAILABLE if found["missing"] else exits.OK
