"""OpenDHT in an asyncio program: starts after the fork, and hands what its threads hear over to the loop.

The engine runs our callbacks while it holds its own lock, and its Python binding does not let go of the interpreter
while it waits for that lock. So once something is listened for, nothing here may call what takes the lock: `join`,
`getRoutingTablesLog`, `getBound`, `registerType` would now and then stop the whole process (seen with 4.4.2). `put`,
`listen`, `cancelPut` and `shutdown` only queue their work.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import opendht

from duxcommon.errors import EndpointDown

log = logging.getLogger("dht")

EXPIRY_S = 120
"""A value that nobody puts again lives so long. All nodes of all networks must agree on it."""
USER_DATA = 0
"""The engine's type of values that are just bytes; its own expiry would be ten minutes."""
PUT_S = 5.0
STOP_S = 2.0

_STOPPED: list[Any] = []
"""Engines that were shut down. They are never destroyed, because their destructor joins; see the top."""

Heard = Callable[[str, bytes, bool], None]
"""Key, bytes, whether the value has expired rather than arrived."""


class Dht:
    """Puts and listens under text keys of one network."""

    def __init__(self, network: str, heard: Heard) -> None:
        self._network = network
        self._heard = heard
        self._runner: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: dict[str, Any] = {}
        self._stopped = False
        self._port = 0
        self._stored_by = 0

    def start(self, address: str, port: int, bootstrap: Sequence[str], *, lan: bool) -> None:
        """Open the socket and join. Raises EndpointDown."""
        self._loop = asyncio.get_running_loop()
        config = opendht.DhtConfig()
        # The number keeps strangers apart early; what counts is the seal.
        config.setNetwork(int(self._network[:8], 16) or 1)
        if lan:
            config.setPeerDiscovery(True, True)
        _check_free(address, port)
        runner = opendht.DhtRunner()
        runner.run(port=port, ipv4=address, config=config)
        runner.registerType(opendht.ValueType(USER_DATA, "record", timedelta(seconds=EXPIRY_S)))
        self._runner = runner
        self._port = int(runner.getBound().getPort())
        for entry in bootstrap:
            host, _, number = entry.rpartition(":")
            runner.bootstrap(host.strip("[]"), number)

    @property
    def port(self) -> int:
        """The UDP port in use."""
        return self._port

    def nodes(self) -> int:
        """Other nodes that stored what this one put last."""
        return self._stored_by

    async def put(self, key: str, sealed: bytes, identity: int) -> tuple[bool, Any]:
        """Put a value and keep putting it until `cancel`. Whether some node has stored it yet, and what to cancel."""
        assert self._loop is not None
        done: asyncio.Future[bool] = self._loop.create_future()
        value = opendht.Value(sealed)
        value.id = identity

        def finished(ok: bool, nodes: Any) -> None:
            self._stored_by = len(nodes) if ok else 0
            self._hand_over(_resolve, done, bool(ok))

        self._runner.put(opendht.InfoHash.get(self._name(key)), value, finished, True)
        try:
            return await asyncio.wait_for(asyncio.shield(done), PUT_S), value
        except TimeoutError:
            return False, value

    def cancel(self, key: str, value: Any) -> None:
        """No longer put `value` again; it fades away unless another node puts it."""
        self._runner.cancelPut(opendht.InfoHash.get(self._name(key)), value)

    def listen(self, key: str) -> None:
        """Hear of every value under `key` from now on."""
        if key in self._listening:
            return

        def heard(value: Any, expired: bool) -> bool:
            if self._stopped:
                return False
            self._hand_over(self._heard, key, bytes(value.data), bool(expired))
            return True

        self._listening[key] = self._runner.listen(opendht.InfoHash.get(self._name(key)), heard)

    def _name(self, key: str) -> str:
        # The engine sees hashes of these names only; with the network's id in them nobody can guess them.
        return f"dux/{self._network}/{key}"

    def _hand_over(self, target: Callable[..., None], *args: Any) -> None:
        # Between the check and the call the loop may have ended: there is nobody left to tell then.
        if not self._stopped and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(target, *args)

    async def stop(self) -> None:
        """Leave; values of ours that others don't put fade away."""
        if self._runner is None:
            return
        self._stopped = True
        runner, self._runner = self._runner, None
        loop = asyncio.get_running_loop()
        left: asyncio.Future[bool] = loop.create_future()
        runner.shutdown(lambda: loop.call_soon_threadsafe(_resolve, left, True))
        try:
            await asyncio.wait_for(left, STOP_S)
        except TimeoutError:
            log.info("the directory's engine still had something to send when it was stopped")
        _STOPPED.append(runner)


def _check_free(address: str, port: int) -> None:
    # The engine ends the whole process when it can't bind.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            raise EndpointDown(f"can't open UDP {address}:{port} for the directory: {error.strerror}") from None


def _resolve(future: "asyncio.Future[bool]", value: bool) -> None:
    if not future.done():
        future.set_result(value)
