"""Values of governed parameters as people read and write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duxcommon.errors import InvalidParams
from duxcommon.money import COIN
from duxcommon.parameters import BY_NAME
from duxcommon.units import read, written, written_range


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("tax_bps", 450, "4.5 %"),
        ("airdrop_threshold", 150 * COIN, "150.00 FLOP"),
        ("window_blocks", 43_200, "43200 blocks"),
        ("epochs_needed", 1, "1 tenth of the window"),
        ("epochs_needed", 3, "3 tenths of the window"),
        ("share_cap_pct", 2400, "2400 %"),
        ("quorum_pct", 20, "20 % of the electorate"),
        ("quorum_keys", 1, "1 key"),
    ],
)
def test_a_value_is_written_in_the_unit_that_people_think_in(name: str, value: int, text: str) -> None:
    assert written(value, BY_NAME[name].governed.unit) == text


def test_a_range_has_its_unit_once() -> None:
    assert written_range(10, 900, "blocks") == "10 to 900 blocks"
    assert written_range(0, 2000, "hundredths of a percent") == "0 to 20 %"
    assert written_range(COIN, 3 * COIN, "koinu") == "1.00 to 3.00 FLOP"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tax_bps", "4.5%", 450),
        ("tax_bps", "4.05 %", 405),
        ("tax_bps", "450", 450),
        ("share_cap_pct", "2400%", 2400),
        ("quorum_pct", "20 %", 20),
        ("airdrop_threshold", "150 FLOP", 150 * COIN),
        ("vote_blocks", "60", 60),
    ],
)
def test_what_people_write_is_understood(name: str, text: str, value: int) -> None:
    assert read(text, BY_NAME[name].governed.unit) == value


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("tax_bps", "4,5%", "4.5% or 450"),
        ("share_cap_pct", "2400.5%", "60%"),
        ("vote_blocks", "60%", "450"),
        ("quorum_keys", "-1", "450"),
    ],
)
def test_what_is_not_a_value_is_refused_with_one_to_copy(name: str, text: str, hint: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        read(text, BY_NAME[name].governed.unit)
    assert hint in refused.value.hint


@given(st.sampled_from(sorted(BY_NAME)), st.data())
def test_a_percentage_or_an_amount_is_read_as_it_was_written(name: str, data: st.DataObject) -> None:
    one = BY_NAME[name]
    value = data.draw(st.integers(one.low, one.high))
    unit = one.governed.unit
    text = written(value, unit)
    if unit in ("koinu", "percent", "hundredths of a percent"):
        assert read(text, unit) == value
    else:
        assert text.split()[0] == str(value)
