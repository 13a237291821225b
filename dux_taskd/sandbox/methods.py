"""`sandbox.*`: what the worker offers to taskd."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from duxcommon.api.common import Hash32, Ok, TaskId
from duxcommon.api.taskd import SandboxInput, SandboxLimits, SandboxLog, SandboxResult, SandboxStatus
from duxcommon.errors import (
    BadBundle,
    BlobDamaged,
    BundleTooLarge,
    Conflict,
    InvalidParams,
    NotFound,
    SandboxFault,
    SandboxMissing,
    TaskKilled,
)
from duxcommon.rpc import method

from .runner import Order

if TYPE_CHECKING:
    from .__main__ import SandboxDaemon

ID = "00000000000000000000000000000001"
LONGEST_S = 2 * 86_400.0
"""A task's own limit, and as long again to wait for its turn."""

Argument = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class SandboxMethods:
    """Thin: everything is done by the runner."""

    def __init__(self, daemon: "SandboxDaemon") -> None:
        self._daemon = daemon

    @method("sandbox.status", access="read")
    async def status(self) -> SandboxStatus:
        """Tell whether strangers' work can be run safely here, and if not, why."""
        runner, found = self._daemon.runner, self._daemon.runner.found
        kit = found.kit
        return SandboxStatus(
            state=found.state,
            reason=found.reason,
            bwrap=kit.machine.bwrap if kit is not None else "",
            cgroup=kit.hierarchy.kind if kit is not None and kit.hierarchy is not None else "none",
            running=runner.running,
        )

    @method(
        "sandbox.run",
        access="daemon",
        errors=(
            SandboxMissing,
            SandboxFault,
            TaskKilled,
            NotFound,
            BlobDamaged,
            BadBundle,
            BundleTooLarge,
            Conflict,
            InvalidParams,
        ),
        timeout_s=LONGEST_S,
        example={
            "id": ID,
            "bundle": "ab" * 32,
            "argv": ["python3", "/app/main.py"],
            "inputs": [{"name": "params.json", "data": "e30="}],
            "limits": {
                "memory_mb": 256,
                "cpu_s": 10,
                "wall_s": 20,
                "disk_mb": 16,
                "processes": 16,
                "output_bytes": 1_000_000,
            },
        },
    )
    async def run(
        self,
        id: TaskId,
        bundle: Hash32,
        argv: Annotated[list[Argument], Field(min_length=1, max_length=64)],
        inputs: Annotated[list[SandboxInput], Field(max_length=16)],
        limits: SandboxLimits,
    ) -> SandboxResult:
        """Run one task in a sandbox of its own and wait for its end.

        The bundle is at /app, the inputs are in /in, what the task leaves in /out comes back; files above 64 KiB as
        blobs. Asking again with the same id and parameters joins the running task or gives its result again.
        """
        return await self._daemon.runner.run(Order(id, bundle, tuple(argv), tuple(inputs), limits))

    @method(
        "sandbox.logs",
        access="daemon",
        errors=(NotFound,),
        example={"id": ID, "offset": 0, "wait_s": 0.0},
        timeout_s=10,
    )
    async def logs(
        self,
        id: TaskId,
        offset: Annotated[int, Field(ge=0)] = 0,
        progress: Annotated[int, Field(ge=0, le=100)] | None = None,
        wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0,
    ) -> SandboxLog:
        """Show what a task has printed from `offset` on, and its progress.

        With `wait_s` it waits for more text, for a progress other than `progress`, or for the task's end.
        """
        return await self._daemon.runner.logs(id, offset, progress, wait_s)

    @method("sandbox.kill", access="daemon", example={"id": ID}, timeout_s=10)
    async def kill(self, id: TaskId) -> Ok:
        """End a task at once, with all its processes; its `sandbox.run` answers with the outcome `killed`."""
        self._daemon.runner.kill(id)
        return Ok()
