"""kill -9 of flopd between any two steps, and of the chain: nothing is paid twice and no coin is lost."""

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devchain_kit import Devchain
from flopd_kit import OTHER, DevTestChain, Flopd, address, escrow, open_chain, until

from dux_flopd.blocks import parse_block
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.coin.tx import Coin, closing_tx, finish_close, serialize_tx, sign_input
from duxcommon.errors import DaemonDown
from duxcommon.money import COIN, split

STRANGER = p2pkh_script(pubkey_of(OTHER))
FUND_SCRIPT = p2pkh_script(pubkey_of(b"\x0e" * 32))
START = 10 * COIN


@pytest.fixture(scope="module", params=["devchain-flopcoin", "litecoind"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = open_chain(request.param, tmp_path_factory.mktemp("c"))
    yield running
    running.close()


def dying(folder: Path, chain: Any, point: str) -> Flopd:
    """A flopd with coins that will die at a point; the coins come before that."""
    node = Flopd(folder, chain)
    node.start()
    node.fill(START)
    node.stop()
    node._env["DUXNET_FAILPOINT"] = f"flopd:{point}"
    return node.start()


def revive(node: Flopd) -> None:
    """It died as by kill -9; start it without the failpoint."""
    assert node.wait() == -signal.SIGKILL
    del node._env["DUXNET_FAILPOINT"]
    node.start()


def died(node: Flopd, method: str, params: dict[str, Any]) -> None:
    with pytest.raises(DaemonDown):
        node.call(method, params)
    revive(node)


def paid(chain: Any, script: bytes) -> list[int]:
    """Amounts of the outputs in blocks that pay a script."""
    flag = 0 if chain.core.dialect == "modern" else False
    found = []
    for height in range(chain.call("getblockcount") + 1):
        raw = chain.call("getblock", chain.call("getblockhash", height), flag)
        for tx in parse_block(bytes.fromhex(raw)).txs:
            found += [amount for to, amount in tx.pays if to == script]
    return found


def fresh_script(point: str, chain: Any) -> bytes:
    return p2pkh_script(pubkey_of(hashlib.sha256(f"{point} {chain.kind}".encode()).digest()))


@pytest.mark.parametrize("point", ["built", "committed", "sending", "sent"])
def test_a_payment_is_made_once_whenever_flopd_dies(
    chain: Any, short_tmp: Path, daemon_logs: list[str], point: str
) -> None:
    script = fresh_script(point, chain)
    pay = {"to": address(chain, script), "amount": COIN, "key": "k"}
    with dying(short_tmp, chain, point) as node:
        died(node, "wallet.send", pay)
        if point != "built":
            # It was promised, so it goes out whether or not anybody asks again.
            until(lambda: chain.call("getrawmempool"), "payment in the mempool")
        sent = node.call("wallet.send", pay)
        assert sent["state"] == "sent"
        node.mine()
        assert node.call("wallet.send", pay)["state"] == "confirmed"
        assert paid(chain, script) == [COIN]
        balance = node.balance()
        assert balance["confirmed"] == balance["spendable"] == START - COIN - sent["fee"]
        assert (balance["reserved"], balance["pending"]) == (0, 0)


@pytest.mark.parametrize("point", ["built", "committed", "locked"])
def test_a_deposit_that_was_not_sent_is_neither_lost_nor_doubled(
    chain: Any, short_tmp: Path, daemon_logs: list[str], point: str
) -> None:
    with dying(short_tmp, chain, point) as node:
        _, script = escrow(pubkey_of(OTHER), node.keystore.payout_pubkey, 100_000 + len(point))
        value = {"outputs": [{"script": script.hex(), "amount": 2 * COIN}], "data": None, "key": "k"}
        fund = {**value, "purpose": "fund", "ref": "c"}
        died(node, "tx.fund", fund)
        assert node.balance()["confirmed"] == START
        if point != "built":
            assert node.balance()["reserved"] == START
        intent = node.call("tx.fund", fund)
        assert intent["state"] == "built"
        assert node.balance()["reserved"] == START
        assert chain.call("getrawmempool") == []
        node.broadcast(intent)
        node.mine()
        assert paid(chain, script) == [2 * COIN]
        assert node.balance()["confirmed"] == START - 2 * COIN - intent["fee"]


def test_a_deposit_that_was_given_up_after_a_crash_frees_its_coins(
    chain: Any, short_tmp: Path, daemon_logs: list[str]
) -> None:
    with dying(short_tmp, chain, "committed") as node:
        value = {"outputs": [{"script": STRANGER.hex(), "amount": 2 * COIN}], "data": None, "key": "k"}
        fund = {**value, "purpose": "fund", "ref": "c"}
        died(node, "tx.fund", fund)
        node.call("tx.cancel", {"id": node.call("tx.fund", fund)["id"]})
        assert node.balance()["spendable"] == START
        assert node.call("tx.fund", fund)["state"] == "cancelled"


@pytest.mark.parametrize("point", ["sending", "sent"])
def test_a_broadcast_goes_through_once_whenever_flopd_dies(
    chain: Any, short_tmp: Path, daemon_logs: list[str], point: str
) -> None:
    with dying(short_tmp, chain, point) as node:
        script = fresh_script("deposit " + point, chain)
        intent = node.fund(script, 2 * COIN, "k")
        died(node, "tx.broadcast", {"id": intent["id"]})
        until(lambda: chain.call("getrawmempool") == [intent["txid"]], "deposit in the mempool")
        node.broadcast(intent)
        node.mine()
        assert node.intent(intent)["state"] == "confirmed"
        assert paid(chain, script) == [2 * COIN]


@pytest.mark.parametrize("point", ["committed", "sending", "sent"])
def test_a_close_is_sent_by_itself_whenever_flopd_dies(
    chain: Any, short_tmp: Path, daemon_logs: list[str], point: str
) -> None:
    node = Flopd(short_tmp, chain)
    with node.start():
        node.fill(START)
        terms, script = escrow(node.keystore.payout_pubkey, pubkey_of(OTHER), 200_000 + len(point))
        node.call("chain.watch", {"script": script.hex(), "ref": "c"})
        deposit = node.broadcast(node.fund(script, 4 * COIN, "k"))
        node.mine()
        node.stop()
        node._env["DUXNET_FAILPOINT"] = f"flopd:{point}"
        node.start()
        spend = closing_tx(terms, [Coin(deposit["txid"], 0, 4 * COIN)], 2 * COIN, 500, FUND_SCRIPT)
        (output,) = node.watched("c")
        prevout = {"txid": output["txid"], "vout": output["vout"], "amount": 4 * COIN, "redeem": spend.redeem.hex()}
        own = node.keystore.payout_pubkey.hex()
        request = {"hex": serialize_tx(spend.tx).hex(), "prevouts": [prevout], "pubkey": own}
        mine = [bytes.fromhex(signature) for signature in node.call("tx.sign", request)["signatures"]]
        tx = finish_close(spend, [sign_input(spend.tx, 0, spend.redeem, OTHER)], mine)
        submit = {"hex": serialize_tx(tx).hex(), "key": "close", "purpose": "close", "ref": "c"}
        died(node, "tx.submit", submit)
        until(lambda: chain.call("getrawmempool"), "close in the mempool")
        assert node.call("tx.submit", submit)["state"] == "sent"
        node.mine()
        assert node.call("tx.submit", submit)["state"] == "confirmed"
        expected = START - 4 * COIN - deposit["fee"] + split(2 * COIN, 500).provider
        assert node.balance()["confirmed"] == expected
        assert node.balance()["in_channels"] == 0


@pytest.mark.parametrize("rounds", [6])
def test_kills_at_any_time_leave_the_sum_exact(
    chain: Any, short_tmp: Path, daemon_logs: list[str], rounds: int
) -> None:
    script = fresh_script("any time", chain)
    with Flopd(short_tmp, chain).start() as node:
        node.fill(*[2 * COIN] * rounds)
        for number in range(rounds):
            pay = {"to": address(chain, script), "amount": COIN, "key": f"k{number}"}
            node.call("wallet.send", pay)
            node.kill()
            if number % 2:
                chain.mine()
            node.start()
            assert node.call("wallet.send", pay)["state"] in ("sent", "confirmed")
        node.mine()
        fees = sum(
            node.call("wallet.send", {"to": address(chain, script), "amount": COIN, "key": f"k{number}"})["fee"]
            for number in range(rounds)
        )
        assert paid(chain, script) == [COIN] * rounds
        assert node.balance()["confirmed"] == rounds * COIN - fees


def test_both_die_and_nothing_is_lost(short_tmp: Path, daemon_logs: list[str]) -> None:
    chain = DevTestChain(short_tmp, "flopcoin")
    core = chain.core
    assert isinstance(core, Devchain)
    (short_tmp / "n").mkdir()
    with Flopd(short_tmp / "n", chain).start() as node:
        node.fill(START)
        port = core.port
        held = node.fund(STRANGER, COIN, "held")
        sent = node.broadcast(held)
        core.kill()
        node.kill()
        core.options = ("--port", str(port))
        core.start()
        node.start()
        until(lambda: chain.call("getrawmempool") == [sent["txid"]], "payment in the mempool")
        node.mine()
        assert paid(chain, STRANGER) == [COIN]
        assert node.balance()["confirmed"] == START - COIN - sent["fee"]
    chain.close()
