"""Payloads are judged by their bytes; parameters by the app's schema, which is a stranger's."""

from typing import Any

import pytest

from dux_taskd import verify
from duxcommon.api.manifest import Files
from duxcommon.errors import InputMissing, InputTooLarge, OutputInvalid, WrongMedia, WrongParams
from duxcommon.params import check_params, check_schema, decode_params, encode_params

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
IMAGES = Files(media=["image/png", "image/jpeg"], max_bytes=1000)


@pytest.mark.parametrize(("head", "media"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
def test_an_image_is_known_by_its_bytes(head: bytes, media: str) -> None:
    assert verify.check_input(IMAGES, len(head), head) == media


@pytest.mark.parametrize(
    ("size", "head", "error"),
    [
        (None, b"", InputMissing),
        (1001, PNG, InputTooLarge),
        (5, b"hello", WrongMedia),
        (0, b"", WrongMedia),
        (30, b"GIF89a" + bytes(24), WrongMedia),
    ],
)
def test_an_input_the_app_does_not_take_is_refused_before_anything_is_paid(
    size: int | None, head: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        verify.check_input(IMAGES, size, head)
    assert caught.value.hint  # type: ignore[attr-defined]


def test_no_input_is_fine_where_none_is_required() -> None:
    assert verify.check_input(Files(required=False), None, b"") == "application/octet-stream"


@pytest.mark.parametrize(
    ("media", "head", "good"),
    [
        (["application/json"], b'{"a": [1, 2]}', True),
        (["application/json"], b"NaN", False),
        (["application/json"], b"{", False),
        (["application/json"], b"[" * 50_000, False),
        (["text/plain"], "grüße".encode(), True),
        (["text/plain"], b"\xff\xfe\x00", False),
        (["text/csv"], PNG, False),
        (["image/*"], JPEG, True),
        (["image/*"], b"text", False),
        (["application/x-own"], b"\x00\x01", True),
        (["application/octet-stream"], PNG, True),
    ],
)
def test_a_result_must_be_of_the_promised_kind(media: list[str], head: bytes, good: bool) -> None:
    declared = Files(media=media)
    if good:
        verify.check_output(declared, len(head), head)
        return
    with pytest.raises(OutputInvalid):
        verify.check_output(declared, len(head), head)


def test_text_cut_in_the_middle_of_a_character_is_still_text() -> None:
    head = ("a" * (verify.HEAD - 1) + "ü").encode()[: verify.HEAD]
    assert verify.media_of(["text/plain"], head, whole=False) == "text/plain"


def test_a_promised_result_that_is_missing_or_too_large_is_refused() -> None:
    with pytest.raises(OutputInvalid):
        verify.check_output(IMAGES, None, b"")
    with pytest.raises(OutputInvalid):
        verify.check_output(IMAGES, 1001, PNG)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"factor": {"type": "integer", "minimum": 2, "maximum": 4}},
}


def test_good_parameters_pass() -> None:
    check_params(SCHEMA, {"factor": 3})
    check_params(SCHEMA, {})


@pytest.mark.parametrize(
    ("params", "name"),
    [({"factor": 5}, "factor"), ({"factor": "3"}, "factor"), ({"tip": 1}, "tip"), ({"factor": 2.5}, "factor")],
)
def test_a_wrong_parameter_is_named(params: dict[str, Any], name: str | None) -> None:
    with pytest.raises(WrongParams) as caught:
        check_params(SCHEMA, params)
    assert caught.value.details.get("parameter") == name


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "(a+)+$"}}},
        {"$ref": "http://evil.example/schema.json"},
        {"$defs": {"x": {"$dynamicRef": "#x"}}},
        {"type": "nonsense"},
        {"minimum": 1.5},
        {"description": "x" * 40_000},
    ],
)
def test_a_strangers_schema_can_neither_fetch_nor_run_for_ever(schema: dict[str, Any]) -> None:
    with pytest.raises(WrongParams):
        check_schema(schema)


def test_a_parameter_may_have_a_fraction_where_the_app_says_so() -> None:
    params = {"quality": 0.85, "name": "ü"}
    check_params({"properties": {"quality": {"type": "number", "maximum": 1}}}, params)
    assert decode_params(encode_params(params)) == params
    assert encode_params(decode_params(encode_params(params))) == encode_params(params)


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"a": NaN}', "{", "[" * 100_000, '{"a":' * 30_000])
def test_parameters_that_are_no_object_of_json_are_refused(text: str) -> None:
    with pytest.raises(WrongParams):
        decode_params(text)


def test_endless_parameters_are_refused() -> None:
    with pytest.raises(WrongParams):
        check_params({}, {"a": "x" * 40_000})
    with pytest.raises(WrongParams):
        check_params({}, {"a": float("nan")})
