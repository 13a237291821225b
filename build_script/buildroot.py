"""Debian roots to work in, made by mmdebstrap once and kept in ${XDG_CACHE_HOME:-~/.cache}/duxos.

python build_script/buildroot.py build                    # make it (or find it) and print its path
python build_script/buildroot.py build -- lintian --version   # run a command in a fresh copy of it
"""

import argparse
import fcntl
import getpass
import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script import kept, mirror
from build_script.mirror import SUITE, Source
from build_script.progress import Failed, ended, last_lines, run_logged, step

MAX_AGE_S = 30 * 86400
"""A root older than this is made anew, so that it has Debian's newer packages."""


@dataclass(frozen=True)
class Kind:
    """What a root is for: its mmdebstrap variant, its packages, and whether it can do without pages to read."""

    name: str
    variant: str
    packages: tuple[str, ...]
    lean: bool = True


BUILD = Kind(
    "build",
    "buildd",
    (
        "debhelper",
        "dh-python",
        "python3",
        "python3-venv",
        "python3-dev",
        "python3-pip",
        "python3-setuptools",
        "python3-wheel",
        "python3-yaml",
        "python3-systemd",
        "python3-cryptography",
        "bubblewrap",
        "lintian",
        "reprepro",
        "gnupg",
        "xz-utils",
        "man-db",
    ),
)
"""Builds and checks the packages, and makes a repository of them."""
IMAGE = Kind(
    "image",
    "minbase",
    (
        "apt-utils",
        "squashfs-tools",
        "xorriso",
        "mtools",
        "dosfstools",
        "grub-pc-bin",
        "grub-efi-amd64-bin",
        "grub-efi-amd64-signed",
        "shim-signed",
        "grub-common",
        "fonts-dejavu-core",
    ),
)
"""Makes the live image."""
QEMU = Kind("qemu", "minbase", ("qemu-system-x86", "ovmf", "seabios"))
"""Starts the live image."""
MACHINE = Kind(
    "machine",
    "minbase",
    (
        "systemd-sysv",
        "dbus",
        "libpam-systemd",
        "python3",
        "python3-yaml",
        "python3-systemd",
        "python3-cryptography",
        "bubblewrap",
        "procps",
        "iproute2",
        "faketime",
        "adduser",
        "man-db",
        "ca-certificates",
    ),
    lean=False,
)
"""A machine to install the packages on: systemd, and what they depend on, so that they install without a network."""
ALWAYS = ("mount",)
"""What entering a root needs inside of it."""
KINDS = {kind.name: kind for kind in (BUILD, IMAGE, QEMU, MACHINE)}

ENTER = """
root=$1 cwd=$2; shift 2
mount --bind "$root" "$root"; cd "$root"
mkdir -p proc sys dev tmp run .outside
mount -t proc proc proc
mount --rbind /sys sys 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
  [[ -e /dev/$node ]] || continue
  : >dev/$node; mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm; mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr; chmod 1777 dev/shm tmp
while [[ $1 != -- ]]; do
  from=$1 to=.$2 how=$3; shift 3
  if [[ -d $from ]]; then mkdir -p "$to"; else mkdir -p "${to%/*}"; [[ -e $to ]] || : >"$to"; fi
  mount --bind "$from" "$to"
  [[ $how == rw ]] || mount -o remount,bind,ro "$to" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$to"
done
shift
pivot_root . .outside; cd /; umount -l .outside; rmdir .outside; cd "$cwd"
exec "$@"
"""
"""Enters a root: its own mounts and processes, and what was asked for bound into it."""


@dataclass(frozen=True)
class Bind:
    """A file or folder of the machine, to be seen inside; read-only unless said otherwise."""

    outside: Path
    inside: str
    writable: bool = False


def cache_dir() -> Path:
    """Where roots are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "duxos"
    path.mkdir(parents=True, exist_ok=True)
    return path


def namespaces(network: bool = True) -> list[str]:
    """The command that gives a program its own mounts and processes, and the rights of root over the root's files.

    Raises Failed when this user may not have them.
    """
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    if os.geteuid() != 0:
        _check_user()
        command += ["--user", "--map-root-user", "--map-auto"]
    return command if network else [*command, "--net"]


def _check_user() -> None:
    user = getpass.getuser()
    able = shutil.which("newuidmap") and any(
        line.split(":")[0] in (user, str(os.getuid())) for line in _lines(Path("/etc/subuid"))
    )
    if not able:
        raise Failed(
            f"building a Debian root needs root, or a user with subordinate ids; {user} has none.\n"
            "Run it as root (sudo make …), or once, as root: apt install mmdebstrap uidmap && "
            f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _have_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failed("mmdebstrap is needed to make a Debian root; now, as root: apt install mmdebstrap")
    log = cache_dir() / "mmdebstrap-install.log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run_logged(["apt-get", "-q", "update"], log, "reading the list of Debian packages", env=environment)
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", "mmdebstrap"]
    run_logged(install, log, "installing mmdebstrap", env=environment)


def _proxies() -> list[str]:
    """apt's own proxies, which mmdebstrap would not read."""
    found = []
    for scheme in ("http", "https"):
        key = f"Acquire::{scheme}::Proxy"
        command = ["apt-config", "shell", "value", key]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if text.startswith("value='"):
            found.append(f'--aptopt={key} "{text[7:-1]}"')
    return found


def _key(kind: Kind, suite: str, sources: Sequence[Source]) -> str:
    parts = [suite, kind.variant, *sorted(kind.packages), str(kind.lean), mirror.architecture(), mirror.deb822(sources)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def cached(kind: Kind, sources: Sequence[Source] | None = None, suite: str = SUITE, *, fresh: bool = False) -> Path:
    """The tar file of a root of this kind, made if there is none, it is too old, or `fresh` is asked for.

    Two at once make it once: the second waits.  Raises Failed (NoMirror among them) with what to do.
    """
    if sources is None:
        sources = mirror.sources(suite)
    cache = cache_dir()
    target = cache / f"{kind.name}-{suite}-{_key(kind, suite, sources)}.tar"
    with (cache / f"{kind.name}-{suite}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another build is making the {kind.name} root; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh or not target.exists() or time.time() - target.stat().st_mtime > MAX_AGE_S:
            _make(kind, sources, suite, target)
        kept.use(target)
        kept.remove_unused(cache.glob(f"{kind.name}-{suite}-*"), target, _remove)
    return target


def _make(kind: Kind, sources: Sequence[Source], suite: str, target: Path) -> None:
    _have_mmdebstrap()
    if os.geteuid() != 0:
        _check_user()
    log = target.with_suffix(".log")
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=target.parent) as folder:
        # mmdebstrap writes and reads as a subordinate user when it runs without root.
        Path(folder).chmod(0o755)
        listed = Path(folder) / "debian.sources"
        listed.write_text(mirror.deb822(sources), encoding="utf-8")
        made = Path(folder) / "root.tar"
        command = ["mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}", f"--variant={kind.variant}"]
        command += ["--format=tar", f"--include={','.join((*kind.packages, *ALWAYS))}", *_proxies()]
        if kind.lean:
            command += [f"--dpkgopt=path-exclude={path}" for path in ("/usr/share/doc/*", "/usr/share/locale/*/*")]
        command += [suite, str(made), str(listed)]
        run_logged(
            command, log, f"making the {kind.name} root of {suite} (once; kept in {target.parent})", process_group=0
        )
        made.replace(target)


@contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C that comes inside counts at the end: a process that is being started would else be unknown and live on."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


class Root:
    """An unpacked root, to run commands in; made by `unpacked`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self,
        *command: str,
        binds: Sequence[Bind] = (),
        network: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        log: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root of this root; its output goes to `log` (appended), or comes back in `.stdout`.

        When this ends, for whatever reason, no process of the command is left.  Raises Failed for a status
        other than 0.
        """
        words: list[str] = []
        for bind in binds:
            words += [str(bind.outside), bind.inside, "rw" if bind.writable else "ro"]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **(env or {}),
        }
        if network:
            (self.path / "etc/resolv.conf").unlink(missing_ok=True)
            (self.path / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
        # Absolute, because PATH is the root's.
        unshare, *options = namespaces(network)
        # It dies with this program, however this ends, also between being started and being known here.
        full = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", shutil.which(unshare) or unshare, *options]
        full += ["/bin/bash", "-euc", ENTER, "enter", str(self.path), cwd]
        full += [*words, "--", *command]
        watch, held = os.pipe()
        output = log.open("ab") if log else subprocess.PIPE
        process: subprocess.Popen[bytes] | None = None
        try:
            with interrupted_afterwards():
                process = subprocess.Popen(
                    full,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(held,),
                    process_group=0,
                )
            text = (process.communicate()[0] or b"").decode(errors="replace")
        finally:
            os.close(held)
            if process is not None:
                # unshare's death kills its child, whose death ends all processes of the namespace; each of them holds
                # the pipe, so its end says that the last is gone.
                process.kill()
                process.wait()
                select.select([watch], [], [], 20)
            os.close(watch)
            if log:
                output.close()  # type: ignore[union-attr]
        if check and process.returncode:
            tail = last_lines(log) + f"\nThe whole output is in {log}" if log else text[-3000:]
            raise Failed(f"{command[0]} failed with status {process.returncode}\n{tail}")
        return subprocess.CompletedProcess(command, process.returncode, text, "")


def folder(kind: Kind, sources: Sequence[Source] | None = None, suite: str = SUITE) -> Path:
    """A cached root as a folder that is only to be read (for an overlay); for root alone.

    It stays as it is: a newer root is another folder.  Raises Failed.
    """
    if os.geteuid() != 0:
        raise Failed("a root as a folder needs root (sudo)")
    tar = cached(kind, sources, suite)
    target = tar.with_suffix("")
    with tar.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = target / "root"
        # Newer than the tar, or it is of the one before.
        if not made.exists() or target.stat().st_mtime < tar.stat().st_mtime:
            _remove(target)
            with unpacked(tar) as root:
                part = target.with_suffix(".part")
                _remove(part)
                part.mkdir()
                root.path.rename(part / "root")
            part.rename(target)
            os.utime(target)
    return made


@contextmanager
def unpacked(tar: Path, what: str = "unpacking the root") -> Iterator[Root]:
    """A fresh copy of a cached root, removed at the end.  Raises Failed when it can't be unpacked (disk full)."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=cache_dir()))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            folder.chmod(0o755)
            path = folder / "root"
            path.mkdir()
            extract = ["tar", "-C", str(path), "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"]
            with step(what):
                done = subprocess.run([*_as_owner(), *extract, "-xf", str(tar)], capture_output=True, check=False)
            if done.returncode:
                raise Failed(f"{what}: {done.stderr.decode(errors='replace')[-500:]}")
            yield Root(path)
        finally:
            _remove(folder)


def _as_owner() -> list[str]:
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto"]


def _remove(folder: Path) -> None:
    subprocess.run([*_as_owner(), "rm", "-rf", "--one-file-system", str(folder)], check=False)


def _sweep() -> None:
    """Remove the copies that a killed build left: nobody holds their locks."""
    for folder in cache_dir().glob("work-*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
        except OSError:
            continue


def main() -> int:
    """Make a root, or run a command in one; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--fresh", action="store_true", help="make it anew")
    parser.add_argument("--network", action="store_true", help="let the command use the network")
    mirror.add_options(parser)
    parser.add_argument("command", nargs="*", help="what to run in a copy of it")
    options = parser.parse_args()
    sources = mirror.sources(mirror=options.mirror, security_mirror=options.security_mirror)
    tar = cached(KINDS[options.kind], sources, fresh=options.fresh)
    if not options.command:
        print(tar)
        return 0
    with unpacked(tar) as root:
        done = root.run(*options.command, network=options.network, check=False)
    print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    ended(main)
