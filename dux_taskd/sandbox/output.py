"""Reads the tar stream that leaves a sandbox (pure): every byte of it may have been made by the app.

Only POSIX ustar with regular files and folders is taken. Links, devices, pipes, extension headers, absolute paths,
`..`, control characters, repeated names, and anything beyond the caps refuse the whole output.
"""

from collections.abc import Callable
from enum import Enum

BLOCK = 512
MAX_NAME = 200
"""Characters of one member's path, relative to /out."""
MAX_DEPTH = 16

_NAME, _SIZE, _CHECKSUM, _TYPE = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
_MAGIC, _PREFIX = slice(257, 265), slice(345, 500)
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a named pipe"}


class BadOutput(Exception):
    """The output can't be taken; the message says why, for people. `too_large`: it breaks a cap."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class Part(Enum):
    """What `OutputReader` hands on: the start of a file (its name and size follow), bytes of it, its end."""

    START = "start"
    DATA = "data"
    END = "end"


Sink = Callable[[Part, str, int, bytes], None]
"""Called as sink(part, name, size, data), in the order of the stream."""


def _text(field: bytes) -> str:
    raw = field.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadOutput("a file name is not UTF-8") from error


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or any(byte not in b"01234567" for byte in digits):
        raise BadOutput("the output is no plain tar stream")
    return int(digits, 8)


def member_name(raw: str) -> str:
    """The path below /out, without the leading `./`; empty for /out itself. Raises BadOutput."""
    name = raw.rstrip("/") if raw not in ("/", "//") else raw
    if name == ".":
        return ""
    name = name.removeprefix("./")
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise BadOutput("a path in the output leaves its folder")
    if len(name) > MAX_NAME or len(parts) > MAX_DEPTH:
        raise BadOutput(f"a path in the output is longer than {MAX_NAME} characters or {MAX_DEPTH} folders")
    if not name.isprintable():
        raise BadOutput("a file name in the output has control characters")
    return name


class OutputReader:
    """Takes the stream in pieces of any size and hands each file to `sink`.

    `max_bytes` caps the sum of the files' sizes, `max_members` the files and folders together. Both are checked on
    each header, before a byte of the file is taken.
    """

    def __init__(self, max_bytes: int, max_members: int, sink: Sink) -> None:
        self._left_bytes, self._left_members = max_bytes, max_members
        self._max_bytes, self._max_members = max_bytes, max_members
        self._sink = sink
        self._head = bytearray()
        self._name, self._size, self._data_left, self._padding_left = "", 0, 0, 0
        self._seen: set[str] = set()
        self._zero_blocks = 0
        self.started = False

    @property
    def complete(self) -> bool:
        """The end-of-archive mark was read."""
        return self._zero_blocks >= 2

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the stream; after the end mark they are ignored. Raises BadOutput."""
        view = memoryview(piece)
        self.started = self.started or bool(view)
        while view and not self.complete:
            if self._data_left:
                taken = view[: self._data_left]
                self._data_left -= len(taken)
                self._sink(Part.DATA, self._name, self._size, bytes(taken))
                if not self._data_left:
                    self._sink(Part.END, self._name, self._size, b"")
            elif self._padding_left:
                taken = view[: self._padding_left]
                self._padding_left -= len(taken)
            else:
                taken = view[: BLOCK - len(self._head)]
                self._head += taken
                if len(self._head) == BLOCK:
                    self._header(bytes(self._head))
                    self._head.clear()
            view = view[len(taken) :]

    def _header(self, block: bytes) -> None:
        if not any(block):
            self._zero_blocks += 1
            return
        if self._zero_blocks or block[_MAGIC] != b"ustar\x0000":
            raise BadOutput("the output is no plain tar stream")
        blanked = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
        if _octal(block[_CHECKSUM]) != sum(blanked):
            raise BadOutput("the output is no plain tar stream")
        prefix, kind = _text(block[_PREFIX]), block[_TYPE]
        name = member_name(f"{prefix}/{_text(block[_NAME])}" if prefix else _text(block[_NAME]))
        if kind not in (b"0", b"5"):
            raise BadOutput(f"{name or '/out'} is {_KINDS.get(kind, 'of an unknown kind')}; only files may leave")
        if not name:
            return
        if self._left_members == 0:
            raise BadOutput(f"more than {self._max_members} files and folders in the output", too_large=True)
        self._left_members -= 1
        if name in self._seen:
            raise BadOutput("a name stands twice in the output")
        self._seen.add(name)
        if kind == b"0":
            self._file(name, _octal(block[_SIZE]))

    def _file(self, name: str, size: int) -> None:
        if size > self._left_bytes:
            raise BadOutput(f"the output is larger than {self._max_bytes} bytes", too_large=True)
        self._left_bytes -= size
        self._name, self._size, self._data_left, self._padding_left = name, size, size, -size % BLOCK
        self._sink(Part.START, name, size, b"")
        if not size:
            self._sink(Part.END, name, size, b"")
