"""The packages on a running machine: installed, mixed, upgraded, downgraded, removed and purged by apt.

The next version is the present one under another number, with a configuration file that has changed and a database with
one migration more. The tests go through the life of one machine, in the order in which they stand.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.os import layers, node
from tests.os.nspawn import Machine, wait_until
from tests.os.repacked import version_of

pytestmark = pytest.mark.timeout(500)

NEXT = "/srv/next"
APT = ["apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=0"]
EDITED, CHANGED = "/etc/duxnet/taskd.yaml", "/etc/duxnet/airdropd.yaml"
WATCHED = ("etc", "usr", "var", "opt", "srv", "root", "home")
LEFT = re.compile(
    # The users and groups, by name and by their tools' copies of the files before.
    r"/etc/(passwd|group|g?shadow|sub[ug]id)-?$"
    # The machine's key for credentials belongs to the machine; so do the lists of apt and dpkg, and systemd's logs.
    r"|/var/lib/systemd/|/var/lib/(dpkg|apt)/|/var/cache/|/var/log/(apt|journal|dpkg\.log|alternatives\.log)"
    r"|/var/lib/dbus|/etc/(machine-id|ld\.so\.cache|\.updated|resolv\.conf|credstore\.encrypted$)|/var/\.updated"
    r"|/etc/apt/(keyrings|sources\.list\.d)|/root/|/var/tmp/|/var/backups/|/var/lib/(private|plymouth|logrotate)"
)
"""What may differ between a machine that never had the packages and one from which they were purged."""


def change(name: str, folder: Path) -> None:
    """What the next version has changed."""
    for path in folder.glob("usr/lib/duxnet/lib/python3*/site-packages/duxcommon/__init__.py"):
        path.write_text(re.sub(r'(__version__ = ")[^"]+', rf"\g<1>{layers.NEWER}", path.read_text()))
    for path in folder.glob("usr/lib/duxnet/lib/python3*/site-packages/dux_taskd/__main__.py"):
        text = path.read_text()
        found = re.sub(r"^(MIGRATIONS = \(.*),\)$", r'\1, "CREATE TABLE later (x INTEGER)")', text, flags=re.MULTILINE)
        assert found != text, "dux_taskd has its migrations elsewhere now"
        path.write_text(found)
    for daemon in ("taskd", "airdropd"):
        for path in folder.glob(f"etc/duxnet/{daemon}.yaml"):
            path.write_text(path.read_text() + "# A line that the next version has.\n")


def files(machine: Machine) -> set[str]:
    """All files of the machine, without what changes by itself."""
    found = machine.sh(
        f"find {' '.join(f'/{top}' for top in WATCHED)} -xdev -not -type d -o -type d -empty"
    ).splitlines()
    return {path for path in found if not LEFT.search(path)}


def apt(machine: Machine, *words: str, limit_s: float = 200) -> str:
    """What apt says; it has to succeed."""
    done = machine.run(*APT, *words, env={"DEBIAN_FRONTEND": "noninteractive"}, limit_s=limit_s)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def binds() -> dict[Path, str]:
    return {layers.repository(): layers.REPOSITORY, layers.newer(change): NEXT}


@pytest.fixture(scope="module")
def machine(binds: dict[Path, str]) -> Iterator[Machine]:
    """A running machine that has never had one of the packages."""
    with Machine(layers.base(), binds=binds) as one:
        assert one.boot() == "running"
        yield one


@pytest.fixture(scope="module")
def life() -> dict[str, Any]:
    """What earlier parts of the machine's life leave for later ones to compare."""
    return {}


def use(machine: Machine, binds: dict[Path, str], seen_at: str) -> None:
    """Have apt know one repository."""
    layers.subscribe(machine, next(folder for folder, at in binds.items() if at == seen_at), seen_at)
    apt(machine, "update")


def test_installing_on_a_running_machine_starts_the_whole_node(
    machine: Machine, binds: dict[Path, str], life: dict[str, Any]
) -> None:
    life["before"] = files(machine)
    use(machine, binds, layers.REPOSITORY)
    said = apt(machine, "install", "dux-node")
    assert "starting the node" in said
    node.assert_well(machine)
    wrong = {k: v for k, v in node.checks(machine, "files", "first-user", "no-failed-units").items() if not v["ok"]}
    assert wrong == {}
    assert machine.run("systemctl", "is-enabled", "dux.target").stdout == "enabled\n"


def test_apt_refuses_packages_that_nobody_signed(machine: Machine) -> None:
    keys = machine.path("/etc/apt/keyrings")
    own = next(keys.glob("*.asc"))
    text = own.read_text()
    own.unlink()
    done = machine.run("apt-get", "update", check=False)
    own.write_text(text)
    assert "signature verification failed" in done.stdout + done.stderr


def test_apt_does_not_mix_versions(machine: Machine) -> None:
    package = machine.sh(f"ls {NEXT}/pool/main/*/*/dux-flopd_*.deb").strip()
    done = machine.run(*APT, "install", package, check=False)
    assert done.returncode != 0
    assert f"dux-common (= {layers.NEWER})" in done.stdout + done.stderr
    node.assert_well(machine)


def test_versions_that_were_mixed_by_force_are_named(machine: Machine) -> None:
    # The files of the next dux-common over those of this one, as `dpkg --force-all` does, with the old daemons running.
    package = machine.sh(f"ls {NEXT}/pool/main/*/*/dux-common_*.deb").strip()
    machine.run("dpkg-deb", "-x", package, "/")
    status = machine.run("dux-ctl", "status", check=False)
    assert layers.NEWER in status.stdout, status.stdout
    assert "systemctl restart dux.target" in status.stdout
    apt(machine, "install", "--reinstall", "dux-common")
    node.assert_well(machine)
    assert layers.NEWER not in machine.run("dux-ctl", "status").stdout


def test_an_upgrade_keeps_identity_money_and_an_edited_file_and_copies_a_database_before_it_changes_it(
    machine: Machine, binds: dict[Path, str], life: dict[str, Any]
) -> None:
    node.fund(machine)
    life["identity"] = node.identity(machine)
    edited = machine.path(EDITED)
    edited.write_text(edited.read_text() + "# mine\nlog_level: debug\n")
    life["edited"] = edited.read_text()
    use(machine, binds, NEXT)
    said = apt(machine, "full-upgrade")
    assert "starting the node" in said, said
    node.assert_well(machine)
    assert {node.ctl(machine, "daemon", "status", name)["version"] for name in ("flopd", "taskd")} == {layers.NEWER}
    wait_until(lambda: node.identity(machine) == life["identity"], f"it is who it was: {life['identity']}", 60)
    assert machine.path(EDITED).read_text() == life["edited"]
    assert "A line that the next version has" in machine.path(f"{EDITED}.dpkg-dist").read_text()
    assert "A line that the next version has" in machine.path(CHANGED).read_text()
    assert machine.sh("ls /var/lib/duxnet/taskd/*.before-*").strip() != ""


def test_a_downgrade_is_refused_with_what_to_do_and_everything_still_runs(
    machine: Machine, binds: dict[Path, str], life: dict[str, Any]
) -> None:
    use(machine, binds, layers.REPOSITORY)
    present = version_of(layers.packages())
    names = [f"{name}={present}" for name in machine.sh("dpkg-query -W -f '${Package}\n' 'dux-*'").split()]
    done = machine.run(*APT, "install", "--allow-downgrades", *names, check=False, limit_s=200)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"version {present} can't replace version {layers.NEWER}" in said, said
    assert "What to do now" in said
    node.assert_well(machine)
    assert node.ctl(machine, "daemon", "status", "taskd")["version"] == layers.NEWER
    assert node.identity(machine) == life["identity"]


def test_removed_and_installed_again_it_is_the_same_node(
    machine: Machine, binds: dict[Path, str], life: dict[str, Any]
) -> None:
    use(machine, binds, NEXT)
    apt(machine, "remove", "dux-*")
    assert machine.sh("pgrep -f [d]uxnet || true") == ""
    assert machine.sh("ls /run/duxnet").strip() == ""
    apt(machine, "install", "dux-node")
    node.assert_well(machine)
    wait_until(lambda: node.identity(machine) == life["identity"], f"it is who it was: {life['identity']}", 60)
    assert machine.path(EDITED).read_text() == life["edited"]


def test_purged_nothing_is_left_but_users(machine: Machine, life: dict[str, Any]) -> None:
    apt(machine, "purge", "dux-*")
    apt(machine, "autoremove", "--purge")
    left = files(machine) - life["before"]
    assert left == set()
    assert machine.sh("systemctl list-units --state=active,failed --no-legend --plain 'dux*'") == ""
    assert machine.sh("pgrep -f [d]uxnet || true") == ""
    assert machine.run("id", "-u", "dux-flopd").returncode == 0
    assert machine.reboot() == "running"
