"""What dux-escrowd answers: `channel.* payment.* books.*`."""

from typing import Annotated, Literal

from pydantic import Field

from duxcommon.api.common import (
    ChannelId,
    Deposit,
    Hash32,
    IdempotencyKey,
    Koinu,
    NodeId,
    PaymentId,
    PubKey,
    Seconds,
    TaskId,
    UnixTime,
)
from duxcommon.api.escrowd import (
    AuditReport,
    Channel,
    ChannelAck,
    ChannelContract,
    ChannelPage,
    ChannelState,
    CloseReply,
    Hold,
    Payment,
    PaymentPage,
    PaymentState,
    ProviderTerms,
    SignedState,
)
from duxcommon.errors import (
    ArbiterMissing,
    ArbiterRefused,
    BadStateSignature,
    BadTransition,
    BeforeLockHeight,
    ChainDown,
    ChannelBusy,
    ChannelClosed,
    ChannelExists,
    ChannelUnknown,
    Conflict,
    DepositCapReached,
    DepositTooSmall,
    DuxError,
    FundingConflicted,
    GrossTooSmall,
    HighS,
    InsufficientFunds,
    LockTooFar,
    LockTooNear,
    NotConfirmed,
    NotCovered,
    NothingToClose,
    PaymentsOpen,
    PaymentUnknown,
    PeerMisbehaved,
    PriceTooSmall,
    ProviderUnknown,
    RulesPending,
    StateConflict,
    StateStale,
    TermsRefused,
    TooManyChannels,
    WalletLocked,
    WrongAmount,
    WrongDeposits,
    WrongKey,
)
from duxcommon.rpc import Caller, method

from .payments import Order, Wish
from .services import Services

Limit = Annotated[int, Field(ge=1, le=500)]
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Reason = Annotated[str, Field(max_length=500)]
Wait = Annotated[Seconds, Field(le=600)]

STATE = (
    ChannelUnknown, ChannelClosed, StateStale, StateConflict, WrongAmount, WrongDeposits, BadStateSignature, HighS,
    WrongKey, NotConfirmed,
)  # fmt: skip
"""What can be wrong with a signed state."""
OPENING = (
    ProviderUnknown, InsufficientFunds, WalletLocked, DepositCapReached, DepositTooSmall, ArbiterMissing,
    ArbiterRefused, TermsRefused, LockTooFar, LockTooNear, TooManyChannels, ChannelBusy, FundingConflicted,
    NotConfirmed, PeerMisbehaved, Conflict, RulesPending,
)  # fmt: skip
"""What can prevent a channel; flopd, registryd and the provider may answer errors of their own."""

_NODE, _ID, _KEY = "ab" * 32, "cd" * 32, "02" + "11" * 32
_DEPOSIT = {"txid": "ef" * 32, "vout": 0, "amount": 100000000}
_STATE = {"channel": _ID, "seq": 1, "gross": 2000000, "deposits": [_DEPOSIT], "signatures": ["30" + "00" * 70]}
_CONTRACT = {
    "provider_pubkey": _KEY, "buyer_pubkey": _KEY, "arbiter_pubkey": _KEY, "lock_height": 10080, "tax_bps": 500,
    "fund_script": "a914" + "22" * 20 + "87",
}  # fmt: skip


class ChannelMethods:
    """Channels, for people; and what other nodes may ask of this one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @method(
        "channel.open", access="spend", errors=(*OPENING, ChannelExists, DuxError), timeout_s=120.0,
        example={"provider": _NODE, "amount": 100000000, "key": "open-1"},
    )  # fmt: skip
    async def open(self, provider: NodeId, amount: Koinu, key: IdempotencyKey, caller: Caller) -> Channel:
        """Open a payment channel to a provider on which an amount can be spent; the closing fee comes on top.

        Returns once the deposit was sent. Holds open channels by themselves; this is for choosing the amount.
        """
        row = await self._services.channels.open(provider, amount, scoped("open", caller, key))
        return self._services.desk.wire(row)

    @method(
        "channel.topup", access="spend", timeout_s=120.0,
        errors=(ChannelUnknown, BadTransition, InsufficientFunds, WalletLocked, DepositCapReached, DepositTooSmall,
                FundingConflicted, NotConfirmed, Conflict, RulesPending, DuxError),
        example={"id": _ID, "amount": 100000000, "key": "more-1"},
    )  # fmt: skip
    async def topup(self, id: ChannelId, amount: Koinu, key: IdempotencyKey, caller: Caller) -> Channel:
        """Add to a channel's deposit; the new part counts once it is confirmed deep enough."""
        row = await self._services.channels.topup(id, amount, scoped("topup", caller, key))
        return self._services.desk.wire(row)

    @method("channel.list", access="read", example={"state": "OPEN"})
    async def list_(
        self, state: ChannelState | None = None, limit: Limit = 50, after: Cursor | None = None
    ) -> ChannelPage:
        """List the channels of this node, newest first."""
        return self._services.channels.list(state, limit, None if after is None else int(after))

    @method("channel.show", access="read", errors=(ChannelUnknown,), example={"id": _ID})
    async def show(self, id: ChannelId) -> Channel:
        """Show one channel: its contract, deposits, what is signed away and how many blocks are left."""
        return self._services.desk.wire(self._services.desk.row(id))

    @method(
        "channel.close", access="spend", timeout_s=90.0,
        errors=(ChannelUnknown, PaymentsOpen, NotConfirmed, NothingToClose, GrossTooSmall, BeforeLockHeight,
                BadTransition, WalletLocked, PeerMisbehaved, Conflict, DuxError),
        example={"id": _ID, "key": "close-1"},
    )  # fmt: skip
    async def close(self, id: ChannelId, key: IdempotencyKey, caller: Caller, *, alone: bool = False) -> Channel:
        """Close a channel: one transaction pays the provider, the community fund, and the rest to the buyer.

        Together with the other side by default; where nothing was spent, everything goes back to the buyer. With
        `alone` a provider closes with the newest signed state although calls are unpaid; a buyer alone can only
        take its deposit back after the lock height.
        """
        row = await self._services.closing.close(id, scoped("close", caller, key), alone=alone)
        return self._services.desk.wire(row)

    @method(
        "channel.refund", access="spend", timeout_s=90.0,
        errors=(ChannelUnknown, BeforeLockHeight, NothingToClose, BadTransition, WrongAmount, WalletLocked,
                Conflict, DuxError),
        example={"id": _ID, "key": "refund-1"},
    )  # fmt: skip
    async def refund(self, id: ChannelId, key: IdempotencyKey, caller: Caller) -> Channel:
        """Take a deposit back without the provider, from the lock height on; this happens by itself as well."""
        row = await self._services.closing.refund(id, scoped("refund", caller, key))
        return self._services.desk.wire(row)

    @method(
        "channel.propose", access="peer", limit="10/s",
        errors=(TermsRefused, ArbiterRefused, TooManyChannels, ChannelBusy, RulesPending, DuxError),
        example={"buyer_pubkey": _KEY, "arbiter_pubkey": _KEY},
    )  # fmt: skip
    async def propose(self, buyer_pubkey: PubKey, arbiter_pubkey: PubKey, caller: Caller) -> ProviderTerms:
        """Tell a buyer this provider's terms for a channel."""
        return await self._services.serving.propose(caller.peer or "", buyer_pubkey, arbiter_pubkey)

    @method(
        "channel.funded", access="peer", limit="10/s",
        errors=(TermsRefused, ArbiterRefused, LockTooNear, LockTooFar, DepositTooSmall, TooManyChannels, ChannelBusy,
                RulesPending, DuxError),
        example={"contract": _CONTRACT, "deposits": [_DEPOSIT]},
    )  # fmt: skip
    async def funded(
        self,
        contract: ChannelContract,
        deposits: Annotated[list[Deposit], Field(min_length=1, max_length=16)],
        caller: Caller,
    ) -> ChannelAck:
        """Take a buyer's contract, whose deposit is about to be sent, and follow it on the chain."""
        return await self._services.serving.funded(caller.peer or "", contract, deposits)

    @method("channel.state", access="peer", errors=STATE, limit="200/s", example={"state": _STATE})
    async def state(self, state: SignedState, caller: Caller) -> ChannelAck:
        """Store a buyer's newest signed state before answering."""
        return await self._services.serving.state(caller.peer or "", state)

    @method(
        "channel.settle", access="peer", limit="10/s",
        errors=(*STATE, PaymentsOpen, NothingToClose, GrossTooSmall, BadTransition, DuxError),
        example={"channel": _ID, "state": None},
    )  # fmt: skip
    async def settle(self, channel: ChannelId, state: SignedState | None, caller: Caller) -> CloseReply:
        """Close together: sign the closing of the newest state, or give everything back where its gross is 0."""
        return await self._services.closing.settle(caller.peer or "", channel, state)


class PaymentMethods:
    """Payments: `hold`, `release`, `refund` of the buyer; `accept`, `done`, `fail` of the provider."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @method(
        "payment.hold", access="spend", daemons=True, errors=(*OPENING, PriceTooSmall, DuxError), timeout_s=130.0,
        example={"provider": _NODE, "amount": 10000000, "key": "task-1"},
    )  # fmt: skip
    async def hold(
        self,
        provider: NodeId,
        amount: Koinu,
        key: IdempotencyKey,
        *,
        task: TaskId | None = None,
        wait_s: Wait = 120.0,
        caller: Caller,
    ) -> Hold:
        """Reserve an amount on the channel to a provider, opening or topping the channel up where that is needed.

        Waits up to `wait_s` for the deposit to be confirmed and for earlier calls to be paid. With `task` the
        payment is ORDERED at once: it is committed before the order is sent.
        """
        return await self._services.payments.hold(Wish(provider, amount, scoped("hold", caller, key), task), wait_s)

    @method(
        "payment.release", access="spend", daemons=True,
        errors=(PaymentUnknown, BadTransition, ChannelClosed, NotConfirmed, WalletLocked, Conflict, DuxError),
        example={"id": "ab" * 16, "receipt": _ID, "key": "task-1"},
    )  # fmt: skip
    async def release(self, id: PaymentId, receipt: Hash32 | None, key: IdempotencyKey, caller: Caller) -> Payment:
        """Pay: sign the next state of the channel with this payment in it; durable when it returns."""
        return (await self._services.payments.release(id, receipt, scoped("release", caller, key))).wire()

    @method(
        "payment.refund", access="spend", daemons=True, errors=(PaymentUnknown, BadTransition, Conflict),
        example={"id": "ab" * 16, "reason": "the result was not an image", "key": "task-1"},
    )  # fmt: skip
    async def refund(self, id: PaymentId, reason: Reason, key: IdempotencyKey, caller: Caller) -> Payment:
        """Give a reserved amount back: nothing is paid for it."""
        return (await self._services.payments.refund(id, reason, scoped("refund-payment", caller, key))).wire()

    @method("payment.list", access="read", example={"state": "HELD"})
    async def list_(
        self,
        channel: ChannelId | None = None,
        state: PaymentState | None = None,
        limit: Limit = 50,
        after: Cursor | None = None,
    ) -> PaymentPage:
        """List payments, newest first."""
        return self._services.payments.list(channel, state, limit, None if after is None else int(after))

    @method("payment.show", access="read", errors=(PaymentUnknown,), example={"id": "ab" * 16})
    async def show(self, id: PaymentId) -> Payment:
        """Show one payment."""
        return self._services.payments.show(id).wire()

    @method(
        "payment.accept", access="daemon",
        errors=(*STATE, ChannelBusy, NotCovered, PriceTooSmall, LockTooNear, Conflict, ChainDown),
        example={"buyer": _NODE, "channel": _ID, "price": 1000, "task": "ab" * 16, "order": _ID, "state": None},
    )  # fmt: skip
    async def accept(
        self,
        buyer: NodeId,
        channel: ChannelId,
        price: Annotated[Koinu, Field(ge=1)],
        task: TaskId,
        order: Hash32,
        *,
        state: SignedState | None = None,
        deadline: UnixTime | None = None,
    ) -> Payment:
        """As the provider, take an order: store the state that came with it and check that its price is covered."""
        asked = Order(buyer, channel, price, task, order, deadline)
        return (await self._services.payments.accept(asked, state)).wire()

    @method(
        "payment.done", access="daemon", errors=(PaymentUnknown, BadTransition),
        example={"channel": _ID, "task": "ab" * 16, "receipt": _ID},
    )  # fmt: skip
    async def done(self, channel: ChannelId, task: TaskId, receipt: Hash32) -> Payment:
        """As the provider, note that the result was delivered."""
        return (await self._services.payments.done(channel, task, receipt)).wire()

    @method(
        "payment.fail", access="daemon", errors=(PaymentUnknown, BadTransition),
        example={"channel": _ID, "task": "ab" * 16, "reason": "out of memory"},
    )  # fmt: skip
    async def fail(self, channel: ChannelId, task: TaskId, reason: Reason) -> Payment:
        """As the provider, note that an order was not carried out: nothing is charged."""
        return (await self._services.payments.fail(channel, task, reason)).wire()


class BooksMethods:
    """The books of this node's channels."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @method("books.audit", access="read", errors=(DuxError,), timeout_s=120.0, limit="20/s")
    async def audit(self) -> AuditReport:
        """Prove to the koinu that channels, payments, books and the deposits on the chain agree."""
        return await self._services.audit.run()


def scoped(
    what: Literal["open", "topup", "close", "refund", "hold", "release", "refund-payment"], caller: Caller, key: str
) -> str:
    """A key is the caller's own, for one kind of action."""
    return f"{what}/{caller.uid}/{key}"
