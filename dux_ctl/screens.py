"""Replies that are drawn by hand: method → the page for people. All others are drawn from their schema by `render`."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import render

if TYPE_CHECKING:
    from .control import Control

Screen = Callable[[dict[str, Any]], str]

_MODULES = {
    "fund.status": "screens_fund",
    "airdrop.next": "screens_fund",
    "airdrop.history": "screens_fund",
    "airdrop.show": "screens_fund",
    "airdrop.price": "screens_fund",
    "airdrop.why": "screens_fund",
    "node.standing": "screens_share",
    "node.eligible": "screens_share",
    "node.bonds": "screens_share",
    "node.unbond": "screens_share",
    "node.bond": "screens_share",
    "proposal.create": "screens_votes",
    "proposal.list": "screens_votes",
    "proposal.show": "screens_votes",
    "proposal.vote": "screens_votes",
    "proposal.approve": "screens_votes",
    "proposal.replay": "screens_votes",
    "param.list": "screens_votes",
    "param.history": "screens_votes",
    "network.show": "screens_votes",
}


def find(method: str) -> Screen | None:
    """What draws the reply of a method, where it is not its schema."""
    module = _MODULES.get(method)
    if module is None:
        return None
    found: Screen = getattr(importlib.import_module(f".{module}", __package__), method.replace(".", "_"))
    return found


def draw(method: str, screen: Screen, value: dict[str, Any], control: "Control") -> str:
    """The page, with the network below it: a page about the fund or its rules says on which network they hold."""
    text = screen(value)
    return text if method == "network.show" else labelled(text, value, control)


def labelled(text: str, value: dict[str, Any], control: "Control") -> str:
    """A page with its network below it, unless it is named there: whoever sees an amount sees whether it has a value.

    Where no daemon can say which network this is, the page stays as it is.
    """
    label = value.get("network")
    if not isinstance(label, dict):
        label = control.label()
    if label is None or render.network(label) in text:
        return text
    return f"{text}\n\n{network_line(label)}"


def network_line(label: dict[str, Any]) -> str:
    """Name and chain of the network, and that its coins have no value where they have none."""
    return f"network: {render.network(label)}"


def facts(pairs: list[tuple[str, str]]) -> str:
    """Lines of a name and what belongs to it, aligned; continuation lines are indented below it."""
    width = max(len(name) for name, _ in pairs)
    indent = "\n" + " " * (width + 2)
    return "\n".join(f"{name:<{width}}  {text.replace(chr(10), indent)}" for name, text in pairs)


def short(identity: str | None, unknown: str = "unknown") -> str:
    """The first digits of an id or key, enough for the next command."""
    return unknown if identity is None else f"{identity[:12]}…"


def count(number: int, what: str) -> str:
    """`1 block`, `12 blocks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def blocks(number: int) -> str:
    """`1 block`, `12 blocks`."""
    return count(number, "block")
