"""Whether a change touches what the image is made of."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGING = (
    "Makefile", "apps/", "build_script/", "debian/", "dux_setup/", "etc-duxnet/", "pyproject.toml",
    "requirements", "systemd/", "tests/os/",
)  # fmt: skip
"""Paths, by how they begin. The daemons' own code is proved on a booted machine by the other tests."""


def touches_packaging(paths: Iterable[str]) -> bool:
    """Whether one of the paths of the repository belongs to packaging."""
    return any(path.startswith(PACKAGING) for path in paths)


def changed() -> list[str] | None:
    """The paths that differ from where this change began; None where git can't tell."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        bases = git("for-each-ref", "--format=%(objectname)", "refs/remotes/origin/main").split()
        begun = git("merge-base", head, bases[0]) if bases else head
        begun = begun if begun != head else git("rev-parse", "HEAD~1")
        return [
            *git("diff", "--name-only", begun).splitlines(),
            *git("ls-files", "-o", "--exclude-standard").splitlines(),
        ]
    except (OSError, subprocess.CalledProcessError):
        return None


def packaging_changed() -> bool:
    """Whether the image has to be tested: also where nothing is known of the change."""
    paths = changed()
    return paths is None or touches_packaging(paths)
