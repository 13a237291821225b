"""What a task prints, for people who watch it: capped, made harmless for terminals, progress lines taken out."""

import asyncio
import codecs
import re

MAX_KEPT = 256 * 1024
TAIL = 16 * 1024
"""Characters."""

_PROGRESS = "::progress "
_MAX_PROGRESS_LINE = 32
# Line feeds and tabs stay; escape sequences could drive the reader's terminal, and bidirectional marks fool the eye.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class TaskOutput:
    """The last MAX_KEPT characters of a task's standard output and error, addressed by their offset from the start."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._base = 0
        self._line = ""
        self._changed = asyncio.Event()
        self.progress = 0
        self.closed = False

    @property
    def end(self) -> int:
        """Offset behind the last character."""
        return self._base + len(self._text)

    def feed(self, data: bytes) -> None:
        """Take what the task printed."""
        self._take(self._decoder.decode(data))

    def close(self) -> None:
        """Nothing more will come; wakes whoever waits."""
        self._take(self._decoder.decode(b"", final=True))
        self._flush(self._line)
        self._line = ""
        self.closed = True
        self._changed.set()

    def _take(self, text: str) -> None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = (self._line + text).split("\n")
        kept = [line + "\n" for line in lines if not self._is_progress(line)]
        # The rest waits for its end of line only while it may still become a progress line.
        if not _PROGRESS.startswith(rest[: len(_PROGRESS)]) or len(rest) > _MAX_PROGRESS_LINE:
            kept.append(rest)
            rest = ""
        self._line = rest
        self._flush("".join(kept))

    def _is_progress(self, line: str) -> bool:
        value = line.removeprefix(_PROGRESS).strip()
        if not line.startswith(_PROGRESS) or not (value.isascii() and value.isdigit() and len(value) <= 3):
            return False
        before, self.progress = self.progress, max(self.progress, min(int(value), 100))
        if self.progress != before:
            self._changed.set()
        return True

    def _flush(self, text: str) -> None:
        if not text:
            return
        self._text += _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)
        if (over := len(self._text) - MAX_KEPT) > 0:
            self._text = self._text[over:]
            self._base += over
        self._changed.set()

    def since(self, offset: int) -> tuple[str, int]:
        """At most TAIL characters from `offset` (or the oldest that is kept), and the offset behind them."""
        start = min(max(offset - self._base, 0), len(self._text))
        piece = self._text[start : start + TAIL]
        return piece, self._base + start + len(piece)

    def tail(self) -> str:
        """The last TAIL characters."""
        return self._text[-TAIL:]

    async def wait(self, offset: int, progress: int, seconds: float) -> None:
        """Return when there is text behind `offset`, another progress, or the end; at the latest after `seconds`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.end <= offset and self.progress == progress and not self.closed:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return
