"""The configuration of dux-registryd, `/etc/duxnet/registryd.yaml`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from duxcommon.config import AbsolutePath, Settings
from duxcommon.network import HostPort

Role = Literal["provider", "buyer", "arbiter", "guardian"]
Port = Annotated[int, Field(ge=0, le=65535)]


class PeerLimits(BaseModel):
    """What other nodes may ask of this one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    calls_per_second: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Of one peer."""
    concurrent_calls: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Of one peer."""
    bytes_per_second: Annotated[int, Field(ge=1024, le=10**10)] = 8 * 1024 * 1024
    """Read from one peer's calls; beyond that this node reads more slowly. Payloads don't count."""
    connections: Annotated[int, Field(ge=1, le=16)] = 3
    """Of one peer; the oldest is closed for a new one."""
    connections_total: Annotated[int, Field(ge=4, le=100_000)] = 512
    """Of all peers together."""
    connections_per_address: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Of one IP address, so that one machine with many keys can't take all places."""
    downloads: Annotated[int, Field(ge=1, le=64)] = 4
    """Payloads that one peer may fetch at once."""


class RegistrydSettings(Settings):
    """Keys of registryd.yaml beside the common ones."""

    blobs_dir: AbsolutePath
    """The payloads that this node's daemons share."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    """How the node calls itself; the host's name by default. `node.register` changes it."""
    roles: list[Role] = ["buyer"]
    """What the node is there for: provider, buyer, arbiter, guardian. `node.register` changes it."""
    listen: Annotated[str, Field(pattern=r"^[0-9.]{7,15}$")] = "0.0.0.0"  # noqa: S104 - a node is there to be reached
    """IPv4 address for calls and directory."""
    port: Port = 4747
    """UDP port for calls (QUIC); 0 takes any."""
    directory_port: Port = 4748
    """UDP port of the directory (OpenDHT); 0 takes any."""
    external_addresses: Annotated[list[HostPort], Field(max_length=4)] = []
    """Addresses under which a router forwards to `port`."""
    bootstrap: Annotated[list[HostPort], Field(max_length=64)] = []
    """Nodes of the directory to ask first, beside those that the network definition names; read at the start."""
    lan_discovery: bool = False
    """Find other nodes of the network in the local network by multicast."""
    heartbeat_s: Annotated[int, Field(ge=1, le=300)] = 60
    """How often the node tells the others that it lives."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    """How long a node may take to accept a connection."""
    silence_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """A peer that owes an answer and says nothing for so long counts as unreachable."""
    min_free_mb: Annotated[int, Field(ge=0)] = 256
    """Space on the disk of `blobs_dir` that payloads leave free."""
    keep_payloads_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Inputs and results that nobody has read for so long are deleted; bundles of this node's apps stay."""
    auto_bond: bool = False
    """Make, renew and take back the bond that a share of the community fund asks for, once this node has earned."""
    bond_windows: Annotated[int, Field(ge=3, le=24)] = 12
    """For so many windows a bond is locked; all but two of them earn, and nobody can take it back earlier."""
    peers: PeerLimits = PeerLimits()
    signers: dict[str, list[str]] = {
        "order": ["dux-taskd"],
        "receipt": ["dux-taskd"],
        "event": ["dux-escrowd", "dux-airdropd"],
    }
    """Which users' daemons may have records of which kind signed with the node's key."""
