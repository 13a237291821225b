"""Start a dux-devchain (or a litecoind in regtest) of a test's own, and talk to it as its clients do."""

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from bitcoinrpc.authproxy import AuthServiceProxy
from btclib.tx import Tx

from duxcommon.coin.params import DEVNET, LITECOIN_REGTEST, ChainParams
from duxcommon.coin.script import address_of, p2pkh_script, pubkey_of, script_of, wif_of
from duxcommon.coin.tx import Coin, make_tx, p2pkh_script_sig, parse_tx, sign_input, with_script_sigs
from duxcommon.money import COIN

LITECOIND = Path("/usr/lib/litecoin/litecoind")  # the one on PATH is a wrapper script
START_S = 60.0


class Refused(Exception):
    """An error reply: Core's code and message, and the HTTP status it came with."""

    def __init__(self, error: dict[str, Any], status: int) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.status = status


class Wallet:
    """Calls to one wallet of a node; any RPC method is a method here."""

    def __init__(self, core: "Core", name: str | None) -> None:
        self.core = core
        self.name = name

    def __call__(self, method: str, *params: Any) -> Any:
        return self.core.call(method, *params, wallet=self.name)

    def __getattr__(self, method: str) -> Any:
        return lambda *params: self(method, *params)

    def sign(self, raw: str) -> dict[str, Any]:
        method = "signrawtransactionwithwallet" if self.core.dialect == "modern" else "signrawtransaction"
        answer: dict[str, Any] = self(method, raw)
        return answer

    def address(self, label: str = "") -> str:
        answer: str = self("getnewaddress", label, *(["legacy"] if self.core.dialect == "modern" else []))
        return answer

    def funded(self, outputs: dict[str, str], **options: Any) -> dict[str, Any]:
        """A funded and signed transaction: hex, fee, changepos."""
        funded = self("fundrawtransaction", self("createrawtransaction", [], outputs), options)
        signed = self.sign(funded["hex"])
        assert signed["complete"] is True, signed
        return {**funded, "hex": signed["hex"]}

    def pay(self, outputs: dict[str, str], **options: Any) -> str:
        """Fund, sign and send; the transaction's id."""
        txid: str = self("sendrawtransaction", self.funded(outputs, **options)["hex"])
        return txid


class Core:
    """A process that speaks Core's RPC."""

    dialect = "modern"
    params: ChainParams
    process: subprocess.Popen[bytes]
    port: int
    cookie: Path
    log: Path

    def call(self, method: str, *params: Any, wallet: str | None = None, timeout: float = 120.0) -> Any:
        status, body = self.http(json.dumps({"id": 1, "method": method, "params": params}), wallet, timeout)
        answer = json.loads(body, parse_float=Decimal)
        assert set(answer) == {"result", "error", "id"}
        if answer["error"] is not None:
            raise Refused(answer["error"], status)
        return answer["result"]

    def http(self, body: str | bytes, wallet: str | None = None, timeout: float = 120.0) -> tuple[int, bytes]:
        """One POST with the cookie; status and body."""
        token = base64.b64encode(self.cookie.read_bytes()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        path = "/" if wallet is None else f"/wallet/{wallet}"
        try:
            connection.request("POST", path, body, {"Authorization": f"Basic {token}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def proxy(self, wallet: str | None = None) -> Any:
        """python-bitcoinrpc, as flopd uses it."""
        path = "/" if wallet is None else f"/wallet/{wallet}"
        return AuthServiceProxy(f"http://{self.cookie.read_text()}@127.0.0.1:{self.port}{path}", timeout=60)

    def wallet(self, name: str | None = None) -> Wallet:
        return Wallet(self, name)

    def script(self, address: str) -> bytes:
        return script_of(address, self.params)

    def wif(self, secret: bytes) -> str:
        return wif_of(secret, self.params)

    def height(self) -> int:
        height: int = self.call("getblockcount")
        return height

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


class Devchain(Core):
    """dux-devchain on a folder of its own."""

    params = DEVNET

    def __init__(self, folder: Path, dialect: str = "flopcoin", *options: str) -> None:
        self.folder = folder
        self.dialect = dialect
        self.options = options
        self.cookie = folder / ".cookie"
        self.log = folder.with_name(folder.name + ".log")
        self.start()

    def start(self) -> None:
        """Start it, or start it again on the same folder."""
        address = self.folder / "rpc.json"
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "dux_devnet.chain", "--datadir", str(self.folder)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--dialect", self.dialect, *self.options], stderr=log, stdin=subprocess.DEVNULL
            )
        end = time.monotonic() + START_S
        while not address.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, "dux-devchain did not start in time"
            time.sleep(0.01)
        self.port = json.loads(address.read_text())["port"]

    def new_wallet(self, name: str, coins: str | None = None) -> Wallet:
        """A wallet, with coins from the faucet in a block when asked."""
        if self.dialect == "modern":
            self.call("createwallet", name)
        made = self.wallet(name)
        if coins is not None:
            self.call("faucet", made.address(), coins)
            self.mine(1)
        return made

    def mine(self, blocks: int) -> list[str]:
        """Blocks that pay nobody in the test."""
        hashes: list[str] = self.call("generatetoaddress", blocks, NOBODY)
        return hashes

    def close(self) -> None:
        """Stop it and look for faults in its log, which no test may cause."""
        code = self.stop()
        text = self.log.read_text()
        self.log.unlink()
        assert not [word for word in ("ERROR", "Traceback") if word in text], text
        assert code in (0, -signal.SIGKILL), (code, text)


NOBODY = "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNG"
"""The address of a key hash of zeros."""


SECRETS = [bytes([number]) * 32 for number in (11, 12, 13)]
OWN = p2pkh_script(pubkey_of(SECRETS[0]))
"""The script of a key that tests hold themselves."""


def given_coin(chain: Devchain, script: bytes = OWN, amount: int = 10 * COIN) -> Coin:
    """A confirmed output of a script that the test can spend by hand."""
    address = address_of(script, chain.params)
    txid = chain.call("faucet", address, f"{amount // COIN}.{amount % COIN:08d}")
    (block,) = chain.mine(1)
    raw = chain.call("getrawtransaction", txid, False, *([block] if chain.dialect == "modern" else []))
    vout = [output.script_pub_key.script for output in parse_tx(raw).vout].index(script)
    return Coin(txid, vout, amount)


def spend(
    coin: Coin,
    outputs: list[tuple[bytes, int]],
    *,
    lock_time: int = 0,
    sequence: int = 0xFFFFFFFF,
    change: Callable[[Tx], None] = lambda tx: None,
) -> Tx:
    """A signed spend of an OWN coin."""
    tx = make_tx([(coin.txid, coin.vout)], outputs, lock_time=lock_time, sequence=sequence)
    change(tx)
    return with_script_sigs(tx, [p2pkh_script_sig(sign_input(tx, 0, OWN, SECRETS[0]), pubkey_of(SECRETS[0]))])


class Litecoind(Core):
    """Debian's litecoind in regtest, with Flopcoin's fee floor."""

    def __init__(self, folder: Path) -> None:
        self.params = LITECOIN_REGTEST
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.cookie = folder / "regtest" / ".cookie"
        options = ["-regtest", "-server", "-listen=0", "-vbparams=mweb:-2:0", "-addresstype=legacy"]
        options += ["-changetype=legacy", "-fallbackfee=0.01", "-minrelaytxfee=0.01", "-printtoconsole=0"]
        self.process = subprocess.Popen([LITECOIND, *options, f"-datadir={folder}", f"-rpcport={self.port}"])
        end = time.monotonic() + 60
        while True:
            try:
                self.call("getblockcount")
                return
            except (OSError, Refused, http.client.HTTPException):
                assert self.process.poll() is None, "litecoind did not start"
                assert time.monotonic() < end, "litecoind did not answer in a minute"
                time.sleep(0.05)
