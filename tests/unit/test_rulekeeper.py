"""The rules that a daemon goes on with while airdropd is down."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from duxcommon.api.airdropd import RuleBook, Rules, RulesPage
from duxcommon.config import Access
from duxcommon.errors import RulesPending
from duxcommon.network import NetworkDefinition
from duxcommon.rpc import Client, Server, collect, method, wire
from duxcommon.rulebook import Book, first_rules
from duxcommon.rulekeeper import RuleKeeper, first_book
from tests.support.network import definition

NETWORK = definition()


class Rulebook:
    """A stand-in for airdropd: one method, on a real socket."""

    def __init__(self) -> None:
        self.book = first_book(NETWORK).book
        self.told: list[int] = []
        """Versions in each answer."""
        self.then: RuleBook | None = None
        """The book after the next answer."""

    @method("param.rules", access="daemon")
    async def rules(self, have: str | None = None, after: int = -1) -> RulesPage:
        """The rules."""
        page = Book(self.book).page(have, after)
        self.told.append(len(page.rules))
        self.book, self.then = self.then or self.book, None
        return page


def later(tax_bps: int, from_height: int, version: int = 1) -> Rules:
    first = first_rules(NETWORK)
    parameters = first.parameters.model_copy(update={"tax_bps": tax_bps})
    update = {"version": version, "from_height": from_height, "proposal": "ab" * 32, "parameters": parameters}
    return first.model_copy(update=update)


def book(known_to: int, *more: Rules, network: NetworkDefinition = NETWORK) -> RuleBook:
    return RuleBook(network=network.id, rules=[first_rules(network), *more], known_to=known_to)


def with_airdropd(folder: Path, body: Callable[[Rulebook, Client], Coroutine[Any, Any, None]]) -> None:
    """Run `body` with a daemon that answers `param.rules`."""

    async def main() -> None:
        airdropd = Rulebook()
        server = Server(collect([airdropd]), Access(), 10_000)
        path = folder / "airdropd.sock"
        served = await asyncio.start_unix_server(server.serve_connection, path=str(path), limit=wire.MAX_MESSAGE)
        client = Client(path)
        try:
            await body(airdropd, client)
        finally:
            await client.close()
            served.close()

    asyncio.run(main())


def test_without_airdropd_the_rules_are_the_definition_s_as_far_as_nothing_can_change_them(tmp_path: Path) -> None:
    async def main() -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", Client(tmp_path / "airdropd.sock"), NETWORK)
        found = await keeper.refresh()
        assert found.tax_at(0) == 500
        values = NETWORK.parameters
        lead = values.vote_blocks + 60 + values.time_lock_blocks
        assert found.tax_at(NETWORK.birth_height + lead) == 500
        with pytest.raises(RulesPending):
            found.tax_at(NETWORK.birth_height + lead + 1)
        assert "airdropd" in keeper.trouble

    asyncio.run(main())


def test_what_airdropd_told_last_outlives_a_restart_without_it(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        airdropd.book = book(50_000, later(600, 40_000))
        found = await RuleKeeper(tmp_path / "rules.json", client, NETWORK).refresh()
        assert [found.tax_at(39_999), found.tax_at(40_000)] == [500, 600]

    with_airdropd(tmp_path, body)
    again = RuleKeeper(tmp_path / "rules.json", Client(tmp_path / "nobody.sock"), NETWORK)
    assert [again.book.tax_at(39_999), again.book.tax_at(40_000)] == [500, 600]
    with pytest.raises(RulesPending):
        again.book.tax_at(50_001)


def test_an_airdropd_that_reads_the_chain_anew_takes_nothing_away(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", client, NETWORK)
        airdropd.book = book(50_000, later(600, 40_000))
        await keeper.refresh()
        airdropd.book = book(30_000)
        assert (await keeper.refresh()).known_to == 50_000
        assert keeper.trouble == ""

    with_airdropd(tmp_path, body)


def test_what_a_deep_reorganisation_changed_is_taken_and_where_is_told(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", client, NETWORK)
        airdropd.book = book(50_000, later(600, 40_000))
        before = await keeper.refresh()
        airdropd.book = book(49_000, later(600, 40_500))
        now = await keeper.refresh()
        assert now.difference(before) == 40_000
        assert now.tax_at(40_000) == 500

    with_airdropd(tmp_path, body)


def many(known_to: int, tax_bps: int = 600) -> RuleBook:
    return book(known_to, *(later(tax_bps + number % 2, 10 * number, number) for number in range(1, 250)))


def test_only_versions_that_are_not_known_yet_are_sent_and_those_in_pages(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", client, NETWORK)
        airdropd.book = many(50_000)
        assert (await keeper.refresh()).book == many(50_000)
        airdropd.book = many(50_001)
        assert (await keeper.refresh()).book == many(50_001)
        # Kept on disk, so that a restart does not fetch them again.
        await RuleKeeper(tmp_path / "rules.json", client, NETWORK).refresh()
        assert airdropd.told == [100, 100, 50, 0, 0]

    with_airdropd(tmp_path, body)


def test_rules_that_change_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", client, NETWORK)
        airdropd.book, airdropd.then = many(50_000), many(50_001, 700)
        assert (await keeper.refresh()).book == first_book(NETWORK).book
        assert "changed while they were read" in keeper.trouble
        assert (await keeper.refresh()).book == many(50_001, 700)
        assert keeper.trouble == ""

    with_airdropd(tmp_path, body)


def test_the_file_is_written_when_the_rules_change_and_else_once_in_ten_blocks(tmp_path: Path) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        path = tmp_path / "rules.json"
        keeper = RuleKeeper(path, client, NETWORK)
        for known_to, kept in ((50_000, 50_000), (50_009, 50_000), (50_010, 50_010), (50_011, 50_010)):
            airdropd.book = book(known_to, later(600, 40_000))
            assert (await keeper.refresh()).known_to == known_to
            assert RuleBook.model_validate_json(path.read_bytes()).known_to == kept
        airdropd.book = book(50_012, later(600, 40_000), later(700, 50_000, 2))
        await keeper.refresh()
        assert RuleBook.model_validate_json(path.read_bytes()) == airdropd.book

    with_airdropd(tmp_path, body)


@pytest.mark.parametrize(
    "wrong",
    [
        book(9, network=definition()),
        RuleBook(network=NETWORK.id, rules=[later(900, 0, version=0)], known_to=9),
        book(9, later(600, 40, version=2)),
        book(9, later(600, 40), later(700, 39, version=2)),
    ],
    ids=["other network", "other definition", "gap", "heights falling"],
)
def test_rules_that_can_not_be_this_network_s_are_refused(tmp_path: Path, wrong: RuleBook) -> None:
    async def body(airdropd: Rulebook, client: Client) -> None:
        keeper = RuleKeeper(tmp_path / "rules.json", client, NETWORK)
        airdropd.book = wrong
        assert (await keeper.refresh()).book == first_book(NETWORK).book
        assert "not this network's" in keeper.trouble

    with_airdropd(tmp_path, body)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"network": 1}', book(9, network=definition()).model_dump_json().encode()]
)
def test_a_damaged_file_is_no_obstacle(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "rules.json").write_bytes(text)
    keeper = RuleKeeper(tmp_path / "rules.json", Client(tmp_path / "airdropd.sock"), NETWORK)
    assert keeper.book.book == first_book(NETWORK).book
    assert Book(keeper.book.book).difference(first_book(NETWORK)) is None
