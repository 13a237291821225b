"""Build the live image of Dux OS: boots from a stick or a DVD, by BIOS or UEFI, with a running node.

Needs root, or a user with subordinate ids; Debian packages come from this machine's own mirror. What is made:

  duxos-FLAVOUR-VERSION-amd64.iso             copy it to a stick as it is (docs/image.md)
  duxos-FLAVOUR-VERSION-amd64.packages        every package in it, with its version
  duxos-FLAVOUR-VERSION-amd64.sha256          check both with sha256sum --check
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_script import buildroot, deb, image_iso, image_root, image_snapshot, mirror
from build_script.image_root import FLAVOURS, Release
from build_script.mirror import Source
from build_script.progress import Failed, ended

ROOT = Path(__file__).resolve().parent.parent
BASE_EPOCH = 1754697600
"""Dates in the cached base: Debian 13's own day, so that a base made today and one made in a week are the same."""
NEEDED_BYTES = 4_000_000_000
"""Two unpacked roots, the ISO twice; the desktop takes twice that."""


def version() -> str:
    """The version in duxcommon.  Raises Failed when it can't be read."""
    found = re.search(r'^__version__ = "([^"]+)"', (ROOT / "duxcommon/__init__.py").read_text("utf-8"), re.M)
    if not found:
        raise Failed("duxcommon/__init__.py names no version")
    return found[1]


def epoch() -> int:
    """The moment that all dates in the image stand for: SOURCE_DATE_EPOCH, else this commit's, else the base's."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        if not given.isdigit():
            raise Failed(f"SOURCE_DATE_EPOCH={given}: whole seconds since 1970 are needed")
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return BASE_EPOCH
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip().isdigit() else BASE_EPOCH


def build(release: Release, sources: Sequence[Source], debs: Sequence[Path], out: Path) -> Path:
    """Build the image into `out` and return its path.  Raises Failed with what to do."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{release.stem}.log"
    log.unlink(missing_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.environ["SOURCE_DATE_EPOCH"] = str(BASE_EPOCH)
        base = buildroot.cached(image_root.base(release.flavour), sources)
        image_tools = buildroot.cached(buildroot.IMAGE, sources)
        os.environ["SOURCE_DATE_EPOCH"] = str(release.epoch)
        with buildroot.unpacked(base, "unpacking Debian") as live:
            image_root.furnish(live, release, debs, sources, log)
            listing = out / f"{release.stem}.packages"
            listing.write_text(image_root.listing(live), "utf-8")
            with buildroot.unpacked(image_tools, "unpacking the tools") as tools:
                iso = image_iso.build(tools, live, release, out, log)
        (out / f"{release.stem}.sha256").write_text(image_iso.sums([iso, listing]), "utf-8")
    return iso


def packages(given: Path | None) -> list[Path]:
    """The dux-* packages: those of a folder, or built now.  Raises Failed when there are none."""
    if given is None:
        return deb.build()
    found = sorted(given.glob("*.deb"))
    if not found:
        raise Failed(f"{given} holds no .deb; build them with `make deb`, or leave --packages out")
    return found


def main() -> int:
    """Parse, build, say what was made; the exit status."""
    parser = argparse.ArgumentParser(
        prog="build_duxos.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: build_script/build_duxos.sh --flavour minimal --output /tmp/duxos",
    )
    parser.add_argument("--flavour", choices=FLAVOURS, default="minimal", help="minimal has no desktop (the default)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", metavar="FOLDER", help="default: build/")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="take the dux-* packages from here")
    parser.add_argument("--snapshot", metavar="DATE", help="Debian as it was then, where the mirror keeps snapshots")
    parser.add_argument("--list", action="store_true", help="print Debian's packages of the flavour, and build nothing")
    parser.add_argument("--version", action="version", version=f"Dux OS {version()}")
    mirror.add_options(parser)
    options = parser.parse_args()
    release = Release(version(), options.flavour, epoch())
    if options.list:
        print("\n".join(image_root.packages(release.flavour)))
        return 0
    if mirror.architecture() != "amd64":
        raise Failed(f"the image is for amd64, and is built there; this machine is {mirror.architecture()}")
    need = NEEDED_BYTES * (2 if release.flavour == "desktop" else 1)
    for folder in (buildroot.cache_dir(), options.output.absolute().parent):
        if folder.exists() and shutil.disk_usage(folder).free < need:
            raise Failed(f"{folder} has less than {need // 10**9} GB free, and the build needs that much")
    start = time.monotonic()
    sources = mirror.sources(mirror=options.mirror, security_mirror=options.security_mirror)
    if options.snapshot:
        sources = image_snapshot.dated(sources, options.snapshot)
    iso = build(release, sources, packages(options.packages), options.output)
    print(f"{iso}: {iso.stat().st_size / 1e6:.0f} MB, built in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    ended(main)
