"""Whether a payload is what the manifest says: its size and its kind, told from its bytes. Pure.

The name and the declared type of a file prove nothing; its first bytes and, for text and JSON, its content do.
"""

import json
from collections.abc import Callable

from duxcommon.api.manifest import Files
from duxcommon.errors import InputMissing, InputTooLarge, OutputInvalid, WrongMedia

HEAD = 65_536
"""Bytes from the start of a payload that are enough to judge it."""

ANY = frozenset({"application/octet-stream", "*/*"})

SIGNATURES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("image/png", lambda b: b.startswith(b"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", lambda b: b.startswith(b"\xff\xd8\xff")),
    ("image/webp", lambda b: b[:4] == b"RIFF" and b[8:12] == b"WEBP"),
    ("image/gif", lambda b: b[:6] in (b"GIF87a", b"GIF89a")),
    ("image/bmp", lambda b: b[:2] == b"BM" and b[6:10] == b"\0\0\0\0"),
    ("image/tiff", lambda b: b[:4] in (b"II*\0", b"MM\0*")),
    ("audio/wav", lambda b: b[:4] == b"RIFF" and b[8:12] == b"WAVE"),
    ("audio/flac", lambda b: b.startswith(b"fLaC")),
    ("audio/ogg", lambda b: b.startswith(b"OggS")),
    ("video/mp4", lambda b: b[4:8] == b"ftyp"),
    ("application/pdf", lambda b: b.startswith(b"%PDF-")),
    ("application/zip", lambda b: b[:4] in (b"PK\x03\x04", b"PK\x05\x06")),
    ("application/gzip", lambda b: b.startswith(b"\x1f\x8b")),
    ("application/wasm", lambda b: b.startswith(b"\0asm")),
)
"""Kinds that give themselves away by their first bytes."""

JSON_STARTS = frozenset(bytes([byte]) for byte in b'{["-0123456789tfn')

KNOWN = frozenset(media for media, _ in SIGNATURES)


def sniff(head: bytes) -> str | None:
    """The media type that the first bytes prove, or None when they prove none."""
    return next((media for media, matches in SIGNATURES if matches(head)), None)


def _is_text(head: bytes, *, whole: bool) -> bool:
    # The end of a head may cut a character in two.
    for cut in range(1 if whole else 4):
        try:
            return "\0" not in head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_json(head: bytes, *, whole: bool) -> bool:
    if not whole:
        return head.lstrip()[:1] in JSON_STARTS and _is_text(head, whole=False)
    try:
        json.loads(head, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def media_of(allowed: list[str], head: bytes, *, whole: bool) -> str | None:
    """Which of the `allowed` media types a payload is, or None for none of them.

    `head` is its first HEAD bytes, `whole` says that there are no more.
    """
    found = sniff(head)
    for media in allowed:
        kind, _, name = media.partition("/")
        if media in ANY:
            return found or media
        if found is not None and (media == found or (name == "*" and found.startswith(kind + "/"))):
            return found
        if found is not None or media in KNOWN or name == "*":
            continue
        if media == "application/json":
            if _is_json(head, whole=whole):
                return media
        elif kind != "text" or _is_text(head, whole=whole):
            return media
    return None


def check_input_size(declared: Files, size: int) -> None:
    """Raises InputTooLarge."""
    if size > declared.max_bytes:
        raise InputTooLarge(
            f"the input is {size} bytes, the app takes at most {declared.max_bytes}",
            details={"size": size, "max_bytes": declared.max_bytes},
        )


def check_input(declared: Files, size: int | None, head: bytes) -> str:
    """The input's media type; `size` is None where no input was given.

    Raises InputMissing, InputTooLarge or WrongMedia.
    """
    if size is None:
        if declared.required:
            raise InputMissing(f"the app needs an input file ({', '.join(declared.media)})")
        return "application/octet-stream"
    check_input_size(declared, size)
    media = media_of(declared.media, head, whole=size <= len(head))
    if media is None:
        found = sniff(head) or "something else"
        raise WrongMedia(
            f"the input is {found}; the app takes {', '.join(declared.media)}",
            details={"found": found, "takes": declared.media},
        )
    return media


def check_size(declared: Files, size: int) -> None:
    """Raises OutputInvalid when a result of `size` bytes is larger than promised."""
    if size > declared.max_bytes:
        raise OutputInvalid(f"the result is {size} bytes, the manifest allows {declared.max_bytes}")


def check_output(declared: Files, size: int | None, head: bytes) -> str:
    """The result's media type; `size` is None where nothing was returned. Raises OutputInvalid."""
    if size is None:
        if declared.required:
            raise OutputInvalid("the app promises a result and returned none")
        return "application/octet-stream"
    check_size(declared, size)
    media = media_of(declared.media, head, whole=size <= len(head))
    if media is None:
        found = sniff(head) or "something else"
        raise OutputInvalid(
            f"the result is {found}; the manifest promises {', '.join(declared.media)}",
            details={"found": found, "promised": declared.media},
        )
    return media
