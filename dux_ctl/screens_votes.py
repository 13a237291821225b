"""How proposals, votes and the rules in force look to people."""

from typing import Any

from duxcommon.money import format_flop
from duxcommon.units import percent, written, written_range

from .render import columns
from .screens import blocks, count, facts, network_line, short
from .screens_fund import old_addresses

STATES = {
    "SENT": "on its way to a block",
    "VOTING": "can be voted on",
    "COUNTING": "waits for its count",
    "LOCKED": "accepted, waits for its time lock",
    "ACTIVE": "in force",
    "EXECUTED": "paid",
    "REJECTED": "against the rules from its birth",
    "FAILED": "not accepted",
}
CASTS = {
    "queued": "queued; it goes by itself",
    "sent": "sent; it waits for a block",
    "confirmed": "in a block",
    "dropped": "given up",
}
HEIGHTS = (("in block", "height"), ("votes until", "deadline"), ("counted at", "tally_at"), ("in force", "from_height"))
OVER = ("REJECTED", "FAILED")
_NO_ROUND = "no round in this time, neither way"


def network_show(value: dict[str, Any]) -> str:
    """`dux-ctl network show`."""
    lines = [
        ("id", value["id"]),
        ("rules", f"version {value['version']}" if value["version"] else "version 0: the network definition"),
        ("tax", f"{percent(value['tax_bps'])}, at least {format_flop(value['min_tax'])} FLOP"),
        ("fund", value["fund_address"]),
        *old_addresses(value["old_fund_addresses"]),
        ("pays out", f"from {format_flop(value['airdrop_threshold'])} FLOP on"),
        ("guardians", f"{value['guardians_m']} of {len(value['guardians'])} sign for the fund"),
        ("birth", f"block {value['birth_height']}"),
        ("genesis", value["genesis"]),
    ]
    seats = [
        [role, seat["node"] or "not known here yet", seat["pubkey"]]
        for role in ("guardian", "arbiter")
        for seat in value[f"{role}s"]
    ]
    return f"{facts(lines)}\n\n{columns(['seat', 'node', 'key'], seats)}\n\n{network_line(value)}"


def param_list(value: dict[str, Any]) -> str:
    """`dux-ctl param list`."""
    cells = []
    for one in value["parameters"]:
        coming = "–"
        if one["coming"] is not None:
            coming = f"{written(one['coming'], one['unit'])} from block {one['coming_from']}"
        bounds, step = written_range(one["low"], one["high"], one["unit"]), written(one["largest_step"], one["unit"])
        cells.append([one["name"], written(one["value"], one["unit"]), coming, f"± {step}", bounds])
    table = columns(["parameter", "in force", "voted", "next step", "bounds"], cells)
    meanings = columns(["parameter", "what it is"], [[one["name"], one["help"]] for one in value["parameters"]])
    return (
        f"{table}\n\n{meanings}\n\nversion {value['version']} of the rules at block {value['height']}; "
        f"what holds until block {value['known_to']} can't change any more\n"
        "change one: dux-ctl proposal create NAME VALUE --title …"
    )


def param_history(value: dict[str, Any]) -> str:
    """`dux-ctl param history`."""
    cells = [
        [str(one["version"]), str(one["from_height"]), short(one["proposal"], "–"), one["effect"]]
        for one in value["changes"]
    ]
    return columns(["version", "from block", "proposal", "what it changed"], cells)


def proposal_list(value: dict[str, Any]) -> str:
    """`dux-ctl proposal list`."""
    if not value["proposals"]:
        return "there are no proposals; make one: dux-ctl proposal create NAME VALUE --title …"
    cells = [
        [short(one["id"]), one["state"], one["klass"], one["effect"], one["title"] or "–", _when(one, value["height"])]
        for one in value["proposals"]
    ]
    text = columns(["proposal", "state", "class", "what it does", "title", "when"], cells)
    return text + (f"\nmore: --after {value['next']}" if value["next"] is not None else "")


def _when(one: dict[str, Any], height: int) -> str:
    if one["state"] == "VOTING" and one["deadline"] is not None:
        return f"{blocks(max(0, one['deadline'] - height))} to vote"
    if one["state"] == "COUNTING" and one["tally_at"] is not None:
        return f"counted at block {one['tally_at']}"
    if one["state"] in ("LOCKED", "ACTIVE") and one["from_height"] is not None:
        return f"from block {one['from_height']}"
    return "–"


def tally(value: dict[str, Any]) -> str:
    """How a vote stands, in a line or two."""
    # Its electorate is asked for once the proposal is 60 blocks deep.
    unknown = "how many may vote is known 60 blocks after the proposal's"
    who = unknown if value["electorate"] is None else f"{value['electorate']} may vote"
    need = "" if value["votes_needed"] is None else f", {count(value['votes_needed'], 'vote')} needed"
    text = (
        f"{count(value['votes'], 'vote')} ({who}{need}), {value['yes']} of them in favour, "
        f"{value['majority_pct']} % of the votes needed"
    )
    if value["approvals_needed"]:
        text += f"\n{len(value['approvals'])} of {value['approvals_needed']} approvals of guardians"
    return text


def proposal_show(value: dict[str, Any]) -> str:
    """`dux-ctl proposal show`."""
    one, document = value["proposal"], value["document"]
    lines = [
        ("proposal", one["id"]),
        ("does", one["effect"]),
        ("title", one["title"] or "its document is not known here yet; what it does is on the chain"),
        ("state", f"{one['state']}: {STATES[one['state']]}" + (f"\n{one['why']}" if one["why"] else "")),
    ]
    if one["tally"]:
        lines.append(("votes", tally(one["tally"])))
    # What failed does not come into force, though its block is known.
    heights = [(name, field) for name, field in HEIGHTS if field != "from_height" or one["state"] not in OVER]
    lines += [(name, f"block {one[field]}") for name, field in heights if one[field] is not None]
    lines += [("your vote", own_vote(value["vote"], one)), *_own_approval(value["approval"], one)]
    if value["document_note"]:
        lines.append(("document", value["document_note"]))
    text = facts(lines)
    return f"{text}\n\n{document['reason']}" if document and document["reason"] else text


def own_vote(vote: dict[str, Any], one: dict[str, Any]) -> str:
    """What this node voted, or how it can."""
    if vote["cast"]:
        trouble = f"; {vote['trouble']}" if vote["trouble"] else ""
        return f"{'yes' if vote['yes'] else 'no'}, {vote['cast']}{trouble}"
    if not vote["may"]:
        return f"this node may not vote: {vote['why']}"
    return f"dux-ctl proposal vote {one['id'][:12]} yes|no" if one["state"] == "VOTING" else "none"


def _own_approval(approval: dict[str, Any], one: dict[str, Any]) -> list[tuple[str, str]]:
    if approval["cast"]:
        trouble = f"; {approval['trouble']}" if approval["trouble"] else ""
        return [("your approval", f"{approval['cast']}{trouble}")]
    if approval["asked"] and one["state"] == "VOTING":
        return [("your approval", f"asked of this guardian: dux-ctl proposal approve {one['id'][:12]}")]
    return []


def proposal_create(value: dict[str, Any]) -> str:
    """`dux-ctl proposal create`."""
    return facts(
        [
            ("proposal", value["id"]),
            ("does", value["effect"]),
            ("state", CASTS[value["state"]] + (f"\n{value['note']}" if value["note"] else "")),
            ("cost", f"{format_flop(value['fee'])} FLOP of chain fee, and 0.01 FLOP to the fund"),
            ("next", f"once it is in a block: dux-ctl proposal vote {value['id'][:12]} yes\n"
                     f"dux-ctl proposal show {value['id'][:12]}"),
        ]
    )  # fmt: skip


def proposal_vote(value: dict[str, Any]) -> str:
    """`dux-ctl proposal vote`."""
    lines = [("proposal", value["proposal"]), ("state", CASTS[value["state"]])]
    lines += [(name, value[name]) for name in ("txid", "note") if value[name]]
    return facts([*lines, ("next", f"dux-ctl proposal show {value['proposal'][:12]}")])


def proposal_approve(value: dict[str, Any]) -> str:
    """`dux-ctl proposal approve`."""
    return proposal_vote(value)


def proposal_replay(value: dict[str, Any]) -> str:
    """`dux-ctl proposal replay`: each figure as it was, and as it would have been."""
    head = f"{value['effect']}\nover blocks {value['from_height']} to {value['to_height']}: as it was → as it would be"
    rows = [*value["rows"], value["total"]]
    cells = [
        ["all" if row["height"] is None else str(row["height"]),
         _pair(format_flop(row["inflow_before"]), format_flop(row["inflow_after"])),
         _pair(str(row["eligible_before"]), str(row["eligible_after"])),
         _pair(format_flop(row["share_before"]), format_flop(row["share_after"])),
         _pair(format_flop(row["paid_before"]), format_flop(row["paid_after"]))]
        for row in rows
    ]  # fmt: skip
    table = (
        columns(["block", "inflow FLOP", "eligible", "share FLOP", "paid FLOP"], cells) if value["rows"] else _NO_ROUND
    )
    rounds = f"rounds: {_pair(str(value['rounds_before']), str(value['rounds_after']))}"
    return "\n".join([head, "", table, "", rounds, *value["caveats"]])


def _pair(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"
