"""One sandbox from its start to its last process: starts it, feeds and drains its pipes, ends it at its limits."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from duxcommon.api.taskd import SandboxLimits

from .cgroup import Group
from .log import TaskOutput
from .output import BadOutput, OutputReader
from .profile import Machine, Places, Privileges, command

Cause = Literal["exit", "setup", "timeout", "cpu", "memory", "killed", "output", "large"]

CHUNK = 65_536
FREE_READS = 200
READ_PAUSE_S = 0.01
"""A task that prints without end is soon read only so often, and waits for its full pipe."""
SETUP_S = 15.0
"""From the start to the first word of bwrap, on a loaded machine."""
GONE_S = 10.0
CPU_POLL_S = 0.25
SIGXCPU_EXIT = 128 + signal.SIGXCPU
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
MARK = "DUX_SANDBOX"
"""Variable by which a worker knows bubblewraps of its own; apps never see it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sandbox ended. `exit_code` is the app's, as a shell tells it; None when it was ended from outside."""

    cause: Cause
    exit_code: int | None
    detail: str
    wall_ms: int
    cpu_ms: int


@dataclass(frozen=True, slots=True)
class Start:
    """All that one sandbox is started from."""

    machine: Machine
    filter: Path
    worker: str
    """Which worker starts it: the value of MARK."""
    bundle: str
    inputs: str
    etc: str
    uid: int | None
    stage: str | None
    limits: SandboxLimits
    app: list[str]


@dataclass(slots=True)
class _State:
    cause: Cause | None = None
    detail: str = ""
    pid: int = 0
    init: int | None = None
    """Id and pidfd of the sandbox's first process: when it is gone, the kernel has ended all the others."""
    init_seen: asyncio.Event = field(default_factory=asyncio.Event)
    status: bytes = b""
    app_exit: int | None = None


class Sandbox:
    """Use `run` once; `kill` at any time."""

    def __init__(
        self, start: Start, group: Group | None, reader: OutputReader, output: TaskOutput, own_uid: int | None = None
    ) -> None:
        self._start, self._group, self._reader, self._output = start, group, reader, output
        self._own_uid = os.geteuid() if own_uid is None else own_uid
        self._state = _State()
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self, cause: Cause = "killed", detail: str = "ended on request") -> None:
        """End every process of it now; the first cause given is the one that `run` reports."""
        state = self._state
        if state.cause is None:
            state.cause, state.detail = cause, detail
        if self._group is not None:
            self._group.kill()
        if state.init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(state.init, signal.SIGKILL)
        elif self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def run(self, before_start: Callable[[int], None] | None = None) -> Ending:
        """Run it to the end; nothing of it is left then. `before_start` sees the id of its first process while the
        app waits for the word to start (the trial looks at it from outside).

        Raises OSError when the machine has no room for another process; then nothing was started.
        """
        if self._start.uid is None and self._own_uid == 0:
            raise ValueError("a task never runs as root")
        with contextlib.ExitStack() as files:
            process, status = self._spawn(files)
            began = time.monotonic()
            tasks = [
                asyncio.create_task(self._read_status(status)),
                asyncio.create_task(self._read_output(process)),
                asyncio.create_task(self._read_log(process)),
            ]
            watch = asyncio.create_task(self._go_and_watch(process, before_start))
            try:
                cpu_ms = await self._reap(process)
            except asyncio.CancelledError:
                self.kill()
                process.kill()
                await asyncio.shield(self._reap(process))
                raise
            finally:
                watch.cancel()
                # Every holder of the pipes is dead or dying: their ends of file are at most moments away.
                _, late = await asyncio.wait(tasks, timeout=GONE_S)
                for task in (*late, watch):
                    task.cancel()
                await asyncio.gather(*tasks, watch, return_exceptions=True)
                await self._gone()
                self._output.close()
            counted = self._group.cpu_us() if self._group is not None else None
            return self._ending(int((time.monotonic() - began) * 1000), cpu_ms if counted is None else counted // 1000)

    # --- starting ---------------------------------------------------------------------------------------------

    def _spawn(self, files: contextlib.ExitStack) -> tuple[subprocess.Popen[bytes], int]:
        start = self._start
        seccomp = os.open(start.filter, os.O_RDONLY | os.O_CLOEXEC)
        files.callback(os.close, seccomp)
        status, status_end = os.pipe()
        files.callback(os.close, status)
        argv = command(
            start.machine,
            Places(start.bundle, start.inputs, start.etc, seccomp, status_end),
            Privileges(start.uid, self._group.procs if self._group is not None else (), start.stage),
            start.limits,
            start.app,
        )
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(seccomp, status_end),
                env={**ENVIRONMENT, MARK: start.worker},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(status_end)
        self._process = process
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            files.enter_context(pipe)
        return process, status

    async def _go_and_watch(self, process: subprocess.Popen[bytes], before_start: Callable[[int], None] | None) -> None:
        try:
            async with asyncio.timeout(SETUP_S):
                await self._state.init_seen.wait()
        except TimeoutError:
            self.kill("setup", f"bubblewrap did not start within {SETUP_S:.0f} s")
            process.kill()
            return
        if self._state.init is None:
            return
        if before_start is not None:
            before_start(self._state.pid)
        assert process.stdin is not None
        # Should this worker die first, the end of file makes the supervisor inside give up before the app runs.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"go\n")
        process.stdin.close()
        await self._watch_limits()

    async def _watch_limits(self) -> None:
        limits = self._start.limits
        end = time.monotonic() + limits.wall_s
        while (left := end - time.monotonic()) > 0:
            used = self._group.cpu_us() if self._group is not None else None
            pause = left
            if used is not None:
                if used > limits.cpu_s * 1_000_000:
                    self.kill("cpu", f"more than {limits.cpu_s} s of processor time")
                    return
                # Not sooner than all cores together could use up what is left.
                fastest = (limits.cpu_s - used / 1_000_000) / self._start.machine.cores
                pause = min(left, max(fastest, CPU_POLL_S))
            await asyncio.sleep(pause)
        self.kill("timeout", f"not done after {limits.wall_s} s")

    # --- pipes ------------------------------------------------------------------------------------------------

    async def _read_status(self, descriptor: int) -> None:
        try:
            async for piece in _pieces(descriptor):
                self._state.status = (self._state.status + piece)[-CHUNK:]
                for line in self._state.status.splitlines():
                    self._take_status(line)
        finally:
            self._state.init_seen.set()

    def _take_status(self, line: bytes) -> None:
        state = self._state
        try:
            message = json.loads(line)
        except ValueError:
            return
        if "child-pid" in message and state.init is None:
            state.pid = int(message["child-pid"])
            with contextlib.suppress(ProcessLookupError):
                state.init = os.pidfd_open(state.pid)
            if state.cause is not None:
                self.kill()
            state.init_seen.set()
        if "exit-code" in message:
            state.app_exit = int(message["exit-code"])

    async def _read_output(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        refused = False
        async for piece in _pieces(process.stdout.fileno()):
            if refused:
                continue
            try:
                self._reader.feed(piece)
            except BadOutput as error:
                refused = True
                self.kill("large" if error.too_large else "output", str(error))

    async def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        reads = 0
        async for piece in _pieces(process.stderr.fileno()):
            self._output.feed(piece)
            reads += 1
            if reads > FREE_READS:
                await asyncio.sleep(READ_PAUSE_S)

    # --- ending -----------------------------------------------------------------------------------------------

    async def _reap(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for bwrap to end; processor time that its descendants used, in ms, as far as they were waited for."""
        if process.returncode is not None:
            return 0
        descriptor = os.pidfd_open(process.pid)
        try:
            await _readable(descriptor)
        finally:
            os.close(descriptor)
        # It has ended, so this does not wait; asyncio's own subprocesses would not tell the processor time.
        _, status, usage = os.wait4(process.pid, 0)  # noqa: ASYNC222
        process.returncode = os.waitstatus_to_exitcode(status)
        return int((usage.ru_utime + usage.ru_stime) * 1000)

    async def _gone(self) -> None:
        if self._state.init is None:
            return
        try:
            async with asyncio.timeout(GONE_S):
                await _readable(self._state.init)
        except TimeoutError as error:
            raise StillAlive(f"a process of the task did not die within {GONE_S:.0f} s") from error
        finally:
            os.close(self._state.init)
            self._state.init = None

    def _ending(self, wall_ms: int, cpu_ms: int) -> Ending:
        state, code = self._state, self._state.app_exit
        cause, detail = state.cause, state.detail
        if cause is None and self._group is not None and code != 0 and self._group.oom_kills():
            cause, detail = "memory", f"more than {self._start.limits.memory_mb} MB of memory"
        if cause is None and code is None:
            cause, detail = "setup", self._output.tail().strip()[-500:] or "bubblewrap did not start the app"
        if cause is None and code == SIGXCPU_EXIT:
            cause, detail = "cpu", f"more than {self._start.limits.cpu_s} s of processor time"
        # tar starts only after the app ended well: then it must have ended well and written its end mark, too.
        if cause is None and (self._reader.started if code else not self._reader.complete):
            cause, detail = "output", "the output could not be packed: " + self._output.tail().strip()[-300:]
        if cause is None:
            return Ending("exit", code, "", wall_ms, cpu_ms)
        return Ending(cause, None, detail, wall_ms, cpu_ms)


def sweep(worker: str) -> None:
    """End bubblewraps that an earlier life of this worker left.

    They die with their parent, but a bubblewrap that was killed while it made its first process leaves that one
    waiting for ever.
    """
    mark = f"{MARK}={worker}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


class StillAlive(Exception):
    """A process in uninterruptible sleep outlived SIGKILL; its task's folder and group are kept from reuse."""


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    """What arrives in a pipe, until its end."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_NONBLOCK)
    while True:
        try:
            piece = os.read(descriptor, CHUNK)
        except BlockingIOError:
            await _readable(descriptor)
            continue
        if not piece:
            return
        yield piece
        await asyncio.sleep(0)
