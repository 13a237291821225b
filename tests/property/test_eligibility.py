"""Eligibility against definitions that are slow and obvious, for any facts in any order."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dux_registryd.bondplan import LEAST, MARGIN_PCT, Due, Horizon, due, lasts
from dux_registryd.work import MIGRATIONS, Ledger
from duxcommon.api.airdropd import RuleBook
from duxcommon.api.flopd import BondFact, Place, SettlementFact
from duxcommon.coin.script import pubkey_of
from duxcommon.db import Store
from duxcommon.eligibility import Demands, Lock, Score, Window, Work, admitted, covers, score
from duxcommon.money import COIN, DUST, tax
from duxcommon.rulebook import Book, first_rules
from tests.support.network import definition

NETWORK = definition()
FIRST = first_rules(NETWORK)
FUND = FIRST.fund_script
OTHER_FUND = "a914" + "77" * 20 + "87"
KEYS = [pubkey_of(bytes([n]) * 32) for n in range(1, 5)]


# --- the cap --------------------------------------------------------------------------------------------------------


def brute_force(qualified: list[Score], demands: Demands) -> tuple[int, set[bytes]]:
    """Try the level with the equal part and every key's own cap as the level of all who can reach it, at least half."""
    if not qualified:
        return 0, set()
    top = demands.shares_paid + max(demands.spendable // len(qualified), DUST)
    best: tuple[int, int] = (0, 0)
    found: tuple[int, set[bytes]] = (0, set())
    for level in {top, *(demands.capped(one.tax) for one in qualified)}:
        keys = {one.pubkey for one in qualified if demands.capped(one.tax) >= level}
        if level <= top and 2 * len(keys) >= len(qualified) and (level * len(keys), len(keys)) > best:
            best, found = (level * len(keys), len(keys)), (level - demands.shares_paid, keys)
    return found if found[0] >= DUST else (0, set())


TAXES = st.lists(st.integers(1, 60 * DUST), max_size=30)
AMOUNTS = st.integers(0, 2000 * DUST)


@given(TAXES, AMOUNTS, st.integers(0, 60 * DUST), st.integers(100, 900), st.randoms(use_true_random=False))
def test_the_share_pays_out_the_most_of_the_window_under_the_cap_and_never_more_than_the_fund_holds(
    taxes: list[int], spendable: int, paid: int, cap: int, random: Any
) -> None:
    keys = [Score(bytes([2, n]) + b"\0" * 31, tax=tax, epochs=9, bond=1) for n, tax in enumerate(taxes)]
    demands = Demands(0, 0, 0, cap, shares_paid=paid, spendable=spendable)
    found = admitted(keys, demands)
    assert (found.share, {one.pubkey for one in found.keys}) == brute_force(keys, demands)
    assert found.share * len(found.keys) <= max(spendable, len(keys) * DUST)
    assert all(one.tax * cap // 100 >= paid + found.share for one in found.keys)
    random.shuffle(keys)
    again = admitted(keys, demands)
    assert (again.share, set(again.keys)) == (found.share, set(found.keys))


# --- the database says what the definition says ---------------------------------------------------------------------

HEIGHT = st.integers(1, 120)
WORKS = st.lists(st.tuples(st.integers(0, 3), HEIGHT, st.integers(DUST, 10**17)), max_size=40)
LOCKS = st.lists(st.tuples(st.integers(0, 3), HEIGHT, st.integers(1, 300), st.integers(1, 10**18)), max_size=20)


def work_fact(number: int, key: int, height: int, paid: int, fund: str = FUND) -> SettlementFact:
    """Work whose tax is `paid` exactly: the gross is the smallest at which 5 % make that."""
    gross = paid * 20 if paid > DUST else DUST * 2
    assert tax(gross, 500) == paid
    return SettlementFact(
        at=Place(height=height, index=number), txid=f"{number:064x}", provider=KEYS[key].hex(), buyer=KEYS[0].hex(),
        arbiter=KEYS[1].hex(), lock_height=10_000, payout=min(gross - paid, 10**18), tax=paid, change=0, fee=0,
        awarded=False, fund_script=fund, deposits=[max(0, height - 1)],
    )  # fmt: skip


def bond_fact(number: int, key: int, height: int, lock: int, amount: int, paid: dict[str, int]) -> BondFact:
    return BondFact(
        at=Place(height=height, index=number), txid=f"{number:064x}", vout=0, pubkey=KEYS[key].hex(), lock_height=lock,
        amount=amount, paid=paid,
    )  # fmt: skip


class Facts:
    """A ledger in a folder of its own, fed by hand."""

    def __init__(self, folder: Path, book: Book | None = None) -> None:
        self.store = Store(folder / "work.sqlite", MIGRATIONS)
        self.ledger = Ledger(self.store)
        self.kinds = self.ledger.kinds()
        self.book = book or Book(RuleBook(network=NETWORK.id, rules=[FIRST], known_to=10_000))

    async def feed(self, work: list[SettlementFact], bonds: list[BondFact]) -> None:
        await self.ledger.use(self.book)
        for kind, facts in zip(self.kinds, (work, bonds), strict=True):
            ordered = sorted(facts, key=lambda fact: (fact.at.height, fact.at.index))
            await self.store.write(lambda c, kind=kind, ordered=ordered: kind.apply(c, ordered))

    async def undo(self, above: int) -> None:
        for kind in self.kinds:
            await self.store.write(lambda c, kind=kind: kind.undo(c, above))


@settings(max_examples=40, deadline=None)
@given(WORKS, LOCKS, st.integers(1, 130), st.integers(20, 150), HEIGHT)
def test_the_database_adds_up_what_the_definition_adds_up(
    works: list[tuple[int, int, int]], locks: list[tuple[int, int, int, int]], height: int, blocks: int, above: int
) -> None:
    async def main(folder: Path) -> None:
        facts = Facts(folder)
        # The payout of a huge gross is out of range; what is under test are the sums.
        work = [work_fact(n, *one[:2], min(one[2], 10**16)) for n, one in enumerate(works)]
        bonds = [bond_fact(n, *one, {FUND: DUST}) for n, one in enumerate(locks)]
        await facts.feed(work, bonds)
        window = Window(height, blocks)
        check(facts, work, bonds, window)
        await facts.undo(above)
        check(facts, [f for f in work if f.at.height <= above], [f for f in bonds if f.at.height <= above], window)
        await facts.store.close()

    def check(facts: Facts, work: list[SettlementFact], bonds: list[BondFact], window: Window) -> None:
        expected = {}
        for key in KEYS:
            of_key = [Work(f.at.height, f.tax) for f in work if f.provider == key.hex()]
            held = [Lock(f.at.height, f.lock_height, f.amount) for f in bonds if f.pubkey == key.hex()]
            expected[key] = score(key, of_key, held, window)
            assert facts.ledger.of_key(key, window)[0] == expected[key]
        _, found = facts.ledger.scores(window)
        assert {one.pubkey: one for one in found} == {key: one for key, one in expected.items() if one.tax}

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def test_rules_that_changed_are_applied_to_what_was_judged_before_from_their_first_block_on(tmp_path: Path) -> None:
    dearer = FIRST.model_copy(
        update={
            "version": 1,
            "from_height": 50,
            "proposal": "ab" * 32,
            "parameters": FIRST.parameters.model_copy(update={"tax_bps": 600}),
        }
    )

    def at_rate(number: int, height: int, deposit: int, bps: int) -> SettlementFact:
        part = tax(10 * COIN, bps)
        made = work_fact(number, 0, height, 2 * DUST)
        return made.model_copy(update={"payout": 10 * COIN - part, "tax": part, "deposits": [deposit]})

    work = [
        at_rate(1, 40, 39, 500),
        at_rate(2, 60, 55, 500),  # within the grace of a deposit that was on its way
        at_rate(3, 300, 49 + 144, 500),  # the last deposit that may carry the old rate
        at_rate(4, 300, 50 + 144, 500),  # a block later
        at_rate(5, 300, 60, 600),
        at_rate(6, 300, 49, 600),  # an old channel does not know the new rate
    ]

    def counted(facts: Facts) -> list[int]:
        rows = facts.store.read(
            lambda c: c.execute("SELECT place FROM settlement WHERE counted ORDER BY place").fetchall()
        )
        return [row[0] for row in rows]

    async def main() -> None:
        with_change = Book(RuleBook(network=NETWORK.id, rules=[FIRST, dearer], known_to=10_000))
        facts = Facts(tmp_path)
        await facts.feed(work, [])
        assert counted(facts) == [1, 2, 3, 4]
        before = facts.ledger.state().generation
        await facts.ledger.use(with_change)
        assert counted(facts) == [1, 2, 3, 5]
        assert facts.ledger.state().generation != before
        await facts.ledger.use(facts.book)
        assert counted(facts) == [1, 2, 3, 4]
        await facts.store.close()

    asyncio.run(main())


def test_a_rule_book_that_only_grew_judges_nothing_again(tmp_path: Path) -> None:
    async def main() -> None:
        facts = Facts(tmp_path)
        await facts.feed([work_fact(1, 0, 40, COIN)], [])
        before = facts.ledger.state().generation
        await facts.ledger.use(Book(RuleBook(network=NETWORK.id, rules=[FIRST], known_to=20_000)))
        assert facts.ledger.state().generation == before
        await facts.store.close()

    asyncio.run(main())


def test_after_the_guardians_changed_the_old_address_counts_for_12_000_blocks(tmp_path: Path) -> None:
    moved = FIRST.model_copy(update={"version": 1, "from_height": 50, "proposal": "ab" * 32, "fund_script": OTHER_FUND})
    book = Book(RuleBook(network=NETWORK.id, rules=[FIRST, moved], known_to=20_000))
    places = [(1, 49, FUND), (2, 49, OTHER_FUND), (3, 50, OTHER_FUND), (4, 12_049, FUND), (5, 12_050, FUND)]

    async def main() -> None:
        facts = Facts(tmp_path, book)
        await facts.feed(
            [work_fact(n, 0, height, COIN, fund) for n, height, fund in places],
            [bond_fact(n, 1, height, 50_000, n, {fund: DUST}) for n, height, fund in places],
        )
        _, found = facts.ledger.scores(Window(20_000, 20_000))
        assert [one.tax for one in found] == [3 * COIN]
        assert [bond.amount for bond in facts.ledger.bonds(KEYS[1]) if bond.counted] == [1, 3, 4]
        await facts.store.close()

    asyncio.run(main())


def test_a_bond_counts_only_when_its_transaction_paid_the_fund_a_hundredth(tmp_path: Path) -> None:
    paid: list[dict[str, int]] = [
        {},
        {FUND: DUST - 1},
        {OTHER_FUND: COIN},
        {FUND: DUST},
        {OTHER_FUND: COIN, FUND: COIN},
    ]

    async def main() -> None:
        facts = Facts(tmp_path)
        await facts.feed([], [bond_fact(n, 0, 10, 1000, n + 1, one) for n, one in enumerate(paid)])
        assert [bond.amount for bond in facts.ledger.bonds(KEYS[0]) if bond.counted] == [4, 5]
        await facts.store.close()

    asyncio.run(main())


# --- bonds are made in time and never too large ---------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 400), st.integers(3, 24), st.lists(st.integers(DUST, 5 * COIN), min_size=60, max_size=60))
def test_bonds_made_when_due_cover_every_window_and_are_never_larger_than_needed(
    blocks: int, windows: int, prices: list[int]
) -> None:
    epoch = max(1, blocks // 10)

    def price(opens: int) -> int:
        return prices[opens // epoch % len(prices)]

    start, locks = 5 * blocks, []
    for tip in range(start, start + 6 * blocks):
        horizon = Horizon(tip, blocks)
        asked = max(price(tip), price(horizon.next_price))
        made = due(horizon, asked, locks, windows * blocks)
        if made is not None:
            held = sum(lock.amount for lock in locks if lock.lock_height >= horizon.locked_until)
            assert made.amount <= max((asked - held) * (100 + MARGIN_PCT) // 100, LEAST)
            # The next block holds it.
            locks.append(Lock(tip + 1, made.lock_height, made.amount))
        if tip > start:
            ends = Window(tip + blocks, blocks)
            assert sum(lock.amount for lock in locks if covers(lock, ends)) >= price(tip)


def test_a_bond_is_made_a_tenth_of_a_window_before_the_last_one_lapses_at_the_latest() -> None:
    locks = [Lock(1000, 1600, COIN)]
    last = lasts(locks, COIN, 100)
    assert last == 1400
    begun = next(tip for tip in range(1000, 1600) if due(Horizon(tip, 100), COIN, locks, 600) is not None)
    assert 10 <= last - begun <= 20
    assert due(Horizon(begun, 100), COIN, locks, 600) == Due(COIN * 110 // 100, begun + 600)
