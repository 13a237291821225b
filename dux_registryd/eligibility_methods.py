"""`node.eligible`, `node.standing` and this node's bonds: thin, the work is in snapshots.py and bonding.py."""

from typing import Annotated, Literal

from pydantic import Field

from duxcommon.api.common import IdempotencyKey, Koinu, PubKey
from duxcommon.api.registryd import BondInfo, Bonds, EligiblePage, Standing
from duxcommon.errors import (
    BadTransaction,
    BondUnknown,
    ChainAuthFailed,
    ChainDown,
    ChainFault,
    ChainSyncing,
    ChainWalletLocked,
    Conflict,
    DiskFull,
    DustAmount,
    FeeTooHigh,
    InsufficientFunds,
    InvalidParams,
    KeystoreMissing,
    NotPayable,
    RulesPending,
    TooManyInputs,
    TxRejected,
    TxTooEarly,
    WalletLocked,
    WrongChain,
)
from duxcommon.rpc import method

from .bonding import Bonding
from .bondplan import Due
from .chain import ChainFollower
from .snapshots import Snapshots

Height = Annotated[int, Field(ge=0, le=499_999_999)]
LockBlocks = Annotated[int, Field(ge=1, le=10_000_000)]
FEWEST_WINDOWS = 2
"""A bond is locked through the window before a snapshot and the one after it."""
MOST_WINDOWS = 24
"""Nobody can take a bond back earlier: a longer lock is taken for a typing error."""

_KEY = "02" + "11" * 32
_WAITS = (RulesPending,)
_REACH = (ChainDown, ChainAuthFailed, WrongChain, ChainFault, ChainSyncing)
_PAY = (
    *_REACH, ChainWalletLocked, WalletLocked, KeystoreMissing, Conflict, DiskFull, InsufficientFunds, DustAmount,
    FeeTooHigh, TxRejected,
)  # fmt: skip
_RELEASE = (BondUnknown, BadTransaction, NotPayable, TooManyInputs, TxTooEarly)


class EligibilityMethods:
    """Who has a share of the community fund, and the bond that it takes."""

    def __init__(self, snapshots: Snapshots, bonding: Bonding, chain: ChainFollower) -> None:
        self._snapshots = snapshots
        self._bonding = bonding
        self._chain = chain

    @method("node.eligible", access="read", errors=_WAITS, timeout_s=120.0, example={"height": 1000, "limit": 100})
    async def eligible(
        self,
        height: Height | None = None,
        after: PubKey | None = None,
        limit: Annotated[int, Field(ge=0, le=5000)] = 1000,
        who: Literal["eligible", "qualified"] = "eligible",
    ) -> EligiblePage:
        """List the payout keys that have a share of the community fund at a block, by key.

        A pure function of the chain; without `height` as of 60 blocks ago. `qualified` lists those that meet every
        condition but the cap on shares: they may vote. `limit` 0 tells the numbers alone.
        """
        return await self._snapshots.page(height, after, limit, qualified=who == "qualified")

    @method(
        "node.standing", access="read", errors=(*_WAITS, KeystoreMissing), timeout_s=120.0, example={"pubkey": _KEY}
    )
    async def standing(self, pubkey: PubKey | None = None, height: Height | None = None) -> Standing:
        """Tell whether a payout key (this node's by default) has a share of the fund, and what it lacks.

        Each condition that is not met comes with the command that mends it. Without `height` as of 60 blocks ago.
        """
        key = pubkey or (await self._bonding.own()).pubkey
        return await self._snapshots.standing(bytes.fromhex(key), height)

    @method("node.bonds", access="read", errors=(*_WAITS, KeystoreMissing))
    async def bonds(self) -> Bonds:
        """Show this node's bonds, what must be locked for a share, and what the node does next."""
        return await self._bonding.tell(await self._chain.terms())

    @method("node.bond", access="spend", errors=(*_PAY, *_WAITS), example={"amount": 110000000, "key": "may"})
    async def bond(
        self, key: IdempotencyKey, amount: Koinu | None = None, lock_blocks: LockBlocks | None = None
    ) -> BondInfo:
        """Lock coins to this node's payout key, so that its work can earn a share of the fund.

        By default what is missing now and a tenth more, for as long as `bond_windows` says. The coins come back
        whole but for the fees, and not earlier; 0.01 FLOP go to the fund.
        """
        terms = await self._chain.terms()
        fewest, most = FEWEST_WINDOWS * terms.blocks, MOST_WINDOWS * terms.blocks
        if lock_blocks is not None and not fewest < lock_blocks <= most:
            raise InvalidParams(
                f"a bond that is locked for {lock_blocks} blocks would bring nothing or be out of reach for years",
                hint=f"Lock it for more than {fewest} and at most {most} blocks: "
                f"{FEWEST_WINDOWS} to {MOST_WINDOWS} windows.",
            )
        wanted = await self._bonding.default(terms, lock_blocks)
        if amount is not None:
            wanted = Due(amount, wanted.lock_height)
        return await self._bonding.by_hand(key, (amount, lock_blocks), wanted, terms)

    @method("node.unbond", access="spend", errors=(*_PAY, *_WAITS, *_RELEASE))
    async def unbond(self) -> Bonds:
        """Take the bonds that are free again back to the payout address."""
        terms = await self._chain.terms()
        await self._bonding.release(terms.tip)
        return await self._bonding.tell(terms)
