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
BATCH_S = 12 * 3600


def touches_packaging(paths: Iterable[str]) -> bool:
    """Whether one of the paths of the repository belongs to packaging."""
    return any(path.startswith(PACKAGING) for path in paths)


def changed() -> list[str] | None:
    """The paths that this change touches; None where git can't tell.

    A clone does not say where a change began. A batch of commits is taken for one change: those of the hours before
    the last one, and what is not committed yet.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if git("rev-parse", "--is-shallow-repository") != "false":
            return None
        begun = int(git("log", "-1", "--format=%ct")) - BATCH_S
        return [
            *git("log", f"--since=@{begun}", "--format=", "--name-only").splitlines(),
            *git("diff", "--name-only", "HEAD").splitlines(),
            *git("ls-files", "-o", "--exclude-standard").splitlines(),
        ]
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def packaging_changed() -> bool:
    """Whether the image has to be tested: also where nothing is known of the change."""
    paths = changed()
    return paths is None or touches_packaging(paths)
