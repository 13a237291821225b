"""A terminal of a booted machine: somebody logs in, and types lines as a document has them."""

import os
import re
import select
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from tests.os.nspawn import Failed, Machine

PROMPT = re.compile(r"\[\[(\d+)\]\] $")
"""What the shells here are told to show: the status of the command before."""
SET_PROMPT = "unset PROMPT_COMMAND; stty cols 240; PS1='[[$?]] '"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a line brought to the screen, and how it ended."""

    text: str
    status: int


class Terminal:
    """A login shell of `user`, with all that a login brings: groups, session, a terminal of their own."""

    def __init__(self, machine: Machine, user: str) -> None:
        login = machine.entering("script", "-qfc", f"exec login -f {user}", "/dev/null", env={"TERM": "dumb"})
        self._process = subprocess.Popen(login, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._buffer = b""
        self._read_until(re.compile(r"[$#] $"), 30)
        self.type(SET_PROMPT, limit_s=30)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.kill()
        self._process.wait()

    def become_root(self, line: str, answers: Mapping[str, str]) -> None:
        """Type what makes this a shell of root, such as `su -`."""
        self._send(line)
        self._answer(re.compile(r"# $"), answers, 30)
        self.type(SET_PROMPT, limit_s=30)

    def type(
        self, line: str, answers: Mapping[str, str] | None = None, *, limit_s: float = 60, status: int | None = 0
    ) -> Shown:
        """Type a line and wait for the next prompt; `answers`: end of a question (a pattern) → what to type then.

        Raises Failed, with what was to be seen, when it ends with another status (None: any) or not in time.
        """
        self._send(line)
        seen = self._answer(PROMPT, answers or {}, limit_s)
        found = PROMPT.search(seen)
        assert found is not None
        # The terminal echoes what is typed.
        shown = Shown(seen[: found.start()].partition("\n")[2], int(found[1]))
        if status is not None and shown.status != status:
            raise Failed(f"{line!r} ended with {shown.status}\n{shown.text}")
        return shown

    def _answer(self, end: re.Pattern[str], answers: Mapping[str, str], limit_s: float) -> str:
        seen = ""
        pending = {re.compile(f"(?:{question})$"): answer for question, answer in answers.items()}
        deadline = time.monotonic() + limit_s
        while True:
            any_of = re.compile("|".join([f"(?:{end.pattern})", *(one.pattern for one in pending)]))
            seen += self._read_until(any_of, deadline - time.monotonic())
            if end.search(seen):
                return seen
            asked = next(one for one in pending if one.search(seen))
            # Each is asked once.
            self._send(pending.pop(asked))

    def _send(self, line: str) -> None:
        stdin: IO[bytes] | None = self._process.stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")

    def _read_until(self, end: re.Pattern[str], limit_s: float) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + limit_s
        while True:
            text = CONTROL.sub("", self._buffer.decode(errors="replace"))
            if end.search(text):
                self._buffer = b""
                return text
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise Failed(f"the terminal shows no {end.pattern!r} in time:\n{text}")
            data = os.read(descriptor, 65536)
            if not data:
                raise Failed(f"the terminal was closed:\n{text}")
            self._buffer += data
