"""Writes the lock files from pyproject.toml with `uv` (from the PATH): versions and hashes, nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = [
    "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes",
    "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet",
]  # fmt: skip


def main() -> int:
    """Compile the three files; the exit status."""
    build = ROOT / "build" / "build.in"
    build.parent.mkdir(exist_ok=True)
    build.write_text("setuptools>=75\nwheel\n")
    project = ["pyproject.toml", "--extra", "bubblewrap"]
    jobs = [
        [str(build), "-o", "requirements-build.lock"],
        [*project, "-c", "requirements-build.lock", "-o", "requirements.lock"],
        [*project, "--extra", "dev", "-c", "requirements.lock", "-o", "requirements-dev.lock"],
    ]
    for job in jobs:
        if status := subprocess.run([*COMMON, *job], cwd=ROOT, check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
