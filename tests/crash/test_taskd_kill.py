"""kill -9 of taskd at every point where a step is half done: after a restart nothing is lost and nothing paid twice."""

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dux_taskd import buyer, provider
from duxcommon.api.taskd import Task
from duxcommon.config import Access
from duxcommon.errors import DuxError, ProviderPaused
from duxcommon.network import dump_network
from duxcommon.rpc import Client, Server, collect, wire
from tests.taskd_kit import Node, World, manifest, payload, until
from tests.taskd_stand_ins import NETWORK, PRICE

ROOT = Path(__file__).resolve().parent.parent.parent


class ProcessNode(Node):
    """A node whose taskd is a process; its stand-ins are served on sockets by the test."""

    process: asyncio.subprocess.Process | None = None

    async def serve_stand_ins(self) -> None:
        folder = self.settings.run_dir
        for name, methods in (("escrowd", self.escrow), ("registryd", self.registry)):
            server = Server(collect([methods]), Access(), 100_000)
            await asyncio.start_unix_server(
                server.serve_connection, str(folder / f"{name}.sock"), limit=wire.MAX_MESSAGE
            )
        (folder / "network.yaml").write_text(dump_network(NETWORK))
        config = {
            "run_dir": str(folder),
            "state_dir": str(folder),
            "log_dir": str(folder),
            "network": str(folder / "network.yaml"),
            "blobs_dir": str(self.settings.blobs_dir),
            "buyer": self.settings.buyer.model_dump(),
            "provider": self.settings.provider.model_dump(),
        }
        (folder / "taskd.yaml").write_text(yaml.safe_dump(config))
        self.rpc_in = Client(folder / "taskd.sock")

    async def start(self, failpoint: str = "") -> None:
        folder = self.settings.run_dir
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.taskd_process", "--config", str(folder / "taskd.yaml"),
            cwd=ROOT, env={**os.environ, "DUXNET_FAILPOINT": failpoint}, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def ready(self) -> None:
        """It has told its registryd what it serves."""
        await until(lambda: self.registry.told, seconds=60)

    async def killed(self) -> None:
        """Wait until the failpoint has ended it."""
        assert self.process is not None
        assert await asyncio.wait_for(self.process.wait(), 60) == -signal.SIGKILL

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 60)
        await self.rpc_in.close()

    def executions(self) -> int:
        """How often an app was run here."""
        note = self.settings.state_dir / "runs.txt"
        return len(note.read_text().splitlines()) if note.exists() else 0


@asynccontextmanager
async def processes(folder: Path, providers: int, armed: dict[str, str]) -> AsyncIterator[World]:
    """bob and his providers; `armed` names the failpoint of a node's taskd."""
    w = World(folder, ProcessNode)
    names = ["bob", *(f"alice{n}" for n in range(providers))]
    # A daemon may take its time to start again on a busy machine.
    patient = {"silence_s": 60}
    nodes = [w.add(name, buyer=patient, provider={"tasks": 0} if name == "bob" else None) for name in names]
    listing = w.publish(nodes[1], manifest())
    for other in nodes[2:]:
        lends = other.settings.provider.model_copy(update={"serve": [listing.app]})
        other.settings = other.settings.model_copy(update={"provider": lends})
    w.bob, w.alices = nodes[0], nodes[1:]
    try:
        for name, node in zip(names, nodes, strict=True):
            assert isinstance(node, ProcessNode)
            await node.serve_stand_ins()
            await node.start(armed.get(name, ""))
        for node in nodes:
            assert isinstance(node, ProcessNode)
            await node.ready()
        yield w
    finally:
        for node in nodes:
            with contextlib.suppress(AttributeError):
                await node.stop()


async def ask(w: World, **params: Any) -> Task:
    """The same task.run until it answers, as a user's program would."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await w.bob.run(key="once", input=payload(b"photo"), **params)
            except DuxError as error:
                if not error.retry:
                    raise
                await asyncio.sleep(0.1)


async def revive(node: Node) -> None:
    """Start a killed taskd again, without a failpoint."""
    assert isinstance(node, ProcessNode)
    await node.killed()
    node.registry.told = False
    await node.start()
    await node.ready()


def assert_done_once(w: World, task: Task) -> None:
    """The result is there, it was paid for exactly once, and no money is left reserved."""
    assert (task.state, task.error) == ("DONE", None)
    assert task.result is not None
    assert task.result.hash == hashlib.sha256(b"photo").hexdigest()
    assert w.paid_for(task.id) == PRICE
    assert w.bob.escrow.held() == 0
    w.assert_balanced(w.bob)


AFTER_A_REFUND = ("refunded", "next-stored")


@pytest.mark.parametrize("point", [name for name in buyer.FAILPOINTS if name not in AFTER_A_REFUND])
def test_a_buyer_killed_at_any_point_has_its_result_and_pays_once(short_tmp: Path, point: str) -> None:
    async def run() -> None:
        async with processes(short_tmp, 1, {"bob": f"taskd:{point}"}) as w:
            asking = asyncio.create_task(ask(w))
            await revive(w.bob)
            task = await asking
            assert_done_once(w, task)
            await until(lambda: [p.state for p in w.alices[0].escrow.payments.values()] == ["DONE"])
            assert isinstance(w.alices[0], ProcessNode)
            assert w.alices[0].executions() == 1

    asyncio.run(run())


@pytest.mark.parametrize("point", AFTER_A_REFUND)
def test_a_buyer_killed_between_two_providers_pays_the_second_alone(short_tmp: Path, point: str) -> None:
    async def run() -> None:
        async with processes(short_tmp, 2, {"bob": f"taskd:{point}"}) as w:
            first: list[str] = []

            async def refuse_first(node: str, method: str, params: Any, go_on: Any) -> Any:
                if not first:
                    first.append(node)
                if node == first[0]:
                    raise ProviderPaused("not now")
                return await go_on()

            w.intercept = refuse_first
            asking = asyncio.create_task(ask(w))
            await revive(w.bob)
            task = await asking
            assert_done_once(w, task)
            assert [a.outcome for a in task.attempts] == ["ProviderPaused", "paid"]
            assert [provider for _, provider, _, _ in w.paid] != first

    asyncio.run(run())


@pytest.mark.parametrize("point", list(provider.FAILPOINTS))
def test_a_provider_killed_at_any_point_delivers_or_charges_nothing(short_tmp: Path, point: str) -> None:
    async def run() -> None:
        async with processes(short_tmp, 1, {"alice0": f"taskd:{point}"}) as w:
            asking = asyncio.create_task(ask(w))
            await revive(w.alices[0])
            task = await asking
            assert_done_once(w, task)
            await until(lambda: [p.state for p in w.alices[0].escrow.payments.values()] == ["DONE"])

    asyncio.run(run())


def test_a_cancelled_task_stays_cancelled_after_kill_9(short_tmp: Path) -> None:
    async def run() -> None:
        async with processes(short_tmp, 1, {"bob": "taskd:refunded"}) as w:

            async def never(node: str, method: str, params: Any, go_on: Any) -> Any:
                if method == "task.abort":
                    return await go_on()
                await asyncio.sleep(60)

            w.intercept = never
            task = await w.bob.run(key="once", wait_s=0.0)
            await until(lambda: "task.order" in w.bob.registry.calls)
            with contextlib.suppress(DuxError):
                await w.bob.rpc_in.call_raw("task.cancel", {"id": task.id})
            await revive(w.bob)
            done = await w.bob.status(task.id, wait_s=20.0)
            assert done.state == "CANCELLED"
            assert w.paid == []
            assert w.bob.escrow.held() == 0
            w.assert_balanced(w.bob)

    asyncio.run(run())
