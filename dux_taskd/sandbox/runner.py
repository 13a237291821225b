"""Runs tasks: waits for a free place, lays out the inputs, starts the sandbox, takes the output, cleans up."""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from duxcommon.api.taskd import INLINE_MAX, SandboxFile, SandboxInput, SandboxLimits, SandboxLog, SandboxResult
from duxcommon.blobs import BlobStore, BlobWriter
from duxcommon.errors import Conflict, InvalidParams, NotFound, SandboxFault, SandboxMissing, TaskKilled

from .bundles import BundleCache
from .cgroup import Group
from .log import TaskOutput
from .output import OutputReader, Part
from .probe import Found, Kit
from .process import Ending, Sandbox, StillAlive

log = logging.getLogger("sandbox")

KEPT_RUNS = 64
"""Ended runs whose logs and results can still be asked for."""
MAX_INLINE = 1024 * 1024
"""Bytes of all the files that go inside one reply; it must stay below what a message may hold."""
OUTCOMES = {
    "timeout": "timeout",
    "cpu": "timeout",
    "memory": "memory",
    "killed": "killed",
    "output": "output",
    "large": "large",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What `sandbox.run` was asked for."""

    id: str
    bundle: str
    argv: tuple[str, ...]
    inputs: tuple[SandboxInput, ...]
    limits: SandboxLimits


class Collector:
    """Takes the files of one output: small ones in memory, large ones straight into the blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._small: dict[str, bytearray] = {}
        self._large: dict[str, BlobWriter] = {}
        self._room = MAX_INLINE

    def sink(self, part: Part, name: str, size: int, data: bytes) -> None:
        """For OutputReader."""
        if part is Part.START and size <= min(INLINE_MAX, self._room):
            self._small[name] = bytearray()
            self._room -= size
        elif part is Part.START:
            self._large[name] = self._blobs.writer()
        elif part is Part.DATA and name in self._small:
            self._small[name] += data
        elif part is Part.DATA:
            self._large[name].write(data)

    def commit(self) -> list[SandboxFile]:
        """The files, the large ones durable in the blob store."""
        files = []
        for name, content in self._small.items():
            data = base64.b64encode(content).decode()
            digest = hashlib.sha256(content).hexdigest()
            files.append(SandboxFile(name=name, hash=digest, size=len(content), data=data))
        for name, writer in self._large.items():
            files.append(SandboxFile(name=name, size=writer.size, hash=writer.commit()))
        return sorted(files, key=lambda file: file.name)

    def discard(self) -> None:
        """Forget what was not committed."""
        for writer in self._large.values():
            writer.discard()


class Run:
    """One task, from the order to its result."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.output = TaskOutput()
        self.sandbox: Sandbox | None = None
        self.killed = False
        self.task: asyncio.Task[SandboxResult] | None = None

    @property
    def over(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def failed(self) -> bool:
        """It never ran: asking again tries again."""
        return self.over and self.task is not None and (self.task.cancelled() or self.task.exception() is not None)

    def kill(self) -> None:
        """End it, whether it runs or still waits for its turn."""
        self.killed = True
        if self.sandbox is not None:
            self.sandbox.kill()


class Runner:
    """All tasks of this worker."""

    def __init__(self, found: Found, blobs: BlobStore, *, places: int, cache_bytes: int) -> None:
        self.found = found
        self._blobs = blobs
        self._places = asyncio.Semaphore(places)
        self._slots = list(range(places))
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._bundles = BundleCache(found.kit.work / "bundles", blobs, cache_bytes) if found.kit is not None else None

    @property
    def running(self) -> int:
        """Tasks that were started and have not ended."""
        return sum(run.sandbox is not None and not run.over for run in self._runs.values())

    async def run(self, order: Order) -> SandboxResult:
        """Run a task to its end; asking again with the same order joins it, or gives its result again.

        It goes on when the caller goes away. Raises SandboxMissing, SandboxFault, TaskKilled (before it was started),
        NotFound (bundle or input), Conflict, InvalidParams, and what is wrong with the bundle.
        """
        run = self._runs.get(order.id)
        while run is not None and run.killed and run.task is not None:
            # A killed task may be run anew, but not beside what is left of it.
            await asyncio.wait([run.task])
            if self._runs.get(order.id) is run:
                del self._runs[order.id]
            run = self._runs.get(order.id)
        if run is not None and run.order != order:
            raise Conflict(f"task {order.id} was given with other parameters", hint="Choose a new id for a new task.")
        if run is None or run.failed:
            run = self._runs[order.id] = Run(order)
            run.task = asyncio.create_task(self._run(run), name=f"sandbox-{order.id}")
            # Nobody may be left to hear of it.
            run.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._forget_old()
        assert run.task is not None
        return await asyncio.shield(run.task)

    def _forget_old(self) -> None:
        over = [id for id, run in self._runs.items() if run.over]
        for id in over[: max(0, len(over) - KEPT_RUNS)]:
            del self._runs[id]

    async def logs(self, id: str, offset: int, progress: int | None, seconds: float) -> SandboxLog:
        """What a task printed from `offset` on, waiting up to `seconds` for news. Raises NotFound."""
        run = self._runs.get(id)
        if run is None:
            raise NotFound(f"there is no task {id} in the sandbox worker")
        if seconds:
            await run.output.wait(offset, run.output.progress if progress is None else progress, seconds)
        text, next_offset = run.output.since(offset)
        return SandboxLog(text=text, next_offset=next_offset, progress=run.output.progress)

    def kill(self, id: str) -> None:
        """End a task; unknown and ended ones are ignored."""
        run = self._runs.get(id)
        if run is not None and not run.over:
            run.kill()

    async def close(self) -> None:
        """End all tasks."""
        tasks = [run.task for run in self._runs.values() if run.task is not None and not run.over]
        for run in self._runs.values():
            run.kill()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one task ---------------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> SandboxResult:
        kit, bundles = self.found.kit, self._bundles
        if kit is None or bundles is None:
            raise SandboxMissing(f"no task is run here: {self.found.reason}")
        try:
            async with self._places:
                if run.killed:
                    raise TaskKilled("the task was ended before it was started")
                slot = self._slots.pop()
                try:
                    async with bundles.lease(run.order.bundle) as bundle, _inputs(kit, run.order, slot, self._blobs):
                        return await self._execute(kit, run, slot, f"bundles/{bundle}")
                except StillAlive:
                    # Its uid is not given to another task; a restart of the worker gives it back.
                    slot = -1
                    raise
                finally:
                    if slot >= 0:
                        self._slots.insert(0, slot)
        except (OSError, StillAlive) as error:
            log.warning("a sandbox could not be used", extra={"task": run.order.id, "reason": str(error)})
            raise SandboxFault(f"the sandbox could not be set up: {error}") from error
        finally:
            run.output.close()

    async def _execute(self, kit: Kit, run: Run, slot: int, bundle: str) -> SandboxResult:
        order = run.order
        collector = Collector(self._blobs)
        group = kit.hierarchy.create(order.id, order.limits, kit.machine.cores) if kit.hierarchy is not None else None
        try:
            reader = OutputReader(order.limits.output_bytes, order.limits.output_files, collector.sink)
            start = kit.start(order.limits, list(order.argv), slot=slot, bundle=bundle, inputs=f"tasks/{order.id}/in")
            run.sandbox = Sandbox(start, group, reader, run.output)
            if run.killed:
                raise TaskKilled("the task was ended before it was started")
            ending = await run.sandbox.run()
            if ending.cause == "setup":
                raise SandboxFault(f"the sandbox could not be set up: {ending.detail}")
            ok = ending.cause == "exit" and ending.exit_code == 0
            files = await asyncio.to_thread(collector.commit) if ok else []
            return _result(ending, files, run.output)
        finally:
            collector.discard()
            await _remove(group)


def _result(ending: Ending, files: list[SandboxFile], output: TaskOutput) -> SandboxResult:
    if ending.cause == "exit":
        outcome = "failed" if ending.exit_code else "ok"
        detail = f"the app ended with exit code {ending.exit_code}" if ending.exit_code else ""
    else:
        outcome, detail = OUTCOMES[ending.cause], ending.detail
    return SandboxResult.model_validate(
        {
            "outcome": outcome,
            "exit_code": ending.exit_code,
            "detail": detail,
            "wall_ms": ending.wall_ms,
            "cpu_ms": ending.cpu_ms,
            "files": files,
            "log": output.tail(),
        }
    )


async def _remove(group: Group | None) -> None:
    if group is not None and not await asyncio.to_thread(group.remove):
        log.warning("a control group could not be removed", extra={"group": str(group.folders[0])})


@contextlib.asynccontextmanager
async def _inputs(kit: Kit, order: Order, slot: int, blobs: BlobStore) -> AsyncIterator[None]:
    """The folder that the task finds at /in, readable by its uid alone."""
    folder = kit.work / "tasks" / order.id
    try:
        await asyncio.to_thread(
            _lay_out, folder, order.inputs, blobs, None if kit.first_uid is None else kit.first_uid + slot
        )
        yield
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _lay_out(folder: Path, inputs: tuple[SandboxInput, ...], blobs: BlobStore, uid: int | None) -> None:
    inside = folder / "in"
    inside.mkdir(parents=True, mode=0o700)
    for item in inputs:
        if item.name in (".", "..") or (item.blob is None) == (item.data is None):
            raise InvalidParams(f"input {item.name!r} must have a file name and either a blob or data")
        path = inside / item.name
        if item.data is not None:
            try:
                path.write_bytes(base64.b64decode(item.data, validate=True))
            except binascii.Error as error:
                raise InvalidParams(f"input {item.name!r} is not base64: {error}") from error
        elif item.blob is not None:
            try:
                shutil.copyfile(blobs.path(item.blob), path)
            except FileNotFoundError:
                raise NotFound(f"the input {item.blob[:16]}… is not among this node's blobs") from None
        path.chmod(0o400)
    if uid is not None:
        for path in (*inside.iterdir(), inside, folder):
            os.chown(path, uid, uid)
