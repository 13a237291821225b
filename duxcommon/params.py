"""Parameters of a call against the JSON Schema in the app's manifest.

The schema is a stranger's: nothing in it may fetch from the network, or take unbounded time on our side.
"""

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry

from .errors import BadRecord, WrongParams
from .records import canonical

MAX_PARAMS_BYTES = 32_768
MAX_SCHEMA_BYTES = 32_768

UNBOUNDED = frozenset({"pattern", "patternProperties", "$ref", "$dynamicRef", "$recursiveRef"})
"""Keywords that are refused: a regular expression or a recursive reference can run for ever."""


def _keywords(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        return set(schema).union(*map(_keywords, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(_keywords, schema))
    return set()


@lru_cache(maxsize=256)
def _validator(schema_bytes: bytes) -> Draft202012Validator:
    schema = json.loads(schema_bytes)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, registry=Registry())


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse a schema that is not JSON Schema (2020-12) or that uses an unbounded keyword. Raises WrongParams."""
    _prepare(schema)


def _prepare(schema: dict[str, Any]) -> Draft202012Validator:
    hint = "Mend `params` in the app's dux.yaml; if it is not your app, tell its publisher."
    refused = _keywords(schema) & UNBOUNDED
    if refused:
        raise WrongParams(f"the app's parameter schema uses {', '.join(sorted(refused))}", hint=hint)
    try:
        packed = canonical(schema)
        if len(packed) > MAX_SCHEMA_BYTES:
            raise WrongParams(f"the app's parameter schema is larger than {MAX_SCHEMA_BYTES} bytes", hint=hint)
        return _validator(packed)
    except (SchemaError, BadRecord) as error:
        raise WrongParams(f"the app's parameter schema is not valid: {error.message}"[:300], hint=hint) from error


def encode_params(params: dict[str, Any]) -> str:
    """The JSON text of a call's parameters: what is signed, sent and read by the app, fractions included.

    Raises WrongParams for what JSON can't hold, or more than MAX_PARAMS_BYTES of it.
    """
    try:
        text = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise WrongParams(f"the parameters are no JSON: {error}"[:300]) from error
    if size > MAX_PARAMS_BYTES:
        raise WrongParams(f"the parameters are {size} bytes; at most {MAX_PARAMS_BYTES} are sent")
    return text


def decode_params(text: str) -> dict[str, Any]:
    """The parameters in a stranger's JSON text. Raises WrongParams."""
    try:
        params = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WrongParams(f"the parameters are no JSON: {error}"[:300]) from error
    if not isinstance(params, dict):
        raise WrongParams("the parameters are no JSON object")
    return params


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_params(schema: dict[str, Any], params: dict[str, Any]) -> None:
    """Check the parameters of one call. Raises WrongParams naming the parameter and what it may be."""
    encode_params(params)
    validator = _prepare(schema)
    try:
        errors = list(validator.iter_errors(params))
    except RecursionError:
        raise WrongParams("the parameters are nested too deeply") from None
    if errors:
        first = min(errors, key=lambda error: [str(part) for part in error.path])
        name = ".".join(str(part) for part in first.path)
        known = sorted(schema.get("properties", {}))
        unknown = sorted(set(params) - set(known))
        if first.validator == "additionalProperties" and not name and unknown:
            takes = f"it has {', '.join(known)}" if known else "it takes none"
            raise WrongParams(
                f"the app has no parameter {', '.join(unknown)}; {takes}"[:300], details={"parameter": unknown[0]}
            )
        raise WrongParams(
            f"{name}: {first.message}"[:300] if name else first.message[:300], details={"parameter": name}
        )
