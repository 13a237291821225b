"""Starts dux-flopd, or `keystore …` at a terminal."""

import sys
from collections.abc import Sequence

from duxcommon.daemon import run

from . import terminal
from .daemon import FlopDaemon


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["keystore"]:
        return terminal.main(given[1:])
    return run(FlopDaemon, given)


if __name__ == "__main__":
    sys.exit(main())
