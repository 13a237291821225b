"""Replies of dux-airdropd: `fund.* network.*`. Amounts are koinu."""

from .common import Address, Hash32, Koinu, Model, NodeId, UnixTime
from .flopd import NetworkLabel


class FundStatus(Model):
    address: Address
    confirmed: Koinu
    """What the fund's address holds in blocks."""
    pending: Koinu
    received: Koinu
    """All that ever came in since the network's birth height."""
    payments: int
    threshold: Koinu
    """The fund pays out when it holds this much."""
    missing: Koinu
    guardians: list[NodeId]
    guardians_m: int
    """How many guardians must sign to spend."""
    height: int
    network: NetworkLabel


class NetworkInfo(Model):
    id: Hash32
    name: str
    chain: str
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
    """The daemon's clock."""
