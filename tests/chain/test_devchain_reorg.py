"""Reorganisations of dux-devchain: what falls out waits again, what lost is named a conflict, what returns is back."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from devchain_kit import NOBODY, SECRETS, Devchain, Refused, given_coin, spend

from duxcommon.coin.script import address_of, p2pkh_script, pubkey_of
from duxcommon.coin.tx import parse_tx, serialize_tx, txid_of
from duxcommon.money import COIN

STRANGER = p2pkh_script(pubkey_of(bytes([77]) * 32))


@pytest.fixture(params=["flopcoin", "modern"])
def chain(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Devchain]:
    running = Devchain(short_tmp / "c", request.param)
    yield running
    running.close()


def test_a_block_that_falls_out_gives_its_transactions_back_and_returns_with_them(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    first = bob.pay({alice.address(): "1"})
    (block,) = chain.mine(1)
    second = bob.pay({alice.address(): "2"})
    chain.mine(1)
    tip = chain.call("getbestblockhash")
    chain.call("invalidateblock", block)
    assert chain.call("getrawmempool") == [first, second]
    assert (alice.getbalance(), alice.gettransaction(first)["confirmations"]) == (0, 0)
    assert chain.call("getblockheader", block)["confirmations"] == -1
    assert chain.call("getblock", block)["tx"][1:] == [first], "a block off the chain can still be read"
    chain.call("reconsiderblock", block)
    assert chain.call("getbestblockhash") == tip
    assert chain.call("getrawmempool") == []
    assert (alice.getbalance(), alice.gettransaction(first)["confirmations"]) == (3, 2)


def test_a_double_spend_that_a_reorganisation_decides_is_a_conflict_by_depth(chain: Devchain) -> None:
    alice, carol = chain.new_wallet("alice"), chain.new_wallet("carol")
    coin = given_coin(chain)
    to_alice = spend(coin, [(chain.script(alice.address()), 9 * COIN)])
    to_stranger = spend(coin, [(STRANGER, 8 * COIN)])
    lost, kept = txid_of(to_alice), txid_of(to_stranger)
    chain.call("sendrawtransaction", serialize_tx(to_stranger).hex())
    (first,) = chain.mine(1)
    chain.call("invalidateblock", first)
    assert chain.call("getrawmempool") == [kept]
    chain.kill()  # no wallet holds it, so it is gone
    chain.start()
    chain.call("sendrawtransaction", serialize_tx(to_alice).hex())
    chain.mine(1)
    assert (alice.getbalance(), alice.gettransaction(lost)["confirmations"]) == (9, 1)

    chain.call("reconsiderblock", first)
    assert chain.call("getbestblockhash") == first
    chain.mine(2)
    assert (alice.getbalance(), alice.gettransaction(lost)["confirmations"]) == (0, -3)
    assert alice.getwalletinfo()["unconfirmed_balance"] == 0
    assert [entry["confirmations"] for entry in alice.listsinceblock(first)["transactions"]] == [-3]
    chain.kill()
    chain.start()
    assert chain.call("getrawmempool") == []
    assert alice.gettransaction(lost)["confirmations"] == -3

    carol.importprivkey(chain.wif(SECRETS[0]), "", True)
    assert carol.gettransaction(kept)["confirmations"] == 3
    chain.call("invalidateblock", first)
    assert (alice.getbalance(), alice.gettransaction(lost)["confirmations"]) == (9, 1)
    assert carol.gettransaction(kept)["confirmations"] == -1
    assert carol.gettransaction(kept)["walletconflicts"] == [lost]
    assert carol.gettransaction(lost)["walletconflicts"] == [kept]


def test_what_hangs_on_a_loser_loses_with_it_and_frees_its_other_coins(chain: Devchain) -> None:
    alice = chain.new_wallet("alice", "5")
    coin = given_coin(chain)
    to_alice = spend(coin, [(chain.script(alice.address()), 9 * COIN)])
    rival = spend(coin, [(STRANGER, 8 * COIN)])
    chain.call("sendrawtransaction", serialize_tx(rival).hex())
    (first,) = chain.mine(1)
    chain.call("invalidateblock", first)
    chain.kill()
    chain.start()
    chain.call("sendrawtransaction", serialize_tx(to_alice).hex())
    chain.mine(1)
    child = alice.pay({str(address_of(STRANGER, chain.params)): "13"})
    assert alice.getbalance() < 1
    chain.call("reconsiderblock", first)
    chain.mine(1)
    assert alice.gettransaction(child)["confirmations"] < 0
    assert alice.getbalance() == 5, "the coin that the child spent beside the lost one"
    assert alice.pay({str(address_of(STRANGER, chain.params)): "4"})


def test_a_miner_can_take_a_payment_under_another_id_and_the_watchers_see_the_one_that_counts(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    alice.importaddress(address_of(STRANGER, chain.params), "contract", False)
    sent = bob.funded({str(address_of(STRANGER, chain.params)): "10"})
    txid = bob.sendrawtransaction(sent["hex"])
    assert alice.gettransaction(txid, True)["confirmations"] == 0
    mangled = parse_tx(sent["hex"])
    mangled.vin[0].script_sig = b"\x00" + mangled.vin[0].script_sig  # valid in a block, and no node relays it
    raw = serialize_tx(mangled).hex()
    chain.call("generateblock", NOBODY, [raw])
    assert chain.call("getrawmempool") == []
    for wallet in (alice, bob):
        assert wallet.gettransaction(txid, True)["confirmations"] == -1
        assert wallet.gettransaction(txid_of(mangled), True)["confirmations"] == 1
        assert wallet.gettransaction(txid, True)["walletconflicts"] == [txid_of(mangled)]
    (coin,) = [coin for coin in alice.listunspent() if coin["txid"] == txid_of(mangled)]
    assert (coin["amount"], coin["spendable"]) == (10, False)
    assert bob.getbalance() == 90 - sent["fee"], "the change came under the other id too"
    bob.pay({NOBODY: "80"})


def test_a_block_takes_no_transaction_that_breaks_the_rules(chain: Devchain) -> None:
    coin = given_coin(chain)
    good = spend(coin, [(STRANGER, 9 * COIN)])
    stolen = parse_tx(serialize_tx(good))
    stolen.vout[0] = spend(coin, [(STRANGER, 8 * COIN)]).vout[0]
    late = spend(coin, [(STRANGER, 9 * COIN)], lock_time=chain.height() + 5, sequence=0)
    tip = chain.call("getbestblockhash")
    for txs, reason in (
        ([stolen], "mandatory-script-verify-flag-failed"),
        ([good, spend(coin, [(STRANGER, COIN)])], "bad-txns-inputs-missingorspent"),
        ([late], "bad-txns-nonfinal"),
        ([spend(coin, [(STRANGER, 11 * COIN)])], "bad-txns-in-belowout"),
    ):
        with pytest.raises(Refused, match=reason) as refused:
            chain.call("generateblock", NOBODY, [serialize_tx(tx).hex() for tx in txs])
        assert refused.value.code == -25
    assert chain.call("getbestblockhash") == tip
    chain.call("generateblock", NOBODY, [serialize_tx(good).hex()])
    assert chain.call("gettxout", txid_of(good), 0)["value"] == 9


def test_the_first_block_seen_wins_at_equal_height_and_the_longer_branch_always(chain: Devchain) -> None:
    chain.mine(2)
    old = chain.mine(2)
    chain.call("invalidateblock", old[0])
    new = chain.mine(2)
    assert chain.call("getbestblockhash") == new[1]
    chain.call("reconsiderblock", old[0])
    assert chain.call("getbestblockhash") == old[1], "equal work: the one that came first"
    chain.call("invalidateblock", old[1])
    assert chain.call("getbestblockhash") == new[1]
    longer = chain.mine(1)
    chain.call("reconsiderblock", old[1])
    assert chain.call("getbestblockhash") == longer[0]
    with pytest.raises(Refused, match="Block not found") as refused:
        chain.call("invalidateblock", "00" * 32)
    assert refused.value.code == -5
    with pytest.raises(Refused):
        chain.call("invalidateblock", chain.call("getblockhash", 0))


def test_listing_since_a_block_that_fell_out_starts_at_the_fork(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    before = bob.pay({alice.address(): "1"})
    (fork,) = chain.mine(1)
    lost = bob.pay({alice.address(): "2"})
    stale = chain.mine(3)
    chain.call("invalidateblock", stale[0])
    chain.call("generatetoaddress", 5, NOBODY)
    answer = alice.listsinceblock(stale[2], 1, True)
    listed = [(entry["txid"], entry["confirmations"]) for entry in answer["transactions"]]
    assert listed == [(lost, 5)]
    if chain.dialect == "modern":
        assert [entry["txid"] for entry in answer["removed"]] == [lost]
    assert [entry["txid"] for entry in alice.listsinceblock(fork)["transactions"]] == [lost]
    assert {entry["txid"] for entry in alice.listsinceblock()["transactions"]} == {before, lost}


def test_coins_that_a_reorganisation_unmade_take_their_spends_with_them(chain: Devchain) -> None:
    miner = chain.new_wallet("miner")
    (born, *_) = chain.call("generatetoaddress", 1, miner.address()) + chain.mine(6)
    assert miner.getbalance() == 500_000
    spent = miner.pay({NOBODY: "10"})
    chain.call("invalidateblock", born)
    assert chain.call("getrawmempool") == []
    assert miner.getbalance() == 0
    assert miner.gettransaction(spent)["confirmations"] == 0, "not confirmed, and not in the mempool either"
    assert miner.listtransactions()[0]["category"] == "orphan"
    chain.call("reconsiderblock", born)
    assert miner.gettransaction(spent)["confirmations"] == 0
    assert miner.getbalance() == Decimal("499990") - sum(-entry["fee"] for entry in miner.listtransactions()[-1:])
    assert chain.call("getrawmempool") == [spent]


def test_a_reorganisation_survives_a_kill(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    bob.pay({alice.address(): "1"})
    blocks = chain.mine(20)
    chain.call("invalidateblock", blocks[3])
    branch = chain.mine(30)
    chain.kill()
    chain.start()
    assert chain.call("getbestblockhash") == branch[-1]
    assert (alice.getbalance(), bob.gettransaction(bob.listtransactions()[-1]["txid"])["confirmations"]) == (1, 33)
    chain.call("reconsiderblock", blocks[3])
    assert chain.call("getbestblockhash") == branch[-1]


def test_the_same_height_mined_twice_to_one_address_gives_two_blocks(chain: Devchain) -> None:
    seen = set()
    for _ in range(5):
        (block,) = chain.mine(1)
        seen.add(block)
        chain.call("invalidateblock", block)
    assert len(seen) == 5
