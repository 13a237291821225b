"""Bundles: packing an app's folder, reading it back, and the manifest's errors."""

import hashlib
import os
import tarfile
from pathlib import Path

import pytest

from duxcommon import bundle
from duxcommon.errors import BadBundle, BadManifest, BundleTooLarge

MANIFEST = """\
name: hello
version: "1.0"
summary: Says hello.
price: "0.5"
runtime: command
command: [python3, /app/main.py]
"""


def app(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dux.yaml").write_text(MANIFEST)
    (folder / "main.py").write_text("print('hello')\n")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_same_folder_gives_the_same_bytes_whatever_its_times_order_and_umask(tmp_path: Path) -> None:
    first = app(tmp_path / "a")
    (first / "zeta").write_text("z")
    (first / "alpha").write_text("a")
    second = tmp_path / "b"
    old = os.umask(0o077)
    try:
        second.mkdir()
        for name in ("alpha", "zeta", "main.py", "dux.yaml"):
            (second / name).write_bytes((first / name).read_bytes())
            os.utime(second / name, (1, 1))
    finally:
        os.umask(old)
    one = bundle.pack(first, tmp_path / "one.tar")
    two = bundle.pack(second, tmp_path / "two.tar")
    assert one == two
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert one.hash == hashlib.sha256((tmp_path / "one.tar").read_bytes()).hexdigest()
    assert one.size == (tmp_path / "one.tar").stat().st_size


def test_any_tar_program_reads_a_bundle(tmp_path: Path) -> None:
    bundle.pack(app(tmp_path / "a", **{"lib/x.py": "x"}), tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["dux.yaml", "lib", "lib/x.py", "main.py"]
        assert {info.mtime for info in tar} == {0}
        assert {info.uid for info in tar} == {0}


def test_unpacking_gives_back_what_was_packed(tmp_path: Path) -> None:
    folder = app(tmp_path / "a", **{"lib/deep/x.py": "x" * 1025, "empty": ""})
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o750)
    (folder / "hollow").mkdir()
    bundle.pack(folder, tmp_path / "a.tar")
    old = os.umask(0o077)
    try:
        bundle.unpack(tmp_path / "a.tar", tmp_path / "out")
    finally:
        os.umask(old)
    assert (tmp_path / "out/lib/deep/x.py").read_text() == "x" * 1025
    assert (tmp_path / "out/empty").read_bytes() == b""
    assert (tmp_path / "out/hollow").is_dir()
    assert (tmp_path / "out/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out/main.py").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "out/lib").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o755


def test_locked_wheels_go_under_site(tmp_path: Path) -> None:
    site = tmp_path / "wheels"
    (site / "pkg").mkdir(parents=True)
    (site / "pkg/__init__.py").write_text("")
    bundle.pack(app(tmp_path / "a"), tmp_path / "a.tar", site=site)
    bundle.unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out/site/pkg/__init__.py").exists()


def test_a_folder_named_site_is_not_overlaid_by_the_wheels(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="in the way"):
        bundle.pack(app(tmp_path / "a", **{"site/x.py": ""}), tmp_path / "a.tar", site=tmp_path)


def test_hidden_files_compiled_python_and_backups_stay_out(tmp_path: Path) -> None:
    leftovers = {
        ".git/config": "",
        ".env": "SECRET=1",
        "__pycache__/main.cpython-311.pyc": "",
        "x.pyc": "",
        "main.py~": "",
    }
    bundle.pack(app(tmp_path / "a", **leftovers), tmp_path / "a.tar")
    bundle.unpack(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dux.yaml", "main.py"]


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "pipe"])
def test_a_link_or_a_device_in_the_folder_is_named_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    folder = app(tmp_path / "a")
    if kind == "pipe":
        os.mkfifo(folder / "odd")
    else:
        (folder / "odd").symlink_to("main.py" if kind == "link to a file" else "/usr")
    (tmp_path / "a.tar").write_text("as before")
    with pytest.raises(BadBundle, match="odd is neither a file nor a folder") as caught:
        bundle.pack(folder, tmp_path / "a.tar")
    assert caught.value.hint
    assert (tmp_path / "a.tar").read_text() == "as before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.tar"]


def test_a_folder_larger_than_the_limits_is_refused(tmp_path: Path) -> None:
    folder = app(tmp_path / "a", big="x" * 10_000)
    with pytest.raises(BundleTooLarge, match="10000 bytes"):
        bundle.pack(folder, tmp_path / "a.tar", limits=bundle.Limits(bytes=10_000))
    with pytest.raises(BundleTooLarge, match="more than 2 files"):
        bundle.pack(folder, tmp_path / "a.tar", limits=bundle.Limits(members=2))
    assert not (tmp_path / "a.tar").exists()


def test_a_name_too_long_for_the_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="can't be packed"):
        bundle.pack(app(tmp_path / "a", **{"n" * 150: ""}), tmp_path / "a.tar")


def test_unpacking_onto_something_that_exists_is_refused(tmp_path: Path) -> None:
    bundle.pack(app(tmp_path / "a"), tmp_path / "a.tar")
    with pytest.raises(FileExistsError):
        bundle.unpack(tmp_path / "a.tar", tmp_path / "a")


def test_the_manifest_is_read_from_the_bundle_and_its_price_is_koinu(tmp_path: Path) -> None:
    bundle.pack(app(tmp_path / "a"), tmp_path / "a.tar")
    manifest = bundle.read_manifest(tmp_path / "a.tar")
    assert manifest.name == "hello"
    assert manifest.price == 50_000_000


@pytest.mark.parametrize(("text", "koinu"), [('"10"', 1_000_000_000), ("10", 1_000_000_000), ('"0.00000001"', 1)])
def test_a_price_is_flop_text_or_a_whole_number(text: str, koinu: int) -> None:
    assert bundle.parse_manifest(MANIFEST.replace('"0.5"', text)).price == koinu


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"0.5"', "0.5", r"dux.yaml, line 4: price: write FLOP in quotes"),
        ('"0.5"', '"-1"', r"dux.yaml, line 4: price: '-1' is not an amount of FLOP"),
        ('"0.5"', '"0.123456789"', r"line 4: price: .* is not an amount"),
        ('"0.5"', "true", r"line 4: price: write FLOP in quotes"),
        ("summary", "sumary", r"dux.yaml, line 3: unknown key 'sumary'|summary: Field required"),
        ("name: hello", "name: Hello World", r"dux.yaml, line 1: name"),
        ('version: "1.0"', "name: again", r"dux.yaml, line 2: key 'name' stands twice \(first in line 1\)"),
        ('version: "1.0"', "version: 1.0", r"dux.yaml, line 2: version: decimals are not allowed"),
        ("command: [python3, /app/main.py]", "", r"runtime 'command' needs 'command'"),
        ("runtime: command", "runtime: http\nurl: http://example.org/", r"loopback"),
        ("name: hello", "name: [", r"dux.yaml, line"),
        ("price:", "sample: {input: ../../etc/passwd}\nprice:", r"line 4: sample.input: .*inside the app's folder"),
        ("price:", "params: {minimum: 0.5}\nprice:", r"line 4: params.minimum: decimals are not allowed"),
        ("name: hello", "x: &a [1]\ny: *a", r"aliases"),
    ],
)
def test_a_fault_in_the_manifest_names_file_and_line(old: str, new: str, message: str) -> None:
    with pytest.raises(BadManifest, match=message) as caught:
        bundle.parse_manifest(MANIFEST.replace(old, new))
    assert caught.value.code == 5502
    assert "dux.yaml" in caught.value.hint


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match=r"dux\.yaml is missing") as caught:
        bundle.pack(tmp_path, tmp_path / "a.tar")
    assert "app init" in caught.value.hint


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "dux.yaml").write_text("x: " + "y" * 100_000)
    with pytest.raises(BadManifest, match="larger than 24576 bytes"):
        bundle.load_manifest(tmp_path / "dux.yaml")


@pytest.mark.parametrize("name", ["image-upscale", "hello-words"])
def test_the_example_apps_have_valid_manifests_and_small_samples(name: str) -> None:
    folder = Path(__file__).parents[2] / "apps" / name
    manifest = bundle.load_manifest(folder / "dux.yaml")
    assert manifest.name == name
    assert manifest.deterministic
    assert sum(path.stat().st_size for path in (folder / "sample").iterdir()) <= 60_000
