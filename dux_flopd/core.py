"""Flopcoin Core's JSON-RPC through python-bitcoinrpc, made safe for a daemon that must never lose track of money.

python-bitcoinrpc's connection is dead for good after one idle timeout, a 401, a 503 or a second thread, and it
blocks. So: four worker threads, each with its own connection, renewed after 20 idle seconds and dropped on any
error; the cookie read and the genesis block compared at each connect; only calls that may be repeated are repeated.
Both dialects are spoken (Flopcoin 2.0, of the Bitcoin Core 0.14 family, and modern Cores); which one is found out
by asking, because version numbers of forks mean nothing.
"""

import asyncio
import http.client
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from bitcoinrpc.authproxy import AuthServiceProxy, JSONRPCException

from duxcommon.errors import ChainAuthFailed, ChainDown, ChainFault, ChainWalletLocked, WrongChain
from duxcommon.money import COIN

from .core_owner import CheckedConnection
from .settings import CoreSettings

Dialect = Literal["flopcoin", "modern"]
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
OutpointKey = tuple[str, int]
"""A transaction id and an output number."""

CALLS = (
    "createwallet",  # modern only
    "faucet",  # dux-devchain only
    "fundrawtransaction",
    "getaddressinfo",  # modern only
    "getbestblockhash",
    "getblock",
    "getblockchaininfo",
    "getblockhash",
    "getnetworkinfo",
    "getnewaddress",
    "gettransaction",
    "importaddress",
    "importprivkey",
    "listsinceblock",
    "listtransactions",
    "listunspent",
    "loadwallet",  # modern only
    "lockunspent",
    "sendrawtransaction",
    "signrawtransaction",  # Flopcoin only
    "signrawtransactionwithwallet",  # modern only
    "validateaddress",  # Flopcoin only
)
"""Every method of Core that this module calls."""

_MAY_REPEAT = frozenset(CALLS) - {"createwallet", "faucet", "loadwallet", "getnewaddress"}
"""Calls that do no harm when an answer was lost and they are made again (sending the same transaction included)."""

WORKERS = 4
"""Core has four RPC threads by default; more calls at once would only be queued or refused (503)."""
IDLE_S = 20.0
"""Core closes connections that are idle for 30 s; ours are renewed before that."""
RESCAN_TIMEOUT_S = 3600
MAX_CONFIRMATIONS = 9_999_999
_TOO_MANY = 10**12
"""More coins than there can be; beyond, decimal arithmetic would round."""

METHOD_NOT_FOUND, WARMUP, WALLET_MISSING, WALLET_LOCKED, WALLET_FAULT = -32601, -28, -18, -13, -4
_HTTP_STATUS = re.compile(r"'(\d{3}) ")
_NUMBERED = re.compile(r"^\d+: ")

# Its DEBUG log holds every parameter, private keys included.
logging.getLogger("BitcoinRPC").setLevel(logging.WARNING)


def to_koinu(value: Any) -> int:
    """Koinu of an amount in a reply (a decimal number of coins); raises ChainFault when it is not exact."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        coins = Decimal(value)
        if coins.is_finite() and abs(coins) < _TOO_MANY and coins * COIN % 1 == 0:
            return int(coins * COIN)
    raise ChainFault(f"Core answered {str(value)[:40]!r} where an amount belongs")


def to_coins(koinu: int) -> str:
    """An amount as a string: the library would send a Decimal as a float and round 9999999999.99999999 up."""
    return f"{koinu // COIN}.{koinu % COIN:08d}"


@dataclass(frozen=True, slots=True)
class ChainInfo:
    height: int
    headers: int
    best: str
    median_time: int
    """Unix seconds; about six blocks behind the tip's own."""


@dataclass(frozen=True, slots=True)
class Coin:
    """An unspent output of the wallet."""

    txid: str
    vout: int
    amount: int
    confirmations: int
    script: bytes
    """What it pays to."""


@dataclass(frozen=True, slots=True)
class Funded:
    """A transaction with inputs and change added by Core, unsigned."""

    hex: str
    fee: int
    change: int
    """Output number of the change; -1 without."""


@dataclass(frozen=True, slots=True)
class WalletTx:
    """A transaction as the wallet sees it."""

    txid: str
    hex: str
    change: int
    """Net change of the wallet's balance, fee included; watched scripts do not count."""
    fee: int
    confirmations: int
    """Negative when the chain holds a conflicting transaction."""
    time: int
    label: str


@dataclass(frozen=True, slots=True)
class _Link:
    """One thread's connection."""

    proxy: Any
    connection: http.client.HTTPConnection


def _shaped(function: F) -> F:
    """An answer of another form than Core's is Core's fault and not ours."""

    @wraps(function)
    async def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ChainFault(f"Core's answer to {function.__name__} has another form than expected") from error

    return cast(F, checked)


class Core:
    """Typed, asynchronous calls to one Core, all of whose replies are checked and turned into integers.

    Raises ChainDown (not reachable, or still starting), ChainAuthFailed, WrongChain, ChainWalletLocked, and
    ChainFault for every other refusal, with Core's `code` and `reason` in its details.
    """

    def __init__(self, settings: CoreSettings, genesis: str) -> None:
        self.settings = settings
        self.genesis = genesis
        self._dialect: Dialect | None = None
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="core")
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._closed = False
        parts = urlsplit(settings.url)
        self._path = parts.path or "/"
        # Errors name this: the name of a wallet in the path is as good as a key to it on a trial chain.
        self._where = f"{parts.scheme}://{parts.netloc}/"
        self._wallet = self._path.removeprefix("/wallet/") if self._path.startswith("/wallet/") else ""

    # --- transport -------------------------------------------------------------------------------------------

    async def call(self, method: str, *params: Any, timeout_s: int | None = None) -> Any:
        """Core's answer to one call; repeated twice after a lost connection where that does no harm."""
        delays = (0.05, 0.5) if method in _MAY_REPEAT else ()
        for delay in delays:
            try:
                return await self._once(method, params, timeout_s)
            except ChainDown as error:
                if error.details.get("starting"):
                    raise
                await asyncio.sleep(delay)
        return await self._once(method, params, timeout_s)

    async def _once(self, method: str, params: tuple[Any, ...], timeout_s: int | None) -> Any:
        if self._closed:
            raise ChainDown("flopd is stopping")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._blocking, method, params, timeout_s)
        except ChainFault as error:
            if error.details.get("code") != WALLET_MISSING or not self._wallet:
                raise
        await self._ensure_wallet()
        return await loop.run_in_executor(self._pool, self._blocking, method, params, timeout_s)

    async def close(self) -> None:
        """Cut all connections, which also ends calls that hang."""
        self._closed = True
        for connection in list(self._open):
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def _blocking(self, method: str, params: tuple[Any, ...], timeout_s: int | None) -> Any:
        try:
            return self._attempt(method, params, timeout_s)
        except ChainAuthFailed:
            # A restarted Core has a new cookie; the refused call was not carried out, so any may be repeated.
            return self._attempt(method, params, timeout_s)

    def _attempt(self, method: str, params: tuple[Any, ...], timeout_s: int | None) -> Any:
        link = self._link(timeout_s)
        try:
            return self._raw(link, method, params)
        finally:
            # An ordinary refusal leaves the connection sound; anything worse has closed it.
            sound = link.connection in self._open and timeout_s is None
            self._local.kept = (link, time.monotonic()) if sound else None
            if not sound:
                self._drop(link)

    def _link(self, timeout_s: int | None) -> _Link:
        """This thread's connection, made anew when it was idle for long or the call needs more time."""
        kept: tuple[_Link, float] | None = getattr(self._local, "kept", None)
        if kept is not None:
            if timeout_s is None and time.monotonic() - kept[1] < IDLE_S:
                return kept[0]
            self._local.kept = None
            self._drop(kept[0])
        link = self._connect(timeout_s or self.settings.timeout_s)
        try:
            genesis = self._raw(link, "getblockhash", (0,))
            if genesis != self.genesis:
                raise WrongChain(
                    f"Core at {self._where} is on the chain with genesis {str(genesis)[:64]}, "
                    f"this network needs {self.genesis}"
                )
        except BaseException:
            self._drop(link)
            raise
        return link

    def _connect(self, timeout_s: int) -> _Link:
        parts = urlsplit(self.settings.url)
        host, port = parts.hostname or "", parts.port or 0
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            ca_file = self.settings.ca_file
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            connection = CheckedConnection(host, port, timeout=timeout_s, run_by=self.settings.run_by)
        user, password = self._login()
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        url = f"{parts.scheme}://{user}:{password}@{netloc}{self._path}"
        self._open.add(connection)
        return _Link(AuthServiceProxy(url, timeout=timeout_s, connection=connection), connection)

    def _login(self) -> tuple[str, str]:
        path = self.settings.cookie or self.settings.password_file
        assert path is not None  # the settings see to it
        text = _first_line(path)
        user, _, password = text.partition(":") if self.settings.cookie else (self.settings.user, "", text)
        if not user or not password or set(user + password) & set("/?#@[] "):
            raise ChainAuthFailed(f"{path} holds no usable password (no spaces and none of / ? # @ [ ] in it)")
        return user, password

    def _drop(self, link: _Link) -> None:
        self._open.discard(link.connection)
        link.connection.close()

    def _raw(self, link: _Link, method: str, params: tuple[Any, ...]) -> Any:
        try:
            result = getattr(link.proxy, method)(*params)
        except JSONRPCException as error:
            self._refused(link, method, error)
        except (OSError, http.client.HTTPException) as error:
            self._drop(link)
            self._dialect = None
            reason = str(error) or type(error).__name__
            raise ChainDown(f"Core at {self._where} can't be reached ({method}): {reason}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._drop(link)
            raise ChainFault(f"Core's answer to {method} can't be read") from error
        return result

    def _refused(self, link: _Link, method: str, error: JSONRPCException) -> None:
        code, message = error.code, _NUMBERED.sub("", str(error.message or ""))
        if code == -342:  # the library's number for an answer that is not JSON
            self._drop(link)
            status = _HTTP_STATUS.search(message)
            if status and status[1] in {"401", "403"}:
                raise ChainAuthFailed(f"Core at {self._where} refused the login ({status[1]})") from error
            if status and status[1] == "503":
                raise ChainDown(f"Core at {self._where} is too busy (503)") from error
            raise ChainFault(f"{self._where} answered {method} with something else than JSON-RPC") from error
        if code == WARMUP:
            raise ChainDown(f"Core is starting: {message}", details={"starting": True}) from error
        if code == WALLET_LOCKED:
            raise ChainWalletLocked("Core's wallet is encrypted and locked") from error
        raise ChainFault(
            f"Core refused {method}: {message[:300]}", details={"method": method, "code": code, "reason": message}
        ) from error

    async def _ensure_wallet(self) -> None:
        name = self._wallet
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, self._blocking, "loadwallet", (name,), None)
        except ChainFault as error:
            if "already loaded" in error.message:
                return
            if error.details.get("code") != WALLET_MISSING:
                raise
            # name, private keys enabled, not blank, no passphrase, no reuse flags, and no descriptors: a wallet
            # that can import single keys and addresses.
            arguments = (name, False, False, "", False, False)
            await loop.run_in_executor(self._pool, self._blocking, "createwallet", arguments, None)

    async def dialect(self) -> Dialect:
        """How this Core speaks: asked once per connection by calling a method that only modern Cores have."""
        if self._dialect is None:
            try:
                await self.call("signrawtransactionwithwallet")
            except ChainFault as error:
                if "code" not in error.details:
                    raise
                self._dialect = "flopcoin" if error.details["code"] == METHOD_NOT_FOUND else "modern"
            else:
                raise ChainFault("Core accepted a call without its parameters")
        return self._dialect

    # --- the chain -------------------------------------------------------------------------------------------

    @_shaped
    async def chain_info(self) -> ChainInfo:
        """Height, headers and tip."""
        info = await self.call("getblockchaininfo")
        return ChainInfo(
            _int(info["blocks"]), _int(info["headers"]), str(info["bestblockhash"]), _int(info["mediantime"])
        )

    @_shaped
    async def network_info(self) -> tuple[str, int]:
        """Core's subversion string and its number of peers."""
        info = await self.call("getnetworkinfo")
        return str(info["subversion"]), _int(info["connections"])

    async def best_hash(self) -> str:
        """Hash of the tip."""
        return str(await self.call("getbestblockhash"))

    async def block_hash(self, height: int) -> str | None:
        """Hash of the block at `height`, or None above the tip."""
        try:
            return str(await self.call("getblockhash", height))
        except ChainFault as error:
            if error.details.get("code") == -8:
                return None
            raise

    @_shaped
    async def block(self, block_hash: str) -> bytes:
        """A whole serialised block."""
        return bytes.fromhex(await self.call("getblock", block_hash, False))

    async def send(self, raw: str) -> str:
        """Hand a signed transaction to Core's mempool; the same bytes may be sent any number of times."""
        # No second argument: it is a boolean in one dialect and a fee rate in the other.
        return str(await self.call("sendrawtransaction", raw))

    async def faucet(self, address: str, koinu: int) -> str:
        """Coins out of nothing, where the chain has a faucet; the transaction's id."""
        return str(await self.call("faucet", address, to_coins(koinu)))

    # --- the wallet ------------------------------------------------------------------------------------------

    @_shaped
    async def coins(self) -> list[Coin]:
        """The wallet's own unspent, unlocked, mature outputs, unconfirmed ones included."""
        found = await self.call("listunspent", 0, MAX_CONFIRMATIONS)
        return [
            Coin(
                *(str(entry["txid"]), _int(entry["vout"]), to_koinu(entry["amount"]), _int(entry["confirmations"])),
                script=bytes.fromhex(entry["scriptPubKey"]),
            )
            for entry in found
            if entry["spendable"]
        ]

    async def lock(self, outpoints: Sequence[OutpointKey]) -> None:
        """Lock outputs one by one; those that are spent or locked already are passed over."""
        await self._lock(outpoints, unlock=False)

    async def unlock(self, outpoints: Sequence[OutpointKey]) -> None:
        """Let outputs be picked again."""
        await self._lock(outpoints, unlock=True)

    async def _lock(self, outpoints: Sequence[OutpointKey], *, unlock: bool) -> None:
        for txid, vout in outpoints:
            try:
                await self.call("lockunspent", unlock, [{"txid": txid, "vout": vout}])
            except ChainFault as error:
                if error.details.get("code") != -8:
                    raise

    @_shaped
    async def fund(self, raw: str, *, change_at: int, fee_rate: int, change_to: str | None = None) -> Funded:
        """Let Core add inputs and at most one change output, at position `change_at`; `fee_rate` in koinu/kB.

        Inputs that are there already are kept. The change goes to the address `change_to`, by default to a new one.
        """
        options: dict[str, Any] = {"changePosition": change_at, "feeRate": to_coins(fee_rate)}
        if change_to is not None:
            options["changeAddress"] = change_to
        elif await self.dialect() == "modern":
            options["change_type"] = "legacy"
        funded = await self.call("fundrawtransaction", raw, options)
        return Funded(str(funded["hex"]), to_koinu(funded["fee"]), _int(funded["changepos"]))

    @_shaped
    async def sign(self, raw: str) -> str:
        """Sign all inputs with the wallet's keys; raises ChainFault when one can't be signed."""
        modern = await self.dialect() == "modern"
        signed = await self.call("signrawtransactionwithwallet" if modern else "signrawtransaction", raw)
        if signed["complete"] is not True:
            raise ChainFault("Core's wallet could not sign every input")
        return str(signed["hex"])

    @_shaped
    async def transaction(self, txid: str) -> WalletTx | None:
        """A transaction that concerns the wallet or a watched script, or None."""
        try:
            # Without watched scripts: what a channel holds is no change of the wallet's balance.
            found = await self.call("gettransaction", txid, False)
        except ChainFault as error:
            if error.details.get("code") == -5:
                return None
            raise
        fee = to_koinu(found.get("fee", 0))
        return WalletTx(
            txid=str(found["txid"]),
            hex=str(found["hex"]),
            change=to_koinu(found["amount"]) + fee,
            fee=-fee,
            confirmations=_int(found["confirmations"]),
            time=_int(found["time"]),
            label=next((str(entry["label"])[:200] for entry in found["details"] if entry.get("label")), ""),
        )

    @_shaped
    async def unconfirmed(self, best: str) -> dict[str, int]:
        """Ids of the wallet's and the watched scripts' transactions above the block `best`, and their confirmations."""
        found = await self.call("listsinceblock", best, 1, True)
        return {str(entry["txid"]): _int(entry["confirmations"]) for entry in found["transactions"]}

    @_shaped
    async def newest(self, count: int) -> list[str]:
        """Transaction ids of the wallet's last `count` entries, newest first (a transaction may have several)."""
        entries = await self.call("listtransactions", "*", count, 0, False)
        return [str(entry["txid"]) for entry in reversed(entries) if "txid" in entry]

    async def new_address(self, label: str) -> str:
        """A fresh address of the wallet to be paid at."""
        if await self.dialect() == "modern":
            return str(await self.call("getnewaddress", label, "legacy"))
        return str(await self.call("getnewaddress", label))

    @_shaped
    async def knows(self, address: str) -> Literal["mine", "watched", "no"]:
        """Whether the wallet can spend from an address, watches it, or neither."""
        modern = await self.dialect() == "modern"
        info = await self.call("getaddressinfo" if modern else "validateaddress", address)
        if info.get("ismine"):
            return "mine"
        return "watched" if info.get("iswatchonly") else "no"

    async def watch(self, address_or_script: str, label: str) -> None:
        """Import a script watch-only, without a rescan: its transactions then survive a crash of Core."""
        try:
            await self.call("importaddress", address_or_script, label, False)
        except ChainFault as error:
            if error.details.get("code") != WALLET_FAULT or "already contains" not in error.message:
                raise

    async def import_key(self, wif: str, label: str, *, rescan: bool) -> None:
        """Give a private key to the wallet; a rescan of the whole chain may take an hour."""
        await self.call("importprivkey", wif, label, rescan, timeout_s=RESCAN_TIMEOUT_S if rescan else None)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        # Core deletes the cookie when it stops.
        if isinstance(error, FileNotFoundError):
            raise ChainDown(f"{path} is not there: Core does not run, or keeps its cookie elsewhere") from error
        raise ChainAuthFailed(f"can't read {path}: {error}") from error


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ChainFault(f"Core answered {str(value)[:40]!r} where a whole number belongs")
