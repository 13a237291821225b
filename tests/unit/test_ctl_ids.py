"""Short ids: what a table prints is enough for the next command."""

from pathlib import Path
from typing import Any

import pytest

from dux_ctl import catalogue, ids, render
from dux_ctl.control import Control
from duxcommon.errors import InvalidParams, NotFound

CHANNELS = ["6a9fd69916" + "0" * 54, "6a9fd69916" + "1" * 54, "b5dffda912" + "2" * 54]
NODES = ["00000000" + "a" * 56, "692e606000" + "b" * 54, "b134594c05" + "c" * 54]


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
        assert method == "node.list"
        later = [node for node in NODES if node > given.get("after", "")]
        return {"nodes": [{"node": node} for node in later[: given["limit"]]], "next": None}


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


def test_whole_ids_and_other_words_are_left_to_the_daemon() -> None:
    for text in (CHANNELS[0], "6a9f", "alice", "my-app"):
        assert ids.channel(TwoPages(), text) == text
        assert ids.node(TwoPages(), text) == text


def test_only_ids_of_nodes_and_channels_are_completed() -> None:
    control = TwoPages()
    assert ids.complete("channel.close", {"id": "b5dffda9", "key": "b5dffda9"}, control) == {
        "id": CHANNELS[2],
        "key": "b5dffda9",
    }
    assert ids.complete("node.show", {"node": "692e606000"}, control) == {"node": NODES[1]}
    assert ids.complete("payment.list", {"channel": "b5dffda9"}, control) == {"channel": CHANNELS[2]}
    assert ids.complete("payment.show", {"id": "b5dffda9"}, control) == {"id": "b5dffda9"}


def test_the_columns_that_tables_show_exist() -> None:
    schemas = catalogue.load()["schemas"]
    for kind, names in render.COLUMNS.items():
        for name in names:
            outer, _, inner = name.rpartition(".")
            schema = schemas[kind]
            if outer:
                schema = catalogue.resolve(schema["properties"][outer])
            assert inner in schema["properties"], f"{kind}: {name}"
