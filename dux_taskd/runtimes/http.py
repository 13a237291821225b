"""Runtime `http`: the provider's own API on this machine's loopback.

One POST a call: the body is the input, `X-Dux-Params` holds the parameters as JSON, `X-Dux-Task` an id of the task; the
body of a 2xx answer is the output. Nothing else than loopback is ever contacted, whatever a manifest or an answer says.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import time
from typing import Any, BinaryIO

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from duxcommon.api.common import Hash32, TaskId
from duxcommon.api.manifest import Manifest
from duxcommon.api.taskd import INLINE_MAX, Payload
from duxcommon.blobs import BlobStore
from duxcommon.errors import (
    ApiDown,
    ApiFailed,
    BadManifest,
    DuxError,
    NotFound,
    OutputMissing,
    OutputTooLarge,
    TaskKilled,
    TaskTimeout,
)

from .base import Progress, RunResult

LOOPBACK = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
CONNECT_S = 5.0
MAX_PARAMS = 4096
"""Bytes of the parameters' header; servers commonly refuse more than 8 KB of headers."""
MAX_CONNECTIONS = 256
CHUNK = 65_536
BUSY = frozenset({429, 502, 503, 504})
"""Status codes that say "later"."""


class _LoopbackResolver(AbstractResolver):
    """`localhost` is this machine, whatever DNS or /etc/hosts say; no other name is resolved."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host != "localhost":
            raise OSError(f"{host} is not this machine")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address, kind in LOOPBACK.items()
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Nothing is open."""


def local_url(manifest: Manifest) -> URL:
    """The manifest's URL. Raises BadManifest unless its host is this machine's loopback."""
    try:
        url = URL(manifest.url)
    except ValueError as error:
        raise BadManifest(f"url: {error}") from error
    # "http://127.0.0.1:80@elsewhere/" starts like a local one.
    if url.scheme != "http" or url.host not in ("localhost", *LOOPBACK) or url.user or url.password:
        raise BadManifest("url: the API must be on this machine's loopback, like http://127.0.0.1:8000/run")
    return url


class HttpRuntime:
    """Keeps its connections open between calls."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._session: aiohttp.ClientSession | None = None
        self._calls: dict[TaskId, asyncio.Task[RunResult]] = {}
        self._killed: set[TaskId] = set()

    async def ready(self, own: bool) -> None:
        """See Runtime: whether the API answers is seen when it is called."""

    async def run(
        self,
        task_id: TaskId,
        manifest: Manifest,
        bundle: Hash32 | None,
        input: Payload | None,
        params: dict[str, Any],
        *,
        progress: Progress | None = None,
    ) -> RunResult:
        """See Runtime."""
        call = asyncio.create_task(self._timed(task_id, manifest, input, params), name=f"http-{task_id[:8]}")
        self._calls[task_id] = call
        try:
            return await call
        except asyncio.CancelledError:
            if task_id not in self._killed:
                call.cancel()
                raise
            return RunResult(None, TaskKilled("the call was ended on request"), 0, 0, "")
        finally:
            del self._calls[task_id]
            self._killed.discard(task_id)

    async def kill(self, task_id: TaskId) -> None:
        """See Runtime."""
        call = self._calls.get(task_id)
        if call is not None:
            self._killed.add(task_id)
            call.cancel()

    async def close(self) -> None:
        """See Runtime."""
        for task_id in list(self._calls):
            await self.kill(task_id)
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- one call ---------------------------------------------------------------------------------------------

    async def _timed(
        self, task_id: TaskId, manifest: Manifest, input: Payload | None, params: dict[str, Any]
    ) -> RunResult:
        began = time.monotonic()
        output: Payload | None = None
        failure: DuxError | None = None
        try:
            output = await self._call(task_id, manifest, input, params)
        except TimeoutError:
            failure = TaskTimeout(f"the publisher's server did not answer within {manifest.resources.wall_s} s")
        except (aiohttp.ClientError, OSError) as error:
            failure = ApiDown(f"the publisher's server can't be reached: {error or type(error).__name__}")
        except DuxError as error:
            failure = error
        return RunResult(output, failure, int((time.monotonic() - began) * 1000), 0, "")

    async def _call(
        self, task_id: TaskId, manifest: Manifest, input: Payload | None, params: dict[str, Any]
    ) -> Payload | None:
        url = local_url(manifest)
        header = json.dumps(params, separators=(",", ":"))
        if len(header) > MAX_PARAMS:
            raise ApiFailed(f"the parameters are longer than {MAX_PARAMS} bytes", hint="Send them as the input.")
        headers = {"X-Dux-Task": task_id, "X-Dux-Params": header, "Accept-Encoding": "identity"}
        if input is not None:
            headers["Content-Type"] = input.media
        with contextlib.ExitStack() as files:
            body: Any = b""
            if input is not None and input.data is not None:
                body = base64.b64decode(input.data)
            elif input is not None:
                body = files.enter_context(_opened(self._blobs, input.hash))
            wall = aiohttp.ClientTimeout(total=manifest.resources.wall_s, sock_connect=CONNECT_S)
            async with self._open().post(
                url, data=body, headers=headers, timeout=wall, allow_redirects=False
            ) as response:
                return await self._take(response, manifest)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_LoopbackResolver(), limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _take(self, response: aiohttp.ClientResponse, manifest: Manifest) -> Payload | None:
        if not 200 <= response.status < 300:
            said = (await response.content.read(300)).decode("utf-8", "replace")
            words = "".join(character if character.isprintable() else " " for character in said).strip()
            kind = ApiDown if response.status in BUSY else ApiFailed
            raise kind(f"the publisher's server answered {response.status}" + (f": {words}" if words else ""))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ApiFailed("the publisher's server answered in a compressed form, which is not taken")
        largest = manifest.output.max_bytes
        if (response.content_length or 0) > largest:
            raise OutputTooLarge(f"the answer has {response.content_length} bytes, more than {largest}")
        if response.status == 204:
            if manifest.output.required:
                raise OutputMissing("the publisher's server answered without a result (204)")
            return None
        # Only the type itself is kept: parameters such as a charset are the server's own business.
        media = response.content_type[:100]
        first = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            first += chunk
            if len(first) > largest:
                raise OutputTooLarge(f"the answer has more than {largest} bytes")
            if len(first) > INLINE_MAX:
                return await self._store(first, response, largest, media)
        data = base64.b64encode(first).decode()
        return Payload(hash=hashlib.sha256(first).hexdigest(), size=len(first), media=media, data=data)

    async def _store(self, first: bytearray, response: aiohttp.ClientResponse, largest: int, media: str) -> Payload:
        with self._blobs.writer() as writer:
            writer.write(bytes(first))
            async for chunk in response.content.iter_chunked(CHUNK):
                if writer.size + len(chunk) > largest:
                    raise OutputTooLarge(f"the answer has more than {largest} bytes")
                writer.write(chunk)
            digest = await asyncio.to_thread(writer.commit)
            return Payload(hash=digest, size=writer.size, media=media)


def _opened(blobs: BlobStore, digest: str) -> BinaryIO:
    try:
        return blobs.path(digest).open("rb")
    except FileNotFoundError:
        raise NotFound(f"the input {digest[:16]}… is not among this node's blobs") from None
