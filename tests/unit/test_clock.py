"""What is believed of the machine's clock, and what a daemon does while it is wrong."""

import pytest

from dux_registryd.signing import Signer
from duxcommon.clock import EARLIEST, Clock
from duxcommon.errors import ClockWrong
from duxcommon.identity import Identity

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


class Machine:
    """A clock that people set, and one that only runs."""

    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.up = 100.0
        self.clock = Clock(lambda: self.wall, lambda: self.up)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


def test_a_clock_that_runs_as_time_does_is_believed_for_years() -> None:
    machine = Machine(NOW)
    for _ in range(10):
        machine.passes(YEAR)
        assert machine.clock.fault() is None
        machine.clock.check()


def test_a_clock_before_this_software_can_have_been_installed_is_wrong_until_it_is_set() -> None:
    machine = Machine(1.0)
    fault = machine.clock.fault()
    assert fault is not None
    assert "it says 1970-01-01 00:00 UTC" in fault
    assert "timedatectl set-ntp true" in fault
    with pytest.raises(ClockWrong) as caught:
        machine.clock.check()
    assert caught.value.retry
    assert "timedatectl" in caught.value.hint
    machine.passes(5)
    machine.wall = NOW
    assert machine.clock.fault() is None
    machine.clock.check()
    # From now on it is measured like any other.
    machine.wall += YEAR
    assert machine.clock.fault() is not None


@pytest.mark.parametrize(
    ("jump", "words"), [(73 * YEAR, "moved forward by 26645 days"), (-YEAR / 2, "moved back by 182")]
)
def test_a_clock_that_jumps_is_not_believed_until_it_is_back(jump: float, words: str) -> None:
    machine = Machine(NOW)
    machine.wall += jump
    fault = machine.clock.fault()
    assert fault is not None
    assert words in fault
    assert "systemctl restart dux.target" in fault
    assert not machine.clock.believable()
    machine.clock.check()  # It may be right now: work goes on.
    machine.passes(3600)
    assert not machine.clock.believable()
    machine.wall -= jump
    assert machine.clock.believable()


def test_small_corrections_and_a_change_to_summer_time_are_no_jump() -> None:
    machine = Machine(NOW)
    for correction in (30.0, -3600.0, 3600.0, 7200.0):
        machine.wall += correction
        assert machine.clock.fault() is None


def test_nothing_is_signed_with_a_date_that_is_certainly_false() -> None:
    machine = Machine(float(EARLIEST - 1))
    signer = Signer(Identity.generate(), "ab" * 32, "testnet", {}, machine.clock)
    with pytest.raises(ClockWrong, match="nothing can be signed"):
        signer.sign("node", 1, {})
    machine.passes(1)
    assert signer.sign("node", 1, {}).seq == 1
