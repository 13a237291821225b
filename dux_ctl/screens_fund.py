"""How the community fund and its rounds look to people."""

import time
from typing import Any

from duxcommon.money import format_flop
from duxcommon.units import percent

from .render import columns
from .screens import blocks, count, facts, short

BAR = 30
KINDS = {
    "payout": "pays equal shares",
    "sweep": "moves the fund's coins together",
    "grant": "pays what was voted",
    "unknown": "unknown",
}
STATES = {
    "waiting-for-depth": "waits until nothing below its snapshot can change",
    "signing": "the guardians are signing",
    "sent": "sent; it waits for a block",
}


NO_GAIN = "none: nothing was paid in that time"


def bar(have: int, need: int) -> str:
    """Progress as a bar of fixed width."""
    full = BAR if have >= need else BAR * have // need
    return f"[{'#' * full}{'.' * (BAR - full)}]"


def progress(value: dict[str, Any]) -> str:
    """What is in the fund against what a payout needs."""
    missing = value["missing"]
    rest = f"{format_flop(missing)} missing" if missing else "enough to pay out"
    return f"{format_flop(value['spendable'])} of {format_flop(value['threshold'])} FLOP, {rest}"


def _work(work: dict[str, Any], height: int) -> list[tuple[str, str]]:
    what = f"{work['kind']} {work['sequence']}: {KINDS[work['kind']]}"
    if work["kind"] == "payout":
        what += f", {work['recipients']} × {format_flop(work['share'])} FLOP"
    else:
        what += f", {format_flop(work['paid'])} FLOP"
    if work["batches"]:
        what += f" in {work['batches']} batches"
    when = STATES[work["state"]]
    if work["state"] == "waiting-for-depth" and work["signed_from"] > height:
        when += f", {blocks(work['signed_from'] - height)} more"
    return [
        ("next", f"{what}\nas of block {work['snapshot']}; {when}"),
        ("manifest", work["manifest"]),
    ]


def _heard(guardian: dict[str, Any]) -> str:
    if guardian["own"]:
        return "this node"
    if guardian["heard"] is None:
        return "not yet"
    return f"{max(0, int(time.time()) - guardian['heard'])} s ago"


def old_addresses(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The addresses of earlier guardians."""
    return [("old address", f"{one['address']}: payments count until block {one['counts_until']}") for one in found]


def fund_status(value: dict[str, Any]) -> str:
    """`dux-ctl fund status`."""
    lines = [
        ("fund", value["address"]),
        *old_addresses(value["old_addresses"]),
        ("", f"{bar(value['spendable'], value['threshold'])} {progress(value)}"),
        ("holds", f"{format_flop(value['confirmed'])} FLOP, {format_flop(value['pending'])} on the way"),
        ("inflow", f"{format_flop(value['inflow'])} FLOP within the last {blocks(value['window_blocks'])}; "
                   f"{value['payments']} payments, {format_flop(value['received'])} FLOP in all"),
        ("rounds", f"{value['rounds']} so far (`dux-ctl airdrop history`)"),
    ]  # fmt: skip
    work = value["work"]
    lines += _work(work, value["height"]) if work else [("next", "nothing to pay yet")]
    lines.append(("rules", f"version {value['rules']}, at block {value['height']}"))
    signed = sum(guardian["signed"] for guardian in value["guardians"])
    signing = f"; {signed} of them signed" if work and work["state"] == "signing" else ""
    lines.append(("guardians", f"{value['guardians_m']} of {len(value['guardians'])} must sign{signing}"))
    cells = [
        [short(one["node"]), short(one["pubkey"]), "yes" if one["signed"] else "–", _heard(one), one["trouble"] or "–"]
        for one in value["guardians"]
    ]
    return facts(lines) + "\n\n" + columns(["node", "key", "signed", "heard", "trouble"], cells)


def airdrop_next(value: dict[str, Any]) -> str:
    """`dux-ctl airdrop next`."""
    lines = [("fund", f"{bar(value['spendable'], value['threshold'])} {progress(value)}")]
    if value["work"]:
        lines += _work(value["work"], value["height"])
    else:
        lines.append(("next", f"round {value['sequence']}"))
    if value["eligible"] is not None:
        lines.append(
            ("eligible", f"{count(value['eligible'], 'payout key')} (`dux-ctl airdrop eligible`: is mine one?)")
        )
    lines.append(("waits for", value["waits_for"]))
    return facts(lines)


def airdrop_history(value: dict[str, Any]) -> str:
    """`dux-ctl airdrop history`."""
    if not value["rounds"]:
        return "the fund has paid nothing yet; see `dux-ctl airdrop next`"
    cells = [
        [str(one["sequence"]), one["kind"], str(one["height"]), str(one["recipients"]), format_flop(one["share"]),
         format_flop(one["paid"]), format_flop(one["fee"]), short(one["txid"])]
        for one in value["rounds"]
    ]  # fmt: skip
    head = ["round", "kind", "block", "recipients", "share FLOP", "paid FLOP", "fee FLOP", "transaction"]
    more = f"\nmore: --before {value['next']}" if value["next"] is not None else ""
    return columns(head, cells) + more + "\n\ncheck one against the chain: dux-ctl airdrop verify ROUND"


def airdrop_show(value: dict[str, Any]) -> str:
    """`dux-ctl airdrop show`."""
    one = value["round"]
    lines = [
        ("round", f"{one['sequence']}, {one['kind']}: {KINDS[one['kind']]}"),
        ("transaction", f"{one['txid']} in block {one['height']}"),
        ("builds on", value["anchor"]),
        ("paid", f"{format_flop(one['paid'])} FLOP to {one['recipients']}, {format_flop(one['share'])} each"),
        ("fee", f"{format_flop(one['fee'])} FLOP"),
        ("manifest", one["manifest"] or "it names none"),
    ]
    cells = [
        [paid["address"] or "no address", format_flop(paid["amount"]),
         "–" if paid["batch"] is None else str(paid["batch"]), short(paid["txid"], "not yet")]
        for paid in value["outputs"]
    ]  # fmt: skip
    text = facts(lines) + "\n\n" + columns(["address", "FLOP", "batch", "transaction"], cells)
    return text + (f"\nmore: --after {value['next']}" if value["next"] is not None else "")


def airdrop_price(value: dict[str, Any]) -> str:
    """`dux-ctl airdrop price`."""
    window = blocks(value["window_blocks"])
    return facts(
        [
            ("one more share", f"as of block {value['height']}"),
            ("bond", f"{format_flop(value['bond'])} FLOP, locked for {blocks(value['lock_blocks'])}; it comes back"),
            ("tax", f"{format_flop(value['tax'])} FLOP must be paid to the fund within each {window}"),
            ("fees", f"{format_flop(value['fees'])} FLOP of chain fees within each {window}"),
            ("gain", f"{format_flop(value['gain'])} FLOP was what each key with every share got in the last {window}"),
            ("left", f"{format_flop(value['net'])} FLOP a window for somebody who works for the share alone"),
            ("tied up", f"{format_flop(value['tied_up'])} FLOP"),
            ("return", f"{percent(value['yearly_bps'])} a year on what is tied up" if value["gain"] else NO_GAIN),
        ]
    )


def airdrop_why(value: dict[str, Any]) -> str:
    """`dux-ctl airdrop why`."""
    return "\n".join(why_lines(value))


def why_lines(value: dict[str, Any]) -> list[str]:
    """Why the fund does not pay now, one sentence a line."""
    lines = (
        [f"Round {value['sequence']}: {value['have']} of {value['need']} signatures are here."] if value["need"] else []
    )
    for one in value["troubles"]:
        who = f"Guardian {short(one['node'] or one['pubkey'])}: " if one["node"] or one["pubkey"] else ""
        lines.append(f"{who}{one['text']}")
    return lines or ["Nothing is in its way."]


def verdict(value: dict[str, Any]) -> str:
    """One verified round on a line."""
    paid = f"{value['recipients']} × {format_flop(value['share'])} FLOP"
    if value["right"]:
        return f"round {value['sequence']}: right, {paid}, transaction {short(value['txid'])}"
    return f"round {value['sequence']}: WRONG, transaction {value['txid']}: {value['difference']}"
