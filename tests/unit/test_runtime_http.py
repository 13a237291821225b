"""The http runtime against a real server: what it sends, what it takes, and what it never does."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dux_taskd.runtimes.base import RunResult
from dux_taskd.runtimes.http import HttpRuntime, local_url
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import Payload
from duxcommon.blobs import BlobStore
from duxcommon.errors import BadManifest, DuxError

TASK = "ab" * 16
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def manifest(url: str, **more: Any) -> Manifest:
    resources = {"wall_s": more.pop("wall_s", 5)}
    value = {"name": "api", "version": "1", "summary": "s", "price": 1, "runtime": "http", "url": url}
    return Manifest.model_validate({**value, "resources": resources, **more})


def inline(data: bytes, media: str = "text/plain") -> Payload:
    return Payload(hash="00" * 32, size=len(data), media=media, data=base64.b64encode(data).decode())


def call(
    folder: Path,
    handler: Handler,
    *,
    input: Payload | None = None,
    params: dict[str, Any] | None = None,
    host: str = "127.0.0.1",
    **more: Any,
) -> RunResult:
    async def scenario() -> RunResult:
        application = web.Application(client_max_size=1 << 27)
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = runner.addresses[0][1]
        runtime = HttpRuntime(BlobStore(folder))
        try:
            return await runtime.run(TASK, manifest(f"http://{host}:{port}/run", **more), None, input, params or {})
        finally:
            await runtime.close()
            await runner.cleanup()

    return asyncio.run(scenario())


def failure(result: RunResult) -> str:
    assert result.output is None
    assert result.error is not None
    return result.error.name


async def echo(request: web.Request) -> web.Response:
    seen = {
        "method": request.method,
        "body": (await request.read()).decode(),
        "type": request.headers.get("Content-Type"),
        "params": json.loads(request.headers["X-Dux-Params"]),
        "task": request.headers["X-Dux-Task"],
    }
    return web.json_response(seen)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_input_parameters_and_task_arrive_and_the_answer_is_the_output(tmp_path: Path, host: str) -> None:
    result = call(tmp_path, echo, input=inline(b"hello"), params={"a": "é\n"}, host=host)
    assert result.error is None
    assert result.output is not None
    assert result.output.media == "application/json"
    assert json.loads(base64.b64decode(result.output.data or "")) == {
        "method": "POST",
        "body": "hello",
        "type": "text/plain",
        "params": {"a": "é\n"},
        "task": TASK,
    }


def test_large_inputs_and_outputs_are_blobs(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    data = bytes(range(256)) * 4000
    digest = store.put(data)

    async def double(request: web.Request) -> web.Response:
        return web.Response(body=await request.read() * 2)

    result = call(tmp_path, double, input=Payload(hash=digest, size=len(data)))
    assert result.output is not None
    assert (result.output.data, result.output.size) == (None, 2 * len(data))
    assert store.get(result.output.hash) == data * 2


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return handler


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (answer(302, Location="http://127.0.0.1:1/"), "ApiFailed"),
        (answer(404, b"no such\x1b[31m model"), "ApiFailed"),
        (answer(503), "ApiDown"),
        (answer(204), "OutputMissing"),
        (answer(200, b"x" * 2000), "OutputTooLarge"),
        (answer(200, b"x", **{"Content-Encoding": "gzip"}), "ApiFailed"),
    ],
)
def test_bad_answers_are_named(tmp_path: Path, handler: Handler, name: str) -> None:
    result = call(tmp_path, handler, output={"max_bytes": 1000})
    assert failure(result) == name
    assert "\x1b" not in str(result.error)


def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    result = call(tmp_path, endless, output={"max_bytes": 1_000_000})
    assert failure(result) == "OutputTooLarge"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_silent_server_ends_at_the_wall_time(tmp_path: Path) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    result = call(tmp_path, silent, wall_s=1)
    assert failure(result) == "TaskTimeout"
    assert 900 <= result.wall_ms < 20_000


def test_no_server_is_api_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def scenario() -> RunResult:
        runtime = HttpRuntime(BlobStore(tmp_path))
        try:
            return await runtime.run(TASK, manifest(f"http://127.0.0.1:{port}/"), None, None, {})
        finally:
            await runtime.close()

    assert failure(asyncio.run(scenario())) == "ApiDown"


def test_killing_ends_the_call_and_cancelling_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set()
            await reader.read()
            writer.close()

        accepted = asyncio.Event()
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        url = manifest(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        runtime = HttpRuntime(BlobStore(tmp_path))
        for end in ("kill", "cancel"):
            accepted.clear()
            running = asyncio.create_task(runtime.run(TASK, url, None, None, {}))
            await asyncio.wait_for(accepted.wait(), 5)
            if end == "kill":
                await runtime.kill(TASK)
                assert failure(await running) == "TaskKilled"
            else:
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
        await runtime.kill("ff" * 16)
        await runtime.close()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80@example.org/",
        "http://localhost:x@10.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://localhost:80.example.org/",
    ],
)
def test_only_loopback_is_ever_contacted(url: str) -> None:
    with pytest.raises(BadManifest):
        local_url(manifest(url))


def test_parameters_that_fit_no_header_are_refused(tmp_path: Path) -> None:
    assert failure(call(tmp_path, echo, params={"text": "x" * 5000})) == "ApiFailed"


def test_a_missing_input_blob_is_named(tmp_path: Path) -> None:
    result = call(tmp_path, echo, input=Payload(hash="ab" * 32, size=5))
    assert isinstance(result.error, DuxError)
    assert failure(result) == "NotFound"


def test_two_hundred_calls_take_less_than_a_second(tmp_path: Path) -> None:
    async def scenario() -> float:
        application = web.Application()
        application.router.add_post("/", answer(200, b"ok"))
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = manifest(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        runtime = HttpRuntime(BlobStore(tmp_path))
        await runtime.run(TASK, url, None, inline(b"x"), {})
        # Processor time: other work on the machine must not count.
        began = time.process_time()
        for number in range(200):
            result = await runtime.run(f"{number:032x}", url, None, inline(b"x"), {"n": number})
            assert result.error is None
        used = time.process_time() - began
        await runtime.close()
        await runner.cleanup()
        return used

    assert asyncio.run(scenario()) < 1
