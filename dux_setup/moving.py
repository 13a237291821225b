"""A node's state moved aside for a fresh one, and back again when that does not come to a good end.

The journal (`setup/switch.json`) is written before the first file moves and removed when the new node runs. While it is
there, the machine is between two networks, and whoever finds it undoes what was begun.
"""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from duxcommon import failpoint
from duxcommon.errors import SwitchFailed
from duxcommon.files import sync_directory, write_atomic

from .paths import Paths

UNIT_DROP_INS = ("dux-flopd.service.d/10-chain.conf", "dux-devchain.service.d/10-network.conf")
COPY_S = 600.0


class Journal(BaseModel):
    """What was begun."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    old: str
    """The folder that the old state goes to; below it everything lies as it did below /."""
    items: list[str]
    """What belongs to a network, from the root on."""
    there: list[str]
    """Those that the old node had."""


def journal_path(paths: Paths) -> Path:
    """Where the journal is."""
    return paths.setup / "switch.json"


def flopd_unit(paths: Paths) -> Path:
    """Lets dux-flopd talk to a chain on another machine."""
    return paths.root / "etc/systemd/system" / UNIT_DROP_INS[0]


def chain_unit(paths: Paths) -> Path:
    """Lets other machines talk to the trial chain of this one."""
    return paths.root / "etc/systemd/system" / UNIT_DROP_INS[1]


def hosting_file(paths: Paths) -> Path:
    """What the machine remembers of being a host."""
    return paths.setup / "hosting.json"


def interrupted(paths: Paths) -> Journal | None:
    """What was begun and not ended. Raises SwitchFailed for a journal that can't be read."""
    try:
        return Journal.model_validate_json(journal_path(paths).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise SwitchFailed(f"{journal_path(paths)} can't be read: {error}") from error


def move_aside(paths: Paths) -> Journal:
    """Move everything that belongs to the network below a new folder of root's alone. Raises OSError, SwitchFailed."""
    parts = [*paths.everything(), flopd_unit(paths), chain_unit(paths), hosting_file(paths)]
    items = [str(path.relative_to(paths.root)) for path in parts]
    there = [item for item in items if os.path.lexists(paths.root / item)]
    old = _fresh_folder(paths)
    journal = Journal(old=str(old), items=items, there=there)
    write_atomic(journal_path(paths), journal.model_dump_json().encode(), mode=0o600)
    failpoint.hit("switch:journal")
    for item in there:
        _move(paths.root / item, old / item)
        failpoint.hit("switch:moved")
    return journal


def undo(paths: Paths, journal: Journal) -> None:
    """Put the old state back; what was made since is kept in `abandoned` beside it. Goes on where a kill stopped it.

    Raises OSError, SwitchFailed.
    """
    old = Path(journal.old)
    if not old.is_dir():
        raise SwitchFailed(
            f"{old}, where the state of this node was moved to, is not there",
            hint="Mount the file system that it is on, then `systemctl restart dux-firstboot`.",
        )
    for item in journal.items:
        here, kept = paths.root / item, old / item
        _clear(here)
        _clear(kept)
        if item not in journal.there:
            _set_aside(here, old / "abandoned" / item)
        elif os.path.lexists(kept):
            _set_aside(here, old / "abandoned" / item)
            _move(kept, here)
        failpoint.hit("switch:undone")
    finish(paths)


def finish(paths: Paths) -> None:
    """The machine is on one network again."""
    journal_path(paths).unlink(missing_ok=True)
    sync_directory(paths.setup)


def _fresh_folder(paths: Paths) -> Path:
    parent = paths.var / "old"
    parent.mkdir(mode=0o700, exist_ok=True)
    parent.chmod(0o700)
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = _free(parent / name)
    folder.mkdir(mode=0o700)
    # It has to be there after a power cut that the journal survives, also on a file system of its own.
    sync_directory(parent)
    return folder


def _free(path: Path) -> Path:
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _set_aside(source: Path, target: Path) -> None:
    if os.path.lexists(source):
        _move(source, _free(target))


def _move(source: Path, target: Path) -> None:
    """Move a file or folder with its owners: at every moment it is whole in one of its places, or in both."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        os.rename(source, target)
        sync_directory(target.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_over(source, target)


def _move_over(source: Path, target: Path) -> None:
    """To another file system: the copy gets its name when it is whole, and the source is marked before it is less.

    So whatever has the name of an item and no mark beside it, is the item. A rename would not do as a mark: folders of
    the lower layer of an overlay, as a live system has, can't be renamed.
    """
    part, gone = _beside(target, "part"), _beside(source, "gone")
    _remove(part)
    _copy(source, part)
    failpoint.hit("switch:copied")
    os.rename(part, target)
    sync_directory(target.parent)
    failpoint.hit("switch:placed")
    write_atomic(gone, b"")
    failpoint.hit("switch:gone")
    _clear(source)


def _clear(path: Path) -> None:
    """Remove what a kill left beside a path: a copy that was not finished, and a source that has its copy."""
    _remove(_beside(path, "part"))
    gone = _beside(path, "gone")
    if gone.exists():
        _remove(path)
        sync_directory(path.parent)
        failpoint.hit("switch:removed")
        gone.unlink()


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _copy(source: Path, part: Path) -> None:
    for command in (
        ["cp", "--archive", "--no-target-directory", "--", str(source), str(part)],
        # All of its file system, errors of writing included.
        ["sync", "--file-system", "--", str(part.parent)],
    ):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COPY_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise SwitchFailed(f"{source} could not be copied within {COPY_S:.0f} s") from None
        if done.returncode != 0:
            raise SwitchFailed(f"{source} could not be copied: {done.stderr.strip()[:300]}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
