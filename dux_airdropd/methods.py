"""`fund.*` and `network.*`: thin, the work is in fund.py and duxcommon.network."""

import time
from typing import TYPE_CHECKING

from duxcommon.api.airdropd import FundStatus, NetworkInfo
from duxcommon.rpc import method

if TYPE_CHECKING:
    from .__main__ import AirdropDaemon


class FundMethods:
    """The community fund."""

    def __init__(self, daemon: "AirdropDaemon") -> None:
        self._daemon = daemon

    @method("fund.status", access="read")
    async def status(self) -> FundStatus:
        """Show what the community fund holds, what it has received and how far it is from paying out."""
        daemon = self._daemon
        confirmed, pending, received, payments = daemon.fund.totals()
        threshold = daemon.network.parameters.airdrop_threshold
        return FundStatus(
            address=daemon.fund_address,
            confirmed=confirmed,
            pending=pending,
            received=received,
            payments=payments,
            threshold=threshold,
            missing=max(0, threshold - confirmed),
            guardians=[member.node for member in daemon.network.guardians],
            guardians_m=daemon.network.guardians_m,
            height=daemon.fund.height(),
            network=daemon.label,
        )


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
            fund_address=self._daemon.fund_address,
            tax_bps=network.parameters.tax_bps,
            min_tax=network.parameters.min_tax,
            airdrop_threshold=network.parameters.airdrop_threshold,
            guardians=[member.node for member in network.guardians],
            guardians_m=network.guardians_m,
            arbiters=[member.node for member in network.arbiters],
            time=int(time.time()),
        )
