"""The community fund's script and address, as the network definition fixes them."""

from collections.abc import Sequence
from functools import lru_cache

from ..network import NetworkDefinition, Seat
from .params import CHAINS
from .script import address_of, multisig_script, p2sh_script


def guardians_redeem(guardians: Sequence[Seat], m: int) -> bytes:
    """m-of-n of the guardians' keys, in the order of the keys, so that every node builds the same script."""
    return multisig_script(m, sorted(bytes.fromhex(member.pubkey) for member in guardians))


def fund_redeem(network: NetworkDefinition) -> bytes:
    """The redeem script of the guardians that the network definition names."""
    return guardians_redeem(network.guardians, network.guardians_m)


def fund_script(network: NetworkDefinition) -> bytes:
    """The scriptPubKey that the tax is paid to."""
    return _script(fund_redeem(network))


@lru_cache(maxsize=8)
def _script(redeem: bytes) -> bytes:
    return p2sh_script(redeem)


def fund_address(network: NetworkDefinition) -> str:
    """The same as an address."""
    address = address_of(fund_script(network), CHAINS[network.chain])
    if address is None:
        raise AssertionError("a P2SH script always has an address")
    return address
