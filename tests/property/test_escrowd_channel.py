"""Arithmetic that must hold for any deposits and prices."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dux_escrowd import channel as rules
from dux_escrowd import contract
from dux_escrowd.channel import ChainDeposit, Line
from duxcommon.coin import tx as coin_tx
from duxcommon.errors import DuxError
from duxcommon.money import COIN

deposits = st.lists(
    st.builds(
        ChainDeposit,
        txid=st.integers(0, 2**64).map(lambda n: f"{n:064x}"),
        vout=st.integers(0, 3),
        amount=st.integers(1, 2000 * COIN),
        height=st.none() | st.integers(1, 300),
        spender=st.none() | st.just("f" * 64),
    ),
    max_size=24,
    unique_by=lambda d: (d.txid, d.vout),
)


@given(deposits, st.integers(1, 500))
def test_what_counts_is_confirmed_unspent_and_deep_enough_for_all_of_it(seen: list[ChainDeposit], tip: int) -> None:
    view = rules.cover(seen, tip)
    assert len(view.counted) <= rules.MAX_DEPOSITS
    assert all(d.spender is None and d.height is not None for d in view.counted)
    assert view.usable == coin_tx.usable(view.counted)
    if view.counted:
        assert min(d.confirmations(tip) for d in view.counted) >= rules.depth_for(view.usable)


@given(deposits, st.integers(1, 500), st.integers(1, 200))
def test_more_blocks_never_make_less_usable(seen: list[ChainDeposit], tip: int, blocks: int) -> None:
    assert rules.cover(seen, tip + blocks).usable >= rules.cover(seen, tip).usable


@given(st.integers(1, 30 * COIN), st.integers(COIN, 40 * COIN), st.integers(0, 5 * COIN))
def test_a_first_deposit_takes_the_price_and_keeps_the_cap(price: int, cap: int, least: int) -> None:
    try:
        wanted = rules.first_deposit(price, cap, least)
    except DuxError:
        assert max(price, least) > cap
        return
    assert max(price, least) <= wanted <= cap


@given(st.integers(0, 20 * COIN), st.integers(0, 20 * COIN), st.integers(0, 20 * COIN), st.integers(1, 30 * COIN))
def test_a_top_up_makes_room_for_the_price_and_keeps_the_cap(gross: int, held: int, pending: int, price: int) -> None:
    line = Line(role="buyer", state="OPEN", usable=pending, gross=min(gross, pending), held=min(held, pending))
    extra = rules.top_up(line, pending, price, 20 * COIN)
    assert extra == 0 or extra >= rules.MIN_INPUT, "the deposit would not count"
    if extra:
        assert pending + extra - line.gross - line.held >= price
        assert pending + extra <= 20 * COIN


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 1, 333, 500, 777, 2000]))
def test_ten_thousand_odd_prices_are_split_exactly(seed: int, tax_bps: int) -> None:
    random = Random(seed)
    line = Line(role="buyer", state="OPEN", usable=10**15, max_unpaid=1)
    booked = contract.shares(0, tax_bps)
    moved_provider = moved_tax = 0
    total = 0
    for _ in range(10_000):
        price = random.randrange(1, 10_000_019)
        line = rules.sign(rules.reserve(line, price), [price])
        total += price
        now = contract.shares(line.gross, tax_bps)
        assert now.provider >= booked.provider >= 0
        assert now.tax >= booked.tax >= 0
        moved_provider += now.provider - booked.provider
        moved_tax += now.tax - booked.tax
        booked = now
    assert line.gross == total == moved_provider + moved_tax
    assert moved_tax == max(total * tax_bps // 10_000, 1_000_000)
    assert (line.held, line.open, line.seq) == (0, 0, 10_000)
