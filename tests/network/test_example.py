"""The test to read first: it shows how a test runs whole nodes, and what is checked without being asked for.

Run it alone with

    .venv/bin/python -m pytest -s tests/network/test_example.py

and keep the folder with all logs and databases with DUX_KEEP=1 in the environment.
"""

import base64
import json

from dux_devnet.network import wait_until
from duxcommon.money import COIN, split
from tests.support.devnet import APPS, running_devnet


def test_bob_pays_alice_for_counting_words() -> None:
    # Three whole nodes and a chain, each daemon a real process. alice, the first, sells; carol, the last, arbitrates.
    # When the block ends everything is stopped, and the test fails if any daemon logged an error or a traceback.
    with running_devnet() as net:
        # Coins come from the trial chain's faucet; `fund` returns once they are confirmed.
        net.fund("bob", 10)
        assert net.balance("bob") == 10 * COIN

        # `publish` runs the real `dux-ctl app publish` and waits until every node's directory shows the app as live.
        net.publish("alice", APPS / "hello-words")

        # `call` is one JSON-RPC call to the daemon whose namespace the method is in. Request and reply are checked
        # against what that daemon declares in `rpc.discover`, and an error must be one that the method declares.
        listing = net.call("bob", "app.show", {"app": "hello-words"})
        assert listing["price"] == COIN // 2

        # `run_task` orders, waits for the checked result, and fails unless the task is DONE.
        task = net.run_task("bob", "hello-words", b"to be or not to be")
        assert json.loads(base64.b64decode(task["result"]["data"]))["words"] == 6

        # Events are awaited, not slept for: the signed state reaches alice within a moment of idleness.
        channel = net.call("alice", "channel.list", {})["channels"][0]["id"]
        wait_until(lambda: net.channel("alice", channel)["gross"] == COIN // 2, 60, "the signed state")

        # Closing settles on the chain: 95 % to alice, 5 % to the fund, exact to the koinu.
        net.call("bob", "channel.close", {"id": channel, "key": net.key()})
        closed = net.wait_channel("alice", channel, "CLOSED")
        parts = split(COIN // 2, 500)
        wait_until(lambda: net.balance("alice") == parts.provider, 60, "alice's earnings")
        assert closed["tax"] == parts.tax

        # Chain, wallets, channels and books agree on every node.
        net.assert_audit()
