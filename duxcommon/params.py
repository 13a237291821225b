"""Parameters of a call against the JSON Schema in the app's manifest.

The schema is a stranger's: nothing in it may fetch from the network, or take unbounded time on our side.
"""

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
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


def check_params(schema: dict[str, Any], params: dict[str, Any]) -> None:
    """Check the parameters of one call. Raises WrongParams naming the parameter and what it may be."""
    try:
        packed = canonical(params)
    except BadRecord as error:
        raise WrongParams(
            f"the parameters can't be signed: {error.message}",
            hint='Write a number with a fraction as text: "1.5".',
        ) from error
    if len(packed) > MAX_PARAMS_BYTES:
        raise WrongParams(f"the parameters are {len(packed)} bytes; at most {MAX_PARAMS_BYTES} are sent")
    validator = _prepare(schema)
    first: ValidationError | None = min(
        validator.iter_errors(params), key=lambda e: list(map(str, e.path)), default=None
    )
    if first is not None:
        name = ".".join(str(part) for part in first.path)
        raise WrongParams(
            f"{name}: {first.message}"[:300] if name else first.message[:300], details={"parameter": name}
        )
