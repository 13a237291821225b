"""First boot (`dux-firstboot.service`): what a node needs and does not have yet is made; every boot asks anew.

It writes plain sentences to the journal, and ends with a status other than 0 when the node can't run.
"""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from duxcommon import failpoint
from duxcommon.errors import (
    BadSignature,
    ConfigError,
    DuxError,
    NetworkDamaged,
    SetupNoSpace,
    SetupReadOnly,
    SetupStepFailed,
)
from duxcommon.files import write_atomic
from duxcommon.network import NetworkDefinition, load_network

from .fresh import fresh_trial
from .paths import Paths
from .users import let_in_first

NOTICE, WARNING, ERROR = 5, 4, 3
"""Levels of syslog, as systemd takes them before a line."""
POINTS = (
    "secrets", "arbiter", "credential", "keystore", "node-key", "chain-users", "flopd", "registryd", "guest", "network",
    "groups",
)  # fmt: skip
"""Failpoints, in the order in which they are passed: each right after the step of its name."""
LIVE = (
    "This system runs from a live medium without persistence: keys, coins and everything else of this node are gone "
    "when it is powered off."
)


def say(text: str, level: int = NOTICE) -> None:
    """One sentence to the journal, or to whoever runs this."""
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else ""
    print(f"{prefix}{text}", flush=True)


def mark_live(paths: Paths) -> None:
    """Say, and leave a mark for `dux-ctl status`, that nothing of this node outlasts the power-off, where it is so."""
    kept = paths.persistence.is_dir() and any(paths.persistence.iterdir())
    if not paths.live_medium.exists() or kept:
        paths.live_marker.unlink(missing_ok=True)
        return
    paths.run.mkdir(parents=True, exist_ok=True)
    write_atomic(paths.live_marker, f"{LIVE}\n".encode())
    say(LIVE, WARNING)


def existing_network(paths: Paths) -> NetworkDefinition | None:
    """The network that this machine is on. Raises NetworkDamaged, with the file, for one that no daemon would take."""
    if not os.path.lexists(paths.network):
        return None
    try:
        return load_network(paths.network)
    except (ConfigError, BadSignature) as error:
        raise NetworkDamaged(f"{paths.network} is not a network definition that can be used: {error.message}") from None
    except DuxError as error:
        raise NetworkDamaged(f"{paths.network} can't be read: {error.message}") from None


def boot(paths: Paths) -> None:
    """All steps. Raises DuxError or OSError where the node can't run."""
    mark_live(paths)
    network = existing_network(paths)
    if network is None:
        fresh_trial(paths, say)
    else:
        worth = "whose coins have no value" if network.worthless else "Flopcoin's own, whose coins have value"
        say(f"This node is on network {network.name}, {worth}; nothing had to be made.")
    try:
        let_in_first(paths, say)
    except (DuxError, OSError) as error:
        # The node runs without it; root can always add somebody.
        say(f"The first user could not be let in: {error}", WARNING)
    failpoint.hit("firstboot:groups")


def in_words(error: OSError, paths: Paths) -> DuxError:
    """An error of the operating system as what it means here, and what to do."""
    place = error.filename or paths.root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupNoSpace(f"there is no space left for {place}: this node can't be set up")
    if error.errno == errno.EROFS:
        return SetupReadOnly(f"{place} is on a file system that is mounted read-only: this node can't be set up")
    return SetupStepFailed(f"{place}: {os.strerror(error.errno or 0)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing; 0 when the node can run, else 1."""
    parser = argparse.ArgumentParser(
        prog="dux-firstboot",
        description="Make what this machine's node needs and does not have yet.",
        epilog="example: systemctl restart dux-firstboot",
    )
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="the machine's files, below DIR")
    paths = Paths(parser.parse_args(argv).root.absolute())
    os.umask(0o077)
    try:
        boot(paths)
    except (DuxError, OSError) as error:
        told = error if isinstance(error, DuxError) else in_words(error, paths)
        say(told.message, ERROR)
        say(told.hint, ERROR)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
