"""Facts of the chain for the daemons that judge them: `chain.settlements`, `.bonds`, `.notes`, `.fund`, `.spender`.

They share their parameters. Told are the facts from `from_height` to `to_height` in the order of their places, at most
`limit` of them: those after the place `after`, and above the block `base`. `base` is the last block that the caller
has read; when the chain holds another block there by now, the answer is ChainMoved. The reply's `tip` is the block up
to which it tells everything, once `next` is null.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from duxcommon.api.common import Txid
from duxcommon.api.flopd import BlockRef, BondPage, FundPage, NotePage, Place, SettlementPage, Transaction
from duxcommon.errors import ChainMoved, ChainSyncing, WatchUnknown
from duxcommon.rpc import method

from . import facts, outputs
from .facts import Asked

if TYPE_CHECKING:
    from .daemon import FlopDaemon

Height = Annotated[int, Field(ge=0, le=499_999_999)]
Limit = Annotated[int, Field(ge=1, le=2000)]

MOVED = (ChainMoved, ChainSyncing)
EXAMPLE = {"from_height": 0, "limit": 100}


class FactMethods:
    """What the chain says, whatever rules are in force."""

    def __init__(self, daemon: "FlopDaemon") -> None:
        self._daemon = daemon

    @method("chain.settlements", access="read", errors=MOVED, example=EXAMPLE)
    async def settlements(
        self,
        from_height: Height = 0,
        to_height: Height | None = None,
        after: Place | None = None,
        base: BlockRef | None = None,
        limit: Limit = 500,
    ) -> SettlementPage:
        """List transactions that have the form of settled work; tax and fund address are still to be judged.

        `after` is the place to go on after, `base` the last block that the caller has read, `tip` the block up to
        which everything is told once `next` is null.
        """
        asked = Asked(from_height, to_height, after, base, limit)
        return self._daemon.store.read(lambda c: facts.settlements(c, asked))

    @method("chain.bonds", access="daemon", errors=MOVED, example=EXAMPLE)
    async def bonds(
        self,
        from_height: Height = 0,
        to_height: Height | None = None,
        after: Place | None = None,
        base: BlockRef | None = None,
        limit: Limit = 500,
    ) -> BondPage:
        """Tell the outputs that payout keys locked to themselves; paged like `chain.settlements`."""
        asked = Asked(from_height, to_height, after, base, limit)
        return self._daemon.store.read(lambda c: facts.bonds(c, asked))

    @method("chain.notes", access="daemon", errors=MOVED, example=EXAMPLE)
    async def notes(
        self,
        from_height: Height = 0,
        to_height: Height | None = None,
        after: Place | None = None,
        base: BlockRef | None = None,
        limit: Limit = 500,
    ) -> NotePage:
        """Tell the transactions with a proposal, a vote or an approval; paged like `chain.settlements`."""
        asked = Asked(from_height, to_height, after, base, limit)
        return self._daemon.store.read(lambda c: facts.notes(c, asked))

    @method("chain.fund", access="daemon", errors=MOVED, example=EXAMPLE)
    async def fund(
        self,
        from_height: Height = 0,
        to_height: Height | None = None,
        after: Place | None = None,
        base: BlockRef | None = None,
        limit: Limit = 500,
    ) -> FundPage:
        """Tell the payments to scripts that are watched as `fund/…`, and what spent them; paged likewise.

        A script that was watched late is looked for in old blocks first: `tip` stays behind until that is done.
        """
        asked = Asked(from_height, to_height, after, base, limit)
        return self._daemon.store.read(lambda c: facts.fund(c, asked))

    @method("chain.spender", access="daemon", errors=(WatchUnknown,), example={"txid": "0" * 64})
    async def spender(self, txid: Txid) -> Transaction:
        """Tell the bytes of a confirmed transaction that spends an output of a watched script."""
        found = self._daemon.store.read(lambda c: outputs.spending(c, txid))
        if found is None:
            raise WatchUnknown(f"no watched output is spent by a transaction {txid} in a block")
        return Transaction(txid=txid, hex=found[0], height=found[1])
