"""Replies of dux-airdropd: `fund.* airdrop.*`, and the rule book of governance."""

from typing import Annotated, Literal

from pydantic import Field

from ..network import Seat
from ..parameters import Parameters
from .common import Address, Hash32, Hex, Koinu, Model, NodeId, PubKey, SignedKoinu, Txid, UnixTime
from .flopd import NetworkLabel

FundKind = Literal["payout", "sweep", "grant"]
"""Shares to everybody who is eligible; the fund's coins made one or moved to new guardians; a spend that was voted."""


class GuardianState(Model):
    """One of those who sign for the fund, and what this node knows of its part in the transaction in work."""

    node: NodeId | None
    pubkey: PubKey
    own: bool
    """This node."""
    signed: bool
    """Its good signatures of the transaction in work are here. Only guardians collect them."""
    heard: UnixTime | None
    """When it answered last."""
    trouble: str
    """Why its signatures are not here; empty where nothing was asked or all is well."""


class FundWork(Model):
    """The transaction that the fund makes next, or is making now."""

    sequence: int
    kind: FundKind
    snapshot: int
    """Height as of which everything in it was computed."""
    signed_from: int
    """The guardians sign once the chain is this high."""
    lapses: int
    """If no block holds it by this height, it is planned anew."""
    recipients: int
    share: Koinu
    paid: Koinu
    """What leaves the fund, without fees."""
    fee: Koinu
    """Of this transaction, without the batches'."""
    inputs: int
    batches: int
    manifest: Hash32
    unsigned: Txid | None
    """Id without signatures, once a guardian computed it: who agrees on it agrees on every byte that is signed."""
    state: Literal["waiting-for-depth", "signing", "sent"]


class OldAddress(Model):
    """An address of earlier guardians."""

    address: Address
    counts_until: int
    """Last block in which a payment to it counts; what it received moves to the guardians in office."""


class FundStatus(Model):
    """The community fund as this node sees the chain."""

    address: Address
    old_addresses: list[OldAddress]
    """Those that still count, the latest first."""
    confirmed: Koinu
    """Unspent outputs that are in a block, without shares that wait for their batch."""
    pending: Koinu
    received: Koinu
    """Everything that was ever paid in, in a block."""
    payments: int
    """Number of those payments."""
    inflow: Koinu
    """What was paid in within the last window…"""
    window_blocks: int
    """…of so many blocks."""
    spendable: Koinu
    """What could be paid out now, less the cost of spending it."""
    threshold: Koinu
    missing: Koinu
    """What is still to come until `spendable` reaches the threshold."""
    rounds: int
    """Transactions that the fund made so far."""
    work: FundWork | None
    guardians: list[GuardianState]
    guardians_m: int
    rules: int
    """Version of the rules in force."""
    height: int
    """Chain tip of this answer."""
    network: NetworkLabel


class Rules(Model):
    """One version of what is governed."""

    version: Annotated[int, Field(ge=0)]
    """0 is the network definition."""
    from_height: Annotated[int, Field(ge=0)]
    """In force from this block on."""
    proposal: Hash32 | None
    """What was voted; null for version 0."""
    parameters: Parameters
    guardians: list[Seat]
    guardians_m: int
    arbiters: list[Seat]
    fund_script: Hex


class RuleBook(Model):
    """All versions so far, ascending; for heights above `known_to` a new one may still come."""

    network: Hash32
    rules: Annotated[list[Rules], Field(min_length=1)]
    known_to: Annotated[int, Field(ge=0)]


class RulesPage(Model):
    """Some of the versions, ascending, and what tells whether others are needed at all."""

    network: Hash32
    rules: list[Rules]
    """None for who has those of this digest already."""
    known_to: Annotated[int, Field(ge=0)]
    digest: Hash32
    """SHA-256 of all versions."""
    next: int | None
    """Pass as `after` for the next page; null at the end."""


class FundAt(Model):
    """What eligibility at a height depends on besides the work and the bonds."""

    height: int
    spendable: Koinu
    """What the fund could pay out, less the cost of spending it."""
    shares_paid: Koinu
    """What one key that had every share was paid by the rounds that confirmed within the window."""
    bond_price: Koinu
    """What the bond must be for this snapshot."""


class SpentFrom(Model):
    """One confirmed transaction of the fund, as the chain shows it."""

    sequence: int
    kind: Literal["payout", "sweep", "grant", "unknown"]
    """Unknown: it spends the fund's anchor and says nothing of why."""
    txid: Txid
    height: int
    recipients: int
    share: Koinu
    paid: Koinu
    """What left the fund, without fees."""
    fee: Koinu
    """Of this transaction, without the batches'."""
    batches: int
    manifest: Hash32 | None


class RoundPage(Model):
    """Transactions of the fund, the newest first."""

    rounds: list[SpentFrom]
    next: int | None
    """Pass as `before` for the next page; null at the end."""
    height: int


class PaidOut(Model):
    """One output of a transaction of the fund."""

    address: Address | None
    amount: Koinu
    batch: int | None
    """Number of the batch that pays it."""
    txid: Txid | None
    """Null for a share whose batch is not confirmed yet."""


class RoundShown(Model):
    """A transaction of the fund and what it paid, read from the chain."""

    round: SpentFrom
    anchor: Txid
    """The transaction whose output 1 it builds on."""
    outputs: list[PaidOut]
    next: int | None
    """Pass as `after` for the next page; null at the end."""


class NextRound(Model):
    """What the fund pays next, and what it waits for."""

    work: FundWork | None
    """Null while nothing is to be paid."""
    waits_for: str
    """For people: what must happen before the next transaction."""
    sequence: int
    spendable: Koinu
    threshold: Koinu
    missing: Koinu
    eligible: int | None
    """Payout keys that have a share; null while nobody had to count them."""
    height: int


class Verified(Model):
    """A transaction of the fund, recomputed from the chain by this node."""

    sequence: int
    txid: Txid
    right: bool
    difference: str
    """The first thing in which the chain differs from what this node computed; empty where nothing does."""
    snapshot: int | None
    """The snapshot that it was computed for; null where no snapshot asks for such a transaction."""
    recipients: int
    share: Koinu
    manifest: Hash32 | None
    """As computed."""
    batches_paid: int
    """Batches that are confirmed and right."""


class Trouble(Model):
    """One reason why the fund's next transaction is not made."""

    node: NodeId | None
    """The guardian whom it concerns; null where it concerns none."""
    pubkey: PubKey | None
    what: Literal[
        "waits", "depth", "eligibility", "locked", "silent", "behind", "differs", "false-signatures", "refuses"
    ]
    text: str


class WhyNotPaid(Model):
    """Why the fund does not pay at this moment."""

    sequence: int
    have: int
    """Guardians whose signatures of the transaction in work are good, among those that the anchor needs."""
    need: int
    troubles: list[Trouble]


class Cosigned(Model):
    """A guardian's signatures of a transaction of the fund that it computed itself."""

    unsigned: Txid
    pubkey: PubKey
    signatures: Annotated[list[Hex | None], Field(max_length=200)]
    """One for each input in order; null where the input's script does not name the key."""


class SharePrice(Model):
    """What one more share of the fund costs today, and what it brings."""

    height: int
    window_blocks: int
    bond: Koinu
    """What must be locked…"""
    lock_blocks: int
    """…from now on for so many blocks, of which those of the first and the last window bring nothing."""
    tax: Koinu
    """What the key's work must pay to the fund in each window."""
    fees: Koinu
    """Chain fees of the channels in each window, and of the bond shared among its windows."""
    gain: Koinu
    """What one key with every share was paid within the last window."""
    net: SignedKoinu
    """What a window leaves when the tax is paid for nothing but the share."""
    tied_up: Koinu
    """The bond and the gross that turns over."""
    yearly_bps: int
    """`net` over a year in hundredths of a percent of what is tied up, the bond's idle windows counted in."""
