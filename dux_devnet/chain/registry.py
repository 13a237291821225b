"""The table of RPC calls: one decorated function gives dispatch, checking of arguments as Core words it, and help."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from . import errors
from .errors import RpcError
from .faults import Faults
from .node import Node
from .users import Guest

Dialect = Literal["flopcoin", "modern"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

_CORE_NAMES = {int: "number", bool: "bool", str: "string", list: "array", dict: "object"}
_MISC_NAMES = {int: "an integer", bool: "a boolean", str: "a string", list: "an array", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its JSON kinds (empty: anything) and whether it can be left out."""

    name: str
    kinds: tuple[type, ...]
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One RPC call. `strict` ones check types up front (-3), others when they read the value (-1), as in Core."""

    name: str
    handler: Callable[..., Any]
    params: tuple[Param, ...]
    category: str
    dialects: tuple[Dialect, ...]
    strict: bool

    @property
    def usage(self) -> str:
        shown = [param.name if param.required else f"( {param.name} )" for param in self.params]
        return " ".join([self.name, *shown])

    @property
    def help(self) -> str:
        return f"{self.usage}\n\n{inspect.getdoc(self.handler)}\n"


COMMANDS: dict[Dialect, dict[str, Command]] = {dialect: {} for dialect in DIALECTS}


@dataclass(slots=True)
class Call:
    """What a handler gets beside its arguments."""

    node: Node
    faults: Faults
    dialect: Dialect
    wallet_name: str | None
    """From the path /wallet/<name>; None on the plain path."""
    guest: Guest | None = None
    """Who calls; None is the chain's owner, who may do everything."""

    @property
    def modern(self) -> bool:
        return self.dialect == "modern"

    @property
    def wallet(self) -> int:
        """The wallet that the path names.

        A flopcoind always has its wallet, so there it is made on first use; a modern Core must be told to.
        """
        wallets = self.node.wallets
        name = self.wallet_name or ""
        found = wallets.find(name)
        if found is not None:
            return found
        if not self.modern:
            return wallets.create(name)
        loaded = wallets.names()
        if self.wallet_name is not None:
            raise RpcError(errors.WALLET_NOT_FOUND, "Requested wallet does not exist or is not loaded")
        if not loaded:
            raise RpcError(
                errors.WALLET_NOT_FOUND,
                "No wallet is loaded. Load a wallet using loadwallet or create a new one with createwallet. "
                "(Note: A default wallet is no longer automatically created)",
            )
        if len(loaded) == 1:
            only = wallets.find(loaded[0])
            assert only is not None
            return only
        raise RpcError(
            errors.WALLET_NOT_SPECIFIED,
            "Wallet file not specified (must request wallet RPC through /wallet/<filename> uri-path).",
        )


def command(
    name: str, category: str, *, dialects: tuple[Dialect, ...] = DIALECTS, strict: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a handler `f(call, arguments…)`; the annotations say what JSON each argument may be."""

    def declare(handler: Callable[..., Any]) -> Callable[..., Any]:
        params = []
        for param in list(inspect.signature(handler).parameters.values())[1:]:
            kinds = _kinds_of(param.annotation)
            params.append(Param(param.name, kinds, param.default is inspect.Parameter.empty))
        made = Command(name, handler, tuple(params), category, dialects, strict)
        for dialect in dialects:
            assert name not in COMMANDS[dialect], f"{name} is declared twice"
            COMMANDS[dialect][name] = made
        return handler

    return declare


def _kinds_of(annotation: Any) -> tuple[type, ...]:
    """JSON kinds of an annotation such as `int`, `list[Any] | None` or `Any` (none: everything is let through)."""
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    plain = [get_origin(option) or option for option in options if option is not type(None)]
    return tuple(kind for kind in plain if kind in _CORE_NAMES)


def lookup(dialect: Dialect, name: str) -> Command:
    """The command of a dialect; raises RpcError (-32601) as Core does."""
    found = COMMANDS[dialect].get(name)
    if found is None:
        raise RpcError(errors.METHOD_NOT_FOUND, "Method not found")
    return found


def bind(called: Command, given: Any) -> list[Any]:
    """Arguments in order from a JSON array or object; raises RpcError with Core's codes."""
    if isinstance(given, dict):
        names = [param.name for param in called.params]
        for name in given:
            if name not in names:
                raise RpcError(errors.INVALID_PARAMETER, f"Unknown named parameter {name}")
        last = max((names.index(name) for name in given), default=-1)
        values = [given.get(name) for name in names[: last + 1]]
    else:
        values = list(given)
    required = sum(param.required for param in called.params)
    if len(values) > len(called.params) or len(values) < required:
        raise RpcError(errors.MISC, called.help)
    for param, value in zip(called.params, values, strict=False):
        if value is None:
            if param.required:
                raise _wrong_type(called, param, value)
            continue
        if param.kinds and not _fits(value, param.kinds):
            raise _wrong_type(called, param, value)
    defaults = [param.default for param in list(inspect.signature(called.handler).parameters.values())[1:]]
    return [
        defaults[index] if value is None and not called.params[index].required else value
        for index, value in enumerate(values)
    ]


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and int in kinds and not -(2**63) <= value < 2**63:
        raise RpcError(errors.MISC, "JSON integer out of range")
    return isinstance(value, kinds)


def kind_name(value: Any) -> str:
    """How Core names a JSON value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | Decimal):
        return "number"
    return _CORE_NAMES.get(type(value), "null")


def _wrong_type(called: Command, param: Param, value: Any) -> RpcError:
    if isinstance(value, Decimal) and int in param.kinds:
        return RpcError(errors.MISC, "JSON integer out of range")
    wanted = param.kinds[0] if param.kinds else str
    if called.strict:
        return RpcError(errors.TYPE, f"Expected type {_CORE_NAMES[wanted]}, got {kind_name(value)}")
    return RpcError(errors.MISC, f"JSON value is not {_MISC_NAMES[wanted]} as expected")
