"""A local call through our server against bare jsonrpcserver on the same kind of socket, in one run."""

import asyncio
import json
import tempfile
import time
from pathlib import Path

import jsonrpcserver
from jsonrpcserver.async_main import dispatch_to_json

from benchmarks.timing import latencies, median_ms
from duxcommon.api.common import Koinu, Model
from duxcommon.config import Access
from duxcommon.rpc import Client, Server, collect, method, wire

ROUNDS = 2000
AT_ONCE = 16


class Sum(Model):
    sum: Koinu


class AddMethods:
    """The method that is called."""

    @method("test.add", access="read")
    async def add(self, a: Koinu, b: Koinu) -> Sum:
        """Add two amounts."""
        return Sum(sum=a + b)


async def bare_add(a: int, b: int) -> object:
    """The same for bare jsonrpcserver."""
    return jsonrpcserver.Success({"sum": a + b})


async def bare_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """jsonrpcserver with its own defaults, one JSON line a request."""
    while line := await reader.readline():
        reply = await dispatch_to_json(line.decode(), methods={"test.add": bare_add})
        writer.write(reply.encode() + b"\n")
        await writer.drain()
    writer.close()


async def rates(path: Path) -> tuple[float, float, float]:
    """p50 in ms, calls/s one at a time, calls/s with 16 at once."""
    client = Client(path)
    params = {"a": 5, "b": 7}
    await latencies(lambda: client.call_raw("test.add", params), 200)
    start = time.perf_counter()
    samples = await latencies(lambda: client.call_raw("test.add", params), ROUNDS)
    serial = ROUNDS / (time.perf_counter() - start)
    start = time.perf_counter()
    await asyncio.gather(
        *(latencies(lambda: client.call_raw("test.add", params), ROUNDS // AT_ONCE) for _ in range(AT_ONCE))
    )
    parallel = ROUNDS / (time.perf_counter() - start)
    await client.close()
    return median_ms(samples), serial, parallel


async def measure(folder: Path) -> None:
    """Interleave both so that a busy machine slows them alike."""
    server = Server(collect([AddMethods()]), Access(), 1_000_000)
    ours = await asyncio.start_unix_server(server.serve_connection, folder / "ours.sock", limit=wire.MAX_MESSAGE)
    bare = await asyncio.start_unix_server(bare_connection, folder / "bare.sock")
    results: dict[str, list[tuple[float, float, float]]] = {"ours": [], "bare": []}
    for _ in range(5):
        for name, found in results.items():
            found.append(await rates(folder / f"{name}.sock"))
    middle = {name: sorted(found)[len(found) // 2] for name, found in results.items()}
    for name, label in (("ours", "duxcommon.rpc"), ("bare", "bare jsonrpcserver")):
        p50, serial, parallel = middle[name]
        print(f"{label:<20} p50 {p50:6.3f} ms   {serial:7.0f} calls/s   {parallel:7.0f} calls/s with {AT_ONCE} at once")
    ratio = middle["ours"][0] / middle["bare"][0]
    print(
        f"ratio of p50 (aim: at most 1.5): {ratio:.2f}; of calls/s at once: {middle['ours'][2] / middle['bare'][2]:.2f}"
    )
    print(json.dumps({"rpc_p50_ms": middle["ours"][0], "rpc_ratio": ratio}))
    ours.close()
    bare.close()


def main() -> None:
    """Print both."""
    with tempfile.TemporaryDirectory(prefix="dux", dir="/tmp") as folder:
        asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
