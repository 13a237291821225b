"""Frames between two nodes: four bytes of length (big endian) and one JSON object, everything capped.

Messages: `{"hello": …}`, `{"welcome": …}` or `{"refused": error}` to begin with; then JSON-RPC 2.0 requests and
replies in both directions, and `{"ping": n}`, `{"pong": n}`, `{"cancel": id}`.
"""

from typing import Any

from duxcommon.errors import MessageTooLarge, ParseError, PeerProtocol
from duxcommon.rpc import wire

MAX_FRAME = 512 * 1024
"""Bytes of one frame; payloads above 64 KiB travel as blobs."""
MAX_ID = 2**53
HEAD = 4


def encode(message: dict[str, Any]) -> bytes:
    """One frame. Raises MessageTooLarge."""
    body = wire.dumps(message)
    if len(body) > MAX_FRAME:
        raise MessageTooLarge(f"a message between nodes may have at most {MAX_FRAME} bytes, this one has {len(body)}")
    return len(body).to_bytes(HEAD, "big") + body


class FrameReader:
    """Cuts a byte stream into messages; keeps at most one frame and one read in memory."""

    def __init__(self) -> None:
        self.max_frame = MAX_FRAME
        self._buffer = bytearray()
        self._start = 0

    def push(self, data: bytes) -> None:
        """Take bytes that arrived."""
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    def pop(self) -> dict[str, Any] | None:
        """The next whole message, or None. Raises PeerProtocol; the stream is of no use after that."""
        body = self._start + HEAD
        if len(self._buffer) < body:
            return None
        size = int.from_bytes(self._buffer[self._start : body], "big")
        if not 2 <= size <= self.max_frame:
            raise PeerProtocol(f"a frame of {size} bytes (2 to {self.max_frame} are allowed)")
        end = body + size
        if len(self._buffer) < end:
            return None
        self._start = end
        return _parse(bytes(self._buffer[body:end]))

    def rest(self) -> bytes:
        """What follows the last message: the first raw bytes of a payload."""
        rest = bytes(self._buffer[self._start :])
        self._buffer.clear()
        self._start = 0
        return rest


def _parse(body: bytes) -> dict[str, Any]:
    try:
        message = wire.loads(body)
    except ParseError as error:
        raise PeerProtocol(error.message) from None
    if not isinstance(message, dict):
        raise PeerProtocol("a frame that is not an object")
    return message
