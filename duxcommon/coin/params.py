"""The chains a node can stand on. A chain is identified by its genesis hash, never by address prefixes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChainParams:
    """Constants of one chain; the figures for Flopcoin come from Flopcoin Core 2.0."""

    name: str
    genesis: str
    """Hash of block 0, as `getblockhash 0` answers it."""
    p2pkh: int
    """Version byte of a pay-to-public-key-hash address."""
    p2sh: int
    """Version byte of a pay-to-script-hash address."""
    wif: int
    """Version byte of an exported private key."""
    rpc_port: int
    """Where Core listens by default."""
    block_seconds: int
    """Intended time between blocks."""
    early_maturity: int
    """Blocks before a coinbase can be spent, for coinbases below `maturity_changes_at`."""
    maturity: int
    """The same for all later coinbases."""
    maturity_changes_at: int
    cltv_height: int
    """From this height on CHECKLOCKTIMEVERIFY is enforced: before it, bonds and deposits would not be locked."""
    worthless: bool
    """Its coins have no value: a test or trial chain."""

    def coinbase_maturity(self, height: int) -> int:
        """Confirmations that a coinbase mined at `height` needs before it can be spent."""
        return self.early_maturity if height < self.maturity_changes_at else self.maturity


MAIN = ChainParams(
    name="main",
    genesis="1f1037762db00882d3353b8d9dcfd52fc93cbc2d694c62f1ecd6a209cf9d30d0",
    p2pkh=35,
    p2sh=22,
    wif=158,
    rpc_port=32551,
    block_seconds=60,
    early_maturity=30,
    maturity=240,
    maturity_changes_at=145,
    cltv_height=111_000,
    worthless=False,
)
TEST = ChainParams(
    name="test",
    genesis="f4a99d0171235dab2cc2efb14055b86f96c9eda1653ff0a3b2153146391fe300",
    p2pkh=56,
    p2sh=76,
    wif=184,
    rpc_port=44555,
    block_seconds=30,
    early_maturity=30,
    maturity=30,
    maturity_changes_at=0,
    cltv_height=0,
    worthless=True,
)
REGTEST = ChainParams(
    name="regtest",
    genesis="e0950eaa6e8ee8c50f8291b47d83aa59763936adc96ec60bdfb72d513bd4f1d4",
    p2pkh=111,
    p2sh=196,
    wif=239,
    rpc_port=18332,
    block_seconds=1,
    early_maturity=6,
    maturity=6,
    maturity_changes_at=0,
    cltv_height=0,
    worthless=True,
)
DEVNET = ChainParams(
    # Prefixes that neither Flopcoin nor Bitcoin, Litecoin or Dogecoin use: a devnet address is refused everywhere else.
    name="devnet",
    genesis="31a9483fcb844e34255f57cee6a4712e18cc3bb74e939aa5a0f1c9a21d882660",
    p2pkh=90,
    p2sh=92,
    wif=210,
    rpc_port=27551,
    block_seconds=1,
    early_maturity=6,
    maturity=6,
    maturity_changes_at=0,
    cltv_height=0,
    worthless=True,
)
LITECOIN_REGTEST = ChainParams(
    name="litecoin-regtest",
    genesis="530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9",
    p2pkh=111,
    p2sh=58,
    wif=239,
    rpc_port=19443,
    block_seconds=1,
    early_maturity=100,
    maturity=100,
    maturity_changes_at=0,
    cltv_height=1_351,
    worthless=True,
)

_ALL = (MAIN, TEST, REGTEST, DEVNET, LITECOIN_REGTEST)
CHAINS: dict[str, ChainParams] = {chain.name: chain for chain in _ALL}
"""The known chains by name."""
CHAINS_BY_GENESIS: dict[str, ChainParams] = {chain.genesis: chain for chain in _ALL}
"""The same by the hash of block 0."""
