"""The command runtime with the real worker behind its socket."""

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox_lab import MODES, Lab, ordinary_python

from dux_taskd.runtimes.base import RunResult
from dux_taskd.runtimes.command import CommandRuntime
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Payload
from duxcommon.errors import DaemonDown, NotFound, SandboxDegraded, SandboxMissing

TASK = "cd" * 16


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if MODES == ("user",) and ordinary_python() is None:
        pytest.skip("no Python that an ordinary user could run")
    with Lab(MODES[0]) as lab:
        if lab.status().state == "missing":
            pytest.skip(f"this machine has no sandbox: {lab.status().reason}")
        yield lab


def manifest(**more: Any) -> Manifest:
    value = {
        "name": "app",
        "version": "1",
        "summary": "s",
        "price": 1,
        "runtime": "command",
        "command": ["python3", "/app/main.py"],
        "resources": {"memory_mb": 128, "cpu_s": 5, "wall_s": 10, "disk_mb": 4, "processes": 8},
    }
    return Manifest.model_validate({**value, **more})


def run(
    lab: Lab,
    code: str,
    *,
    input: Payload | None = None,
    params: dict[str, Any] | None = None,
    task: str = TASK,
    told: list[tuple[int, str]] | None = None,
    **more: Any,
) -> RunResult:
    async def scenario() -> RunResult:
        client = lab.client
        runtime = CommandRuntime(client)
        try:
            await runtime.ready(own=True)
            tell = None if told is None else (lambda percent, text: told.append((percent, text)))
            bundle = lab.put({"main.py": code})
            return await runtime.run(task, manifest(**more), bundle, input, params or {}, progress=tell)
        finally:
            await client.close()

    return asyncio.run(scenario())


def ids() -> Iterator[str]:
    for number in range(1000):
        yield f"{number:032x}"


task_ids = ids()


def test_input_and_parameters_go_in_and_the_output_comes_out(lab: Lab) -> None:
    code = """
import json
n = json.load(open("/in/params.json"))["n"]
open("/out/output", "w").write(open("/in/input").read() * n)
"""
    given = Payload(hash="00" * 32, size=2, data=base64.b64encode(b"ab").decode())
    result = run(lab, code, input=given, params={"n": 3}, task=next(task_ids), output={"media": ["text/plain"]})
    assert result.error is None
    assert result.output is not None
    assert (result.output.media, base64.b64decode(result.output.data or "")) == ("text/plain", b"ababab")
    assert result.wall_ms > 0


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("raise SystemExit('not a picture')", "AppFailed", "exit code 1: not a picture"),
        ("pass", "OutputMissing", "wrote no /out/output"),
        ("import os; os.symlink('/etc', '/out/output')", "OutputRefused", "symbolic link"),
        ("open('/out/output', 'wb').write(bytes(2000))", "OutputTooLarge", "larger than 1000 bytes"),
        ("while True: pass", "TaskTimeout", "1 s of processor time"),
    ],
)
def test_every_failure_has_its_name(lab: Lab, code: str, name: str, words: str) -> None:
    more = {"cpu_s": 1, "memory_mb": 64}
    result = run(lab, code, task=next(task_ids), output={"max_bytes": 1000}, resources=more)
    assert result.output is None
    assert result.error is not None
    assert result.error.name == name
    assert words in result.error.message
    assert result.error.hint


def test_too_much_memory_has_its_name_where_it_can_be_known(lab: Lab) -> None:
    if lab.mode != "capped":
        pytest.skip("only a cgroup tells that memory was the reason")
    result = run(lab, "x = bytearray(1 << 30)\nwhile True: x += x", task=next(task_ids), resources={"memory_mb": 64})
    assert result.error is not None
    assert result.error.name == "OutOfMemory"


def test_an_optional_output_may_be_missing(lab: Lab) -> None:
    result = run(lab, "pass", task=next(task_ids), output={"required": False})
    assert (result.error, result.output) == (None, None)


def test_progress_and_the_whole_log_arrive(lab: Lab) -> None:
    code = r"""
import time
for n in range(3):
    print(f"::progress {n * 40}\nstep {n}\n", end="")
    time.sleep(0.3)
print("end")
open("/out/output", "w").close()
"""
    told: list[tuple[int, str]] = []
    result = run(lab, code, task=next(task_ids), told=told)
    assert result.error is None
    assert "".join(text for _, text in told).replace("\n\n", "\n") == "step 0\nstep 1\nstep 2\nend\n"
    assert [percent for percent, _ in told] == sorted(percent for percent, _ in told)
    assert told[-1][0] == 80
    assert len(told) >= 2


def test_killing_and_cancelling_end_the_execution(lab: Lab) -> None:
    async def scenario() -> None:
        client = lab.client
        runtime = CommandRuntime(client)
        bundle = lab.put({"main.py": "import time\nprint('on')\ntime.sleep(30)"})
        for end in ("kill", "cancel"):
            task = next(task_ids)
            started = asyncio.Event()
            running = asyncio.create_task(
                runtime.run(task, manifest(), bundle, None, {}, progress=lambda *_: started.set())  # noqa: B023
            )
            await asyncio.wait_for(started.wait(), 60)
            if end == "kill":
                await runtime.kill(task)
                result = await running
                assert result.error is not None
                assert result.error.name == "TaskKilled"
                again = await runtime.run(
                    task, manifest(command=["true"], output={"required": False}), bundle, None, {}
                )
                assert again.error is None
            else:
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
        await client.close()

    asyncio.run(scenario())
    end = time.monotonic() + 60
    while lab.status().running:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_unknown_bundle_is_refused_before_anything_runs(lab: Lab) -> None:
    async def scenario() -> None:
        client = lab.client
        with pytest.raises(NotFound):
            await CommandRuntime(client).run(next(task_ids), manifest(), "ef" * 32, None, {})
        await client.close()

    asyncio.run(scenario())


def test_what_the_machine_lacks_is_told_before_a_task_is_taken() -> None:
    async def ready(lab: Lab, own: bool) -> None:
        client = lab.client
        try:
            await CommandRuntime(client).ready(own)
        finally:
            await client.close()

    with Lab(MODES[0], bwrap="/usr/bin/false") as lab:
        with pytest.raises(SandboxMissing):
            asyncio.run(ready(lab, own=True))
        lab.stop()
        with pytest.raises(DaemonDown):
            asyncio.run(ready(lab, own=True))
    with Lab(MODES[0], cgroup="none") as lab:
        if lab.status().state == "missing":
            pytest.skip("this machine has no sandbox")
        asyncio.run(ready(lab, own=True))
        with pytest.raises(SandboxDegraded, match="switched off"):
            asyncio.run(ready(lab, own=False))
