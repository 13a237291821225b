"""The packages as files: what is in them, what they leave, and that apt takes them from a signed repository only."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from build_script import buildroot, deb, repository
from build_script.progress import Failed
from duxcommon import __version__
from tests.os import layers
from tests.os.nspawn import wait_until

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


# --- in a root of Debian 13 without a running systemd, as an image is made ---


@dataclass
class Installed:
    """A root in which the packages are installed."""

    root: buildroot.Root
    before: set[str]
    """The files that were there without them."""

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as root of it."""
        return self.root.run(*command, **options)


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with buildroot.unpacked(buildroot.cached(buildroot.MACHINE)) as root:
        before = _files_of(root)
        binds = [buildroot.Bind(layers.packages(), "/debs")]
        # Nobody's machine: what a power cut would leave of it does not matter.
        root.run("bash", "-ec", "dpkg --force-unsafe-io -i /debs/*.deb", binds=binds)
        yield Installed(root, before)


def _files_of(root: buildroot.Root) -> set[str]:
    skipped = ("proc", "sys", "dev", "tmp", "run", "debs")
    found = set()
    for top in root.path.iterdir():
        if top.name not in skipped and not top.is_symlink():
            for folder, _, files in os.walk(top):
                found |= {f"/{(Path(folder) / name).relative_to(root.path)}" for name in files}
    return found


def test_the_units_are_enabled_for_the_next_boot(installed: Installed) -> None:
    units = ["dux.target", "dux-firstboot.service", "dux-devchain.service"]
    units += [f"dux-{name}.{kind}" for name in DAEMONS for kind in ("service", "socket")]
    assert installed.run("systemctl", "is-enabled", *units).stdout.split() == ["enabled"] * len(units)


def test_users_folders_and_modes_are_there(installed: Installed) -> None:
    found = installed.run("stat", "-c", "%U:%G %a %n", "/var/lib/duxnet/flopd", "/var/lib/duxnet/setup").stdout
    assert found.splitlines() == [
        "dux-flopd:dux-flopd 700 /var/lib/duxnet/flopd",
        "root:root 700 /var/lib/duxnet/setup",
    ]


def test_every_program_starts_and_has_a_page(installed: Installed) -> None:
    script = 'for one; do $one --help >/dev/null && MANWIDTH=160 man -P cat $one | grep -m1 -- "$one - "; done'
    said = installed.run("bash", "-ec", script, "script", *PROGRAMS).stdout.splitlines()
    assert [line.split()[0] for line in said] == list(PROGRAMS)


def test_completion_is_known_to_the_shell(installed: Installed) -> None:
    command = ". /usr/share/bash-completion/completions/dux-ctl; complete -p dux-ctl"
    assert "_python_argcomplete" in installed.run("bash", "-c", command).stdout


@pytest.mark.parametrize("package", ["dux-common", "dux-flopd"])
def test_a_downgrade_is_refused_before_anything_changes(installed: Installed, package: str) -> None:
    def asked(old: str, new: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", f"/var/lib/dpkg/info/{package}.preinst", "upgrade", old, new]
        return installed.run(*command, env={"DPKG_MAINTSCRIPT_PACKAGE": package}, check=False)

    done = asked("99.0", "0.1.0")
    assert done.returncode == 1
    for words in (
        "version 0.1.0 can't replace version 99.0",
        "Why:",
        "Nothing was changed",
        "apt install dux-node=99.0",
    ):
        assert words in done.stdout
    assert (asked("0.0.9", "0.1.0").returncode, asked("0.0.9", "0.1.0").stdout) == (0, "")


KEPT_OF_ANY = (
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/.pwd.lock",
    "/var/lib/dpkg/", "/var/log/dpkg.log", "/var/log/alternatives.log", "/var/cache/", "/root/",
)  # fmt: skip
"""What dpkg and the accounts themselves keep of any package."""


def _used(installed: Installed, chain: str) -> None:
    """As if the node had run on this chain; without one, as if its network definition had been lost."""
    drop_in = "/etc/systemd/system/dux-flopd.service.d"
    network = f"printf 'chain: {chain}\\nsignatures: {{}}\\n' >/etc/duxnet/network.yaml; " if chain else ""
    installed.run(
        "bash", "-ec",
        f"mkdir -p {drop_in} /etc/duxnet/flopd.d /etc/credstore.encrypted /var/lib/duxnet/{{flopd,escrowd}} "
        f"/var/log/duxnet/flopd; echo x >{drop_in}/10-network.conf; {network}"
        "echo x >/etc/credstore.encrypted/dux-flopd.wallet; echo x >/var/lib/duxnet/flopd/keystore.json; "
        "echo x >/etc/duxnet/flopd.d/10-network.yaml; echo x >/var/lib/duxnet/escrowd/state; "
        "echo x >/var/log/duxnet/flopd/log",
    )  # fmt: skip


def test_a_purge_leaves_nothing_but_users_and_a_wallet_of_value(installed: Installed) -> None:
    """The last that is done to the installed packages of this root."""
    _used(installed, "main")
    said = installed.run("bash", "-ec", "dpkg --purge $(dpkg-query -W -f '${Package} ' 'dux-*')").stdout
    assert "was not deleted" in said
    left = _files_of(installed.root) - installed.before
    kept = {path for path in left if path.startswith("/var/backups/duxnet/")}
    assert {path.split("/", 5)[5] for path in kept} == {
        "flopd/keystore.json", "escrowd/state", "dux-flopd.wallet", "network.yaml",
    }  # fmt: skip
    assert sorted(path for path in left - kept if not path.startswith(KEPT_OF_ANY)) == []


@pytest.mark.parametrize(("chain", "keeps"), [("devnet", False), ("regtest", False), ("main", True), ("", True)])
def test_only_a_known_trial_network_loses_its_wallet_by_a_purge(
    installed: Installed, packages: dict[str, Package], chain: str, keeps: bool
) -> None:
    backups = installed.root.path / "var/backups/duxnet"
    shutil.rmtree(backups, ignore_errors=True)
    _used(installed, chain)
    script = installed.root.path / "postrm"
    # Our part alone: debhelper's speaks to dpkg.
    script.write_text((packages["dux-common"].folder / "DEBIAN/postrm").read_text().split("# Automatically added")[0])
    said = installed.run("sh", "/postrm", "purge").stdout
    assert ("was not deleted" in said) is keeps
    assert backups.exists() is keeps
    assert not (installed.root.path / "var/lib/duxnet").exists()
    assert not (installed.root.path / "etc/duxnet").exists()


# --- the signed repository ---


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository signed with a key made for it."""
    folder = tmp_path_factory.mktemp("repository") / "apt"
    folder.parent.chmod(0o755)
    return repository.make(sorted(layers.packages().glob("*.deb")), folder, key=None)


@pytest.fixture(scope="module")
def empty() -> Iterator[buildroot.Root]:
    """A root without our packages, that knows no archive."""
    with buildroot.unpacked(buildroot.cached(buildroot.MACHINE)) as root:
        apt = root.path / "etc/apt"
        for old in [*(apt / "sources.list.d").iterdir(), apt / "sources.list"]:
            old.unlink(missing_ok=True)
        (apt / "keyrings").mkdir(exist_ok=True)
        yield root


def _update(root: buildroot.Root, served: Path, *more: str) -> subprocess.CompletedProcess[str]:
    shutil.copyfile(served / repository.KEYRING, root.path / "etc/apt/keyrings" / repository.KEYRING)
    (root.path / "etc/apt/sources.list.d/duxos.sources").write_text(repository.source_lines(Path("/srv/duxos")))
    shutil.rmtree(root.path / "var/lib/apt/lists", ignore_errors=True)
    command = " && ".join(["apt-get -o APT::Update::Error-Mode=any update", *more])
    return root.run("bash", "-c", command, binds=[buildroot.Bind(served, "/srv/duxos")], check=False)


def test_apt_accepts_the_repository_by_its_key_and_would_install_a_node(empty: buildroot.Root, served: Path) -> None:
    done = _update(empty, served, "apt-get install -s -y --no-install-recommends dux-node")
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"Inst dux-flopd ({__version__} Dux OS" in done.stdout


@pytest.mark.parametrize("what", ["Packages", "InRelease", "key"])
def test_apt_refuses_a_repository_that_was_tampered_with(
    empty: buildroot.Root, served: Path, tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "apt"
    shutil.copytree(served, copy)
    tmp_path.chmod(0o755)
    release = copy / "dists/trixie/InRelease"
    if what == "Packages":
        for path in copy.rglob("Packages*"):
            path.write_bytes(path.read_bytes() + b"\n")
    elif what == "InRelease":
        release.write_text(release.read_text().replace("Label: Dux OS", "Label: Dux 0S"))
        (copy / "dists/trixie/Release.gpg").unlink()
    else:
        shutil.copyfile("/usr/share/keyrings/debian-archive-keyring.gpg", copy / repository.KEYRING)
    done = _update(empty, copy)
    assert done.returncode != 0
    assert re.search("unexpected size|Hash Sum" if what == "Packages" else "signature", done.stdout), done.stdout


def test_a_repository_needs_a_key_that_can_sign(tmp_path: Path) -> None:
    (tmp_path / "public.asc").write_text("no key\n")
    with pytest.raises(Failed):
        repository.make([], tmp_path / "apt", key=tmp_path / "public.asc")
    assert not (tmp_path / "apt").exists()


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


def test_ctrl_c_leaves_no_process_and_no_folder() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom build_script import buildroot\n"
        "with buildroot.unpacked(buildroot.cached(buildroot.MACHINE)) as root:\n"
        "    (root.path / 'busy').write_text('')\n    print(root.path, flush=True)\n"
        "    root.run('bash', '-c', 'sleep 98765 & wait')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(ROOT)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process:
        folder = next(Path(line.strip()) for line in process.stdout if line.startswith("/"))
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not folder.parent.exists()

    def none_left() -> bool:
        return subprocess.run(["pgrep", "-f", "sleep 98765"], capture_output=True, check=False).returncode == 1

    wait_until(none_left, "the kernel has ended what ran in the root", 20)
