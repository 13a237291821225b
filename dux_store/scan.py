"""Checks of a bundle before it is published: errors stop it, warnings are shown to the seller.

The sandbox protects who runs an app; the scan protects the seller from publishing what can't run, or what was
never meant to leave the machine.
"""

import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from duxcommon import bundle as bundles
from duxcommon.api.manifest import Manifest
from duxcommon.api.registryd import Finding, ScanReport
from duxcommon.bundle import MANIFEST, Member
from duxcommon.errors import BadManifest, WrongParams
from duxcommon.machine import Machine
from duxcommon.params import check_params, check_schema

HEAD_BYTES = 4096
"""Of each file; enough for every mark that the rules look for."""
LARGE_BUNDLE = 32 * 1024 * 1024
LARGE_SAMPLE = 1024 * 1024
ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
ELF_HEADER = 20
_PYTHON_MODULE = re.compile(r"\.cpython-3(\d+)[a-z]*-[^/]*\.so$")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----")
_LEFTOVER = re.compile(r"(^|/)(__pycache__|node_modules|[^/]+\.(pyc|pyo|o|a|orig|rej|swp)|[^/]+~)$")
_ARCHIVE = re.compile(r"\.(zip|whl|jar|tar|tgz|gz|bz2|xz|zst|7z|rar|deb|rpm)$", re.IGNORECASE)
_APP_PATH = re.compile(r"^/app/(.+)$")
_LOOKS_LIKE_ID = re.compile(r"^[0-9a-f]{64}$")


@dataclass
class _Scan:
    machine: Machine
    members: dict[str, Member] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    native: dict[str, list[str]] = field(default_factory=dict)
    """Architecture → files that are for it."""
    pythons: set[str] = field(default_factory=set)

    def error(self, rule: str, message: str, path: str = "") -> None:
        self.findings.append(Finding(severity="error", rule=rule, path=path, message=message))

    def warn(self, rule: str, message: str, path: str = "") -> None:
        self.findings.append(Finding(severity="warning", rule=rule, path=path, message=message))


def scan(path: Path, digest: str, machine: Machine) -> tuple[ScanReport, Manifest]:
    """Look through the bundle at `path` as `machine` would run it.

    Raises BadBundle, BundleTooLarge or BadManifest where there is nothing to report on.
    """
    look = _Scan(machine)
    manifest = None
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for member in bundles.members(file):
            look.members[member.path] = member
            if member.path == MANIFEST and not member.folder:
                manifest = bundles.manifest_of(file, member)
            _look_at(look, file, member)
    if manifest is None:
        raise BadManifest(f"the bundle has no {MANIFEST}")
    _check_native(look)
    _check_manifest(look, manifest)
    _check_sample(look, manifest)
    if size > LARGE_BUNDLE:
        look.warn("large", f"{size >> 20} MiB: every provider fetches the whole bundle before its first call")
    look.findings.sort(key=lambda finding: (finding.severity, finding.rule, finding.path))
    report = ScanReport(
        bundle=digest,
        name=manifest.name,
        version=manifest.version,
        size=size,
        members=len(look.members),
        arch=_only(look.native),
        python=_only(look.pythons),
        findings=look.findings,
    )
    return report, manifest


def _only(values: Iterable[str]) -> str:
    """The one value there is; empty for none or several, when no single machine is meant."""
    found = list(values)
    return found[0] if len(found) == 1 else ""


def _look_at(look: _Scan, file: IO[bytes], member: Member) -> None:
    path, name = member.path, member.path.rpartition("/")[2]
    if member.mode & (stat.S_ISUID | stat.S_ISGID):
        look.error("setuid", "is set to run with another user's rights", path)
    if _LEFTOVER.search(path):
        look.warn("leftover", "was left by a build or an editor; an app carries its sources", path)
    elif name.startswith("."):
        look.warn("hidden", "is hidden; is it meant to be public?", path)
    if member.folder or not member.size:
        return
    if _ARCHIVE.search(name):
        look.warn("archive", "is an archive, which neither the scan nor a buyer looks into", path)
    head = bundles.content(file, member, HEAD_BYTES)
    if _PRIVATE_KEY.search(head):
        look.error("secret", "holds a private key, and every buyer could read it", path)
    if head.startswith(b"\x7fELF") and len(head) >= ELF_HEADER:
        order = ">" if head[5] == 2 else "<"
        number = struct.unpack(f"{order}H", head[18:20])[0]
        look.native.setdefault(ELF_MACHINES.get(number, f"machine {number}"), []).append(path)
        if match := _PYTHON_MODULE.search(path):
            look.pythons.add(f"3.{match[1]}")
    elif head.startswith((b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")) and stat.S_IXUSR & member.mode:
        look.warn("foreign", "is a program for another operating system", path)


def _check_native(look: _Scan) -> None:
    here = look.machine.arch
    for arch, paths in look.native.items():
        if arch == here:
            continue
        text = f"is for {arch}, this machine is {here}"
        if here in look.native:
            look.warn("foreign", f"{text} ({len(paths)} such files)", paths[0])
        else:
            look.error("foreign", f"{text} ({len(paths)} such files)", paths[0])
    if look.pythons and look.machine.python and look.machine.python not in look.pythons:
        built = ", ".join(sorted(look.pythons))
        look.error("python", f"native modules are for Python {built}, the sandbox here has {look.machine.python}")


def _check_manifest(look: _Scan, manifest: Manifest) -> None:
    if _LOOKS_LIKE_ID.match(manifest.name):
        look.error("name", "a name of 64 hex digits can't be told from an app's id", MANIFEST)
    try:
        check_schema(manifest.params)
    except WrongParams as error:
        look.error("params", error.message, MANIFEST)
    if manifest.params.get("type") != "object":
        look.error("params", "params must be a schema of type object", MANIFEST)
    if manifest.price == 0:
        look.warn("price", "the price is 0: every call is free", MANIFEST)
    if manifest.runtime == "http":
        return
    for position, word in enumerate(manifest.command):
        if not (match := _APP_PATH.match(word)):
            continue
        member = look.members.get(match[1].rstrip("/"))
        if member is None:
            look.error("command", f"{word} is not in the bundle", MANIFEST)
        elif position == 0 and (member.folder or not member.mode & stat.S_IXUSR):
            look.error("command", "is the command, but is not executable", member.path)


def _check_sample(look: _Scan, manifest: Manifest) -> None:
    sample = manifest.sample
    if sample is None:
        look.warn("sample", "there is no sample, so nobody can try the app or check a provider", MANIFEST)
        return
    for label, path, limit in (
        ("input", sample.input, manifest.input.max_bytes),
        ("output", sample.output, manifest.output.max_bytes),
    ):
        if path is None:
            continue
        member = look.members.get(path)
        if member is None or member.folder:
            look.error("sample", f"the sample's {label} is missing", path)
        elif member.size > limit:
            look.error("sample", f"the sample's {label} is larger than {label}.max_bytes ({limit})", path)
        elif member.size > LARGE_SAMPLE:
            look.warn("sample", f"the sample's {label} is {member.size >> 20} MiB", path)
    if sample.input is None and manifest.input.required:
        look.error("sample", "the app needs an input, but its sample has none", MANIFEST)
    if sample.output is None and manifest.deterministic:
        look.warn("sample", "a deterministic app's sample should say which output is right", MANIFEST)
    try:
        check_params(manifest.params, sample.params)
    except WrongParams as error:
        look.error("sample", f"the sample's parameters: {error.message}", MANIFEST)
