"""The packages as files: what is in them, and that nothing tells where they were built."""

import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_script import deb, installed_docs
from duxcommon import __version__
from tests.os import layers

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
DAEMONS = ("flopd", "escrowd", "taskd", "sandbox", "registryd", "airdropd")
PROGRAMS = ("dux-ctl", "dux-devnet", "dux-devchain", *(f"dux-{name}" for name in DAEMONS))
ENVIRONMENT = "usr/lib/duxnet"
SITE = f"{ENVIRONMENT}/lib/python3.13/site-packages"


@dataclass
class Package:
    """One package file, taken apart."""

    fields: dict[str, str]
    files: dict[str, tarfile.TarInfo]
    """Path without the leading ./ → its entry."""
    folder: Path
    """Where its files are unpacked; maintainer scripts in DEBIAN/."""

    @property
    def conffiles(self) -> set[str]:
        """Paths that dpkg does not overwrite without asking."""
        listed = self.folder / "DEBIAN/conffiles"
        return set(listed.read_text().split()) if listed.exists() else set()


def taken_apart(path: Path, folder: Path) -> Package:
    """A package, its control files and its contents."""
    subprocess.run(["dpkg-deb", "-R", path, folder], check=True)
    text = subprocess.run(["dpkg-deb", "-f", path], check=True, capture_output=True, text=True).stdout
    fields = dict(re.findall(r"^(\S+): (.*(?:\n .*)*)", text, re.MULTILINE))
    listing = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE)
    with listing, tarfile.open(fileobj=listing.stdout, mode="r|") as tar:
        files = {entry.name.removeprefix("./").rstrip("/"): entry for entry in tar}
    return Package(fields, files, folder)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Package]]:
    """Name → package."""
    base = tmp_path_factory.mktemp("packages")
    found = [taken_apart(path, base / path.name) for path in sorted(layers.packages().glob("*.deb"))]
    yield {package.fields["Package"]: package for package in found}
    shutil.rmtree(base)


def test_there_is_one_package_a_daemon_and_one_for_a_whole_node(packages: dict[str, Package]) -> None:
    parts = {"dux-common", "dux-devchain", *(f"dux-{name}" for name in DAEMONS)}
    assert set(packages) == {"dux-node", *parts}
    depends = packages["dux-node"].fields["Depends"]
    assert all(f"{name} (= {__version__})" in depends for name in parts)


def test_all_packages_have_the_projects_version_and_go_together(packages: dict[str, Package]) -> None:
    assert (ROOT / "debian/changelog").read_text().startswith(f"duxos ({__version__}) trixie;")
    for name, package in packages.items():
        assert package.fields["Version"] == __version__
        assert name == "dux-common" or f"dux-common (= {__version__})" in package.fields["Depends"]


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemons_package_has_its_units_settings_program_and_page(packages: dict[str, Package], name: str) -> None:
    package = packages[f"dux-{name}"]
    units = {f"usr/lib/systemd/system/dux-{name}.{kind}" for kind in ("service", "socket")}
    assert units | {f"usr/share/man/man8/dux-{name}.8.gz"} <= set(package.files)
    assert package.conffiles == {f"/etc/duxnet/{name}.yaml"}
    assert package.files[f"usr/sbin/dux-{name}"].issym()
    assert f"{ENVIRONMENT}/bin/dux-{name}" in packages["dux-common"].files
    assert (package.folder / f"etc/duxnet/{name}.yaml").read_bytes() == (ROOT / f"etc-duxnet/{name}.yaml").read_bytes()


def test_what_everything_needs_is_in_dux_common(packages: dict[str, Package]) -> None:
    files = packages["dux-common"].files
    wanted = {
        "usr/bin/dux-ctl", "usr/bin/dux-devnet", "usr/bin/dux-devchain",
        "usr/share/man/man1/dux-ctl.1.gz", "usr/share/man/man1/dux-devnet.1.gz", "usr/share/man/man1/dux-devchain.1.gz",
        "usr/share/bash-completion/completions/dux-ctl", "usr/share/zsh/vendor-completions/_dux-ctl",
        "usr/lib/sysusers.d/dux-common.conf", "usr/lib/tmpfiles.d/dux-common.conf",
        "usr/lib/systemd/journald.conf.d/dux.conf", "usr/lib/systemd/system/dux.target",
        "usr/lib/systemd/system/dux-firstboot.service", "usr/share/doc/dux-common/README.md",
        f"{SITE}/dux_ctl/methods.json", f"{SITE}/dux_taskd/sandbox/filters/x86_64.bpf",
    }  # fmt: skip
    assert wanted <= set(files)
    for app in (ROOT / "apps").iterdir():
        assert f"usr/share/duxnet/apps/{app.name}/dux.yaml" in files
    assert packages["dux-common"].conffiles == set()


def test_no_relative_link_of_an_installed_page_is_dead(packages: dict[str, Package]) -> None:
    folder = packages["dux-common"].folder / "usr/share/doc/dux-common"
    links = [
        (page.relative_to(folder), target.partition("#")[0])
        for page in folder.rglob("*.md")
        for _, target in installed_docs.LINK.findall(page.read_text())
        if not target.startswith(("/", "#")) and not installed_docs.SCHEME.match(target)
    ]
    assert len(links) > 100
    assert [(page, target) for page, target in links if not (folder / page.parent / target).is_file()] == []


def test_all_of_our_code_is_there(packages: dict[str, Package]) -> None:
    files = packages["dux-common"].files
    code = [name for name in deb.tracked() if name.startswith("dux") and name.endswith(".py")]
    assert len(code) > 100
    assert [name for name in code if f"{SITE}/{name}" not in files] == []


def test_nothing_has_to_be_compiled_on_the_machine(packages: dict[str, Package]) -> None:
    package = packages["dux-common"]
    sources = [name for name in package.files if name.startswith(SITE) and name.endswith(".py")]

    def compiled(name: str) -> str:
        return str(Path(name).parent / "__pycache__" / f"{Path(name).stem}.cpython-313.pyc")

    assert [name for name in sources if compiled(name) not in package.files] == []
    # Bit 0: the source's hash, not its time, is in it; bit 1 off: nobody compares.
    assert {(package.folder / compiled(name)).read_bytes()[4:8] for name in sources} == {b"\x01\0\0\0"}


def test_nothing_tells_where_or_by_whom_it_was_built(packages: dict[str, Package]) -> None:
    for package in packages.values():
        for name, entry in package.files.items():
            assert (entry.uid, entry.gid) == (0, 0), name
            if not entry.isfile():
                continue
            content = (package.folder / name).read_bytes()
            assert b"/build/duxos" not in content, name
            # What others built (wheels) may name folders of theirs.
            if "/dux_" in name or "/duxcommon" in name:
                assert not any(word in content for word in (b"/wheels/", b"/.cache/", str(ROOT).encode())), name


def test_modes_give_nobody_more_than_reading(packages: dict[str, Package]) -> None:
    for package in packages.values():
        for name, entry in package.files.items():
            if entry.issym():
                continue
            assert not entry.mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), name
            executable = entry.isdir() or name.startswith(f"{ENVIRONMENT}/bin/") or "/apps/" in name
            assert executable or not entry.mode & 0o111, name


def test_programs_use_the_private_interpreter_and_nothing_of_the_caller(packages: dict[str, Package]) -> None:
    folder = packages["dux-common"].folder / ENVIRONMENT / "bin"
    programs = sorted(path for path in folder.iterdir() if path.name != "python")
    assert [path.name for path in programs] == sorted(PROGRAMS)
    for path in programs:
        assert path.read_text().startswith(f"#!/{ENVIRONMENT}/bin/python -I\n")
    assert (folder / "python").readlink() == Path("../../../bin/python3.13")


def test_only_the_python_that_it_was_compiled_for_is_accepted(packages: dict[str, Package]) -> None:
    depends = packages["dux-common"].fields["Depends"]
    assert all(one in depends for one in ("python3.13", "python3 (<< 3.14)", "python3-cryptography (>= 43)"))
