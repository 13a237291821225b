"""Replies of dux-registryd and its store: `node.* peer.* blob.* app.*`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from .common import Address, Base64, Hash32, Koinu, Model, NodeId, PubKey, SignedRecord, Txid, UnixTime
from .flopd import BlockRef
from .manifest import Manifest

SocketAddress = Annotated[
    str, Field(pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-f:]{2,45}\]):[0-9]{1,5}$", max_length=64)
]
"""`host:port` with the host as an IP address."""


class Hardware(Model):
    cpu_cores: Annotated[int, Field(ge=1, le=65_536)]
    memory_mb: Annotated[int, Field(ge=1, le=2**40)]
    storage_mb: Annotated[int, Field(ge=0, le=2**40)]
    arch: Annotated[str, Field(max_length=32)]
    gpu: Annotated[str, Field(max_length=100)] = ""


class NodeRecord(Model):
    """Body of a signed record of kind `node`: the heartbeat of a node."""

    name: Annotated[str, Field(max_length=64)]
    addresses: Annotated[list[SocketAddress], Field(max_length=8)]
    """Of the iroh endpoint, for direct connections."""
    relay: Annotated[str, Field(max_length=200)] = ""
    payout_address: Address | None = None
    roles: Annotated[list[Literal["provider", "buyer", "arbiter", "guardian"]], Field(max_length=4)] = []
    hardware: Hardware
    apps: Annotated[list[Hash32], Field(max_length=256)] = []
    """Apps that this node serves now."""
    load_pct: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Tasks running as a percentage of what the owner lends."""
    accepting: bool = False
    version: Annotated[str, Field(max_length=32)]
    heartbeat_s: Annotated[int, Field(ge=1, le=300)] = 60
    """Seconds between two of these records; a node that missed three counts as gone."""


class NodeInfo(Model):
    node: NodeId
    seq: int
    seen: UnixTime
    live: bool
    """Heard from within three heartbeats."""
    latency_ms: float | None
    record: NodeRecord


class NodePage(Model):
    nodes: list[NodeInfo]
    next: str | None


class Identity(Model):
    node: NodeId
    network: Hash32
    network_name: str
    addresses: list[str]
    worthless: bool


class PeerInfo(Model):
    node: NodeId
    connected: bool
    latency_ms: float | None
    calls: int
    refused: int
    bytes_in: int
    bytes_out: int


class PeerPage(Model):
    peers: list[PeerInfo]


class PeerReply(Model):
    """What the remote method returned, and its node's signature where one was asked for."""

    result: Any


class Transfer(Model):
    hash: Hash32
    size: int
    done: int
    """Bytes that arrived so far."""
    complete: bool


class BlobInfo(Model):
    hash: Hash32
    size: int


class BlobChunk(Model):
    hash: Hash32
    size: int
    offset: int
    data: Base64


class UploadStatus(Model):
    upload: str
    received: int
    blob: BlobInfo | None
    """Set by the final chunk."""


class ListingBody(Model):
    """Body of a signed record of kind `listing`."""

    app: Hash32
    """SHA-256 of `publisher/name`."""
    manifest: Manifest
    bundle: Hash32
    bundle_size: int
    withdrawn: bool = False
    arch: Annotated[str, Field(max_length=32)] = ""
    """Machine architecture that the bundle's native code is for; empty where it has none."""
    python: Annotated[str, Field(pattern=r"^([0-9]+\.[0-9]+)?$")] = ""
    """Minor version of Python that the bundle's native modules are for; empty where any will do."""


class Finding(Model):
    """Something that the scan of a bundle noticed."""

    severity: Literal["error", "warning"]
    """An app with errors is not published."""
    rule: str
    path: str
    """Inside the bundle; empty where it concerns the whole."""
    message: str


class ScanReport(Model):
    bundle: Hash32
    name: str
    version: str
    size: int
    members: int
    arch: str
    python: str
    findings: list[Finding]


class Listing(Model):
    app: Hash32
    name: str
    publisher: NodeId
    version: str
    summary: str
    tags: list[str]
    price: Koinu
    runtime: str
    deterministic: bool
    seq: int
    live_providers: int
    record: SignedRecord


class ListingPage(Model):
    listings: list[Listing]
    next: str | None
    network: str
    worthless: bool
    """True on private trial networks: prices are in coins without value."""


class Provider(Model):
    """A node that serves an app, as the scheduler sees it."""

    node: NodeId
    name: str
    price: Koinu
    load_pct: int
    latency_ms: float | None
    live: bool
    accepting: bool


class Providers(Model):
    listing: Listing
    providers: list[Provider]


class PublishReply(Model):
    app: Hash32
    name: str
    seq: int
    bundle: Hash32
    announced: bool
    """The directory has stored the record."""
    findings: list[str]
    """Warnings of the scan."""


class DirectoryStats(Model):
    records: int
    dropped: dict[str, int]
    """Reason → how many records were refused."""
    dht_nodes: int


# --- eligibility ----------------------------------------------------------------------------------------------------


class EligibleKey(Model):
    """A payout key that has a share at a snapshot."""

    pubkey: PubKey
    tax: Koinu
    """What its settled work paid to the fund within the window."""


class EligiblePage(Model):
    """The eligible payout keys at a snapshot (or all qualified ones), by key; a pure function of the chain."""

    height: int
    rules: int
    """Version of the rules in force at `height`."""
    total: int
    """Number of eligible keys."""
    qualified: int
    """Those that meet every condition but the cap on shares."""
    share: Koinu
    """The largest share that all eligible keys can have; 0 when there are none."""
    full: bool
    """All qualified keys have it and it is an equal division among them: the cap holds nothing back."""
    digest: Hash32
    """SHA-256 of all keys of the list (33 bytes each, ascending): two nodes that agree on it agree on all."""
    keys: list[EligibleKey]
    next: PubKey | None
    """Pass as `after` for the next page; null at the end."""
    tip: BlockRef
    """The last block read here: whoever has it in his chain has the same snapshot."""


class Missing(Model):
    """One condition that a key does not meet."""

    condition: Literal["tax", "epochs", "bond", "cap"]
    have: int
    need: int
    unit: Literal["koinu", "epochs"]
    text: str
    """For people: what is missing."""
    remedy: str
    """The command that mends it, or what to wait for."""


class Standing(Model):
    """Whether a payout key has a share at a snapshot, and why not."""

    pubkey: PubKey
    height: int
    rules: int
    eligible: bool
    tax: Koinu
    epochs: int
    bond: Koinu
    """Locked for long enough and since early enough."""
    bond_needed: Koinu
    missing: list[Missing]


class BondInfo(Model):
    """A bond of this node."""

    txid: Txid
    vout: int
    amount: Koinu
    lock_height: int
    confirmed: int | None
    """Height; null while it is on its way."""
    state: Literal["sent", "locked", "free", "releasing", "released"]


class Bonds(Model):
    """This node's bonds, and what the next window asks for."""

    auto: bool
    pubkey: PubKey
    bonds: list[BondInfo]
    needed: Koinu
    """What must be locked now to have a share when the window that opens now ends."""
    locked: Koinu
    note: str
    """What the node does next, or why it does nothing."""
