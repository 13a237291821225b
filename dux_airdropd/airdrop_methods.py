"""`airdrop.*`: thin, the work is in view.py, verify.py, signing.py and price.py."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from duxcommon.api.airdropd import (
    Cosigned,
    NextRound,
    RoundPage,
    RoundShown,
    SharePrice,
    Verified,
    WhyNotPaid,
)
from duxcommon.api.common import Txid
from duxcommon.errors import (
    DuxError,
    EligibilityDiffers,
    NotGuardian,
    NothingToSign,
    RoundUnknown,
    RulesPending,
    TransactionDiffers,
    WalletLocked,
)
from duxcommon.rpc import Caller, method

from .price import price

if TYPE_CHECKING:
    from .daemon import AirdropDaemon

Sequence = Annotated[int, Field(ge=1, le=2**32 - 1)]
Batch = Annotated[int, Field(ge=0, le=65_535)]
COUNTING = (RulesPending, EligibilityDiffers, DuxError)
"""What can go wrong where eligible keys are counted; registryd and flopd may answer errors of their own."""


class AirdropMethods:
    """The fund's transactions."""

    def __init__(self, daemon: "AirdropDaemon") -> None:
        self._daemon = daemon

    @method("airdrop.next", access="read", errors=COUNTING)
    async def next(self) -> NextRound:
        """Show what the fund pays next, when and to how many, or what is missing for that."""
        return await self._daemon.view.next()

    @method("airdrop.history", access="read", example={"limit": 20})
    async def history(
        self, before: Sequence | None = None, limit: Annotated[int, Field(ge=1, le=200)] = 50
    ) -> RoundPage:
        """List the transactions of the fund that are in a block, the newest first."""
        fund = self._daemon.fund
        rounds = fund.rounds(before, limit)
        more = len(rounds) == limit and rounds[-1].sequence > 1
        return RoundPage(rounds=rounds, next=rounds[-1].sequence if more else None, height=max(0, fund.read_to))

    @method("airdrop.show", access="read", errors=(RoundUnknown, DuxError), example={"sequence": 1})
    async def show(
        self,
        sequence: Sequence,
        after: Annotated[int, Field(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Field(ge=1, le=5000)] = 1000,
    ) -> RoundShown:
        """Show a transaction of the fund and everybody whom it paid, as the chain has it."""
        return await self._daemon.view.show(sequence, after, limit)

    @method("airdrop.verify", access="read", errors=(RoundUnknown, *COUNTING), example={"sequence": 1}, timeout_s=300.0)
    async def verify(self, sequence: Sequence) -> Verified:
        """Recompute a transaction of the fund from the chain and name the first thing that differs, if any.

        Works on every node; no other node is asked anything.
        """
        return await self._daemon.verifier.verify(sequence)

    @method("airdrop.price", access="read", errors=(RulesPending,))
    async def price(self) -> SharePrice:
        """Tell what one more share of the fund costs today, what it brings, and the yearly return on what is tied up.

        Computed for a key that does no honest work: it pays the tax to itself but for the fund's part.
        """
        fund = self._daemon.fund
        height = max(0, fund.read_to)
        at = fund.at(height)
        return price(height, self._daemon.rules.book().at(height).parameters, at.bond_price, at.shares_paid)

    @method("airdrop.why", access="read", errors=COUNTING, timeout_s=90.0, limit="30/m")
    async def why(self) -> WhyNotPaid:
        """Tell why the fund does not pay now: what is missing, and on a guardian who is silent or says otherwise."""
        return await self._daemon.view.why()

    @method(
        "airdrop.cosign",
        access="peer",
        errors=(NotGuardian, NothingToSign, TransactionDiffers, WalletLocked, *COUNTING),
        example={"sequence": 1, "batch": None, "unsigned": "ab" * 32},
        limit="600/m",
    )
    async def cosign(self, sequence: Sequence, batch: Batch | None, unsigned: Txid, caller: Caller) -> Cosigned:
        """Give another guardian this guardian's signatures of a transaction that both computed."""
        assert caller.peer is not None
        return await self._daemon.signing.answer(caller.peer, sequence, batch, unsigned)
