"""Keeps what this node knows of work, bonds and rules in step with the chain, block by block."""

import asyncio
import logging

from duxcommon.api.airdropd import FundAt
from duxcommon.api.flopd import ChainStatus
from duxcommon.db import Store
from duxcommon.errors import DuxError
from duxcommon.follow import Follower
from duxcommon.network import NetworkDefinition
from duxcommon.rpc import Client
from duxcommon.rulekeeper import RuleKeeper

from .bonding import Bonding, Terms
from .bondplan import Horizon
from .work import Ledger

CHAIN_WAIT_S = 25.0
RETRY_S = 1.0
ASK_S = 30.0
NO_BLOCK = "0" * 64

log = logging.getLogger("eligibility")


class ChainFollower:
    """The loop: rules, then facts as far as the rules are known, then this node's own bonds."""

    def __init__(
        self,
        network: NetworkDefinition,
        work: Store,
        keeper: RuleKeeper,
        ledger: Ledger,
        *,
        flopd: Client,
        airdropd: Client,
    ) -> None:
        self._keeper = keeper
        self._ledger = ledger
        self._flopd = flopd
        self._airdropd = airdropd
        self._follower = Follower(work, flopd, network.birth_height, ledger.kinds())
        self._best = NO_BLOCK
        self._behind = True
        self._trouble = ""

    def notes(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        return [text for text in (self._trouble, self._keeper.trouble) if text]

    def rules_version(self) -> int | None:
        """Version of the rules in force at the last block read; None before the first."""
        height, book = self._ledger.state().height, self._keeper.book
        return None if height < 0 else book.at(min(height, book.known_to)).version

    async def run(self, bonding: Bonding) -> None:
        """Follow the chain until cancelled."""
        while True:
            try:
                await self._next_block()
                await self._catch_up()
                self._say("")
            except DuxError as error:
                self._say(f"settled work and bonds can't be read: {error.message}")
                self._best = NO_BLOCK
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await bonding.step(await self.terms())
            except DuxError as error:
                bonding.trouble(f"bonds can't be looked after now: {error.message}")
                log.info("bonds can't be looked after now", extra={"why": error.message})

    async def _next_block(self) -> None:
        if self._behind:
            await asyncio.sleep(0 if self._best == NO_BLOCK else RETRY_S)
        params = {"best": NO_BLOCK if self._behind else self._best, "timeout_s": CHAIN_WAIT_S}
        status = await self._flopd.call("chain.wait", ChainStatus, params, timeout=CHAIN_WAIT_S + 30)
        self._best = status.best

    async def _catch_up(self) -> None:
        book = await self._keeper.refresh()
        await self._ledger.use(book)
        reached = await self._follower.sync(limit_height=book.known_to)
        # Blocks whose rules airdropd does not know yet, or that flopd is still looking through, are asked for again.
        self._behind = reached.hash != self._best

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.info(trouble)
        self._trouble = trouble

    async def fund_at(self, height: int, *, ahead: bool = False) -> FundAt:
        """The fund's state as of a height; `ahead`: or what is known of it so far. Raises what airdropd answers."""
        return await self._airdropd.call("fund.at", FundAt, {"height": height, "ahead": ahead}, timeout=ASK_S)

    async def terms(self) -> Terms:
        """What bonds are asked for at the tip. Raises RulesPending, and what airdropd answers."""
        tip = max(0, self._ledger.state().height)
        rules = self._keeper.book.at(tip)
        blocks = max(rules.parameters.window_blocks, self._keeper.book.newest.parameters.window_blocks)
        horizon = Horizon(tip, blocks)
        now, following = [await self.fund_at(opens + blocks, ahead=True) for opens in (tip, horizon.next_price)]
        return Terms(
            tip=tip,
            blocks=blocks,
            price_now=now.bond_price,
            price_next=following.bond_price,
            fund_script=bytes.fromhex(rules.fund_script),
        )
