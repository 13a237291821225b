"""The cache of roots and layers: it keeps what is needed, and what nobody uses goes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from build_script import kept

ROOT = Path(__file__).resolve().parents[2]
USES = "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nfrom build_script import kept\n"
USES += "kept.use(Path(sys.argv[2])); print('used', flush=True); sys.stdin.read()"


def entry(folder: Path, name: str, age_s: float) -> Path:
    """A root of the cache: its tar, its log and its unpacked folder, all as old as told."""
    tar = folder / f"{name}.tar"
    (folder / name / "root").mkdir(parents=True)
    for path in (tar, tar.with_suffix(".log")):
        path.write_text("x")
    age(folder, name, age_s)
    return tar


def age(folder: Path, name: str, age_s: float) -> None:
    for path in folder.glob(f"{name}*"):
        os.utime(path, (time.time() - age_s,) * 2)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def pruned(folder: Path, newest: Path) -> set[str]:
    """What is left."""
    kept.remove_unused(folder.glob("machine-*"), newest, remove)
    return {path.name for path in folder.iterdir()}


def test_only_the_newest_and_what_was_used_lately_stays(tmp_path: Path) -> None:
    newest = entry(tmp_path, "machine-1", 9 * kept.IDLE_S)
    entry(tmp_path, "machine-2", 2 * kept.IDLE_S)
    entry(tmp_path, "machine-3", kept.IDLE_S / 2)
    entry(tmp_path, "build-4", 9 * kept.IDLE_S)
    left = pruned(tmp_path, newest)
    stay = {f"{name}{end}" for name in ("machine-1", "machine-3", "build-4") for end in ("", ".tar", ".log")}
    assert left == stay


@pytest.mark.parametrize("ends", [False, True])
def test_what_another_process_uses_stays_until_that_ends(tmp_path: Path, ends: bool) -> None:
    newest, old = entry(tmp_path, "machine-1", 0), entry(tmp_path, "machine-2", 0)
    with subprocess.Popen(
        [sys.executable, "-c", USES, str(ROOT), str(old)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "used\n"
        age(tmp_path, "machine-2", 9 * kept.IDLE_S)
        if ends:
            process.kill()
            process.wait(60)
        assert (old.name in pruned(tmp_path, newest)) is not ends
        process.stdin.close()


def test_an_entry_that_is_used_again_counts_as_new(tmp_path: Path) -> None:
    newest, old = entry(tmp_path, "machine-1", 0), entry(tmp_path, "machine-2", 9 * kept.IDLE_S)
    subprocess.run(
        [sys.executable, "-c", USES, str(ROOT), str(old)], stdin=subprocess.DEVNULL, check=True, capture_output=True
    )
    assert old.name in pruned(tmp_path, newest)
