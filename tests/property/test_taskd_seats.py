"""Seats of a provider, over any order of arrivals, departures and changes of what is lent."""

from hypothesis import given
from hypothesis import strategies as st

from dux_taskd.capacity import Lent, Use, accepting, load_pct
from dux_taskd.seats import Seat, Seats
from duxcommon.errors import ProviderBusy, ProviderPaused, TaskTooLarge

lents = st.builds(Lent, st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000), st.booleans())
events = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 1200)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("lend"), lents),
    ),
    max_size=40,
)


@given(lents, events)
def test_no_more_runs_and_waits_than_is_lent(first: Lent, steps: list[tuple[str, object]]) -> None:
    lent = first
    seats = Seats(lambda: lent)
    here: list[Seat] = []
    for name, value in steps:
        before = seats.use
        if name == "take":
            assert isinstance(value, int)
            try:
                here.append(seats.take(value))
            except ProviderPaused:
                assert lent.paused or lent.tasks == 0
            except TaskTooLarge:
                assert value > lent.memory_mb
            except ProviderBusy:
                assert before.queued >= lent.queue
            else:
                assert not lent.paused
                assert value <= lent.memory_mb
                assert seats.use.queued <= max(lent.queue, before.queued)
        elif name == "leave" and here:
            assert isinstance(value, int)
            here.pop(value % len(here)).leave()
        elif name == "lend":
            assert isinstance(value, Lent)
            lent = value
            seats.wake()
        use = seats.use
        assert use.running + use.queued == len(here)
        # Whoever runs under limits that were lowered meanwhile is not ended, but nobody joins.
        assert use.running <= max(lent.tasks, before.running, 1)
        if use.running > before.running and use.running > 1:
            assert use.running <= lent.tasks
            assert use.memory_mb <= lent.memory_mb


@given(lents, st.lists(st.integers(0, 1000), max_size=8))
def test_turns_come_in_the_order_of_admission_and_to_everybody(lent: Lent, needs: list[int]) -> None:
    seats = Seats(lambda: lent)
    taken: list[Seat] = []
    for need in needs:
        try:
            taken.append(seats.take(need))
        except (ProviderPaused, TaskTooLarge, ProviderBusy):
            continue
    for seat in taken:
        assert seat.granted.is_set(), "the first in line can run"
        granted = [other.granted.is_set() for other in taken]
        assert granted == sorted(granted, reverse=True), "nobody is overtaken"
        seat.leave()
        seat.leave()
    assert seats.use == Use()


@given(lents, st.integers(0, 8), st.integers(0, 8))
def test_what_is_told_of_the_load_fits_the_use(lent: Lent, running: int, queued: int) -> None:
    use = Use(running, queued)
    assert load_pct(lent, use) >= 0
    assert accepting(lent, use) <= (not lent.paused and lent.tasks > 0)
