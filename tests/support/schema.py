"""Checks every exchange with a daemon against what the daemon itself declares in `rpc.discover`.

    client = checked_client(run_dir / "flopd.sock")     # asyncio; a duxcommon.rpc.Client
    client = CheckedBlockingClient(run_dir / "flopd.sock")

Both raise SchemaMismatch when the params that were accepted, the reply, or the error that came back is not one
that the method declares.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from duxcommon.blocking import BlockingClient
from duxcommon.errors import BY_NAME, DuxError
from duxcommon.rpc import Client

ANY_METHOD = frozenset(
    {
        "InvalidParams", "MethodNotFound", "InvalidRequest", "ParseError", "Internal", "NotAllowed", "RateLimited",
        "TimedOut", "Stopping", "MessageTooLarge", "DaemonDown", "DiskFull", "Conflict", "RemoteError",
    }
)  # fmt: skip
"""Errors that need no declaration: the protocol's own, and those of calls that pass through other daemons."""


class SchemaMismatch(AssertionError):
    """A daemon sent, or accepted, something else than it declares."""


class SchemaChecker:
    """The declarations of one daemon: pass its OpenRPC document, or the socket to ask for it when first needed."""

    def __init__(self, source: Path | dict[str, Any]) -> None:
        self._source = source
        self._validators: dict[tuple[str, str], Draft202012Validator] = {}

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenRPC document."""
        if isinstance(self._source, dict):
            return self._source
        client = BlockingClient(self._source)
        try:
            return client.call("rpc.discover")
        finally:
            client.close()

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Method name → its entry in the document."""
        return {entry["name"]: entry for entry in self.document["methods"]}

    def __call__(self, method: str, params: dict[str, Any], result: dict[str, Any]) -> None:
        """Check an exchange that succeeded; the signature of `duxcommon.rpc.client.Observer`."""
        self.check_params(method, params)
        self._check(method, "reply", result)

    def check_params(self, method: str, params: dict[str, Any]) -> None:
        """Raises SchemaMismatch unless `params` are what `method` declares."""
        self._check(method, "params", params)

    def check_error(self, method: str, error: DuxError) -> None:
        """Raises SchemaMismatch unless `method` declares this error, or a class that it is a kind of."""
        if method not in self.methods or error.name in ANY_METHOD:
            return
        if self.methods[method].get("x-passes-errors"):
            return
        declared = {entry["message"] for entry in self.methods[method]["errors"]}
        kinds = {cls.__name__ for cls in BY_NAME.get(error.name, DuxError).__mro__}
        if not declared & kinds:
            raise SchemaMismatch(f"{method} answered {error.name}, but declares {sorted(declared)}: {error.message}")

    def _check(self, method: str, part: str, value: Any) -> None:
        if method not in self.methods:
            raise SchemaMismatch(f"{method} is not in the daemon's document")
        error = best_match(self._validator(method, part).iter_errors(value))
        if error is not None:
            place = ".".join(str(item) for item in error.absolute_path) or "top"
            raise SchemaMismatch(f"{part} of {method}, {place}: {error.message[:500]}")

    def _validator(self, method: str, part: str) -> Draft202012Validator:
        if (method, part) not in self._validators:
            entry = self.methods[method]
            if part == "params":
                schema = {
                    "type": "object",
                    "properties": {p["name"]: p["schema"] for p in entry["params"]},
                    "required": [p["name"] for p in entry["params"] if p["required"]],
                    "additionalProperties": False,
                }
            else:
                schema = dict(entry["result"]["schema"])
            # `$ref`s point into the document's components.
            schema["components"] = self.document["components"]
            Draft202012Validator.check_schema(schema)
            self._validators[method, part] = Draft202012Validator(schema)
        return self._validators[method, part]


class CheckedClient(Client):
    """A client whose successful and failed calls are both checked."""

    def __init__(self, path: Path, checker: SchemaChecker) -> None:
        super().__init__(path, checker)
        self.checker = checker

    async def call_raw(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0, peer: str | None = None
    ) -> dict[str, Any]:
        """See Client."""
        try:
            return await super().call_raw(method, params, timeout=timeout, peer=peer)
        except DuxError as error:
            self.checker.check_error(method, error)
            raise


def checked_client(path: Path, checker: SchemaChecker | None = None) -> CheckedClient:
    """An asyncio client of the daemon at `path` that checks every exchange.

    The daemon must run in another process, unless `checker` was made from a document.
    """
    return CheckedClient(path, checker or SchemaChecker(path))


class CheckedBlockingClient(BlockingClient):
    """The client of dux-ctl, with every exchange checked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.checker = SchemaChecker(path)

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        """See BlockingClient."""
        try:
            result = super().call(method, params, timeout=timeout)
        except DuxError as error:
            self.checker.check_error(method, error)
            raise
        self.checker(method, params or {}, result)
        return result
