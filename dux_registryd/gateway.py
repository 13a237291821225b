"""The door between other nodes and this node's daemons.

Inside: a peer's call goes to the daemon that serves the method's namespace, if that daemon's own `rpc.discover`
declares the method for peers; the request carries the peer's node id, which TLS has proved. On the way back the
reply's `reply_record` field, if the method declares one, is signed with the node's key.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from duxcommon import failpoint
from duxcommon.errors import DaemonDown, InvalidParams, MethodNotForPeers, RemoteError
from duxcommon.rpc import Caller, Client

from .signing import Signer
from .transport import Transport

log = logging.getLogger("gateway")

NAMESPACES = {
    "channel": "escrowd",
    "payment": "escrowd",
    "dispute": "escrowd",
    "task": "taskd",
    "provider": "taskd",
    "fund": "airdropd",
    "airdrop": "airdropd",
    "network": "airdropd",
    "param": "airdropd",
    "proposal": "airdropd",
    "node": "registryd",
    "app": "registryd",
    "review": "registryd",
}
"""Daemon that serves a namespace. flopd is not among them: coins are never a peer's business."""

REFRESH_S = 300.0
RETRY_S = 2.0
"""A method that isn't known is looked for again after so long: its daemon may have been updated."""
CALLS_PER_CONNECTION = 32
"""A daemon works on 64 requests of one connection at once; long polls of peers must not fill that."""
MAX_CONNECTIONS = 16


@dataclass
class _Service:
    """One daemon behind the gateway: connections to it, and its methods for peers (name → field to sign)."""

    name: str
    connect: Callable[[], Client]
    clients: list[Client] = field(default_factory=list)
    load: list[int] = field(default_factory=list)
    methods: dict[str, str | None] = field(default_factory=dict)
    asked: float = -REFRESH_S
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def call(self, method: str, params: dict[str, Any], timeout_s: float, peer: str | None) -> dict[str, Any]:
        index = self._least()
        self.load[index] += 1
        try:
            return await self.clients[index].call_raw(method, params, timeout=timeout_s, peer=peer)
        finally:
            self.load[index] -= 1

    def _least(self) -> int:
        index = min(range(len(self.load)), key=self.load.__getitem__, default=-1)
        if (index < 0 or self.load[index] >= CALLS_PER_CONNECTION) and len(self.clients) < MAX_CONNECTIONS:
            self.clients.append(self.connect())
            self.load.append(0)
            return len(self.clients) - 1
        return index

    async def learn(self, method: str) -> None:
        """Ask the daemon for its methods when ours are old, or when `method` isn't among them."""
        age = time.monotonic() - self.asked
        if age < RETRY_S or (method in self.methods and age < REFRESH_S):
            return
        async with self.lock:
            if time.monotonic() - self.asked < RETRY_S:
                return
            document = await self.call("rpc.discover", {}, 10.0, None)
            self.methods = {
                item["name"]: item.get("x-reply-record") for item in document["methods"] if item.get("x-peers")
            }
            self.asked = time.monotonic()


class Gateway:
    """Serves calls of peers and makes calls to them."""

    def __init__(self, connect: Callable[[str], Client], signer: Signer) -> None:
        self._signer = signer
        self._services = {name: _Service(name, partial(connect, name)) for name in sorted(set(NAMESPACES.values()))}

    async def serve(self, node: str, method: str, params: dict[str, Any], wait_s: float) -> dict[str, Any]:
        """The result of a peer's call. Raises MethodNotForPeers, DaemonDown or what the daemon answered."""
        name = NAMESPACES.get(method.partition(".")[0])
        if name is None:
            raise MethodNotForPeers(f"there is no method {method[:80]!r} for peers here")
        service = self._services[name]
        try:
            await service.learn(method)
            if method not in service.methods:
                raise MethodNotForPeers(f"there is no method {method[:80]!r} for peers here")
            failpoint.hit("registryd:call-arrived")
            result = await service.call(method, params, wait_s, node)
            failpoint.hit("registryd:call-served")
        except DaemonDown:
            # The local message names paths that are no business of a peer's.
            raise DaemonDown(
                f"dux-{name} of this node is not running", hint="Try again later, or choose another node."
            ) from None
        record = service.methods[method]
        if record is not None and result.get(record) is not None:
            result = {**result, record: self._signed(record, result[record])}
        return result

    def _signed(self, kind: str, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise RemoteError(f"the daemon's {kind} is not an object")
        signed: dict[str, Any] = self._signer.sign(kind, self._signer.next_seq(), body).model_dump()
        return signed

    async def call(
        self,
        transport: Transport,
        node: str,
        method: str,
        params: dict[str, Any],
        *,
        caller: Caller,
        timeout_s: float,
        sign: str | None,
    ) -> dict[str, Any]:
        """Call a peer; with `sign`, `params[sign]` is a body that is signed as a record of that kind first."""
        if sign is not None:
            self._signer.check(sign, caller)
            body = params.get(sign)
            if not isinstance(body, dict):
                raise InvalidParams(f"params[{sign!r}] must be the body of the record to sign")
            params = {**params, sign: self._signed(sign, body)}
        result = await transport.call(node, method, params, timeout_s)
        failpoint.hit("registryd:call-answered")
        return result

    async def close(self) -> None:
        """End the connections to the daemons."""
        for service in self._services.values():
            for client in service.clients:
                await client.close()
