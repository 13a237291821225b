"""Subcommands made from the declared methods: one argument a parameter, FLOP text for amounts."""

import argparse
import json
import secrets
import shlex
from typing import Any

from duxcommon.errors import InvalidParams
from duxcommon.money import format_flop, parse_flop

from . import asking, catalogue

SECRETS = ("passphrase",)
"""Parameters that never stand on a command line: they are asked for, or read from standard input."""


def _amount(text: str) -> int:
    try:
        return parse_flop(text)
    except InvalidParams as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.hint}") from None


def amount_option(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    """An optional amount, written in FLOP."""
    parser.add_argument(flag, type=_amount, metavar="FLOP", help=text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON") from None


def _list(text: str) -> Any:
    return _json(text) if text.startswith("[") else [part for part in text.split(",") if part]


def add_method(parser: argparse.ArgumentParser, entry: dict[str, Any]) -> None:
    """Give `parser` the arguments of a method."""
    for param in entry["params"]:
        name, schema = param["name"], catalogue.resolve(param["schema"])
        if name in SECRETS:
            continue
        options: dict[str, Any] = {"help": schema.get("description", "")}
        kind = schema.get("type")
        if schema.get("unit") == "koinu":
            options |= {"type": _amount, "metavar": "FLOP"}
        elif kind == "integer":
            options["type"] = int
        elif kind == "number":
            options["type"] = float
        elif kind == "boolean":
            options |= {"action": argparse.BooleanOptionalAction}
        elif kind == "array":
            options |= {"type": _list, "metavar": "A,B"}
        elif kind != "string":
            options |= {"type": _json, "metavar": "JSON"}
        if "enum" in schema:
            options["choices"] = schema["enum"]
        default = param["schema"].get("default")
        if name == "key":
            parser.add_argument("--key", help="idempotency key: a repeat with the same key never acts twice")
        elif param["required"] and kind != "boolean":
            parser.add_argument(name, **options)
        else:
            if default not in (None, "", [], {}) and kind != "boolean":
                options["help"] = f"{options['help']} (default: {default})".strip()
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=None, **options)


def example(space: str, verb: str, entry: dict[str, Any]) -> str:
    """The declared example as a command line."""
    words = ["dux-ctl", space, verb]
    options: list[str] = []
    for param in entry["params"]:
        name = param["name"]
        if name not in entry["example"] or name in SECRETS or name == "key":
            continue
        value, schema = entry["example"][name], catalogue.resolve(param["schema"])
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        if schema.get("unit") == "koinu":
            text = format_flop(value)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            text = ",".join(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        if param["required"]:
            words.append(shlex.quote(text))
        elif value is not None:
            options += [f"--{flag}", shlex.quote(text)]
    return " ".join([*words, *options])


def arguments(method: str, entry: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The method's parameters from the parsed command line; asks for secrets. Raises InvalidParams without one."""
    command = f"dux-ctl {method.replace('.', ' ').replace('_', '-')}"
    params: dict[str, Any] = {}
    for param in entry["params"]:
        name = param["name"]
        if name in SECRETS:
            params[name] = asking.secret(name, command)
            continue
        value = getattr(args, name, None)
        if value is not None:
            params[name] = value
        elif name == "key" and param["required"]:
            params[name] = f"ctl-{secrets.token_hex(12)}"
    return params
