"""The trial network of one machine: its definition, its chain's users, what its daemons are told."""

import secrets
from typing import Annotated, Any

from btclib_secp256k1 import keys
from pydantic import Field

from duxcommon.api.common import Model
from duxcommon.coin.params import CHAINS
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition

from .invitation import ChainAccess, Invitation
from .rpcauth import new_password, rpcauth

CHAIN_URL = "http://127.0.0.1:32553/"
"""Where dux-devchain.service answers."""
DIRECTORY = "127.0.0.1:4748"
"""Where this machine's dux-registryd answers for the directory."""
NODE_USER = "node"
GUEST_USER = "guest"
POLL_S = 1
"""The trial chain makes a block as soon as transactions wait, so its follower looks often."""

Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
Password = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,128}$", repr=False)]


class Secrets(Model):
    """Drawn once for the trial network, before anything is made of them; kept by root alone."""

    node: Password
    """Of this node's flopd at the chain."""
    guest: Password
    """Of `dux-ctl demo`'s second node at the chain."""
    wallet: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", repr=False)]
    """Name of this node's wallet on the chain: who doesn't know it can't use it."""


class Arbiter(Model):
    """The trial network's arbiter: neither buyer nor seller may be it, so it has keys apart from this node's."""

    node: Secret
    coin: Secret

    def member(self) -> Member:
        """Its public part."""
        pubkey = keys.pubkey_from_prvkey(bytes.fromhex(self.coin))
        return Member(node=Identity(bytes.fromhex(self.node)).node_id, pubkey=pubkey.hex())


def new_wallet() -> str:
    """A wallet's name that nobody guesses: 32 hex digits."""
    return secrets.token_hex(16)


def new_secrets() -> Secrets:
    """Fresh ones."""
    return Secrets(node=new_password(), guest=new_password(), wallet=new_wallet())


def new_arbiter() -> Arbiter:
    """A fresh one. (That 32 random bytes are no valid coin key happens once in 2**128 times.)"""
    return Arbiter(node=Identity.generate().secret.hex(), coin=secrets.token_hex(32))


def definition(node: str, guardian: str, arbiter: Member) -> NetworkDefinition:
    """The unsigned definition: this node guards the fund alone. `guardian` is its coin key for that."""
    return NetworkDefinition(
        name=f"trial-{node[:8]}",
        chain="devnet",
        genesis=CHAINS["devnet"].genesis,
        birth_height=0,
        bootstrap=[],
        guardians=[Member(node=node, pubkey=guardian)],
        guardians_m=1,
        arbiters=[arbiter],
    )


def chain_users(known: Secrets) -> str:
    """The text of devchain.users."""
    lines = [rpcauth(NODE_USER, known.node), rpcauth(GUEST_USER, known.guest)]
    return "".join(f"{line}\n" for line in lines)


def chain_access(known: Secrets) -> ChainAccess:
    """This node's own login at its trial chain."""
    return ChainAccess.model_validate({"url": CHAIN_URL, "user": NODE_USER, "password": known.node})


def guest_invitation(network: NetworkDefinition, known: Secrets) -> Invitation:
    """An invitation to this machine itself."""
    chain = ChainAccess.model_validate({"url": CHAIN_URL, "user": GUEST_USER, "password": known.guest})
    return Invitation(network=network, bootstrap=[DIRECTORY], chain=chain)


def flopd_settings(
    chain: ChainAccess, wallet: str | None, password_file: str, ca_file: str | None, run_by: str | None
) -> dict[str, Any]:
    """What dux-flopd is told of its chain; `wallet` is the path of its own wallet on a Core that has several."""
    core: dict[str, Any] = {
        "url": chain.url + (f"wallet/{wallet}" if wallet else ""),
        "cookie": None,
        "user": chain.user,
        "password_file": password_file,
        "ca_file": ca_file,
        "run_by": run_by,
    }
    return {"core": core, "poll_s": POLL_S}


def registryd_settings(bootstrap: list[str], *, guardian: bool) -> dict[str, Any]:
    """What dux-registryd is told: what this node is there for, and which directory nodes to ask beside the others."""
    value: dict[str, Any] = {"roles": ["buyer", "provider", *(["guardian"] if guardian else [])]}
    return value | ({"bootstrap": bootstrap} if bootstrap else {})
