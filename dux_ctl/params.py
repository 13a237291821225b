"""`dux-ctl param verify`: the rules in use against the chain."""

import argparse
from typing import Any

from . import exits, screens
from .control import Control

VERIFY_S = 600.0


def register(verbs: Any) -> set[str]:
    """Add the verb; its name."""
    verify = verbs.add_parser(
        "verify",
        help="reckon all votes from the chain anew and name the first difference to the rules in use",
        description="Reckon all proposals and votes from this node's chain anew and compare the outcome with the rules "
        "in use. Ends with status 1 where they differ.",
        epilog="example: dux-ctl param verify",
    )
    verify.set_defaults(run=run_verify)
    return {"verify"}


def _text(value: dict[str, Any]) -> str:
    read = [
        ("read", f"{screens.count(value['proposals'], 'proposal')}, {screens.count(value['votes'], 'vote')} and "
                 f"{screens.count(value['approvals'], 'approval')} up to "
                 f"block {value['height']}"),
        ("rules", screens.count(value["versions"], "version")),
        ("verdict", "the rules in use are what the chain says" if value["agree"] else f"WRONG: {value['difference']}"),
    ]  # fmt: skip
    return screens.facts(read)


def run_verify(args: argparse.Namespace, control: Control) -> int:
    """Verify; FAILED where the rules in use are others."""
    control.progress("reading the chain and counting all votes anew")
    value = control.call("param.verify", timeout=max(control.timeout, VERIFY_S))
    control.progress("")
    control.emit(value, lambda: screens.draw("param.verify", _text, value, control))
    return exits.OK if value["agree"] else exits.FAILED
