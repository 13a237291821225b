"""The escrow script on a real node: litecoind in regtest, whose script rules are Flopcoin's for what is used here.

Each verdict of the node is compared with the script engine's, so that the engine can stand in for a node elsewhere.
"""

import base64
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from btclib.tx import Tx

from duxcommon.coin.params import LITECOIN_REGTEST
from duxcommon.coin.script import (
    EscrowTerms,
    FundingNote,
    address_of,
    multisig_script,
    op_return_data,
    p2pkh_script,
    p2sh_script,
    pubkey_of,
    script_of,
    wif_of,
)
from duxcommon.coin.settlement import Prevout, Settlement, settle
from duxcommon.coin.tx import (
    BLOCK_FLAGS,
    Coin,
    Spend,
    check_signatures,
    close_script_sig,
    closing_tx,
    cooperative_refund_tx,
    finish_close,
    finish_refund,
    parse_tx,
    refund_tx,
    serialize_tx,
    sign_input,
    txid_of,
    verify_tx,
    with_script_sigs,
)
from duxcommon.errors import ScriptRefused
from duxcommon.money import COIN, format_flop

LITECOIND = Path("/usr/lib/litecoin/litecoind")  # the one on PATH is a wrapper script
CLTV_ACTIVE = 1400
P, B, A = (bytes([number]) * 32 for number in (11, 12, 13))
PROVIDER, BUYER, ARBITER = (pubkey_of(secret) for secret in (P, B, A))
FUND = p2sh_script(multisig_script(3, [pubkey_of(bytes([number]) * 32) for number in range(21, 26)]))


class Refused(Exception):
    """The node's answer to a call it did not carry out."""


class Node:
    """A litecoind of our own in regtest, with a wallet and enough blocks for CLTV."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.cookie = folder / "regtest" / ".cookie"
        options = ["-regtest", "-server", "-listen=0", "-vbparams=mweb:-2:0", "-addresstype=legacy"]
        options += ["-changetype=legacy", "-fallbackfee=0.001", "-printtoconsole=0", "-txindex=1"]
        self.process = subprocess.Popen([LITECOIND, *options, f"-datadir={folder}", f"-rpcport={self.port}"])
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise
        self.call("createwallet", "w")
        self.address: str = self.call("getnewaddress", "", "legacy")

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self.call("getblockcount")
                return
            except (OSError, Refused):
                assert self.process.poll() is None, "litecoind did not start"
                assert time.monotonic() < end, "litecoind did not answer in a minute"
                time.sleep(0.05)

    def call(self, method: str, *params: Any) -> Any:
        token = base64.b64encode(self.cookie.read_bytes()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = json.dumps({"id": 1, "method": method, "params": params})
        connection.request("POST", "/", body, {"Authorization": f"Basic {token}"})
        answer = json.loads(connection.getresponse().read(), parse_float=Decimal)
        connection.close()
        if answer["error"]:
            raise Refused(answer["error"]["message"])
        return answer["result"]

    def mine(self, blocks: int) -> None:
        while blocks > 0:
            self.call("generatetoaddress", min(blocks, 200), self.address)
            blocks -= 200

    def height(self) -> int:
        height: int = self.call("getblockcount")
        return height

    def verdict(self, tx: Tx) -> str:
        """Empty when the node would take the transaction into its mempool, otherwise its reason."""
        (answer,) = self.call("testmempoolaccept", [serialize_tx(tx).hex()])
        return "" if answer["allowed"] else str(answer["reject-reason"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if not LITECOIND.exists():
        pytest.skip("not run: litecoind is not installed")
    folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
    running = Node(folder)
    try:
        running.mine(CLTV_ACTIVE)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def fund(node: Node, terms: EscrowTerms, *amounts: int) -> list[Coin]:
    """Confirmed deposits into a channel, each together with the funding note."""
    deposits = []
    script = p2sh_script(terms.script())
    address = address_of(script, LITECOIN_REGTEST)
    for amount in amounts:
        outputs: list[dict[str, str]] = [{str(address): format_flop(amount)}]
        outputs.append({"data": FundingNote(terms.provider, terms.arbiter, terms.lock_height).encode().hex()})
        raw = node.call("createrawtransaction", [], outputs)
        funded = node.call("fundrawtransaction", raw, {"change_type": "legacy"})["hex"]
        signed = node.call("signrawtransactionwithwallet", funded)["hex"]
        txid = node.call("sendrawtransaction", signed)
        tx = parse_tx(signed)
        assert txid_of(tx) == txid
        scripts = [output.script_pub_key.script for output in tx.vout]
        deposits.append(Coin(txid, scripts.index(script), amount))
        notes = [FundingNote.decode(data) for data in map(op_return_data, scripts) if data]
        assert notes == [FundingNote(terms.provider, terms.arbiter, terms.lock_height)]
    node.mine(1)
    return deposits


def sign_all(spend: Spend, secret: bytes) -> list[bytes]:
    return [sign_input(spend.tx, index, spend.redeem, secret) for index in range(len(spend.deposits))]


def spent(spend: Spend) -> list[tuple[bytes, int]]:
    return [(p2sh_script(spend.redeem), coin.amount) for coin in spend.deposits]


def refused_by_both(node: Node, tx: Tx, spend: Spend) -> bool:
    with pytest.raises(ScriptRefused):
        verify_tx(tx, spent(spend))
    return "mandatory-script-verify-flag" in node.verdict(tx) or "non-mandatory-script" in node.verdict(tx)


def confirmed(node: Node, tx: Tx) -> int:
    """Send and mine a transaction; the height of its block."""
    txid = node.call("sendrawtransaction", serialize_tx(tx).hex())
    assert txid == txid_of(tx)
    node.mine(1)
    assert node.call("getrawtransaction", txid, True)["confirmations"] == 1
    return node.height()


def test_the_chain_its_addresses_and_its_keys_are_what_the_parameters_say(node: Node) -> None:
    assert node.call("getblockhash", 0) == LITECOIN_REGTEST.genesis
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, 5000)
    decoded = node.call("decodescript", terms.script().hex())
    assert decoded["p2sh"] == address_of(p2sh_script(terms.script()), LITECOIN_REGTEST)
    assert decoded["asm"].split()[:2] == ["OP_IF", PROVIDER.hex()]
    info = node.call("getaddressinfo", node.address)
    assert script_of(node.address, LITECOIN_REGTEST).hex() == info["scriptPubKey"]
    node.call("importprivkey", wif_of(B, LITECOIN_REGTEST), "", False)
    buyer = address_of(p2pkh_script(BUYER), LITECOIN_REGTEST)
    assert node.call("getaddressinfo", buyer)["ismine"] is True


def test_provider_and_buyer_close_two_deposits_and_it_is_settled_work(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    deposits = fund(node, terms, 12 * COIN, 3 * COIN)
    deposited_at = node.height()
    spend = closing_tx(terms, deposits, 10 * COIN, 500, FUND)
    buyer, provider = sign_all(spend, B), sign_all(spend, P)
    assert check_signatures(spend, BUYER, buyer)
    close = finish_close(spend, buyer, provider)
    assert verify_tx(close, spent(spend)) == spend.fee
    confirmed(node, close)

    note = FundingNote(terms.provider, terms.arbiter, terms.lock_height)
    given = [Prevout(script, amount, deposited_at, note) for script, amount in spent(spend)]
    on_chain = parse_tx(node.call("getrawtransaction", txid_of(close)))
    verdict = settle(on_chain, given, {FUND}, lambda _height: 500)
    assert isinstance(verdict, Settlement)
    assert (verdict.payout, verdict.tax, verdict.terms) == (950_000_000, 50_000_000, terms)


def test_nothing_closes_without_the_provider_and_one_other(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    spend = closing_tx(terms, fund(node, terms, 5 * COIN), 2 * COIN, 500, FUND)
    for first, second in ((B, A), (A, B), (A, A), (P, P), (B, B), (P, B)):
        assert refused_by_both(node, finish_close(spend, sign_all(spend, first), sign_all(spend, second)), spend)
    award = finish_close(spend, sign_all(spend, A), sign_all(spend, P))
    assert verify_tx(award, spent(spend)) == spend.fee
    confirmed(node, award)


def test_an_earlier_state_and_the_newest_conflict_and_only_one_confirms(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    deposits = fund(node, terms, 5 * COIN)
    first, newest = (closing_tx(terms, deposits, gross, 500, FUND) for gross in (COIN, 4 * COIN))
    confirmed(node, finish_close(newest, sign_all(newest, B), sign_all(newest, P)))
    late = finish_close(first, sign_all(first, B), sign_all(first, P))
    assert node.verdict(late) == "missing-inputs"


def test_the_cooperative_refund_needs_no_waiting(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    spend = cooperative_refund_tx(terms, fund(node, terms, 2 * COIN, COIN))
    tx = finish_close(spend, sign_all(spend, B), sign_all(spend, P))
    assert verify_tx(tx, spent(spend)) == spend.fee
    confirmed(node, tx)


def test_the_buyer_refunds_alone_at_the_height_and_not_a_block_earlier(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 5)
    spend = refund_tx(terms, fund(node, terms, 5 * COIN))
    refund = finish_refund(spend, sign_all(spend, B))
    early = refund_tx(EscrowTerms(PROVIDER, BUYER, ARBITER, terms.lock_height - 3), list(spend.deposits))
    early = Spend(early.tx, spend.redeem, spend.deposits, 0, 0, early.buyer, early.fee)
    while node.height() < terms.lock_height:
        assert node.verdict(refund) == "non-final"
        node.mine(1)
    assert refused_by_both(node, finish_refund(early, sign_all(early, B)), spend)
    for secret in (P, A):
        assert refused_by_both(node, finish_refund(spend, sign_all(spend, secret)), spend)
    assert verify_tx(refund, spent(spend)) == spend.fee
    confirmed(node, refund)


def test_a_node_relays_another_branch_selector_so_the_settlement_must_count_all_the_same(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    spend = closing_tx(terms, fund(node, terms, 5 * COIN), 2 * COIN, 500, FUND)
    buyer, provider = sign_all(spend, B)[0], sign_all(spend, P)[0]
    usual = close_script_sig(buyer, provider, spend.redeem)
    at = 1 + 1 + len(buyer) + 1 + len(provider)
    changed = with_script_sigs(spend.tx, [usual[:at] + b"\x52" + usual[at + 1 :]])
    verify_tx(changed, spent(spend))
    height = confirmed(node, changed)
    note = FundingNote(terms.provider, terms.arbiter, terms.lock_height)
    verdict = settle(changed, [Prevout(*spent(spend)[0], height, note)], {FUND}, lambda _height: 500)
    assert isinstance(verdict, Settlement)


def test_what_a_node_does_not_relay_the_engine_does_not_pass_as_standard(node: Node) -> None:
    terms = EscrowTerms(PROVIDER, BUYER, ARBITER, node.height() + 1000)
    spend = closing_tx(terms, fund(node, terms, 5 * COIN), 2 * COIN, 500, FUND)
    usual = close_script_sig(sign_all(spend, B)[0], sign_all(spend, P)[0], spend.redeem)
    for script_sig in (b"\x51" + usual[1:], b"\x00\x4c" + usual[1:], b"\x51" + usual):
        tx = with_script_sigs(spend.tx, [script_sig])
        assert refused_by_both(node, tx, spend)
        verify_tx(tx, spent(spend), BLOCK_FLAGS)
