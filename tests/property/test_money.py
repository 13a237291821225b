"""Money adds up, whatever the amounts."""

from hypothesis import given
from hypothesis import strategies as st

from duxcommon.errors import InvalidParams
from duxcommon.money import MAX_MONEY, format_flop, parse_flop, split

amounts = st.integers(min_value=0, max_value=MAX_MONEY)
rates = st.integers(min_value=0, max_value=2000)


@given(amounts, rates)
def test_a_split_is_exact_and_takes_what_the_rate_says(gross: int, tax_bps: int) -> None:
    parts = split(gross, tax_bps, min_tax=0)
    assert parts.provider + parts.tax == gross
    assert parts.provider >= 0
    # At most one koinu below the exact share, never above it.
    assert gross * tax_bps - 10_000 < parts.tax * 10_000 <= gross * tax_bps


@given(amounts, rates, st.integers(min_value=0, max_value=10**9))
def test_a_split_with_a_least_tax_is_exact_too(gross: int, tax_bps: int, min_tax: int) -> None:
    parts = split(gross, tax_bps, min_tax)
    assert parts.provider + parts.tax == gross
    assert parts.tax == max(min_tax, gross * tax_bps // 10_000)


@given(st.lists(st.integers(min_value=1, max_value=10**9), min_size=1, max_size=60), rates)
def test_the_parts_of_a_growing_sum_never_shrink(prices: list[int], tax_bps: int) -> None:
    gross, before = 0, split(0, tax_bps, 0)
    for price in prices:
        gross += price
        now = split(gross, tax_bps, 0)
        assert now.provider >= before.provider
        assert now.tax >= before.tax
        assert (now.provider - before.provider) + (now.tax - before.tax) == price
        before = now


@given(amounts)
def test_what_is_written_is_read_back(koinu: int) -> None:
    text = format_flop(koinu)
    assert parse_flop(text) == koinu
    whole, _, decimals = text.partition(".")
    assert 2 <= len(decimals) <= 8
    assert whole == str(int(whole))
    assert format_flop(-koinu) == ("-" + text if koinu else text)


@given(st.text(max_size=24))
def test_any_text_is_an_amount_or_a_clear_error(text: str) -> None:
    try:
        koinu = parse_flop(text)
    except InvalidParams:
        return
    assert text.strip().isascii()
    assert 0 <= koinu <= MAX_MONEY
