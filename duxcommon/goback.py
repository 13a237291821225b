"""`python -m duxcommon.goback FOLDER`: put the copies back that the last upgrade made of the databases below FOLDER.

What the upgraded databases hold is moved aside, not deleted. Afterwards the packages of before may be installed: the
file `going-back` in FOLDER tells their scripts that it is meant.

Root leaves the work in a daemon's folder to a process of that daemon's user: a link that the daemon has put there leads
no further than the daemon could go.
"""

import argparse
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import migrations
from .errors import AlreadyRunning, ConfigError, DuxError
from .files import sync_directory, write_atomic

MARK = "going-back"


def databases(folder: Path) -> list[Path]:
    """Every database in `folder` that an upgrade has left a copy of."""
    found = {copy.with_name(copy.name.partition(".before-")[0]) for copy in folder.glob("*.before-*-to-*")}
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


def _put_all_back(folder: Path) -> bool:
    """Raises DuxError or OSError where it fails."""
    for database in databases(folder):
        copy, aside = put_back(database)
        print(f"{database}: as in {copy.name}; what was there is in {aside}", flush=True)
    return True


def _as_owner(folder: Path) -> bool:
    """The same, done by a process of the folder's owner, which also tells what fails; whether all went well."""
    owner = folder.stat()
    if owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True  # The payloads, which several daemons share: databases are never there.
    if owner.st_uid == os.geteuid():
        return _put_all_back(folder)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
            os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
            status = _told(lambda: _put_all_back(folder))
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _told(work: Callable[[], bool]) -> int:
    """Do it, or say why not; the exit status."""
    try:
        return 0 if work() else 1
    except (DuxError, OSError) as error:
        print(f"goback: {error}", file=sys.stderr)
        if isinstance(error, DuxError):
            print(f"  {error.hint}", file=sys.stderr)
        return 1


def _all_folders(folder: Path) -> bool:
    """The whole of it; whether it could be done. Raises DuxError or OSError."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", hint="Name the one that holds the databases.")
    if folder.stat().st_uid != os.geteuid():
        raise ConfigError(f"{folder} is not yours", hint="Run this as its owner, or name the folder above it.")
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    if not all([_as_owner(place) for place in places]):
        return False
    write_atomic(folder / MARK, b"")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Put all copies back, or say why not; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m duxcommon.goback",
        description="Put the copies back that the last upgrade made of this node's databases.",
        epilog="example: sudo /usr/lib/duxnet/bin/python -I -m duxcommon.goback /var/lib/duxnet",
    )
    parser.add_argument("folder", type=Path, help="where the databases are, such as /var/lib/duxnet")
    folder: Path = parser.parse_args(argv).folder
    if _told(lambda: _all_folders(folder)):
        return 1
    print("Now the version of before can be installed: see /usr/share/doc/dux-common/upgrades.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
