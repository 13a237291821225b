"""How a payout key's share of the fund and a node's bonds look to people."""

from typing import Any

from duxcommon.money import format_flop

from .render import columns
from .screens import count, facts, short

BONDS = {
    "sent": "on its way to a block",
    "locked": "locked",
    "free": "free: `dux-ctl node unbond`",
    "releasing": "on its way back",
    "released": "back in the wallet",
}


def node_standing(value: dict[str, Any]) -> str:
    """`dux-ctl node standing`."""
    lines = [
        ("payout key", value["pubkey"]),
        ("share", ("yes" if value["eligible"] else "no") + f", as of block {value['height']}, rules version "
                  f"{value['rules']}"),
        ("tax paid", f"{format_flop(value['tax'])} FLOP within the window"),
        ("work", f"in {count(value['epochs'], 'tenth')} of the window"),
        ("bond", f"{format_flop(value['bond'])} of {format_flop(value['bond_needed'])} FLOP"),
    ]  # fmt: skip
    lines += missing(value)
    return facts(lines)


def missing(value: dict[str, Any]) -> list[tuple[str, str]]:
    """What a key lacks, each with what mends it."""
    return [("missing", f"{one['text']}\n{one['remedy']}") for one in value["missing"]]


def node_eligible(value: dict[str, Any]) -> str:
    """`dux-ctl node eligible`."""
    lines = [
        ("as of", f"block {value['height']}, rules version {value['rules']}"),
        ("eligible", f"{count(value['total'], 'payout key')} with a share"),
        ("qualified", f"{count(value['qualified'], 'key')} with all but the cap on shares, which may vote"),
        ("share", _share(value)),
        ("digest", f"{value['digest']} (the same on every node)"),
    ]  # fmt: skip
    text = facts(lines)
    if value["keys"]:
        text += "\n\n" + columns(
            ["payout key", "tax FLOP"], [[one["pubkey"], format_flop(one["tax"])] for one in value["keys"]]
        )
    return text + (f"\nmore: --after {value['next']}" if value["next"] is not None else "")


def _share(value: dict[str, Any]) -> str:
    if not value["total"]:
        return "none"
    text = f"{format_flop(value['share'])} FLOP at most for each"
    return text if value["full"] else f"{text}; the cap holds some keys or a part of the fund back"


def node_bonds(value: dict[str, Any]) -> str:
    """`dux-ctl node bonds`."""
    lines = [
        ("payout key", value["pubkey"]),
        ("locked", f"{format_flop(value['locked'])} FLOP; a share asks for {format_flop(value['needed'])}"),
        ("by itself", "yes" if value["auto"] else "no (`auto_bond: true` in registryd.yaml, or `dux-ctl node bond`)"),
    ]
    if value["note"]:
        lines.append(("now", value["note"]))
    if not value["bonds"]:
        return facts(lines) + "\n\nno bonds"
    cells = [
        [f"{short(one['txid'])}:{one['vout']}", format_flop(one["amount"]),
         "–" if one["confirmed"] is None else str(one["confirmed"]), str(one["lock_height"]), BONDS[one["state"]]]
        for one in value["bonds"]
    ]  # fmt: skip
    return facts(lines) + "\n\n" + columns(["output", "FLOP", "since block", "until block", "state"], cells)


def node_unbond(value: dict[str, Any]) -> str:
    """`dux-ctl node unbond` shows the bonds afterwards, and says when there was nothing to take back."""
    states = {one["state"] for one in value["bonds"]}
    locked = [one["lock_height"] for one in value["bonds"] if one["state"] in ("sent", "locked")]
    if "releasing" in states:
        said = "free bonds are on their way back to the payout address"
    elif locked:
        said = f"nothing was taken back: the first bond is free from block {min(locked)} on"
    else:
        said = "nothing was taken back: no bond is locked"
    return f"{said}\n\n{node_bonds(value)}"


def node_bond(value: dict[str, Any]) -> str:
    """`dux-ctl node bond`."""
    return facts(
        [
            ("bond", f"{format_flop(value['amount'])} FLOP, locked until block {value['lock_height']}; it comes back"),
            ("output", f"{value['txid']}:{value['vout']}"),
            ("state", BONDS[value["state"]]),
            ("next", "dux-ctl node bonds"),
        ]
    )
