"""The layers that machines of the tests are booted from: a Debian root, and on it the packages, installed once.

They are made anew when what they are made of changes, and kept beside the cached roots. Several test runs at once make
each once: the second waits.
"""

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import DEVNULL

from build_script import buildroot, deb, kept
from build_script import repository as apt_repository
from build_script.progress import ended
from tests.os.nspawn import Machine, why_not
from tests.os.repacked import Change, repack

PEOPLE = ("ann", "bob")
"""Who logs in at the machines: the first person, and another."""
REPOSITORY = "/srv/duxos"
"""Where machines see the repository of the packages."""
NEWER = "0.2.0"
PROC_SYS_USER = """[Unit]
DefaultDependencies=no
Before=dux-sandbox.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -p /run/proc
ExecStart=mount -t proc proc /run/proc
ExecStart=mount --bind /run/proc/sys/user /proc/sys/user

[Install]
WantedBy=basic.target
"""


def folder() -> Path:
    """Where the layers are kept."""
    path = buildroot.cache_dir() / "tests"
    path.mkdir(exist_ok=True)
    return path


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process at a time."""
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of a layer, made by `make` when there is none for `key`; older ones that nobody uses are removed."""
    target = folder() / f"{name}-{key}"
    with alone(name):
        if not target.exists():
            unfinished = folder() / f"{name}-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            os.utime(unfinished)
            unfinished.rename(target)
        kept.use(target)
        kept.remove_unused(folder().glob(f"{name}-*"), target, _remove)
    return target


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest(*files: Path) -> str:
    """Of names and contents."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


@cache
def base() -> list[Path]:
    """The layers of Debian 13 with systemd and people, without a mirror: the machines have no network."""
    root = buildroot.folder(buildroot.MACHINE)

    def make(target: Path) -> None:
        with Machine([root]) as machine:
            for path in [*machine.path("/etc/apt").glob("sources.list*/*"), machine.path("/etc/apt/sources.list")]:
                path.unlink(missing_ok=True)
            machine.path("/etc/hostname").write_text("duxos\n")
            # bubblewrap wants to write /proc/sys/user, which systemd-nspawn, unlike a machine, binds read-only.
            machine.path("/etc/systemd/system/proc-sys-user.service").write_text(PROC_SYS_USER)
            machine.prepare("systemctl", "enable", "proc-sys-user.service")
            for name in PEOPLE:
                machine.prepare("useradd", "-m", "-s", "/bin/bash", name)
            machine.save_layer(target)

    return [made("people", f"{root.parent.name[-16:]}-{digest(Path(__file__))}", make), root]


@cache
def packages() -> Path:
    """The folder of the packages: what DUX_PACKAGES names, else built from this tree where they are not up to date."""
    if given := os.environ.get("DUX_PACKAGES"):
        return Path(given).resolve()
    deb.build()
    return deb.OUTPUT


@cache
def repository() -> Path:
    """A signed apt repository of the packages."""
    packed = sorted(packages().glob("*.deb"))
    return made("repository", digest(*packed), lambda target: signed(packed, target))


def signed(packed: list[Path], target: Path) -> None:
    """A repository, signed by a key of its own."""
    apt_repository.make(packed, target, key=None)


@cache
def newer(change: Change) -> Path:
    """A signed apt repository of the same packages as version NEWER, with what `change` changes in them."""
    packed = sorted(packages().glob("*.deb"))

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="duxos-newer-") as folder, Machine(base()) as machine:
            repack(machine, packages(), Path(folder), NEWER, change)
            signed(sorted(Path(folder).glob("*.deb")), target)

    return made("newer", digest(*packed, Path(inspect.getfile(change)), Path(inspect.getfile(repack))), make)


def subscribe(machine: Machine, folder: Path, seen_at: str) -> None:
    """Have the machine's apt use a repository that it sees at `seen_at`, and no other."""
    keys = machine.path("/etc/apt/keyrings")
    keys.mkdir(exist_ok=True)
    shutil.copyfile(folder / apt_repository.KEYRING, keys / apt_repository.KEYRING)
    machine.path("/etc/apt/sources.list.d/duxos.sources").write_text(apt_repository.source_lines(Path(seen_at)))


@cache
def installed() -> list[Path]:
    """The layers of a machine with dux-node, installed by apt, that has never been booted."""

    def make(target: Path) -> None:
        with Machine(base(), binds={repository(): REPOSITORY}) as machine:
            subscribe(machine, repository(), REPOSITORY)
            machine.prepare("bash", "-ec", "apt-get update && apt-get install -y dux-node && apt-get clean")
            machine.save_layer(target)

    key = f"{base()[0].name[-33:]}-{digest(*sorted(packages().glob('*.deb')), Path(__file__))}"
    return [made("installed", key, make), *base()]


def main() -> int:
    """Make what is not there yet, so that no test has to wait for it; nothing where no machine can be booted."""
    if why_not() is None:
        # One root is fetched and unpacked while another is built in; should it fail, `installed` tells why.
        with subprocess.Popen([sys.executable, "-m", "build_script.buildroot", buildroot.MACHINE.name], stdout=DEVNULL):
            packages()
        installed()
    return 0


if __name__ == "__main__":
    ended(main)
