"""kill -9 of flopd while a bond comes back: it comes back once, whether or not anybody asks again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from flopd_kit import Flopd, TestChain, open_chain, until

from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import BondNote
from duxcommon.errors import DaemonDown
from duxcommon.money import COIN


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestChain]:
    running = open_chain("devchain-flopcoin", tmp_path_factory.mktemp("c"))
    yield running
    running.close()


@pytest.mark.parametrize("point", ["committed", "sending", "sent"])
def test_a_bond_comes_back_once_whenever_flopd_dies(
    chain: TestChain, short_tmp: Path, daemon_logs: list[str], point: str
) -> None:
    node = Flopd(short_tmp, chain)
    node.start()
    node.fill(5 * COIN)
    pubkey = node.keystore.payout_pubkey
    lock = node.at_tip()["height"] + 2
    made = node.fund(bond_output(pubkey, lock), 2 * COIN, "bond", data=BondNote(pubkey, lock).encode().hex())
    node.broadcast(made)
    node.mine(2)
    before = node.balance()["confirmed"]
    node.stop()
    node._env["DUXNET_FAILPOINT"] = f"flopd:{point}"
    with node.start():
        order = {"bonds": [{"txid": made["txid"], "vout": 0, "lock_height": lock}], "key": "back"}
        with pytest.raises(DaemonDown):
            node.call("tx.release", order)
        assert node.wait() == -signal.SIGKILL
        del node._env["DUXNET_FAILPOINT"]
        node.start()
        (txid,) = until(lambda: chain.call("getrawmempool"), "release in the mempool")
        intent = node.call("tx.release", order)
        assert (intent["state"], intent["txid"]) == ("sent", txid)
        node.mine()
        assert node.call("tx.release", order)["state"] == "confirmed"
        assert node.balance()["confirmed"] == before + 2 * COIN - intent["fee"]
