"""The wallet on every kind of chain: what people see of their money, to the koinu, and what they are told when not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flopd_kit import OTHER, PASSPHRASE, Flopd, TestChain, address, chains, escrow

from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, p2pkh_script, pubkey_of
from duxcommon.errors import (
    BadAddress,
    Conflict,
    DustAmount,
    DuxError,
    FeeTooHigh,
    InsufficientFunds,
    InvalidParams,
    WalletLocked,
    WrongPassphrase,
)
from duxcommon.money import COIN, DUST, format_flop

chain = chains()
STRANGER = p2pkh_script(pubkey_of(OTHER))
NORMAL_RATE, HIGH_RATE = 1_020_000, 5_100_000


@pytest.fixture
def node(chain: TestChain, short_tmp: Path, daemon_logs: list[str]) -> Iterator[Flopd]:
    with Flopd(short_tmp, chain) as running:
        yield running.start()


def send(node: Flopd, amount: int, key: str, **params: Any) -> dict[str, Any]:
    to = params.pop("to", address(node.chain, STRANGER))
    return node.call("wallet.send", {"to": to, "amount": amount, "key": key, **params})


def refused(error: type[DuxError], node: Flopd, method: str, params: dict[str, Any]) -> DuxError:
    with pytest.raises(error) as caught:
        node.call(method, params)
    assert type(caught.value) is error
    assert caught.value.hint
    return caught.value


def test_each_sum_of_the_balance_is_what_it_says(node: Flopd) -> None:
    node.fill(10 * COIN, 4 * COIN)
    start = node.balance()
    assert (start["confirmed"], start["spendable"], start["pending"], start["in_channels"]) == (
        14 * COIN,
        14 * COIN,
        0,
        0,
    )
    assert start["network"] == {"name": "testnet", "chain": node.chain.core.params.name, "worthless": True}
    node.chain.pay(node.call("wallet.receive")["address"], 3 * COIN)
    waiting = node.balance()
    assert (waiting["confirmed"], waiting["spendable"], waiting["pending"]) == (14 * COIN, 14 * COIN, 3 * COIN)
    node.mine()
    _, script = escrow(pubkey_of(OTHER), node.keystore.payout_pubkey)
    node.call("chain.watch", {"script": script.hex(), "ref": "c"})
    built = node.fund(script, 2 * COIN, "open")
    after = node.balance()
    assert after["confirmed"] == 17 * COIN
    assert after["reserved"] >= 2 * COIN + built["fee"]
    assert after["spendable"] == 17 * COIN - after["reserved"]
    assert after["in_channels"] == 0
    node.broadcast(built)
    sent = node.balance()
    assert sent["reserved"] == 0
    assert sent["in_channels"] == 2 * COIN
    assert sent["confirmed"] + sent["pending"] == sent["spendable"] == 15 * COIN - built["fee"]
    node.mine()
    final = node.balance()
    assert (final["confirmed"], final["spendable"]) == (15 * COIN - built["fee"], 15 * COIN - built["fee"])
    assert (final["pending"], final["in_channels"]) == (0, 2 * COIN)


def test_a_payment_moves_exactly_its_amount_and_the_fee_it_says(node: Flopd) -> None:
    node.fill(10 * COIN)
    plan = send(node, COIN + 1, "k", dry_run=True)
    assert (plan["state"], plan["txid"], plan["id"]) == ("dry-run", None, "")
    assert node.balance()["spendable"] == 10 * COIN
    sent = send(node, COIN + 1, "k")
    assert sent["state"] == "sent"
    assert abs(sent["fee"] - plan["fee"]) <= 2 * NORMAL_RATE // 1000
    intent = node.intent(sent)
    size = len(intent["hex"]) // 2
    assert 1_000_000 * size < sent["fee"] * 1000 <= (NORMAL_RATE + 20_000) * size
    node.mine()
    assert node.balance()["confirmed"] == 9 * COIN - 1 - sent["fee"]
    assert node.intent(sent)["state"] == "confirmed"
    assert node.intent(sent)["confirmations"] == 1


def test_the_same_key_never_pays_twice(node: Flopd) -> None:
    node.fill(10 * COIN)
    first = send(node, COIN, "once")
    again = send(node, COIN, "once")
    assert again["id"] == first["id"]
    node.mine()
    assert send(node, COIN, "once")["state"] == "confirmed"
    assert node.balance()["confirmed"] == 9 * COIN - first["fee"]
    for other in ({"amount": COIN + 1}, {"fee": "high"}, {"to": node.call("wallet.receive")["address"]}):
        params = {"to": address(node.chain, STRANGER), "amount": COIN, "key": "once", **other}
        refused(Conflict, node, "wallet.send", params)


def test_a_high_fee_pays_five_times_the_rate(node: Flopd) -> None:
    node.fill(10 * COIN)
    sent = send(node, COIN, "fast", fee="high")
    size = len(node.intent(sent)["hex"]) // 2
    assert sent["fee"] * 1000 >= (HIGH_RATE - 100_000) * size


def test_too_little_money_tells_have_and_need_and_how_to_get_more(node: Flopd) -> None:
    node.fill(2 * COIN)
    error = refused(
        InsufficientFunds, node, "wallet.send", {"to": address(node.chain, STRANGER), "amount": 5 * COIN, "key": "k"}
    )
    assert (error.code, error.name) == (2020, "InsufficientFunds")
    assert "you have 2.00 FLOP" in error.message
    assert error.details["have"] == 2 * COIN
    assert 5 * COIN < error.details["need"] < 5 * COIN + DUST
    assert error.details["missing"] == error.details["need"] - 2 * COIN
    assert "wallet receive" in error.hint
    assert node.balance()["reserved"] == 0
    # The key is still free: nothing was done under it.
    assert send(node, COIN, "k")["state"] == "sent"


def test_money_that_is_promised_or_unconfirmed_is_not_spent(node: Flopd) -> None:
    node.fill(2 * COIN, 2 * COIN)
    held = [node.fund(STRANGER, 1_900_000_00, f"hold{number}") for number in range(2)]
    error = refused(
        InsufficientFunds, node, "wallet.send", {"to": address(node.chain, STRANGER), "amount": COIN, "key": "k"}
    )
    assert error.details["have"] == 0
    node.call("tx.cancel", {"id": held[0]["id"]})
    node.chain.pay(node.call("wallet.receive")["address"], 5 * COIN)
    refused(
        InsufficientFunds, node, "wallet.send", {"to": address(node.chain, STRANGER), "amount": 3 * COIN, "key": "k"}
    )
    assert send(node, COIN, "k")["state"] == "sent"


def test_an_address_of_another_chain_is_refused_and_that_chain_is_named(node: Flopd) -> None:
    node.fill(2 * COIN)
    main = address_of(STRANGER, CHAINS["main"])
    error = refused(BadAddress, node, "wallet.send", {"to": main, "amount": COIN, "key": "k"})
    assert "Flopcoin's main chain" in error.message
    good = address(node.chain, STRANGER)
    typo = good[:-1] + ("2" if good[-1] != "2" else "3")
    refused(BadAddress, node, "wallet.send", {"to": typo, "amount": COIN, "key": "k"})
    for garbage in ("", "0" * 34, "x" * 200, "é" * 30):
        refused(InvalidParams, node, "wallet.send", {"to": garbage, "amount": COIN, "key": "k"})


@pytest.mark.parametrize("amount", [0, 1, DUST - 1])
def test_dust_is_refused(node: Flopd, amount: int) -> None:
    error = refused(
        DustAmount, node, "wallet.send", {"to": address(node.chain, STRANGER), "amount": amount, "key": "k"}
    )
    assert format_flop(DUST) in error.message
    value = {"outputs": [{"script": STRANGER.hex(), "amount": amount}], "data": None, "key": "k"}
    refused(DustAmount, node, "tx.fund", {**value, "purpose": "fund", "ref": "r"})


def test_change_too_small_to_relay_goes_into_the_fee(node: Flopd) -> None:
    node.fill(2 * COIN)
    plan = send(node, COIN, "k", dry_run=True)
    sent = send(node, 2 * COIN - plan["fee"] - DUST // 2, "k")
    assert plan["fee"] < sent["fee"] <= plan["fee"] + DUST // 2
    node.mine()
    assert node.balance()["confirmed"] == 0


def test_history_shows_every_movement_once_over_all_pages(node: Flopd) -> None:
    node.fill(10 * COIN, COIN, 2 * COIN)
    sent = send(node, COIN, "k1")
    node.mine(2)
    send(node, 3 * COIN, "k2", to=node.call("wallet.receive", {"label": "to myself"})["address"])
    pages, skip = [], 0
    while skip is not None:
        page = node.call("wallet.history", {"limit": 2, "skip": skip})
        assert len(page["entries"]) <= 2
        pages += page["entries"]
        skip = page["next"]
    assert len(pages) == len({entry["txid"] for entry in pages}) == 5
    assert pages == node.call("wallet.history")["entries"]
    assert sum(entry["change"] for entry in pages) == node.balance()["confirmed"] + node.balance()["pending"]
    newest, second = pages[0], pages[1]
    assert (newest["purpose"], newest["confirmations"], newest["height"]) == ("send", 0, None)
    assert newest["change"] == -newest["fee"]
    assert (second["txid"], second["change"], second["fee"]) == (sent["txid"], -COIN - sent["fee"], sent["fee"])
    assert second["confirmations"] == 2
    assert second["height"] == node.at_tip()["height"] - 1
    assert {entry["purpose"] for entry in pages[2:]} == {"receive"}


def test_a_locked_wallet_shows_its_balance_and_spends_nothing(
    chain: TestChain, short_tmp: Path, daemon_logs: list[str]
) -> None:
    with Flopd(short_tmp, chain, unlocked=False) as node:
        node.start()
        node.fill(2 * COIN)
        status = node.call("wallet.status")
        assert (status["locked"], status["exists"]) == (True, True)
        assert status["payout_pubkey"] == node.keystore.payout_pubkey.hex()
        pay = {"to": address(chain, STRANGER), "amount": COIN, "key": "k"}
        error = refused(WalletLocked, node, "wallet.send", pay)
        assert "wallet unlock" in error.hint
        refused(WalletLocked, node, "key.new", {"ref": "c"})
        wrong = refused(WrongPassphrase, node, "wallet.unlock", {"passphrase": "not this one"})
        assert "not this one" not in node.output() + wrong.message
        assert not node.call("wallet.unlock", {"passphrase": PASSPHRASE})["locked"]
        assert node.call("wallet.send", pay)["state"] == "sent"
        assert node.call("wallet.lock")["locked"]
        assert node.call("wallet.send", pay)["state"] == "sent"
        refused(WalletLocked, node, "wallet.send", {**pay, "key": "another"})


def test_what_the_payout_key_earns_is_ordinary_balance(node: Flopd) -> None:
    node.chain.pay(node.call("wallet.status")["payout_address"], 3 * COIN)
    node.chain.pay(node.call("key.new", {"ref": "c/1"})["address"], 2 * COIN)
    node.mine()
    assert node.balance()["confirmed"] == 5 * COIN
    assert send(node, 4 * COIN, "k")["state"] == "sent"


def test_a_fee_above_the_cap_is_refused(node: Flopd) -> None:
    # A hundred coins of 0.05 FLOP: spending them all at once costs more than 0.1 FLOP.
    node.fill(6 * COIN)
    many = [{"script": bytes.fromhex(node_script(node)).hex(), "amount": 5_000_000} for _ in range(100)]
    split = node.call("tx.fund", {"outputs": many, "data": None, "key": "split", "purpose": "fund", "ref": "r"})
    node.broadcast(split)
    node.mine()
    send(node, node.balance()["confirmed"] - 100 * 5_000_000 - 2 * DUST, "rest")
    node.mine()
    error = refused(
        FeeTooHigh,
        node,
        "tx.fund",
        {
            "outputs": [{"script": STRANGER.hex(), "amount": 450_000_000}],
            "data": None,
            "key": "big",
            "purpose": "fund",
            "ref": "r",
        },
    )
    assert error.details["limit"] == 10_000_000
    # A Core may have a limit of its own that comes first.
    assert error.details.get("fee", 10_000_001) > 10_000_000
    assert node.balance()["reserved"] == 0


def node_script(node: Flopd) -> str:
    return p2pkh_script(node.keystore.payout_pubkey).hex()
