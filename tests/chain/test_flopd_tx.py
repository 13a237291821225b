"""Transactions of channels on every kind of chain: funded, sent, followed, closed; twins, rivals, reorganisations."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flopd_kit import ARBITER, OTHER, Flopd, TestChain, address, chains, escrow, until

from dux_flopd.keystore import PAYOUT_PATH, caller_path
from duxcommon.coin.script import EscrowTerms, FundingNote, op_return_data, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import (
    Coin,
    Spend,
    closing_tx,
    cooperative_refund_tx,
    finish_close,
    finish_refund,
    make_tx,
    outpoint_of,
    p2pkh_script_sig,
    parse_tx,
    refund_tx,
    serialize_tx,
    sighash,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.errors import (
    BadTransaction,
    Conflict,
    DustAmount,
    DuxError,
    InsufficientFunds,
    IntentSent,
    IntentUnknown,
    TxRejected,
    TxTooEarly,
    WatchUnknown,
)
from duxcommon.money import COIN, DUST, split

chain = chains()
THEM = pubkey_of(OTHER)
FUND = p2sh_script(b"\x51")


@pytest.fixture
def node(chain: TestChain, short_tmp: Path, daemon_logs: list[str]) -> Iterator[Flopd]:
    with Flopd(short_tmp, chain) as running:
        yield running.start()


class Channel:
    """A channel of the node: as provider with its payout key, or as buyer with a key that it asks for."""

    def __init__(self, node: Flopd, *, provider: bool, koinu: int = 4 * COIN, lock_height: int = 100_000) -> None:
        self.node = node
        own = node.call("key.payout") if provider else node.call("key.new", {"ref": "c/1"})
        self.pubkey = bytes.fromhex(own["pubkey"])
        pair = (self.pubkey, THEM) if provider else (THEM, self.pubkey)
        self.terms, self.script = escrow(*pair, lock_height)
        self.note = FundingNote(pair[0], ARBITER, lock_height).encode()
        node.call("chain.watch", {"script": self.script.hex(), "ref": "c/1"})
        self.intent = node.fund(self.script, koinu, "open", data=self.note.hex())

    def open(self) -> "Channel":
        self.node.broadcast(self.intent)
        self.node.mine()
        return self

    @property
    def deposit(self) -> Coin:
        (output,) = self.node.watched("c/1")
        return Coin(output["txid"], output["vout"], output["amount"])

    def sign(self, spend: Spend) -> list[bytes]:
        prevouts = [
            {"txid": coin.txid, "vout": coin.vout, "amount": coin.amount, "redeem": spend.redeem.hex()}
            for coin in spend.deposits
        ]
        params = {"hex": serialize_tx(spend.tx).hex(), "prevouts": prevouts, "pubkey": self.pubkey.hex()}
        return [bytes.fromhex(signature) for signature in self.node.call("tx.sign", params)["signatures"]]

    def theirs(self, spend: Spend) -> list[bytes]:
        return [sign_input(spend.tx, index, spend.redeem, OTHER) for index in range(len(spend.deposits))]

    def submit(self, tx: Any, key: str, purpose: str = "close") -> dict[str, Any]:
        params = {"hex": serialize_tx(tx).hex(), "key": key, "purpose": purpose, "ref": "c/1"}
        return self.node.call("tx.submit", params)


def refused(error: type[DuxError], node: Flopd, method: str, params: dict[str, Any]) -> DuxError:
    with pytest.raises(error) as caught:
        node.call(method, params)
    assert type(caught.value) is error
    assert caught.value.hint
    return caught.value


def own_coin(node: Flopd, koinu: int = 5 * COIN) -> tuple[str, int]:
    """A coin of the node's wallet whose key the test has: paid to the payout key."""
    payout = node.call("wallet.status")["payout_address"]
    txid = node.chain.pay(payout, koinu)
    node.mine()
    found = node.chain.call("gettransaction", txid, wallet=wallet_name(node))
    tx = parse_tx(found["hex"])
    script = p2pkh_script(node.keystore.payout_pubkey)
    (vout,) = (n for n, output in enumerate(tx.vout) if output.script_pub_key.script == script)
    return txid, vout


def wallet_name(node: Flopd) -> str | None:
    return node.wallet if "/wallet/" in node.core_url() else None


def resigned(node: Flopd, raw: str) -> Any:
    """The same transaction with another, equally good signature of our payout key: another id."""
    tx = parse_tx(raw)
    key = node.keystore.key(PAYOUT_PATH)
    code = p2pkh_script(key.pubkey)
    from btclib_secp256k1 import dsa

    signatures = [
        dsa.sign(sighash(tx, index, code), key.secret, b"\x07" * 32) + b"\x01" for index in range(len(tx.vin))
    ]
    return with_script_sigs(tx, [p2pkh_script_sig(signature, key.pubkey) for signature in signatures])


def invalidate(chain: TestChain, block: str) -> None:
    """Both nodes of a real chain must give the block up."""
    chain.call("invalidateblock", block)
    miner = getattr(chain, "miner", None)
    if miner is not None:
        miner.call("invalidateblock", block)


# --- making and sending --------------------------------------------------------------------------------------------


def test_a_funded_transaction_pays_exactly_what_was_asked_and_is_not_sent(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=False)
    tx = parse_tx(channel.intent["hex"])
    outputs = [(output.script_pub_key.script, output.value) for output in tx.vout]
    assert outputs[0] == (channel.script, 4 * COIN)
    assert op_return_data(outputs[1][0]) == channel.note
    assert (outputs[1][1], len(outputs)) == (0, 3)
    assert outputs[2][1] == 6 * COIN - channel.intent["fee"]
    assert channel.intent["state"] == "built"
    assert channel.intent["txid"] == txid_of(tx)
    assert channel.intent["txid"] not in node.chain.call("getrawmempool")
    assert channel.intent["fee"] * 1000 > 1_000_000 * len(channel.intent["hex"]) // 2
    locked = node.chain.call("listlockunspent", wallet=wallet_name(node))
    assert {(entry["txid"], entry["vout"]) for entry in locked} == {outpoint_of(txin) for txin in tx.vin}
    assert node.fund(channel.script, 4 * COIN, "open", data=channel.note.hex()) == channel.intent
    value = {"outputs": [{"script": channel.script.hex(), "amount": 5 * COIN}], "data": None, "key": "open"}
    refused(Conflict, node, "tx.fund", {**value, "purpose": "fund", "ref": "open"})


def test_eight_at_once_never_share_a_coin(node: Flopd) -> None:
    node.fill(*[2 * COIN] * 8)

    def one(number: int) -> dict[str, Any]:
        from support.schema import CheckedBlockingClient

        client = CheckedBlockingClient(node.socket)
        value = {"outputs": [{"script": FUND.hex(), "amount": COIN}], "data": None, "key": f"k{number}"}
        try:
            return client.call("tx.fund", {**value, "purpose": "fund", "ref": "r"})
        finally:
            client.close()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(8)))
    spent = [outpoint_of(txin) for intent in made for txin in parse_tx(intent["hex"]).vin]
    assert len(spent) == len(set(spent)) == 8
    for intent in made:
        assert node.broadcast(intent)["state"] == "sent"
    node.mine()
    assert {node.intent(intent)["state"] for intent in made} == {"confirmed"}


def test_a_cancelled_transaction_gives_its_coins_back_and_a_sent_one_is_not_cancelled(node: Flopd) -> None:
    node.fill(3 * COIN)
    first = node.fund(FUND, 2 * COIN, "first")
    value = {"outputs": [{"script": FUND.hex(), "amount": 2 * COIN}], "data": None, "key": "second"}
    refused(InsufficientFunds, node, "tx.fund", {**value, "purpose": "fund", "ref": "r"})
    assert node.call("tx.cancel", {"id": first["id"]})["state"] == "cancelled"
    assert node.call("tx.cancel", {"id": first["id"]})["state"] == "cancelled"
    second = node.broadcast(node.fund(FUND, 2 * COIN, "second"))
    assert node.broadcast(second)["state"] == "sent"
    assert refused(IntentSent, node, "tx.cancel", {"id": second["id"]}).code == 2027
    assert node.broadcast(first)["state"] == "cancelled"
    node.mine()
    assert node.intent(second)["state"] == "confirmed"
    refused(IntentUnknown, node, "tx.status", {"id": "0" * 32})
    refused(IntentUnknown, node, "tx.broadcast", {"id": "0" * 32})


# --- a channel's life ----------------------------------------------------------------------------------------------


def test_a_provider_closes_and_its_part_is_balance(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=True).open()
    before = node.balance()
    assert before["in_channels"] == 4 * COIN
    spend = closing_tx(channel.terms, [channel.deposit], 2 * COIN, 500, FUND)
    tx = finish_close(spend, channel.theirs(spend), channel.sign(spend))
    closed = channel.submit(tx, "close")
    assert (closed["state"], closed["fee"], closed["purpose"]) == ("sent", spend.fee, "close")
    assert channel.submit(tx, "close")["id"] == closed["id"]
    (output,) = node.watched("c/1")
    assert (output["spender_txid"], output["spender_height"]) == (txid_of(tx), None)
    node.mine(2)
    (output,) = node.watched("c/1")
    assert output["spender_hex"] == serialize_tx(tx).hex()
    assert (output["spender_confirmations"], output["confirmations"]) == (2, 3)
    after = node.balance()
    assert after["confirmed"] == before["confirmed"] + split(2 * COIN, 500).provider
    assert after["in_channels"] == 0
    newest = node.call("wallet.history", {"limit": 1})["entries"][0]
    assert (newest["purpose"], newest["change"]) == ("close", split(2 * COIN, 500).provider)


def test_a_buyer_gets_a_cooperative_refund_back_into_its_balance(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=False).open()
    assert channel.pubkey == node.keystore.key(caller_path(0)).pubkey
    spend = cooperative_refund_tx(channel.terms, [channel.deposit])
    tx = finish_close(spend, channel.sign(spend), channel.theirs(spend))
    channel.submit(tx, "back", "refund")
    node.mine()
    assert node.balance()["confirmed"] == 10 * COIN - channel.intent["fee"] - spend.fee


def test_a_close_that_only_the_peer_sends_is_seen_and_decides_ours(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=True).open()
    spend = closing_tx(channel.terms, [channel.deposit], 2 * COIN, 500, FUND)
    tx = finish_close(spend, channel.theirs(spend), channel.sign(spend))
    node.chain.call("sendrawtransaction", serialize_tx(tx).hex())
    until(lambda: node.watched("c/1")[0]["spender_txid"] == txid_of(tx), "spend in the mempool")
    node.mine(2)
    # Submitted after the fact, one copy and one rival: both are decided at once.
    assert channel.submit(tx, "late")["state"] == "confirmed"
    rival = cooperative_refund_tx(channel.terms, [channel.deposit])
    lost = channel.submit(finish_close(rival, channel.theirs(rival), channel.sign(rival)), "rival", "refund")
    assert (lost["state"], lost["height"]) == ("conflicted", node.at_tip()["height"] - 1)


def test_a_refund_before_its_height_says_when_to_come_back(node: Flopd) -> None:
    node.fill(10 * COIN)
    lock_height = node.at_tip()["height"] + 6
    channel = Channel(node, provider=False, lock_height=lock_height).open()
    spend = refund_tx(channel.terms, [channel.deposit])
    tx = finish_refund(spend, channel.sign(spend))
    with pytest.raises(TxTooEarly) as caught:
        channel.submit(tx, "refund", "refund")
    assert caught.value.retry
    node.mine(lock_height - node.at_tip()["height"])
    assert channel.submit(tx, "refund", "refund")["state"] == "sent"
    node.mine()
    assert node.balance()["confirmed"] == 10 * COIN - channel.intent["fee"] - spend.fee


def test_what_a_node_would_not_relay_is_refused_before_it_is_sent(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=True).open()
    coin = channel.deposit

    def signed(outputs: list[tuple[bytes, int]], secret: bytes = OTHER) -> str:
        tx = make_tx([(coin.txid, coin.vout)], outputs)
        redeem = channel.terms.script()
        mine = sign_input(tx, 0, redeem, node.keystore.key(PAYOUT_PATH).secret)
        theirs = sign_input(tx, 0, redeem, secret)
        spend = Spend(tx, redeem, (coin,), 0, 0, 0, 0)
        return serialize_tx(finish_close(spend, [theirs], [mine])).hex()

    def submit(raw: str, error: type[DuxError]) -> DuxError:
        return refused(error, node, "tx.submit", {"hex": raw, "key": "k" + raw[-40:], "purpose": "close", "ref": "c"})

    enough = coin.amount - DUST
    assert "0.00999999" in submit(signed([(FUND, DUST - 1), (FUND, enough)]), DustAmount).message
    assert "never confirm" in submit(signed([(FUND, coin.amount - 300)]), BadTransaction).message
    assert "more than it spends" in submit(signed([(FUND, coin.amount + 1)]), BadTransaction).message
    unsigned = serialize_tx(make_tx([(coin.txid, coin.vout)], [(FUND, enough)])).hex()
    assert "not signed" in submit(unsigned, BadTransaction).message
    # The arbiter's key is not the secret that signs here: the script fails.
    error = submit(signed([(FUND, enough)], b"\x0d" * 32), TxRejected)
    assert error.code == 2023
    assert error.details["reason"]
    # After a refusal the same call may be made again, and the intent can be given up.
    assert node.call("tx.cancel", {"id": error.details["id"]})["state"] == "cancelled"
    for garbage in ("", "00", "ff" * 50):
        submit(garbage, BadTransaction)
    assert node.watched("c/1")[0]["spender_txid"] is None


# --- twins, rivals, reorganisations --------------------------------------------------------------------------------


def test_a_twin_with_another_id_confirms_what_we_built_and_is_followed_by_its_outpoint(node: Flopd) -> None:
    outpoint = own_coin(node)
    channel = Channel(node, provider=False)
    tx = parse_tx(channel.intent["hex"])
    assert [outpoint_of(txin) for txin in tx.vin] == [outpoint]
    twin = resigned(node, channel.intent["hex"])
    assert txid_of(twin) != channel.intent["txid"]
    node.chain.call("sendrawtransaction", serialize_tx(twin).hex())
    # Our own copy now conflicts with its twin in the mempool; the chain decides, and both are the same payment.
    assert node.broadcast(channel.intent)["state"] == "sent"
    node.mine()
    after = node.intent(channel.intent)
    assert (after["state"], after["txid"]) == ("confirmed", txid_of(twin))
    assert channel.deposit == Coin(txid_of(twin), 0, 4 * COIN)
    assert node.balance()["in_channels"] == 4 * COIN
    spend = closing_tx(channel.terms, [channel.deposit], COIN, 500, FUND)
    assert channel.submit(finish_close(spend, channel.sign(spend), channel.theirs(spend)), "close")["state"] == "sent"


def test_a_rival_in_the_chain_conflicts_the_intent_and_frees_its_other_coins(node: Flopd) -> None:
    node.fill(2 * COIN)
    outpoint = own_coin(node, 2 * COIN)
    channel = Channel(node, provider=False, koinu=3 * COIN)
    spent = {outpoint_of(txin) for txin in parse_tx(channel.intent["hex"]).vin}
    assert len(spent) == 2
    rival = resigned(node, serialize_tx(make_tx([outpoint], [(FUND, 2 * COIN - DUST)])).hex())
    node.chain.call("sendrawtransaction", serialize_tx(rival).hex())
    node.broadcast(channel.intent)
    node.mine()
    assert node.intent(channel.intent)["state"] == "conflicted"
    assert node.watched("c/1") == []
    assert node.balance()["spendable"] == node.balance()["confirmed"] == 2 * COIN
    sent = node.call("wallet.send", {"to": address(node.chain, FUND), "amount": COIN, "key": "k"})
    assert sent["state"] == "sent"


def test_a_reorganisation_takes_a_confirmation_back_and_the_transaction_is_sent_again(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=False)
    node.broadcast(channel.intent)
    first, second = node.mine(2)
    assert node.intent(channel.intent)["confirmations"] == 2
    height = node.at_tip()["height"]
    invalidate(node.chain, first)
    status = node.at_tip()
    assert status["height"] == height - 2
    after = node.intent(channel.intent)
    assert (after["state"], after["confirmations"], after["height"]) == ("sent", 0, None)
    (output,) = node.watched("c/1")
    assert (output["height"], output["confirmations"]) == (None, 0)
    node.mine(3)
    assert node.intent(channel.intent)["height"] == height - 1
    assert node.watched("c/1")[0]["confirmations"] == 3
    assert second not in (node.at_tip()["best"], first)


def test_a_lost_block_with_a_rival_opens_the_question_again(node: Flopd) -> None:
    outpoint = own_coin(node)
    channel = Channel(node, provider=False)
    rival = resigned(node, serialize_tx(make_tx([outpoint], [(FUND, 5 * COIN - DUST)])).hex())
    node.chain.call("sendrawtransaction", serialize_tx(rival).hex())
    node.broadcast(channel.intent)
    (block,) = node.mine()
    assert node.intent(channel.intent)["state"] == "conflicted"
    invalidate(node.chain, block)
    node.at_tip()
    assert node.intent(channel.intent)["state"] == "sent"
    node.mine()
    assert node.intent(channel.intent)["state"] == "conflicted"


def test_a_reorganisation_onto_a_rival_takes_the_deposit_away(node: Flopd) -> None:
    if node.chain.kind == "coind":
        pytest.skip("not run: Flopcoin Core can't mine against its own mempool (no generateblock)")
    outpoint = own_coin(node)
    channel = Channel(node, provider=False)
    node.broadcast(channel.intent)
    (block,) = node.mine()
    assert node.watched("c/1")[0]["confirmations"] == 1
    invalidate(node.chain, block)
    rival = serialize_tx(resigned(node, serialize_tx(make_tx([outpoint], [(FUND, 5 * COIN - DUST)])).hex())).hex()
    mine_only(node.chain, rival)
    until(lambda: node.intent(channel.intent)["state"] == "conflicted", "conflict")
    node.at_tip()
    assert node.watched("c/1") == []
    assert node.balance()["in_channels"] == 0
    assert node.balance()["confirmed"] == 0


def mine_only(chain: TestChain, raw: str) -> None:
    """Two blocks with this transaction in place of what conflicts with it in the mempool."""
    miner = getattr(chain, "miner", chain)
    target = address(chain, FUND)
    for transactions in ([raw], []):
        miner.call("generateblock", target, transactions)
    until(lambda: chain.call("getbestblockhash") == miner.call("getbestblockhash"), "the other branch")


# --- watching ------------------------------------------------------------------------------------------------------


def test_payments_before_the_watch_are_found_from_the_birth_height_on(node: Flopd) -> None:
    script = p2sh_script(node.keystore.payout_pubkey)
    target = address(node.chain, script)
    birth = node.at_tip()["height"] + 1
    paid = [node.chain.pay(target, COIN), node.chain.pay(target, 2 * COIN)]
    node.mine()
    node.mine(20)
    node.chain.pay(target, 3 * COIN)
    node.mine()
    found = node.call("chain.watch", {"script": script.hex(), "ref": "old", "birth_height": birth})
    assert found["height"] == node.at_tip()["height"]
    amounts = [output["amount"] for output in found["outputs"]]
    assert (sorted(amounts[:2]), amounts[2:]) == ([COIN, 2 * COIN], [3 * COIN])
    assert {output["txid"] for output in found["outputs"][:2]} == set(paid)
    later = node.call("chain.watch", {"script": script.hex(), "ref": "new", "birth_height": birth + 1})
    assert len(later["outputs"]) == 3
    since = node.call("chain.watched", {"ref": "old", "min_height": birth + 1})
    assert [output["amount"] for output in since["outputs"]] == [3 * COIN]
    again = node.call("chain.watch", {"script": script.hex(), "ref": "old", "birth_height": birth})
    assert again["outputs"] == found["outputs"]
    refused(Conflict, node, "chain.watch", {"script": FUND.hex(), "ref": "old"})
    refused(WatchUnknown, node, "chain.watched", {"ref": "never"})


def test_a_payment_is_seen_in_the_mempool_and_then_in_its_block(node: Flopd) -> None:
    script = p2sh_script(node.keystore.payout_pubkey + b"\x01")
    node.call("chain.watch", {"script": script.hex(), "ref": "s"})
    txid = node.chain.pay(address(node.chain, script), COIN)
    (output,) = until(lambda: node.watched("s"), "payment in the mempool")
    assert (output["txid"], output["height"], output["confirmations"]) == (txid, None, 0)
    node.mine(3)
    (output,) = node.watched("s")
    assert output["confirmations"] == 3


def test_waiting_ends_with_the_next_block_or_at_the_timeout(node: Flopd) -> None:
    status = node.at_tip()
    started = time.monotonic()
    same = node.call("chain.wait", {"best": status["best"], "timeout_s": 0.3})
    assert same["best"] == status["best"]
    assert 0.25 < time.monotonic() - started < 20
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node.call, "chain.wait", {"best": status["best"], "timeout_s": 20.0})
        (block,) = node.chain.mine()
        assert waiting.result(20)["best"] == block
    assert node.call("chain.wait", {"best": status["best"], "timeout_s": 20.0})["height"] == status["height"] + 1


def test_a_restart_goes_on_where_it_stopped(node: Flopd) -> None:
    node.fill(10 * COIN)
    channel = Channel(node, provider=False)
    assert node.stop() == 0
    node.start()
    assert node.intent(channel.intent)["state"] == "built"
    node.broadcast(channel.intent)
    node.stop()
    node.chain.mine(3)
    node.start()
    node.at_tip()
    assert node.intent(channel.intent)["confirmations"] == 3
    assert channel.deposit.amount == 4 * COIN
    spend = closing_tx(channel.terms, [channel.deposit], COIN, 500, FUND)
    assert channel.sign(spend)


def test_keys_are_the_same_ones_that_the_keystore_gives_offline(node: Flopd) -> None:
    first = node.call("key.new", {"ref": "c/1"})
    assert bytes.fromhex(first["pubkey"]) == node.keystore.key(caller_path(0)).pubkey
    assert node.call("key.payout")["pubkey"] == node.keystore.payout_pubkey.hex()
    assert EscrowTerms(bytes.fromhex(first["pubkey"]), THEM, ARBITER, 1).script()
