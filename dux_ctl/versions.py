"""dux-ctl and a daemon of another version: found out before a page is drawn, and said in a sentence."""

import contextlib
import re
from typing import Any

from duxcommon import __version__
from duxcommon.blocking import BlockingClient
from duxcommon.errors import DuxError, InvalidParams, MethodNotFound, VersionMismatch

from . import catalogue

ASK_S = 5.0
RESTART = "systemctl restart dux.target"


class VersionedClient(BlockingClient):
    """A client that knows the methods as they are in this version.

    Raises VersionMismatch for a daemon that does not know one of them or a parameter of it; with `checks_replies` also
    for a reply that lacks something, or has a state that this version does not know.
    """

    checks_replies = False

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        """See BlockingClient."""
        known = catalogue.load()["methods"].get(method)
        try:
            reply = super().call(method, params, timeout=timeout)
        except MethodNotFound:
            if known is None:
                raise
            raise self._mismatch(f"does not know {method}") from None
        except InvalidParams as error:
            if known is None or not (found := _unknown_parameter(error, known)):
                raise
            raise self._mismatch(f"does not know parameter {found!r} of {method}") from None
        if known is not None and self.checks_replies and (fault := difference(reply, known["reply"])) is not None:
            raise self._mismatch(f"answered {method} in another form: {fault}")
        return reply

    def _mismatch(self, what: str) -> VersionMismatch:
        version: Any = None
        with contextlib.suppress(DuxError):
            # Not through `self.call`, whose own check could fail in the same way.
            version = BlockingClient.call(self, "daemon.status", timeout=ASK_S).get("version")
        which = version if isinstance(version, str) else "of another version"
        name = f"dux-{self.path.stem}"
        return VersionMismatch(
            f"{name} {which} {what}; this is dux-ctl {__version__}",
            details={"daemon": name, "version": which, "dux-ctl": __version__},
        )


def _unknown_parameter(error: InvalidParams, known: dict[str, Any]) -> str | None:
    """The parameter that the daemon does not know although this version has it."""
    match = re.search(r"unknown parameter '(\w+)'", error.message)
    return match[1] if match and match[1] in [param["name"] for param in known["params"]] else None


def difference(value: Any, schema: dict[str, Any], place: str = "") -> str | None:
    """What a reply lacks, or has that this version does not know; more than is known is no difference."""
    schema = catalogue.resolve(schema)
    if value is None:
        return None
    if (choices := schema.get("enum")) is not None and value not in choices:
        return f"{place or 'it'} is {value!r}, which is not known here"
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            if (found := difference(item, schema["items"], f"{place}[{number}]")) is not None:
                return found
    properties = schema.get("properties")
    if isinstance(value, dict) and properties:
        for name in schema.get("required", ()):
            if name not in value:
                return f"{place}.{name} is missing" if place else f"{name} is missing"
        for name, item in value.items():
            inner = f"{place}.{name}" if place else name
            if name in properties and (found := difference(item, properties[name], inner)) is not None:
                return found
    return None


def lines(daemons: dict[str, Any]) -> list[str]:
    """What `status` says of daemons of another version; daemon → its status."""
    others: dict[str, list[str]] = {}
    for name, status in daemons.items():
        version = status.get("version", __version__)
        if version != __version__:
            others.setdefault(version, []).append(f"dux-{name}")
    found = []
    for version, names in others.items():
        run = "runs" if len(names) == 1 else "run"
        if _number(version) < _number(__version__):
            todo = f"restart what is still of before the upgrade: {RESTART}"
        else:
            todo = "bring dux-ctl and the daemons to one version: apt full-upgrade"
        found.append(f"{', '.join(names)} {run} {version}, dux-ctl is {__version__}; {todo}")
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
