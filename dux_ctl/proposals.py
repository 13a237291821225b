"""`dux-ctl proposal create|vote|replay` with a command line that people can write."""

import argparse
import re
import secrets
from pathlib import Path
from typing import Any

from duxcommon.errors import InvalidParams

from . import asking, exits, generated, ids
from .control import Control

_PUBKEY = re.compile(r"0[23][0-9a-f]{64}")
REPLAY_S = 300.0

CHANGES = """\
what is changed, one of:
  NAME VALUE                                a parameter (`dux-ctl param list`); amounts in FLOP, percentages like 4.5%
  --guardian-out KEY --guardian-in NODE:KEY --signatures M
  --arbiter-out KEY --arbiter-in NODE:KEY   at least one of the two
  --spend FLOP --to ADDRESS                 a payment of the fund
"""


def register(verbs: Any) -> set[str]:
    """Add the verbs; their names."""
    create = verbs.add_parser(
        "create",
        help="propose a change of the rules, or a payment of the fund",
        description=f"Propose a change of the rules, or a payment of the fund. What it does and the hash of its\n"
        f"text go on the chain; 0.01 FLOP go to the fund.\n\n{CHANGES}",
        epilog='example: dux-ctl proposal create tax_bps 4.5% --title "Lower the tax" --text "The fund is full."',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_change(create)
    create.add_argument("--title", required=True, help="one line, at most 120 characters")
    create.add_argument("--text", default="", help="why; plain text")
    create.add_argument("--text-file", type=Path, metavar="FILE", help="why, from a file (- for standard input)")
    create.add_argument("--key", help="idempotency key: a repeat with the same key never acts twice")
    create.set_defaults(run=run_create)
    vote = verbs.add_parser(
        "vote",
        help="vote on a proposal with this node's payout key",
        description="Vote on a proposal with this node's payout key. The last vote before the deadline counts.",
        epilog="example: dux-ctl proposal vote 5b1f9c2ad401 yes",
    )
    vote.add_argument("id", help="the proposal; the first digits are enough")
    vote.add_argument("choice", choices=("yes", "no"))
    vote.add_argument("--key", help="idempotency key: a repeat with the same key never acts twice")
    vote.set_defaults(run=run_vote)
    replay = verbs.add_parser(
        "replay",
        help="see what a change would have done over the last 90 days of this chain",
        description="Reckon what a change would have done to the fund over the last 90 days of this chain.\n\n"
        f"{CHANGES}  ID                                        a proposal",
        epilog="example: dux-ctl proposal replay tax_bps 4.5%",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_change(replay)
    replay.set_defaults(run=run_replay)
    return {"create", "vote", "replay"}


def _add_change(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", metavar="NAME VALUE", help="a parameter and its new value")
    for role in ("guardian", "arbiter"):
        parser.add_argument(f"--{role}-out", metavar="KEY", help=f"the {role} that leaves: its coin key or node id")
        parser.add_argument(f"--{role}-in", metavar="NODE:KEY", help=f"the {role} that comes: its node id and coin key")
    parser.add_argument("--signatures", type=int, metavar="M", help="so many guardians must sign then")
    generated.amount_option(parser, "--spend", "what the fund pays")
    parser.add_argument("--to", metavar="ADDRESS", help="whom it pays")


def change(args: argparse.Namespace, control: Control) -> dict[str, Any]:
    """What the command line asks for, as `proposal.create` takes it. Raises InvalidParams."""
    kinds = {
        "a parameter": bool(args.what),
        "guardians": any((args.guardian_out, args.guardian_in, args.signatures is not None)),
        "arbiters": bool(args.arbiter_out or args.arbiter_in),
        "a payment": args.spend is not None or bool(args.to),
    }
    asked = [name for name, is_asked in kinds.items() if is_asked]
    if len(asked) != 1:
        raise InvalidParams(
            f"a proposal changes one thing; this one names {' and '.join(asked) or 'none'}",
            hint="See `dux-ctl proposal create --help`.",
        )
    if args.what:
        return _parameter(args.what)
    if asked == ["guardians"]:
        return _guardians(args, control)
    if asked == ["arbiters"]:
        out = args.arbiter_out and _seat(control, args.arbiter_out, "arbiter")
        return {"kind": "arbiters", "out": out, "into": _member(args.arbiter_in, control)}
    if args.spend is None or not args.to:
        raise InvalidParams(
            "a payment needs an amount and an address", hint="Write --spend FLOP --to ADDRESS, both of them."
        )
    return {"kind": "spend", "to": args.to, "amount": args.spend}


def _parameter(what: list[str]) -> dict[str, Any]:
    from duxcommon.parameters import declared
    from duxcommon.units import read

    if len(what) != 2:
        raise InvalidParams(
            f"{' '.join(what)!r} is not a parameter and a value", hint="Write them like this: tax_bps 4.5%"
        )
    name, text = what
    return {"kind": "parameter", "name": name, "value": read(text, declared(name).governed.unit)}


def _guardians(args: argparse.Namespace, control: Control) -> dict[str, Any]:
    out = args.guardian_out and _seat(control, args.guardian_out, "guardian")
    signatures = args.signatures
    if signatures is None:
        signatures = control.call("network.show")["guardians_m"]
    return {"kind": "guardians", "out": out, "into": _member(args.guardian_in, control), "m": signatures}


def _seat(control: Control, text: str, role: str) -> str:
    """The coin key of a guardian or arbiter in force, by its beginning or by that of its node's id."""
    if _PUBKEY.fullmatch(text):
        return text
    digits = text.removesuffix("…")
    seats = control.call("network.show")[f"{role}s"]
    found = [one["pubkey"] for one in seats if digits and digits in (one["pubkey"][: len(digits)], _start(one, digits))]
    if len(found) != 1 or len(digits) < ids.LEAST:
        raise InvalidParams(
            f"{text!r} names {len(found)} {role}s", hint="`dux-ctl network show` lists them with their keys."
        )
    return str(found[0])


def _start(seat: dict[str, Any], digits: str) -> str:
    return str(seat["node"] or "")[: len(digits)]


def _member(text: str | None, control: Control) -> dict[str, Any] | None:
    if not text:
        return None
    node, _, pubkey = text.partition(":")
    if not _PUBKEY.fullmatch(pubkey):
        raise InvalidParams(
            f"{text[:100]!r} is not a node and its coin key",
            hint="Write NODE:KEY. On that node, `dux-ctl key guardian` or `dux-ctl key arbiter` prints the key.",
        )
    return {"node": ids.node(control, node), "pubkey": pubkey}


def _reason(args: argparse.Namespace) -> str:
    if args.text_file is None:
        return str(args.text)
    try:
        return asking.stdin().read() if str(args.text_file) == "-" else args.text_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParams(f"can't read {args.text_file}: {error}", hint="Give a text file in UTF-8.") from None


def run_create(args: argparse.Namespace, control: Control) -> int:
    """Make the document, send its hash."""
    params = {
        "change": change(args, control),
        "title": args.title,
        "reason": _reason(args).strip(),
        "key": args.key or f"ctl-{secrets.token_hex(12)}",
    }
    control.emit_reply("proposal.create", control.call("proposal.create", params, timeout=max(control.timeout, 120.0)))
    return exits.OK


def run_vote(args: argparse.Namespace, control: Control) -> int:
    """Vote yes or no."""
    params = {
        "id": ids.proposal(control, args.id),
        "yes": args.choice == "yes",
        "key": args.key or f"ctl-{secrets.token_hex(12)}",
    }
    control.emit_reply("proposal.vote", control.call("proposal.vote", params, timeout=max(control.timeout, 120.0)))
    return exits.OK


def run_replay(args: argparse.Namespace, control: Control) -> int:
    """Print what a change would have done."""
    named = len(args.what) == 1 and ids.is_id(args.what[0])
    params = {"id": ids.proposal(control, args.what[0])} if named else {"change": change(args, control)}
    control.progress("reckoning the last 90 days of the chain twice")
    value = control.call("proposal.replay", params, timeout=max(control.timeout, REPLAY_S))
    control.progress("")
    control.emit_reply("proposal.replay", value)
    return exits.OK
