"""The OpenRPC document of a daemon, made from its declarations."""

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from .. import __version__
from ..errors import DuxError
from .declare import MethodSpec

REF = "#/components/schemas/{model}"
COMMON_ERRORS = (-32602, 1001, 1002, 1004, 1014)
"""Any method may answer these: bad parameters, not allowed, rate limit, timeout, stopping."""


def _error(error: type[DuxError]) -> dict[str, Any]:
    data = {"name": error.__name__, "hint": error.hint_default, "retry": error.retry, "component": error.component}
    return {"code": error.code, "message": error.__name__, "data": data}


def document(daemon: str, specs: Iterable[MethodSpec]) -> dict[str, Any]:
    """OpenRPC 1.3 of `specs`; `x-access`, `x-passes-errors`, `x-peers` and `x-reply-record` are our own."""
    specs = sorted(specs, key=lambda spec: spec.name)
    pairs: list[Any] = [(spec.params, "validation") for spec in specs] + [
        (spec.reply, "serialization") for spec in specs
    ]
    mapping, schemas = models_json_schema(pairs, ref_template=REF)
    definitions = schemas.get("$defs", {})
    methods = []
    for spec in specs:
        params_schema = definitions[mapping[(spec.params, "validation")]["$ref"].rsplit("/", 1)[1]]
        required = params_schema.get("required", [])
        methods.append(
            {
                "name": spec.name,
                "summary": spec.summary,
                "description": spec.description,
                "paramStructure": "by-name",
                "params": [
                    {"name": name, "required": name in required, "schema": schema}
                    for name, schema in params_schema.get("properties", {}).items()
                ],
                "result": {"name": spec.reply.__name__, "schema": mapping[(spec.reply, "serialization")]},
                "errors": [_error(error) for error in spec.errors if error is not DuxError],
                "examples": [{"name": "example", "params": spec.example}],
                "x-access": spec.access,
                # Declared as DuxError: what another daemon or node answers comes back as it is.
                "x-passes-errors": DuxError in spec.errors,
                "x-peers": spec.peers,
                "x-reply-record": spec.reply_record,
            }
        )
    used = {name: schema for name, schema in definitions.items() if not name.endswith("Params")}
    return {
        "openrpc": "1.3.2",
        "info": {"title": f"dux-{daemon}", "version": __version__},
        "methods": methods,
        "components": {"schemas": used},
    }
