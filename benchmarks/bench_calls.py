"""Paid calls a second through whole nodes: order, work, receipt, signed state; all durable.

The `http` runtime (the provider's own local API) shows what Dux OS itself costs; the `command` runtime adds a sandbox.
"""

import asyncio
import base64
import hashlib
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.timing import cpu_s, median_ms
from dux_devnet.demo import ctl
from dux_devnet.layout import lay_out, node_names
from dux_devnet.main import start_all
from dux_devnet.network import Devnet, wait_until
from duxcommon.money import COIN
from duxcommon.rpc import Client

AT_ONCE = 16
SERIAL_CALLS = 150
PARALLEL_CALLS = 480
MANIFEST = """\
name: {name}
version: "1.0.0"
summary: Gives its input back.
price: "0.01"
runtime: {runtime}
{how}
input: {{media: [text/plain], max_bytes: 65536}}
output: {{media: [text/plain, application/octet-stream], max_bytes: 65536}}
"""
OVERRIDES: dict[str, dict[str, Any]] = {
    "*/escrowd": {"deposit_cap": 1000 * COIN, "max_unpaid": 64},
    "*/taskd": {"buyer": {"parallel": 64}, "provider": {"tasks": 32, "queue": 256}},
}


class Echo(BaseHTTPRequestHandler):
    """The provider's local API."""

    protocol_version = "HTTP/1.1"
    # Head and body in one packet: two would wait 40 ms for each other (Nagle and delayed acknowledgements).
    wbufsize = 65536
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer with the body."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output clean."""


@contextmanager
def local_api() -> Iterator[int]:
    """The API on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def publish(net: Devnet, folder: Path, name: str, runtime: str, how: str) -> None:
    """Publish an app that gives its input back, and wait until bob sees it live."""
    app = folder / name
    app.mkdir()
    (app / "dux.yaml").write_text(MANIFEST.format(name=name, runtime=runtime, how=how))
    if runtime == "command":
        (app / "main.py").write_text("open('/out/output','wb').write(open('/in/input','rb').read())\n")
    ctl(net, "alice", "app", "publish", str(app), show=False)

    def live() -> bool:
        found = net.client("bob", "registryd").call("app.search", {"words": name})["listings"]
        return bool(found and found[0]["live_providers"])

    wait_until(live, 60, f"{name} in bob's directory")


class Load:
    """Calls one app and keeps the books of what that took."""

    def __init__(self, net: Devnet, app: str) -> None:
        self.net, self.app = net, app
        self.client = Client(net.socket_path("bob", "taskd"))
        self._numbers = itertools.count()

    async def call(self) -> float:
        """One paid call; its duration in seconds."""
        number = next(self._numbers)
        data = f"call {number}".encode()
        payload = {
            "hash": hashlib.sha256(data).hexdigest(), "size": len(data), "media": "text/plain",
            "data": base64.b64encode(data).decode(),
        }  # fmt: skip
        start = time.perf_counter()
        params = {"app": self.app, "key": f"bench-{self.app}-{number}", "input": payload, "wait_s": 60.0}
        task = await self.client.call_raw("task.run", params, timeout=120)
        if task["state"] != "DONE":
            raise RuntimeError(f"a call ended as {task['state']}: {task['error']}")
        return time.perf_counter() - start

    async def run(self, calls: int, at_once: int) -> tuple[float, list[float]]:
        """Calls a second, and the duration of each."""
        left = itertools.repeat(None, calls)

        async def worker() -> list[float]:
            return [await self.call() for _ in left]

        start = time.perf_counter()
        done = await asyncio.gather(*(worker() for _ in range(at_once)))
        return calls / (time.perf_counter() - start), [sample for part in done for sample in part]


def counters(net: Devnet) -> dict[str, tuple[int, int, float]]:
    """Process → local calls served, durable commits, CPU seconds so far."""
    found = {}
    for name, process in net.status().items():
        node, _, daemon = name.rpartition("/")
        if node in ("alice", "bob"):
            status = net.client(node, daemon).call("daemon.status")
            found[name] = (status["calls"] - 1, status["commits"], cpu_s(process["pid"]))
    return found


async def measure(net: Devnet, app: str, serial: int, parallel: int) -> float:
    """Print the figures of one app; calls a second with 16 at once."""
    load = Load(net, app)
    await load.run(5, 1)
    rate_one, samples = await load.run(serial, 1)
    before = counters(net)
    rate_many, _ = await load.run(parallel, AT_ONCE)
    after = counters(net)
    await load.client.close()
    print(
        f"{app}: one at a time {rate_one:.0f} calls/s (p50 {median_ms(samples):.1f} ms), "
        f"{AT_ONCE} at once {rate_many:.0f} calls/s"
    )
    used = {n: tuple(a - b for a, b in zip(after[n], before[n], strict=True)) for n in after}
    hops, commits, cpu = (sum(part[i] for part in used.values()) / parallel for i in range(3))
    print(
        f"  a call, {AT_ONCE} at once: {hops:.1f} local calls, {commits:.2f} durable commits, "
        f"{1000 * cpu:.1f} ms of CPU, of it"
    )
    for name, (served, written, seconds) in sorted(used.items(), key=lambda item: -item[1][2]):
        if seconds / parallel > 0.0001:
            per = f"{served / parallel:.1f} calls, {written / parallel:.2f} commits"
            print(f"    {name:<18} {1000 * seconds / parallel:5.2f} ms, {per}")
    return rate_many


def main() -> None:
    """Both runtimes on one devnet."""
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    try:
        with local_api() as port, Devnet(lay_out(folder / "net", node_names(3), overrides=OVERRIDES)) as net:
            start_all(net, lambda text: None)
            address = net.client("bob", "flopd").call("wallet.receive")["address"]
            net.chain("faucet", address, "200")
            publish(net, folder, "echo-http", "http", f"url: http://127.0.0.1:{port}/")
            publish(net, folder, "echo-command", "command", "command: [python3, /app/main.py]")
            provider = net.layout.node_ids["alice"]
            wait_until(lambda: net.client("bob", "flopd").call("wallet.balance")["spendable"], 30, "bob's coins")
            opened = {"provider": provider, "amount": 40 * COIN, "key": "bench"}
            net.client("bob", "escrowd").call("channel.open", opened)
            asyncio.run(measure(net, "echo-http", SERIAL_CALLS, PARALLEL_CALLS))
            asyncio.run(measure(net, "echo-command", 20, 64))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
