"""Chains under a whole network: a Core for each node, as in life, connected with each other; or dux-devchain.

The Cores are Debian's litecoind and the one that DUX_COIND names. The test makes the blocks.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from devchain_kit import LITECOIND
from flopd_kit import FLOPCOIND, RealCore, until

from dux_devnet.layout import ChainChoice
from dux_devnet.network import wait_until
from tests.support.devnet import TestNet

FIRST_TIME = 1_700_000_000


class Ground:
    """A chain whose blocks the test makes."""

    choice: ChainChoice
    overrides: dict[str, dict[str, Any]]
    title: str
    """The daemon and its version."""

    def attach(self, net: TestNet) -> None:
        """The network on this chain is there now."""

    def ask(self, method: str, *params: Any) -> Any:
        """A call to the node that makes the blocks."""
        raise AssertionError

    def mine(self, blocks: int) -> None:
        """Blocks, which every node's Core has when it returns."""
        raise AssertionError

    def give(self, address: str, flop: int) -> None:
        """Coins for an address; they are not mined yet."""
        raise AssertionError

    def close(self) -> None:
        """Stop what was started."""


class DevGround(Ground):
    """dux-devchain, which the devnet starts by itself."""

    def __init__(self, dialect: str = "modern") -> None:
        self.choice = ChainChoice(dialect=dialect, auto_mine_s=0)
        self.overrides = {}

    def attach(self, net: TestNet) -> None:
        self.net = net
        self.title = f"dux-devchain, version {self.ask('getnetworkinfo')['subversion']}"

    def ask(self, method: str, *params: Any) -> Any:
        return self.net.chain(method, *params)

    def mine(self, blocks: int) -> None:
        self.net.mine(blocks)

    def give(self, address: str, flop: int) -> None:
        self.net.chain("faucet", address, str(flop))


class CoreGround(Ground):
    """A Core for each node; carol's makes the blocks."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.binary = binary
        self.cores: dict[str, RealCore] = {}
        try:
            self._start(folder)
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path) -> None:
        self.miner = self.cores["carol"] = RealCore(folder / "carol", self.binary)
        for node in ("alice", "bob"):
            self.cores[node] = RealCore(folder / node, self.binary, connect=self.miner.p2p_port)
        self.many = self.miner.dialect == "modern"
        self.purse = "purse" if self.many else None
        self.time = FIRST_TIME
        if self.many:
            self.miner.make_wallet("purse")
        for node in ("alice", "bob"):
            core = self.cores[node]
            until(lambda core=core: core.call("getconnectioncount") > 0, f"connection of {node}'s Core")  # type: ignore[misc]
        params = self.miner.params
        self.choice = ChainChoice(name=params.name, dialect=self.miner.dialect, url="real", birth_height=0)
        self.overrides = {
            f"{node}/flopd": {
                "core": {
                    "url": f"http://127.0.0.1:{core.port}/" + (f"wallet/{node}" if self.many else ""),
                    "cookie": str(core.cookie),
                }
            }
            for node, core in self.cores.items()
        }
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        self.title = f"{said.splitlines()[0]} ({self.binary}), {self.ask('getnetworkinfo')['subversion']}"
        self.mine(params.early_maturity + 10)

    def ask(self, method: str, *params: Any) -> Any:
        return self.miner.call(method, *params)

    def mine(self, blocks: int) -> None:
        for node in ("alice", "bob"):
            self._hand_over(self.cores[node], self.miner)
        target = self.miner.call("getnewaddress", "", *(["legacy"] if self.many else []), wallet=self.purse)
        if self.miner.litecoin:
            self.miner.call("generatetoaddress", blocks, target, wallet=self.purse)
        else:
            for _ in range(blocks):
                # Without this, a Dogecoin descendant's first blocks take minutes.
                self.time += 3
                for core in self.cores.values():
                    core.call("setmocktime", self.time)
                self.miner.call("generatetoaddress", 1, target)
        tip = self.ask("getbestblockhash")
        for node, core in self.cores.items():
            until(lambda core=core: core.call("getbestblockhash") == tip, f"the newest block at {node}'s Core", 60)  # type: ignore[misc]

    def give(self, address: str, flop: int) -> None:
        self.miner.call("sendtoaddress", address, str(flop), wallet=self.purse)

    @staticmethod
    def _hand_over(giver: RealCore, taker: RealCore) -> None:
        """What waits at one node, parents first: by themselves the nodes take seconds."""
        waiting, known = giver.call("getrawmempool", True), set(taker.call("getrawmempool"))
        for txid in sorted(set(waiting) - known, key=lambda txid: waiting[txid]["ancestorcount"]):
            taker.call("sendrawtransaction", giver.call("getrawtransaction", txid))

    def close(self) -> None:
        for core in self.cores.values():
            core.process.terminate()
        for core in self.cores.values():
            core.process.wait(60)


def open_ground(kind: str, folder: Path) -> Ground:
    """A fresh chain; skips the test where its daemon is missing."""
    if kind.startswith("devchain-"):
        return DevGround(kind.removeprefix("devchain-"))
    binary = LITECOIND if kind == "litecoind" else Path(FLOPCOIND)
    if kind == "litecoind" and not binary.exists():
        pytest.skip("not run: litecoind is not installed (apt install litecoind)")
    assert os.access(binary, os.X_OK), f"DUX_COIND={FLOPCOIND} is no program"
    return CoreGround(folder, binary)


@dataclass
class Stage:
    """A network on its chain."""

    ground: Ground
    net: TestNet

    def mining(self, question: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
        """A block about twice a second until the answer is true."""

        def look() -> Any:
            self.ground.mine(1)
            return question()

        return wait_until(look, seconds, what, pause=0.4)

    def seen(self, channel: str, state: str, *nodes: str) -> Any:
        """The channel when all these nodes see it in `state`."""
        views = [self.net.channel(node, channel) for node in nodes]
        return views[0] if all(view["state"] == state for view in views) else None
