"""The temporary node of `dux-ctl demo`: a process of its own that ends, and clears up, when this one does."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duxcommon.errors import GuestFailed

READY_S = 300.0
"""Longest wait for the guest; on an emulated machine its imports alone take half a minute."""
ACCOUNT_S = 60.0
END_S = 60.0
KILL_S = 10.0
LOOK_S = 0.5
LAST_BYTES = 4096


class GuestProcess:
    """Starts the guest from an invitation file; its folder and its daemons are gone after `end`."""

    def __init__(self, invitation: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self._buffer = bytearray()
        self.run_dir: Path | None = None
        """Where its sockets are, once it is ready."""
        self.folder = Path(tempfile.mkdtemp(prefix="dux-guest-", dir="/tmp"))
        # Without a name: its own folder must be empty, and in /tmp somebody could lay a link there first.
        self._errors = tempfile.TemporaryFile(dir="/tmp")  # noqa: SIM115
        # -I: neither the present folder nor the environment decides which code runs.
        command = [sys.executable, "-I", "-m", "dux_devnet.guest", str(self.folder), str(invitation.absolute())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C goes to the demonstration, which then ends its guest in order.
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            self._remove()
            raise

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self._process.poll() is None

    def wait_ready(self) -> Path:
        """Its folder of sockets, once all its daemons answer. Raises GuestFailed."""
        while self.run_dir is None:
            event = self._event(READY_S, "to start")
            if event["event"] == "ready":
                self.run_dir = Path(event["run_dir"])
            elif event["event"] == "step":
                self._say(event["text"])
        return self.run_dir

    def account(self, channel: dict[str, Any], heights: dict[str, int]) -> dict[str, int]:
        """What provider, fund, buyer and fees got of a closed channel by the chain, in koinu. Raises GuestFailed.

        `heights` tells the blocks of the transactions that led to it.
        """
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(json.dumps({"channel": channel, "heights": heights}).encode() + b"\n")
                stdin.flush()
        except OSError:
            pass  # it has ended: the missing answer says so
        event = self._event(ACCOUNT_S, "to read the chain")
        return {name: int(event[name]) for name in ("provider", "fund", "buyer", "fees")}

    def _event(self, seconds: float, what: str) -> dict[str, Any]:
        """The next line that it tells. Raises GuestFailed when it failed, ended, or is silent for too long."""
        pipe = self._process.stdout
        if pipe is None:
            raise GuestFailed("the guest node has no output")
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n")) < 0:
                if time.monotonic() > deadline:
                    raise GuestFailed(f"the guest node took longer than {seconds:.0f} s {what}", hint="Try again.")
                if not selector.select(LOOK_S):
                    continue
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    raise GuestFailed(f"the guest node ended by itself: {self._last_words()}")
                self._buffer += data
        event: dict[str, Any] = json.loads(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        if event["event"] == "failed":
            for line in event["log"]:
                self._say(line)
            raise GuestFailed(f"the guest node failed: {event['message']}", hint=event["hint"] or None)
        return event

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            # Without moving the place where the guest writes on.
            size = os.fstat(self._errors.fileno()).st_size
            said = os.pread(self._errors.fileno(), LAST_BYTES, max(0, size - LAST_BYTES))
            lines = said.decode("utf-8", "replace").strip().splitlines()
            if lines:
                return lines[-1][:300]
        return "it said nothing"

    def end(self) -> None:
        """End its daemons, wait until they are gone, and remove its folder."""
        try:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            # While it still imports, nobody listens to its standard input.
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                # Its daemons die with it: the kernel tells them.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(KILL_S)
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._errors.close()
