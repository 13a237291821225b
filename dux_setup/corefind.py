"""Finds the Cores of a machine: programs, data folders, running processes, and who listens on a port. Reads only.

Nothing that is found is run, because a program in somebody's home folder may be anything.
"""

import ipaddress
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from duxcommon.coin.params import CHAINS, ChainParams
from duxcommon.tcptable import LISTENING, sockets

SERVICE_FOLDER = Path("/var/lib/flopcoin")
"""Where a Core that runs as a service of its own keeps its data."""
MAX_CMDLINE = 65_536
NOGROUP = 65_534


@dataclass(frozen=True, slots=True)
class Kind:
    """What a Core for one chain is called, and where it puts things."""

    params: ChainParams
    section: str
    """main, test or regtest, as Core names its chains."""
    programs: tuple[str, ...]
    home: str
    """Name of the data folder in a home folder."""
    conf: str
    """Name of the configuration in the data folder."""
    subfolder: str
    """Where in the data folder the chain's own things are, the cookie among them."""
    client: str
    """The command line client."""
    program_folders: tuple[str, ...] = ("/usr/local/bin", "/usr/bin", "/opt/flopcoin/bin")


def _flopcoin(chain: str, section: str, subfolder: str) -> Kind:
    programs = ("flopcoind", "flopcoin-qt")
    return Kind(CHAINS[chain], section, programs, ".flopcoin", "flopcoin.conf", subfolder, "flopcoin-cli")


KINDS = {
    "main": _flopcoin("main", "main", ""),
    "test": _flopcoin("test", "test", "testnet3"),
    "regtest": _flopcoin("regtest", "regtest", "regtest"),
    "litecoin-regtest": Kind(
        *(CHAINS["litecoin-regtest"], "regtest", ("litecoind",), ".litecoin", "litecoin.conf", "regtest"),
        client="litecoin-cli",
        program_folders=("/usr/lib/litecoin",),  # the one in /usr/bin is a script that asks questions
    ),
}
"""By name of the chain. Debian's litecoind stands in for Flopcoin Core where that can't be had."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running Core."""

    pid: int
    uid: int
    program: str
    datadir: Path | None
    """None where its command line names none, or one that can't be told from here."""
    conf: Path | None
    """As its command line names it; None for the one in the data folder."""
    options: dict[str, str]
    """Options of the command line, which count more than the configuration."""

    @property
    def section(self) -> str | None:
        """The chain that its command line names: test, regtest, or none."""
        named = [section for section, option in (("regtest", "regtest"), ("test", "testnet")) if option in self.options]
        return next((section for section in named), None)


@dataclass(frozen=True, slots=True)
class Folder:
    """A data folder, or where one could be."""

    path: Path
    uid: int
    gid: int
    """With whose rights to act there, see `owner_of`."""
    used: bool
    """Whether a configuration or a chain is in it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int
    uid: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback


def person() -> tuple[Path, int]:
    """Home folder and number of the user at the terminal, also behind sudo and su; else who this process runs as."""
    name = _logged_in() if os.geteuid() == 0 else ""
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        return Path.home(), os.getuid()
    return Path(entry.pw_dir), entry.pw_uid


def _logged_in() -> str:
    try:
        return os.environ.get("SUDO_USER") or os.getlogin()
    except OSError:
        return ""  # Nobody did: a service, or a container.


def user_name(uid: int) -> str:
    """The name of a user; #NUMBER for one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def group_of(uid: int) -> int:
    """The first group of a user; that of nobody for one without a name."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return NOGROUP


def programs(kind: Kind) -> list[Path]:
    """Core's programs in the usual places."""
    found = [Path(folder, name) for folder in kind.program_folders for name in kind.programs]
    return [path for path in found if os.access(path, os.X_OK) and path.is_file()]


def processes(kind: Kind, proc: Path = Path("/proc")) -> list[Process]:
    """The running Cores of this kind that can be seen from here, oldest process id first."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            with (entry / "cmdline").open("rb") as file:
                words = file.read(MAX_CMDLINE).split(b"\0")
            uid = entry.stat().st_uid
        except OSError:
            continue  # It ended meanwhile, or is hidden from us.
        name = os.path.basename(os.fsdecode(words[0])) if words else ""
        if name in kind.programs:
            found.append(_process(kind, entry, uid, name, [os.fsdecode(word) for word in words[1:] if word]))
    return sorted(found, key=lambda process: process.pid)


def _process(kind: Kind, entry: Path, uid: int, name: str, words: list[str]) -> Process:
    options: dict[str, str] = {}
    for word in words:
        key, _, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            options[key] = value
    datadir = _resolved(entry, options.get("datadir"))
    if datadir is None and "datadir" not in options:
        try:
            datadir = Path(pwd.getpwuid(uid).pw_dir) / kind.home
        except KeyError:
            datadir = None
    conf = options.get("conf")
    base = datadir if conf and datadir is not None else None
    return Process(int(entry.name), uid, name, datadir, base / conf if base and conf else None, options)


def _resolved(entry: Path, written: str | None) -> Path | None:
    if not written:
        return None
    if Path(written).is_absolute():
        return Path(written)
    try:
        return Path(os.readlink(entry / "cwd")) / written
    except OSError:
        return None


def owner_of(path: Path) -> tuple[int, int]:
    """The user and group with whose rights to act at `path`: the first on the way there who is not root.

    Whoever owns a part of the way could have laid a symbolic link there. Root's group is that of the file.
    """
    gid = 0
    for part in (*reversed(path.parents), path):
        try:
            status = os.lstat(part)
        except OSError:
            break
        if status.st_uid != 0:
            try:
                return status.st_uid, pwd.getpwuid(status.st_uid).pw_gid
            except KeyError:
                return status.st_uid, status.st_gid
        gid = status.st_gid if part == path else 0
    return 0, gid


def folder(kind: Kind, path: Path) -> Folder:
    """What is known of a data folder without changing anything."""
    uid, gid = owner_of(path)
    names = (kind.conf, "blocks", "wallet.dat", kind.subfolder or "blocks")
    return Folder(path, uid, gid, any((path / name).exists() for name in names))


def folders(kind: Kind, home: Path) -> list[Folder]:
    """The data folders in the usual places that are in use: of a service, of the user with `home`, of root."""
    found: dict[Path, Folder] = {}
    for path in (SERVICE_FOLDER, home / kind.home, Path("/root") / kind.home):
        try:
            one = folder(kind, path)
        except OSError:
            continue  # Somebody else's, and closed to us.
        if one.used:
            found.setdefault(path.resolve(), one)
    return list(found.values())


def listeners(port: int, net: Path = Path("/proc/self/net")) -> list[Listener]:
    """Who listens on a TCP port of this machine; empty also where that can't be told."""
    return [Listener(one.address, port, one.uid) for one in sockets(net) if (one.state, one.port) == (LISTENING, port)]
