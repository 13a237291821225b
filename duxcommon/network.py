"""The network definition: the one signed file by which a node joins a network."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from .api.common import Hash32, Model, NodeId, PubKey
from .config import load_yaml, validate
from .errors import BadSignature, ConfigError, NetworkMissing, NewerFormat
from .identity import Identity, verify
from .parameters import Parameters
from .records import canonical

FORMAT = 1
DOMAIN = b"dux-network-v1\n"


def _real_port(text: str) -> str:
    port = int(text.rpartition(":")[2])
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is no port")
    return text


HostPort = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5}$"), AfterValidator(_real_port)]
"""`host:port`, an IPv6 host in brackets."""


class Seat(Model):
    """A guardian or arbiter in force: the coin key that the chain names, and whose node it is."""

    node: NodeId | None
    """Null until the document of the proposal that gave out the seat is found: the chain has the key only."""
    pubkey: PubKey


class Member(Seat):
    """A node with a task in the network, and its coin key for that task."""

    node: NodeId


class NetworkDefinition(Model):
    """Identified by the hash of everything but the signatures; that id is bound into every signature."""

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    chain: Literal["main", "test", "regtest", "devnet", "litecoin-regtest"]
    genesis: Hash32
    birth_height: Annotated[int, Field(ge=0)]
    """flopd reads the chain from here on."""
    bootstrap: list[HostPort]
    """OpenDHT nodes to ask first."""
    relays: list[str] = []
    """iroh relays, as URLs; none means direct connections only."""
    guardians: Annotated[list[Member], Field(min_length=1, max_length=15)]
    guardians_m: Annotated[int, Field(ge=1, le=15)]
    """How many guardians must sign to spend from the fund."""
    first_anchor: Annotated[str, Field(pattern=r"^[0-9a-f]{64}:[0-9]{1,5}$")] | None = None
    """`txid:vout` that the fund's first transaction spends; by default the first payment that the fund received."""
    arbiters: Annotated[list[Member], Field(min_length=1, max_length=64)]
    parameters: Parameters = Parameters()
    signatures: dict[NodeId, Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]] = {}
    """Ed25519 signatures of guardians over the canonical definition without this field."""

    @model_validator(mode="after")
    def _consistent(self) -> "NetworkDefinition":
        if self.guardians_m > len(self.guardians):
            raise ValueError(f"guardians_m is {self.guardians_m}, but there are {len(self.guardians)} guardians")
        if len({member.pubkey for member in self.guardians}) != len(self.guardians):
            raise ValueError("two guardians have the same key")
        return self

    def signed_bytes(self) -> bytes:
        """What the guardians sign."""
        return DOMAIN + canonical(self.model_dump(exclude={"signatures"}))

    @property
    def id(self) -> str:
        """64 hex digits that name this network."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()

    @property
    def worthless(self) -> bool:
        """Whether the coins have no value: any chain but Flopcoin's main chain."""
        return self.chain != "main"

    def signed_by(self, identity: Identity) -> "NetworkDefinition":
        """The definition with one more signature."""
        signature = identity.sign(self.signed_bytes()).hex()
        return self.model_copy(update={"signatures": {**self.signatures, identity.node_id: signature}})

    def check_signatures(self) -> None:
        """Raises BadSignature unless every guardian signed."""
        message = self.signed_bytes()
        for member in self.guardians:
            signature = self.signatures.get(member.node, "")
            if not verify(member.node, bytes.fromhex(signature), message):
                raise BadSignature(f"the network definition is not signed by guardian {member.node[:16]}…")


def load_network(path: Path) -> NetworkDefinition:
    """The definition in `path`, its signatures checked.

    Raises NetworkMissing, NewerFormat, ConfigError or BadSignature.
    """
    if not path.exists():
        raise NetworkMissing(f"there is no network definition at {path}")
    value, lines = load_yaml(path)
    if isinstance(number := value.get("format"), int) and number > FORMAT:
        raise NewerFormat(
            f"{path} is a network definition of format {number}; this version of Dux OS knows format {FORMAT}",
            hint="Install a newer version of Dux OS on this machine (`apt full-upgrade`).",
        )
    network = validate(NetworkDefinition, value, {key: f"{path}, line {n}" for key, n in lines.items()}, str(path))
    try:
        network.check_signatures()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return network


def dump_network(network: NetworkDefinition) -> str:
    """The YAML text of a definition."""
    text: str = yaml.safe_dump(network.model_dump(), sort_keys=False)
    return text
