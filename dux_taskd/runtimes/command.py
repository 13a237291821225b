"""Runtime `command`: a program in the STRICT sandbox, run by the worker dux-sandbox."""

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable
from typing import Any

from duxcommon.api.common import Hash32, Ok, TaskId
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Payload, SandboxFile, SandboxLimits, SandboxLog, SandboxResult, SandboxStatus
from duxcommon.errors import (
    AppFailed,
    DuxError,
    OutOfMemory,
    OutputMissing,
    OutputRefused,
    OutputTooLarge,
    SandboxDegraded,
    SandboxMissing,
    TaskKilled,
    TaskTimeout,
)
from duxcommon.params import encode_params
from duxcommon.rpc import Client

from .base import Progress, RunResult

OUTPUT = "output"
"""The file in /out that is the result; others are scratch."""
MAX_FILES = 16
STATUS_S = 2.0
"""For so long the worker's last word on its state is believed."""
QUIET_S = 0.25
"""Tasks that end sooner are not asked for their progress."""
NEWS_S = 10.0
LONGEST_S = 2 * 86_400.0

_ERRORS: dict[str, type[DuxError]] = {
    "failed": AppFailed,
    "timeout": TaskTimeout,
    "memory": OutOfMemory,
    "killed": TaskKilled,
    "output": OutputRefused,
    "large": OutputTooLarge,
}


def limits_of(manifest: Manifest) -> SandboxLimits:
    """What the manifest asks for, as the worker takes it."""
    wanted = manifest.resources
    return SandboxLimits(
        memory_mb=wanted.memory_mb,
        cpu_s=wanted.cpu_s,
        wall_s=wanted.wall_s,
        disk_mb=wanted.disk_mb,
        processes=wanted.processes,
        output_bytes=manifest.output.max_bytes,
        output_files=MAX_FILES,
    )


def inputs_of(input: Payload | None, params: dict[str, Any]) -> list[dict[str, str]]:
    """The files of /in: params.json always, input where there is one."""
    files = [{"name": "params.json", "data": base64.b64encode(encode_params(params).encode()).decode()}]
    if input is not None:
        where = {"blob": input.hash} if input.data is None else {"data": input.data}
        files.append({"name": "input", **where})
    return files


def result_of(manifest: Manifest, result: SandboxResult) -> RunResult:
    """What the sandbox said, in the terms that all runtimes share."""
    output: Payload | None = None
    error: DuxError | None = None
    found = next((file for file in result.files if file.name == OUTPUT), None)
    if result.outcome != "ok":
        error = _ERRORS[result.outcome](_message(result))
    elif found is not None:
        output = _payload(manifest, found)
    elif manifest.output.required:
        error = OutputMissing("the app ended well but wrote no /out/output")
    return RunResult(output, error, result.wall_ms, result.cpu_ms, result.log)


def _message(result: SandboxResult) -> str:
    last = result.log.rstrip().rpartition("\n")[2].strip()[:300]
    return f"{result.detail}: {last}" if result.outcome == "failed" and last else result.detail


def _payload(manifest: Manifest, file: SandboxFile) -> Payload:
    return Payload(hash=file.hash, size=file.size, media=manifest.output.media[0], data=file.data)


class CommandRuntime:
    """Takes the client of the worker's socket, which stays the caller's."""

    def __init__(self, worker: Client) -> None:
        self._worker = worker
        self._status: SandboxStatus | None = None
        self._asked = 0.0

    async def ready(self, own: bool) -> None:
        """See Runtime."""
        if self._status is None or time.monotonic() - self._asked > STATUS_S:
            self._status = None
            self._status = await self._worker.call("sandbox.status", SandboxStatus, timeout=10)
            self._asked = time.monotonic()
        if self._status.state == "missing":
            raise SandboxMissing(f"no task is run here: {self._status.reason}")
        if self._status.state == "degraded" and not own:
            raise SandboxDegraded(f"no stranger's app is run here: {self._status.reason}")

    async def status(self) -> SandboxStatus:
        """What the worker says of itself now."""
        return await self._worker.call("sandbox.status", SandboxStatus, timeout=10)

    async def run(
        self,
        task_id: TaskId,
        manifest: Manifest,
        bundle: Hash32 | None,
        input: Payload | None,
        params: dict[str, Any],
        *,
        progress: Progress | None = None,
    ) -> RunResult:
        """See Runtime. Raises NotFound, BadBundle, BlobDamaged, SandboxFault too: nothing was executed then."""
        if bundle is None:
            raise AppFailed("an app of runtime 'command' needs a bundle")
        order = {
            "id": task_id,
            "bundle": bundle,
            "argv": manifest.command,
            "inputs": inputs_of(input, params),
            "limits": limits_of(manifest).model_dump(),
        }
        news = _News(self._worker, task_id, progress) if progress is not None else None
        try:
            result = await self._worker.call("sandbox.run", SandboxResult, order, timeout=LONGEST_S)
        except asyncio.CancelledError:
            with contextlib.suppress(DuxError):
                await asyncio.shield(self.kill(task_id))
            raise
        except TaskKilled as error:
            return RunResult(None, error, 0, 0, "")
        finally:
            if news is not None:
                await news.close()
        if news is not None:
            await news.rest()
        return result_of(manifest, result)

    async def kill(self, task_id: TaskId) -> None:
        """See Runtime."""
        await self._worker.call("sandbox.kill", Ok, {"id": task_id}, timeout=10)

    async def close(self) -> None:
        """See Runtime; the client is closed by its owner."""


class _News:
    """Passes on what a running task prints, and its progress."""

    def __init__(self, worker: Client, task_id: TaskId, tell: Callable[[int, str], None]) -> None:
        self._worker, self._task_id, self._tell = worker, task_id, tell
        self._offset, self._progress = 0, 0
        self._task = asyncio.create_task(self._follow(), name=f"news-{task_id[:8]}")

    async def _follow(self) -> None:
        await asyncio.sleep(QUIET_S)
        with contextlib.suppress(DuxError):
            while True:
                await self._ask(NEWS_S)

    async def _ask(self, wait_s: float) -> bool:
        params = {"id": self._task_id, "offset": self._offset, "progress": self._progress, "wait_s": wait_s}
        news = await self._worker.call("sandbox.logs", SandboxLog, params, timeout=wait_s + 10)
        changed = news.next_offset != self._offset or news.progress != self._progress
        self._offset, self._progress = news.next_offset, max(news.progress, self._progress)
        if changed:
            self._tell(self._progress, news.text)
        elif wait_s:
            # The task is over: its log stays where it is, and asking again would answer at once.
            await asyncio.sleep(QUIET_S)
        return changed

    async def close(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def rest(self) -> None:
        """Whoever heard the beginning of the log hears its end, too."""
        if self._offset or self._progress:
            with contextlib.suppress(DuxError):
                while await self._ask(0.0):
                    pass
