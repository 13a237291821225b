"""Serves declared methods on a Unix socket; jsonrpcserver routes and calls them.

Around it stands what the library leaves out: size, depth and batch caps, authorization, rate limits, timeouts,
errors that never show internals, and draining on stop.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import jsonrpcserver
from jsonrpcserver.async_main import dispatch_to_serializable

from ..config import Access
from ..errors import (
    DuxError,
    Internal,
    InvalidRequest,
    MessageTooLarge,
    MethodNotFound,
    RateLimited,
    Stopping,
    TimedOut,
)
from . import wire
from .caller import Authorizer, Caller, of_socket
from .declare import Bound
from .limits import RateLimit

log = logging.getLogger("rpc")

MAX_CONNECTIONS = 512
MAX_CONNECTIONS_A_USER = 128
"""Of one local user, so that one program can't shut out the others; the node's own daemons may have all."""
MAX_IN_FLIGHT = 64
"""Requests of one connection that run at once; reading pauses beyond."""
SLOW_READER_S = 30.0
FIRST_BYTES_S = 600.0
FLUSH_S = 2.0
"""How long a stop waits for the last replies to be read, in seconds."""


@dataclass(frozen=True)
class CallContext:
    """What travels with a call beside its parameters."""

    caller: Caller


def _same(value: Any) -> Any:
    return value


class Server:
    """The methods of one daemon. `serve_connection` is the callback of asyncio's Unix server."""

    def __init__(self, methods: dict[str, Bound], access: Access, calls_per_second: int) -> None:
        self._bound = methods
        self._methods = {name: self._wrap(bound) for name, bound in methods.items()}
        self._limits = {n: RateLimit(*b.spec.limit) for n, b in methods.items() if b.spec.limit is not None}
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any] | None] = set()
        self._serving: set[asyncio.Task[Any] | None] = set()
        self._connections: dict[asyncio.StreamWriter, int] = {}
        """Open connections and the uid at their other end."""
        self.stopping = False
        self.calls = 0
        self.failures = 0
        """Calls that ended in an internal error."""
        self.configure(access, calls_per_second)

    def configure(self, access: Access, calls_per_second: int) -> None:
        """Take new settings (at start and on reload)."""
        self._authorizer = Authorizer(access)
        self._rate = RateLimit(calls_per_second, 1.0)

    # --- one call ---------------------------------------------------------------------------------------------

    def _wrap(self, bound: Bound) -> Callable[..., Awaitable[Any]]:
        spec = bound.spec

        # Positional only: a parameter of the method may have any name.
        async def call(context: CallContext, /, *args: Any, **kwargs: Any) -> Any:
            try:
                caller = context.caller
                self._authorizer.check(caller, spec.name, spec.access, peers=spec.peers, daemons=spec.daemons)
                self._rate.take(caller.key, "this daemon")
                if spec.name in self._limits:
                    self._limits[spec.name].take(caller.key, spec.name)
                if self.stopping:
                    raise Stopping("the daemon is shutting down")
                arguments = spec.parse(list(args) if args else kwargs)
                if spec.wants_caller:
                    arguments["caller"] = caller
                return jsonrpcserver.Success(await self._run(bound, arguments))
            except DuxError as error:
                rpc = error.to_rpc()
            except Exception as error:
                rpc = self._internal(spec.name, error)
            return jsonrpcserver.Error(rpc["code"], rpc["message"], rpc["data"])

        return call

    async def _run(self, bound: Bound, arguments: dict[str, Any]) -> dict[str, Any]:
        spec = bound.spec
        limit = spec.timeout_s + float(arguments.get("wait_s") or arguments.get("timeout_s") or 0.0)
        task = asyncio.current_task()
        if spec.waits and task is not None:
            self._waiting.add(task)
        try:
            async with asyncio.timeout(limit):
                reply = await bound.call(**arguments)
        except TimeoutError:
            raise TimedOut(f"{spec.name} did not finish within {limit:.0f} s") from None
        except asyncio.CancelledError:
            if self.stopping and spec.waits:
                raise Stopping("the daemon is shutting down") from None
            raise
        finally:
            self._waiting.discard(task)
        return reply.model_dump(mode="json")

    def _internal(self, name: str, error: BaseException) -> dict[str, Any]:
        from ..db import translate  # sqlite3 is loaded by daemons that have a database only

        known = translate(error)
        if isinstance(known, DuxError):
            return known.to_rpc()
        reference = secrets.token_hex(4)
        self.failures += 1
        log.error("internal error", exc_info=error, extra={"method": name, "reference": reference})
        return Internal(f"internal error, reference {reference}", details={"reference": reference}).to_rpc()

    # --- one message ------------------------------------------------------------------------------------------

    async def answer(self, data: bytes, caller: Caller) -> bytes | None:
        """The reply to one message (a request or a batch), or None for notifications."""
        try:
            message = wire.loads(data)
        except DuxError as error:
            return self._error(error, None)
        if not isinstance(message, list):
            reply = await self._answer_one(message, caller)
            return None if reply is None else self._encode(reply)
        if not 1 <= len(message) <= wire.MAX_BATCH:
            return self._error(
                InvalidRequest(f"a batch holds 1 to {wire.MAX_BATCH} requests, not {len(message)}"), None
            )
        # In order, one after the other: a batch of a deposit and a call that needs it must work.
        replies = [reply for item in message if (reply := await self._answer_one(item, caller)) is not None]
        return self._encode(replies) if replies else None

    async def _answer_one(self, request: Any, caller: Caller) -> dict[str, Any] | None:
        self.calls += 1
        identity = request.get("id") if isinstance(request, dict) else None
        if not isinstance(identity, str | int | None) or isinstance(identity, bool):
            identity = None
        try:
            self._check_shape(request)
            if "peer" in request:
                caller = self._authorizer.as_peer(caller, request["peer"])
                request = {key: value for key, value in request.items() if key != "peer"}
            if request["method"] not in self._methods:
                raise MethodNotFound(f"there is no method {request['method'][:80]!r} here")
        except DuxError as error:
            if isinstance(error, MethodNotFound) and "id" not in request:
                return None  # A notification is never answered.
            return {"jsonrpc": "2.0", "error": error.to_rpc(), "id": identity}
        reply = await dispatch_to_serializable(
            request, methods=self._methods, context=CallContext(caller), deserializer=_same, validator=_same
        )
        return cast("dict[str, Any] | None", reply)

    @staticmethod
    def _check_shape(request: Any) -> None:
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
            raise InvalidRequest("not a JSON-RPC 2.0 request object")
        unknown = request.keys() - {"jsonrpc", "id", "method", "params", "peer"}
        if unknown:
            raise InvalidRequest(f"unknown members: {', '.join(sorted(map(str, unknown)))[:100]}")
        if not isinstance(request.get("method"), str):
            raise InvalidRequest("'method' is missing or not text")
        if not isinstance(request.get("params", {}), dict | list):
            raise InvalidRequest("'params' is neither an object nor a list")
        if isinstance(request.get("id", 0), bool | float | dict | list):
            raise InvalidRequest("'id' must be text, an integer or null")

    def _error(self, error: DuxError, identity: Any) -> bytes:
        return wire.dumps({"jsonrpc": "2.0", "error": error.to_rpc(), "id": identity})

    def _encode(self, reply: Any) -> bytes:
        try:
            data = wire.dumps(reply)
        except ValueError as error:
            identity = reply.get("id") if isinstance(reply, dict) else None
            return wire.dumps({"jsonrpc": "2.0", "error": self._internal("reply", error), "id": identity})
        if len(data) > wire.MAX_MESSAGE:
            identity = reply.get("id") if isinstance(reply, dict) else None
            return self._error(MessageTooLarge("the reply is too large", hint="Ask for a smaller page."), identity)
        return data

    # --- one connection ---------------------------------------------------------------------------------------

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends; the first bytes decide between lines and HTTP."""
        caller = of_socket(writer.get_extra_info("socket"))
        try:
            self._admit(caller)
        except DuxError as error:
            writer.write(self._error(error, None))
            writer.close()
            return
        self._connections[writer] = caller.uid
        task = asyncio.current_task()
        self._serving.add(task)
        slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        try:
            line = await asyncio.wait_for(wire.read_line(reader), FIRST_BYTES_S)
            if line.startswith(wire.HTTP_METHODS):
                await self._serve_http(reader, writer, line, caller)
                return
            while line:
                await slots.acquire()
                task = asyncio.create_task(self._serve_line(line, caller, writer, slots))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
                line = await wire.read_line(reader)
            # The sender has finished; what it asked for is still answered.
            for _ in range(MAX_IN_FLIGHT):
                await slots.acquire()
        except DuxError as error:
            writer.write(self._error(error, None))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except asyncio.CancelledError:
            # `drain` ends what is left; asyncio would log a connection that ends as cancelled.
            if not self.stopping:
                raise
        finally:
            del self._connections[writer]
            self._serving.discard(task)
            writer.close()

    def _admit(self, caller: Caller) -> None:
        """Raises Stopping or RateLimited for a connection that can't be served now."""
        if self.stopping:
            raise Stopping("the daemon is shutting down")
        if len(self._connections) >= MAX_CONNECTIONS:
            raise RateLimited(f"{MAX_CONNECTIONS} connections are open", hint="Close connections that are not used.")
        if not self._authorizer.trusted(caller):
            own = sum(uid == caller.uid for uid in self._connections.values())
            if own >= MAX_CONNECTIONS_A_USER:
                raise RateLimited(f"user {caller.name} has {own} connections open", hint="Close some of them.")

    async def _serve_http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, caller: Caller
    ) -> None:
        try:
            body = await asyncio.wait_for(wire.read_http(reader, line), SLOW_READER_S)
            task = asyncio.create_task(self.answer(body, caller))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            reply = await task or b""
        except DuxError as error:
            reply = self._error(error, None)
        except TimeoutError:
            reply = self._error(TimedOut(f"the request was not complete after {SLOW_READER_S:.0f} s"), None)
        writer.write(wire.http_reply(reply))
        try:
            await asyncio.wait_for(writer.drain(), SLOW_READER_S)
        except TimeoutError:
            writer.transport.abort()

    async def _serve_line(
        self, line: bytes, caller: Caller, writer: asyncio.StreamWriter, slots: asyncio.Semaphore
    ) -> None:
        try:
            reply = await self.answer(line, caller)
            if reply is not None and not writer.is_closing():
                writer.write(reply)
                await asyncio.wait_for(writer.drain(), SLOW_READER_S)
        except (OSError, TimeoutError):
            # Not close(): that would wait for ever to get rid of what the other side does not read.
            writer.transport.abort()
        finally:
            slots.release()

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, cut long polls short, let the others finish within `seconds`, then end them."""
        self.stopping = True
        for waiting in filter(None, list(self._waiting)):
            waiting.cancel()
        deadline = time.monotonic() + seconds
        while self._in_flight and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(list(self._in_flight), timeout=left)
        for task in list(self._in_flight):
            task.cancel()
        for writer in list(self._connections):
            writer.close()
        serving = [task for task in self._serving if task is not None]
        if serving:
            # They end once their last replies are out.
            await asyncio.wait(serving, timeout=FLUSH_S)
        for writer in list(self._connections):
            writer.transport.abort()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
