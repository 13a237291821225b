"""The layers that machines of the tests are booted from: a Debian root, and on it the packages, installed once.

They are made anew when what they are made of changes, and kept beside the cached roots. Several test runs at once make
each once: the second waits.
"""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from build_script import buildroot, deb
from tests.os.nspawn import Machine

PEOPLE = ("ann", "bob")
"""Who logs in at the machines: the first person, and another."""
REPOSITORY = "/srv/duxos"
"""Where machines see the repository of the packages."""
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
    """The folder of a layer, made by `make` when there is none for `key`; older ones are removed."""
    target = folder() / f"{name}-{key}"
    with alone(name):
        if not target.exists():
            for old in folder().glob(f"{name}-*"):
                if old.is_dir():
                    shutil.rmtree(old)
            unfinished = folder() / f"{name}-unfinished"
            make(unfinished)
            unfinished.rename(target)
    return target


def digest(*files: Path) -> str:
    """Of names and contents."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


@cache
def base() -> Path:
    """A Debian root with systemd and people, without a mirror: the machines have no network."""
    tar = buildroot.cached(buildroot.MACHINE)

    def make(target: Path) -> None:
        target.mkdir(mode=0o755)
        subprocess.run(["tar", "-C", str(target), "--numeric-owner", "--exclude=./dev/*", "-xf", str(tar)], check=True)
        for path in (target / "etc/apt").glob("sources.list*/*"):
            path.unlink()
        (target / "etc/apt/sources.list").unlink(missing_ok=True)
        (target / "etc/hostname").write_text("duxos\n")
        for name in PEOPLE:
            subprocess.run(["chroot", str(target), "useradd", "-m", "-s", "/bin/bash", name], check=True)

    return made("base", f"{tar.stem}-{int(tar.stat().st_mtime)}", make)


@cache
def packages() -> Path:
    """The folder of the packages, built from this very tree where they are not up to date."""
    deb.build()
    return deb.OUTPUT


@cache
def installed() -> list[Path]:
    """The layers of a machine with dux-node, installed by apt, that has never been booted."""
    folder, root = packages(), base()

    def make(target: Path) -> None:
        with Machine([root], binds={folder: REPOSITORY}) as machine:
            # bubblewrap wants to write /proc/sys/user, which systemd-nspawn, unlike a machine, binds read-only.
            machine.path("/etc/systemd/system/proc-sys-user.service").write_text(PROC_SYS_USER)
            machine.prepare("systemctl", "enable", "proc-sys-user.service")
            machine.prepare("bash", "-ec", f"apt-get install -y {REPOSITORY}/*.deb && apt-get clean")
            machine.save_layer(target)

    key = digest(*sorted(folder.glob("*.deb")), Path(__file__))
    return [made("installed", f"{key}-{root.name[-10:]}", make), root]
