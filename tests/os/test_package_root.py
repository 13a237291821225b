"""The packages in a root of Debian 13 without a running systemd, as an image is made: installed, used and purged."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.os import layers
from tests.os.nspawn import Machine
from tests.os.test_package_files import DAEMONS, PROGRAMS

pytestmark = pytest.mark.timeout(300)


@dataclass
class Installed:
    """A root in which the packages are installed."""

    machine: Machine
    before: set[str]
    """The files that were there without them."""

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root of it; what it says, on whatever channel, is in `stdout`."""
        # systemd-nspawn itself writes to the error channel.
        return self.machine.prepare("sh", "-c", 'exec "$@" 2>&1', "sh", *command, check=check)


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with Machine(layers.base(), binds={layers.packages(): "/debs"}) as machine:
        before = _files_of(machine)
        # Nobody's machine: what a power cut would leave of it does not matter.
        machine.prepare("bash", "-ec", "dpkg --force-unsafe-io -i /debs/*.deb")
        yield Installed(machine, before)


def _files_of(machine: Machine) -> set[str]:
    skipped = ("proc", "sys", "dev", "tmp", "run", "debs")
    found = set()
    for top in machine.root.iterdir():
        if top.name not in skipped and not top.is_symlink():
            for folder, _, files in os.walk(top):
                found |= {f"/{(Path(folder) / name).relative_to(machine.root)}" for name in files}
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
        return installed.run("env", f"DPKG_MAINTSCRIPT_PACKAGE={package}", *command, check=False)

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
    left = _files_of(installed.machine) - installed.before
    kept = {path for path in left if path.startswith("/var/backups/duxnet/")}
    assert {path.split("/", 5)[5] for path in kept} == {
        "flopd/keystore.json", "escrowd/state", "dux-flopd.wallet", "network.yaml",
    }  # fmt: skip
    assert sorted(path for path in left - kept if not path.startswith(KEPT_OF_ANY)) == []


@pytest.mark.parametrize(("chain", "keeps"), [("devnet", False), ("regtest", False), ("main", True), ("", True)])
def test_only_a_known_trial_network_loses_its_wallet_by_a_purge(
    installed: Installed, tmp_path: Path, chain: str, keeps: bool
) -> None:
    backups = installed.machine.path("/var/backups/duxnet")
    shutil.rmtree(backups, ignore_errors=True)
    _used(installed, chain)
    script = installed.machine.path("/postrm")
    # Our part alone: debhelper's speaks to dpkg.
    subprocess.run(["dpkg-deb", "-e", next(layers.packages().glob("dux-common_*.deb")), tmp_path], check=True)
    script.write_text((tmp_path / "postrm").read_text().split("# Automatically added")[0])
    said = installed.run("sh", "/postrm", "purge").stdout
    assert ("was not deleted" in said) is keeps
    assert backups.exists() is keeps
    assert not installed.machine.path("/var/lib/duxnet").exists()
    assert not installed.machine.path("/etc/duxnet").exists()
