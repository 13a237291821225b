"""The database of escrowd: its rules, and how its queries find their rows."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dux_escrowd import rows
from dux_escrowd.rows import ChannelRow
from dux_escrowd.schema import MIGRATIONS
from duxcommon.db import connect
from duxcommon.errors import ChannelUnknown, Conflict, PaymentUnknown


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    connection = connect(tmp_path / "escrowd.sqlite")
    for script in MIGRATIONS:
        connection.executescript(script)
    return connection


def made(number: int = 1, **changes: object) -> ChannelRow:
    row = ChannelRow(
        0, f"{number:064x}", "buyer", "aa" * 32, "OPEN", "02" * 33, "03" * 33, "02" * 33, 20_000, 500,
        "a914" + "11" * 20 + "87", 1, 100, number, 0,
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


class Recorder:
    """Collects the statements that a function sends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.statements: list[str] = []
        self._connection = connection

    def __enter__(self) -> "Recorder":
        self._connection.set_trace_callback(self.statements.append)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.set_trace_callback(None)


def test_no_query_on_the_path_of_a_payment_reads_a_whole_table(database: sqlite3.Connection) -> None:
    with Recorder(database) as sent:
        rows.live_channel(database, "aa" * 32)
        rows.live_with(database, "aa" * 32)
        rows.find_channel(database, "aa" * 32)
        rows.find_payment(database, "aa" * 16)
        rows.open_payments(database, "aa" * 32)
        rows.deposits(database, "aa" * 32)
        rows.noted(database, "hold/0/x", "hold")
        rows.is_noted(database, "hold/0/x")
        rows.followed_channels(database)
        rows.unpushed_channels(database)
        rows.fundings(database, "aa" * 32)
        rows.spends(database, "aa" * 32)
        rows.payments_page(database, "aa" * 32, None, 50, None)
    for statement in sent.statements:
        for step in database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            text = step["detail"]
            assert "SCAN" not in text or "USING" in text, (statement, text)


def test_a_buyer_has_one_live_channel_to_a_provider(database: sqlite3.Connection) -> None:
    rows.insert_channel(database, made(1))
    with pytest.raises(sqlite3.IntegrityError):
        rows.insert_channel(database, made(2))
    rows.insert_channel(database, made(2, state="CLOSED"))
    rows.insert_channel(database, made(3, retiring=1))
    rows.insert_channel(database, made(4, role="provider", key_index=None))


def test_an_open_channel_never_promises_more_than_it_holds(database: sqlite3.Connection) -> None:
    row = rows.insert_channel(database, made(1, usable=100))
    rows.change(database, row, gross=60, held=40)
    for changes in ({"gross": 61}, {"held": 41}, {"usable": 99}, {"held": -1}, {"open": -1}):
        with pytest.raises(sqlite3.IntegrityError):
            rows.change(database, row, **changes)


def test_a_step_is_written_once_with_its_key(database: sqlite3.Connection) -> None:
    row = rows.insert_channel(database, made(1))
    closing = rows.move(database, row, "close-built", "close/0/mine")
    assert (closing.state, closing.version) == ("CLOSE_BUILT", 1)
    assert rows.noted(database, "close/0/mine", "close-built") == row.id
    with pytest.raises(Conflict):
        rows.move(database, closing, "close-sent", "close/0/mine")
    with pytest.raises(Conflict):
        rows.noted(database, "close/0/mine", "open")


def test_what_does_not_exist_is_named(database: sqlite3.Connection) -> None:
    with pytest.raises(ChannelUnknown):
        rows.channel(database, "aa" * 32)
    with pytest.raises(PaymentUnknown):
        rows.payment(database, "aa" * 16)
