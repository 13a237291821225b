"""Starts dux-airdropd."""

import sys
from collections.abc import Sequence

from duxcommon.daemon import run

from .daemon import AirdropDaemon


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped."""
    return run(AirdropDaemon, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
