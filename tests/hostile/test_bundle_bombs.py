"""Bundles made to harm whoever unpacks them: each is refused with its reason, and nothing is left on the disk."""

import gzip
import io
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from duxcommon import bundle
from duxcommon.errors import BadBundle, BadManifest, BundleTooLarge, DuxError

PAX, GNU = tarfile.PAX_FORMAT, tarfile.GNU_FORMAT
END = bytes(2 * tarfile.BLOCKSIZE)


def header(name: str, kind: bytes = tarfile.REGTYPE, *, size: int = 0, link: str = "", mode: int = 0o644) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, size, link, mode
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")


def refused(tmp_path: Path, data: bytes, error: type[DuxError], message: str) -> DuxError:
    """Unpacking `data` raises `error` and leaves nothing."""
    (tmp_path / "evil.tar").write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        bundle.unpack(tmp_path / "evil.tar", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    error = refused(tmp_path, header("x", kind, link="/etc/passwd") + END, BadBundle, "'x' of type")
    assert "no links, devices" in error.hint


def test_a_link_to_a_folder_and_a_file_through_it_write_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    data = header("a", tarfile.SYMTYPE, link=str(outside)) + header("a/x", size=1) + b"x".ljust(512, b"\0") + END
    refused(tmp_path, data, BadBundle, "of type")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "..", ".", "a//b", "./x", "a/./b", "x\ny", "x\x1b[2J", "\u202egnp.exe"],
)
def test_paths_that_leave_the_folder_or_deceive_the_eye_are_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, header("a", tarfile.DIRTYPE) + header(name) + END, BadBundle, "a member named")


def test_a_path_of_a_thousand_folders_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, header("a/" * 30 + "a") + END, BadBundle, "a member named")


def test_a_hundred_thousand_members_stop_at_the_cap_at_once(tmp_path: Path) -> None:
    data = b"".join(header(f"f{number}") for number in range(100_000)) + END
    start = time.process_time()
    refused(tmp_path, data, BundleTooLarge, "more than 10000 members")
    assert time.process_time() - start < 30


def test_a_file_that_claims_more_bytes_than_the_bundle_has_is_refused(tmp_path: Path) -> None:
    for size in (513, 8 * 1024**3 - 1):
        refused(tmp_path, header("x", size=size) + bytes(512) + END, BadBundle, "cut off|follows")


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    raw = bytearray(header("x"))
    raw[124:136] = b"\xff" * 12
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    refused(tmp_path, bytes(raw) + END, BadBundle, "impossible size|not a plain tar")


@pytest.mark.parametrize("format_", [PAX, GNU])
def test_extended_headers_are_refused_unread(tmp_path: Path, format_: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        tar.addfile(tarfile.TarInfo("long" * 100))
    refused(tmp_path, out.getvalue(), BadBundle, "of type")


def test_an_endless_pax_header_is_not_read_into_memory(tmp_path: Path) -> None:
    data = header("x", tarfile.XHDTYPE, size=8 * 1024**3 - 1) + b"9999999999 path=" + bytes(10_000)
    refused(tmp_path, data, BadBundle, "of type b'x'")


def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path: Path) -> None:
    raw = bytearray(header("hole", tarfile.GNUTYPE_SPARSE))
    raw[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    refused(tmp_path, bytes(raw) + END, BadBundle, "of type b'S'")


def test_a_large_hole_on_the_disk_is_refused_by_its_length(tmp_path: Path) -> None:
    with (tmp_path / "evil.tar").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleTooLarge, match="more than 67108864"):
        bundle.unpack(tmp_path / "evil.tar", tmp_path / "out")


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    refused(tmp_path, gzip.compress(header("x", size=1 << 24) + bytes(1 << 24)), BadBundle, "not a plain tar|cut off")


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, header("x") + header("x") + END, BadBundle, "'x' twice")
    refused(tmp_path, header("x") + header("x/", tarfile.DIRTYPE) + END, BadBundle, "'x' twice")


def test_a_file_used_as_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, header("x") + header("x/y") + END, BadBundle, "before its folder")


def test_setuid_bits_do_not_survive_unpacking(tmp_path: Path) -> None:
    (tmp_path / "evil.tar").write_bytes(header("x", mode=0o6777) + header("d", tarfile.DIRTYPE, mode=0o7777) + END)
    bundle.unpack(tmp_path / "evil.tar", tmp_path / "out")
    assert (tmp_path / "out/x").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out/d").stat().st_mode & 0o7777 == 0o755


def test_data_hidden_behind_the_end_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, header("x") + END + b"hidden", BadBundle, "follows")
    refused(tmp_path, header("x") + END + bytes(1 << 20), BadBundle, "follows")


def test_a_wrong_checksum_and_plain_garbage_are_refused(tmp_path: Path) -> None:
    raw = bytearray(header("x"))
    raw[0] ^= 1
    refused(tmp_path, bytes(raw) + END, BadBundle, "not a plain tar")
    refused(tmp_path, b"\x89PNG" + bytes(range(256)) * 8, BadBundle, "not a plain tar")
    refused(tmp_path, b"", BadBundle, "cut off")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, header("x\udcff") + END, BadBundle, "not a plain tar")


def yaml_bombs() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "aliases", lambda: "a: &a [x,x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(50))
    yield "nesting", lambda: "a: " + "[" * 5_000
    yield "nested maps", lambda: "a: " + "{a: " * 5_000
    yield "a python object", lambda: "a: !!python/object/apply:os.system ['true']"
    yield "size", lambda: "a: " + "x" * 1_000_000
    yield "a number of many digits", lambda: "price: " + "9" * 20_000


@pytest.mark.parametrize(("text"), [pytest.param(make(), id=name) for name, make in yaml_bombs()])
def test_a_manifest_made_to_harm_is_refused_quickly(text: str) -> None:
    start = time.process_time()
    with pytest.raises(BadManifest):
        bundle.parse_manifest(text)
    assert time.process_time() - start < 10
