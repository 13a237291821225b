"""Where Debian packages come from, read from every form of apt configuration."""

from pathlib import Path

import pytest

from build_script.mirror import NoMirror, Source, configured, deb822, from_lines, from_stanzas, sources
from build_script.wheels import FROM_DEBIAN, names, pip_settings, vendored

ROOT = Path(__file__).resolve().parents[2]
BOOKWORM = """Types: deb deb-src
# http://dated.example/archive/debian/20250520T000000Z
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://others.example/debian
Suites: bookworm
Components: stable
"""


def machine(folder: Path, **files: str) -> Path:
    """A root with this apt configuration (file names with _ for .), and Debian's keys."""
    apt = folder / "etc/apt/sources.list.d"
    apt.mkdir(parents=True)
    for name, text in files.items():
        path = apt.parent / "sources.list" if name == "sources_list" else apt / name.replace("_", ".")
        path.write_text(text)
    keys = folder / "usr/share/keyrings"
    keys.mkdir(parents=True)
    (keys / "debian-archive-keyring.gpg").touch()
    return folder


def nowhere(uri: str, suite: str) -> bool:
    """A mirror that does not answer."""
    return False


def test_a_bookworm_machines_mirror_serves_trixie_with_updates_and_security(tmp_path: Path) -> None:
    found = sources("trixie", root=machine(tmp_path, debian_sources=BOOKWORM), exists=nowhere)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found == [
        Source("http://mirror.example/debian", ("trixie", "trixie-updates"), ("main",), key),
        Source("http://mirror.example/debian-security", ("trixie-security",), ("main",), key),
    ]


def test_what_is_printed_reads_back_the_same(tmp_path: Path) -> None:
    found = sources("trixie", root=machine(tmp_path, debian_sources=BOOKWORM), exists=nowhere)
    assert list(from_stanzas(deb822(found))) == found


def test_one_line_files_with_and_without_options() -> None:
    text = """# deb http://commented.example/debian trixie main
deb http://a.example/debian trixie main contrib # our mirror
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] https://b.example/debian trixie-security main
deb-src http://a.example/debian trixie main
deb http://broken.example
"""
    assert list(from_lines(text)) == [
        Source("http://a.example/debian", ("trixie",), ("main", "contrib"), ""),
        Source("https://b.example/debian", ("trixie-security",), ("main",), "/usr/share/keyrings/a.gpg"),
    ]


def test_a_key_inside_the_stanza_and_a_disabled_stanza() -> None:
    text = """Types: deb
URIs: http://a.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
"""
    (found,) = from_stanzas(text)
    assert found.signed_by.splitlines()[-2:] == [" abc", " -----END PGP PUBLIC KEY BLOCK-----"]
    assert list(from_stanzas(found.deb822())) == [found]


def test_a_cloud_images_list_of_mirrors_is_followed(tmp_path: Path) -> None:
    text = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n"
    root = machine(tmp_path, debian_sources=text)
    (root / "etc/apt/mirrors").mkdir()
    (root / "etc/apt/mirrors/debian.list").write_text("https://cdn.example/debian\npriority:2\n")
    assert [source.uri for source in configured(root)] == ["https://cdn.example/debian"]


def test_without_security_updates_configured_they_are_looked_for_beside(tmp_path: Path) -> None:
    root = machine(tmp_path, sources_list="deb http://a.example/debian trixie main\n")
    asked: list[tuple[str, str]] = []

    def answers(uri: str, suite: str) -> bool:
        asked.append((uri, suite))
        return suite == "trixie-security"

    found = sources("trixie", root=root, exists=answers)
    assert [(one.uri, one.suites) for one in found] == [
        ("http://a.example/debian", ("trixie",)),
        ("http://a.example/debian-security", ("trixie-security",)),
    ]
    assert all(one.signed_by.endswith("debian-archive-keyring.gpg") for one in found)
    assert len(asked) == 2


def test_a_dated_mirror_has_its_security_updates_at_the_same_date(tmp_path: Path) -> None:
    mirror = "http://dated.example/archive/debian/20260101T000000Z/"
    found = sources("trixie", mirror=mirror, root=machine(tmp_path), exists=lambda uri, suite: True)
    assert [one.uri for one in found] == [
        "http://dated.example/archive/debian/20260101T000000Z",
        "http://dated.example/archive/debian-security/20260101T000000Z",
    ]


def test_a_given_mirror_replaces_the_machines(tmp_path: Path) -> None:
    root = machine(tmp_path, debian_sources=BOOKWORM)
    found = sources(
        "trixie", mirror="https://c.example/d", security_mirror="https://c.example/s", root=root, exists=nowhere
    )
    assert [(one.uri, one.suites) for one in found] == [
        ("https://c.example/d", ("trixie",)),
        ("https://c.example/s", ("trixie-security",)),
    ]


@pytest.mark.parametrize("text", ["", "deb https://others.example/linux noble main\n", "deb cdrom:[x]/ trixie main\n"])
def test_a_machine_without_a_debian_archive_is_told_what_to_give(tmp_path: Path, text: str) -> None:
    with pytest.raises(NoMirror, match="--mirror URL"):
        sources("trixie", root=machine(tmp_path, sources_list=text), exists=nowhere)


def test_what_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoMirror, match="http:// or https://"):
        sources("trixie", mirror="mirror.example/debian", root=machine(tmp_path), exists=nowhere)


def test_a_machine_without_debians_keys_is_told_what_to_install(tmp_path: Path) -> None:
    root = machine(tmp_path, sources_list="deb http://a.example/debian trixie main\n")
    (root / "usr/share/keyrings/debian-archive-keyring.gpg").unlink()
    with pytest.raises(NoMirror, match="apt install debian-archive-keyring"):
        sources("trixie", root=root, exists=nowhere)


# --- what is carried along of requirements.lock ---


def test_what_debian_has_is_left_out_of_the_lock_and_the_rest_keeps_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    kept = vendored(lock)
    assert set(names(lock)) - set(names(kept)) == set(FROM_DEBIAN)
    assert all("--hash=sha256:" in entry for entry in kept.replace("\\\n", "").splitlines())
    assert set(kept.splitlines()) < set(lock.splitlines())


def test_the_licence_of_everything_carried_along_is_named() -> None:
    told = (ROOT / "debian/copyright").read_text().lower()
    carried = names(vendored((ROOT / "requirements.lock").read_text()))
    assert [name for name in carried if f"site-packages/{name.lower()}/" not in told] == []


def test_pips_own_settings_say_where_packages_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://a.example/simple\nuser = yes\n")
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text("[global]\nindex-url = https://b.example/simple\n")
    assert pip_settings(tmp_path, tmp_path)["index-url"] == "https://b.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://c.example/simple")
    assert pip_settings(tmp_path, tmp_path) == {"index-url": "https://c.example/simple"} | {
        key: value for key, value in pip_settings(tmp_path, tmp_path).items() if key == "timeout"
    }
