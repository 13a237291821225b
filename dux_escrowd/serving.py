"""What a provider answers to buyers: its terms, new contracts, signed states. Every caller is a stranger."""

from collections.abc import Sequence

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelAck, ChannelContract, ProviderTerms, SignedState
from duxcommon.coin import script as coin_script
from duxcommon.errors import (
    ArbiterRefused,
    ChannelBusy,
    DepositTooSmall,
    LockTooFar,
    LockTooNear,
    TermsRefused,
    TooManyChannels,
)
from duxcommon.money import format_flop
from duxcommon.network import Seat

from . import intake, rows
from . import terms as voted
from .contract import Escrow
from .desk import Desk, context
from .failpoints import hit
from .intake import now
from .rows import ChannelRow

MAX_UNFUNDED = 256
"""Announced channels without a deposit, of all buyers together: each is a script that Core has to follow."""

HEIGHT_SLACK = 144
"""Blocks by which a lock height may differ from what this node would have chosen."""


class Serving:
    """The provider's side of opening and paying."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def propose(self, buyer: str, buyer_pubkey: str, arbiter_pubkey: str) -> ProviderTerms:
        """This node's terms for a channel.

        Raises TermsRefused, ArbiterRefused, TooManyChannels, ChannelBusy, RulesPending.
        """
        payout = await self._desk.payout_pubkey()
        height, book = self._desk.height_now(), await self._desk.book_now()
        self._check_keys(buyer, payout, buyer_pubkey, voted.arbiter(book, arbiter_pubkey, height))
        self._check_buyer(buyer)
        settings, rules = self._desk.settings, voted.in_force(book, height)
        return ProviderTerms(
            payout_pubkey=payout,
            min_deposit=settings.min_deposit,
            max_unpaid=settings.max_unpaid,
            height=height,
            tax_bps=rules.parameters.tax_bps,
            fund_script=rules.fund_script,
        )

    def _check_keys(self, buyer: str, payout: str, buyer_pubkey: str, arbiter: Seat) -> None:
        if not coin_script.is_pubkey(bytes.fromhex(buyer_pubkey)) or buyer_pubkey in (payout, arbiter.pubkey):
            raise TermsRefused("the buyer's key is no key of its own")
        trusted = self._desk.settings.arbiters
        if trusted and arbiter.pubkey not in trusted:
            raise ArbiterRefused("this arbiter is not one that this node trusts")
        if arbiter.pubkey == payout or arbiter.node == buyer:
            raise ArbiterRefused("an arbiter must be neither buyer nor provider")

    def _check_buyer(self, buyer: str) -> None:
        if self._desk.store.read(rows.unfunded) >= MAX_UNFUNDED:
            raise TooManyChannels(
                "too many announced channels wait for their deposits here", hint="Try again later, or another provider."
            )
        count, unpaid = self._desk.store.read(lambda c: rows.live_with(c, buyer))
        if count >= self._desk.settings.max_channels:
            raise TooManyChannels(f"this node has {count} channels with that buyer already")
        if unpaid >= self._desk.settings.max_unpaid:
            raise ChannelBusy(f"{unpaid} calls of that buyer are unpaid on other channels", details={"unpaid": unpaid})

    async def funded(self, buyer: str, contract: ChannelContract, deposits: Sequence[Deposit]) -> ChannelAck:
        """Take a contract whose deposit is about to be sent, and follow its script; repeats change nothing.

        Raises TermsRefused, ArbiterRefused, LockTooNear, LockTooFar, DepositTooSmall, TooManyChannels, ChannelBusy and
        RulesPending.
        """
        desk = self._desk
        escrow = Escrow.of(contract, desk.min_tax)
        known = desk.store.read(lambda c: rows.find_channel(c, escrow.id))
        if known is None:
            height, book = desk.height(), await desk.book_now()
            payout = await desk.payout_pubkey()
            self._check_contract(contract, payout, height, sum(deposit.amount for deposit in deposits))
            voted.check_tax(book, contract.tax_bps, height)
            voted.check_fund(book, contract.fund_script, height, contract.lock_height)
            arbiter = voted.arbiter(book, contract.arbiter_pubkey, height)
            self._check_keys(buyer, payout, contract.buyer_pubkey, arbiter)
            self._check_buyer(buyer)
            row = ChannelRow(
                0, escrow.id, "provider", buyer, "FUND_SENT", contract.provider_pubkey, contract.buyer_pubkey,
                contract.arbiter_pubkey, contract.lock_height, contract.tax_bps, contract.fund_script,
                desk.settings.max_unpaid, height, None, now(),
            )  # fmt: skip
            known = await desk.store.write(lambda c: rows.find_channel(c, escrow.id) or rows.insert_channel(c, row))
            desk.log.info("channel announced", extra=context(known))
        if known.peer != buyer or known.role != "provider":
            raise TermsRefused("this contract belongs to another node")
        if known.contract != contract:
            raise TermsRefused("this channel was announced with another tax or fund address; it keeps its terms")
        await desk.flopd.watch(escrow.script, escrow.id, known.birth)
        return self._ack(known)

    def _check_contract(self, contract: ChannelContract, payout: str, height: int, deposited: int) -> None:
        settings = self._desk.settings
        if contract.provider_pubkey != payout:
            raise TermsRefused("the provider's key in the contract is not this node's payout key")
        ahead = contract.lock_height - height
        details = {"lock_height": contract.lock_height, "height": height, "lock_blocks": settings.lock_blocks}
        if ahead < settings.lock_blocks - HEIGHT_SLACK:
            raise LockTooNear(
                f"the lock height is {ahead} blocks away; this node asks for {settings.lock_blocks}", details=details
            )
        if ahead > settings.lock_blocks + HEIGHT_SLACK:
            raise LockTooFar(
                f"the lock height is {ahead} blocks away; this node asks for {settings.lock_blocks}", details=details
            )
        if deposited < settings.min_deposit:
            raise DepositTooSmall(
                f"the deposit is {format_flop(deposited)} FLOP; this node asks for "
                f"{format_flop(settings.min_deposit)} FLOP",
                details={"min_deposit": settings.min_deposit, "amount": deposited},
            )

    async def state(self, buyer: str, state: SignedState) -> ChannelAck:
        """Store a newer signed state before answering; raises what `intake.check` raises, and ChannelClosed."""
        row = intake.provider_row(self._desk, state.channel, buyer)
        if intake.check(self._desk, row, state):
            row = await self._desk.store.write(lambda c: intake.store(c, self._desk, row.id, state))
            hit("state-stored")
        return self._ack(row)

    def _ack(self, row: ChannelRow) -> ChannelAck:
        view = self._desk.cover(row)
        return ChannelAck(
            channel=row.id,
            state=row.state,
            seq=row.seq,
            gross=row.gross,
            usable=view.usable,
            waiting=view.waiting if view.needed else 1,
        )
