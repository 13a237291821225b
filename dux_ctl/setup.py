"""`dux-ctl setup flopcoin`: a safe configuration for Flopcoin Core, what is missing, and this node on top of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duxcommon.errors import CoreNotReady, InvalidParams, NotAllowed

from . import asking, exits
from .control import Control
from .printable import printable

if TYPE_CHECKING:
    from dux_setup.coreplan import Plan

CHAINS = ("main", "test", "regtest", "litecoin-regtest")
MARKS = {"ok": "ok     ", "missing": "MISSING", "wrong": "WRONG  "}
ABOUT = """\
Writes a safe configuration for a Flopcoin Core on this machine (a login by rpcauth instead of a password in the clear,
calls from this machine alone), looks at chain, version, sync and wallet of the running Core, and says what is missing.
It shows what it would change and asks first; the old configuration is kept beside the new one.

With --network it then puts this node on that network. What the node had on its old one is moved aside, not deleted.
Without --network the node stays on the network that it is on.

With --check it only looks, which anybody may; what it changes needs root.
"""
EXAMPLES = """\
examples:
  dux-ctl setup flopcoin --check
  sudo dux-ctl setup flopcoin
  sudo dux-ctl setup flopcoin --network flopnet.yaml
"""
RISK = (
    "On Flopcoin's main chain coins have value. dux-flopd refuses it unless you set `accept_main_chain_risk: true` "
    "yourself;\nthis command never does. What you would risk: /usr/share/doc/dux-common/flopcoin.md"
)
STAND_IN = (
    "Debian's litecoind stands in for Flopcoin Core here: this is for trying things out, its coins have no value."
)


def register(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Add what can be set up; the parsers that were made."""
    verbs = parser.add_subparsers(dest="verb", metavar="WHAT", required=True)
    flopcoin = verbs.add_parser(
        "flopcoin",
        help="connect a Flopcoin Core on this machine",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flopcoin.add_argument("--check", action="store_true", help="look only: say what is missing and change nothing")
    flopcoin.add_argument(
        "--conf", type=Path, metavar="FILE", help="Core's configuration (default: in its data folder)"
    )
    flopcoin.add_argument(
        "--datadir", type=Path, metavar="DIR",
        help="Core's data folder (default: the running Core's, /var/lib/flopcoin, or ~/.flopcoin)",
    )  # fmt: skip
    flopcoin.add_argument(
        "--chain", choices=CHAINS, metavar="CHAIN",
        help="main, test, regtest, or litecoin-regtest for trials with Debian's litecoind (default: as it is "
        "configured, else main)",
    )  # fmt: skip
    flopcoin.add_argument(
        "--network", type=Path, metavar="FILE", help="signed definition of the network that the node is to be on"
    )
    flopcoin.add_argument("--yes", action="store_true", help="change without asking")
    flopcoin.set_defaults(run=run)
    return [flopcoin]


def run(args: argparse.Namespace, control: Control) -> int:
    """The verb; 0 when all is well or was done, 1 when something is wrong, 4 when something is missing yet."""
    from dux_setup.coreplan import Wish, make
    from dux_setup.paths import Paths

    wish = Wish(args.chain, args.datadir, args.conf, args.network, min(control.timeout, 10.0))
    control.progress("asking Core")
    try:
        plan = make(Paths(), wish)
    finally:
        control.progress("")
    shown = _as_json(plan)
    if args.check:
        control.emit(shown, lambda: printable(_findings(plan)))
        return _status(plan)
    if not control.as_json:
        print(printable(_findings(plan)))
    if not _pending(plan):
        control.emit(shown, lambda: "\nThere is nothing to change.")
        return _status(plan)
    if not control.as_json:
        print(printable(_changes(plan)))
    if not plan.may_change:
        from dux_setup.corecommands import again

        raise NotAllowed("nothing was changed: only root may set this machine's node up", hint=f"Run: {again(args)}")
    if not args.yes and not _agreed(control):
        control.note("Nothing was changed.")
        return exits.FAILED
    return _carry_out(plan, shown, control)


def _pending(plan: "Plan") -> bool:
    return bool(plan.conf.changes) or plan.connects or plan.definition is not None


def _agreed(control: Control) -> bool:
    if control.as_json or not asking.somebody():
        raise InvalidParams(
            "there is nobody to ask before the change", hint="Add --yes to change, or --check to look only."
        )
    return asking.agreed("\nChange this?")


def _carry_out(plan: "Plan", shown: dict[str, Any], control: Control) -> int:
    from dux_setup import coreplan

    rewritten = bool(plan.conf.changes)
    kept = coreplan.configure(plan)
    shown |= {"written": rewritten, "kept": str(kept) if kept else None, "moved": False, "connected": False}
    if rewritten:
        control.note(f"\nWrote {plan.conf.path}.")
        if kept is not None:
            control.note(f"The old one is {kept}; delete it once all works: its passwords may be in it.")
    if rewritten:
        # Core has not read it yet.
        steps = _next_steps(plan)
        if plan.definition is not None or plan.connects:
            control.note(steps)
            raise CoreNotReady("Core was configured; the node was not moved, because Core must read that first")
        control.emit(shown, lambda: printable(steps))
        return exits.OK
    if plan.definition is not None:
        coreplan.move(plan, control.note)
        shown["moved"] = True
        control.emit(shown, lambda: "The node is on the new network; see `dux-ctl status`.")
        return exits.OK
    restarted = coreplan.connect(plan)
    shown["connected"] = True
    after = "dux-flopd was restarted." if restarted else "Start dux-flopd to use it."
    control.emit(shown, lambda: f"dux-flopd asks this Core now. {after}")
    return exits.OK


def _next_steps(plan: "Plan") -> str:
    running = plan.checked.state("running") == "" and plan.checked.state("login") != ""
    step = plan.commands.restart if running else plan.commands.start
    node = plan.node.network
    elsewhere = plan.definition is not None or node is None or node.chain != plan.target.kind.params.name
    lines = ["", "Next:", f"  {step}", f"  {plan.wish.command} --check"]
    if elsewhere:
        lines += [
            f"  {plan.wish.command} --network FILE",
            "",
            "FILE is the signed definition of a network on this chain, from somebody whom you trust on it. Until you "
            "have one,\nthe node stays where it is.",
        ]
    return "\n".join(lines)


def _findings(plan: "Plan") -> str:
    target = plan.target
    lines = [f"Core     {target.kind.params.name}, data in {target.folder.path}, port {plan.checked.port}"]
    if target.kind.params.name == "litecoin-regtest":
        lines.append(STAND_IN)
    lines.append("")
    for one, following in zip(plan.findings, [*plan.findings[1:], None], strict=True):
        lines.append(f"{MARKS[one.state]}  {one.name:<8} {one.text}")
        # One remedy for several things is said once, below the last.
        if one.do and (following is None or following.do != one.do):
            lines.append(f"                  {one.do}")
    if target.kind.params.name == "main" and not plan.node.accepts_main_chain:
        lines += ["", RISK]
    return "\n".join(lines)


def _changes(plan: "Plan") -> str:
    from dux_setup.coreconf import diff

    lines = []
    if plan.conf.changes:
        lines += ["", f"Would change {plan.conf.path}:" if plan.conf.exists else f"Would write {plan.conf.path}:"]
        lines.append(diff(plan.conf.text, plan.conf.wanted.text, str(plan.conf.path)))
        if plan.conf.exists and plan.conf.mode != plan.conf.wanted_mode:
            lines.append(f"mode {plan.conf.mode:04o} → {plan.conf.wanted_mode:04o}")
    if plan.definition is not None:
        old = plan.node.network.name if plan.node.network is not None else "none"
        lines += [
            "",
            f"Would then put this node on network {plan.definition.name!r} (chain {plan.definition.chain}); now it is "
            f"on {old!r}.\nKeys, books and channels of the old network are moved to /var/lib/duxnet/old; close "
            "channels first.",
        ]
    elif plan.connects:
        lines += ["", f"Would point dux-flopd at this Core, in {plan.paths.drop_in('flopd')}."]
    return "\n".join(lines)


def _status(plan: "Plan") -> int:
    states = {one.state for one in plan.findings}
    return exits.FAILED if "wrong" in states else exits.UNAVAILABLE if "missing" in states else exits.OK


def _as_json(plan: "Plan") -> dict[str, Any]:
    return {
        "chain": plan.target.kind.params.name,
        "datadir": str(plan.target.folder.path),
        "conf": str(plan.conf.path),
        "port": plan.checked.port,
        "dialect": plan.checked.dialect or None,
        "findings": [one.as_json() for one in plan.findings],
        "changes": [{"key": change.key, "why": change.why} for change in plan.conf.changes],
        "network": plan.node.network.name if plan.node.network is not None else None,
    }
