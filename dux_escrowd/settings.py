"""The configuration of dux-escrowd (`escrowd.yaml`)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from duxcommon.api.common import Koinu, PubKey
from duxcommon.config import Settings
from duxcommon.money import COIN

from .channel import LAST_BLOCKS


class EscrowSettings(Settings):
    """Limits of what is risked with one other node, and what this node asks of buyers."""

    deposit_cap: Koinu = 20 * COIN
    """As a buyer: most that is locked up in one channel, beside the closing fee. In koinu."""
    min_deposit: Koinu = COIN // 5
    """As a provider: least that a buyer must be able to sign away. Below 0.20 FLOP the tax is more than 5 %."""
    max_unpaid: Annotated[int, Field(ge=1, le=1000)] = 1
    """As a provider: how many ordered and unpaid calls one buyer may have open."""
    write_off_h: Annotated[int, Field(ge=1, le=8760)] = 24
    """As a provider: after so many hours a result that was never paid for is given up, and its place is free again."""
    max_channels: Annotated[int, Field(ge=1, le=1000)] = 8
    """As a provider: how many channels one buyer may have with this node at a time."""
    lock_blocks: Annotated[int, Field(ge=146, le=100_000)] = 10_080
    """Blocks from opening a channel until the buyer can take its deposit back alone."""
    close_margin: Annotated[int, Field(ge=1, le=50_000)] = 720
    """As a provider: this many blocks before the lock height the channel is closed."""
    arbiters: list[PubKey] = []
    """The network's arbiters that this node trusts; empty trusts all of them."""

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.close_margin + LAST_BLOCKS >= self.lock_blocks:
            raise ValueError(
                f"lock_blocks ({self.lock_blocks}) must be above close_margin ({self.close_margin}) and {LAST_BLOCKS} "
                "blocks for disputes"
            )
        if self.min_deposit > self.deposit_cap:
            raise ValueError("min_deposit must not be above deposit_cap")
        return self
