"""`python -m duxcommon.goback FOLDER`: put the copies back that the last upgrade made of the databases below FOLDER.

What the upgraded databases hold is moved aside, not deleted. Afterwards the packages of before may be installed: the
file `going-back` in FOLDER tells their scripts that it is meant.
"""

import argparse
import fcntl
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import migrations
from .errors import AlreadyRunning, ConfigError, DuxError
from .files import sync_directory, write_atomic

MARK = "going-back"


def databases(folder: Path) -> list[Path]:
    """Every database below `folder` that an upgrade has left a copy of."""
    found = {copy.with_name(copy.name.partition(".before-")[0]) for copy in folder.rglob("*.before-*-to-*")}
    return sorted(database for database in found if migrations.copies(database))


def put_back(database: Path) -> tuple[Path, Path]:
    """Put the newest copy in the place of a database; the copy, and where what was there lies now.

    Raises AlreadyRunning while a daemon uses it. Cut off at any point, the same again finishes it.
    """
    lock = os.open(database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"{database} is in use", hint="Stop the node first: systemctl stop dux.target"
            ) from error
        copy = migrations.copies(database)[0]
        aside = database.with_name(f"{database.name}.upgraded-{copy.name.rpartition('-')[2]}")
        aside.mkdir(mode=0o700, exist_ok=True)
        part = database.with_name(f".{database.name}.back")
        shutil.copyfile(copy, part)
        of = copy.stat()
        os.chown(part, of.st_uid, of.st_gid)
        part.chmod(0o600)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)
        # The -wal first: beside another database it would be applied to that one. Alone it stops every start.
        for end in ("-wal", "-shm", ""):
            old = database.with_name(database.name + end)
            if old.exists():
                old.replace(aside / old.name)
        part.replace(database)
        sync_directory(database.parent)
    finally:
        os.close(lock)
    return copy, aside


def main(argv: Sequence[str] | None = None) -> int:
    """Put all copies back, or say why not; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m duxcommon.goback",
        description="Put the copies back that the last upgrade made of this node's databases.",
        epilog="example: sudo /usr/lib/duxnet/bin/python -I -m duxcommon.goback /var/lib/duxnet",
    )
    parser.add_argument("folder", type=Path, help="where the databases are, such as /var/lib/duxnet")
    args = parser.parse_args(argv)
    try:
        if not args.folder.is_dir():
            raise ConfigError(f"there is no folder {args.folder}", hint="Name the one that holds the databases.")
        for database in databases(args.folder):
            copy, aside = put_back(database)
            print(f"{database}: as in {copy.name}; what was there is in {aside}")
        write_atomic(args.folder / MARK, b"")
    except (DuxError, OSError) as error:
        print(f"goback: {error}", file=sys.stderr)
        if isinstance(error, DuxError):
            print(f"  {error.hint}", file=sys.stderr)
        return 1
    print("Now the version of before can be installed: see docs/upgrades.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
