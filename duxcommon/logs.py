"""JSON lines: on standard error for the journal, and in a file of bounded size."""

import errno
import json
import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path

MAX_FILE_BYTES = 10_000_000
OLD_FILES = 5
NOT_NOW = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Why a log file can't be made now and perhaps can later."""
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, daemon, logger, message, and what was passed as `extra`."""

    def __init__(self, daemon: str) -> None:
        super().__init__()
        self._daemon = daemon

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "daemon": self._daemon,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _FileHandler(logging.handlers.RotatingFileHandler):
    trouble: str | None = None
    """Why the last line is missing in the file; None when it is there."""

    def emit(self, record: logging.LogRecord) -> None:
        self._failed: str | None = None
        super().emit(record)
        self.trouble = self._failed

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk loses lines of the file; the journal has them, and a traceback for each would help nobody."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._failed = f"{self.baseFilename} can't be written ({error.strerror}); the journal has what is missing"
        else:
            super().handleError(record)


class _JournalFormatter(JsonFormatter):
    """The same line with its level as syslog counts it, which the journal takes off: `journalctl -p warning` works."""

    def format(self, record: logging.LogRecord) -> str:
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{level}>{super().format(record)}"


def _to_journal() -> bool:
    """Whether standard error is the journal's; the variable alone may be inherited (see systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def setup(daemon: str, level: str, directory: Path | None) -> None:
    """Send all logging of this process to standard error and, with `directory`, to `<directory>/<daemon>.log`.

    While the disk is full or read-only the file is left out, until there is room. Raises OSError when it can't be
    written for another reason.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if directory is not None:
        handlers.append(_file_handler(directory / f"{daemon}.log"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(JsonFormatter(daemon))
        root.addHandler(handler)
    if _to_journal():
        handlers[0].setFormatter(_JournalFormatter(daemon))
    root.setLevel(level.upper())
    # python-bitcoinrpc writes passphrases at debug level; asyncio's and aiohttp's debug lines help nobody here.
    for noisy in ("BitcoinRPC", "asyncio", "aiohttp", "jsonrpcserver"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _file_handler(path: Path) -> _FileHandler:
    try:
        return _FileHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES)
    except OSError as error:
        if error.errno not in NOT_NOW:
            raise
        # Opened when the first line is written, and tried again with each.
        return _FileHandler(path, maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES, delay=True)


def trouble() -> str | None:
    """What is wrong with the log file, for people; None when its last line is there."""
    found = [handler.trouble for handler in logging.getLogger().handlers if isinstance(handler, _FileHandler)]
    return next(filter(None, found), None)
