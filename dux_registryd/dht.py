"""OpenDHT in an asyncio program: starts after the fork, and hands what its threads hear over to the loop.

The binding keeps Python's lock while it waits for the engine's mutex, and the engine keeps its mutex while it calls
back. Calls that take the mutex (`join`, `getBound`, `getRoutingTablesLog`, `registerType`, and destroying the
runner, which joins) are therefore made before the first callback can come, or never: otherwise both wait for each
other, and the whole process stands still. `put`, `listen` and `cancelPut` only append to a queue.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import opendht

from duxcommon.errors import EndpointDown

EXPIRY_S = 120
"""A value that nobody puts again lives so long. All nodes of all networks must agree on it."""
USER_DATA = 0
"""The engine's type of values that are just bytes; its own expiry would be ten minutes."""
PUT_S = 5.0

Heard = Callable[[str, bytes, bool], None]
"""Key, bytes, whether the value has expired rather than arrived."""

_LEFT: list[Any] = []
"""Runners of the past: see above why they may not be destroyed."""


class Dht:
    """Puts and listens under text keys of one network. A process that used it must end by `os._exit`."""

    def __init__(self, network: str, heard: Heard) -> None:
        self.port = 0
        """UDP port in use."""
        self.nodes = 0
        """Other nodes that stored what was put last."""
        self._network = network
        self._heard = heard
        self._runner: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: set[str] = set()

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
        self.port = int(runner.getBound().getPort())
        self._runner = runner
        for entry in bootstrap:
            host, _, number = entry.rpartition(":")
            runner.bootstrap(host.strip("[]"), number)

    async def put(self, key: str, sealed: bytes, identity: int) -> tuple[bool, Any]:
        """Put a value and keep putting it until `cancel`. Whether some node has stored it yet, and what to cancel."""
        assert self._loop is not None
        done: asyncio.Future[bool] = self._loop.create_future()
        value = opendht.Value(sealed)
        value.id = identity

        def finished(ok: bool, nodes: Any) -> None:
            self._hand_over(self._stored, done, bool(ok), len(nodes))

        self._runner.put(opendht.InfoHash.get(self._name(key)), value, finished, True)
        try:
            async with asyncio.timeout(PUT_S):
                return await done, value
        except TimeoutError:
            return False, value

    def _stored(self, done: "asyncio.Future[bool]", ok: bool, nodes: int) -> None:
        self.nodes = nodes if ok else 0
        if not done.done():
            done.set_result(ok)

    def cancel(self, key: str, value: Any) -> None:
        """No longer put `value` again; it fades away unless another node puts it."""
        self._runner.cancelPut(opendht.InfoHash.get(self._name(key)), value)

    def listen(self, key: str) -> None:
        """Hear of every value under `key` from now on."""
        if key in self._listening:
            return
        self._listening.add(key)

        def heard(value: Any, expired: bool) -> bool:
            if self._runner is None:
                return False
            self._hand_over(self._heard, key, bytes(value.data), bool(expired))
            return True

        self._runner.listen(opendht.InfoHash.get(self._name(key)), heard)

    def _name(self, key: str) -> str:
        # The engine sees hashes of these names only; with the network's id in them nobody can guess them.
        return f"dux/{self._network}/{key}"

    def _hand_over(self, target: Callable[..., None], *args: Any) -> None:
        # Between the check and the call the loop may have ended: there is nobody left to tell then.
        if self._runner is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(target, *args)

    def stop(self) -> None:
        """Hear and put nothing more. The engine's thread ends with the process."""
        if self._runner is not None:
            _LEFT.append(self._runner)
            self._runner = None


def _check_free(address: str, port: int) -> None:
    # The engine ends the whole process when it can't bind.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            raise EndpointDown(f"can't open UDP {address}:{port} for the directory: {error.strerror}") from None
