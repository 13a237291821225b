"""Switches that make the chain misbehave on purpose, so that its clients' answers to a bad Core can be tested."""

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["none", "refuse", "hang", "drop-reply"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(slots=True)
class Faults:
    """One fault at a time: which calls it hits (`method` None: all) and how often (`count` None: until lifted).

    refuse: HTTP 503 and nothing is done, as when Core's work queue is full. hang: nothing is done and no answer comes.
    drop-reply: the work is done and the connection closed without a reply.
    """

    mode: Mode = "none"
    method: str | None = None
    count: int | None = None

    def hit(self, method: str) -> Mode:
        """The fault for a call of this method, counted down."""
        if self.mode == "none" or method.startswith("devchain.") or self.method not in (None, method):
            return "none"
        mode = self.mode
        if self.count is not None:
            self.count -= 1
            if self.count <= 0:
                self.mode = "none"
        return mode
