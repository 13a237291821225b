"""apps/image-upscale, run as the sandbox runs it: a process with an input, parameters and a place for the result."""

import importlib.util
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

APP = Path(__file__).parents[2] / "apps" / "image-upscale"


class Run(NamedTuple):
    code: int
    err: str
    output: Path

    @property
    def result(self) -> Image.Image:
        assert self.code == 0, self.err
        return Image.open(self.output, formats=("PNG", "JPEG", "WEBP"))


Upscale = Callable[..., Run]


@pytest.fixture
def upscale(tmp_path: Path) -> Upscale:
    def run(picture: Image.Image | bytes | None, params: Any = None, *, format_: str = "PNG", **save: Any) -> Run:
        source, output = tmp_path / "input", tmp_path / "output"
        source.unlink(missing_ok=True)
        output.unlink(missing_ok=True)
        if isinstance(picture, Image.Image):
            picture.save(source, format=format_, **save)
        elif picture is not None:
            source.write_bytes(picture)
        text = params if isinstance(params, str) else json.dumps({} if params is None else params)
        (tmp_path / "params.json").write_text(text)
        done = subprocess.run(
            [sys.executable, "-B", APP / "main.py", source, tmp_path / "params.json", output],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert not output.exists(), "a refused picture leaves no result"
        return Run(done.returncode, done.stderr, output)

    return run


def gradient(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    picture = Image.new("RGB", (width, height))
    picture.putdata([(x * 255 // width, y * 255 // height, (x * y) % 256) for y in range(height) for x in range(width)])
    return picture.convert(mode)


def message(run: Run) -> str:
    """The one line that says why a picture was refused."""
    lines = [line for line in run.err.splitlines() if not line.startswith("::progress")]
    assert len(lines) == 1, run.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_each_format_comes_back_as_itself_enlarged_by_the_factor(upscale: Upscale, format_: str, factor: int) -> None:
    result = upscale(gradient(), {"factor": factor}, format_=format_).result
    assert result.format == format_
    assert result.size == (40 * factor, 30 * factor)
    assert result.mode == "RGB"


@pytest.mark.parametrize("came_as", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp"])
def test_another_format_can_be_asked_for(upscale: Upscale, came_as: str, wanted: str) -> None:
    first = upscale(gradient(), {"format": wanted}, format_=came_as)
    assert first.result.format == wanted.upper()
    data = first.output.read_bytes()
    assert upscale(gradient(), {"format": wanted}, format_=came_as).output.read_bytes() == data


def test_a_jpeg_with_transparency_is_refused_and_a_webp_that_would_be_too_wide_becomes_a_png(upscale: Upscale) -> None:
    run = upscale(gradient(mode="RGBA"), {"format": "jpeg"})
    assert run.code == 64
    assert message(run) == "error: a jpeg can't have transparency: ask for another 'format'"
    wide = Image.new("RGB", (9000, 2))
    assert upscale(wide, format_="WEBP").result.format == "PNG"
    run = upscale(wide, {"format": "webp"}, format_="WEBP")
    assert run.code == 64
    assert "16383 pixels a side" in message(run)


def test_a_noisy_photograph_of_12_megapixels_fits_into_a_result(upscale: Upscale) -> None:
    grey = Image.linear_gradient("L").resize((4000, 3000))
    noisy = [Image.blend(grey, Image.effect_noise((4000, 3000), 60), 0.6) for _ in range(3)]
    result = upscale(Image.merge("RGB", noisy), format_="JPEG", quality=90)
    assert result.result.size == (8000, 6000)
    assert result.output.stat().st_size < 64 * 1024 * 1024


def test_the_factor_is_two_where_nothing_is_said(upscale: Upscale) -> None:
    assert upscale(gradient()).result.size == (80, 60)


def test_the_sample_gives_the_expected_result_to_the_byte(upscale: Upscale) -> None:
    run = upscale((APP / "sample/input.png").read_bytes(), {"factor": 2})
    assert run.code == 0
    assert run.output.read_bytes() == (APP / "sample/output.png").read_bytes()


def test_the_same_picture_gives_the_same_bytes_twice(upscale: Upscale) -> None:
    first = upscale(gradient(150, 200), {"factor": 3}).output.read_bytes()
    assert upscale(gradient(150, 200), {"factor": 3}).output.read_bytes() == first


def test_enlarging_keeps_what_the_picture_shows(upscale: Upscale) -> None:
    source = Image.open(APP / "sample/input.png")
    back = upscale(source, {"factor": 4}).result.resize(source.size, Image.Resampling.BOX)
    differences = [abs(a - b) for a, b in zip(source.tobytes(), back.tobytes(), strict=True)]
    assert sum(differences) / len(differences) < 3


def test_bands_leave_no_seam(upscale: Upscale) -> None:
    """Working band by band gives the very pixels of working on the whole picture."""
    picture = gradient(24, 200)
    spec = importlib.util.spec_from_file_location("image_upscale", APP / "main.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert picture.height > 3 * app.BAND_ROWS
    app.BAND_ROWS = 10_000  # type: ignore[attr-defined]
    ((_, expected),) = app.enlarge(picture, 3)
    result = upscale(picture, {"factor": 3}).result
    assert result.tobytes() == expected.tobytes()


def test_alpha_is_kept_and_stays_between_its_neighbours(upscale: Upscale) -> None:
    picture = gradient(mode="RGBA")
    picture.putalpha(Image.new("L", picture.size, 0))
    picture.paste((200, 30, 30, 255), (10, 10, 30, 20))
    result = upscale(picture, {"factor": 2}).result
    assert result.mode == "RGBA"
    assert result.getpixel((2, 2))[3] == 0  # type: ignore[index]
    assert result.getpixel((40, 30)) == (200, 30, 30, 255)


def test_a_palette_with_a_transparent_colour_becomes_rgba(upscale: Upscale) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    result = upscale(picture, transparency=1).result
    assert result.mode == "RGBA"
    assert result.getpixel((8, 8))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(("mode", "expected"), [("L", "L"), ("1", "L"), ("P", "RGB"), ("LA", "RGBA")])
def test_other_modes_come_back_in_the_nearest_plain_one(upscale: Upscale, mode: str, expected: str) -> None:
    assert upscale(gradient(mode=mode)).result.mode == expected


def test_sixteen_bit_grey_keeps_its_brightness(upscale: Upscale) -> None:
    result = upscale(Image.new("I;16", (8, 8), 32768)).result
    assert result.mode == "L"
    assert result.getpixel((8, 8)) == 128


def test_a_cmyk_jpeg_becomes_rgb(upscale: Upscale) -> None:
    assert upscale(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format_="JPEG").result.mode == "RGB"


def test_exif_orientation_is_honoured_and_not_applied_twice(upscale: Upscale) -> None:
    picture = Image.new("RGB", (20, 10), "white")
    picture.paste("black", (0, 0, 5, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left becomes top
    result = upscale(picture, format_="JPEG", exif=exif, quality=95).result
    assert result.size == (20, 40)
    assert result.getpixel((10, 3))[0] < 60  # type: ignore[index]
    assert result.getpixel((10, 36))[0] > 200  # type: ignore[index]
    assert result.getexif().get(0x0112, 1) == 1


def test_the_colour_profile_is_kept(upscale: Upscale) -> None:
    assert upscale(gradient(), icc_profile=b"profile bytes").result.info["icc_profile"] == b"profile bytes"


def test_the_smallest_picture_and_a_single_row_work(upscale: Upscale) -> None:
    assert upscale(Image.new("RGB", (1, 1)), {"factor": 4}).result.size == (4, 4)
    assert upscale(Image.new("RGB", (300, 1)), {"factor": 2}).result.size == (600, 2)


def test_progress_rises_to_a_hundred(upscale: Upscale) -> None:
    run = upscale(gradient(16, 400))
    steps = [int(line.split()[1]) for line in run.err.splitlines() if line.startswith("::progress ")]
    assert steps == sorted(steps)
    assert len(steps) > 5
    assert steps[-1] == 100


@pytest.mark.parametrize("data", [b"", b"hello, world", b"%PDF-1.7", b"GIF89a" + bytes(50), b"\x7fELF" + bytes(99)])
def test_what_is_no_picture_is_refused_by_one_line(upscale: Upscale, data: bytes) -> None:
    run = upscale(data)
    assert run.code == 65
    assert message(run) == "error: the input is not a PNG, JPEG or WebP picture"


def test_a_missing_input_is_refused_by_one_line(upscale: Upscale) -> None:
    run = upscale(None)
    assert run.code == 65
    assert message(run) == "error: no picture was sent"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused_as_damaged(upscale: Upscale, format_: str) -> None:
    whole = io.BytesIO()
    gradient(200, 200).save(whole, format=format_)
    run = upscale(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert run.code == 65
    assert "damaged" in message(run) or "not a PNG" in message(run)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_an_animation_is_refused(upscale: Upscale, format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    run = upscale(frames[0], format_=format_, save_all=True, append_images=frames[1:], duration=100)
    assert run.code == 65
    assert message(run) == "error: the picture is animated: send one frame"


def test_a_phone_photograph_with_a_preview_behind_it_is_no_animation(upscale: Upscale) -> None:
    assert upscale(gradient(), format_="MPO", save_all=True, append_images=[gradient(10, 10)]).result.size == (80, 60)


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (12_000, 8_000), (4_000, 4_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(upscale: Upscale, size: tuple[int, int]) -> None:
    run = upscale(png_claiming(*size), {"factor": 2})
    assert run.code == 65
    assert "megapixels" in message(run) or "too many pixels" in message(run)
    assert "::progress" not in run.err


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused(upscale: Upscale) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    small = io.BytesIO()
    Image.new("RGB", (2, 2)).save(small, format="PNG")
    whole = small.getvalue()
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 27)))
    run = upscale(whole[:33] + bomb * 4 + whole[33:])
    assert run.code in (0, 65)
    if run.code:
        assert message(run)


@pytest.mark.parametrize(
    "params", [{"factor": 1}, {"factor": 5}, {"factor": 2.0}, {"factor": "2"}, {"factor": True}, {"factor": None},
               {"scale": 2}, [], "not json", "[" * 100_000,
               {"format": "gif"}, {"format": None}, {"format": ["png"]}],
)  # fmt: skip
def test_other_parameters_are_refused_by_one_line(upscale: Upscale, params: Any) -> None:
    run = upscale(gradient(), params)
    assert run.code == 64
    assert "factor" in message(run) or "format" in message(run) or "not JSON" in message(run)
