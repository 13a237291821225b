"""Chooses the Core to connect, reads its configuration, and puts the safe one in its place.

Root acts in a user's data folder with that user's rights alone: a symbolic link that is laid there leads no further
than the user could go.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duxcommon.errors import CoreChainDiffers, CoreFileUnusable, TwoCores
from duxcommon.files import write_atomic

from . import corefind
from .coreconf import Change, Line, Secured, chain_of, includes, login_in, parse, secured
from .corefind import Folder, Kind, Process
from .corerpc import Login

MAX_CONF_BYTES = 1_000_000
MAX_COOKIE_BYTES = 1000
MAX_INCLUDED = 32
"""Files that a configuration may name by `includeconf`; more are not read."""


@dataclass(frozen=True, slots=True)
class Target:
    """The Core that is set up."""

    kind: Kind
    folder: Folder
    conf: Path
    process: Process | None
    """None while it does not run."""
    program: Path | None


@dataclass(frozen=True, slots=True)
class Included:
    """A file that the configuration includes. It is read as a newer Core reads it, and never changed."""

    path: Path
    lines: tuple[Line, ...]
    trouble: str
    """Why it was not read; empty where it was."""


@dataclass(frozen=True, slots=True)
class ConfFile:
    """A configuration as it is, and as it should be."""

    path: Path
    text: str
    """Undecodable bytes are kept as surrogates; empty where there is no file."""
    exists: bool
    uid: int
    gid: int
    mode: int
    wanted: Secured
    wanted_mode: int
    included: tuple[Included, ...] = ()

    @property
    def lines(self) -> list[Line]:
        """All lines that Core reads, those of included files after its own: of one key, the first counts."""
        return _joined(self.text, self.included)

    @property
    def changes(self) -> list[Change]:
        """What is to be changed, the file's mode included."""
        found = list(self.wanted.changes)
        if self.exists and self.mode != self.wanted_mode:
            found.append(Change("mode", f"others can read or change it ({self.mode:04o}, then {self.wanted_mode:04o})"))
        return found


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """With the rights of a user and group, where this process is root; otherwise as it is."""
    if os.geteuid() != 0 or (uid, gid) == (0, 0):
        yield
        return
    groups, old_gid = os.getgroups(), os.getegid()
    os.setgroups([gid])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(old_gid)
        os.setgroups(groups)


def choose(kind: Kind, *, datadir: Path | None, conf: Path | None, home: Path, uid: int) -> Target:
    """The Core that is meant: named, or running, or the one whose folder is in use, or the user's own to be.

    Raises TwoCores where that leaves several, and CoreFileUnusable for a folder that can't be.
    """
    programs = corefind.programs(kind)
    running = corefind.processes(kind)
    if datadir is None and conf is None:
        trusted = {0, uid, *({corefind.SERVICE_FOLDER.stat().st_uid} if corefind.SERVICE_FOLDER.exists() else ())}
        mine = [process for process in running if process.uid in trusted and process.datadir is not None]
        paths = {_shown(process.datadir) for process in mine if process.datadir is not None}
        paths = paths or {folder.path for folder in corefind.folders(kind, home)}
        if len(paths) > 1:
            raise TwoCores("there are several Cores: " + ", ".join(sorted(str(path) for path in paths)))
        service = corefind.SERVICE_FOLDER
        datadir = next(iter(paths), service if service.is_dir() else home / kind.home)
    elif datadir is None:
        assert conf is not None
        datadir = conf.parent
    datadir = _shown(Path(os.path.abspath(datadir)))
    if not datadir.parent.is_dir():
        raise CoreFileUnusable(f"there is no folder {datadir.parent}")
    folder = corefind.folder(kind, datadir)
    # A stranger may call any program so, and name any folder.
    own = [one for one in running if one.uid in (0, uid, folder.uid)]
    process = next((one for one in own if one.datadir is not None and _same(one.datadir, datadir)), None)
    named = conf or (process.conf if process is not None else None)
    path = _shown(Path(os.path.abspath(named)) if named else datadir / kind.conf)
    if conf is None and process is not None and process.conf is not None:
        _check_named(kind, process, path)
    return Target(kind, folder, path, process, programs[0] if programs else None)


def _shown(path: Path) -> Path:
    """The path. Raises CoreFileUnusable where it is none to print among words that root is told to type."""
    if not str(path).isprintable():
        raise CoreFileUnusable(f"{str(path)!r} is a name that can't be printed", hint="Rename it, or end that Core.")
    return path


def _check_named(kind: Kind, process: Process, path: Path) -> None:
    """Root does not read or change for a Core what the user that it runs as could not even read.

    Whatever a command line names may be the word of somebody who took that user over. Raises CoreFileUnusable.
    """
    if process.uid in (0, corefind.owner_of(path)[0]):
        return
    with acting_as(process.uid, corefind.group_of(process.uid)):
        readable = os.access(path, os.R_OK, effective_ids=True)
    if not readable or path.name != kind.conf:
        raise CoreFileUnusable(
            f"the running Core names {path} as its configuration, which is not {corefind.user_name(process.uid)}'s",
            hint="If that really is the configuration of this Core, name it yourself with --conf.",
        )


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def chain_started(target: Target) -> str:
    """The chain (main, test, regtest or another of Core's names) that command line and configuration start."""
    if target.process is not None and target.process.section is not None:
        return target.process.section
    text, _ = _text(target.conf)
    return chain_of(_joined(text, _included(target, text)))


def _joined(text: str, included: tuple[Included, ...]) -> list[Line]:
    return [*parse(text), *(line for one in included for line in one.lines)]


def _included(target: Target, text: str) -> tuple[Included, ...]:
    """Relative to the data folder, with the rights of its owner, and only what the main file names."""
    process, lines = target.process, parse(text)
    if process is not None and "noincludeconf" in process.options:
        return ()
    named = includes(lines, (process.section if process is not None else None) or chain_of(lines))
    found = []
    for name in named[:MAX_INCLUDED]:
        path, trouble, data = target.folder.path / name, "", b""
        try:
            with acting_as(target.folder.uid, target.folder.gid):
                read = _read(path, MAX_CONF_BYTES)
        except (CoreFileUnusable, ValueError) as error:
            trouble = error.message if isinstance(error, CoreFileUnusable) else f"{name!r} is no path"
        else:
            trouble = f"there is no {path}" if read is None else ""
            data = b"" if read is None else read[0]
        found.append(Included(path, tuple(parse(data.decode("utf-8", "surrogateescape"))), trouble))
    if len(named) > MAX_INCLUDED:
        rest = target.folder.path / named[MAX_INCLUDED]
        found.append(Included(rest, (), f"only the first {MAX_INCLUDED} included files were read, {rest} was not"))
    return tuple(found)


def _text(path: Path) -> tuple[str, os.stat_result | None]:
    with acting_as(*corefind.owner_of(path)):
        found = _read(path, MAX_CONF_BYTES)
    return ("", None) if found is None else (found[0].decode("utf-8", "surrogateescape"), found[1])


def read_conf(target: Target, password: str, *, trust: bool = False) -> ConfFile:
    """The configuration of `target`, and what it should be for a login with `password` (`trust`: see `secured`).

    Raises CoreFileUnusable, and CoreChainDiffers when it starts another chain.
    """
    kind, path = target.kind, target.conf
    text, status = _text(path)
    included = _included(target, text)
    started = target.process is not None and target.process.section is not None
    if (started or any(line.key for line in parse(text))) and (chain := chain_started(target)) != kind.section:
        raise CoreChainDiffers(f"the Core of {path} is for chain {chain}, and {kind.section} is wanted")
    wanted = secured(text, kind.section, password, trust=trust)
    uid, gid = corefind.owner_of(path)
    served = uid == 0 and target.folder.uid != 0
    if served:
        # Root's file for a Core that runs as a user of its own, who has to read it.
        gid = target.folder.gid
    mode = 0o600 if status is None else stat.S_IMODE(status.st_mode)
    group = 0o040 if served or (mode & 0o040 and not mode & 0o007) else 0
    return ConfFile(path, text, status is not None, uid, gid, mode, wanted, 0o600 | group, included)


def _read(path: Path, limit: int) -> tuple[bytes, os.stat_result] | None:
    try:
        # A pipe in the place of a file would otherwise be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CoreFileUnusable(f"can't read {path}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CoreFileUnusable(f"{path} is no file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CoreFileUnusable(f"{path} is larger than {limit} bytes")
    return data, status


def write_conf(conf: ConfFile) -> Path | None:
    """Put the wanted configuration in place, whole or not at all; where the old one is kept, None if there was none.

    Raises CoreFileUnusable.
    """
    data = conf.wanted.text.encode("utf-8", "surrogateescape")
    kept = None
    try:
        with acting_as(conf.uid, conf.gid):
            conf.path.parent.mkdir(mode=0o700, exist_ok=True)
            if conf.exists:
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                kept = conf.path.with_name(f"{conf.path.name}.before-dux-{stamp}")
                write_atomic(kept, conf.text.encode("utf-8", "surrogateescape"), mode=0o600)
            # A link is followed to the file that it names, which is replaced; the link stays.
            write_atomic(conf.path.resolve(), data, mode=conf.wanted_mode)
    except OSError as error:
        raise CoreFileUnusable(f"can't write {conf.path}: {error.strerror}") from None
    return kept


def logins(target: Target, conf: ConfFile) -> tuple[list[Login], str]:
    """Logins that Core has already, and why its cookie can't be used (empty where it can or is not there)."""
    found: list[Login] = []
    trouble = ""
    cookie = target.folder.path / target.kind.subfolder / ".cookie"
    try:
        with acting_as(target.folder.uid, target.folder.gid):
            read = _read(cookie, MAX_COOKIE_BYTES)
    except CoreFileUnusable as error:
        read, trouble = None, error.message
    if read is not None:
        user, _, password = read[0].decode("utf-8", "replace").strip().partition(":")
        found.append(Login(user, password, "its cookie"))
    old = login_in(conf.lines, target.kind.section)
    if old is not None:
        found.append(Login(*old, "the password in its configuration"))
    return found, trouble
