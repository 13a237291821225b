"""The ISO around a root file system: squashfs, kernel, and GRUB for BIOS, UEFI and Secure Boot.

One file serves as a DVD and, copied as it is, as a stick: an MBR with two partitions, the ISO 9660 file system and the
UEFI partition, and room behind them for a partition that keeps what people do (persistence).
"""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from build_script.buildroot import Bind, Root
from build_script.image_root import FILES, PICTURE, Release
from build_script.progress import Failed, step

BIOS_MODULES = "biosdisk iso9660 part_msdos part_gpt search search_fs_file normal configfile echo"
BIOS_LOADER = "boot/grub/bios.img"
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"
DOTS = "0x20-0x7e,0xb7-0xb7,0x2190-0x2193,0x2500-0x257f,0x25b2-0x25b2,0x25bc-0x25bc"
"""The characters of the menu: ASCII and the frame of GRUB's own editor."""


def build(tools: Root, live: Root, release: Release, out: Path, log: Path) -> Path:
    """Make `out`/STEM.iso from a furnished root.  Raises Failed with the end of `log`."""
    tree = tools.path / "iso"
    (tree / "live").mkdir(parents=True)
    environment = {"SOURCE_DATE_EPOCH": str(release.epoch), "TZ": "UTC"}
    _kernel(live, tree)
    with step("packing the root file system"):
        command = ["mksquashfs", "/root-of-live", "/iso/live/filesystem.squashfs", "-noappend", "-no-progress"]
        # zstd: unpacks several times as fast as xz, which counts on a slow machine at every start.
        command += ["-comp", "zstd", "-Xcompression-level", "15", "-b", "256K", "-xattrs-exclude", "^security.selinux"]
        command += ["-wildcards", "-e", "boot/initrd.img*", "proc/*", "sys/*", "dev/*", "run/*", "tmp/*"]
        tools.run(*command, binds=[Bind(live.path, "/root-of-live")], env=environment, log=log)
    with step("making the boot loader and the ISO"):
        _menu(tools, tree, release, log)
        _bios(tools, tree, log)
        _uefi(tools, tree, release, environment, log)
        _info(tree, release)
        _dates(tree, release.epoch)
        _xorriso(tools, release, environment, log)
    target = out / f"{release.stem}.iso"
    shutil.copyfile(tools.path / "made.iso", target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)
    return target


def _kernel(live: Root, tree: Path) -> None:
    for name in ("vmlinuz", "initrd.img"):
        found = sorted((live.path / "boot").glob(f"{name}-*"))
        if len(found) != 1:
            raise Failed(f"one {name} is expected in the image, there are {len(found)}")
        shutil.copyfile(found[0], tree / "live" / name)


def _menu(tools: Root, tree: Path, release: Release, log: Path) -> None:
    grub = tree / "boot/grub"
    grub.mkdir(parents=True)
    text = (FILES / "boot/grub.cfg").read_text("utf-8")
    text = text.replace("@NAME@", release.name).replace("@MARK@", mark(release))
    (grub / "grub.cfg").write_text(text, "utf-8")
    shutil.copyfile(FILES / "boot/theme.txt", grub / "theme.txt")
    shutil.copyfile(PICTURE, grub / "duxos.png")
    for size, name in ((18, "font.pf2"), (14, "small.pf2")):
        tools.run("grub-mkfont", "-s", str(size), "-r", DOTS, "-o", f"/iso/boot/grub/{name}", FONT, log=log)


def mark(release: Release) -> str:
    """The name of the file by which GRUB knows this image among other media."""
    return f"{release.stem}-{release.epoch}"


def _bios(tools: Root, tree: Path, log: Path) -> None:
    modules = tree / "boot/grub/i386-pc"
    shutil.copytree(tools.path / "usr/lib/grub/i386-pc", modules, ignore=shutil.ignore_patterns("*.image", "*.img"))
    command = ["grub-mkimage", "-O", "i386-pc-eltorito", "-p", "/boot/grub", "-o", f"/iso/{BIOS_LOADER}"]
    tools.run(*command, *BIOS_MODULES.split(), log=log)


def _uefi(tools: Root, tree: Path, release: Release, environment: dict[str, str], log: Path) -> None:
    """Debian's signed loaders: Microsoft's key vouches for shim, Debian's for GRUB and for the kernel."""
    platform = "x86_64-efi"
    shutil.copytree(tools.path / "usr/lib/grub" / platform, tree / "boot/grub" / platform)
    for name, path in (
        ("BOOTX64.EFI", "usr/lib/shim/shimx64.efi.signed"),
        ("GRUBX64.EFI", "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"),
        ("MMX64.EFI", "usr/lib/shim/mmx64.efi"),
    ):
        (tools.path / "efi/EFI/BOOT").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tools.path / path, tools.path / "efi/EFI/BOOT" / name)
    _dates(tools.path / "efi", release.epoch)
    blocks = sum(path.stat().st_size for path in (tools.path / "efi").rglob("*.EFI")) // 1024 + 512
    serial = f"{release.epoch & 0xFFFFFFFF:08x}"
    tools.run("mkfs.vfat", "--invariant", "-i", serial, "-n", "DUXOS_EFI", "-C", "/efi.img", str(blocks), log=log)
    tools.run("mcopy", "-s", "-m", "-i", "/efi.img", "/efi/EFI", "::", env=environment, log=log)


def _info(tree: Path, release: Release) -> None:
    disk = tree / ".disk"
    disk.mkdir()
    # GRUB as Debian signed it looks for this file to find the medium that it was started from.
    (disk / "info").write_text(f"{release.name} amd64\n", "utf-8")
    (disk / mark(release)).write_text("", "utf-8")
    # xorriso writes into BIOS's loader where it lies on the medium.
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and path != tree / BIOS_LOADER]
    sums = [f"{sha256(path)}  ./{path.relative_to(tree)}" for path in files]
    (tree / "sha256sum.txt").write_text("\n".join(sums) + "\n", "utf-8")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dates(tree: Path, epoch: int) -> None:
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _xorriso(tools: Root, release: Release, environment: dict[str, str], log: Path) -> None:
    stamp = time.strftime("%Y%m%d%H%M%S00", time.gmtime(release.epoch))
    command = ["xorriso", "-as", "mkisofs", "-o", "/made.iso", "-r", "-J", "-joliet-long", "-iso-level", "3"]
    command += ["-V", "DUXOS", "-A", release.name, f"--modification-date={stamp}"]
    # On a stick the first partition begins at block 16, so that the kernel sees a file system there as well.
    command += ["--grub2-mbr", "/usr/lib/grub/i386-pc/boot_hybrid.img", "-partition_offset", "16"]
    command += ["--mbr-force-bootable", "-append_partition", "2", "0xef", "/efi.img"]
    command += ["-c", "/boot/boot.cat", "-b", f"/{BIOS_LOADER}", "-no-emul-boot", "-boot-load-size", "4"]
    command += ["-boot-info-table", "--grub2-boot-info"]
    command += ["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot", "/iso"]
    tools.run(*command, env=environment, log=log)


def sums(paths: Sequence[Path]) -> str:
    """Lines that sha256sum --check reads."""
    return "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
