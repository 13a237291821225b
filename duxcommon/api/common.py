"""Types of JSON-RPC parameters and replies that every daemon uses."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_MONEY = 10**18
"""Largest amount one transaction may carry, in koinu (1e10 FLOP, Flopcoin's MAX_MONEY)."""


class Model(BaseModel):
    """Base of every request and reply: unknown keys refused, no coercion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Koinu = Annotated[int, Field(ge=0, le=MAX_MONEY, json_schema_extra={"unit": "koinu"})]
"""An amount in koinu (1 FLOP = 100,000,000 koinu)."""

SignedKoinu = Annotated[int, Field(ge=-MAX_MONEY, le=MAX_MONEY, json_schema_extra={"unit": "koinu"})]
"""A change of a balance in koinu; negative is money leaving."""

Hash32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A 32-byte hash, lower-case hex."""

NodeId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", json_schema_extra={"unit": "node"})]
"""A node: its Ed25519 public key, which is its iroh endpoint id as well."""

Txid = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A transaction id in the usual (reversed) hex form."""

PubKey = Annotated[str, Field(pattern=r"^0[23][0-9a-f]{64}$")]
"""A compressed secp256k1 public key, hex."""

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=400_000)]
"""Bytes as lower-case hex, at most 200 kB."""

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=6_000_000)]
"""Bytes as standard base64, at most 4.5 MB."""

Address = Annotated[str, Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{26,35}$")]
"""A base58check address of the node's chain."""

IdempotencyKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]
"""Chosen by the caller; the same key with the same parameters never acts twice."""

ChannelId = Hash32
"""SHA-256 of the channel's redeem script: both sides compute it."""

PaymentId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
TaskId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""Random 128 bits, hex; chosen by the buyer's taskd."""

AppRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}(@[0-9a-f]{4,64})?$|^[0-9a-f]{64}$")]
"""An app as people write it: `name`, `name@publisher-prefix`, or the 64-hex app id."""

Seconds = Annotated[float, Field(ge=0, le=3600)]
UnixTime = Annotated[int, Field(ge=0, le=2**40)]
"""Seconds since 1970-01-01 UTC."""


class Outpoint(Model):
    """One output of a transaction."""

    txid: Txid
    vout: Annotated[int, Field(ge=0, le=2**32 - 1)]


class Deposit(Model):
    """An output that pays a channel's script, with its amount in koinu."""

    txid: Txid
    vout: Annotated[int, Field(ge=0, le=2**32 - 1)]
    amount: Koinu


class SignedRecord(Model):
    """A statement of a node, signed with its Ed25519 key over the canonical bytes (see `duxcommon.records`)."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z-]{1,31}$")]
    network: Hash32
    node: NodeId
    seq: Annotated[int, Field(ge=0, le=2**53)]
    time: UnixTime
    body: dict[str, Any]
    sig: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Ok(Model):
    """The reply of a method that has nothing else to say."""

    ok: bool = True
