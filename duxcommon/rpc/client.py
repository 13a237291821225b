"""Calls methods on a daemon's Unix socket: one connection, many calls at once, reconnects by itself."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import __version__
from ..errors import (
    DaemonDown,
    DuxError,
    MessageTooLarge,
    MethodNotFound,
    RemoteError,
    TimedOut,
    VersionMismatch,
    from_rpc,
)
from . import wire

M = TypeVar("M", bound=BaseModel)
CONNECT_S = 5.0
BUSY_S = 0.02

_Pending = dict[int, "asyncio.Future[dict[str, Any]]"]

Observer = Callable[[str, dict[str, Any], dict[str, Any]], None]
"""Called with method, params and the result of each successful call (contract tests check them)."""


class Client:
    """Raises the DuxError that the daemon answered with; DaemonDown when it can't be reached."""

    def __init__(self, path: Path, observer: Observer | None = None) -> None:
        self.path = path
        self._observer = observer
        self._writer: asyncio.StreamWriter | None = None
        self._pending: _Pending = {}
        """The calls of the present connection; an old one's are failed by its own reader."""
        self._next = 0
        self._connecting = asyncio.Lock()
        self._reader_task: asyncio.Task[None] | None = None

    async def call(
        self,
        method: str,
        reply: type[M],
        params: dict[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        peer: str | None = None,
    ) -> M:
        """Call `method` and check the answer against `reply`. `timeout` in seconds; `peer`: see `call_raw`.

        Raises VersionMismatch when the daemon does not know the method, or answers in another form.
        """
        try:
            result = await self.call_raw(method, params, timeout=timeout, peer=peer)
        except MethodNotFound as error:
            if "peer" in error.details:
                raise  # Another node's daemon said so.
            raise VersionMismatch(
                f"dux-{self.path.stem} does not know {method}, which this version ({__version__}) calls"
            ) from error
        try:
            return reply.model_validate(result)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise VersionMismatch(
                f"dux-{self.path.stem} answered {method} with something else than this version ({__version__}) "
                f"declares: {place + ': ' if place else ''}{first['msg']}"
            ) from error

    async def call_raw(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0, peer: str | None = None
    ) -> dict[str, Any]:
        """Like `call`, without the check. `peer` is the remote node that a gateway speaks for."""
        self._next += 1
        number = self._next
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}
        if peer is not None:
            request["peer"] = peer
        data = wire.dumps(request)
        if len(data) > wire.MAX_MESSAGE:
            raise MessageTooLarge(f"the request has {len(data)} bytes; a message may have {wire.MAX_MESSAGE}")
        writer = await self._connect()
        pending = self._pending
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        # A connection that breaks while the request is still being written fails both the writing and the future.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        pending[number] = future
        try:
            writer.write(data)
            async with asyncio.timeout(timeout):
                await writer.drain()
                message = await future
        except TimeoutError:
            raise TimedOut(f"{method} on dux-{self.path.stem} did not answer within {timeout:.0f} s") from None
        except OSError as error:
            raise DaemonDown(f"the connection to dux-{self.path.stem} broke: {error}") from error
        finally:
            pending.pop(number, None)
        if "error" in message:
            raise from_rpc(message["error"])
        result = message.get("result")
        if not isinstance(result, dict):
            raise RemoteError(f"{method} answered no object")
        if self._observer is not None:
            self._observer(method, params or {}, result)
        return result

    async def _connect(self) -> asyncio.StreamWriter:
        if self._writer is not None and not self._writer.is_closing():
            return self._writer
        async with self._connecting:
            if self._writer is not None and not self._writer.is_closing():
                return self._writer
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._open()
                    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=wire.MAX_MESSAGE)
            except (OSError, TimeoutError) as error:
                raise DaemonDown(
                    f"can't reach dux-{self.path.stem} at {self.path}: {error or 'no answer'}",
                    hint=f"Start it (`systemctl start dux-{self.path.stem}`) and look at `dux-ctl status`.",
                ) from error
            self._writer = writer
            self._pending = {}
            self._reader_task = asyncio.create_task(
                self._read(reader, writer, self._pending), name=f"client-{self.path.stem}"
            )
            return writer

    async def _open(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            while True:
                try:
                    connection.connect(str(self.path))
                except BlockingIOError:
                    # The daemon's queue of new connections is full; asyncio's own connect takes that for success.
                    await asyncio.sleep(BUSY_S)
                else:
                    return connection
        except BaseException:
            connection.close()
            raise

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pending: _Pending) -> None:
        failure: DuxError = DaemonDown(f"dux-{self.path.stem} closed the connection during a call")
        try:
            while line := await wire.read_line(reader):
                message = wire.loads(line)
                if not isinstance(message, dict):
                    continue
                if message.get("id") is None and "error" in message:
                    # Not about one call: why the daemon is about to close the connection.
                    failure = from_rpc(message["error"])
                future = pending.get(message.get("id", -1))
                if future is not None and not future.done():
                    future.set_result(message)
        except Exception as error:
            failure = DaemonDown(f"dux-{self.path.stem} went away during a call: {error}")
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None
        for future in pending.values():
            if not future.done():
                future.set_exception(failure)

    async def close(self) -> None:
        """End the connection; calls in flight fail with DaemonDown."""
        if self._writer is not None:
            self._writer.close()
        if self._reader_task is not None:
            self._reader_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader_task
        for future in self._pending.values():
            if not future.done():
                future.set_exception(DaemonDown("the client was closed"))
