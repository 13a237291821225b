"""Nodes with a real dux-flopd and dux-escrowd each on one chain, and a wire between them that stands in for registryd.

The wire carries `peer.call` from one escrowd to the other as the gateways do, and signs records with the node's key.
Tests can cut it, lose replies on it, or repeat calls.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flopd_kit import Flopd, TestChain, until
from support.process import DaemonProcess
from support.schema import CheckedBlockingClient

from duxcommon.api.common import SignedRecord
from duxcommon.api.registryd import PeerReply
from duxcommon.coin import fund as coin_fund
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import pubkey_of
from duxcommon.config import Access
from duxcommon.errors import PeerUnreachable, UnknownNode
from duxcommon.identity import Identity
from duxcommon.money import COIN
from duxcommon.network import Member, NetworkDefinition, dump_network
from duxcommon.records import sign_record
from duxcommon.rpc import Caller, Client, Server, collect, method

ARBITER = b"\x0a" * 32
GUARDIANS = [bytes([n]) * 32 for n in (1, 2, 3)]
LOCK_BLOCKS = 200
CLOSE_MARGIN = 20


def network_on(chain: TestChain) -> NetworkDefinition:
    """A network of three guardians and one arbiter on this chain."""
    name = chain.core.params.name
    ids = [Identity.generate() for _ in GUARDIANS]
    members = [Member(node=i.node_id, pubkey=pubkey_of(k).hex()) for i, k in zip(ids, GUARDIANS, strict=True)]
    network = NetworkDefinition(
        name="testnet",
        chain=name,  # type: ignore[arg-type]
        genesis=CHAINS[name].genesis,
        birth_height=0,
        bootstrap=[],
        guardians=members,
        guardians_m=2,
        arbiters=[Member(node=Identity.generate().node_id, pubkey=pubkey_of(ARBITER).hex())],
    )
    for identity in ids:
        network = network.signed_by(identity)
    return network


class _Door:
    """What one node's escrowd finds behind `registryd.sock`."""

    def __init__(self, wire: "Wire", identity: Identity, network: str) -> None:
        self._wire = wire
        self._identity = identity
        self._network = network

    @method("peer.call", access="daemon")
    async def call(self, node: str, method: str, params: dict[str, Any], timeout_s: float, caller: Caller) -> PeerReply:
        """Carry a call to another node."""
        return PeerReply(result=await self._wire.carry(self._identity.node_id, node, method, params, timeout_s))

    @method("node.sign", access="daemon")
    async def sign(self, kind: str, body: dict[str, Any], caller: Caller) -> SignedRecord:
        """Sign a record."""
        return sign_record(self._identity, kind, self._network, time.time_ns() // 1_000_000, body)


class Wire:
    """All nodes' stand-ins for registryd, in one thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.cut: set[str] = set()
        """Nodes that nobody reaches."""
        self.lose: Callable[[str], bool] = lambda method: False
        """Whether the reply of this call gets lost after it was carried out."""
        self.repeat = 1
        """How often each call arrives."""
        self._clients: dict[str, Client] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def join(self, node: "Node") -> None:
        """Serve this node's `registryd.sock` and reach its escrowd."""
        self._run(self._join(node))

    async def _join(self, node: "Node") -> None:
        server = Server(collect([_Door(self, node.identity, node.network.id)]), Access(), 100_000)
        await asyncio.start_unix_server(server.serve_connection, path=str(node.folder / "registryd.sock"))
        self._clients[node.id] = Client(node.folder / "escrowd.sock")

    async def carry(self, sender: str, node: str, method: str, params: dict[str, Any], timeout_s: float) -> Any:
        if node not in self._clients:
            raise UnknownNode(f"node {node[:16]} is not known")
        if {sender, node} & self.cut:
            raise PeerUnreachable(f"node {node[:16]} does not answer")
        self.calls.append((method, params))
        for _ in range(self.repeat):
            result = await self._clients[node].call_raw(method, params, timeout=timeout_s, peer=sender)
        if self.lose(method):
            raise PeerUnreachable("the connection broke")
        return result

    def as_peer(self, sender: str, node: str, method: str, params: dict[str, Any]) -> Any:
        """A call that a hostile node makes by hand."""
        return self._run(self._clients[node].call_raw(method, params, peer=sender))

    def close(self) -> None:
        async def end() -> None:
            for client in self._clients.values():
                await client.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


class Node:
    """A wallet and an escrowd."""

    def __init__(self, folder: Path, chain: TestChain, network: NetworkDefinition, wire: Wire, **settings: Any) -> None:
        folder.mkdir()
        self.folder = folder
        self.name = folder.name
        self.chain = chain
        self.network = network
        self.identity = Identity.generate()
        self.id = self.identity.node_id
        self.wire = wire
        self.settings = {"lock_blocks": LOCK_BLOCKS, "close_margin": CLOSE_MARGIN, **settings}
        self.flopd = Flopd(folder, chain)
        (folder / "network.yaml").write_text(dump_network(network))
        self.flopd.start()
        self.escrowd = DaemonProcess(folder, "escrowd", self.settings)
        self.escrowd.start()
        self._client: CheckedBlockingClient | None = None
        wire.join(self)

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 150.0) -> dict[str, Any]:
        """A call to this node's escrowd, checked against what it declares."""
        if self._client is None:
            self._client = CheckedBlockingClient(self.folder / "escrowd.sock")
        return self._client.call(method, params, timeout=timeout)

    def restart(self, *, kill: bool = False, env: dict[str, str] | None = None) -> None:
        """Stop escrowd and start it again."""
        if self._client is not None:
            self._client.close()
            self._client = None
        process = self.escrowd.process
        assert process is not None
        if process.poll() is None:
            process.kill() if kill else process.terminate()
        process.wait(30)
        self.escrowd = DaemonProcess(self.folder, "escrowd", self.settings, env=env)
        self.escrowd.start()

    def fill(self, koinu: int) -> None:
        self.flopd.fill(koinu)

    def balance(self) -> int:
        """Everything that the wallet has, with or without a confirmation."""
        found = self.flopd.balance()
        total: int = found["confirmed"] + found["pending"]
        return total

    def channels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("channel.list")["channels"]
        return found

    def channel(self, channel_id: str) -> dict[str, Any]:
        return self.call("channel.show", {"id": channel_id})

    def wait_state(self, channel_id: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        """The channel once it is in one of these states."""
        seen: list[str] = []

        def look() -> dict[str, Any] | None:
            row = self.channel(channel_id)
            seen.append(row["state"])
            return row if row["state"] in states else None

        try:
            found = until(look, f"state {states}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.name} saw {seen[-1]}") from None
        assert found is not None
        return found

    def audit(self) -> dict[str, Any]:
        """`books.audit`; fails on any difference."""
        report = self.call("books.audit")
        wrong = [check for check in report["checks"] if check["difference"]]
        assert report["ok"], wrong
        assert not wrong, wrong
        return report

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        self.escrowd.stop()
        self.flopd.stop()


class Market:
    """A buyer and a provider on one chain."""

    def __init__(
        self,
        folder: Path,
        chain: TestChain,
        *,
        buyer: dict[str, Any] | None = None,
        provider: dict[str, Any] | None = None,
    ) -> None:
        self.chain = chain
        self.network = network_on(chain)
        self.wire = Wire()
        self.provider = Node(folder / "alice", chain, self.network, self.wire, **(provider or {}))
        self.buyer = Node(folder / "bob", chain, self.network, self.wire, **(buyer or {}))
        self.fund_script = coin_fund.fund_script(self.network)

    def mine(self, blocks: int = 1) -> None:
        """Blocks, and both nodes' flopd have seen them."""
        self.chain.mine(blocks)
        self.buyer.flopd.at_tip()
        self.provider.flopd.at_tip()

    def open(self, koinu: int = 20 * COIN, *, key: str = "open", blocks: int = 6) -> str:
        """An open channel on which that much can be spent; its id."""
        if self.buyer.flopd.balance()["spendable"] < koinu + COIN // 10:
            self.buyer.fill(koinu + COIN)
        channel: str = self.buyer.call("channel.open", {"provider": self.provider.id, "amount": koinu, "key": key})[
            "id"
        ]
        self.mine(blocks)
        self.buyer.wait_state(channel, "OPEN")
        self.provider.wait_state(channel, "OPEN")
        return channel

    def hold(self, price: int, task: str, **params: Any) -> dict[str, Any]:
        return self.buyer.call(
            "payment.hold",
            {"provider": self.provider.id, "amount": price, "key": f"task/{task}", "task": task, **params},
        )

    def accept(self, hold: dict[str, Any], **params: Any) -> dict[str, Any]:
        """What the provider's taskd asks when the order of this hold arrives."""
        payment = hold["payment"]
        return self.provider.call(
            "payment.accept",
            {
                "buyer": self.buyer.id,
                "channel": payment["channel"],
                "price": payment["amount"],
                "task": payment["task"],
                "order": payment["task"] * 2,
                "state": hold["state"],
                **params,
            },
        )

    def done(self, hold: dict[str, Any]) -> dict[str, Any]:
        payment = hold["payment"]
        return self.provider.call(
            "payment.done", {"channel": payment["channel"], "task": payment["task"], "receipt": payment["task"] * 2}
        )

    def release(self, hold: dict[str, Any]) -> dict[str, Any]:
        payment = hold["payment"]
        return self.buyer.call(
            "payment.release", {"id": payment["id"], "receipt": payment["task"] * 2, "key": f"pay/{payment['task']}"}
        )

    def paid_call(self, price: int, task: str, **params: Any) -> dict[str, Any]:
        """One whole call; the payment."""
        hold = self.hold(price, task, **params)
        self.accept(hold)
        self.done(hold)
        return self.release(hold)

    def wait_acked(self, channel: str) -> dict[str, Any]:
        """The buyer's channel once the provider has its newest state."""

        def look() -> dict[str, Any] | None:
            row = self.buyer.channel(channel)
            return row if row["acked_seq"] == row["seq"] else None

        found = until(look, "acknowledgement")
        assert found is not None
        return found

    def close(self) -> None:
        self.buyer.stop()
        self.provider.stop()
        self.wire.close()


def task_id(number: int) -> str:
    return f"{number:032x}"
