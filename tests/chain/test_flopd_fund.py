"""Money of the community fund on every kind of chain: signed by three guardians, sent, lost, sent again, confirmed.

Payments that prove the payout key, and bonds that come back, are here as well.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from btclib.tx import Tx
from devchain_kit import Devchain
from flopd_kit import Flopd, TestChain, address, chains, until
from support.logs import assert_clean_logs

from dux_flopd.keystore import GUARDIAN_PATH
from duxcommon.coin import multisig
from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import ApprovalNote, BondNote, FundNote, VoteNote, approves
from duxcommon.coin.script import multisig_script, op_return_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import fee_for, make_tx, parse_tx, serialize_tx
from duxcommon.errors import (
    BadTransaction,
    BondUnknown,
    ChainDown,
    ChainFault,
    Conflict,
    DuxError,
    FeeTooHigh,
    NoPayoutCoin,
    NotPayable,
    SignRefused,
    TxTooEarly,
)
from duxcommon.money import COIN, DUST
from duxcommon.network import load_network

chain = chains()
SILENT = [pubkey_of(bytes([number]) * 32) for number in (1, 2)]
"""The two guardians who are away."""
NOTE = FundNote("payout", 1, bytes(32)).encode()


class Fund:
    """Three dux-flopd whose guardian keys are three of five, and the fund that all of them watch."""

    def __init__(self, folder: Path, on: TestChain) -> None:
        self.folder = folder
        self.chain = on
        self.nodes = []
        for name in ("g1", "g2", "g3"):
            (folder / name).mkdir()
            self.nodes.append(Flopd(folder / name, on).start())
        keys = [node.call("key.guardian")["pubkey"] for node in self.nodes]
        assert [node.keystore.key(GUARDIAN_PATH).pubkey.hex() for node in self.nodes] == keys
        self.redeem = multisig_script(3, sorted([*map(bytes.fromhex, keys), *SILENT]))
        self.script = p2sh_script(self.redeem)
        for node in self.nodes:
            node.call("chain.watch", {"script": self.script.hex(), "ref": "fund/1", "birth_height": 0})
        self.payer = self.nodes[0]

    def pay(self, outputs: int, koinu: int, key: str) -> None:
        """So many payments to the fund, in a block that everybody has seen."""
        if self.payer.balance()["spendable"] < outputs * koinu + COIN:
            self.payer.fill(outputs * koinu + 10 * COIN)
        for first in range(0, outputs, 100):
            paid = [{"script": self.script.hex(), "amount": koinu}] * min(100, outputs - first)
            params = {"outputs": paid, "data": None, "key": f"{key}/{first}", "purpose": "fund", "ref": "x"}
            self.payer.broadcast(self.payer.call("tx.fund", params))
            self.mine()

    def mine(self, blocks: int = 1) -> None:
        self.chain.mine(blocks)
        for node in self.nodes:
            node.at_tip()

    def coins(self) -> list[dict[str, Any]]:
        """The fund's unspent confirmed outputs as `tx.cosign` wants them named."""
        return [
            {"txid": output["txid"], "vout": output["vout"], "amount": output["amount"], "redeem": self.redeem.hex()}
            for output in self.payer.watched("fund/1")
            if output["spender_txid"] is None and output["height"] is not None
        ]

    def payout(self, coins: Sequence[dict[str, Any]], shares: Sequence[tuple[bytes, int]]) -> Tx:
        """The note, the next anchor with what is left, the shares; unsigned."""
        spent = [(coin["txid"], coin["vout"]) for coin in coins]
        note = (op_return_script(NOTE), 0)
        draft = make_tx(spent, [note, (self.script, DUST), *shares])
        fee = fee_for(multisig.signed_size(draft, [self.redeem] * len(coins)))
        left = sum(coin["amount"] for coin in coins) - fee - sum(amount for _, amount in shares)
        return make_tx(spent, [note, (self.script, left), *shares])

    def cosign(self, tx: Tx, coins: Sequence[dict[str, Any]]) -> dict[bytes, list[bytes | None]]:
        params = {"hex": serialize_tx(tx).hex(), "prevouts": list(coins)}
        answers = [node.call("tx.cosign", params) for node in self.nodes]
        assert answers[0] == self.nodes[0].call("tx.cosign", params)
        return {
            bytes.fromhex(answer["pubkey"]): [bytes.fromhex(signature) for signature in answer["signatures"]]
            for answer in answers
        }

    def submit(self, tx: Tx, key: str, purpose: str = "fund-payout") -> dict[str, Any]:
        params = {"hex": serialize_tx(tx).hex(), "key": key, "purpose": purpose, "ref": "fund/1"}
        return self.payer.call("tx.submit", params)

    def close(self) -> None:
        for node in self.nodes:
            node.stop()


@pytest.fixture(scope="module")
def fund(chain: TestChain) -> Iterator[Fund]:
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    made = Fund(folder, chain)
    yield made
    made.close()
    assert_clean_logs(folder)
    shutil.rmtree(folder, ignore_errors=True)


def restart(fund: Fund) -> None:
    """kill -9 of a dux-devchain and a start on the same port: what is no wallet's is gone from its mempool."""
    core = fund.chain.core
    assert isinstance(core, Devchain)
    port = core.port
    core.kill()
    core.options = ("--port", str(port))
    core.start()
    for node in fund.nodes:
        until(lambda node=node: follows(node), "flopd to find its Core again")


def follows(node: Flopd) -> bool:
    try:
        node.call("chain.status")
    except (ChainDown, ChainFault):
        return False
    return True


def refused(error: type[DuxError], node: Flopd, method: str, params: dict[str, Any]) -> DuxError:
    with pytest.raises(error) as caught:
        node.call(method, params)
    assert type(caught.value) is error
    assert caught.value.hint
    return caught.value


# --- the fund's transactions -----------------------------------------------------------------------------------------


def test_two_hundred_inputs_signed_by_three_of_five_confirm_also_when_core_forgot_them(fund: Fund) -> None:
    fund.pay(200, 2 * DUST, "fill")
    coins = fund.coins()
    assert len(coins) == 200
    shares = [(p2pkh_script(pubkey_of(bytes([number]) * 32)), DUST + 7) for number in range(10, 110)]
    tx = fund.payout(coins, shares)
    began = time.perf_counter()
    by_key = fund.cosign(tx, coins)
    signed = time.perf_counter() - began
    redeems = [fund.redeem] * 200
    for key, signatures in by_key.items():
        assert multisig.check_signatures(tx, redeems, key, signatures)
    merged = multisig.merge(tx, redeems, by_key)
    fee = multisig.verify(merged, redeems, [coin["amount"] for coin in coins])
    assert fee > 90_000_000, "no channel's transaction may cost as much"
    assert signed < 60, f"four times 200 signatures took {signed:.1f} s"
    intent = fund.submit(merged, "round-1")
    assert (intent["state"], intent["fee"]) == ("sent", fee)
    assert fund.submit(merged, "round-1")["id"] == intent["id"]
    if isinstance(fund.chain.core, Devchain):
        restart(fund)
        until(lambda: intent["txid"] in fund.chain.call("getrawmempool"), "payout in the mempool again")
    fund.mine()
    done = until(lambda: (i := fund.payer.intent(intent))["state"] == "confirmed" and i, "confirmation")
    assert done["txid"] == intent["txid"]
    spent = [output for output in fund.nodes[2].watched("fund/1") if output["spender_txid"] == intent["txid"]]
    assert len(spent) == 200
    (anchor,) = fund.coins()
    assert (anchor["txid"], anchor["vout"]) == (intent["txid"], 1)


def test_a_share_of_the_fund_is_called_a_payout_and_the_fund_is_no_channel(fund: Fund) -> None:
    fund.pay(3, COIN, "history")
    assert fund.payer.balance()["in_channels"] == 0
    receiver = fund.nodes[1]
    keys = [bytes.fromhex(node.call("key.payout")["pubkey"]) for node in (receiver, fund.payer)]
    coins = fund.coins()
    tx = fund.payout(coins, [(p2pkh_script(key), COIN) for key in keys])
    merged = multisig.merge(tx, [fund.redeem] * len(coins), fund.cosign(tx, coins))
    intent = fund.submit(merged, "round-2")
    fund.mine()
    for node in (receiver, fund.payer):
        # The guardian that sent it sees its own share just as the others do.
        entries = node.call("wallet.history", {"limit": 20})["entries"]
        (entry,) = [entry for entry in entries if entry["txid"] == intent["txid"]]
        assert (entry["purpose"], entry["change"]) == ("payout", COIN)


def test_two_versions_of_a_round_conflict_and_one_confirms(fund: Fund) -> None:
    fund.pay(1, COIN, "versions")
    coins = fund.coins()
    versions = []
    for number in (1, 2):
        tx = fund.payout(coins, [(p2pkh_script(SILENT[0]), DUST * number)])
        versions.append(multisig.merge(tx, [fund.redeem] * len(coins), fund.cosign(tx, coins)))
    first = fund.submit(versions[0], "version-1")
    second = fund.submit(versions[1], "version-2")
    fund.mine()
    states = [
        until(lambda i=i: (s := fund.payer.intent(i)["state"]) != "sent" and s, "decision") for i in (first, second)
    ]
    assert sorted(states) == ["confirmed", "conflicted"]
    assert len([coin for coin in fund.coins() if coin["vout"] == 1]) >= 1


def test_the_guardian_signs_only_what_it_has_seen_and_at_a_sane_fee(fund: Fund) -> None:
    fund.pay(1, COIN, "refuse")
    coins = fund.coins()
    tx = fund.payout(coins, [])
    raw = serialize_tx(tx).hex()
    lie = [{**coins[0], "amount": coins[0]["amount"] - 1}, *coins[1:]]
    for prevouts in (lie, [{**coins[0], "txid": "ab" * 32}, *coins[1:]]):
        refused(SignRefused, fund.payer, "tx.cosign", {"hex": raw, "prevouts": prevouts})
    greedy = make_tx([(coin["txid"], coin["vout"]) for coin in coins], [(fund.script, DUST)])
    params = {"hex": serialize_tx(greedy).hex(), "prevouts": coins}
    assert "fee" in refused(SignRefused, fund.payer, "tx.cosign", params).message
    refused(BadTransaction, fund.payer, "tx.cosign", {"hex": "00", "prevouts": coins})


def test_no_fund_transaction_wastes_a_fee_or_outgrows_what_nodes_relay(fund: Fund) -> None:
    fund.pay(1, 3 * COIN, "limits")
    coins = fund.coins()
    redeems = [fund.redeem] * len(coins)
    wasteful = make_tx([(coin["txid"], coin["vout"]) for coin in coins], [(fund.script, DUST)])
    keys = [node.keystore.key(GUARDIAN_PATH) for node in fund.nodes]
    by_key = {key.pubkey: multisig.sign(wasteful, redeems, key.pubkey, key.secret) for key in keys}
    params = {"key": "waste", "purpose": "fund-payout", "ref": "fund/1"}
    raw = serialize_tx(multisig.merge(wasteful, redeems, by_key)).hex()
    refused(FeeTooHigh, fund.payer, "tx.submit", {"hex": raw, **params})
    large = make_tx([(coins[0]["txid"], coins[0]["vout"])], [(p2pkh_script(SILENT[0]), DUST)] * 2_950)
    by_key = {key.pubkey: multisig.sign(large, [fund.redeem], key.pubkey, key.secret) for key in keys}
    raw = serialize_tx(multisig.merge(large, [fund.redeem], by_key)).hex()
    assert "relays" in refused(BadTransaction, fund.payer, "tx.submit", {"hex": raw, **params}).message


def test_a_guardian_approves_a_proposal_of_its_network(fund: Fund) -> None:
    for node in fund.nodes:
        answer = node.call("key.approve", {"proposal": "cd" * 32})
        assert answer == node.call("key.approve", {"proposal": "cd" * 32})
        note = ApprovalNote(bytes.fromhex("cd" * 12), bytes.fromhex(answer["signature"]))
        network = load_network(node.folder / "network.yaml").id
        assert approves(note, network, "cd" * 32, node.keystore.key(GUARDIAN_PATH).pubkey)


# --- payments that prove the payout key ------------------------------------------------------------------------------


def vote(node: Flopd, fund: Fund, key: str, koinu: int = DUST) -> dict[str, Any]:
    data = VoteNote(bytes.fromhex("ab" * 32), True).encode().hex()
    return node.fund(fund.script, koinu, key, data=data, from_payout=True, purpose="vote")


def signers(raw: str) -> list[bytes]:
    """Keys in the input scripts of a transaction that spends P2PKH outputs."""
    return [txin.script_sig[-33:] for txin in parse_tx(raw).vin]


def test_a_vote_proves_the_payout_key_again_and_again_from_one_coin(fund: Fund) -> None:
    node = fund.nodes[2]
    own = bytes.fromhex(node.call("key.payout")["pubkey"])
    node.fill(5 * COIN)
    error = refused_vote(node, fund, "vote-0")
    assert (error.code, error.retry) == (2030, True)
    assert "wallet status" in error.hint
    where = node.call("wallet.status")["payout_address"]
    assert where == address(fund.chain, p2pkh_script(own))
    node.call("wallet.send", {"to": where, "amount": 10 * DUST, "key": "purse"})
    assert "next block" in refused_vote(node, fund, "vote-0").hint
    fund.mine()
    for number in range(3):
        intent = vote(node, fund, f"vote-{number}")
        assert own in signers(intent["hex"])
        outputs = parse_tx(intent["hex"]).vout
        assert outputs[0].script_pub_key.script == fund.script
        assert [output.script_pub_key.script for output in outputs[2:]] == [p2pkh_script(own)]
        assert vote(node, fund, f"vote-{number}") == intent
        node.broadcast(intent)
        if number == 1:
            assert "next block" in refused_vote(node, fund, "next").hint
        fund.mine()
        assert node.intent(intent)["state"] == "confirmed"


def refused_vote(node: Flopd, fund: Fund, key: str) -> NoPayoutCoin:
    with pytest.raises(NoPayoutCoin) as caught:
        vote(node, fund, key)
    return caught.value


def test_a_coin_that_another_order_holds_proves_nothing_until_it_is_given_back(fund: Fund) -> None:
    node = fund.nodes[1]
    target = node.call("wallet.status")["payout_address"]
    fund.payer.fill(5 * COIN)
    fund.payer.call("wallet.send", {"to": target, "amount": 3 * DUST, "key": "gift"})
    fund.mine()
    node.fill(5 * COIN)
    held = []
    with pytest.raises(NoPayoutCoin):
        for number in range(20):
            held.append(vote(node, fund, f"hold-{number}"))
    assert held
    node.call("tx.cancel", {"id": held[0]["id"]})
    assert vote(node, fund, "after")["state"] == "built"


# --- bonds -----------------------------------------------------------------------------------------------------------


def bond(node: Flopd, fund: Fund, key: str, lock_height: int, *koinu: int) -> list[dict[str, Any]]:
    """Bonds of the node's payout key in a block, as `tx.release` wants them named."""
    pubkey = bytes.fromhex(node.call("key.payout")["pubkey"])
    script = bond_output(pubkey, lock_height).hex()
    outputs = [{"script": script, "amount": amount} for amount in koinu]
    outputs.append({"script": fund.script.hex(), "amount": DUST})
    params = {"outputs": outputs, "data": BondNote(pubkey, lock_height).encode().hex(), "key": key}
    made = node.broadcast(node.call("tx.fund", {**params, "purpose": "bond", "ref": "bond"}))
    fund.mine()
    return [{"txid": made["txid"], "vout": vout, "lock_height": lock_height} for vout in range(len(koinu))]


def height_of(node: Flopd) -> int:
    height: int = node.at_tip()["height"]
    return height


def test_bonds_come_back_at_their_lock_height_and_not_before(fund: Fund) -> None:
    node = fund.nodes[0]
    node.fill(20 * COIN)
    lock = height_of(node) + 4
    bonds = [*bond(node, fund, "bond-a", lock - 1, 2 * COIN), *bond(node, fund, "bond-b", lock, COIN, 3 * COIN)]
    before = node.balance()["confirmed"]
    while height_of(node) < lock:
        error = refused(TxTooEarly, node, "tx.release", {"bonds": bonds, "key": "back"})
        assert error.details == {"height": height_of(node), "lock_height": lock}
        fund.mine()
    intent = node.call("tx.release", {"bonds": bonds, "key": "back"})
    assert (intent["state"], intent["purpose"]) == ("sent", "release")
    assert node.call("tx.release", {"bonds": bonds[::-1], "key": "back"}) == intent
    refused(Conflict, node, "tx.release", {"bonds": bonds[:1], "key": "back"})
    (output,) = parse_tx(intent["hex"]).vout
    assert output.value == 6 * COIN - intent["fee"]
    assert output.script_pub_key.script == p2pkh_script(bytes.fromhex(node.call("key.payout")["pubkey"]))
    if isinstance(fund.chain.core, Devchain):
        restart(fund)
        until(lambda: intent["txid"] in fund.chain.call("getrawmempool"), "release in the mempool again")
    fund.mine()
    assert node.intent(intent)["state"] == "confirmed"
    assert node.balance()["confirmed"] == before + output.value
    assert node.call("tx.release", {"bonds": bonds, "key": "back"})["state"] == "confirmed"
    again = refused(BondUnknown, node, "tx.release", {"bonds": bonds, "key": "once-more"})
    assert intent["txid"] in again.message


def test_only_bonds_of_the_own_key_are_taken_back(fund: Fund) -> None:
    node, other = fund.nodes[0], fund.nodes[1]
    node.fill(5 * COIN)
    (made,) = bond(node, fund, "bond-c", height_of(node) + 1, COIN)
    foreign = {"bonds": [made], "key": "x"}
    refused(BondUnknown, other, "tx.release", foreign)
    for wrong in ({"vout": 1}, {"lock_height": made["lock_height"] - 1}, {"txid": "ab" * 32}):
        refused(BondUnknown, node, "tx.release", {"bonds": [{**made, **wrong}], "key": "x"})
    refused(BadTransaction, node, "tx.release", {"bonds": [made, made], "key": "x"})
    node.call("tx.release", {"bonds": [made], "key": "x"})


def test_a_bond_worth_less_than_its_way_back_stays_where_it_is(fund: Fund) -> None:
    node = fund.nodes[0]
    node.fill(5 * COIN)
    (made,) = bond(node, fund, "bond-d", height_of(node) + 1, DUST)
    assert "left of the bonds" in refused(NotPayable, node, "tx.release", {"bonds": [made], "key": "poor"}).message
