"""The packages as another version: the same files under another number, with what a test changes in them."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.os.nspawn import Machine

Change = Callable[[str, Path], None]
"""Called with a package's name and the folder of its files, before it is packed."""


def version_of(packages: Path) -> str:
    """The version of the packages in a folder."""
    one = next(packages.glob("dux-common_*.deb"))
    done = subprocess.run(["dpkg-deb", "-f", str(one), "Version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repack(machine: Machine, packages: Path, target: Path, version: str, change: Change) -> None:
    """Pack all packages anew as `version` into `target`, quickly and without compression.

    The byte code of changed modules is made as in the build, by the Python of `machine`, which is not booted.
    """
    present = version_of(packages)
    for deb in sorted(packages.glob("*.deb")):
        name = deb.name.split("_")[0]
        tree = machine.path(f"/pack/{name}")
        tree.parent.mkdir(exist_ok=True)
        subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True, capture_output=True)
        control = tree / "DEBIAN/control"
        text = re.sub(rf"^Version: {re.escape(present)}$", f"Version: {version}", control.read_text(), flags=re.M)
        control.write_text(text.replace(f"(= {present})", f"(= {version})"))
        before = {path: path.read_bytes() for path in tree.rglob("*.py")}
        change(name, tree)
        for path, content in before.items():
            if path.read_bytes() != content:
                inside = f"/pack/{name}/{path.relative_to(tree)}"
                machine.prepare("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash",
                                "-s", f"/pack/{name}", "-p", "/", inside)  # fmt: skip
        packed = target / deb.name.replace(f"_{present}_", f"_{version}_")
        subprocess.run(
            ["dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(packed)], check=True, capture_output=True
        )
