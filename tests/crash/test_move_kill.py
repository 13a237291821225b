"""kill -9 while a node's state moves from one file system to another: each part is whole in its place, or not there."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dux_setup import moving
from dux_setup.paths import Paths
from duxcommon import failpoint
from duxcommon.errors import SwitchFailed

ROOT = Path(__file__).resolve().parent.parent.parent
POINTS = ("journal", "moved", "copied", "placed", "gone", "removed", "undone")
APART = {"etc": "etc", "old": "var/lib/duxnet/old"}
"""What is on a file system of its own."""
NODE = (
    "var/lib/duxnet/flopd/keystore.json",
    "var/lib/duxnet/flopd/flopd.sqlite",
    "var/lib/duxnet/flopd/folder/deep",
    "etc/duxnet/network.yaml",
    "etc/duxnet/flopd.d/10-network.yaml",
)
LINK = "etc/duxnet/chain.pem"


def make(paths: Paths, text: str) -> None:
    """A node, each of whose files says whose it is and where it belongs."""
    for name in NODE:
        (paths.root / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.root / name).write_text(f"{text} {name}\n" * 100)
    (paths.root / LINK).symlink_to(text)


def clear(paths: Paths) -> None:
    for folder in (paths.root / "etc", paths.var / "old", paths.var):
        for path in folder.iterdir():
            if path.is_dir() and path != paths.var / "old":
                shutil.rmtree(path)
            elif not path.is_dir():
                path.unlink()
    paths.setup.mkdir()


def files(folder: Path) -> dict[str, str]:
    """Path → content of everything below a folder, `old` and the folders themselves left out."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    names = {str(path.relative_to(folder)): path for path in found}
    return {
        name: os.readlink(path) if path.is_symlink() else path.read_text()
        for name, path in names.items()
        if "/old/" not in name
    }


def killed(work: Callable[[], object], point: str, pass_: int) -> bool:
    """Whether it was killed there; else it has ended well."""
    child = os.fork()
    if child == 0:
        failpoint.arm(f"switch:{point}:{pass_}")
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), status
    return status != 0


def spoil(paths: Paths) -> None:
    """As if the kill had come a little earlier or later: in the middle of copying, in the middle of removing."""
    marks = [*paths.root.rglob(".*.gone")]
    sources = [mark.with_name(mark.name[1 : -len(".gone")]) for mark in marks]
    for path in [*paths.root.rglob(".*.part"), *(one for one in sources if os.path.lexists(one))]:
        inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        if not path.is_symlink():
            inside[0].write_text("half")
            for one in inside[1:]:
                one.unlink()


def undo(paths: Paths) -> None:
    journal = moving.interrupted(paths)
    if journal is not None:
        moving.undo(paths, journal)


def as_before(paths: Paths, before: dict[str, str]) -> None:
    assert files(paths.root) == before
    assert moving.interrupted(paths) is None
    assert [*paths.root.rglob(".*.part"), *paths.root.rglob(".*.gone")] == []


def aside(paths: Paths, point: str, pass_: int) -> bool:
    """Killed while the old state is moved away; whether the point was there."""
    make(paths, "mine")
    before = files(paths.root)
    if not killed(lambda: moving.move_aside(paths), point, pass_):
        return False
    spoil(paths)
    undo(paths)
    as_before(paths, before)
    return True


def back(paths: Paths, point: str, pass_: int) -> bool:
    """Killed twice while the old state is put back over a new one; whether the point was there."""
    make(paths, "mine")
    before = files(paths.root)
    journal = moving.move_aside(paths)
    make(paths, "new")
    new = files(paths.root)
    if not killed(lambda: undo(paths), point, pass_):
        return False
    spoil(paths)
    killed(lambda: undo(paths), point, pass_)
    spoil(paths)
    undo(paths)
    as_before(paths, before)
    kept = files(Path(journal.old) / "abandoned")
    for name in NODE:
        assert kept[name] == new[name], name
    return True


def drive(root: Path) -> None:
    """All points, each pass of each. What it prints is how often it killed."""
    paths, kills = Paths(root), 0
    for case in (aside, back):
        for point in POINTS:
            pass_ = 1
            while True:
                clear(paths)
                if not case(paths, point, pass_):
                    break
                pass_ += 1
            kills += pass_ - 1
            print(case.__name__, point, pass_ - 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root, to mount")
@pytest.mark.parametrize("apart", APART)
@pytest.mark.timeout(300)
def test_a_node_is_whole_again_wherever_the_kill_came(tmp_path: Path, apart: str) -> None:
    mounts = (
        f"mount -t tmpfs none {tmp_path}; mkdir -p {tmp_path}/etc {tmp_path}/var/lib/duxnet/old; "
        f'mount -t tmpfs none {tmp_path / APART[apart]}; exec "$@"'
    )
    code = f"import pathlib; from tests.crash import test_move_kill as t; t.drive(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", mounts, "sh", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {(line.split()[0], line.split()[1]): int(line.split()[2]) for line in done.stdout.splitlines()}
    for point in POINTS:
        assert passed["aside", point] + passed["back", point] > 0, f"{point} is never passed: {passed}"
    assert passed["back", "gone"] >= (3 if apart == "etc" else 4)


@pytest.mark.skipif(os.geteuid() != 0, reason="not run: needs root, to mount")
def test_on_a_live_system_whose_lower_layer_has_the_node_it_moves_and_comes_back(tmp_path: Path) -> None:
    """There not even a rename within one folder is possible."""
    lower, upper, top = (tmp_path / name for name in ("lower", "upper", "top"))
    for folder in (lower, upper, top):
        folder.mkdir()
    paths = Paths(lower)
    make(paths, "mine")
    paths.setup.mkdir()
    code = f"""if True:
        import pathlib
        from dux_setup import moving
        from dux_setup.paths import Paths
        from tests.crash import test_move_kill as t
        paths = Paths(pathlib.Path({str(top)!r}))
        before = t.files(paths.root)
        journal = moving.move_aside(paths)
        assert not paths.keystore.exists() and not paths.network.exists()
        old = t.files(pathlib.Path(journal.old))
        assert all(old[name] == before[name] for name in t.NODE)
        t.undo(paths)
        t.as_before(paths, before)
    """
    mounts = (
        f"mount -t tmpfs none {upper}; mkdir {upper}/up {upper}/work; "
        f'mount -t overlay none -o lowerdir={lower},upperdir={upper}/up,workdir={upper}/work {top}; exec "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", mounts, "sh", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_copy_that_never_ends_is_told_and_the_node_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path / "root")
    paths.setup.mkdir(parents=True)
    make(paths, "before")
    before = files(paths.root)
    (tmp_path / "cp").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(moving, "COPY_S", 0.3)

    def apart(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "apart")

    with monkeypatch.context() as other, pytest.raises(SwitchFailed, match="could not be copied within"):
        other.setattr(moving.os, "rename", apart)
        moving.move_aside(paths)
    undo(paths)
    as_before(paths, before)


def test_while_the_disk_with_the_old_state_is_not_mounted_nothing_is_forgotten(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "root")
    paths.setup.mkdir(parents=True)
    make(paths, "before")
    before = files(paths.root)
    moving.move_aside(paths)
    (paths.var / "old").rename(tmp_path / "old")
    with pytest.raises(SwitchFailed, match="is not there"):
        undo(paths)
    (tmp_path / "old").rename(paths.var / "old")
    undo(paths)
    as_before(paths, before)
