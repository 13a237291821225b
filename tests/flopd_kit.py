"""Chains of several kinds under one face, and a dux-flopd process on them, for tests of money on a chain.

The kinds: dux-devchain in both dialects; Debian's litecoind where it is installed; and the Core that DUX_COIND names.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from devchain_kit import LITECOIND, Core, Devchain, Refused
from support.process import DaemonProcess
from support.schema import CheckedBlockingClient

from dux_flopd.keystore import Keystore
from duxcommon.coin.params import CHAINS, CHAINS_BY_GENESIS
from duxcommon.coin.script import EscrowTerms, address_of, p2sh_script, pubkey_of
from duxcommon.identity import Identity
from duxcommon.money import COIN, format_flop
from duxcommon.network import Member, NetworkDefinition, dump_network

PASSPHRASE = "a passphrase for tests"
FLOPCOIND = os.environ.get("DUX_COIND", "")
KINDS = ("devchain-flopcoin", "devchain-modern", "litecoind", *(["coind"] if FLOPCOIND else []))
WAIT_S = 60.0
POLL_S = 0.05
T = TypeVar("T")


def until(question: Callable[[], T], what: str, seconds: float = WAIT_S) -> T:
    """The first true answer; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.02)
    return answer


class TestChain:
    """A chain whose blocks the test makes, with a purse to pay from."""

    __test__ = False
    kind: str
    core: Core
    """The node that flopd is to use."""

    def wallet_path(self, name: str) -> str:
        """Path of the wallet `name`, made when needed."""
        return f"/wallet/{name}"

    def call(self, method: str, *params: Any, wallet: str | None = None) -> Any:
        """A call to the node that flopd uses."""
        return self.core.call(method, *params, wallet=wallet)

    def mine(self, blocks: int = 1) -> list[str]:
        """Blocks that pay nobody in the test."""
        raise AssertionError

    def pay(self, address: str, koinu: int) -> str:
        """Send coins to an address; the transaction's id. It is not mined."""
        raise AssertionError

    def close(self) -> None:
        """Stop everything."""


class DevTestChain(TestChain):
    """dux-devchain."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self.kind = f"devchain-{dialect}"
        (folder / "c").mkdir()
        self.core: Devchain = Devchain(folder / "c", dialect)

    def mine(self, blocks: int = 1) -> list[str]:
        return self.core.mine(blocks)

    def pay(self, address: str, koinu: int) -> str:
        txid: str = self.core.call("faucet", address, format_flop(koinu))
        return txid

    def close(self) -> None:
        self.core.close()


class RealCore(Core):
    """A litecoind or flopcoind in regtest with its own folder."""

    def __init__(self, folder: Path, binary: Path, *, connect: int | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        self.binary = binary
        self.litecoin = b"itecoin" in subprocess.run([binary, "--version"], capture_output=True, check=True).stdout
        self.cookie = folder / "regtest" / ".cookie"
        self.port, self.p2p_port = _free_port(), _free_port()
        options = ["-regtest", "-server", "-listen=1", "-discover=0", "-dnsseed=0", "-printtoconsole=0", "-keypool=10"]
        options += [f"-port={self.p2p_port}", f"-rpcport={self.port}", f"-datadir={folder}", "-bind=127.0.0.1"]
        if self.litecoin:
            options += ["-vbparams=mweb:-2:0", "-addresstype=legacy", "-changetype=legacy", "-fallbackfee=0.01"]
            options += ["-minrelaytxfee=0.01"]
        else:
            options += ["-acceptnonstdtxn=0"]
        if connect is not None:
            options.append(f"-connect=127.0.0.1:{connect}")
        self.command = [str(binary), *options]
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.process = subprocess.Popen(self.command)
        end = time.monotonic() + 60
        while True:
            try:
                genesis = self.call("getblockhash", 0)
                break
            except (OSError, Refused):
                assert self.process.poll() is None, f"{self.binary} did not start"
                assert time.monotonic() < end, f"{self.binary} did not answer in a minute"
                time.sleep(0.05)
        self.params = CHAINS_BY_GENESIS[genesis]
        try:
            self.call("signrawtransactionwithwallet")
        except Refused as refused:
            self.dialect = "flopcoin" if refused.code == -32601 else "modern"

    def make_wallet(self, name: str) -> None:
        """A legacy wallet, on Cores that don't have one by themselves."""
        if self.dialect == "modern":
            self.call("createwallet", name, False, False, "", False, False)


class RealTestChain(TestChain):
    """Two real nodes that are connected: the miner's, with the purse, and the one that flopd uses."""

    def __init__(self, folder: Path, kind: str, binary: Path) -> None:
        self.kind = kind
        self.miner = RealCore(folder / "m", binary)
        self.core: RealCore = RealCore(folder / "n", binary, connect=self.miner.p2p_port)
        self._time = int(time.time()) - 86_400
        self._many = self.core.dialect == "modern"
        self._purse = "purse" if self._many else None
        if self._many:
            self.miner.make_wallet("purse")
        until(lambda: self.core.call("getconnectioncount") > 0, "connection between the nodes")
        self.mine(self.miner.params.early_maturity + 10)

    def wallet_path(self, name: str) -> str:
        return f"/wallet/{name}" if self._many else "/"

    def mine(self, blocks: int = 1) -> list[str]:
        self._relay(self.core, self.miner)
        # A new address each time: otherwise a block could come out like one that was invalidated.
        style = ["legacy"] if self._many else []
        target = self.miner.call("getnewaddress", "", *style, wallet=self._purse)
        hashes: list[str] = []
        while len(hashes) < blocks:
            if not self.miner.litecoin:
                # Without this, a Dogecoin descendant's first blocks take minutes.
                self._time += 3
                for node in (self.miner, self.core):
                    node.call("setmocktime", self._time)
            some = 1 if not self.miner.litecoin else blocks - len(hashes)
            hashes += self.miner.call("generatetoaddress", some, target, wallet=self._purse)
        until(lambda: self.core.call("getbestblockhash") == hashes[-1], "block at flopd's node")
        return hashes

    def pay(self, address: str, koinu: int) -> str:
        txid: str = self.miner.call("sendtoaddress", address, format_flop(koinu), wallet=self._purse)
        self._relay(self.miner, self.core)
        return txid

    @staticmethod
    def _relay(giver: RealCore, taker: RealCore) -> None:
        """Hand over what waits at one node, parents first: by themselves the nodes take seconds."""
        waiting = giver.call("getrawmempool", True)
        known = set(taker.call("getrawmempool"))
        for txid in sorted(waiting, key=lambda txid: waiting[txid]["ancestorcount"]):
            if txid not in known:
                taker.call("sendrawtransaction", giver.call("getrawtransaction", txid))

    def close(self) -> None:
        for node in (self.core, self.miner):
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in (self.core, self.miner):
            node.process.wait(60)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def open_chain(kind: str, folder: Path) -> TestChain:
    """A fresh chain of this kind; skips the test where its daemon is missing."""
    if kind.startswith("devchain-"):
        return DevTestChain(folder, kind.removeprefix("devchain-"))
    if kind == "litecoind":
        if not LITECOIND.exists():
            pytest.skip("not run: litecoind is not installed")
        return RealTestChain(folder, kind, LITECOIND)
    return RealTestChain(folder, kind, Path(FLOPCOIND))


def chains(kinds: tuple[str, ...] = KINDS) -> Any:
    """A module-wide fixture of each kind of chain."""

    @pytest.fixture(scope="module", params=kinds)
    def chain(request: pytest.FixtureRequest) -> Iterator[TestChain]:
        folder = Path(tempfile.mkdtemp(prefix="dux", dir="/tmp"))
        running = open_chain(request.param, folder)
        yield running
        running.close()
        shutil.rmtree(folder, ignore_errors=True)

    return chain


def definition_on(chain: str, *, name: str = "testnet", birth_height: int = 0) -> NetworkDefinition:
    """A signed definition of a network on the chain of this name."""
    guardian = Identity.generate()
    member = Member(node=guardian.node_id, pubkey=pubkey_of(b"\x01" * 32).hex())
    return NetworkDefinition(
        name=name,
        chain=chain,  # type: ignore[arg-type]
        genesis=CHAINS[chain].genesis,
        birth_height=birth_height,
        bootstrap=[],
        guardians=[member],
        guardians_m=1,
        arbiters=[member],
    ).signed_by(guardian)


def network_of(chain: TestChain) -> NetworkDefinition:
    """A definition of a network on this chain."""
    return definition_on(chain.core.params.name)


class Flopd(DaemonProcess):
    """A dux-flopd on a chain, with its own wallet and keystore; every exchange is checked against its schema."""

    def __init__(
        self,
        folder: Path,
        chain: TestChain,
        *,
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        unlocked: bool = True,
    ) -> None:
        self.chain = chain
        self.wallet = folder.name
        (folder / "network.yaml").write_text(dump_network(network_of(chain)))
        core = {"url": self.core_url(), "cookie": str(chain.core.cookie), "timeout_s": 10}
        value: dict[str, Any] = {"core": core, "poll_s": POLL_S}
        self.keystore = Keystore.create(folder / "keystore.json", PASSPHRASE, log_n=10)
        if unlocked:
            (folder / "pass").write_text(PASSPHRASE)
            (folder / "pass").chmod(0o600)
            value["passphrase_file"] = str(folder / "pass")
        super().__init__(folder, "flopd", {**value, **(settings or {})}, env=env)
        self._client: CheckedBlockingClient | None = None

    def core_url(self) -> str:
        """Where flopd finds its Core now (dux-devchain may come back on another port)."""
        return f"http://127.0.0.1:{self.chain.core.port}{self.chain.wallet_path(self.wallet)}"

    def reconfigure(self, **settings: Any) -> None:
        """Change some settings in the file."""
        value = yaml.safe_load(self.config.read_text())
        self.config.write_text(yaml.safe_dump({**value, **settings}))

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float = 60.0) -> dict[str, Any]:
        if self._client is None:
            self._client = CheckedBlockingClient(self.socket)
        return self._client.call(method, params, timeout=timeout)

    def start(self, *, wait: bool = True) -> "Flopd":
        if self._client is not None:
            self._client.close()
            self._client = None
        super().start(wait=wait)
        return self

    # --- what tests often do ---------------------------------------------------------------------------------

    def fill(self, *koinu: int) -> None:
        """Coins of these amounts, confirmed."""
        target = self.call("wallet.receive")["address"]
        for amount in koinu:
            self.chain.pay(target, amount)
        self.chain.mine(1)
        self.at_tip()

    def at_tip(self) -> dict[str, Any]:
        """`chain.status` once flopd has looked at the chain's last block."""
        best = self.chain.call("getbestblockhash")
        return until(lambda: (s := self.call("chain.status"))["best"] == best and s, "look at the last block")

    def mine(self, blocks: int = 1) -> list[str]:
        """Blocks, and flopd has seen them."""
        hashes = self.chain.mine(blocks)
        self.at_tip()
        return hashes

    def balance(self) -> dict[str, Any]:
        return self.call("wallet.balance")

    def watched(self, ref: str) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = self.call("chain.watched", {"ref": ref})["outputs"]
        return outputs

    def fund(self, script: bytes, koinu: int, key: str, **params: Any) -> dict[str, Any]:
        value = {"outputs": [{"script": script.hex(), "amount": koinu}], "data": None, "key": key}
        return self.call("tx.fund", {**value, "purpose": "fund", "ref": key, **params})

    def broadcast(self, intent: dict[str, Any]) -> dict[str, Any]:
        return self.call("tx.broadcast", {"id": intent["id"]})

    def intent(self, intent: dict[str, Any]) -> dict[str, Any]:
        return self.call("tx.status", {"id": intent["id"]})

    def stop_core(self) -> None:
        """kill -9 of the node that flopd uses."""
        self.chain.core.kill()

    def start_core(self) -> None:
        """Start it again; flopd learns of a new port by a restart."""
        old = self.chain.core.port
        self.chain.core.start()  # type: ignore[attr-defined]
        assert self.chain.core.port == old or isinstance(self.chain, DevTestChain)

    def faults(self, mode: str, method: str | None = None, count: int | None = None) -> None:
        """Let dux-devchain misbehave."""
        self.chain.call("devchain.fault", {"mode": mode, "method": method, "count": count})


ARBITER = pubkey_of(b"\x0a" * 32)
OTHER = b"\x0b" * 32
"""The secret of the other side in these tests."""


def escrow(provider: bytes, buyer: bytes, lock_height: int = 100_000) -> tuple[EscrowTerms, bytes]:
    """A channel's terms, and the output script that pays to it."""
    terms = EscrowTerms(provider, buyer, ARBITER, lock_height)
    return terms, p2sh_script(terms.script())


def address(chain: TestChain, script: bytes) -> str:
    found = address_of(script, chain.core.params)
    assert found is not None
    return found


def coins(koinu: int) -> float:
    return koinu / COIN


def log_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The JSON lines of a daemon's log."""
    return [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]
