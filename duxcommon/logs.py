"""JSON lines: on standard error for the journal, and in a file of bounded size."""

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

MAX_FILE_BYTES = 10_000_000
OLD_FILES = 5
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
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk loses lines of the file; the journal has them, and a traceback for each would help nobody."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def setup(daemon: str, level: str, directory: Path | None) -> None:
    """Send all logging of this process to standard error and, with `directory`, to `<directory>/<daemon>.log`.

    Raises OSError when that file can't be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if directory is not None:
        handlers.append(_FileHandler(directory / f"{daemon}.log", maxBytes=MAX_FILE_BYTES, backupCount=OLD_FILES))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(JsonFormatter(daemon))
        root.addHandler(handler)
    root.setLevel(level.upper())
    # python-bitcoinrpc writes passphrases at debug level; asyncio's and aiohttp's debug lines help nobody here.
    for noisy in ("BitcoinRPC", "asyncio", "aiohttp", "jsonrpcserver"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
