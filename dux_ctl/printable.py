"""What others wrote must not steer the terminal: control characters and text direction marks are taken out.

So is what Python makes of bytes that are no text, as in names of files: it can't be printed everywhere.
"""

import re
from typing import Any

from duxcommon.errors import DuxError

from .versions import VersionedClient

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(value: Any) -> Any:
    """The same JSON value with every text fit for a terminal."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


class PrintableClient(VersionedClient):
    """A client whose replies and errors are going to be shown to a person."""

    checks_replies = True

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        """See BlockingClient."""
        try:
            reply: dict[str, Any] = printable(super().call(method, params, timeout=timeout))
        except DuxError as error:
            error.message, error.hint = printable(error.message), printable(error.hint)
            raise
        return reply
