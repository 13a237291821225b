"""The builder of the packages, and that apt takes them from a signed repository only."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_script import deb, repository
from build_script.progress import Failed
from duxcommon import __version__
from tests.os import layers
from tests.os.nspawn import Machine, wait_until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
SERVED = "/srv/trial/duxos"


@dataclass
class Empty:
    """A root without our packages, that knows no archive."""

    machine: Machine
    outside: Path
    """What it sees at SERVED."""

    def update(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Have apt read the repository, and then do more; what it says is in `stdout`."""
        self.machine.prepare("rm", "-rf", "/var/lib/apt/lists")
        layers.subscribe(self.machine, self.outside, SERVED)
        command = " && ".join(["apt-get -o APT::Update::Error-Mode=any update", *more])
        return self.machine.prepare("bash", "-c", f"({command}) 2>&1", check=False)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Empty]:
    """With a copy of the repository, for tests to do with what they like."""
    shutil.copytree(layers.repository(), tmp_path / "trial" / "duxos")
    with Machine(layers.base(), binds={tmp_path / "trial": "/srv/trial"}) as machine:
        yield Empty(machine, tmp_path / "trial" / "duxos")


def test_apt_accepts_the_repository_by_its_key_and_would_install_a_node(empty: Empty) -> None:
    done = empty.update("apt-get install -s -y --no-install-recommends dux-node")
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"Inst dux-flopd ({__version__} Dux OS" in done.stdout


@pytest.mark.parametrize("what", ["Packages", "InRelease", "key"])
def test_apt_refuses_a_repository_that_was_tampered_with(empty: Empty, what: str) -> None:
    release = empty.outside / "dists/trixie/InRelease"
    if what == "Packages":
        for path in empty.outside.rglob("Packages*"):
            path.write_bytes(path.read_bytes() + b"\n")
    elif what == "InRelease":
        release.write_text(release.read_text().replace("Label: Dux OS", "Label: Dux 0S"))
        (empty.outside / "dists/trixie/Release.gpg").unlink()
    else:
        shutil.copyfile("/usr/share/keyrings/debian-archive-keyring.gpg", empty.outside / repository.KEYRING)
    done = empty.update()
    assert done.returncode != 0
    assert re.search("unexpected size|Hash Sum" if what == "Packages" else "signature", done.stdout), done.stdout


def test_a_repository_needs_a_key_that_can_sign(tmp_path: Path) -> None:
    public = layers.repository() / repository.KEYRING
    with pytest.raises(Failed, match=r"holds no secret key; now: gpg --armor --export-secret-keys"):
        repository.make([], tmp_path / "apt", key=public)
    assert not (tmp_path / "apt").exists()
    assert repository.begins_as_secret_key(b"Comment\n-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    assert repository.begins_as_secret_key(b"\x94\x58\x04")
    assert not repository.begins_as_secret_key(b"\x98\x33\x04")
    assert not repository.begins_as_secret_key(b"")


def test_without_packages_the_repository_names_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "build_script/repository.py"), "--test-key", "--packages", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "now: make deb" in done.stderr


# --- the builder ---


def test_the_same_sources_are_not_built_again(tmp_path: Path) -> None:
    names = deb.tracked()
    before = deb.fingerprint(names, ROOT)
    assert deb.fingerprint(names[1:], ROOT) != before
    assert deb.fingerprint(names, ROOT, "0.0.9") != before
    (tmp_path / "a.deb").write_bytes(b"x")
    made = {"inputs": before, "packages": {"a.deb": deb.digest(tmp_path / "a.deb")}}
    (tmp_path / "made.json").write_text(json.dumps(made))
    assert deb.up_to_date(tmp_path, before)
    (tmp_path / "a.deb").write_bytes(b"y")
    assert not deb.up_to_date(tmp_path, before)


def test_outside_of_git_the_builder_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no git repository"):
        deb.tracked(tmp_path)


def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    small = tmp_path / "small.tar"
    leave_out = [f"--exclude=./{name}" for name in ("usr/share", "var", "usr/lib/python3*", "usr/lib/*/perl*")]
    subprocess.run(["tar", "-C", str(layers.base()[-1]), *leave_out, "-cf", str(small), "."], check=True)
    program = (
        "import pathlib, signal, sys; sys.path.insert(0, sys.argv[1])\nfrom build_script import buildroot\n"
        # Who starts the tests in the background has them ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with buildroot.unpacked(pathlib.Path(sys.argv[2])) as root:\n"
        "    (root.path / 'busy').write_text('')\n    print(root.path, flush=True)\n"
        "    root.run('bash', '-c', 'sleep 98765 & wait')\n"
    )
    command = [sys.executable, "-c", program, str(ROOT), str(small)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process:
        folder = next(Path(line.strip()) for line in process.stdout if line.startswith("/"))
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not folder.parent.exists()

    def none_left() -> bool:
        return subprocess.run(["pgrep", "-f", "sleep 98765"], capture_output=True, check=False).returncode == 1

    wait_until(none_left, "the kernel has ended what ran in the root", 20)
