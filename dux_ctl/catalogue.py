"""The methods that dux-ctl knows: read from `methods.json`, which is made from the daemons' declarations."""

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

FILE = Path(__file__).with_name("methods.json")


@cache
def load() -> dict[str, Any]:
    """`{"methods": {name: {...}}, "schemas": {name: schema}}`."""
    return cast("dict[str, Any]", json.loads(FILE.read_bytes()))


def namespaces() -> dict[str, list[str]]:
    """Namespace → its methods' full names, without those that only daemons or other nodes call."""
    found: dict[str, list[str]] = {}
    for name, entry in load()["methods"].items():
        if entry["access"] in ("read", "spend", "admin"):
            found.setdefault(name.split(".")[0], []).append(name)
    return found


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its `$ref` followed and `null` alternatives dropped."""
    while True:
        if "$ref" in schema:
            schema = load()["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in schema:
            options = [option for option in schema["anyOf"] if option.get("type") != "null"]
            if len(options) != 1:
                return schema
            schema = options[0]
        else:
            return schema
