"""Framing and parsing: newline-delimited JSON, or one HTTP POST, with a cap on everything."""

import asyncio
import json
import re
from typing import Any, NoReturn

from ..errors import InvalidRequest, MessageTooLarge, ParseError

MAX_MESSAGE = 8 * 1024 * 1024
"""Largest request or reply, in bytes."""
MAX_DEPTH = 64
MAX_BATCH = 50
MAX_HEADERS = 16_384
MAX_EMPTY_LINES = 100
HTTP_METHODS = (b"POST ", b"GET ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text[:20]} is out of range")
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _too_deep(value: Any) -> bool:
    """Whether a JSON value nests deeper than MAX_DEPTH, looked at level by level."""
    level = [value] if type(value) in (list, dict) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is list or type(item) is dict
        ]
    return bool(level)


def _check_text(value: Any) -> None:
    """Raises ValueError when a text holds half a character (a lone surrogate): no file or database takes it."""
    json.dumps(value, ensure_ascii=False).encode()


def loads(data: bytes) -> Any:
    """JSON of at most MAX_DEPTH levels with finite numbers. Raises ParseError."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant, parse_float=_finite)
        # A message with few brackets can't be deep; counting them costs next to nothing.
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(value):
            raise ParseError(f"nested deeper than {MAX_DEPTH} levels")
        if _SURROGATE.search(data):
            _check_text(value)
    except RecursionError:
        raise ParseError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ParseError(f"not JSON: {error}"[:200]) from None
    return value


def dumps(value: Any) -> bytes:
    """One line of JSON, with its newline. Raises ValueError for NaN and for what JSON can't hold."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """The next line without its end; empty bytes at the end of the stream.

    Raises MessageTooLarge, and InvalidRequest for a sender of empty lines.
    """
    for _ in range(MAX_EMPTY_LINES):
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial.strip()
        except asyncio.LimitOverrunError:
            raise MessageTooLarge(f"a message may have at most {MAX_MESSAGE} bytes") from None
        if text := line.strip():
            return text
    raise InvalidRequest(f"{MAX_EMPTY_LINES} empty lines and no request")


async def read_http(reader: asyncio.StreamReader, request_line: bytes) -> bytes:
    """The body of the HTTP request that `request_line` begins. Raises InvalidRequest or MessageTooLarge."""
    if not request_line.startswith(b"POST "):
        raise InvalidRequest("only POST is answered", hint="curl --unix-socket SOCKET -d '{…}' http://dux/")
    try:
        return await _read_post(reader)
    except asyncio.LimitOverrunError:
        raise MessageTooLarge(f"HTTP headers may have at most {MAX_HEADERS} bytes") from None
    except asyncio.IncompleteReadError:
        raise InvalidRequest("the HTTP request ended before its body was complete") from None


async def _read_post(reader: asyncio.StreamReader) -> bytes:
    length = -1
    total = 0
    while True:
        header = await reader.readuntil(b"\n")
        total += len(header)
        if total > MAX_HEADERS:
            raise MessageTooLarge(f"HTTP headers may have at most {MAX_HEADERS} bytes")
        if not header.strip():
            break
        name, _, value = header.partition(b":")
        if name.strip().lower() == b"content-length":
            text = value.strip()
            length = int(text) if text.isdigit() and len(text) < 12 else -1
        if name.strip().lower() == b"origin":
            # A web page in a browser must not reach a wallet through some proxy to this socket.
            raise InvalidRequest("requests from web pages are refused")
    if length < 0:
        raise InvalidRequest("the HTTP request has no valid Content-Length")
    if length > MAX_MESSAGE:
        raise MessageTooLarge(f"a message may have at most {MAX_MESSAGE} bytes")
    return await reader.readexactly(length)


def http_reply(body: bytes) -> bytes:
    """The one HTTP answer of a connection."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + body
