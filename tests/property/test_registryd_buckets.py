"""The tree of buckets: whoever writes by it is found by whoever reads by it, in networks of any size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dux_registryd.buckets import FOLLOW, FULL, MAX_DEPTH, BucketTree, place


def grow(slots: list[str], full: int, follow: int) -> tuple[BucketTree, dict[str, str]]:
    """A network in which each node puts its record after it has seen those before; rounds until nothing moves."""
    tree, where = BucketTree(full, follow), dict[str, str]()
    for _ in range(MAX_DEPTH + 2):
        moved = False
        for number, slot in enumerate(slots):
            path = tree.bucket(slot)
            if where.get(slot) != path:
                if slot in where:
                    tree.remove(where[slot], number)
                tree.add(path, number, slot)
                where[slot] = path
                moved = True
        if not moved:
            break
    return tree, where


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.integers(0, 2**32))
def test_every_record_is_in_a_bucket_that_readers_listen_to_and_no_bucket_overflows(count: int, salt: int) -> None:
    slots = [f"{salt}-{number}" for number in range(count)]
    tree, where = grow(slots, full=8, follow=5)
    wanted = tree.wanted()
    assert set(where.values()) <= wanted
    for path in set(where.values()):
        inside = [slot for slot, at in where.items() if at == path]
        assert len(inside) <= 8
        assert all(place(slot).startswith(path) for slot in inside)


@settings(max_examples=20, deadline=None)
@given(st.integers(50, 400))
def test_a_newcomer_who_starts_at_the_root_finds_every_record(count: int) -> None:
    slots = [f"node-{number}" for number in range(count)]
    _, where = grow(slots, full=8, follow=5)
    reader = BucketTree(8, 5)
    listening: set[str] = set()
    while fresh := reader.wanted() - listening:
        listening |= fresh
        for number, slot in enumerate(slots):
            if where[slot] in fresh:
                reader.add(where[slot], number, slot)
    assert set(where.values()) <= listening


def test_several_values_of_one_record_count_once_and_leave_together() -> None:
    tree = BucketTree(full=2, follow=1)
    for value in range(5):
        tree.add("", value, "a")
    assert tree.wanted() == {"", "0", "1"}
    for value in range(4):
        tree.remove("", value)
    assert tree.wanted() == {"", "0", "1"}
    tree.remove("", 4)
    tree.remove("", 4)
    assert tree.wanted() == {""}


def test_readers_go_deeper_before_writers_do() -> None:
    assert FOLLOW < FULL


@pytest.mark.parametrize("slot", ["a", "b" * 64])
def test_a_place_is_256_bits(slot: str) -> None:
    assert len(place(slot)) == 256
    assert set(place(slot)) <= {"0", "1"}
