"""The books: every movement twice, sums of zero, and a check that adds everything up anew."""

import sqlite3
from collections.abc import Iterator

import pytest

from duxcommon.books import BOOKS_TABLES, Unbalanced, balance, balances, book, check


@pytest.fixture
def books() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys=ON")
    connection.executescript(BOOKS_TABLES)
    yield connection
    connection.close()


def test_a_paid_call_is_booked_on_every_account_it_touches(books: sqlite3.Connection) -> None:
    assert book(books, "fund:c1", "deposit", 1, {"wallet": -1_010, "channel:c1": 1_000, "fees": 10})
    assert book(books, "pay:p1", "payment", 2, {"channel:c1": -100, "spending": 100})
    assert balance(books, "wallet") == -1_010
    assert balance(books, "channel:c1") == 900
    assert balance(books, "nothing") == 0
    assert balances(books) == {"channel:c1": 900, "fees": 10, "spending": 100, "wallet": -1_010}
    assert sum(balances(books).values()) == 0
    assert balances(books, "channel:") == {"channel:c1": 900}
    result = check(books)
    assert (result.movements, result.total, result.differences) == (2, 0, {})


def test_a_movement_is_booked_once_however_often_it_comes(books: sqlite3.Connection) -> None:
    assert book(books, "pay:p1", "payment", 1, {"a": -5, "b": 5})
    assert not book(books, "pay:p1", "payment", 2, {"a": -5, "b": 5})
    assert balances(books) == {"a": -5, "b": 5}


@pytest.mark.parametrize("entries", [{"a": 5}, {"a": 5, "b": -4}, {"a": -1, "b": -1}])
def test_entries_that_do_not_sum_to_zero_are_refused_and_nothing_is_written(
    books: sqlite3.Connection, entries: dict[str, int]
) -> None:
    with pytest.raises(Unbalanced, match="koinu"):
        book(books, "pay:p1", "payment", 1, entries)
    assert check(books).movements == 0
    assert balances(books) == {}


def test_accounts_that_do_not_move_get_no_entry(books: sqlite3.Connection) -> None:
    assert book(books, "pay:p1", "payment", 1, {"a": -5, "b": 5, "tax": 0})
    assert balances(books) == {"a": -5, "b": 5}
    assert books.execute("SELECT count(*) FROM entry").fetchone()[0] == 2


def test_amounts_up_to_all_coins_there_are_are_kept_to_the_koinu(books: sqlite3.Connection) -> None:
    most = 10**18
    for n in range(8):
        book(books, f"r{n}", "big", n, {"a": -most - n, "b": most + n})
    assert balance(books, "b") == 8 * most + 28
    assert check(books).differences == {}


def test_a_float_can_not_be_booked(books: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        book(books, "pay:p1", "payment", 1, {"a": 0.5, "b": -0.5})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("damage", "account", "difference"),
    [
        ("UPDATE balance SET amount = amount + 1 WHERE account = 'b'", "b", 1),
        ("DELETE FROM balance WHERE account = 'b'", "b", -5),
        ("INSERT INTO balance VALUES ('thief', 7)", "thief", 7),
        ("DELETE FROM entry WHERE account = 'b'", "b", 5),
        ("UPDATE entry SET amount = 6 WHERE account = 'b'", "b", -1),
    ],
)
def test_the_check_names_the_account_that_was_tampered_with_and_by_how_much(
    books: sqlite3.Connection, damage: str, account: str, difference: int
) -> None:
    book(books, "pay:p1", "payment", 1, {"a": -5, "b": 5})
    books.execute(damage)
    assert check(books).differences == {account: difference}


def test_the_check_notices_entries_that_no_longer_sum_to_zero(books: sqlite3.Connection) -> None:
    book(books, "pay:p1", "payment", 1, {"a": -5, "b": 5})
    books.execute("UPDATE entry SET amount = 6 WHERE account = 'b'")
    books.execute("UPDATE balance SET amount = 6 WHERE account = 'b'")
    result = check(books)
    assert (result.total, result.differences) == (1, {})
