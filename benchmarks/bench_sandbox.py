"""A task of the `command` runtime against a bare STRICT start of `/bin/true`, round by round in one run."""

import asyncio
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

from benchmarks.timing import latencies, median_ms
from dux_taskd.runtimes.command import CommandRuntime
from dux_taskd.sandbox.methods import SandboxMethods
from dux_taskd.sandbox.probe import TRIAL_LIMITS, Kit, probe
from dux_taskd.sandbox.profile import Places, Privileges, launch, namespaces, resource_limits
from dux_taskd.sandbox.runner import Runner
from dux_taskd.sandbox.settings import SandboxSettings
from duxcommon.blobs import BlobStore
from duxcommon.bundle import pack, parse_manifest
from duxcommon.config import Access
from duxcommon.rpc import Client, Server, collect, wire

ROUNDS = 60
AT_ONCE = 2
PAUSE_S = 0.05
MIB = 1 << 20
Call = Callable[[], Awaitable[None]]

MANIFEST = """\
name: nothing
version: "1"
summary: Does nothing.
price: "0.1"
runtime: command
command: [/bin/true]
output: {required: false}
resources: {memory_mb: 64, cpu_s: 5, wall_s: 20, disk_mb: 1, processes: 16}
"""


async def bare_start(kit: Kit) -> None:
    """bubblewrap in its control group as the worker starts it, without all that the worker does around it."""
    group = kit.hierarchy.create("bare" + secrets.token_hex(4), TRIAL_LIMITS, 1) if kit.hierarchy else None
    folder = kit.inside("tasks")
    seccomp = os.open(kit.filter, os.O_RDONLY)
    reader, writer = os.pipe()
    places = Places(folder, folder, kit.inside("etc"), seccomp, writer)
    argv = [
        *launch(Privileges(kit.first_uid, group.procs if group else (), str(kit.work) if kit.staged else None)),
        *resource_limits(TRIAL_LIMITS, memory_capped=True),
        *namespaces(kit.machine, places, TRIAL_LIMITS),
        "/bin/true",
    ]
    try:
        process = await asyncio.create_subprocess_exec(*argv, pass_fds=(seccomp, writer))
        if await process.wait():
            raise RuntimeError("the bare sandbox did not start")
    finally:
        for descriptor in (seccomp, reader, writer):
            os.close(descriptor)
        if group:
            await asyncio.to_thread(group.remove)


async def rate(calls: list[Call]) -> float:
    """Calls a second, AT_ONCE at a time."""

    async def worker() -> None:
        while calls:
            await calls.pop()()

    count = len(calls)
    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - began)


async def measure(folder: Path) -> None:
    """Print the figures."""
    settings = SandboxSettings(state_dir=folder / "state", blobs_dir=folder / "blobs")
    found = await probe(settings)
    if found.kit is None:
        print(f"no sandbox on this machine: {found.reason}")
        return
    kit, blobs = found.kit, BlobStore(settings.blobs_dir)
    runner = Runner(found, blobs, places=8, cache_bytes=64 * MIB)
    server = Server(collect([SandboxMethods(SimpleNamespace(runner=runner))]), Access(), 10_000)  # type: ignore[arg-type]
    listening = await asyncio.start_unix_server(server.serve_connection, folder / "sock", limit=wire.MAX_MESSAGE)
    client = Client(folder / "sock")
    runtime = CommandRuntime(client)
    app = folder / "app"
    app.mkdir()
    (app / "dux.yaml").write_text(MANIFEST)
    packed = pack(app, folder / "bundle")
    blobs.put_file(folder / "bundle")
    manifest = parse_manifest(MANIFEST)

    async def task() -> None:
        result = await runtime.run(secrets.token_hex(16), manifest, packed.hash, None, {})
        if result.error is not None:
            raise result.error

    async def bare() -> None:
        await bare_start(kit)

    await task()
    tasks: list[float] = []
    bares: list[float] = []
    both: list[tuple[Call, list[float]]] = [(bare, bares), (task, tasks)]
    for number in range(ROUNDS):
        for call, samples in both[:: -1 if number % 2 else 1]:
            # The kernel takes a network namespace apart after its last process, and a new one waits for that.
            await asyncio.sleep(PAUSE_S)
            samples += await latencies(call, 1)
    rates = await rate([bare] * ROUNDS), await rate([task] * ROUNDS)
    print(f"sandbox {found.state}, cgroups {kit.hierarchy.kind if kit.hierarchy else 'none'}, {kit.machine.bwrap}")
    for name, samples, per_second in (("bare STRICT start", bares, rates[0]), ("task by the worker", tasks, rates[1])):
        times = f"{median_ms(samples):6.1f} ms (min {min(samples) * 1000:.1f})"
        print(f"{name:<20} {times}   {per_second:5.1f}/s, {AT_ONCE} at once")
    ratio = statistics.median(one / other for one, other in zip(tasks, bares, strict=True))
    print(f"{'ratio':<20} {ratio:6.2f} of latency, {rates[0] / rates[1]:.2f} of throughput")
    await client.close()
    listening.close()
    await runner.close()


def main() -> None:
    """Print start times of the sandbox, bare and through the worker."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    folder.chmod(0o711)
    try:
        asyncio.run(measure(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
