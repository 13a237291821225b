"""The canonical form: equal values have equal bytes, and nothing else has."""

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from duxcommon.errors import BadRecord
from duxcommon.identity import Identity
from duxcommon.records import canonical, sign_record, verify_record

NETWORK = "11" * 32
IDENTITY = Identity(bytes(range(32)))

scalars = st.none() | st.booleans() | st.integers(min_value=-(10**30), max_value=10**30) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
bodies = st.dictionaries(st.text(max_size=6), values, max_size=4)


def shuffled(value: Any) -> Any:
    """The same value with every object's keys in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(list(value.items()))}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: Python's True == 1 does not count."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(values)
def test_the_bytes_are_stable_and_can_be_read_back(value: Any) -> None:
    data = canonical(value)
    assert canonical(shuffled(value)) == data
    assert same(json.loads(data), value)
    assert canonical(json.loads(data)) == data
    assert b"\n" not in data


@given(values, values)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    assume(not same(one, other))
    assert canonical(one) != canonical(other)


@given(values, st.floats())
def test_a_float_anywhere_is_refused(value: Any, number: float) -> None:
    for holder in ([value, number], {"a": value, "b": {"c": number}}):
        try:
            canonical(holder)
        except BadRecord:
            continue
        raise AssertionError("a float has no single byte form")


@given(bodies, bodies, st.integers(min_value=0, max_value=2**53))
def test_a_signature_holds_for_its_own_body_alone(body: dict[str, Any], other: dict[str, Any], seq: int) -> None:
    record = sign_record(IDENTITY, "note", NETWORK, seq, body, time=1)
    verify_record(record, kind="note", network=NETWORK)
    if not same(body, other):
        try:
            verify_record(record.model_copy(update={"body": other}), kind="note", network=NETWORK)
        except Exception as error:
            assert type(error).__name__ == "BadSignature"  # noqa: PT017
        else:
            raise AssertionError("another body was accepted")
