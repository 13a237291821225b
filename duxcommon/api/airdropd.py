"""Replies of dux-airdropd: `fund.* airdrop.*` and, mounted in it, `network.* param.* proposal.*`."""

from typing import Annotated, Literal

from pydantic import Field

from ..network import Seat
from ..parameters import Parameters
from .common import Address, Hash32, Hex, Koinu, Model, NodeId, Txid, UnixTime
from .flopd import BlockRef, NetworkLabel


class FundStatus(Model):
    """The community fund as this node sees the chain."""

    address: Address
    confirmed: Koinu
    """Unspent outputs that are in a block."""
    pending: Koinu
    received: Koinu
    """Everything that was ever paid in, in a block."""
    payments: int
    """Number of those payments."""
    threshold: Koinu
    missing: Koinu
    """What is still to come until the threshold."""
    guardians: list[NodeId]
    guardians_m: int
    height: int
    """Chain tip of this answer."""
    network: NetworkLabel


class NetworkInfo(Model):
    """What the network definition says, and what is derived from it."""

    id: Hash32
    name: str
    chain: Literal["main", "test", "regtest", "devnet", "litecoin-regtest"]
    genesis: Hash32
    birth_height: int
    worthless: bool
    fund_address: Address
    tax_bps: int
    min_tax: Koinu
    airdrop_threshold: Koinu
    guardians: list[NodeId]
    guardians_m: int
    arbiters: list[NodeId]
    time: UnixTime
    """When this answer was made."""


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
    """One confirmed transaction of the fund, as history shows it."""

    sequence: int
    kind: Literal["payout", "sweep", "grant", "unknown"]
    txid: Txid
    height: int
    recipients: int
    share: Koinu
    paid: Koinu
    fee: Koinu
    manifest: Hash32 | None
    tip: BlockRef
