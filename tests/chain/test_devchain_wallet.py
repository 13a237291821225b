"""dux-devchain as a wallet: coins in, funded, signed, sent, watched, and still there after a kill."""

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from devchain_kit import Devchain, Refused

from duxcommon.coin.script import (
    EscrowTerms,
    address_of,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
)
from duxcommon.coin.tx import (
    Coin,
    closing_tx,
    finish_close,
    p2pkh_script_sig,
    parse_tx,
    serialize_tx,
    sign_input,
    txid_of,
)
from duxcommon.money import COIN

SECRETS = [bytes([number]) * 32 for number in (11, 12, 13)]
PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in SECRETS)
FUND = p2sh_script(b"\x51")


@pytest.fixture(params=["flopcoin", "modern"])
def chain(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Devchain]:
    running = Devchain(short_tmp / "c", request.param)
    yield running
    running.close()


def test_a_payment_moves_exactly_its_amount_and_the_fee_it_says(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "1234567.12345678")
    assert bob.getbalance() == Decimal("1234567.12345678")
    address = alice.address("rent")
    made = bob.funded({address: "1000.00000001"}, feeRate="0.0102")
    txid = bob.sendrawtransaction(made["hex"])
    assert bob.sendrawtransaction(made["hex"]) == txid == txid_of(parse_tx(made["hex"]))
    assert chain.call("getrawmempool") == [txid]
    assert alice.getbalance() == 0
    assert alice.getwalletinfo()["unconfirmed_balance"] == Decimal("1000.00000001")
    chain.mine(1)
    assert alice.getbalance() == Decimal("1000.00000001")
    assert bob.getbalance() == Decimal("1234567.12345678") - Decimal("1000.00000001") - made["fee"]
    size = len(made["hex"]) // 2
    assert made["fee"] * COIN / size >= Decimal("1020")
    seen = bob.gettransaction(txid)
    assert (seen["amount"], seen["fee"]) == (-Decimal("1000.00000001"), -made["fee"])
    assert seen["confirmations"] == 1
    (got,) = alice.gettransaction(txid)["details"]
    assert (got["category"], got["label"], got["address"]) == ("receive", "rent", address)
    assert got["amount"] == Decimal("1000.00000001")


def test_amounts_above_the_float_range_come_back_to_the_koinu(chain: Devchain) -> None:
    rich = chain.new_wallet("rich", "9999999.99999999")
    proxy = chain.proxy("rich")
    assert proxy.getbalance() == Decimal("9999999.99999999")
    assert rich.listunspent()[0]["amount"] * COIN == 999_999_999_999_999


def test_locked_coins_are_not_picked_and_a_restart_forgets_the_locks(chain: Devchain) -> None:
    bob = chain.new_wallet("bob", "5")
    chain.call("faucet", bob.address(), "7")
    chain.mine(1)
    first = bob.funded({bob.address(): "1"}, lockUnspents=True)
    locked = bob.listlockunspent()
    assert [(item["txid"], item["vout"]) for item in locked] == [
        (given.prev_out.tx_id.hex(), given.prev_out.vout) for given in parse_tx(first["hex"]).vin
    ]
    second = bob.funded({bob.address(): "1"}, lockUnspents=True)
    picked = [given.prev_out for made in (first, second) for given in parse_tx(made["hex"]).vin]
    assert len(set(picked)) == 2
    with pytest.raises(Refused, match="Insufficient funds") as refused:
        bob.fundrawtransaction(bob.createrawtransaction([], {bob.address(): "1"}))
    assert refused.value.code == (-4 if chain.dialect == "modern" else -32603)
    assert bob.getbalance() == 12, "a locked coin is still money"
    assert bob.lockunspent(True, locked) is True
    assert len(bob.listlockunspent()) == 1
    chain.stop()
    chain.start()
    assert bob.listlockunspent() == []


def test_change_goes_where_it_is_told_and_dust_goes_to_the_fee(chain: Devchain) -> None:
    bob = chain.new_wallet("bob", "10")
    target, change = bob.address(), bob.address()
    made = bob.fundrawtransaction(
        bob.createrawtransaction([], {target: "3"}), {"changeAddress": change, "changePosition": 0}
    )
    tx = parse_tx(made["hex"])
    assert made["changepos"] == 0
    assert tx.vout[0].script_pub_key.script == chain.script(change)
    made = bob.fundrawtransaction(bob.createrawtransaction([], {target: "9.9925"}))
    assert (made["changepos"], made["fee"]) == (-1, Decimal("0.0075"))
    made = bob.fundrawtransaction(bob.createrawtransaction([], {target: "10"}), {"subtractFeeFromOutputs": [0]})
    (output,) = parse_tx(made["hex"]).vout
    assert output.value == 10 * COIN - made["fee"] * COIN


def test_a_watched_contract_is_seen_by_all_its_watchers_and_spent_by_none(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "50")
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, chain.height() + 1000)
    address = str(address_of(p2sh_script(terms.script()), chain.params))
    for wallet in (alice, bob):
        wallet.importaddress(address, "channel", False)
        wallet.importaddress(address, "channel", False)
    txid = bob.pay({address: "20"})
    for wallet in (alice, bob):
        assert wallet.gettransaction(txid, True)["confirmations"] == 0
        assert wallet.listsinceblock(chain.call("getbestblockhash"), 1, True)["transactions"]
    chain.mine(1)
    (coin,) = [coin for coin in alice.listunspent() if coin["address"] == address]
    assert (coin["spendable"], coin["amount"]) == (False, 20)
    assert alice.getbalance() == 0
    with pytest.raises(Refused, match="Insufficient funds"):
        alice.fundrawtransaction(alice.createrawtransaction([], {alice.address(): "1"}))
    known = alice.getaddressinfo(address) if chain.dialect == "modern" else alice.validateaddress(address)
    assert (known["ismine"], known["iswatchonly"], known["isscript"]) == (False, True, True)

    spend = closing_tx(terms, [Coin(txid, coin["vout"], 20 * COIN)], 10 * COIN, 500, FUND)
    signed = [[sign_input(spend.tx, 0, spend.redeem, secret)] for secret in SECRETS[:2]]
    close = finish_close(spend, signed[1], signed[0])
    closing = chain.call("sendrawtransaction", serialize_tx(close).hex())
    (entry,) = alice.gettransaction(closing, True)["details"][:1]
    assert (entry["category"], entry["involvesWatchonly"]) == ("send", True)
    chain.mine(1)
    assert [coin for coin in alice.listunspent() if coin["address"] == address] == []
    assert alice.gettransaction(closing)["confirmations"] == 1


def test_an_imported_key_owns_its_past_only_after_a_rescan(chain: Devchain) -> None:
    bob, carol = chain.new_wallet("bob", "9"), chain.new_wallet("carol")
    address = str(address_of(p2pkh_script(PROVIDER), chain.params))
    bob.pay({address: "2"})
    chain.mine(1)
    carol.importprivkey(chain.wif(SECRETS[0]), "payout", False)
    assert carol.getbalance() == 0
    carol.importprivkey(chain.wif(SECRETS[0]), "payout", True)
    assert carol.getbalance() == 2
    carol.pay({bob.address(): "1.5"})
    if chain.dialect == "flopcoin":
        with pytest.raises(Refused, match="already contains the private key") as refused:
            carol.importaddress(address, "", False)
        assert refused.value.code == -4
    else:
        carol.importaddress(address, "", False)
        assert carol.getaddressinfo(address)["ismine"] is True


def test_a_script_watched_late_is_found_in_what_the_wallet_has(chain: Devchain) -> None:
    bob = chain.new_wallet("bob", "9")
    address = str(address_of(p2sh_script(b"\x52"), chain.params))
    txid = bob.pay({address: "2"})
    assert [coin for coin in bob.listunspent(0) if coin["address"] == address] == []
    bob.importaddress(address, "late", False)
    assert [coin["txid"] for coin in bob.listunspent(0) if coin["address"] == address] == [txid]


def test_the_newest_entries_come_last_and_pages_do_not_overlap(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    txids = []
    for _ in range(6):
        txids.append(bob.pay({alice.address("x"): "1"}))
        chain.mine(1)
    listed = alice.listtransactions("*", 4, 0, False)
    assert [entry["txid"] for entry in listed] == txids[2:]
    assert [entry["txid"] for entry in alice.listtransactions("*", 4, 4)] == txids[:2]
    assert alice.listtransactions("*", 4, 6) == []
    since = alice.listsinceblock(chain.call("getblockhash", chain.height() - 2))
    assert [entry["txid"] for entry in since["transactions"]] == txids[4:]
    assert since["lastblock"] == chain.call("getbestblockhash")
    assert ("removed" in since) == (chain.dialect == "modern")


def test_what_was_confirmed_or_answered_survives_a_kill(chain: Devchain) -> None:
    alice, bob = chain.new_wallet("alice"), chain.new_wallet("bob", "100")
    address = alice.address()
    confirmed = bob.pay({address: "1"})
    (block,) = chain.mine(1)
    waiting = bob.pay({address: "2"})
    foreign = chain.wallet("bob").funded({str(address_of(FUND, chain.params)): "3"})
    balances = alice.getbalance(), bob.getbalance()
    chain.kill()
    chain.start()
    assert chain.call("getbestblockhash") == block
    assert (alice.getbalance(), bob.getbalance()) == balances
    assert bob.gettransaction(confirmed)["confirmations"] == 1
    assert chain.call("getrawmempool") == [waiting], "a wallet's own transactions are sent again"
    bob.sendrawtransaction(foreign["hex"])
    chain.mine(1)
    assert alice.getbalance() == 3


def test_a_kill_loses_the_mempool_transactions_that_are_no_wallets(chain: Devchain) -> None:
    bob = chain.new_wallet("bob", "100")
    address = str(address_of(p2pkh_script(PROVIDER), chain.params))
    funding = bob.pay({address: "5"})
    chain.mine(1)
    vout = next(entry["vout"] for entry in bob.gettransaction(funding)["details"] if entry["address"] == address)
    raw = bob.createrawtransaction([{"txid": funding, "vout": vout}], {str(address_of(FUND, chain.params)): "4.9"})
    tx = parse_tx(raw)
    tx.vin[0].script_sig = p2pkh_script_sig(sign_input(tx, 0, p2pkh_script(PROVIDER), SECRETS[0]), PROVIDER)
    signed = serialize_tx(tx).hex()
    txid = chain.call("sendrawtransaction", signed)
    chain.kill()
    chain.start()
    assert chain.call("getrawmempool") == []
    assert chain.call("sendrawtransaction", signed) == txid


def test_fresh_coins_ripen_after_the_maturity_of_the_chain(chain: Devchain) -> None:
    miner = chain.new_wallet("miner")
    address = miner.address()
    chain.call("generatetoaddress", 1, address)
    seen = []
    while miner.getbalance() == 0:
        info = miner.getwalletinfo()
        seen.append((info["immature_balance"], len(miner.listunspent())))
        chain.mine(1)
    assert seen == [(500_000, 0)] * 6
    assert miner.getbalance() == 500_000
    assert miner.listtransactions()[0]["category"] == "generate"


def test_ten_thousand_blocks_are_made_in_seconds_and_balances_stay_quick(chain: Devchain) -> None:
    miner = chain.new_wallet("miner")
    started = time.monotonic()
    hashes: list[Any] = chain.call("generatetoaddress", 10_080, miner.address())
    mined = time.monotonic() - started
    assert (len(hashes), chain.height()) == (10_080, 10_080)
    assert mined < 120
    started = time.monotonic()
    assert miner.getbalance() == 500_000 * (10_080 - 6)
    assert time.monotonic() - started < 30
    assert miner.pay({miner.address(): "1"})
    chain.stop()
    started = time.monotonic()
    chain.start()
    assert time.monotonic() - started < 120
    assert chain.height() == 10_080


def test_a_flopcoin_wallet_is_always_there_and_a_modern_one_must_be_made(chain: Devchain) -> None:
    if chain.dialect == "flopcoin":
        assert chain.wallet("anyone").getbalance() == 0
        assert chain.call("getbalance") == 0
        with pytest.raises(Refused) as refused:
            chain.call("createwallet", "x")
        assert (refused.value.code, refused.value.status) == (-32601, 404)
        return
    for name in (None, "nobody"):
        with pytest.raises(Refused) as refused:
            chain.wallet(name).getbalance()
        assert refused.value.code == -18
    with pytest.raises(Refused, match="does not exist") as refused:
        chain.call("loadwallet", "x")
    assert refused.value.code == -18
    assert chain.call("createwallet", "x", False, False, "", False, False) == {"name": "x", "warning": ""}
    for method, text in (("createwallet", "already exists"), ("loadwallet", "already loaded")):
        with pytest.raises(Refused, match=text) as refused:
            chain.call(method, "x")
        assert refused.value.code == -4
    assert chain.call("getbalance") == 0, "the only wallet answers on the plain path"
    chain.call("createwallet", "y")
    with pytest.raises(Refused) as refused:
        chain.call("getbalance")
    assert refused.value.code == -19


def test_the_faucet_pays_out_of_what_the_chain_mined(chain: Devchain) -> None:
    bob = chain.new_wallet("bob")
    gifts = [chain.call("faucet", bob.address(), "0.5") for _ in range(30)]
    assert len(set(gifts)) == 30
    chain.mine(1)
    assert bob.getbalance() == 15
    assert chain.call("faucet", bob.address(), "1200000.5")
    with pytest.raises(Refused):
        chain.call("faucet", bob.address(), "10000001")
    with pytest.raises(Refused):
        chain.call("faucet", bob.address(), "0.0001")
    with pytest.raises(Refused) as refused:
        chain.call("faucet", "DBXu2kgc3xtvCUWFcxFE3r9hEYgmuaaCyD", "1")
    assert refused.value.code == -5, "an address of another chain"
