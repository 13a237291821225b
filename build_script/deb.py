"""Builds the Debian packages, in a clean root of Debian 13 that it makes and keeps itself.

python build_script/deb.py                        # → build/deb/*.deb
python build_script/deb.py --verify               # build twice, in different surroundings; must be the same bits
python build_script/deb.py --version 0.0.9 --output build/deb-old   # as an older version, to try upgrades
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script import mirror
from build_script.buildroot import BUILD, Bind, Root, cached, unpacked
from build_script.mirror import Source
from build_script.progress import Failed, ended, last_lines, step
from build_script.wheels import wheels

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "deb"
LINTIAN = ("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0")
OUTSIDE = ("tests/", "benchmarks/", "build_script/image", "build_script/Dockerfile", ".ci/")
"""Tracked files that no package is made from."""


@dataclass(frozen=True)
class Surroundings:
    """What must not show in a package: where and how it was built."""

    folder: str = "/build/duxos"
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022


ELSEWHERE = Surroundings(
    "/srv/another/place/of/duxos",
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "USER": "somebody", "DEB_BUILD_OPTIONS": "parallel=1"},
    0o077,
)


def tracked(top: Path = ROOT) -> list[str]:
    """What git tracks and the packages are made from, sorted; files that were removed are left out.

    Raises Failed where there is no git repository.
    """
    command = ["git", "-c", "safe.directory=*", "-C", str(top), "ls-files", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise Failed("git is needed to know which files belong to the project; now: apt install git") from error
    if done.returncode:
        raise Failed(f"{top} is no git repository: {done.stderr.decode(errors='replace').strip()}")
    names = [name for name in done.stdout.decode().split("\0") if name and not name.startswith(OUTSIDE)]
    return sorted(name for name in names if (top / name).is_file())


def fingerprint(names: Sequence[str], top: Path, *more: str) -> str:
    """A hash over names, modes and contents of files, and `more`."""
    found = hashlib.sha256()
    for name in names:
        path = top / name
        executable = b"x" if os.access(path, os.X_OK) else b"-"
        found.update(name.encode() + b"\0" + executable + hashlib.sha256(path.read_bytes()).digest())
    found.update("\0".join(more).encode())
    return found.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lay_out(names: Sequence[str], target: Path, version: str | None, top: Path = ROOT) -> None:
    """Copy the files; with a `version`, as if the project had it."""
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(top / name, path)
        path.chmod(0o755 if os.access(top / name, os.X_OK) else 0o644)
    if version is not None:
        _replace(target / "debian/changelog", r"\A(\S+ \()[^)]+", rf"\g<1>{version}")
        _replace(target / "duxcommon/__init__.py", r'(__version__ = ")[^"]+', rf"\g<1>{version}")


def _replace(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1)
    if not count:
        raise Failed(f"{path.name} does not have the form that --version can change")
    path.write_text(text, encoding="utf-8")


def _one_build(
    root: Root, names: Sequence[str], vendor: Path, version: str | None, around: Surroundings, log: Path, into: Path
) -> None:
    """Build in `root` and move the packages to `into`."""
    inside = root.path / around.folder.lstrip("/")
    lay_out(names, inside, version)
    environment = {"DUX_WHEELS": "/wheels", **around.environment}
    command = f"umask {around.umask:04o}; exec dpkg-buildpackage -b -uc -us"
    root.run(
        "sh", "-c", command, binds=[Bind(vendor, "/wheels")], cwd=around.folder, env=environment, log=log
    )  # fmt: skip
    for path in inside.parent.glob("*.deb"):
        shutil.copyfile(path, into / path.name)


def _check(root: Root, folder: Path, log: Path) -> None:
    names = sorted(f"/debs/{path.name}" for path in folder.glob("*.deb"))
    done = root.run(*LINTIAN, *names, binds=[Bind(folder, "/debs")], log=log, check=False)
    if done.returncode:
        raise Failed(f"lintian does not accept the packages\n{last_lines(log, 30)}\nThe whole output is in {log}")


def _same(first: Path, second: Path, keep: Path) -> None:
    """Raises Failed, names the packages that differ, and keeps both in `keep`."""
    found = [{path.name: digest(path) for path in folder.glob("*.deb")} for folder in (first, second)]
    differing = sorted(name for name in found[0].keys() | found[1].keys() if found[0].get(name) != found[1].get(name))
    if differing:
        shutil.rmtree(keep, ignore_errors=True)
        for folder, name in ((first, "first"), (second, "second")):
            (keep / name).mkdir(parents=True)
            for package in differing:
                shutil.copyfile(folder / package, keep / name / package)
        raise Failed(f"two builds differ in {', '.join(differing)}; now: diffoscope {keep}/first {keep}/second")


def up_to_date(output: Path, inputs: str) -> bool:
    """Whether `output` holds, untouched, what was made from these inputs."""
    try:
        made = json.loads((output / "made.json").read_text(encoding="utf-8"))
        same: bool = made["inputs"] == inputs and all(
            digest(output / name) == sha256 for name, sha256 in made["packages"].items()
        )
        return same
    except (OSError, ValueError, KeyError, TypeError):
        return False


def build(
    output: Path = OUTPUT,
    *,
    sources: Sequence[Source] | None = None,
    version: str | None = None,
    verify: bool = False,
) -> list[Path]:
    """The packages in `output`, built unless they are up to date; two at once build once.

    `verify` builds twice in different surroundings and compares.  Raises Failed with the log's name.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = tracked()
        inputs = fingerprint(names, ROOT, version or "", "\0".join(BUILD.packages), mirror.architecture())
        if verify or not up_to_date(output, inputs):
            _build(output, names, sources, version, verify, inputs)
        return sorted(output.glob("*.deb"))


def _build(
    output: Path,
    names: Sequence[str],
    sources: Sequence[Source] | None,
    version: str | None,
    verify: bool,
    inputs: str,
) -> None:
    log = output / "build.log"
    log.unlink(missing_ok=True)
    (output / "made.json").unlink(missing_ok=True)
    tar = cached(BUILD, sources)
    vendor = wheels(tar, ROOT / "requirements.lock")
    with tempfile.TemporaryDirectory(prefix=".making-", dir=output) as made:
        part = Path(made)
        # Readable for who builds as a subordinate user.
        part.chmod(0o755)
        with unpacked(tar) as root:
            with step("building the packages"):
                _one_build(root, names, vendor, version, Surroundings(), log, part)
            with step("checking them with lintian"):
                _check(root, part, log)
        if verify:
            again = part / "again"
            again.mkdir()
            with unpacked(tar, "unpacking the root again") as root, step("building them a second time, elsewhere"):
                _one_build(root, names, vendor, version, ELSEWHERE, log, again)
            _same(part, again, output / "differing")
            print("both builds are the same, bit for bit", flush=True)
        for old in output.glob("*.deb"):
            old.unlink()
        packages = {}
        for path in sorted(part.glob("*.deb")):
            packages[path.name] = digest(path)
            path.replace(output / path.name)
    (output / "made.json").write_text(json.dumps({"inputs": inputs, "packages": packages}, indent=1) + "\n")


def main() -> int:
    """Build and list; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="where to (default: build/deb)")
    parser.add_argument("--version", metavar="V", help="build as this version instead of the project's")
    parser.add_argument("--verify", action="store_true", help="build twice and compare")
    parser.add_argument("--json", action="store_true", help="print the packages as JSON")
    mirror.add_options(parser)
    options = parser.parse_args()
    sources = None
    if options.mirror or options.security_mirror:
        sources = mirror.sources(mirror=options.mirror, security_mirror=options.security_mirror)
    packages = build(options.output, sources=sources, version=options.version, verify=options.verify)
    if options.json:
        print(json.dumps([{"path": str(p), "bytes": p.stat().st_size, "sha256": digest(p)} for p in packages]))
        return 0
    for path in packages:
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        print(f"{path.stat().st_size / 1e6:8.3f} MB  {digest(path)[:16]}  {shown}")
    return 0


if __name__ == "__main__":
    ended(main)
