"""Calls between two nodes: program → registryd → iroh → registryd → daemon and back, and payloads by hash.

Beside it, in the same run: one local call to the same daemon, so that what the way between the nodes costs shows.
"""

import asyncio
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import cpu_s, latencies, median_ms, pss_mb
from duxcommon.api.manifest import MAX_PAYLOAD
from duxcommon.blobs import BlobStore
from duxcommon.rpc import Client
from tests.registryd_kit import Net, Node, net, until

SERIAL = 1500
PARALLEL = 6400
AT_ONCE = 32
LIMITS = {"calls_per_second": 100_000, "concurrent_calls": 1000}
TEXT = "x" * 1000


def pids(*nodes: Node) -> list[int]:
    """Processes of the nodes' registryd."""
    return [node.daemon.process.pid for node in nodes if node.daemon.process is not None]


async def calls(alice: Node, bob: Node) -> dict[str, float]:
    """1 KB echo: one at a time, then many at once; CPU of both registryd for each call."""
    client = Client(alice.daemon.socket)
    params = {"node": bob.id, "method": "task.echo", "params": {"value": TEXT}}

    async def call() -> Any:
        return await client.call_raw("peer.call", params)

    await latencies(call, 200)
    start = time.perf_counter()
    samples = await latencies(call, SERIAL)
    serial = SERIAL / (time.perf_counter() - start)
    cpu = sum(map(cpu_s, pids(alice, bob)))
    start = time.perf_counter()
    many = await asyncio.gather(*(latencies(call, PARALLEL // AT_ONCE) for _ in range(AT_ONCE)))
    parallel = PARALLEL / (time.perf_counter() - start)
    cpu = (sum(map(cpu_s, pids(alice, bob))) - cpu) / PARALLEL
    await client.close()
    flat = sorted(sample for samples in many for sample in samples)
    p50, p99 = median_ms(flat), flat[len(flat) * 99 // 100] * 1000
    print(f"peer.call, 1 KB      p50 {median_ms(samples):6.3f} ms   {serial:7.0f} calls/s (aim: at least 400)")
    print(f"  {AT_ONCE} at once         p50 {p50:6.3f} ms   {parallel:7.0f} calls/s (aim: at least 1,000)")
    print(f"                     p99 {p99:6.3f} ms")
    print(f"  CPU of both registryd: {cpu * 1000:.2f} ms a call with {AT_ONCE} at once")
    return {"peer_p50_ms": median_ms(samples), "peer_calls_s": serial, "peer_calls_s_32": parallel}


async def local(bob: Node) -> None:
    """The same daemon, called on its own machine."""
    client = Client(bob.folder / "taskd.sock")
    samples = await latencies(lambda: client.call_raw("task.echo", {"value": TEXT}, peer="ab" * 32), SERIAL)
    await client.close()
    print(f"the daemon by itself p50 {median_ms(samples):6.3f} ms")


async def payload(alice: Node, bob: Node) -> dict[str, float]:
    """The largest payload, fetched by hash: read, sent, written, hashed and durable."""
    digest = BlobStore(bob.blobs).put(random.Random(1).randbytes(MAX_PAYLOAD))
    bob.call("peer.offer", hash=digest)
    client = Client(alice.daemon.socket)
    start = time.perf_counter()
    status: dict[str, Any] = {"complete": False}
    while not status["complete"]:
        params = {"node": bob.id, "hash": digest, "size": MAX_PAYLOAD, "wait_s": 30.0}
        status = await client.call_raw("peer.fetch", params)
    rate = (MAX_PAYLOAD >> 20) / (time.perf_counter() - start)
    await client.close()
    print(f"a payload of 64 MiB  {rate:6.0f} MB/s")
    return {"payload_mb_s": rate}


def run(made: Net) -> None:
    """Two nodes, then the measurements one after the other."""
    start = time.perf_counter()
    alice = made.add("alice", peers=LIMITS)
    print(f"registryd: start to READY {time.perf_counter() - start:.2f} s")
    bob = made.add("bob", peers=LIMITS).stub()
    until(lambda: alice.knows(bob) and bob.knows(alice), "the two nodes find each other")
    print(f"registryd idle: {pss_mb(pids(alice)[0]):.0f} MB PSS")
    found = asyncio.run(calls(alice, bob))
    asyncio.run(local(bob))
    found |= asyncio.run(payload(alice, bob))
    latency = next(peer["latency_ms"] for peer in alice.call("peer.list")["peers"])
    print(f"latency as shown to the scheduler: {latency} ms")
    print(json.dumps(found))


def main() -> None:
    """Print all figures."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    try:
        with net(folder) as made:
            run(made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
