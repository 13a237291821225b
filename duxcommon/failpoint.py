"""Named points at which a crash test ends the process with SIGKILL; they cost one comparison otherwise."""

import os
import signal

ARMED = os.environ.get("DUXNET_FAILPOINT", "")
"""`daemon:point`, or `daemon:point:n` to die at the n-th pass."""

_passes: dict[str, int] = {}


def arm(name: str) -> None:
    """Set the point for this process (a fork-server's child does this after the fork)."""
    global ARMED
    ARMED = name
    _passes.clear()


def hit(name: str) -> None:
    """Die here, as by kill -9, when `name` is the armed point."""
    if not ARMED or not ARMED.startswith(name):
        return
    wanted = ARMED[len(name) :]
    if wanted and not wanted.startswith(":"):
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(wanted[1:] or 1):
        os.kill(os.getpid(), signal.SIGKILL)
