"""A client without asyncio and without models, for programs that must start fast (`dux-ctl`).

Imports the standard library and `duxcommon.errors` only (and `duxcommon.groups` where somebody is refused).
"""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DaemonDown, DuxError, MessageTooLarge, NotAllowed, RemoteError, TimedOut, from_rpc

MAX_REQUEST = 8 * 1024 * 1024
MAX_REPLY = 16 * 1024 * 1024
CONNECT_S = 5.0
BUSY_S = 0.02
FIRST_LOOK_S = 1.0
"""After so long without an answer `while_waiting` is called; then after twice as long, and so on."""


class BlockingClient:
    """One connection to one daemon; one call at a time. Raises the DuxError that the daemon answered with."""

    def __init__(self, path: Path, while_waiting: Callable[[], None] = lambda: None) -> None:
        """`while_waiting` is called now and then while an answer does not come; what it raises ends the call."""
        self.path = path
        self._while_waiting = while_waiting
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._next = 0

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        """The result of `method`; `timeout` in seconds.

        Raises DaemonDown, TimedOut, NotAllowed where this user may not connect, or what the daemon raised.
        """
        self._next += 1
        request = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params or {}}
        data = json.dumps(request, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(data) > MAX_REQUEST:
            raise MessageTooLarge(f"the request has {len(data)} bytes; a message may have {MAX_REQUEST}")
        connection = self._connect()
        try:
            connection.settimeout(timeout)
            connection.sendall(data)
            message = json.loads(self._reply(connection, timeout))
            if not isinstance(message, dict) or not ("error" in message or isinstance(message.get("result"), dict)):
                raise ValueError("no reply object")
        except TimeoutError:
            self.close()
            raise TimedOut(
                f"{method} on dux-{self.path.stem} did not answer within {timeout:.0f} s",
                details={"cause": "silent"},
            ) from None
        except OSError as error:
            self.close()
            raise DaemonDown(
                f"the connection to dux-{self.path.stem} broke: {error}", details={"cause": "closed"}
            ) from None
        except ValueError as error:
            self.close()
            raise RemoteError(f"dux-{self.path.stem} sent something that is no reply: {error}") from None
        except BaseException:
            # After Ctrl-C a late reply must not be taken for the next call's.
            self.close()
            raise
        if "error" in message:
            raise from_rpc(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._buffer.clear()

    def _connect(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                self._reach(connection)
            except OSError as error:
                connection.close()
                raise self._unreachable(error) from None
            self._socket = connection
        return self._socket

    def _unreachable(self, error: OSError) -> DuxError:
        """What a connection that did not come about means; `details.cause` names it for programs."""
        name = f"dux-{self.path.stem}"
        if isinstance(error, PermissionError):
            from .groups import remedy

            return NotAllowed(
                f"you may not connect to {name} at {self.path}", hint=remedy("duxnet"), details={"cause": "denied"}
            )
        causes = {FileNotFoundError: "missing", ConnectionRefusedError: "refused", BlockingIOError: "silent"}
        return DaemonDown(
            f"can't reach {name} at {self.path}: {error.strerror}",
            hint=f"Start it (`systemctl start {name}`), or see why it does not run: `journalctl -u {name} -b`.",
            details={"cause": causes.get(type(error), "unreachable")},
        )

    def _reach(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + CONNECT_S
        # Without a timeout, connect would wait for ever when the daemon's queue of new connections is full.
        connection.settimeout(0)
        while True:
            try:
                connection.connect(str(self.path))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BUSY_S)
            else:
                return

    def _reply(self, connection: socket.socket, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        pause = FIRST_LOOK_S
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left, pause))
            try:
                return self._line(connection)
            except TimeoutError:
                self._while_waiting()
                pause *= 2
        raise TimeoutError

    def _line(self, connection: socket.socket) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_REPLY:
                raise OSError("the reply is too large")
            data = connection.recv(1 << 16)
            if not data:
                raise OSError("it closed the connection")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
