"""JSON-RPC over HTTP as Core serves it: basic auth, 1.0 replies, batches, /wallet/<name>.

Whoever can read the cookie may do everything, on this machine. Users may do what `users` says, also by TLS.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import inspect
import logging
import os
import re
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http import HttpProcessingError

from . import errors, jsonio, rpc_chain, rpc_devchain, rpc_history, rpc_tx, rpc_wallet
from .errors import RpcError
from .faults import Faults, Mode
from .listener import MAX_BATCH, SILENCE_S, Connection, Listener
from .listener import MAX_REQUEST as MAX_GUEST_REQUEST
from .local import LocalDoor
from .node import Node
from .registry import COMMANDS, Call, Dialect, bind, lookup
from .users import Guest, Users
from .wallets import NoRoom

log = logging.getLogger("devchain")

_IDLE_S = 30.0  # Core closes a connection that is idle for so long
_MAX_REQUEST = 32 * 1024 * 1024
_HANDLER_MODULES = (rpc_chain, rpc_devchain, rpc_history, rpc_tx, rpc_wallet)  # imported for their declarations
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]*)", re.IGNORECASE)
_STATUS = {errors.INVALID_REQUEST: 400, errors.METHOD_NOT_FOUND: 404}


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


class _BadHttp(logging.Filter):
    """Takes what is no HTTP for what it is, a client's fault: aiohttp logs it as an error with a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        wrong = record.exc_info[1] if record.exc_info else None
        if not isinstance(wrong, HttpProcessingError):
            return True
        log.info("a request that is no HTTP: %s", type(wrong).__name__)
        return False


class _Forbidden(Exception):
    """A user may not make this call; told by HTTP's 403, as a Core with `rpcwhitelist` does."""


class Server:
    """The HTTP side of one node."""

    def __init__(self, node: Node, dialect: Dialect, cookie: Path, users: Users | None = None) -> None:
        self.node = node
        self.dialect = dialect
        self.faults = Faults()
        self.cookie = cookie
        self.users = users or Users({})
        self.mempool_grew = asyncio.Event()
        self._secret = f"__cookie__:{secrets.token_hex(32)}"
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._local: LocalDoor | None = None
        self._listener: Listener | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen and write the cookie; the port."""
        app = web.Application(client_max_size=_MAX_REQUEST)
        app.router.add_route("*", "/", self._handle)
        app.router.add_route("*", "/wallet/{name:.*}", self._handle)
        logging.getLogger("aiohttp.server").addFilter(_BadHttp())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE_S)
        await self._runner.setup()
        assert self._runner.server is not None
        local = LocalDoor(self._runner.server, self._logs_in)
        opened = local.open(host, port)
        self._local = local
        write_private(self.cookie, self._secret)
        return opened

    def open_tls(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Serve users on other machines; the port. Raises OSError. `start` comes first."""
        assert self._runner is not None
        assert self._runner.server is not None
        listener = Listener(self._runner.server, context)
        opened = listener.open(host, port)
        self._listener = listener
        return opened

    def renew_tls(self, context: ssl.SSLContext) -> None:
        """Show another certificate from now on."""
        if self._listener is not None:
            self._listener.renew(context)

    async def close_tls(self) -> None:
        """Serve this machine alone from now on."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def close(self) -> None:
        self.node.stopping = True
        self._closing.set()
        await self.close_tls()
        if self._local is not None:
            await self._local.shut()
        if self._runner is not None:
            # Whoever waits for an answer gets it, within a second.
            await self._runner.cleanup()
        if self._local is not None:
            await self._local.close()
        with contextlib.suppress(FileNotFoundError):
            self.cookie.unlink()

    # --- one HTTP request

    def _logs_in(self, head: bytes) -> bool:
        """Whether a request's head, which is not parsed yet, holds a good login for this machine's door."""
        found = _AUTHORIZATION.search(head)
        credentials = _credentials(found[1].decode("latin-1")) if found is not None else b""
        return hmac.compare_digest(credentials, self._secret.encode()) or self.users.login(credentials) is not None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        remote = self._listener.connection(request.transport) if self._listener is not None else None
        local = self._local.connection(request.transport) if self._local is not None else None
        with _in_use(remote or local, request):
            return await self._answer(request, remote, local)

    async def _answer(
        self, request: web.Request, remote: Connection | None, local: Connection | None
    ) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=405, text="JSONRPC server handles only POST requests")
        credentials = _credentials(request.headers.get("Authorization", ""))
        # The cookie opens everything: it stays on this machine.
        owner = remote is None and hmac.compare_digest(credentials, self._secret.encode())
        guest = None if owner else self.users.login(credentials)
        if not owner and guest is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="jsonrpc"'})
        if local is not None and self._local is not None:
            self._local.knows(local, guest.name if guest is not None else "")
        name = request.match_info.get("name")
        wallet = None if name is None else unquote(name)
        if guest is not None and not guest.may_use(wallet):
            return web.Response(status=403, text="name a wallet: /wallet/ and 32 hex digits of your own choice")
        if guest is not None and (request.content_length or MAX_GUEST_REQUEST + 1) > MAX_GUEST_REQUEST:
            return web.Response(status=413, text=f"at most {MAX_GUEST_REQUEST} bytes, of a length told beforehand")
        try:
            async with asyncio.timeout(SILENCE_S if guest is not None else None):
                text = await request.read()
        except (ConnectionError, TimeoutError, web.RequestPayloadError) as broken:
            log.info("a request broke off: %s", broken or "it took too long")
            if request.transport is not None and isinstance(broken, TimeoutError):
                request.transport.abort()
            return web.Response(status=400)
        try:
            body = jsonio.loads(text)
        except ValueError:
            return _reply(None, RpcError(errors.PARSE, "Parse error"), None)
        if guest is not None and isinstance(body, list) and len(body) > MAX_BATCH:
            return web.Response(status=413, text=f"at most {MAX_BATCH} calls in a batch")
        if remote is not None and self._listener is not None:
            await self._listener.throttle(remote.address, len(body) if isinstance(body, list) else 1)
        try:
            return await self._carry_out(request, body, wallet, guest)
        except _Forbidden as error:
            return web.Response(status=403, text=str(error))

    async def _carry_out(
        self, request: web.Request, body: Any, wallet: str | None, guest: Guest | None
    ) -> web.StreamResponse:
        if isinstance(body, list):
            parts = []
            for item in body:
                parts.append(await self._one(item, wallet, guest))
                await asyncio.sleep(0)  # a long batch lets others in between
            if any(mode != "none" for *_, mode in parts):
                return await self._misbehave(request, next(mode for *_, mode in parts if mode != "none"))
            texts = [_text(result, error, request_id) for result, error, request_id, _ in parts]
            return _json(200, "[" + ",".join(texts) + "]\n")
        result, error, request_id, mode = await self._one(body, wallet, guest)
        if mode != "none":
            return await self._misbehave(request, mode)
        return _reply(result, error, request_id)

    async def _misbehave(self, request: web.Request, mode: Mode) -> web.StreamResponse:
        if mode == "refuse":
            return web.Response(status=503, text="Work queue depth exceeded")
        if mode == "hang":
            await self._closing.wait()
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    async def _one(self, body: Any, wallet: str | None, guest: Guest | None) -> tuple[Any, RpcError | None, Any, Mode]:
        """(result, error, id, fault) of one call."""
        request_id = body.get("id") if isinstance(body, dict) else None
        mode: Mode = "none"
        try:
            method, params = _parse(body)
            mode = self.faults.hit(method)
            if mode in ("refuse", "hang"):
                return None, None, request_id, mode
            return await self._call(method, params, wallet, guest), None, request_id, mode
        except RpcError as error:
            return None, error, request_id, mode
        except _Forbidden:
            raise
        except Exception:
            log.exception("a call failed inside the chain")
            return None, RpcError(errors.MISC, "internal error, see the chain's log"), request_id, mode

    async def _call(self, method: str, params: Any, wallet: str | None, guest: Guest | None) -> Any:
        called = lookup(self.dialect, method)
        if guest is not None and not guest.may_call(method):
            raise _Forbidden(f"users may not call {method}")
        arguments = bind(called, params)
        call = Call(self.node, self.faults, self.dialect, wallet, guest)
        waiting = len(self.node.mempool)
        try:
            if inspect.iscoroutinefunction(called.handler):
                return await called.handler(call, *arguments)
            with self._rationed(guest), self.node.change():
                return called.handler(call, *arguments)
        finally:
            if len(self.node.mempool) > waiting:
                self.mempool_grew.set()

    @contextlib.contextmanager
    def _rationed(self, guest: Guest | None) -> Iterator[None]:
        """Let a user's call add no more to the wallets' books than that user has left."""
        wallets = self.node.wallets
        if guest is None:
            yield
            return
        left = wallets.room = guest.room()
        try:
            yield
        except NoRoom:
            text = "the chain takes only so many new addresses and labels of a user an hour; come back later"
            raise RpcError(errors.TOO_MUCH, text) from None
        finally:
            guest.keep(left - wallets.room)
            wallets.room = None


def _credentials(header: str) -> bytes:
    """What stands in a header of basic auth; empty for anything else."""
    kind, _, credentials = header.partition(" ")
    try:
        return base64.b64decode(credentials.strip(), validate=True) if kind == "Basic" else b""
    except (binascii.Error, ValueError):
        return b""


@contextlib.contextmanager
def _in_use(connection: Connection | None, request: web.Request) -> Iterator[None]:
    """While a request of a connection is carried out."""
    if connection is not None:
        connection.busy()
    try:
        yield
    finally:
        if connection is not None:
            connection.idle(whole=request.content.is_eof())


def _parse(body: Any) -> tuple[str, Any]:
    if not isinstance(body, dict):
        raise RpcError(errors.INVALID_REQUEST, "Invalid Request object")
    method = body.get("method")
    if method is None:
        raise RpcError(errors.INVALID_REQUEST, "Missing method")
    if not isinstance(method, str):
        raise RpcError(errors.INVALID_REQUEST, "Method must be a string")
    params = body.get("params")
    if params is None:
        params = []
    if not isinstance(params, list | dict):
        raise RpcError(errors.INVALID_REQUEST, "Params must be an array or object")
    return method, params


def _text(result: Any, error: RpcError | None, request_id: Any) -> str:
    shown = None if error is None else {"code": error.code, "message": error.message}
    return jsonio.dumps({"result": result, "error": shown, "id": request_id})


def _reply(result: Any, error: RpcError | None, request_id: Any) -> web.Response:
    status = 200 if error is None else _STATUS.get(error.code, 500)
    return _json(status, _text(result, error, request_id) + "\n")


def _json(status: int, text: str) -> web.Response:
    # Without a charset: python-bitcoinrpc compares the whole header.
    return web.Response(status=status, body=text.encode("ascii"), content_type="application/json")


def commands(dialect: Dialect) -> frozenset[str]:
    """Names of the calls that a dialect serves."""
    return frozenset(COMMANDS[dialect])
