"""What a person types, or a program sends to standard input, while a command runs."""

import sys
from typing import TextIO

from duxcommon.errors import InvalidParams


def stdin() -> TextIO:
    """Standard input. Raises InvalidParams where it was closed (`<&-`)."""
    # Python has none then, whatever its types say.
    stream: TextIO | None = sys.stdin
    if stream is None:
        raise InvalidParams("standard input is closed", hint="Run it at a terminal, or give it a file: `<FILE`.")
    return stream


def somebody() -> bool:
    """Whether a person sits at the terminal and can be asked."""
    stream: TextIO | None = sys.stdin
    return stream is not None and stream.isatty()


def secret(what: str, command: str) -> str:
    """A secret from the terminal without echo, or the first line of standard input; never empty.

    `command` asks for it. Raises InvalidParams where none is given.
    """
    typed = somebody()
    try:
        line = _typed(what) if typed else stdin().readline().rstrip("\r\n")
        # In some locales Python takes bytes that are no text for half characters.
        line.encode()
    except UnicodeError:
        raise InvalidParams(f"the {what} is no text in UTF-8", hint="Give the very one that was set.") from None
    if not line:
        why = "nothing was typed" if typed else "standard input is no terminal, and its first line is empty"
        raise InvalidParams(
            f"no {what} was given: {why}",
            hint=f"Type it at a terminal, or give a file whose first line it is: `{command} <FILE`.",
        )
    return line


def _typed(what: str) -> str:
    import getpass

    try:
        return getpass.getpass(f"{what.capitalize()}: ")
    except EOFError:
        print(file=sys.stderr)
        return ""


def agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; anything else, and the end of input, is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, UnicodeDecodeError):
        print(file=sys.stderr)
        return False
