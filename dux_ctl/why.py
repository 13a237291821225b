"""`dux-ctl why <anything>`: what a thing is, how it stands, and what is missing, in sentences."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from duxcommon.errors import BY_CODE, BY_NAME, DuxError, NotFound
from duxcommon.money import format_flop

from . import exits, ids, reach, screens, screens_fund, screens_share, screens_votes, units
from .control import DAEMONS, Control
from .status import ENDED

_Ask = Callable[[str, Control], list[str]]
_HEX = re.compile(r"^[0-9a-f]+$")
_PUBKEY = re.compile(r"^0[23][0-9a-f]{64}$")
_SERVICES = {
    "devchain": "{unit} is the private trial chain of this machine, whose coins have no value: dux-flopd asks it.",
    "firstboot": "{unit} makes keys, settings and network of this node; nothing starts before it has done its work.",
}
"""What no socket is asked for: systemd alone knows how they are."""
_CHANNEL = {
    "NEW": "it has not been funded yet",
    "FUND_BUILT": "its deposit is built and will be sent",
    "FUND_SENT": "its deposit waits for confirmations",
    "OPEN": "it can be used",
    "CLOSE_BUILT": "its closing transaction is built and will be sent",
    "CLOSE_SENT": "its closing transaction waits for confirmations",
    "CLOSED": "it was settled on the chain",
    "REFUND_BUILT": "the refund of its deposit is built and will be sent",
    "REFUND_SENT": "the refund of its deposit waits for confirmations",
    "REFUNDED": "the buyer has its deposit back",
    "CONFLICTED": "no deposit stands behind it: its coins were spent otherwise; nothing is lost",
    "ABANDONED": "it never got a deposit: the money was too little, or the provider refused it; nothing was spent",
}


def _error(what: str) -> list[str] | None:
    number = int(what) if re.fullmatch(r"-?\d{3,5}", what) else None
    known = BY_NAME.get(what) or (BY_CODE.get(number) if number is not None else None)
    if known is None:
        return None
    again = "Trying again can help." if known.retry else "Trying again without a change does not help."
    return [f"{known.__name__} (code {known.code}) is an error of {known.component}.", known.hint_default, again]


def _daemon(what: str, control: Control) -> list[str] | None:
    name = what.removeprefix("dux-")
    if name not in DAEMONS:
        return None
    unit = f"dux-{name}"
    try:
        if known := reach.known_down([name], control.run_dir):
            raise known[name]
        status = control.client(name).call("daemon.status", timeout=control.timeout)
    except DuxError as error:
        found = error.to_rpc()
        if reach.cause(found) == "denied":
            raise
        lines = [f"{unit} is down: {reach.explain(found)}."]
        lines += reach.what_to_do({name: found}, control.run_dir)
    else:
        lines = [f"{unit} {status['version']} has been running for {status['uptime_s']} s."]
        lines += status["notes"] or ["It says that all is well."]
    if name == "flopd" and (chain := units.trial_chain(control.run_dir)) is not None and chain.down:
        lines.append(
            f"The chain that it asks does not run: {units.TRIAL_CHAIN} ({chain.state}); see `dux-ctl why devchain`."
        )
    return lines + _journal(unit, control)


def _journal(unit: str, control: Control) -> list[str]:
    last = units.journal(unit) if units.of_this_machine(control.run_dir) else []
    return ["Its journal says last:", *(f"  {line}" for line in last)] if last else []


def _service(what: str, control: Control) -> list[str] | None:
    name = what.removeprefix("dux-")
    if name not in _SERVICES:
        return None
    unit, run_dir = f"dux-{name}", control.run_dir
    lines = [_SERVICES[name].format(unit=unit)]
    if not units.of_this_machine(run_dir):
        return [*lines, f"systemd does not run the node in {run_dir} here, so there is none."]
    if unit == units.TRIAL_CHAIN and not units.has_trial_chain(run_dir):
        return [*lines, "It does not run here: this node is on another network (`dux-ctl network show`)."]
    seen = units.look([unit]).get(unit)
    if seen is None:
        return [*lines, f"systemd does not tell how it is: systemctl status {unit}"]
    if unit == units.FIRST_BOOT and (trouble := reach.first_boot(seen)):
        lines += trouble
    elif seen.down:
        lines += [f"{unit} is down.", *reach.what_to_do({name: reach.stopped(seen)}, run_dir)]
    else:
        lines.append("It has done its work." if unit == units.FIRST_BOOT else f"It runs. {seen.said}".strip())
    return lines + _journal(unit, control)


def _task(what: str, control: Control) -> list[str]:
    task = control.call("task.status", {"id": what})
    lines = [f"Task {what} runs {task['name']}; state {task['state']}: {task['step']}"]
    for number, attempt in enumerate(task["attempts"], 1):
        detail = f": {attempt['detail']}" if attempt["detail"] else ""
        price = format_flop(attempt["price"])
        lines.append(
            f"Attempt {number}, node {attempt['provider'][:12]}… at {price} FLOP: {attempt['outcome']}{detail}"
        )
    if task["error"]:
        lines.append(f"It failed: {task['error']['message']}")
        lines.append(task["error"].get("data", {}).get("hint", ""))
    return lines


def _payment(what: str, control: Control) -> list[str]:
    payment = control.call("payment.show", {"id": what})
    side = "to" if payment["role"] == "buyer" else "from"
    lines = [
        f"Payment of {format_flop(payment['amount'])} FLOP {side} node {payment['peer'][:12]}…: {payment['state']}."
    ]
    if payment["reason"]:
        lines.append(f"Reason: {payment['reason']}")
    return [*lines, f"It belongs to channel {payment['channel']} (`dux-ctl why {payment['channel']}`)."]


def _channel(what: str, control: Control) -> list[str]:
    channel = control.call("channel.show", {"id": what})
    meaning = _CHANNEL.get(channel["state"], "see its state")
    lines = [
        f"Channel with node {channel['peer'][:12]}…, this node is its {channel['role']}: {channel['state']}, "
        f"so {meaning}.",
        f"Deposited {format_flop(channel['deposited'])} FLOP, usable {format_flop(channel['usable'])}, "
        f"signed away {format_flop(channel['gross'])}, held {format_flop(channel['held'])}.",
    ]
    missing = channel["confirmations_needed"] - channel["confirmations"]
    if missing > 0 and channel["deposits"]:
        lines.append(f"{missing} more confirmations are needed before it counts.")
    if channel["at_risk"]:
        lines.append("What was earned is less than a closing transaction can pay out; it needs more calls or is lost.")
    if channel["blocks_left"] is not None and channel["state"] not in ENDED:
        lines.append(
            f"The lock height is {channel['blocks_left']} blocks away; after it the buyer can take the rest back."
        )
    if channel["close_txid"]:
        lines.append(f"Closing transaction: {channel['close_txid']}")
    return lines


def _node(what: str, control: Control) -> list[str]:
    node = control.call("node.show", {"node": what})
    record = node["record"]
    live = "is live" if node["live"] else "has not been heard of lately"
    roles = ", ".join(record["roles"]) or "none"
    return [
        f"Node {what[:12]}… ({record['name'] or 'without a name'}) {live}; roles: {roles}.",
        f"It serves {len(record['apps'])} app{'' if len(record['apps']) == 1 else 's'} at {record['load_pct']} % load"
        + (" and takes tasks." if record["accepting"] else " and takes no tasks now."),
    ]


def _app(what: str, control: Control) -> list[str]:
    found = control.call("app.providers", {"app": what})
    listing = found["listing"]
    lines = [
        f"{listing['name']} {listing['version']}: {listing['summary']}",
        f"A call costs {format_flop(listing['price'])} FLOP.",
    ]
    for provider in found["providers"]:
        state = "live" if provider["live"] else "not heard of lately"
        state += ", takes tasks" if provider["accepting"] else ", takes no tasks now"
        lines.append(f"Node {provider['node'][:12]}… ({provider['name']}): {state}, load {provider['load_pct']} %.")
    usable = [p for p in found["providers"] if p["live"] and p["accepting"]]
    return lines if usable else [*lines, "No node that serves it can take a task now."]


def _airdrop(control: Control) -> list[str]:
    """Why the fund does not pay at this moment."""
    coming, why = control.call("airdrop.next"), control.call("airdrop.why")
    lines = [f"The fund holds {screens_fund.progress(coming)}.", f"It waits for: {coming['waits_for']}"]
    work = coming["work"]
    if work:
        lines.append(
            f"Round {work['sequence']} {screens_fund.KINDS[work['kind']]} as of block {work['snapshot']}; "
            f"{screens_fund.STATES[work['state']]}."
        )
        lines += screens_fund.why_lines(why)
    else:
        lines += [one["text"] for one in why["troubles"] if one["text"] != coming["waits_for"]]
    return [*lines, "Whether this node has a share: `dux-ctl airdrop eligible`."]


def _proposal(what: str, control: Control) -> list[str]:
    found = control.call("proposal.show", {"id": what})
    one = found["proposal"]
    lines = [
        f"Proposal{' “' + one['title'] + '”' if one['title'] else ''}: {one['effect']}",
        f"It is {one['state']}: {screens_votes.STATES[one['state']]}.",
        one["why"],
    ]
    if one["tally"]:
        lines += [f"{line}." for line in screens_votes.tally(one["tally"]).splitlines()]
    return [*lines, f"Your vote: {screens_votes.own_vote(found['vote'], one)}."]


def _payout_key(what: str, control: Control) -> list[str]:
    found = control.call("node.standing", {"pubkey": what})
    has = "has a share" if found["eligible"] else "has no share"
    lines = [
        f"Payout key {what[:12]}… {has} of the community fund as of block {found['height']}.",
        f"Its work paid {format_flop(found['tax'])} FLOP of tax in {screens.count(found['epochs'], 'tenth')} of the "
        f"window; {format_flop(found['bond'])} of {format_flop(found['bond_needed'])} FLOP are locked as its bond.",
    ]
    for _, text in screens_share.missing(found):
        lines.append(f"Missing: {text.replace(chr(10), '; ')}")
    return lines


def explain(what: str, control: Control) -> list[str]:
    """Sentences about `what`. Raises NotFound when nothing has that name."""
    if (lines := _error(what)) is not None:
        return lines
    if (lines := _daemon(what, control) or _service(what, control)) is not None:
        return lines
    if what in ("airdrop", "fund"):
        return _airdrop(control)
    asks: list[_Ask]
    if _PUBKEY.match(what):
        asks = [_payout_key]
    elif len(what) == 32 and _HEX.match(what):
        asks = [_task, _payment]
    elif len(what) == 64 and _HEX.match(what):
        asks = [_channel, _node, _app, _proposal]
    elif ids.is_short(what):
        asks = [
            lambda short, ctl: _channel(ids.channel(ctl, short), ctl),
            lambda short, ctl: _node(ids.node(ctl, short), ctl),
            lambda short, ctl: _task(ids.task(ctl, short), ctl),
            lambda short, ctl: _payment(ids.payment(ctl, short), ctl),
            lambda short, ctl: _proposal(ids.proposal(ctl, short), ctl),
            _app,
        ]
    else:
        asks = [lambda name, ctl: _node(ids.named_node(ctl, name), ctl), _app]
    hint = (
        "Give an id, a payout key, the name of an app, a node or a daemon, `devchain`, `firstboot`, an error's name or "
        "code, or `airdrop`."
    )
    for ask in asks:
        try:
            return ask(what, control)
        except DuxError as error:
            if exits.status_of(error) != exits.NOT_FOUND:
                raise
            if near := error.details.get("near"):
                hint = f"Did you mean {', '.join(near)}? {hint}"
    raise NotFound(f"nothing is known here under {what!r}", hint=hint)


def run(args: argparse.Namespace, control: Control) -> int:
    """Print the explanation."""
    lines = [line for line in explain(args.what, control) if line]
    value: dict[str, Any] = {"what": args.what, "lines": lines}

    control.emit(value, lambda: "\n".join(lines))
    return exits.OK
