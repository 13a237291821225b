"""Amounts: text in, text out, and the community fund's part."""

import pytest

from duxcommon.errors import InvalidParams
from duxcommon.money import COIN, DUST, MAX_MONEY, format_flop, parse_flop, split, tax


@pytest.mark.parametrize(
    ("text", "koinu"),
    [
        ("0", 0),
        ("10", 10 * COIN),
        ("0.5", COIN // 2),
        ("0.00000001", 1),
        ("9.99999999", 999_999_999),
        (" 1.50 ", 150_000_000),
        ("00.10", 10_000_000),
        ("10000000000", MAX_MONEY),
    ],
)
def test_flop_text_is_read_to_the_koinu(text: str, koinu: int) -> None:
    assert parse_flop(text) == koinu


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "1 000", "0x10", "1_000", "NaN", "inf", "0.000000001",
        "10000000000.00000001", "99999999999999999999", "1.5 FLOP", "1\n.5", "\u0661", "1.\u0662", "\uff11", "1\x00",
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_flop(text)
    assert caught.value.code == -32602
    assert "0.5" in caught.value.hint


@pytest.mark.parametrize(
    ("koinu", "text"),
    [
        (0, "0.00"),
        (1, "0.00000001"),
        (-1, "-0.00000001"),
        (COIN, "1.00"),
        (451_000, "0.00451"),
        (950_000_000, "9.50"),
        (-950_000_000, "-9.50"),
        (MAX_MONEY, "10000000000.00"),
    ],
)
def test_amounts_are_written_with_two_to_eight_decimals(koinu: int, text: str) -> None:
    assert format_flop(koinu) == text


def test_ten_flop_divide_into_nine_and_a_half_and_a_half() -> None:
    assert split(10 * COIN, 500) == (950_000_000, 50_000_000)


def test_the_tax_is_never_below_what_the_chain_relays() -> None:
    assert tax(COIN // 5, 500) == DUST
    assert tax(COIN // 5 - 1, 500) == DUST
    assert tax(COIN // 5 + 19, 500) == DUST
    assert tax(COIN // 5 + 20, 500) == DUST + 1
    # Below the tax itself nothing is left for the provider: such a channel can't be closed.
    assert split(DUST - 1, 500).provider == -1


def test_the_tax_of_a_sum_is_taken_once_and_not_call_by_call() -> None:
    # 10,000 calls of 7 koinu: rounded one by one, each would pay nothing or the least.
    assert split(10_000 * 7, 500, min_tax=0) == (66_500, 3_500)
    assert sum(split(7, 500, min_tax=0).tax for _ in range(10_000)) == 0


def test_fractions_of_a_koinu_stay_with_the_provider() -> None:
    assert split(100_000_019, 500) == (95_000_019, 5_000_000)
