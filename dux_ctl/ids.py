"""Ids as people write them: tables show an id's first digits, and those are enough wherever a command asks for one."""

import re
from typing import Any

from duxcommon.errors import InvalidParams, NotFound

from . import catalogue
from .control import Control

LENGTH = 64
LEAST = 6
_SHORT = re.compile(rf"[0-9a-f]{{{LEAST},{LENGTH - 1}}}")
_PAGE = 200


def is_short(text: str) -> bool:
    """Whether `text` may be the beginning of an id, as tables print it."""
    return _SHORT.fullmatch(text.removesuffix("…")) is not None


def is_id(text: str) -> bool:
    """Whether `text` is an id or the beginning of one."""
    return is_short(text) or re.fullmatch(rf"[0-9a-f]{{{LENGTH}}}", text) is not None


def node(control: Control, text: str) -> str:
    """The id of the one known node that begins so; a whole id stays as it is. Raises NotFound, InvalidParams."""
    if len(text) == LENGTH:
        return text
    if not is_short(text):
        raise InvalidParams(
            f"{text!r} is not the id of a node",
            hint=f"`dux-ctl node list` shows them; the first {LEAST} digits are enough.",
        )
    digits = text.removesuffix("…")
    before = int(digits.ljust(LENGTH, "0"), 16) - 1
    params: dict[str, Any] = {"limit": 2}
    if before >= 0:
        params["after"] = f"{before:0{LENGTH}x}"
    found = [info["node"] for info in control.call("node.list", params)["nodes"]]
    return _one([one for one in found if one.startswith(digits)], "node", f"with an id that begins with {digits}")


def named_node(control: Control, text: str) -> str:
    """Like `node`, and a node may also be called by its name; never for payments, as anyone may take any name."""
    if is_short(text) or len(text) == LENGTH:
        return node(control, text)
    found = [info["node"] for info in control.call("node.list", {"limit": _PAGE})["nodes"] if _called(info, text)]
    return _one(found, "node", f"with the name {text}")


def _called(info: dict[str, Any], name: str) -> bool:
    record = info.get("record") or {}
    return bool(record.get("name") == name)


def channel(control: Control, text: str) -> str:
    """Like `node`, among the channels of this node."""
    return _listed(control, "channel", text, LENGTH)


def task(control: Control, text: str) -> str:
    """Like `node`, among the tasks of this node."""
    return _listed(control, "task", text, LENGTH // 2)


def payment(control: Control, text: str) -> str:
    """Like `node`, among the payments of this node."""
    return _listed(control, "payment", text, LENGTH // 2)


def proposal(control: Control, text: str) -> str:
    """Like `node`, among the proposals of the network."""
    return _listed(control, "proposal", text, LENGTH)


def _listed(control: Control, kind: str, text: str, length: int) -> str:
    digits = text.removesuffix("…")
    if len(digits) == length:
        return digits
    if not is_short(digits):
        raise InvalidParams(
            f"{text!r} is not the id of a {kind}",
            hint=f"`dux-ctl {kind} list` shows them; the first {LEAST} digits are enough.",
        )
    found: list[str] = []
    after = None
    while True:
        params = {"limit": _PAGE} if after is None else {"limit": _PAGE, "after": after}
        page = control.call(f"{kind}.list", params)
        found += [one["id"] for one in page[f"{kind}s"] if one["id"].startswith(digits)]
        after = page["next"]
        if after is None:
            return _one(found, kind, f"with an id that begins with {digits}")


def _one(found: list[str], kind: str, which: str) -> str:
    if not found:
        raise NotFound(f"this node knows no {kind} {which}", hint=f"`dux-ctl {kind} list` shows those it knows.")
    if len(found) > 1:
        raise InvalidParams(f"several {kind}s {which}", hint=f"Write more digits: {', '.join(found)}.")
    return found[0]


_KINDS = {"channel": channel, "task": task, "payment": payment, "proposal": proposal}


def complete(method: str, params: dict[str, Any], control: Control) -> dict[str, Any]:
    """`params` with the short ids of nodes, channels, tasks and payments written out."""
    whole = dict(params)
    for param in catalogue.load()["methods"][method]["params"]:
        name, value = param["name"], params.get(param["name"])
        if not isinstance(value, str) or name == "after":
            continue
        if catalogue.resolve(param["schema"]).get("unit") == "node":
            whole[name] = (named_node if method == "node.show" else node)(control, value)
        kind = method.partition(".")[0] if name == "id" else name
        if kind in _KINDS:
            whole[name] = _KINDS[kind](control, value)
    return whole
