"""The parts of the live image's build that need no Debian root: names, snapshots, menus, refusals."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from build_script import image, image_iso, image_root, image_snapshot
from build_script.buildroot import Root
from build_script.image_root import FILES, Release
from build_script.mirror import Source, deb822
from build_script.progress import Failed

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [Source("http://mirror.test/debian", ("trixie", "trixie-updates")), Source("http://mirror.test/sec", ("s",))]


def test_a_snapshot_is_taken_where_the_mirror_announces_it_or_keeps_it_below_itself() -> None:
    asked = []

    def exists(address: str, suite: str) -> bool:
        asked.append((address, suite))
        return True

    def announced(source: Source) -> str:
        return "http://old.test/@SNAPSHOTID@/" if source.suites[0] == "trixie" else ""

    dated = image_snapshot.dated(SOURCES, "20260912", exists, announced)
    assert [source.uri for source in dated] == [
        "http://old.test/20260912T000000Z",
        "http://mirror.test/sec/20260912T000000Z",
    ]
    assert asked[0] == ("http://old.test/20260912T000000Z", "trixie")
    assert deb822(dated).count("Check-Valid-Until: no") == 2


@pytest.mark.parametrize(
    ("date", "words"), [("yesterday", "a date like"), ("20261399", "a date like"), ("20260912", "has no snapshot of")]
)
def test_a_snapshot_that_is_not_there_is_refused_with_what_to_do(date: str, words: str) -> None:
    with pytest.raises(Failed, match=words):
        image_snapshot.dated(SOURCES, date, lambda *_: False, lambda _: "")


def test_the_dates_in_an_image_are_given_or_those_of_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1760000000")
    assert image.epoch() == 1760000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(Failed, match="whole seconds"):
        image.epoch()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert image.epoch() >= image.BASE_EPOCH


def test_the_desktop_has_everything_that_the_minimal_image_has() -> None:
    assert set(image_root.packages("minimal")) < set(image_root.packages("desktop"))
    assert {"linux-image-amd64", "live-boot", "live-config"} <= set(image_root.packages("minimal"))
    assert {"xfce4", "firefox-esr", "calamares"} <= set(image_root.packages("desktop"))


def test_os_release_is_one_that_a_shell_reads() -> None:
    text = image_root.os_release(Release("1.2.3", "minimal", 0))
    done = subprocess.run(
        ["sh", "-eu", "-c", f'{text}\necho "$ID/$ID_LIKE/$VERSION_ID/$PRETTY_NAME"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "duxos/debian/1.2.3/Dux OS 1.2.3\n"


def test_every_entry_of_the_menu_starts_with_both_consoles_and_the_menu_times_out() -> None:
    text = (FILES / "boot/grub.cfg").read_text()
    assert "set timeout=5" in text
    lines = [line for line in text.splitlines() if "linux /live" in line]
    assert len(lines) == 6
    assert all("$both" in line or "console=tty0 console=ttyS0,115200" in line for line in lines)
    assert any(" persistence " in line for line in lines)
    assert set(re.findall(r"@\w+@", text)) == {"@NAME@", "@MARK@"}


def test_no_entry_of_the_menu_has_a_key_that_the_menu_keeps_for_itself() -> None:
    text = (FILES / "boot/grub.cfg").read_text()
    keys = re.findall(r"--hotkey=(\S+)", text)
    assert len(keys) == len(set(keys)) == 6
    assert not set(keys) & set("cev^"), "command line, editor, down, up"
    table = re.findall(r"^\| [^|]+ \| (\w) \|", (ROOT / "docs/image.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(keys)


def test_an_image_with_keys_or_without_a_node_is_refused(tmp_path: Path) -> None:
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    with pytest.raises(Failed, match="no dux unit"):
        image_root._check(Root(tmp_path))
    (wants / "dux.target").touch()
    (tmp_path / "var/lib/duxnet/setup").mkdir(parents=True)
    image_root._check(Root(tmp_path))
    (tmp_path / "var/lib/duxnet/setup/trial.json").touch()
    with pytest.raises(Failed, match=r"setup/trial\.json"):
        image_root._check(Root(tmp_path))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--list", "--flavour", "desktop"]])
def test_the_command_answers_without_building(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(ROOT / "build_script/build_duxos.sh"), *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout
    assert not done.stderr


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"holds no \.deb"):
        image.packages(tmp_path)


def test_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "sums").write_text(image_iso.sums([tmp_path / "one"]))
    subprocess.run(["sha256sum", "--check", "--quiet", "sums"], cwd=tmp_path, check=True)


def test_no_program_or_list_names_a_mirror() -> None:
    for path in [*FILES.rglob("*"), *Path(image.__file__).parent.glob("image*.py")]:
        if path.is_file() and not os.access(path, os.X_OK):
            assert not re.search(rb"https?://[a-z]", path.read_bytes()), path
