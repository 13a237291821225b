"""The scan before publishing: what stops an app, what is only mentioned."""

import io
import struct
import tarfile
from pathlib import Path

import pytest
from store_kit import write_app

from dux_store.scan import scan
from duxcommon import bundle
from duxcommon.api.registryd import ScanReport
from duxcommon.errors import BadBundle, BadManifest
from duxcommon.machine import Machine, this_machine

HERE = Machine("x86_64", "3.13")


def scanned(folder: Path, machine: Machine = HERE) -> ScanReport:
    packed = bundle.pack(folder, folder.parent / "a.tar")
    report, _ = scan(folder.parent / "a.tar", packed.hash, machine)
    return report


def found(report: ScanReport, severity: str) -> list[tuple[str, str]]:
    return [(finding.rule, finding.path) for finding in report.findings if finding.severity == severity]


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(100)


def add(folder: Path, path: str, data: bytes, mode: int = 0o644) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    (folder / path).chmod(mode)


def foreign_tar(path: Path, members: dict[str, tuple[bytes, int]]) -> None:
    """A bundle that another program made."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (data, mode) in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))


def test_a_clean_app_has_no_findings(tmp_path: Path) -> None:
    report = scanned(write_app(tmp_path / "app"))
    assert report.findings == []
    assert (report.name, report.version, report.arch, report.python) == ("hello", "1.0", "", "")
    assert report.size == (tmp_path / "a.tar").stat().st_size


@pytest.mark.parametrize("name", ["image-upscale", "hello-words"])
def test_the_example_apps_have_no_findings(tmp_path: Path, name: str) -> None:
    packed = bundle.pack(Path(__file__).parents[2] / "apps" / name, tmp_path / "a.tar")
    report, _ = scan(tmp_path / "a.tar", packed.hash, this_machine())
    assert report.findings == []


def test_a_setuid_file_stops_the_app(tmp_path: Path) -> None:
    manifest = (write_app(tmp_path / "app") / "dux.yaml").read_bytes()
    foreign_tar(tmp_path / "a.tar", {"dux.yaml": (manifest, 0o644), "main.py": (b"", 0o644), "su": (b"x", 0o4755)})
    report, _ = scan(tmp_path / "a.tar", "ab" * 32, HERE)
    assert ("setuid", "su") in found(report, "error")


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
def test_a_private_key_stops_the_app_and_a_certificate_does_not(tmp_path: Path, kind: str) -> None:
    folder = write_app(tmp_path / "app")
    add(folder, "conf/data.txt", f"# mine\n-----BEGIN {kind}-----\nabc\n".encode())
    add(folder, "ca.pem", b"-----BEGIN CERTIFICATE-----\nabc\n")
    assert found(scanned(folder), "error") == [("secret", "conf/data.txt")]


def test_native_code_for_this_machine_is_reported_and_for_another_alone_stops_the_app(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    add(folder, "site/fast.cpython-313-x86_64-linux-gnu.so", elf(62))
    report = scanned(folder)
    assert report.findings == []
    assert (report.arch, report.python) == ("x86_64", "3.13")
    assert found(scanned(folder, Machine("aarch64", "3.13")), "error") == [
        ("foreign", "site/fast.cpython-313-x86_64-linux-gnu.so")
    ]


def test_native_code_for_several_machines_is_a_warning_where_ours_is_among_them(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    add(folder, "bin/x86", elf(62), 0o755)
    add(folder, "bin/arm", elf(183), 0o755)
    report = scanned(folder)
    assert found(report, "error") == []
    assert found(report, "warning") == [("foreign", "bin/arm")]
    assert report.arch == ""


def test_modules_for_another_python_stop_the_app(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    add(folder, "site/fast.cpython-311-x86_64-linux-gnu.so", elf(62))
    report = scanned(folder)
    assert found(report, "error") == [("python", "")]
    assert "3.11" in report.findings[0].message
    assert "3.13" in report.findings[0].message
    assert found(scanned(folder, Machine("x86_64", "")), "error") == []


def test_a_stable_abi_module_suits_every_python(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    add(folder, "site/fast.abi3.so", elf(62))
    report = scanned(folder)
    assert report.findings == []
    assert (report.arch, report.python) == ("x86_64", "")


def test_leftovers_archives_and_hidden_files_are_mentioned(tmp_path: Path) -> None:
    manifest = (write_app(tmp_path / "app") / "dux.yaml").read_bytes()
    files = ["main.py", "x.o", "x.pyc", ".env", "data.zip", "sample-out"]
    foreign_tar(tmp_path / "a.tar", {"dux.yaml": (manifest, 0o644)} | {name: (b"x", 0o644) for name in files})
    report, _ = scan(tmp_path / "a.tar", "ab" * 32, HERE)
    assert set(found(report, "warning")) == {
        ("leftover", "x.o"), ("leftover", "x.pyc"), ("hidden", ".env"), ("archive", "data.zip"),
    }  # fmt: skip


def test_a_command_that_is_not_in_the_bundle_stops_the_app(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    (folder / "main.py").unlink()
    assert found(scanned(folder), "error") == [("command", "dux.yaml")]


def test_a_command_that_is_not_executable_stops_the_app(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app")
    text = (folder / "dux.yaml").read_text().replace("[python3, /app/main.py]", "[/app/main.py]")
    (folder / "dux.yaml").write_text(text)
    assert found(scanned(folder), "error") == [("command", "main.py")]
    (folder / "main.py").chmod(0o755)
    assert scanned(folder).findings == []


@pytest.mark.parametrize(
    ("old", "new", "severity", "rule"),
    [
        ("sample: {output: sample/out}\n", "", "warning", "sample"),
        ("sample/out", "sample/none", "error", "sample"),
        ("{required: false}", "{required: true}", "error", "sample"),
        ("sample: {output: sample/out}", "sample: {}", "warning", "sample"),
        ("sample: {output: sample/out}", "sample: {output: sample/out, params: {x: 1}}", "error", "sample"),
        ("sample: {output: sample/out}", "sample: {output: sample/out}\noutput: {max_bytes: 3}", "error", "sample"),
        ('price: "0.5"', "price: 0", "warning", "price"),
        ("name: hello", "name: " + "ab" * 32, "error", "name"),
        ("runtime", "params: {type: nonsense}\nruntime", "error", "params"),
        ("runtime", "params: {type: array}\nruntime", "error", "params"),
        ("runtime", "params: {type: object, $ref: 'https://example.org/x'}\nruntime", "error", "params"),
        ("runtime", "params: " + "{properties: {a: " * 20 + "{}" + "}}" * 20 + "\nruntime", "error", "params"),
    ],
)
def test_a_doubtful_manifest_is_found(tmp_path: Path, old: str, new: str, severity: str, rule: str) -> None:
    folder = write_app(tmp_path / "app")
    text = (folder / "dux.yaml").read_text()
    assert old in text
    (folder / "dux.yaml").write_text(text.replace(old, new))
    assert (rule, severity) in {(finding.rule, finding.severity) for finding in scanned(folder).findings}


def test_a_bundle_without_a_manifest_and_one_that_is_no_bundle_raise(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a.tar", {"main.py": (b"", 0o644)})
    with pytest.raises(BadManifest, match=r"no dux\.yaml"):
        scan(tmp_path / "a.tar", "ab" * 32, HERE)
    (tmp_path / "a.tar").write_bytes(b"PK\x03\x04" + bytes(2000))
    with pytest.raises(BadBundle):
        scan(tmp_path / "a.tar", "ab" * 32, HERE)
