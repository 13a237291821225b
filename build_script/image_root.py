"""The root file system of the live image: Debian's packages (cached), ours, and what makes a Dux OS of them."""

import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from build_script import mirror
from build_script.buildroot import Bind, Kind, Root
from build_script.mirror import Source
from build_script.progress import Failed, step

HERE = Path(__file__).resolve().parent
FILES = HERE / "image_files"
PICTURE = HERE / "duxos.png"
FLAVOURS = ("minimal", "desktop")
THEME = "usr/share/plymouth/themes/duxos/duxos.png"
TIMERS = ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "fstrim", "man-db")
"""Upkeep of an installed system; on a live one they would only load the first minutes after its start."""
SECRETS = ("var/lib/systemd/credential.secret", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id")
"""What must never be the same on two machines, so must not be in the image."""
LEFTOVERS = (
    "etc/.pwd.lock",
    "etc/apt/sources.list",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/log/alternatives.log",
    "var/log/apt/eipp.log.xz",
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/fontconfig.log",
)
"""Logs and caches: they carry the time of the build, or say the same twice."""


@dataclass(frozen=True)
class Release:
    """What the image calls itself, and the moment that all its dates stand for (seconds since 1970)."""

    version: str
    flavour: str
    epoch: int

    @property
    def name(self) -> str:
        """As people read it."""
        return f"Dux OS {self.version}" + ("" if self.flavour == "minimal" else f" ({self.flavour})")

    @property
    def stem(self) -> str:
        """Of the files' names."""
        return f"duxos-{self.flavour}-{self.version}-amd64"


def packages(flavour: str) -> tuple[str, ...]:
    """Debian's packages in this flavour; those of `minimal` are in each."""
    lists = ["minimal"] if flavour == "minimal" else ["minimal", flavour]
    lines = [line for name in lists for line in (FILES / f"packages-{name}.list").read_text("utf-8").splitlines()]
    return tuple(sorted({line.strip() for line in lines if line.strip() and not line.startswith("#")}))


def base(flavour: str) -> Kind:
    """Debian without anything of ours; kept between builds."""
    return Kind(f"live-{flavour}", "minbase", packages(flavour), lean=False)


def os_release(release: Release) -> str:
    """The content of os-release(5)."""
    return (
        f'PRETTY_NAME="{release.name}"\nNAME="Dux OS"\nID=duxos\nID_LIKE=debian\n'
        f'VERSION_ID="{release.version}"\nVERSION="{release.version} (on Debian 13)"\nVERSION_CODENAME=trixie\n'
        f"VARIANT_ID={release.flavour}\n"
    )


def furnish(root: Root, release: Release, debs: Sequence[Path], sources: Sequence[Source], log: Path) -> None:
    """Make a Dux OS of a fresh copy of the base.  Raises Failed with the end of `log`."""
    with step("laying out the live system"):
        _overlay(root)
        _brand(root, release)
        _apt(root, sources)
    with step(f"installing {len(debs)} dux packages"):
        _install(root, debs, log)
    with step("settling services, languages and the initrd"):
        _settle(root, release, log)
    with step("compiling Python"):
        # Unchecked: no source file is opened or looked at when a daemon starts; nothing on a live medium changes them.
        folders = ["/usr/lib/python3", "/usr/lib/python3.13", "/usr/lib/duxnet"]
        command = ["python3", "-m", "compileall", "-q", "-f", "-j2", "--invalidation-mode", "unchecked-hash"]
        root.run(*command, *folders, log=log)
    _clean(root)
    _check(root)


def _overlay(root: Root) -> None:
    """Copy our files with the modes that git keeps of them: whether they are programs."""
    for source in sorted((FILES / "root").rglob("*")):
        target = root.path / source.relative_to(FILES / "root")
        if source.is_dir():
            target.mkdir(exist_ok=True)
            continue
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
    shutil.copyfile(PICTURE, root.path / THEME)


def _brand(root: Root, release: Release) -> None:
    # Diverted, so that an update of base-files does not undo it.
    for path in ("/usr/lib/os-release", "/etc/issue", "/etc/issue.net"):
        root.run("dpkg-divert", "--local", "--quiet", "--rename", "--divert", f"{path}.debian", "--add", path)
    (root.path / "usr/lib/os-release").write_text(os_release(release), "utf-8")
    link = root.path / "etc/os-release"
    link.unlink(missing_ok=True)
    link.symlink_to("../usr/lib/os-release")
    (root.path / "etc/issue").write_text(f"{release.name} \\n \\l\n\n", "utf-8")
    (root.path / "etc/issue.net").write_text(f"{release.name}\n", "utf-8")


def _apt(root: Root, sources: Sequence[Source]) -> None:
    """The mirror that the image was built from, checked with the image's own copy of Debian's keys."""
    listed = root.path / "etc/apt/sources.list.d"
    for old in listed.glob("*"):
        old.unlink()
    own = mirror.keyring(root.path).removeprefix(str(root.path).rstrip("/"))
    kept = [replace(s, signed_by=own if s.signed_by.startswith("/") else s.signed_by) for s in sources]
    (listed / "debian.sources").write_text(mirror.deb822(kept), "utf-8")


def _install(root: Root, debs: Sequence[Path], log: Path) -> None:
    binds = [Bind(path.resolve(), f"/debs/{path.name}") for path in debs]
    # No daemon is to be started in a root that has no running system.
    policy = root.path / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", "utf-8")
    policy.chmod(0o755)
    root.run("dpkg", "--install", *(f"/debs/{path.name}" for path in debs), binds=binds, log=log)
    policy.unlink()
    shutil.rmtree(root.path / "debs")


def _settle(root: Root, release: Release, log: Path) -> None:
    units = ["duxos-live.service"]
    if not (root.path / "usr/lib/systemd/system/NetworkManager.service").exists():
        units.append("systemd-networkd.service")
    root.run("systemctl", "enable", *units, log=log)
    # A machine without a network must not wait for one.
    root.run("systemctl", "mask", "systemd-networkd-wait-online.service", log=log)
    root.run("systemctl", "disable", "e2scrub_reap.service", *(f"{name}.timer" for name in TIMERS), log=log)
    (root.path / "etc/locale.conf").write_text("LANG=C.UTF-8\n", "utf-8")
    (root.path / "etc/default/locale").unlink(missing_ok=True)
    (root.path / "etc/default/locale").symlink_to("../locale.conf")
    # The clock of a machine without a battery begins at the image's date instead of in 1970.
    # The picture is shown from the mounted system on: in the initrd it would need fonts and all drivers of graphics.
    hook = "/usr/share/initramfs-tools/hooks/plymouth"
    root.run(
        "dpkg-divert", "--local", "--quiet", "--rename", "--divert", "/usr/share/plymouth/initrd-hook", "--add", hook
    )
    environment = {"SOURCE_DATE_EPOCH": str(release.epoch)}
    root.run("touch", "-d", f"@{release.epoch}", "/usr/lib/clock-epoch")
    root.run("update-initramfs", "-u", env=environment, log=log)


def _clean(root: Root) -> None:
    for name in LEFTOVERS:
        (root.path / name).unlink(missing_ok=True)
    shutil.rmtree(root.path / "var/lib/apt/lists", ignore_errors=True)
    (root.path / "var/lib/apt/lists/partial").mkdir(parents=True)
    # Empty and there: each start makes an id of its own, and it is not taken for the first start of an installation.
    (root.path / "etc/machine-id").write_text("", "utf-8")
    for name in SECRETS:
        (root.path / name).unlink(missing_ok=True)
    # What is made from /usr was made here: the first start has no caches to renew.
    for name in ("etc/.updated", "var/.updated"):
        (root.path / name).write_text("", "utf-8")
    resolv = root.path / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def _check(root: Root) -> None:
    """Refuse an image that would give all its users the same keys, or a node that does not start."""
    keys = [root.path / name for name in (*SECRETS, "etc/duxnet/network.yaml")]
    for name in ("var/lib/duxnet", "etc/credstore.encrypted", "etc/credstore"):
        keys += (path for path in (root.path / name).rglob("*") if path.is_file())
    if found := [str(path.relative_to(root.path)) for path in keys if path.exists()]:
        raise Failed(f"the image would carry keys that all its users share: {', '.join(found)}")
    wants = root.path / "etc/systemd/system/multi-user.target.wants"
    if not any(path.name == "dux.target" or path.name.startswith("dux-") for path in wants.iterdir()):
        raise Failed("no dux unit is enabled in the image: were the packages' maintainer scripts run?")


def listing(root: Root) -> str:
    """The installed packages with their versions, one a line."""
    text = root.run("dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n").stdout
    return "".join(sorted(text.splitlines(keepends=True)))
