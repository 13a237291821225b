"""Short ids: what a table prints is enough for the next command."""

from pathlib import Path
from typing import Any

import pytest

from dux_ctl import catalogue, ids, render
from dux_ctl.control import Control
from duxcommon.errors import InvalidParams, NotFound

CHANNELS = ["6a9fd69916" + "0" * 54, "6a9fd69916" + "1" * 54, "b5dffda912" + "2" * 54]
NODES = ["00000000" + "a" * 56, "692e606000" + "b" * 54, "b134594c05" + "c" * 54]
PAYMENT = "77aa77" + "d" * 26
NAMES = dict(zip(NODES, ("alice", "bob", "alice"), strict=True))


class TwoPages(Control):
    """Answers like a node that has these nodes and channels, one channel a page."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), True, 1.0)

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        given = params or {}
        if method == "channel.list":
            number = int(given.get("after", 0))
            following = number + 1
            return {
                "channels": [{"id": CHANNELS[number]}],
                "next": str(following) if following < len(CHANNELS) else None,
            }
        if method == "payment.list":
            return {"payments": [{"id": PAYMENT}], "next": None}
        assert method == "node.list"
        later = [node for node in NODES if node > given.get("after", "")]
        return {
            "nodes": [{"node": node, "record": {"name": NAMES[node]}} for node in later[: given["limit"]]],
            "next": None,
        }


def test_the_beginning_of_an_id_is_enough_where_only_one_begins_so() -> None:
    control = TwoPages()
    assert ids.channel(control, "b5dffda9") == CHANNELS[2]
    assert ids.channel(control, CHANNELS[0][:11] + "…") == CHANNELS[0]
    assert ids.node(control, "692e60") == NODES[1]
    assert ids.node(control, "000000") == NODES[0]


def test_a_beginning_that_fits_several_or_none_is_refused() -> None:
    with pytest.raises(InvalidParams, match="several channels") as several:
        ids.channel(TwoPages(), "6a9fd69916")
    assert CHANNELS[0] in several.value.hint
    with pytest.raises(NotFound, match="no channel"):
        ids.channel(TwoPages(), "abcdef12")
    with pytest.raises(NotFound, match="no node"):
        ids.node(TwoPages(), "ffffff")


def test_whole_ids_are_left_as_they_are_and_other_words_are_refused_with_the_place_to_look() -> None:
    assert ids.channel(TwoPages(), CHANNELS[0]) == CHANNELS[0]
    assert ids.node(TwoPages(), NODES[0]) == NODES[0]
    assert ids.task(TwoPages(), "ab" * 16) == "ab" * 16
    for text in ("6a9f", "alice", "my-app"):
        for kind, find in (("channel", ids.channel), ("node", ids.node), ("task", ids.task)):
            with pytest.raises(InvalidParams, match=f"is not the id of a {kind}") as refused:
                find(TwoPages(), text)
            assert f"`dux-ctl {kind} list`" in refused.value.hint


def test_a_node_may_be_looked_up_by_its_name_but_not_be_paid_by_it() -> None:
    assert ids.complete("node.show", {"node": "bob"}, TwoPages()) == {"node": NODES[1]}
    with pytest.raises(NotFound, match="no node with the name mallory"):
        ids.complete("node.show", {"node": "mallory"}, TwoPages())
    with pytest.raises(InvalidParams, match="several nodes with the name alice"):
        ids.complete("node.show", {"node": "alice"}, TwoPages())
    with pytest.raises(InvalidParams, match="is not the id of a node"):
        ids.complete("task.run", {"app": "x", "provider": "bob"}, TwoPages())


def test_only_ids_are_completed() -> None:
    control = TwoPages()
    assert ids.complete("channel.close", {"id": "b5dffda9", "key": "b5dffda9"}, control) == {
        "id": CHANNELS[2],
        "key": "b5dffda9",
    }
    assert ids.complete("node.show", {"node": "692e606000"}, control) == {"node": NODES[1]}
    assert ids.complete("payment.list", {"channel": "b5dffda9"}, control) == {"channel": CHANNELS[2]}
    assert ids.complete("payment.show", {"id": "77aa77"}, control) == {"id": PAYMENT}
    assert ids.complete("blob.read", {"hash": "b5dffda9"}, control) == {"hash": "b5dffda9"}


def test_the_columns_that_tables_show_exist() -> None:
    schemas = catalogue.load()["schemas"]
    for kind, names in render.COLUMNS.items():
        for name in names:
            outer, _, inner = name.rpartition(".")
            schema = schemas[kind]
            if outer:
                schema = catalogue.resolve(schema["properties"][outer])
            assert inner in schema["properties"], f"{kind}: {name}"
