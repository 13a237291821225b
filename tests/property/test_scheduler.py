"""The scheduler's choice, for any set of offers."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dux_taskd.scheduler import Need, choose, fault
from duxcommon.api.registryd import Provider
from duxcommon.errors import NoProvider, TooExpensive

NODES = [f"{n:064x}" for n in range(8)]
TASK = "ab" * 16

offers = st.lists(
    st.builds(
        Provider,
        node=st.sampled_from(NODES),
        name=st.just("n"),
        price=st.integers(0, 50),
        load_pct=st.integers(0, 400),
        latency_ms=st.none() | st.floats(0, 1000),
        live=st.booleans(),
        accepting=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda offer: offer.node,
)
needs = st.builds(
    Need,
    task=st.just(TASK),
    app=st.just("upscale"),
    max_price=st.integers(0, 50),
    buyer=st.sampled_from(NODES),
    pinned=st.none() | st.sampled_from(NODES),
    excluded=st.dictionaries(st.sampled_from(NODES), st.just("ProviderSilent"), max_size=3),
)


@given(offers, needs)
def test_the_chosen_provider_meets_every_condition(given_offers: list[Provider], need: Need) -> None:
    try:
        chosen = choose(given_offers, need)
    except (NoProvider, TooExpensive):
        assert all(fault(offer, need) for offer in given_offers)
        return
    assert chosen.live
    assert chosen.accepting
    assert chosen.price <= need.max_price
    assert chosen.node not in need.excluded
    assert chosen.node != need.buyer
    assert need.pinned in (None, chosen.node)


@given(offers, needs)
def test_a_refusal_counts_every_provider_once(given_offers: list[Provider], need: Need) -> None:
    assume(all(fault(offer, need) for offer in given_offers))
    with pytest.raises((NoProvider, TooExpensive)) as caught:
        choose(given_offers, need)
    assert sum(caught.value.details["failed"].values()) == len(given_offers) == caught.value.details["known"]


@given(offers, needs, st.randoms(use_true_random=False))
def test_the_order_of_the_offers_does_not_matter(given_offers: list[Provider], need: Need, random: object) -> None:
    def attempt(items: list[Provider]) -> str:
        try:
            return choose(items, need).node
        except (NoProvider, TooExpensive) as error:
            return error.name

    shuffled = list(given_offers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert attempt(given_offers) == attempt(shuffled)


@given(offers, needs)
def test_no_provider_that_is_cheaper_nearer_and_idler_is_passed_over(given_offers: list[Provider], need: Need) -> None:
    try:
        chosen = choose(given_offers, need)
    except (NoProvider, TooExpensive):
        return
    for other in given_offers:
        if fault(other, need) is None:
            better = (
                other.price < chosen.price
                and other.load_pct <= chosen.load_pct
                and (other.latency_ms or 250) <= (chosen.latency_ms or 250)
            )
            assert not better


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_too_expensive_names_the_cheapest_price(prices: list[int]) -> None:
    dear = [
        Provider(node=node, name="n", price=price, load_pct=0, latency_ms=1.0, live=True, accepting=True)
        for node, price in zip(NODES, prices, strict=False)
    ]
    need = Need(task=TASK, app="upscale", max_price=0, buyer="f" * 64)
    with pytest.raises(TooExpensive) as caught:
        choose(dear, need)
    assert caught.value.details["cheapest"] == min(prices)
    assert caught.value.details["failed"] == {"too expensive": len(dear)}
