"""How a daemon that can't run says so: in its log, to systemd, and by its exit status."""

import errno
import logging
import sqlite3
import sys
import textwrap
from pathlib import Path

from . import sdnotify
from .db import translate
from .errors import AlreadyRunning, DuxError

EXIT_LATER = 1
"""systemd tries again, ever more slowly."""
EXIT_CONFIG = 78
"""sysexits' EX_CONFIG: systemd does not restart a daemon over what trying again can't help."""
FOR_GOOD = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the machine refuses until somebody mends it."""
MESSAGE = 400
"""Most characters of a message that systemd is told, so that the hint behind it is never cut off."""


def bad_configuration(name: str, error: DuxError | OSError) -> int:
    """Say on standard error, where there is no log yet, and to systemd what is wrong; the exit status."""
    hint = getattr(error, "hint", "")
    print(f"dux-{name}: {error}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    _tell_systemd(str(error), hint)
    return EXIT_CONFIG


def refused(name: str, error: DuxError | OSError | sqlite3.Error, state: Path) -> int:
    """Say why a daemon can't run, in the log and to systemd; its exit status."""
    known = translate(error)
    if isinstance(known, DuxError):
        message, hint, kind = known.message, known.hint, known.name
        # Another process that holds the socket or the database may end by itself.
        later = known.retry or isinstance(known, AlreadyRunning)
        if known is not error:
            message = f"{message} (the state is in {state})"
    else:
        # What the machine refuses: a port in use, a directory of somebody else.
        message, hint, kind = str(error), "", type(error).__name__
        later = not (isinstance(error, OSError) and error.errno in FOR_GOOD)
    logging.getLogger(name).warning(f"can't run: {message}", extra={"error": kind, "hint": hint})
    _tell_systemd(message, hint)
    return EXIT_LATER if later else EXIT_CONFIG


def _tell_systemd(message: str, hint: str) -> None:
    """`systemctl status` and `dux-ctl status` show it until the next start."""
    said = textwrap.shorten(message, MESSAGE, placeholder=" …")
    end = "" if said.endswith((".", "?", "!", "…")) else "."
    sdnotify.notify("STATUS=" + " ".join(f"can't run: {said}{end} {hint}".split()))
