"""Chain parameters and the devnet's block 0."""

import hashlib
from datetime import UTC, datetime

from btclib.block.block import Block

from duxcommon.coin import genesis
from duxcommon.coin.params import CHAINS, CHAINS_BY_GENESIS, DEVNET, LITECOIN_REGTEST, MAIN


def test_the_devnet_block_is_a_real_block_with_the_hash_that_identifies_the_chain() -> None:
    header = genesis.header()
    assert len(header) == 80
    assert hashlib.sha256(hashlib.sha256(header).digest()).digest()[::-1].hex() == DEVNET.genesis
    block = Block.parse(genesis.block(), check_validity=False)
    assert block.header.hash.hex() == DEVNET.genesis == genesis.block_hash()
    assert block.header.time == datetime(2026, 1, 1, tzinfo=UTC)
    block.assert_valid_merkle_root()
    assert block.transactions == [genesis.coinbase()]


def test_the_devnet_block_pays_nothing_and_says_that_coins_have_no_value() -> None:
    coinbase = genesis.coinbase()
    assert coinbase.is_coinbase
    assert sum(output.value for output in coinbase.vout) == 0
    assert b"coins have no value" in genesis.block()


def test_devnet_prefixes_belong_to_no_known_coin() -> None:
    bitcoin = {0, 5, 128, 111, 196, 239}
    litecoin = {48, 50, 5, 176, 111, 58, 196, 239}
    dogecoin = {30, 22, 158, 113, 196, 241}
    flopcoin = {35, 22, 158, 56, 76, 184, 111, 196, 239}
    ours = {DEVNET.p2pkh, DEVNET.p2sh, DEVNET.wif}
    assert len(ours) == 3
    assert not ours & (bitcoin | litecoin | dogecoin | flopcoin)


def test_every_chain_has_its_own_genesis_and_only_the_main_chain_has_value() -> None:
    assert len(CHAINS_BY_GENESIS) == len(CHAINS) == 5
    assert [chain.name for chain in CHAINS.values() if not chain.worthless] == ["main"]
    assert CHAINS["litecoin-regtest"] is LITECOIN_REGTEST


def test_coinbases_of_the_main_chain_mature_later_from_height_145_on() -> None:
    assert [MAIN.coinbase_maturity(height) for height in (0, 144, 145, 10**6)] == [30, 30, 240, 240]
