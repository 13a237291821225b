"""What every runtime promises to taskd: one call in, one result out, whatever executes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from duxcommon.api.common import Hash32, TaskId
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Payload
from duxcommon.errors import DuxError

Progress = Callable[[int, str], None]
"""Called with the percentage done (0–100, never falling) and what the app has printed since the last call."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one execution ended: exactly one of `output` and `error` is set, or neither where the app has no output."""

    output: Payload | None
    """Inline `data` up to 64 KiB, otherwise a blob in the shared store."""
    error: DuxError | None
    """What went wrong with this app on this input: TaskTimeout, OutOfMemory, OutputTooLarge, AppFailed, …"""
    wall_ms: int
    cpu_ms: int
    log: str
    """The last 16 KiB that the app printed."""

    @property
    def ok(self) -> bool:
        return self.error is None


class Runtime(Protocol):
    """A way to execute an app: `command` in the sandbox, `http` through the provider's own local API."""

    async def ready(self, own: bool) -> None:
        """Return when a task may be run now; `own` says that this node published the app.

        Raises SandboxMissing, SandboxDegraded (a stranger's app on a machine without cgroups) or DaemonDown.
        """
        ...

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
        """Execute to the end, within the limits of `manifest.resources`.

        What the app does wrong comes back as `RunResult.error`. Raises only for what this machine lacks
        (SandboxMissing, DaemonDown): then nothing was executed, and another provider may be asked.
        Cancelling the awaiting task ends the execution.
        """
        ...

    async def kill(self, task_id: TaskId) -> None:
        """End an execution; its `run` returns with the error TaskKilled. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """Give back connections; nothing can be run afterwards."""
        ...
