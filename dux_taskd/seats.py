"""Seats of a provider: who has been admitted gets one, and its turn comes in the order of admission."""

import asyncio
from collections import deque
from collections.abc import Callable

from .capacity import Lent, Use, admit, fits


class Seat:
    """One admitted task; `need_mb` is the memory that its manifest asks for."""

    def __init__(self, seats: "Seats", need_mb: int) -> None:
        self._seats = seats
        self.need_mb = need_mb
        self.granted = asyncio.Event()

    async def turn(self) -> None:
        """Wait until the task may start."""
        await self.granted.wait()

    def leave(self) -> None:
        """Give the seat back; the next in line starts. Harmless when repeated."""
        self._seats.leave(self)


class Seats:
    """All seats of this node, within what `lent` says now."""

    def __init__(self, lent: Callable[[], Lent]) -> None:
        self._lent = lent
        self._running: set[Seat] = set()
        self._waiting: deque[Seat] = deque()

    @property
    def use(self) -> Use:
        """What is taken now."""
        return Use(len(self._running), len(self._waiting), sum(seat.need_mb for seat in self._running))

    def take(self, need_mb: int, *, regardless: bool = False) -> Seat:
        """A seat for one more task; `regardless` of the limits for what was admitted before a restart.

        Raises ProviderPaused, TaskTooLarge or ProviderBusy.
        """
        if not regardless:
            admit(self._lent(), self.use, need_mb)
        seat = Seat(self, need_mb)
        self._waiting.append(seat)
        self.wake()
        return seat

    def leave(self, seat: Seat) -> None:
        """See Seat.leave."""
        self._running.discard(seat)
        if seat in self._waiting:
            self._waiting.remove(seat)
        self.wake()

    def wake(self) -> None:
        """Start those whose turn it is; also after the limits have changed."""
        while self._waiting:
            seat = self._waiting[0]
            # What was admitted under higher limits runs alone rather than never.
            if not fits(self._lent(), self.use, seat.need_mb) and (self._running or self._lent().tasks == 0):
                return
            self._waiting.popleft()
            self._running.add(seat)
            seat.granted.set()
