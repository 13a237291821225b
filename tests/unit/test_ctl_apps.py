"""`dux-ctl app init|test|publish|search`: what a seller does before anyone can buy."""

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dux_ctl import apps, wheels
from dux_ctl.control import Control
from duxcommon import bundle
from duxcommon.errors import (
    BadManifest,
    BundleTooLarge,
    InvalidParams,
    SampleFailed,
    SandboxMissing,
    ScanRefused,
    WheelsMissing,
)
from duxcommon.machine import Machine, this_machine

APPS = Path(__file__).parents[2] / "apps"


class FakeControl(Control):
    """Records the calls; answers as the daemons would."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, True, 5.0)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.received = bytearray()
        self.answer: Callable[[str, dict[str, Any]], dict[str, Any]] = self._node
        self.shown: list[str] = []
        self.notes: list[str] = []
        self.value: dict[str, Any] = {}

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        self.calls.append((method, params or {}))
        return self.answer(method, params or {})

    def _node(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "blob.write":
            assert params["offset"] == len(self.received)
            self.received += base64.b64decode(params["data"])
            digest = hashlib.sha256(self.received).hexdigest()
            blob = {"hash": digest, "size": len(self.received)} if params["final"] else None
            return {"upload": params["upload"], "received": len(self.received), "blob": blob}
        assert method == "app.publish"
        assert params["bundle"] == hashlib.sha256(self.received).hexdigest()
        return {"app": "ab" * 32, "name": "x", "seq": 1, "bundle": params["bundle"], "announced": False,
                "findings": ["dux.yaml: careful"]}  # fmt: skip

    def emit(self, value: dict[str, Any], human: Callable[[], str]) -> None:
        json.dumps(value)
        self.value = value
        self.shown.append(human())

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(control: FakeControl, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    assert apps.register(parser.add_subparsers()) == {"init", "test", "publish", "search", "show"}
    args = parser.parse_args(list(argv))
    status: int = args.run(args, control)
    return status


@pytest.fixture
def control(tmp_path: Path) -> FakeControl:
    return FakeControl(tmp_path)


def trial(control: FakeControl, folder: Path, *more: str) -> str:
    """`app test`, skipped where this machine has no sandbox; what it printed."""
    try:
        assert run(control, "test", str(folder), *more) == 0
    except SandboxMissing as error:
        pytest.skip(f"no sandbox here: {error.message}")
    return control.shown[-1]


def test_init_writes_an_app_that_passes_its_test_and_can_be_published(tmp_path: Path, control: FakeControl) -> None:
    folder = tmp_path / "word-count"
    assert run(control, "init", "word-count", "--dir", str(folder)) == 0
    text = trial(control, folder)
    assert "verdict: as expected" in text
    assert "0.475 for you, 0.025 for the community fund (5 %)" in text
    assert control.value["findings"] == []
    assert run(control, "publish", str(folder)) == 0
    (tmp_path / "sent").write_bytes(control.received)
    assert bundle.read_manifest(tmp_path / "sent").name == "word-count"
    assert "goes on trying" in control.shown[-1]
    assert "warning: dux.yaml: careful" in control.notes


@pytest.mark.parametrize("name", ["", "Word", "../x", "a b", "-x", "x" * 65, "ü"])
def test_init_refuses_what_is_no_name_and_writes_nothing(tmp_path: Path, control: FakeControl, name: str) -> None:
    with pytest.raises(InvalidParams, match="is not an app's name") as caught:
        run(control, "init", "--dir", str(tmp_path / "new"), "--", name)
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


def test_init_leaves_a_folder_with_files_alone(tmp_path: Path, control: FakeControl) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/main.py").write_text("mine")
    with pytest.raises(InvalidParams, match="not empty"):
        run(control, "init", "full", "--dir", str(tmp_path / "full"))
    assert (tmp_path / "full/main.py").read_text() == "mine"


def test_the_readmes_first_app_passes_its_test_and_has_fifteen_lines(control: FakeControl) -> None:
    assert len((APPS / "hello-words/main.py").read_text().splitlines()) == 15
    assert "verdict: as expected" in trial(control, APPS / "hello-words")


def test_image_upscale_with_its_locked_wheels_passes_its_test(control: FakeControl) -> None:
    try:
        text = trial(control, APPS / "image-upscale")
    except WheelsMissing as error:
        pytest.skip(f"no package index: {error.message}")
    assert "verdict: as expected" in text
    assert "9.50 for you, 0.50 for the community fund (5 %)" in text
    assert control.value["findings"] == []


def skeleton(tmp_path: Path, control: FakeControl, **files: str) -> Path:
    folder = tmp_path / "app"
    run(control, "init", "app", "--dir", str(folder))
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)
    return folder


def test_a_wrong_result_fails_the_test_and_accept_takes_it(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control)
    (folder / "sample/output.txt").write_text("5\n")
    with pytest.raises(SampleFailed, match="they differ from byte 0 on") as caught:
        trial(control, folder)
    assert "--accept" in caught.value.hint
    assert "verdict: accepted" in trial(control, folder, "--accept")
    assert (folder / "sample/output.txt").read_text() == "4\n"
    (folder / "sample/output.txt").unlink()
    assert "verdict: accepted" in trial(control, folder, "--accept")
    assert "as expected" in trial(control, folder)


def test_a_failing_app_shows_its_log_and_its_exit_status(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control, main_dot_py="import sys\nprint('what went wrong')\nsys.exit(3)\n")
    with pytest.raises(SampleFailed, match="exit status 3"):
        trial(control, folder)
    assert "  | what went wrong" in control.notes


def test_an_app_that_leaves_no_output_or_runs_for_ever_fails_the_test(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control, main_dot_py="pass\n")
    with pytest.raises(SampleFailed, match="left no /out/output"):
        trial(control, folder)
    (folder / "main.py").write_text("import time\ntime.sleep(600)\n")
    text = (folder / "dux.yaml").read_text().replace("wall_s: 20", "wall_s: 1")
    (folder / "dux.yaml").write_text(text)
    with pytest.raises(SampleFailed, match="timeout"):
        trial(control, folder)


def test_what_the_scan_refuses_is_told_before_anything_runs(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control, notes_dot_txt="-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ScanRefused):
        run(control, "test", str(folder))
    assert "error: notes.txt holds a private key, and every buyer could read it" in control.notes


def test_the_findings_of_a_refused_publication_are_shown(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control)
    finding = {"severity": "error", "rule": "x", "path": "main.py", "message": "is odd"}

    def node(method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "app.publish":
            raise ScanRefused("refused", details={"findings": [finding]})
        return FakeControl._node(control, method, params)

    control.answer = node
    with pytest.raises(ScanRefused):
        run(control, "publish", str(folder))
    assert "error: main.py is odd" in control.notes


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path, control: FakeControl) -> None:
    for verb in ("test", "publish"):
        with pytest.raises(BadManifest, match=r"dux\.yaml is missing") as caught:
            run(control, verb, str(tmp_path / "nothing"))
        assert "app init" in caught.value.hint
    assert control.calls == []


def test_a_large_bundle_is_uploaded_in_pieces(tmp_path: Path, control: FakeControl) -> None:
    folder = skeleton(tmp_path, control)
    (folder / "data.bin").write_bytes(bytes(3 * apps.CHUNK))
    run(control, "publish", str(folder), "--key", "mine")
    writes = [params for method, params in control.calls if method == "blob.write"]
    assert len(writes) == 4
    assert [params["final"] for params in writes] == [False, False, False, True]
    assert len({params["upload"] for params in writes}) == 1
    assert control.calls[-1] == ("app.publish", {"bundle": hashlib.sha256(control.received).hexdigest(), "key": "mine"})


def test_an_api_that_does_not_answer_fails_the_test(tmp_path: Path, control: FakeControl) -> None:
    (tmp_path / "dux.yaml").write_text(
        'name: api\nversion: "1"\nsummary: An API.\nprice: "0.05"\nruntime: http\nurl: http://127.0.0.1:1/\n'
    )
    with pytest.raises(SampleFailed, match=r"nothing answers at http://127\.0\.0\.1:1/") as caught:
        run(control, "test", str(tmp_path))
    assert caught.value.hint


def listing(name: str, publisher: str, live: int = 0) -> dict[str, Any]:
    return {"name": name, "publisher": publisher * 64, "price": 10**9, "live_providers": live, "tags": ["image"],
            "summary": "Does it."}  # fmt: skip


def test_search_shows_a_table_in_which_equal_names_are_told_apart(control: FakeControl) -> None:
    found = [listing("upscale", "a", 2), listing("upscale", "b"), listing("crop", "a")]
    control.answer = lambda method, params: {"listings": found, "next": "50", "network": "lab", "worthless": True}
    assert run(control, "search", "image", "up", "--tag", "photo", "--max-price", "10", "--limit", "3") == 0
    method, params = control.calls[0]
    assert method == "app.search"
    assert params == {"words": "image up", "tags": ["photo"], "limit": 3, "max_price": 10**9}
    text = control.shown[0]
    assert "upscale@aaaaaaaa" in text
    assert "upscale@bbbbbbbb" in text
    assert "crop@" not in text
    assert "10.00" in text
    assert "more: --after 50" in text


def test_a_search_without_a_match_says_so(control: FakeControl) -> None:
    control.answer = lambda method, params: {"listings": [], "next": None, "network": "main", "worthless": False}
    run(control, "search")
    assert control.shown == ["no app matches"]


# --- locked wheels ---------------------------------------------------------------------------------------------

HASH = "ab" * 32


def wheel(path: Path, **files: str) -> str:
    """A wheel with these files (__ for /, _dot_ for .); its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *made: dict[str, str]) -> Path:
    """A lock whose wheels are in the cache already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"w{number}-1-py3-none-any.whl" for number in range(len(made))]
    hashes = [wheel(path, **files) for path, files in zip(paths, made, strict=True)]
    lock = tmp_path / "requirements.lock"
    lock.write_text("".join(f"w{number}==1 --hash=sha256:{digest}\n" for number, digest in enumerate(hashes)))
    folder = wheels.cache_folder(lock, this_machine())
    folder.mkdir(parents=True)
    for path in paths:
        shutil.move(path, folder)
    return lock


def test_a_lock_names_versions_and_hashes(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    first = f"pillow==13.0.0 \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{'cd' * 32}\n"
    second = f"b[extra]==1.0 ; python_version < '3.12' --hash=sha256:{'ef' * 32}  # via x\n"
    lock.write_text(f"# made by a tool\n\n{first}{second}")
    assert wheels.locked_hashes(lock) == {HASH, "cd" * 32, "ef" * 32}
    assert len(wheels.locked_hashes(APPS / "image-upscale/requirements.lock")) == 6


@pytest.mark.parametrize(
    "line",
    [
        "pillow==13.0.0",
        f"pillow>=13 --hash=sha256:{HASH}",
        f"--index-url https://example.org/simple\npillow==13.0.0 --hash=sha256:{HASH}",
        f"--extra-index-url=https://example.org/ \\\n --hash=sha256:{HASH}",
        f"pillow @ https://example.org/p.whl --hash=sha256:{HASH}",
        f"./local.whl --hash=sha256:{HASH}",
        "-r other.txt",
        "-e .",
        f"pillow==13.0.0 --hash=md5:{'ab' * 16}",
        f"pillow==13.0.0 --hash=sha256:{HASH} --global-option=x",
    ],
)
def test_a_line_that_is_not_locked_is_named_before_anything_is_fetched(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"# first\n{line}\n")
    with pytest.raises(WheelsMissing, match=r"requirements\.lock, line \d: not of the form") as caught:
        wheels.unpack_locked(lock, tmp_path / "site", lambda _: pytest.fail("nothing is downloaded"))
    assert caught.value.hint
    assert not (tmp_path / "site").exists()


def test_a_lock_without_requirements_needs_no_wheels(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("# nothing yet\n")
    assert wheels.unpack_locked(tmp_path / "requirements.lock", tmp_path / "site", lambda _: None) is False


def test_cached_wheels_are_unpacked_as_an_installer_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = cached(
        tmp_path, monkeypatch,
        {"pkg__mod_dot_py": "x = 1", "pkg-1_dot_data__purelib__other_dot_py": "y = 2",
         "pkg-1_dot_data__scripts__tool": "#!python", "pkg-1_dot_dist-info__METADATA": "Name: pkg"},
    )  # fmt: skip
    assert wheels.unpack_locked(lock, tmp_path / "site", lambda _: pytest.fail("nothing is downloaded"))
    found = sorted(
        str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file()
    )
    assert found == ["other.py", "pkg-1.dist-info/METADATA", "pkg/mod.py"]


def test_a_wheel_that_was_changed_in_the_cache_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = cached(tmp_path, monkeypatch, {"mod_dot_py": "good"})
    (kept,) = wheels.cache_folder(lock, this_machine()).iterdir()
    good = kept.read_bytes()
    wheel(kept, mod_dot_py="evil")
    fetched: list[str] = []

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        fetched.append(command[command.index("--python-version") + 1])
        assert "--require-hashes" in command
        (Path(command[command.index("--dest") + 1]) / kept.name).write_bytes(good)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    wheels.unpack_locked(lock, tmp_path / "site", lambda _: None)
    assert fetched == [this_machine().python]
    assert (tmp_path / "site/mod.py").read_text() == "good"


def test_a_failed_download_says_why_and_leaves_no_half_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"no-such-thing==1 --hash=sha256:{HASH}\n")
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(WheelsMissing, match="No matching distribution found") as caught:
        wheels.unpack_locked(lock, tmp_path / "site", lambda _: None)
    assert caught.value.retry
    assert list(wheels.cache_folder(lock, this_machine()).parent.iterdir()) == []


def test_the_cache_is_apart_for_each_lock_python_and_architecture(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("a")
    machines = [Machine("x86_64", "3.11"), Machine("x86_64", "3.13"), Machine("aarch64", "3.13")]
    folders = {wheels.cache_folder(lock, machine) for machine in machines}
    lock.write_text("b")
    folders |= {wheels.cache_folder(lock, machine) for machine in machines}
    assert len(folders) == 6


def test_wheels_that_bring_the_same_file_or_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = cached(tmp_path, monkeypatch, {"mod_dot_py": "a"}, {"mod_dot_py": "b"})
    with pytest.raises(Exception, match=r"two wheels bring mod\.py"):
        wheels.unpack_locked(lock, tmp_path / "site", lambda _: None)
    monkeypatch.setattr(wheels, "LIMITS", bundle.Limits(bytes=1))
    with pytest.raises(BundleTooLarge):
        wheels.unpack_locked(lock, tmp_path / "other", lambda _: None)
