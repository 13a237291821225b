"""Frames between nodes: what is cut out of a byte stream, and what ends it."""

import pytest

from dux_registryd.frames import MAX_FRAME, FrameReader, encode
from duxcommon.errors import MessageTooLarge, PeerProtocol


def raw(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def test_messages_come_out_whole_whatever_the_pieces_they_arrive_in() -> None:
    messages = [{"id": n, "result": {"text": "x" * n}} for n in (0, 1, 70_000)]
    data = b"".join(map(encode, messages))
    for size in (1 << 20, 65_536, 1000, 7):
        reader, found = FrameReader(), []
        for start in range(0, len(data), size):
            reader.push(data[start : start + size])
            while (message := reader.pop()) is not None:
                found.append(message)
        assert found == messages


@pytest.mark.parametrize("size", [0, 1, MAX_FRAME + 1, 0xFFFFFFFF])
def test_a_frame_of_forbidden_size_is_refused_before_its_bytes_arrive(size: int) -> None:
    reader = FrameReader()
    reader.push(size.to_bytes(4, "big"))
    with pytest.raises(PeerProtocol, match="frame of"):
        reader.pop()


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b"12",
        b"nonsense",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 100_000,
        b"\xff\xfe{}",
    ],
)
def test_a_frame_that_is_no_sound_object_is_refused(body: bytes) -> None:
    reader = FrameReader()
    reader.push(raw(body))
    with pytest.raises(PeerProtocol):
        reader.pop()


def test_a_message_above_the_cap_is_not_even_built() -> None:
    with pytest.raises(MessageTooLarge):
        encode({"result": "x" * MAX_FRAME})


def test_the_bytes_after_a_head_are_handed_on() -> None:
    reader = FrameReader()
    reader.push(encode({"size": 3}) + b"abc")
    assert reader.pop() == {"size": 3}
    assert reader.rest() == b"abc"
    assert reader.rest() == b""
