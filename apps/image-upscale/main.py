"""Enlarge one PNG, JPEG or WebP picture 2–4 times: Lanczos, then a modest sharpening.

The result has the format of the input unless the parameters say otherwise: a photograph that came as a JPEG would be
ten times as large as a PNG.

Usage: main.py INPUT PARAMS.JSON OUTPUT.  Exit codes: 64 bad parameters, 65 bad picture, 73 result too large;
the last line on stderr says why.
"""

import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

BAD_PARAMS, BAD_INPUT, TOO_LARGE = 64, 65, 73
MAX_OUTPUT_PIXELS = 50_000_000
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
FORMATS: dict[str, dict[str, int]] = {"png": {}, "jpeg": {"quality": 92}, "webp": {"quality": 90, "method": 2}}
"""Format → how it is written; the same every time, so that the result is."""
WEBP_SIDE = 16_383
BAND_ROWS = 64
"""Source rows that are worked on at once: memory stays near one result, and progress is real."""
MARGIN_ROWS = 8
"""Lanczos reaches 3 source rows and the blur 3 more; the rest of a band does not see its edges."""


class Refused(Exception):
    """The picture or the parameters can't be served; the message is for the buyer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_params(path: Path) -> tuple[int, str | None]:
    """The enlargement, 2 where nothing is said, and the format that was asked for."""
    try:
        params = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError):
        raise Refused(BAD_PARAMS, "the parameters are not JSON") from None
    if not isinstance(params, dict) or set(params) - {"factor", "format"}:
        raise Refused(BAD_PARAMS, "the only parameters are 'factor' and 'format'")
    factor = params.get("factor", 2)
    if type(factor) is not int or not 2 <= factor <= 4:
        raise Refused(BAD_PARAMS, "'factor' must be 2, 3 or 4")
    wanted = params.get("format")
    if "format" in params and not (isinstance(wanted, str) and wanted in FORMATS):
        raise Refused(BAD_PARAMS, "'format' must be png, jpeg or webp")
    return factor, wanted


def choose_format(wanted: str | None, came_as: str | None, mode: str, size: tuple[int, int]) -> str:
    """The format of the result: what was asked for, else that of the input; PNG where that can't hold it."""
    lacks = {
        "jpeg": "transparency" if mode == "RGBA" else "",
        "webp": f"more than {WEBP_SIDE} pixels a side" if max(size) > WEBP_SIDE else "",
    }
    if wanted is not None:
        if lacks.get(wanted):
            raise Refused(BAD_PARAMS, f"a {wanted} can't have {lacks[wanted]}: ask for another 'format'")
        return wanted
    found = {"JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}.get(came_as or "", "png")
    return "png" if lacks.get(found) else found


def read_picture(path: Path, factor: int) -> tuple[Image.Image, str | None]:
    """The picture, decoded and upright, in mode L, RGB or RGBA, and its format; sizes are checked before decoding."""
    try:
        picture = Image.open(path, formats=("PNG", "JPEG", "WEBP"))
        width, height = picture.size
        if width * height * factor * factor > MAX_OUTPUT_PIXELS:
            limit = MAX_OUTPUT_PIXELS // 1_000_000
            raise Refused(
                BAD_INPUT,
                f"{width} x {height} pixels enlarged {factor} times are more than {limit} megapixels:"
                " send a smaller picture or ask for a smaller factor",
            )
        # A phone's MPO file is one photograph with a preview behind it, not an animation.
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            raise Refused(BAD_INPUT, "the picture is animated: send one frame")
        picture.load()
        profile = None if picture.mode == "CMYK" else picture.info.get("icc_profile")
        upright = as_plain(ImageOps.exif_transpose(picture))
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused(BAD_INPUT, "no picture was sent") from None
    except UnidentifiedImageError:
        raise Refused(BAD_INPUT, "the input is not a PNG, JPEG or WebP picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(BAD_INPUT, "the picture unpacks to too many pixels") from None
    except MemoryError:
        raise Refused(BAD_INPUT, "the picture needs more memory than the task has") from None
    except Exception as error:  # a decoder raises nearly anything on damaged data
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise Refused(BAD_INPUT, f"the picture is damaged: {reason}") from None
    upright.info = {"icc_profile": profile} if profile else {}
    return upright, picture.format


def as_plain(picture: Image.Image) -> Image.Image:
    """The picture in L, RGB or RGBA, whichever loses nothing but depth beyond 8 bits."""
    if picture.mode in ("L", "RGB", "RGBA") and "transparency" not in picture.info:
        return picture
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return picture.convert("L" if picture.mode == "1" else "RGB")


def enlarge(picture: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield (first output row, finished band) from top to bottom."""
    width, height = picture.size
    sharpen = ImageFilter.UnsharpMask(radius=factor / 2, percent=60, threshold=2)
    for top in range(0, height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, height)
        low, high = max(top - MARGIN_ROWS, 0), min(bottom + MARGIN_ROWS, height)
        strip = picture.crop((0, low, width, high))
        large = strip.resize((width * factor, (high - low) * factor), Image.Resampling.LANCZOS)
        if large.mode == "RGBA":  # sharpening an edge of the alpha would draw a halo
            colours = large.convert("RGB").filter(sharpen)
            colours.putalpha(large.getchannel("A"))
            large = colours
        else:
            large = large.filter(sharpen)
        yield top * factor, large.crop((0, (top - low) * factor, width * factor, (bottom - low) * factor))


def progress(percent: int) -> None:
    print(f"::progress {percent}", file=sys.stderr, flush=True)


def run(source: Path, params: Path, target: Path) -> None:
    factor, wanted = read_params(params)
    picture, came_as = read_picture(source, factor)
    size = picture.width * factor, picture.height * factor
    kind = choose_format(wanted, came_as, picture.mode, size)
    progress(5)
    result = Image.new(picture.mode, size)
    for row, band in enlarge(picture, factor):
        result.paste(band, (0, row))
        progress(5 + 70 * (row + band.height) // result.height)
    coded = io.BytesIO()
    result.save(coded, format=kind.upper(), icc_profile=picture.info.get("icc_profile"), **FORMATS[kind])
    if coded.tell() > MAX_OUTPUT_BYTES:
        other = "ask for 'format' jpeg or webp, or" if kind == "png" else "ask for"
        raise Refused(
            TOO_LARGE,
            f"the result as a {kind} is {coded.tell()} bytes, more than {MAX_OUTPUT_BYTES}: {other} a smaller factor",
        )
    target.write_bytes(coded.getbuffer())
    progress(100)
    print(f"{picture.width} x {picture.height} -> {result.width} x {result.height}", file=sys.stderr)


def main(argv: list[str]) -> int:
    if len(argv) != 3:
        print("usage: main.py INPUT PARAMS.JSON OUTPUT", file=sys.stderr)
        return BAD_PARAMS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        run(*map(Path, argv))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (MemoryError, OSError) as error:
        print(f"error: no room for the result ({type(error).__name__}): send a smaller picture", file=sys.stderr)
        return TOO_LARGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
