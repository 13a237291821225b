"""Whether the wallet can sign, known without asking flopd before each call."""

import asyncio
import math
import time

from duxcommon.errors import DuxError, WalletLocked

from .ports import Flopd

KNOWN_S = 0.5
"""So long after the wallet signed something, or said that it can, it is not asked again."""


class Keys:
    """Keeps the last answer. A locked wallet is asked each time, so that an unlock counts at once."""

    def __init__(self, flopd: Flopd) -> None:
        self._flopd = flopd
        self._open_at = -math.inf
        self._asking = asyncio.Lock()

    def signed(self) -> None:
        """The wallet has signed something just now."""
        self._open_at = time.monotonic()

    def refused(self) -> None:
        """The wallet would not sign: what was known of it is no longer true."""
        self._open_at = -math.inf

    async def locked(self) -> WalletLocked | None:
        """The error that new work is refused with while the wallet is locked, else None; flopd may be away."""
        if self._known():
            return None
        async with self._asking:
            if self._known():
                return None
            try:
                if (why := await self._flopd.locked()) is not None:
                    return WalletLocked(f"the wallet is locked: nothing can be paid, so nothing is held ({why})")
            except DuxError:
                # Open channels go on without flopd; what they owe is paid once it is back.
                pass
            self.signed()
        return None

    def _known(self) -> bool:
        return time.monotonic() - self._open_at < KNOWN_S
