"""A signed network definition for tests that need a network but no chain."""

from pathlib import Path

from duxcommon.coin.script import pubkey_of
from duxcommon.identity import Identity
from duxcommon.network import Member, NetworkDefinition, dump_network

PUBKEY = pubkey_of(b"\x11" * 32).hex()


def definition(guardian: Identity | None = None) -> NetworkDefinition:
    """A network of one guardian, who is its arbiter as well; every call without `guardian` makes another one."""
    guardian = guardian or Identity.generate()
    member = Member(node=guardian.node_id, pubkey=PUBKEY)
    unsigned = NetworkDefinition(
        name="testnet",
        chain="devnet",
        genesis="00" * 32,
        birth_height=0,
        bootstrap=[],
        guardians=[member],
        guardians_m=1,
        arbiters=[member],
    )
    return unsigned.signed_by(guardian)


def write_network(path: Path, guardian: Identity | None = None) -> NetworkDefinition:
    """`definition` as the file `path`."""
    network = definition(guardian)
    path.write_text(dump_network(network))
    return network
