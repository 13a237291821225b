"""The folders of the worker and the parts of the machine's file system that every sandbox shows."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from .profile import INSIDE_UID

USR_MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

_FILES = {
    "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\ntask:x:{INSIDE_UID}:{INSIDE_UID}:task:/work:/bin/sh\n",
    "group": f"root:x:0:\ntask:x:{INSIDE_UID}:\n",
    "hosts": "127.0.0.1 localhost task\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
_COPIED = ("ld.so.cache", "ssl/certs/ca-certificates.crt")


def usr_layout(root: Path = Path("/")) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Links (target, path) into /usr, and folders that stand beside it on a machine whose /usr is not merged."""
    links, folders = [], []
    for name in USR_MERGED:
        path = root / name.lstrip("/")
        if path.is_symlink():
            links.append((str(path.readlink()), name))
        elif path.is_dir():
            folders.append(name)
    return tuple(links), tuple(folders)


def make_etc(target: Path, source: Path = Path("/etc")) -> None:
    """A small /etc: no account of the machine, no address, no secret; what the loader and TLS need."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, text in _FILES.items():
        (target / name).write_text(text)
    for name in _COPIED:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    alternatives = source / "alternatives"
    if alternatives.is_dir():
        (target / "alternatives").mkdir()
        for link in alternatives.iterdir():
            if link.is_symlink() and str(link.readlink()).startswith("/usr/"):
                (target / "alternatives" / link.name).symlink_to(link.readlink())
    for folder, _, files in os.walk(target):
        Path(folder).chmod(0o755)
        for file in files:
            if not (path := Path(folder, file)).is_symlink():
                path.chmod(0o644)


def enterable(folder: Path) -> bool:
    """Whether any user can go through all the folders above `folder` and into it."""
    return all(path.is_dir() and path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


def make_work(folder: Path) -> None:
    """The worker's own folder with `tasks/` emptied; task uids may go through it, not list it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    shutil.rmtree(folder / "tasks", ignore_errors=True)
    (folder / "tasks").mkdir()
    (folder / "tasks").chmod(0o711)
    make_etc(folder / "etc")
