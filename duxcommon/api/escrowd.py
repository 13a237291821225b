"""Replies of dux-escrowd: `channel.* payment.*`. Amounts are koinu."""

from typing import Annotated, Literal

from pydantic import Field

from .common import ChannelId, Deposit, Hash32, Hex, Koinu, Model, NodeId, PaymentId, PubKey, TaskId, Txid

ChannelState = Literal[
    "NEW", "FUND_BUILT", "FUND_SENT", "OPEN", "CLOSE_BUILT", "CLOSE_SENT", "CLOSED",
    "REFUND_BUILT", "REFUND_SENT", "REFUNDED", "CONFLICTED", "ABANDONED",
]  # fmt: skip
PaymentState = Literal["HELD", "ORDERED", "DONE", "RELEASED", "REFUNDED"]
Role = Literal["buyer", "provider"]


FundScript = Annotated[str, Field(pattern=r"^a914[0-9a-f]{40}87$")]
"""A P2SH output script, hex."""


class SignedState(Model):
    """The buyer's signature on the closing transaction for a cumulative gross.

    The provider rebuilds the transaction from the channel, `deposits` and `gross`; nothing else is believed.
    """

    channel: ChannelId
    seq: Annotated[int, Field(ge=1, le=2**53)]
    gross: Koinu
    deposits: Annotated[list[Deposit], Field(min_length=1, max_length=16)]
    signatures: Annotated[list[Hex], Field(min_length=1, max_length=16)]
    """The buyer's, one for each deposit, in the order of the transaction's inputs."""
    pays: Annotated[list[TaskId], Field(max_length=1000)] = []
    """Tasks that the gross since the last acknowledged state is for; it labels payments and moves no money."""


class ProviderTerms(Model):
    """What a provider answers to `channel.propose`; its payout key is the provider key of the script."""

    payout_pubkey: PubKey
    min_deposit: Koinu
    max_unpaid: Annotated[int, Field(ge=1, le=1000)]
    """How many ordered and unpaid calls a buyer may have open."""
    height: int
    """The provider's chain tip."""
    tax_bps: Annotated[int, Field(ge=0, le=10_000)]
    """The rate that it sees in force at the next block; the buyer takes it where it fits the rules."""
    fund_script: FundScript


class ChannelContract(Model):
    """Everything that both sides need to rebuild a channel's script and its closing transaction."""

    provider_pubkey: PubKey
    buyer_pubkey: PubKey
    arbiter_pubkey: PubKey
    lock_height: Annotated[int, Field(ge=1, lt=500_000_000)]
    tax_bps: Annotated[int, Field(ge=0, le=10_000)]
    fund_script: FundScript
    """Where the tax of all its states goes: the community fund's script when the channel was opened."""


class ChannelAck(Model):
    """The provider's view of a channel, told to the buyer."""

    channel: ChannelId
    state: ChannelState
    seq: int
    """Newest signed state that the provider has stored; 0 for none."""
    gross: Koinu
    usable: Koinu
    """What may be signed away at most: confirmed deposits less the worst-case closing fee."""
    waiting: int
    """Confirmations still missing before every deposit counts."""


class CloseReply(Model):
    """A fully signed closing transaction."""

    hex: Hex
    txid: Txid


class Channel(Model):
    id: ChannelId
    role: Role
    peer: NodeId
    state: ChannelState
    contract: ChannelContract
    deposits: list[Deposit]
    deposited: Koinu
    usable: Koinu
    gross: Koinu
    """Signed away so far, tax included."""
    held: Koinu
    """Reserved by payments that are neither released nor refunded."""
    seq: int
    acked_seq: int
    """Newest state that the other side is known to have stored."""
    max_unpaid: int
    confirmations: int
    confirmations_needed: int
    blocks_left: int | None
    """Blocks until the lock height."""
    close_txid: Txid | None
    tax: Koinu
    """Of `gross`, at closing."""
    at_risk: bool
    """Gross is above 0 and below what a closing transaction can pay out."""


class ChannelPage(Model):
    channels: list[Channel]
    next: str | None


class Payment(Model):
    id: PaymentId
    role: Role
    channel: ChannelId
    peer: NodeId
    amount: Koinu
    state: PaymentState
    task: TaskId | None
    reason: str
    """Why it was refunded; empty otherwise."""
    created: int
    order_hash: Hash32 | None
    receipt_hash: Hash32 | None


class Hold(Model):
    """A payment that is held, and the signed state that the next order should carry."""

    payment: Payment
    state: SignedState | None
    """Newest state that the provider has not acknowledged yet."""


class AuditCheck(Model):
    """One figure that two sources must agree on, in koinu or as a count."""

    name: str
    """What is compared, with the channel it is about."""
    expected: int
    found: int
    difference: int
    """found − expected."""
    unit: Literal["koinu", "count"] = "koinu"


class AuditReport(Model):
    """What `books.audit` compared; `ok` when every difference is 0."""

    ok: bool
    height: int
    """Chain tip that the deposits were read at."""
    checks: list[AuditCheck]


class PaymentPage(Model):
    payments: list[Payment]
    next: str | None
