"""Keys, contracts and signatures for tests of escrowd: a buyer, a provider, an arbiter and a community fund."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dux_escrowd import contract
from dux_escrowd.contract import Escrow
from duxcommon.api.escrowd import ChannelContract, SignedState
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.coin.tx import Coin

FUND = coin_script.p2sh_script(b"community fund")


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def pubkey(name: str) -> str:
    return coin_script.pubkey_of(secret(name)).hex()


def outpoint(name: str) -> str:
    return hashlib.sha256(b"tx" + name.encode()).hexdigest()


@dataclass(frozen=True)
class Kit:
    """A channel whose keys are all known."""

    escrow: Escrow
    buyer: bytes
    provider: bytes
    arbiter: bytes

    def sign(self, gross: int, deposits: Sequence[Coin], *, seq: int = 1, pays: Sequence[str] = ()) -> SignedState:
        """The buyer's signed state."""
        spend = contract.closing(self.escrow, deposits, gross)
        return contract.make_state(
            self.escrow, spend, self.signatures(spend, self.buyer), seq=seq, gross=gross, pays=pays
        )

    def signatures(self, spend: coin_tx.Spend, key: bytes) -> list[str]:
        return [coin_tx.sign_input(spend.tx, index, spend.redeem, key).hex() for index in range(len(spend.deposits))]


def kit(name: str = "", *, lock_height: int = 20_000, tax_bps: int = 500) -> Kit:
    keys = [secret(role + name) for role in ("provider", "buyer", "arbiter")]
    terms = ChannelContract(
        provider_pubkey=coin_script.pubkey_of(keys[0]).hex(),
        buyer_pubkey=coin_script.pubkey_of(keys[1]).hex(),
        arbiter_pubkey=coin_script.pubkey_of(keys[2]).hex(),
        lock_height=lock_height,
        tax_bps=tax_bps,
        fund_script=FUND.hex(),
    )
    return Kit(Escrow.of(terms), buyer=keys[1], provider=keys[0], arbiter=keys[2])


def coin(amount: int, name: str = "deposit") -> Coin:
    return Coin(outpoint(name), 0, amount)
