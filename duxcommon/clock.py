"""Whether the machine's clock can be believed.

A machine without a battery for its clock wakes up in 1970 or in 2099 until the network has told it the time. What is
done about it stands in docs/decisions/clock.md: nothing is signed with a date that is certainly false, and nothing is
given up or deleted for its age while the clock has jumped.
"""

import time
from collections.abc import Callable

from .errors import ClockWrong

EARLIEST = 1_754_697_600
"""9 August 2025, when Debian 13 came out: no machine that runs this lives before it. Unix seconds."""
JUMP_S = 6 * 3600.0
"""A clock that was moved further than this while the daemon ran has jumped; less is a correction."""
SET_IT = "set it with `timedatectl set-ntp true` or `timedatectl set-time 'YYYY-MM-DD hh:mm:ss'`"


def _since_boot() -> float:
    """Seconds since the machine started, those of its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Compares the clock with the time that has really passed since this object was made."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._base = wall() - steady()
        self._wrong_at_first = wall() < EARLIEST

    def jump_s(self) -> float:
        """How far the clock was moved since the start, in seconds; setting one that was certainly wrong is no jump."""
        if self._wrong_at_first and self._wall() >= EARLIEST:
            self._base, self._wrong_at_first = self._wall() - self._steady(), False
        return self._wall() - self._steady() - self._base

    def fault(self) -> str | None:
        """What is wrong with the clock and what to do, for people; None when it can be believed."""
        now = self._wall()
        if now < EARLIEST:
            return (
                f"the clock of this machine is wrong, it says {_day(now)}: nothing is signed until it is set; {SET_IT}"
            )
        jump = self.jump_s()
        if abs(jump) <= JUMP_S:
            return None
        return (
            f"the clock was moved {'forward' if jump > 0 else 'back'} by {_span(abs(jump))} to {_day(now)}: nothing is "
            f"deleted or given up for its age. If it is wrong, {SET_IT}; if it is right now, restart the node "
            "(`systemctl restart dux.target`)"
        )

    def check(self) -> None:
        """Raises ClockWrong while the clock says a time before this software can have been installed."""
        if self._wall() < EARLIEST:
            raise ClockWrong(
                f"the clock of this machine says {_day(self._wall())}: nothing can be signed with that date"
            )

    def believable(self) -> bool:
        """Whether ages that follow from it may lead to something that can't be undone."""
        return self.fault() is None


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def _span(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} days" if seconds >= 2 * 86_400 else f"{seconds / 3600:.0f} hours"


CLOCK = Clock()
"""This process's, from its start on."""
