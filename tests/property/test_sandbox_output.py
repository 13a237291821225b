"""The reader of tar streams: good ones come through whole, no other ever does harm."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_taskd.sandbox.output import MAX_NAME, BadOutput, OutputReader, Part, member_name

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=30).filter(
    lambda name: "/" not in name and name not in (".", "..") and len(name.encode()) <= 90
)


class Taken:
    """A sink that checks the order of what it is given."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.open: str | None = None

    def __call__(self, part: Part, name: str, size: int, data: bytes) -> None:
        if part is Part.START:
            assert self.open is None
            self.open, self.files[name] = name, b""
        elif part is Part.DATA:
            assert self.open == name
            self.files[name] += data
            assert len(self.files[name]) <= size
        else:
            assert len(self.files[name]) == size
            self.open = None


def stream(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo("./" + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(kind: bytes, name: str = "./x", link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.USTAR_FORMAT)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, st.binary(max_size=3000), max_size=8), st.integers(1, 700))
def test_plain_files_arrive_whole_whatever_the_pieces(files: dict[str, bytes], step: int) -> None:
    taken, data = Taken(), stream(files)
    reader = OutputReader(1 << 20, 8, taken)
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    assert reader.complete
    assert taken.files == files


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=3000), st.integers(0, 2000), st.binary(max_size=40))
def test_no_stream_breaks_anything_but_itself(garbage: bytes, at: int, patch: bytes) -> None:
    for data in (garbage, stream({"a": b"x" * 600})[:at] + patch + stream({"a": b"x" * 600})[at:]):
        taken = Taken()
        reader = OutputReader(10_000, 5, taken)
        with contextlib.suppress(BadOutput):
            reader.feed(data)
        assert sum(map(len, taken.files.values())) <= 10_000
        assert len(taken.files) <= 5
        assert all(member_name(name) == name for name in taken.files)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a//b", "./../x", "a/./b", "..", "//", "x\n", "\x1b[2J"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BadOutput):
        member_name(name)


def test_names_have_a_length_and_a_depth() -> None:
    assert member_name("./a/b.txt") == "a/b.txt"
    assert member_name("./") == ""
    with pytest.raises(BadOutput):
        member_name("x" * (MAX_NAME + 1))
    with pytest.raises(BadOutput):
        member_name("/".join("a" * 17))


@pytest.mark.parametrize(
    "data",
    [
        special(tarfile.SYMTYPE, link="/etc/passwd"),
        special(tarfile.LNKTYPE, link="./y"),
        special(tarfile.CHRTYPE),
        special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE),
        special(tarfile.CONTTYPE),
        special(b"S", size=1 << 30),
        special(b"x", size=512) + b"30 path=../../evil\n".ljust(512, b"\0"),
        special(b"L", size=512) + b"n" * 512,
        stream({"é" * 80: b""}, tarfile.PAX_FORMAT),
        stream({"n" * 300: b""}, tarfile.GNU_FORMAT),
        special(tarfile.REGTYPE)[:-512] + b"\x80" * 512,
    ],
)
def test_anything_but_files_and_folders_is_refused(data: bytes) -> None:
    taken = Taken()
    with pytest.raises(BadOutput) as caught:
        OutputReader(1 << 40, 100, taken).feed(data + bytes(1024))
    assert not caught.value.too_large
    assert taken.files == {}


def test_a_name_that_stands_twice_is_refused() -> None:
    taken = Taken()
    with pytest.raises(BadOutput, match="twice"):
        OutputReader(100, 10, taken).feed(stream({"a": b"1"})[:1024] + stream({"a": b"2"}))


def test_caps_hold_before_a_byte_is_taken() -> None:
    taken = Taken()
    with pytest.raises(BadOutput, match="larger than 10 bytes") as caught:
        OutputReader(10, 10, taken).feed(stream({"a": b"12345", "b": b"123456"}))
    assert caught.value.too_large
    assert taken.files == {"a": b"12345"}
    with pytest.raises(BadOutput, match="more than 2 files"):
        OutputReader(10, 2, Taken()).feed(stream({"a": b"", "b": b"", "c": b""}))


def test_a_stream_that_breaks_off_is_not_complete() -> None:
    data = stream({"a": b"x" * 600})
    for length in (0, 100, 512, 900, 1536, 1536 + 512):
        reader = OutputReader(1000, 5, Taken())
        reader.feed(data[:length])
        assert not reader.complete
    reader = OutputReader(1000, 5, Taken())
    reader.feed(data[: 1536 + 1024])
    assert reader.complete
