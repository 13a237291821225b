"""Replies of governance, mounted in dux-airdropd: `network.* param.* proposal.*`, and a proposal's document."""

from typing import Annotated, Literal

from pydantic import Field

from ..network import Member, Seat
from .airdropd import OldAddress, RuleBook
from .common import Address, Hash32, Koinu, Model, PubKey, Txid, UnixTime
from .flopd import NetworkLabel

ProposalState = Literal["SENT", "VOTING", "COUNTING", "LOCKED", "ACTIVE", "EXECUTED", "REJECTED", "FAILED"]
"""SENT: made by this node and not yet in a block. The others follow from the chain; see docs/states.md."""

ProposalClass = Literal["parameter", "voting", "guardians", "arbiters", "spend"]

MAX_DOCUMENT = 16_384
"""Bytes of a proposal's document."""


# --- a proposal's document ---------------------------------------------------------------------------------------


class ParameterWish(Model):
    """A parameter gets another value."""

    kind: Literal["parameter"] = "parameter"
    name: Annotated[str, Field(max_length=64)]
    value: Annotated[int, Field(ge=0, le=2**63 - 1)]
    """In the parameter's unit."""


class GuardiansWish(Model):
    """One guardian leaves, one comes, or both, or only the number of signatures changes."""

    kind: Literal["guardians"] = "guardians"
    out: PubKey | None
    into: Member | None
    m: Annotated[int, Field(ge=1, le=15)]
    """Of those who are guardians then, so many must sign."""


class ArbitersWish(Model):
    """One arbiter leaves, one comes, or both."""

    kind: Literal["arbiters"] = "arbiters"
    out: PubKey | None
    into: Member | None


class SpendWish(Model):
    """The fund pays an address."""

    kind: Literal["spend"] = "spend"
    to: Address
    amount: Koinu


Wish = Annotated[ParameterWish | GuardiansWish | ArbitersWish | SpendWish, Field(discriminator="kind")]


class Document(Model):
    """What a proposal's author says of it. Its SHA-256 is on the chain, and so is all that it does."""

    format: Literal[1] = 1
    network: Hash32
    change: Wish
    title: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]+$")]
    reason: Annotated[str, Field(max_length=8000, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")] = ""
    """Lines of plain text."""


class DocumentText(Model):
    """A document as the exact text whose UTF-8 bytes have the hash."""

    hash: Hash32
    text: Annotated[str, Field(max_length=MAX_DOCUMENT)]


# --- proposals ---------------------------------------------------------------------------------------------------


class Tally(Model):
    """The votes so far, or at the deadline."""

    electorate: int | None
    """Payout keys that may vote; null until the proposal is 60 blocks deep."""
    votes: int
    """Votes of the electorate; of all payout keys while it is not known."""
    yes: int
    approvals: list[PubKey]
    """Guardian keys that approved, in order."""
    votes_needed: int | None
    """Least number of votes; null until the electorate is known."""
    majority_pct: int
    approvals_needed: int
    """0 where guardians are not asked."""


class Proposal(Model):
    """A proposal as this node reads it from the chain."""

    id: Hash32
    state: ProposalState
    klass: ProposalClass
    effect: str
    """What it changes, as the chain says it."""
    why: str
    """Of REJECTED and FAILED: the reason. Otherwise what happens next."""
    title: str
    """Of its document; empty while that is not known."""
    txid: Txid | None
    """Null while it waits to be sent."""
    height: int | None
    """Block that it is in."""
    deadline: int | None
    """Last block in which votes count."""
    tally_at: int | None
    """Block at which the votes are counted for good."""
    from_height: int | None
    """Block from which it is in force if it is accepted."""
    tally: Tally | None


class ProposalPage(Model):
    """Proposals, newest first."""

    proposals: list[Proposal]
    next: Hash32 | None
    """Pass as `after` for the next page; null at the end."""
    height: int
    """Block up to which the chain was read."""
    network: NetworkLabel


class OwnVote(Model):
    """Whether this node's payout key may vote on a proposal, and what became of its vote."""

    may: bool
    why: str
    """Why it may not; empty where it may."""
    cast: Literal["", "queued", "sent", "confirmed"]
    """Of the newest vote of this node; empty without one."""
    yes: bool | None
    txid: Txid | None
    trouble: str
    """What keeps a queued vote from being sent."""


class OwnApproval(Model):
    """Whether this node is a guardian whose approval is asked for, and what became of it."""

    asked: bool
    cast: Literal["", "queued", "sent", "confirmed"]
    txid: Txid | None
    trouble: str


class ProposalDetail(Model):
    """A proposal with its document and this node's part in it."""

    proposal: Proposal
    document: Document | None
    """Null while this node has not found it; the effect is known without it."""
    document_note: str
    """What is wrong with the document; empty when nothing is."""
    vote: OwnVote
    approval: OwnApproval
    network: NetworkLabel


class Created(Model):
    """A proposal that is on its way to the chain."""

    id: Hash32
    document: Hash32
    state: Literal["queued", "sent", "confirmed", "dropped"]
    txid: Txid | None
    effect: str
    fee: Koinu
    note: str
    """What keeps it from being sent; empty when nothing does."""
    network: NetworkLabel


class Cast(Model):
    """A vote or an approval that is on its way to the chain."""

    proposal: Hash32
    state: Literal["queued", "sent", "confirmed", "dropped"]
    """queued: the payout address is given a coin first, or the chain can't be reached; it goes by itself."""
    txid: Txid | None
    note: str
    network: NetworkLabel


# --- what a change would have done -------------------------------------------------------------------------------


class ReplayRow(Model):
    """One round of the past, or (with `height` null) their sum, with the rules as they were and as proposed."""

    height: int | None
    """Block at which the fund held the threshold."""
    inflow_before: Koinu
    """Tax that came in since the round before."""
    inflow_after: Koinu
    eligible_before: int
    eligible_after: int
    share_before: Koinu
    share_after: Koinu
    paid_before: Koinu
    paid_after: Koinu


class Replay(Model):
    """What a change would have done to the fund over the last blocks of this chain."""

    effect: str
    from_height: int
    to_height: int
    rounds_before: int
    rounds_after: int
    rows: list[ReplayRow]
    """Snapshots at which there was, or would have been, a round, ascending."""
    total: ReplayRow
    caveats: list[str]
    """What such a reckoning can't know."""
    network: NetworkLabel


# --- parameters and rules ----------------------------------------------------------------------------------------


class Parameter(Model):
    """A governed parameter and how far it may be changed."""

    name: str
    number: int
    value: int
    """In force at the tip, in `unit`."""
    default: int
    """Of a new network."""
    unit: str
    low: int
    high: int
    largest_step: int
    """How far one change may go from the value in force."""
    voting: bool
    """A rule of voting itself: needs the guardians' approval as well."""
    coming: int | None
    """Value that was voted and is not in force yet."""
    coming_from: int | None
    help: str


class ParameterList(Model):
    """All governed parameters."""

    parameters: list[Parameter]
    version: int
    """Version of the rules in force at `height`."""
    height: int
    known_to: int
    """No rule of a block up to this one can change any more."""
    network: NetworkLabel


class RuleChange(Model):
    """One version of the rules and what it changed."""

    version: int
    from_height: int
    proposal: Hash32 | None
    effect: str


class RuleHistory(Model):
    """All versions, ascending."""

    changes: list[RuleChange]
    height: int
    network: NetworkLabel


class RulesVerified(Model):
    """The outcome of reckoning all rules from the chain anew."""

    agree: bool
    difference: str
    """The first difference to the rules that this node uses; empty when there is none."""
    versions: int
    proposals: int
    votes: int
    approvals: int
    height: int
    """Up to this block."""
    book: RuleBook
    """As reckoned anew."""
    network: NetworkLabel


class NetworkInfo(Model):
    """What the network definition says, and what is in force now."""

    id: Hash32
    name: str
    chain: Literal["main", "test", "regtest", "devnet", "litecoin-regtest"]
    genesis: Hash32
    birth_height: int
    worthless: bool
    version: int
    """Version of the rules in force; 0 is the network definition."""
    fund_address: Address
    old_fund_addresses: list[OldAddress]
    """Those of earlier guardians that still count, the latest first."""
    tax_bps: int
    min_tax: int
    airdrop_threshold: int
    guardians: list[Seat]
    guardians_m: int
    arbiters: list[Seat]
    time: UnixTime
    """When this answer was made."""
