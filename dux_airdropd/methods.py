"""`fund.*`: thin, the work is in view.py and fund.py."""

import asyncio
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from duxcommon.api.airdropd import FundAt, FundStatus
from duxcommon.errors import RulesPending
from duxcommon.rpc import method

if TYPE_CHECKING:
    from .daemon import AirdropDaemon

Height = Annotated[int, Field(ge=0, le=499_999_999)]


class FundMethods:
    """The community fund."""

    def __init__(self, daemon: "AirdropDaemon") -> None:
        self._daemon = daemon

    @method("fund.status", access="read", errors=(RulesPending,))
    async def status(self) -> FundStatus:
        """Show what the community fund holds, how far it is from paying out, and which guardians have signed."""
        return await self._daemon.view.status()

    @method("fund.at", access="daemon", errors=(RulesPending,), example={"height": 43200})
    async def at(self, height: Height, ahead: bool = False) -> FundAt:
        """Tell what eligibility at a height depends on: what the fund could pay, what it paid, the bond's price.

        `ahead` answers for heights to come as well, with what is known of them by now.
        """
        return await asyncio.to_thread(self._daemon.fund.at, height, ahead=ahead)
