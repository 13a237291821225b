"""`fund.*` and `network.*`: thin, the work is in view.py, fund.py and duxcommon.network."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from duxcommon.api.airdropd import FundAt, FundStatus, NetworkInfo
from duxcommon.coin.fund import fund_address
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


class NetworkMethods:
    """The network that this node is on."""

    def __init__(self, daemon: "AirdropDaemon") -> None:
        self._daemon = daemon

    @method("network.show", access="read")
    async def show(self) -> NetworkInfo:
        """Show the definition of the network that this node is on."""
        network = self._daemon.network
        return NetworkInfo(
            id=network.id,
            name=network.name,
            chain=network.chain,
            genesis=network.genesis,
            birth_height=network.birth_height,
            worthless=network.worthless,
            fund_address=fund_address(network),
            tax_bps=network.parameters.tax_bps,
            min_tax=network.parameters.min_tax,
            airdrop_threshold=network.parameters.airdrop_threshold,
            guardians=[member.node for member in network.guardians],
            guardians_m=network.guardians_m,
            arbiters=[member.node for member in network.arbiters],
            time=int(time.time()),
        )
