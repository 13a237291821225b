"""Ids as people write them: tables show an id's first digits, and those are enough wherever a command asks for one."""

import re
from typing import Any

from duxcommon.errors import InvalidParams, NotFound

from . import catalogue
from .control import Control

LENGTH = 64
LEAST = 6
_SHORT = re.compile(rf"[0-9a-f]{{{LEAST},{LENGTH - 1}}}")
_PAGE = 500


def is_short(text: str) -> bool:
    """Whether `text` may be the beginning of an id, as tables print it."""
    return _SHORT.fullmatch(text.removesuffix("…")) is not None


def node(control: Control, text: str) -> str:
    """The id of the one known node that begins so; a whole id stays as it is. Raises NotFound, InvalidParams."""
    if not is_short(text):
        return text
    digits = text.removesuffix("…")
    before = int(digits.ljust(LENGTH, "0"), 16) - 1
    params: dict[str, Any] = {"limit": 2}
    if before >= 0:
        params["after"] = f"{before:0{LENGTH}x}"
    found = [info["node"] for info in control.call("node.list", params)["nodes"]]
    return _one([one for one in found if one.startswith(digits)], "node", digits)


def channel(control: Control, text: str) -> str:
    """Like `node`, among the channels of this node."""
    if not is_short(text):
        return text
    digits = text.removesuffix("…")
    found: list[str] = []
    after = None
    while True:
        params = {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}
        page = control.call("channel.list", params)
        found += [one["id"] for one in page["channels"] if one["id"].startswith(digits)]
        after = page["next"]
        if after is None:
            return _one(found, "channel", digits)


def _one(found: list[str], kind: str, digits: str) -> str:
    if not found:
        raise NotFound(f"no {kind} that this node knows begins with {digits}")
    if len(found) > 1:
        raise InvalidParams(f"several {kind}s begin with {digits}", hint=f"Write more digits: {', '.join(found)}.")
    return found[0]


def complete(method: str, params: dict[str, Any], control: Control) -> dict[str, Any]:
    """`params` with the short ids of nodes and channels written out."""
    whole = dict(params)
    for param in catalogue.load()["methods"][method]["params"]:
        name, value = param["name"], params.get(param["name"])
        if not isinstance(value, str) or name == "after":
            continue
        if catalogue.resolve(param["schema"]).get("unit") == "node":
            whole[name] = node(control, value)
        elif name == "channel" or (name == "id" and method.startswith("channel.")):
            whole[name] = channel(control, value)
    return whole
