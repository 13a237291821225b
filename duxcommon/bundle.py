"""An app's bundle: one deterministic tar of its folder, and its manifest `dux.yaml`.

The tar is plain ustar: files and folders only, sorted, without times and owners, so that the same folder gives the
same bytes and the same hash everywhere. Reading trusts nothing: links, devices, extensions (pax, GNU, sparse),
absolute paths, `..` and doubled names are refused, and bytes and members are capped before anything is written.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .api.manifest import Manifest
from .config import parse_yaml, validate
from .errors import BadBundle, BadManifest, BundleTooLarge, ConfigError, InvalidParams
from .money import parse_flop

MANIFEST = "dux.yaml"
SITE = "site"
"""Folder of the unpacked wheels; on PYTHONPATH inside the sandbox."""
MANIFEST_BYTES = 24 * 1024
"""A listing carries the manifest, and the directory's records stay below 56 KB sealed."""
BLOCK = tarfile.BLOCKSIZE
MAX_DEPTH = 24
_LEFT_OUT = frozenset({"__pycache__", "node_modules"})
_LEFT_OUT_ENDINGS = (".pyc", ".pyo", "~", ".swp")


@dataclass(frozen=True)
class Limits:
    """What a bundle may hold: bytes of the whole tar, and files and folders together."""

    bytes: int = 64 * 1024 * 1024
    members: int = 10_000


LIMITS = Limits()


@dataclass(frozen=True)
class Packed:
    """A bundle that was written: its SHA-256 in hex, its size in bytes, its members."""

    hash: str
    size: int
    members: int


@dataclass(frozen=True)
class Member:
    """One file or folder of a bundle; `mode` is as the tar says and must not be applied unmasked."""

    path: str
    folder: bool
    size: int
    mode: int
    offset: int


# --- the manifest ----------------------------------------------------------------------------------------------


def parse_manifest(text: str, origin: str = MANIFEST) -> Manifest:
    """The manifest in YAML text, its price written in FLOP. Raises BadManifest naming `origin` and the line."""
    if len(text.encode("utf-8", "replace")) > MANIFEST_BYTES:
        raise BadManifest(f"{origin} is larger than {MANIFEST_BYTES} bytes")
    try:
        value, lines = parse_yaml(text, origin)
        where = {path: f"{origin}, line {line}" for path, line in lines.items()}
        if "price" in value:
            value = {**value, "price": _price(value["price"], where[("price",)])}
        _no_floats(value, (), where, origin)
        return validate(Manifest, value, where, origin)
    except ConfigError as error:
        raise BadManifest(error.message) from error


def load_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises BadManifest."""
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES + 1).decode()
    except FileNotFoundError:
        raise BadManifest(
            f"{path} is missing", hint=f"An app is a folder with a {MANIFEST}; `dux-ctl app init NAME` makes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadManifest(f"can't read {path}: {error}") from error
    return parse_manifest(text, str(path))


def _price(value: Any, place: str) -> int:
    # YAML has made 0.1 a binary fraction before we see it, so only text and whole numbers are exact.
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise BadManifest(f'{place}: price: write FLOP in quotes, like price: "0.5"')
    try:
        return parse_flop(value)
    except InvalidParams as error:
        raise BadManifest(f"{place}: price: {error.message}; {error.hint}") from error


def _no_floats(value: Any, path: tuple[str, ...], where: dict[tuple[str, ...], str], origin: str) -> None:
    if isinstance(value, float):
        place = where.get(path, origin)
        raise BadManifest(f"{place}: {'.'.join(path)}: decimals are not allowed; use whole numbers or text in quotes")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _no_floats(item, (*path, str(key)), where, origin)


# --- packing ---------------------------------------------------------------------------------------------------


def pack(folder: Path, target: Path, *, site: Path | None = None, limits: Limits = LIMITS) -> Packed:
    """Write the bundle of `folder` to `target`; `site` goes in as `site/`.

    Hidden files, compiled Python and editors' backups stay out. Raises BadManifest, BadBundle (a link, a device, a
    name that can't be packed) and BundleTooLarge; then `target` is not touched.
    """
    load_manifest(folder / MANIFEST)
    sources = dict(_tree(folder, "", limits))
    if site is not None:
        if SITE in sources:
            raise BadBundle(f"{folder / SITE} is in the way of the locked wheels", hint="Rename the folder.")
        sources[SITE] = site
        sources.update(_tree(site, f"{SITE}/", limits))
    if len(sources) > limits.members:
        raise BundleTooLarge(f"{folder} has more than {limits.members} files and folders")
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".pack", delete=False) as out:
        part = Path(out.name)
        try:
            hasher = _Hashing(out, limits.bytes)
            for name in sorted(sources, key=lambda name: name.split("/")):
                _add(hasher, name, sources[name])
            hasher.write(bytes(2 * BLOCK))
            out.flush()
            os.fsync(out.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return Packed(hasher.digest.hexdigest(), hasher.size, len(sources))


def left_out(name: str) -> bool:
    """Whether packing leaves out a file or folder of this name: hidden, compiled, or an editor's leftover."""
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(_LEFT_OUT_ENDINGS)


def _tree(folder: Path, prefix: str, limits: Limits) -> Iterator[tuple[str, Path]]:
    count = 0
    stack = [(folder, prefix)]
    while stack:
        here, base = stack.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            raise BadBundle(f"can't read {here}: {error.strerror}", hint="Mend its permissions.") from error
        for entry in entries:
            if left_out(entry.name):
                continue
            if (count := count + 1) > limits.members:
                raise BundleTooLarge(f"{folder} has more than {limits.members} files and folders")
            path = Path(entry.path)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise BadBundle(f"{path} is neither a file nor a folder", hint="Replace links by what they point to.")
            yield base + entry.name, path
            if entry.is_dir():
                stack.append((path, f"{base}{entry.name}/"))


class _Hashing:
    """Writes through to a file, hashing and capping."""

    def __init__(self, out: IO[bytes], limit: int) -> None:
        self.out, self.limit = out, limit
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            raise BundleTooLarge(f"the bundle is larger than {self.limit} bytes")
        self.digest.update(data)
        self.out.write(data)


def _add(out: _Hashing, name: str, source: Path) -> None:
    check_path(name)
    info = tarfile.TarInfo(name)
    if source.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        out.write(_header(info, source))
        return
    # A pipe that was put in the file's place must not make packing wait for ever.
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadBundle(f"can't read {source}: {error.strerror}", hint="Mend its permissions.") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        info.size = left = status.st_size
        out.write(_header(info, source))
        while left:
            data = file.read(min(left, 1 << 20))
            if not data:
                raise BadBundle(f"{source} became shorter while it was read", hint="Pack again.")
            out.write(data)
            left -= len(data)
        out.write(bytes(-info.size % BLOCK))


def _header(info: tarfile.TarInfo, source: Path) -> bytes:
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise BadBundle(f"{source} can't be packed: {error}", hint="Use a shorter name.") from error


# --- reading ---------------------------------------------------------------------------------------------------


def check_path(path: str) -> None:
    """Raises BadBundle unless `path` is relative, printable, without `..` and not too deep."""
    parts = path.split("/")
    if not path or not path.isprintable() or len(parts) > MAX_DEPTH or any(part in ("", ".", "..") for part in parts):
        raise BadBundle(f"the bundle holds a member named {path[:100]!r}")


def members(bundle: IO[bytes], limits: Limits = LIMITS) -> Iterator[Member]:
    """The members of an open bundle, in order; each was checked, nothing is read but headers.

    Raises BadBundle and BundleTooLarge, possibly after some members were yielded: what is done with them must be
    undone then, as `unpack` does.
    """
    total = bundle.seek(0, os.SEEK_END)
    if total > limits.bytes:
        raise BundleTooLarge(f"the bundle is {total} bytes, more than {limits.bytes}")
    folders: dict[str, bool] = {}
    offset = 0
    while True:
        bundle.seek(offset)
        block = bundle.read(BLOCK)
        if len(block) < BLOCK:
            raise BadBundle("the bundle is cut off")
        if not any(block):
            break
        member = _member(block, offset + BLOCK)
        if member.path in folders:
            raise BadBundle(f"the bundle holds {member.path[:100]!r} twice")
        parent = member.path.rpartition("/")[0]
        if parent and not folders.get(parent, False):
            raise BadBundle(f"the bundle holds {member.path[:100]!r} before its folder")
        if len(folders) >= limits.members:
            raise BundleTooLarge(f"the bundle has more than {limits.members} members")
        folders[member.path] = member.folder
        offset = member.offset + member.size + -member.size % BLOCK
        if offset > total:
            raise BadBundle(f"the bundle is cut off in {member.path[:100]!r}")
        yield member
    if total - offset < 2 * BLOCK:
        raise BadBundle("the bundle is cut off")
    bundle.seek(offset)
    if total - offset > 64 * BLOCK or any(bundle.read(64 * BLOCK)):
        raise BadBundle("something follows the bundle's end")


def _member(block: bytes, data_offset: int) -> Member:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
        raise BadBundle(f"not a plain tar: {error}") from error
    if info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
        raise BadBundle(
            f"the bundle holds {info.name[:100]!r} of type {info.type!r}",
            hint="Only files and folders are allowed: no links, devices, sparse files or extended headers.",
        )
    folder = info.type == tarfile.DIRTYPE
    path = info.name.removesuffix("/") if folder else info.name
    check_path(path)
    if info.size < 0 or (folder and info.size):
        raise BadBundle(f"the bundle holds {path[:100]!r} with an impossible size")
    return Member(path, folder, info.size, info.mode, data_offset)


def content(bundle: IO[bytes], member: Member, length: int | None = None) -> bytes:
    """The member's bytes, at most `length` of them."""
    bundle.seek(member.offset)
    return bundle.read(member.size if length is None else min(length, member.size))


def read_manifest(bundle: Path) -> Manifest:
    """The manifest inside a bundle. Raises BadManifest, BadBundle, BundleTooLarge."""
    with bundle.open("rb") as file:
        for member in members(file):
            if member.path == MANIFEST and not member.folder:
                return manifest_of(file, member)
    raise BadManifest(f"the bundle has no {MANIFEST}")


def manifest_of(bundle: IO[bytes], member: Member) -> Manifest:
    """The manifest that `member` of an open bundle holds. Raises BadManifest."""
    try:
        return parse_manifest(content(bundle, member, MANIFEST_BYTES + 1).decode())
    except UnicodeDecodeError as error:
        raise BadManifest(f"{MANIFEST} is not UTF-8 text: {error}") from error


def unpack(bundle: Path, target: Path, limits: Limits = LIMITS) -> None:
    """Unpack into the new folder `target`, which appears whole or not at all.

    Files get mode 0644 or 0755 whatever the tar says. Raises BadBundle, BundleTooLarge; FileExistsError where
    something is at `target` already.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpack"))
    try:
        with bundle.open("rb") as file:
            for member in members(file, limits):
                path = part / member.path
                if member.folder:
                    path.mkdir()
                    path.chmod(0o755)  # whatever the umask: the sandbox reads it as another user
                else:
                    _write(path, file, member)
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write(path: Path, bundle: IO[bytes], member: Member) -> None:
    mode = 0o755 if member.mode & stat.S_IXUSR else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        os.fchmod(descriptor, mode)
        bundle.seek(member.offset)
        left = member.size
        while left:
            data = bundle.read(min(left, 1 << 20))
            if not data:
                raise BadBundle(f"the bundle is cut off in {member.path[:100]!r}")
            out.write(data)
            left -= len(data)
