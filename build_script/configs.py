"""Writes etc-duxnet/*.yaml: every key of a daemon's settings with its help, its bounds and its default.

Keys that must be set on a machine are active, all others are commented out with the value that holds without them.
"""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from duxcommon.config import Settings

WIDTH = 118

ACTIVE: dict[str, dict[str, Any]] = {
    "flopd": {"core": {"cookie": "/var/lib/flopcoin/.cookie"}},
    "registryd": {"blobs_dir": "/var/lib/duxnet/blobs"},
    "devchain": {"datadir": "/var/lib/duxnet/devchain"},
}
"""What a machine needs beside the folders of each daemon."""

HEADER = """\
# Configuration of dux-{name}. `dux-{name} --check` reads it and says what is wrong, with the line; after a change:
# `systemctl reload dux-{name}` (a bad file is refused and the old settings stay), for some keys `restart`.
#
# Lines that begin with "#key" show what holds without them. Files in {name}.d/*.yaml are read after this one and
# replace single keys, section by section; put your own settings there, and updates of this file never ask you.
# Amounts are koinu: 1 FLOP is 100000000.
"""

NETWORK = """\
#
# The network definition (`network`, /etc/duxnet/network.yaml) is not part of the package: which network a machine joins
# is its owner's choice. Get the file from somebody you trust on that network. It is signed by the network's guardians,
# every daemon checks that, and without the file none starts.
"""


def helps(model: type[BaseModel]) -> dict[str, str]:
    """Field → the docstring below it, of a model and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls in (BaseModel, object) or not issubclass(cls, BaseModel):
            continue
        body = ast.parse(inspect.getsource(cls)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, [*body.body[1:], ast.Pass()], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = inspect.cleandoc(text.value)
    return found


def plain(value: Any) -> Any:
    """A setting as JSON and YAML can hold it."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def bounds(metadata: list[Any]) -> str:
    """The limits of a number in words, in brackets; empty where there are none."""
    limits: dict[str, Any] = {}
    for item in metadata:
        for part in [item, *getattr(item, "metadata", [])]:
            limits.update({k: getattr(part, k) for k in ("ge", "gt", "le", "lt") if getattr(part, k, None) is not None})
    low = f"at least {limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    high = f"at most {limits['le']}" if "le" in limits else f"below {limits['lt']}" if "lt" in limits else ""
    text = ", ".join(filter(None, (low, high)))
    return f"({text})" if text else ""


def _comment(text: str, indent: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(indent) + 2 + len(line) + 1 + len(word) > WIDTH:
            lines.append(f"{indent}# {line}")
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, f"{indent}# {line}"] if line else lines


def section(model: type[BaseModel], active: dict[str, Any], default: Any, depth: int = 0) -> list[str]:
    """The lines of a model's keys. `default` is the instance that holds where nothing is written."""
    indent = "  " * depth
    lines: list[str] = []
    texts = helps(model)
    for name, field in model.model_fields.items():
        given = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        text = texts.get(name) or (inspect.getdoc(kind) if is_section else "")
        lines += ["", *_comment(f"{text} {bounds(field.metadata)}", indent)]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inside = active.get(name, {})
            lines.append(f"{indent}{'' if inside else '#'}{name}:")
            inner = section(kind, inside, None if given is PydanticUndefined else given, depth + 1)
            lines += [_off(line) for line in inner[1:]] if not inside else inner[1:]
        elif name in active:
            lines.append(f"{indent}{name}: {json.dumps(active[name])}")
        else:
            assert given is not PydanticUndefined, f"{model.__name__}.{name} has no default; name it in ACTIVE"
            lines.append(f"{indent}#{name}: {json.dumps(plain(given))}")
    return lines


def _off(line: str) -> str:
    """A line of a section that is off as a whole: its keys are commented out at the margin."""
    text = line.lstrip()
    if not text or text.startswith("# "):
        return line
    return f"#{line.replace('#', '', 1) if text.startswith('#') else line}"


def config(name: str, model: type[BaseModel]) -> str:
    """The file of one daemon."""
    folders = {"state_dir": f"/var/lib/duxnet/{name}", "log_dir": f"/var/log/duxnet/{name}"}
    lines = section(model, {**folders, **ACTIVE.get(name, {})}, None)
    about_network = NETWORK if issubclass(model, Settings) else ""
    return HEADER.format(name=name) + about_network + "\n".join(lines) + "\n"
