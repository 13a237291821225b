"""dux-airdropd put together: one loop follows the chain, then come the rules, then the fund's transactions."""

import asyncio
from collections.abc import Iterable

from dux_governance import rows as votes
from dux_governance.governance import Governance
from duxcommon import follow
from duxcommon.api.flopd import NetworkLabel
from duxcommon.config import Settings
from duxcommon.daemon import Daemon
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.follow import Follower

from . import events, fund, rounds, signing
from .airdrop_methods import AirdropMethods
from .collecting import Collecting
from .drafts import Drafts
from .events import Events
from .fund import Fund
from .methods import FundMethods
from .ports import Flopd, Registryd
from .rounds import Rounds
from .signing import Signing
from .verify import Verifier
from .view import View, ref_of

CHAIN_WAIT_S = 25.0
RETRY_S = 2.0
NO_BLOCK = "0" * 64
MIGRATIONS = (
    follow.MIGRATION + fund.MIGRATION + signing.MIGRATION + rounds.MIGRATION + events.MIGRATION + votes.MIGRATION,
)


class AirdropDaemon(Daemon):
    """Watch the community fund, pay it out with the other guardians, and keep the network's rules."""

    name = "airdropd"
    settings_model = Settings
    drafts_model: type[Drafts] = Drafts
    """What computes the transactions."""

    async def start(self) -> None:
        network = self.network
        self.label = NetworkLabel(name=network.name, chain=network.chain, worthless=network.worthless)
        self.store = Store(self.settings.state_dir / "airdropd.sqlite", MIGRATIONS)
        self.flopd, self.registryd = Flopd(self.rpc("flopd")), Registryd(self.rpc("registryd"))
        self.rules = Governance(self.store, network, self.label, self.rpc, spawn=self.spawn, event=events.note)
        self.fund = Fund(self.store, network, self.rules)
        self.rules.connect(self.fund)
        self.drafts = self.drafts_model(network.id, self.fund, self.rules, self.registryd)
        self.signing = Signing(self.store, self.flopd, self.registryd, self.fund, self.rules, self.drafts)
        self.collecting = Collecting(self.signing, self.registryd, self.rules)
        self.rounds = Rounds(self.store, self.flopd, self.fund, self.drafts, self.signing, self.collecting)
        self.view = View(
            network, self.label, self.fund, self.rules, self.drafts, self.signing, self.collecting, self.rounds,
            self.flopd,
        )  # fmt: skip
        self.verifier = Verifier(self.fund, self.drafts, self.flopd, self.view.name)
        kinds = [self.fund.kind, *self.rules.kinds()]
        self._follower = Follower(self.store, self.rpc("flopd"), network.birth_height, kinds)
        self._watched: set[tuple[bytes, int]] = set()
        self._trouble = "the fund has not been read yet"
        log = Events(self.store, self.settings.state_dir / "events.log", self.rpc("registryd"), self.log)
        self.spawn(self._follow(), "follow the chain")
        self.spawn(log.run(), "event log")

    async def stop(self) -> None:
        if hasattr(self, "rounds"):
            await self.rounds.stop()
        if hasattr(self, "store"):
            await self.store.close()

    def methods(self) -> Iterable[object]:
        own = [FundMethods(self), AirdropMethods(self)]
        return [*own, *self.rules.methods()]

    def notes(self) -> list[str]:
        found = [self._trouble, self.rounds.trouble, *self.rules.notes()]
        return [note for note in found if note]

    def rules_version(self) -> int | None:
        return self.rules.book().at(max(0, self.fund.read_to)).version

    # --- the loop ---------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        best = NO_BLOCK
        while True:
            try:
                status = await self.flopd.wait(best, RETRY_S if self.rounds.again else CHAIN_WAIT_S)
                reached = await self.catch_up(status.height)
                self._trouble = ""
            except DuxError as error:
                self._trouble = f"the fund can't be followed: {error.message}"
                self.log.info(self._trouble, extra={"error": error.name})
                # flopd may be another one by now, which watches nothing.
                self._watched.clear()
                reached = -1
            if reached < 0 or reached < status.height:
                # Not all is read: old blocks are still searched for a new address, or the rules are not known so far.
                best = NO_BLOCK
                await asyncio.sleep(RETRY_S)
            else:
                best = status.best

    async def catch_up(self, tip: int) -> int:
        """Read the chain up to a height, as far as the rules are known, and do what the last block asks for.

        Returns how far it came. Raises DuxError.
        """
        while True:
            await self._watch()
            known = self.rules.book().known_to
            reached = (await self._follower.sync(min(tip, known))).height
            if known < reached:
                # After a start the store is ahead of the rules, and no transaction is read by rules of long ago.
                await self.rules.read(reached)
            await self.fund.extend(reached, self._raw)
            await self.rules.advance(reached)
            if reached >= tip or self.rules.book().known_to <= known:
                break
        await self._watch()
        await self.rounds.advance(min(reached, self.fund.read_to))
        return reached

    async def _watch(self) -> None:
        """Have flopd follow all addresses of the fund, each from the block on from which it is one."""
        for script, height in fund.births(self.rules.book()).items():
            if (script, height) not in self._watched:
                await self.flopd.watch(script, ref_of(script), max(height, self.network.birth_height))
                self._watched.add((script, height))

    async def _raw(self, txid: str) -> str:
        return (await self.flopd.spender(txid)).hex
