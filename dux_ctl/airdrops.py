"""`dux-ctl airdrop eligible` and `airdrop verify`: questions about the fund that take several calls."""

import argparse
import re
from typing import Any

from duxcommon.errors import InvalidParams

from . import exits, screens, screens_fund, screens_share
from .control import Control

VERIFY_S = 600.0
"""Longest wait for one round: 100,000 shares are computed anew."""


def register(verbs: Any) -> set[str]:
    """Add the verbs that need more than a call; their names."""
    eligible = verbs.add_parser(
        "eligible",
        help="does this node's payout key (or another) have a share, and what does it lack",
        description="Tell whether a payout key has a share of the fund, what it lacks and which command mends it, and "
        "how many keys have one. Read from the chain; the same on every node.",
        epilog="example: dux-ctl airdrop eligible",
    )
    eligible.add_argument("pubkey", nargs="?", type=_payout_key, help="a payout key, hex (default: this node's)")
    eligible.add_argument("--height", type=_number, metavar="BLOCK", help="as of this block (default: 60 blocks ago)")
    eligible.set_defaults(run=run_eligible)
    verify = verbs.add_parser(
        "verify",
        help="recompute rounds of the fund from the chain and name the first difference",
        description="Recompute what the fund paid from this node's chain, guardian or not, and compare it with the "
        "transactions that confirmed. Ends with status 1 at the first difference.",
        epilog="example: dux-ctl airdrop verify 1",
    )
    verify.add_argument("round", nargs="?", type=_number, help="its number (default: all, the oldest first)")
    verify.set_defaults(run=run_verify)
    return {"eligible", "verify"}


def _payout_key(text: str) -> str:
    if not re.fullmatch(r"0[23][0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text[:70]!r} is not a payout key: 66 hex digits that begin with 02 or 03")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number")
    return int(text)


def run_eligible(args: argparse.Namespace, control: Control) -> int:
    """Print the standing of a key among all."""
    height = {} if args.height is None else {"height": args.height}
    page = control.call("node.eligible", {**height, "limit": 0})
    # The same snapshot for both, whatever block comes in between.
    params: dict[str, Any] = {"height": page["height"]}
    if args.pubkey:
        params["pubkey"] = args.pubkey
    standing = control.call("node.standing", params)

    def text(value: dict[str, Any]) -> str:
        among = f"{screens.count(page['total'], 'key')} {'has' if page['total'] == 1 else 'have'} a share; "
        among += f"{page['qualified']} qualified, which may vote"
        ago = "" if args.height is not None else "work and bonds of the last 60 blocks are not looked at yet\n"
        return f"{screens_share.node_standing(value['standing'])}\n\n{ago}{among}\nall of them: dux-ctl node eligible"

    value = {"standing": standing, "eligible": page}
    control.emit(value, lambda: screens.draw("airdrop.eligible", text, value, control))
    return exits.OK


def _sequences(control: Control) -> list[int]:
    """The numbers of all rounds, the oldest first."""
    found: list[int] = []
    params: dict[str, Any] = {}
    while True:
        page = control.call("airdrop.history", params)
        found += [one["sequence"] for one in page["rounds"]]
        if page["next"] is None:
            return sorted(found)
        params = {"before": page["next"]}


def run_verify(args: argparse.Namespace, control: Control) -> int:
    """Verify one round or all; FAILED at the first that is not right."""
    if args.round is not None and args.round < 1:
        raise InvalidParams(f"there is no round {args.round}", hint="`dux-ctl airdrop history` lists them.")
    rounds = [args.round] if args.round is not None else _sequences(control)
    done: list[dict[str, Any]] = []
    for number, sequence in enumerate(rounds, 1):
        control.progress(f"round {sequence} ({number} of {len(rounds)}): reading the chain and computing it anew")
        done.append(control.call("airdrop.verify", {"sequence": sequence}, timeout=max(control.timeout, VERIFY_S)))
        if not done[-1]["right"]:
            break
    control.progress("")
    right = all(one["right"] for one in done)

    def text(value: dict[str, Any]) -> str:
        if not done:
            return "the fund has paid nothing yet; see `dux-ctl airdrop next`"
        end = f"{len(done)} of {len(rounds)} recomputed from this node's chain: " + (
            "all are right" if right else "the first difference is above"
        )
        return "\n".join([*map(screens_fund.verdict, value["rounds"]), end])

    value = {"right": right, "rounds": done}
    control.emit(value, lambda: screens.draw("airdrop.verify", text, value, control))
    return exits.OK if right else exits.FAILED
