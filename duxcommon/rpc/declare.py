"""The one declaration of a method: name, parameters, reply, who may call it, errors, help.

Validation, authorization, rate limits, the OpenRPC document, the `dux-ctl` subcommand, the man page and the
contract tests are all made from the `MethodSpec` that `@method` leaves on the function.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import DuxError, InvalidParams
from .caller import Caller

Access = Literal["read", "spend", "admin", "daemon", "peer"]
"""read, spend, admin: local groups; daemon: other daemons of this node; peer: remote nodes only."""

F = TypeVar("F", bound=Callable[..., Awaitable[BaseModel]])
_NAME = re.compile(r"^[a-z]+\.[a-z][a-z_]*$")
_LIMIT = re.compile(r"^(\d+)/(s|m)$")


@dataclass(frozen=True)
class MethodSpec:
    """What a declaration says, ready for use."""

    name: str
    access: Access
    peers: bool
    """A remote node may call it through the gateway."""
    daemons: bool
    """The node's own daemons may call it as well, although it acts with the node's money."""
    errors: tuple[type[DuxError], ...]
    example: dict[str, Any]
    timeout_s: float
    """Longest run, in seconds, beyond what the caller asked to wait."""
    reply_record: str | None
    """Name of the reply's field that the gateway signs, as a record of that kind, on its way to a remote node."""
    limit: tuple[int, float] | None
    """Calls and seconds: at most so many calls of one caller in that time."""
    params: type[BaseModel]
    reply: type[BaseModel]
    wants_caller: bool
    summary: str
    description: str

    @property
    def waits(self) -> bool:
        """It is a long poll: cut short, not waited for, when the daemon stops."""
        return "wait_s" in self.params.model_fields or "timeout_s" in self.params.model_fields

    def parse(self, params: Any) -> dict[str, Any]:
        """Checked keyword arguments from the `params` of a request. Raises InvalidParams."""
        if isinstance(params, list):
            names = list(self.params.model_fields)
            if len(params) > len(names):
                raise InvalidParams(f"{self.name} takes at most {len(names)} parameters, got {len(params)}")
            params = dict(zip(names, params, strict=False))
        elif params is None:
            params = {}
        try:
            checked = self.params.model_validate(params)
        except ValidationError as error:
            raise InvalidParams(f"{self.name}: {describe(error, self.params)}") from None
        return {name: getattr(checked, name) for name in self.params.model_fields}


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for people about the first fault of a validation."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        known = ", ".join(model.model_fields) or "none"
        return f"unknown parameter {place!r} (known: {known})"
    if first["type"] == "missing":
        return f"parameter {place!r} is missing"
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def method(
    name: str,
    *,
    access: Access,
    errors: tuple[type[DuxError], ...] = (),
    peers: bool = False,
    daemons: bool = False,
    example: dict[str, Any] | None = None,
    timeout_s: float = 60.0,
    reply_record: str | None = None,
    limit: str | None = None,
) -> Callable[[F], F]:
    """Declare a coroutine method of a `*Methods` class as the RPC method `name`.

    Its parameters (types from `duxcommon.api`) are the RPC parameters; one named `caller` receives the `Caller`
    instead. It returns a pydantic model. A method of access `spend` is for people: one that other
    daemons of the node need says `daemons=True`. The docstring's first line is the help everywhere. `limit` is
    "10/s" or "30/m" for each caller.
    """
    if not _NAME.match(name):
        raise TypeError(f"{name!r} is not a method name")

    def declare(function: F) -> F:
        hints = get_type_hints(function, include_extras=True)
        reply = hints.pop("return")
        if not (isinstance(reply, type) and issubclass(reply, BaseModel)):
            raise TypeError(f"{name}: the reply must be a model, so that it is an object at the top")
        fields: dict[str, Any] = {}
        wants_caller = False
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if hints.get(parameter.name) is Caller:
                wants_caller = True
                continue
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], Field(default=default))
        params = create_model(
            "".join(part.title() for part in re.split(r"[._]", name)) + "Params",
            __config__=ConfigDict(extra="forbid", strict=True, frozen=True),
            **fields,
        )
        doc = inspect.cleandoc(function.__doc__ or "")
        if not doc:
            raise TypeError(f"{name} has no docstring, so no help")
        summary, _, description = doc.partition("\n")
        match = _LIMIT.match(limit) if limit else None
        function.__dict__["rpc_spec"] = MethodSpec(
            name=name,
            access=access,
            peers=peers or access == "peer",
            daemons=daemons,
            errors=errors,
            example=example or {},
            timeout_s=timeout_s,
            reply_record=reply_record,
            limit=(int(match[1]), 1.0 if match[2] == "s" else 60.0) if match else None,
            params=params,
            reply=reply,
            wants_caller=wants_caller,
            summary=summary.strip(),
            description=description.strip(),
        )
        return function

    return declare


@dataclass(frozen=True)
class Bound:
    """A declared method with the object it belongs to."""

    spec: MethodSpec
    call: Callable[..., Awaitable[BaseModel]]


def specs_of(cls: type) -> list[MethodSpec]:
    """The declarations of a `*Methods` class, in order, without making an instance."""
    return [item.rpc_spec for item in vars(cls).values() if hasattr(item, "rpc_spec")]


def collect(objects: Iterable[object]) -> dict[str, Bound]:
    """All declared methods of `objects` by name. Raises TypeError when two have the same name."""
    found: dict[str, Bound] = {}
    for item in objects:
        for attribute in vars(type(item)).values():
            spec: MethodSpec | None = getattr(attribute, "rpc_spec", None)
            if spec is None:
                continue
            if spec.name in found:
                raise TypeError(f"{spec.name} is declared twice")
            found[spec.name] = Bound(spec, attribute.__get__(item))
    return found
