"""The locked wheels of an app: downloaded by pip for the sandbox's Python, checked, unpacked beside the app's code."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from duxcommon.bundle import LIMITS, check_path
from duxcommon.errors import BadBundle, BundleTooLarge, WheelsMissing
from duxcommon.machine import SANDBOX_PYTHON, Machine, this_machine

LOCK = "requirements.lock"
DOWNLOAD_S = 600
_REQUIREMENT = re.compile(
    r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+( *;[^#]*?)?( +--hash=sha256:[0-9a-f]{64})+$"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def locked_hashes(lock: Path) -> set[str]:
    """SHA-256 of every wheel that the lock allows. Raises WheelsMissing naming a line that is not locked.

    A line is `name==version --hash=sha256:…`; options, addresses and paths are refused, so that a lock says what
    goes in and not where it comes from.
    """
    hashes: set[str] = set()
    whole = ""
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if line.endswith("\\"):
            whole += line[:-1] + " "
            continue
        whole = re.sub(r"\s+", " ", whole + line).strip()
        if whole:
            if not _REQUIREMENT.match(whole):
                raise WheelsMissing(
                    f"{lock}, line {number}: not of the form name==version --hash=sha256:…",
                    hint="Write it with `uv pip compile --generate-hashes --no-annotate requirements.in`.",
                )
            hashes.update(_HASH.findall(whole))
        whole = ""
    return hashes


def unpack_locked(lock: Path, site: Path, note: Callable[[str], None]) -> bool:
    """Unpack the wheels that `lock` names into the new folder `site`; False where it names none.

    They are downloaded once for each lock and Python and kept in the user's cache. Raises WheelsMissing,
    BadBundle, BundleTooLarge.
    """
    hashes = locked_hashes(lock)
    if not hashes:
        return False
    machine = this_machine()
    if not machine.python:
        raise WheelsMissing(f"there is no {SANDBOX_PYTHON} here", hint="Install it: apt install python3.")
    site.mkdir()
    room = LIMITS.bytes
    for wheel in _wheels(lock, hashes, machine, note):
        room -= _unpack(wheel, site, room)
    return True


def fetch(lock: Path, note: Callable[[str], None]) -> None:
    """Download the wheels that `lock` names into the user's cache, where `unpack_locked` finds them. Raises as that."""
    if hashes := locked_hashes(lock):
        _wheels(lock, hashes, this_machine(), note)


def cache_folder(lock: Path, machine: Machine) -> Path:
    """Where the wheels of a lock are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return base / "dux-os" / "wheels" / f"{digest[:32]}-{machine.python}-{machine.arch}"


def _wheels(lock: Path, hashes: set[str], machine: Machine, note: Callable[[str], None]) -> list[Path]:
    kept = cache_folder(lock, machine)
    wheels = sorted(kept.glob("*.whl"))
    if wheels and all(_sha256(wheel) in hashes for wheel in wheels):
        return wheels
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    note(f"downloading the locked wheels for Python {machine.python} (once)")
    part = Path(tempfile.mkdtemp(dir=kept.parent, prefix=".part"))
    try:
        _download(lock, part, machine)
        part.rename(kept)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return sorted(kept.glob("*.whl"))


def _download(lock: Path, target: Path, machine: Machine) -> None:
    options = [
        "download", "--quiet", "--no-input", "--disable-pip-version-check", "--require-hashes", "--no-deps",
        "--only-binary", ":all:", "--python-version", machine.python, "--implementation", "cp",
        "--requirement", str(lock), "--dest", str(target),
    ]  # fmt: skip
    error = ""
    # An installed dux-ctl lives in an environment without pip; Debian's own serves as well.
    for python in dict.fromkeys((sys.executable, SANDBOX_PYTHON)):
        try:
            done = subprocess.run(
                [python, "-m", "pip", *options], capture_output=True, text=True, timeout=DOWNLOAD_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise WheelsMissing(f"pip did not finish within {DOWNLOAD_S} s") from None
        if done.returncode == 0:
            return
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if "No module named pip" in done.stderr:
            error = error or f"{python} has no pip (apt install python3-pip)"
            continue
        error = next(
            (line for line in lines if "HASHES" in line or line.startswith("ERROR")), (lines or ["pip failed"])[-1]
        )
        break
    raise WheelsMissing(f"the wheels of {lock} can't be had: {error.removeprefix('ERROR: ')[:300]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(wheel: Path, site: Path, room: int) -> int:
    """Unpack one wheel as an installer would, without scripts; how many bytes it has."""
    used = 0
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = _target(info.filename)
            if info.is_dir() or path is None:
                continue
            check_path(path)
            used += info.file_size
            if used > room:
                raise BundleTooLarge(f"the locked wheels unpack to more than {LIMITS.bytes} bytes")
            target = site / path
            if target.exists():
                raise BadBundle(f"two wheels bring {path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("xb") as out:
                shutil.copyfileobj(source, out)
            target.chmod(0o755 if info.external_attr >> 16 & 0o111 else 0o644)
    return used


def _target(name: str) -> str | None:
    """Where a wheel's member belongs below site; None for scripts, headers and data, which apps don't use."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    scheme, _, path = rest.partition("/")
    return path if scheme in ("purelib", "platlib") else None
