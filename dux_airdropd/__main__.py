"""Starts dux-airdropd."""

import asyncio
import sys
from collections.abc import Iterable, Sequence

from duxcommon.api.flopd import ChainStatus, NetworkLabel, Watched
from duxcommon.coin.fund import fund_address, fund_script
from duxcommon.config import Settings
from duxcommon.daemon import Daemon, run
from duxcommon.db import Store
from duxcommon.errors import DuxError

from .fund import MIGRATIONS, Fund
from .methods import FundMethods, NetworkMethods

REF = "community-fund"
CHAIN_WAIT_S = 25.0
RETRY_S = 2.0


class AirdropDaemon(Daemon):
    """Watch the community fund and show the network's rules."""

    name = "airdropd"
    settings_model = Settings

    async def start(self) -> None:
        self.label = NetworkLabel(name=self.network.name, chain=self.network.chain, worthless=self.network.worthless)
        self.fund_address = fund_address(self.network)
        self.store = Store(self.settings.state_dir / "airdropd.db", MIGRATIONS)
        self.fund = Fund(self.store)
        self._trouble = "the fund has not been read yet"
        self.spawn(self._follow(), "follow the fund")

    async def stop(self) -> None:
        if hasattr(self, "store"):
            await self.store.close()

    def methods(self) -> Iterable[object]:
        return [FundMethods(self), NetworkMethods(self)]

    def notes(self) -> list[str]:
        return [self._trouble] if self._trouble else []

    async def _follow(self) -> None:
        flopd = self.rpc("flopd")
        script = fund_script(self.network).hex()
        best = "0" * 64
        while True:
            try:
                since = self.fund.next_height()
                watch = {"script": script, "ref": REF, "birth_height": self.network.birth_height}
                if best == "0" * 64:
                    await flopd.call("chain.watch", Watched, watch)
                watched = await flopd.call("chain.watched", Watched, {"ref": REF, "min_height": since})
                await self.fund.take(watched, since)
                self._trouble = ""
                status = await flopd.call(
                    "chain.wait", ChainStatus, {"best": best, "timeout_s": CHAIN_WAIT_S}, timeout=CHAIN_WAIT_S + 30
                )
                best = status.best
            except DuxError as error:
                self._trouble = f"the fund can't be read: {error.message}"
                self.log.info(self._trouble, extra={"error": error.name})
                best = "0" * 64
                await asyncio.sleep(RETRY_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped."""
    return run(AirdropDaemon, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
