"""RPC calls about a wallet: addresses, coins, locks, imports. Core's rpcwallet.cpp and rpcdump.cpp."""

import time
from typing import Any

from duxcommon.coin import script as coin_script
from duxcommon.errors import DuxError

from . import errors, jsonio, rules, spending, validate
from .errors import RpcError
from .jsonio import Amount
from .registry import Call, command
from .rpc_chain import output_script
from .rpc_tx import outpoint_of
from .users import Refused
from .wallets import SPENDABLE, WATCHED, Owned


@command("createwallet", "Wallet", dialects=("modern",))
def createwallet(
    call: Call,
    wallet_name: str,
    disable_private_keys: bool = False,
    blank: bool = False,
    passphrase: str = "",
    avoid_reuse: bool = False,
    descriptors: bool = False,
    load_on_startup: bool | None = None,
) -> dict[str, Any]:
    """Make a wallet; it is loaded from then on, also after a restart."""
    del load_on_startup, blank
    if disable_private_keys or passphrase or avoid_reuse or descriptors:
        raise RpcError(errors.WALLET, "Only plain wallets with keys exist on this chain")
    if call.node.wallets.find(wallet_name) is not None:
        text = f"Failed to create database path '{wallet_name}'. Database already exists."
        raise RpcError(errors.WALLET, f"Wallet file verification failed. {text}")
    call.node.wallets.create(wallet_name)
    return {"name": wallet_name, "warning": ""}


@command("loadwallet", "Wallet", dialects=("modern",))
def loadwallet(call: Call, filename: str, load_on_startup: bool | None = None) -> dict[str, Any]:
    """Wallets are always loaded here: answers as Core does for one that is loaded, or that does not exist."""
    del load_on_startup
    if call.node.wallets.find(filename) is None:
        text = f"Failed to load database path '{filename}'. Path does not exist."
        raise RpcError(errors.WALLET_NOT_FOUND, f"Wallet file verification failed. {text}")
    text = f"Refusing to load database. Data file '{filename}' is already loaded."
    raise RpcError(errors.WALLET, f"Wallet file verification failed. {text}")


@command("getwalletinfo", "Wallet")
def getwalletinfo(call: Call) -> dict[str, Any]:
    """Balances and size of the wallet."""
    wallet = call.wallet
    sums = spending.balances(call.node, wallet)
    db = call.node.wallets.db
    count = db.execute("SELECT count(*) FROM wallet_txs WHERE wallet = ?", (wallet,)).fetchone()[0]
    created = db.execute("SELECT created FROM wallets WHERE id = ?", (wallet,)).fetchone()[0]
    info: dict[str, Any] = {
        "walletversion": 169900 if call.modern else 130000,
        "balance": Amount(sums.trusted),
        "unconfirmed_balance": Amount(sums.pending),
        "immature_balance": Amount(sums.immature),
        "txcount": count,
        "keypoololdest": created,
        "keypoolsize": 1,
        "paytxfee": Amount(0),
    }
    if call.modern:
        info = {"walletname": call.wallet_name or "", **info, "private_keys_enabled": True, "scanning": False}
    return info


@command("getnewaddress", "Wallet", dialects=("flopcoin",))
def getnewaddress(call: Call, account: str = "") -> str:
    """A fresh address of the wallet."""
    return _new_address(call, account)


@command("getnewaddress", "Wallet", dialects=("modern",))
def getnewaddress_modern(call: Call, label: str = "", address_type: str = "legacy") -> str:
    """A fresh address of the wallet; this chain has no SegWit, so only legacy ones exist."""
    if address_type != "legacy":
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, f"Unknown address type '{address_type}'")
    return _new_address(call, label)


def _new_address(call: Call, label: str) -> str:
    script = call.node.wallets.new_script(call.wallet, label)
    address = coin_script.address_of(script, rules.PARAMS)
    assert address is not None
    return address


@command("getbalance", "Wallet", dialects=("flopcoin",))
def getbalance(call: Call, account: str = "*", minconf: int = 1, include_watchonly: bool = False) -> Amount:
    """What the wallet can spend."""
    return _balance(call, account, minconf, include_watchonly)


@command("getbalance", "Wallet", dialects=("modern",))
def getbalance_modern(call: Call, dummy: str = "*", minconf: int = 0, include_watchonly: bool = False) -> Amount:
    """What the wallet can spend."""
    return _balance(call, dummy, minconf, include_watchonly)


def _balance(call: Call, account: str, minconf: int, include_watchonly: bool) -> Amount:
    if account != "*":
        raise RpcError(errors.INVALID_PARAMETER, 'dummy first argument must be excluded or set to "*".')
    mine = WATCHED if include_watchonly else SPENDABLE
    return Amount(spending.balances(call.node, call.wallet, mine=mine, minconf=minconf).trusted)


@command("listunspent", "Wallet", strict=True)
def listunspent(
    call: Call,
    minconf: int = 1,
    maxconf: int = 9_999_999,
    addresses: list[Any] | None = None,
    include_unsafe: bool = True,
) -> list[dict[str, Any]]:
    """Coins of the wallet that are not locked, watched ones included."""
    wallets, wallet, tip = call.node.wallets, call.wallet, call.node.tip.height
    only = None if addresses is None else {_named_script(str(address)) for address in addresses}
    listed = []
    for coin in spending.unspent(call.node, wallet):
        depth = coin.depth(tip)
        if not minconf <= depth <= maxconf or (only is not None and coin.script not in only):
            continue
        if not include_unsafe and not coin.trusted:
            continue
        owned = wallets.owned(wallet, coin.script)
        shown: dict[str, Any] = {"txid": coin.txid.hex(), "vout": coin.vout}
        address = coin_script.address_of(coin.script, rules.PARAMS)
        if address is not None:
            shown["address"] = address
        if owned is not None and owned.label is not None:
            shown["label" if call.modern else "account"] = owned.label
        shown["scriptPubKey"] = coin.script.hex()
        shown["amount"] = Amount(coin.value)
        shown["confirmations"] = depth
        shown["spendable"] = shown["solvable"] = coin.mine == SPENDABLE
        if call.modern:
            shown["safe"] = coin.trusted
        listed.append(shown)
    return listed


def _named_script(address: str) -> bytes:
    return output_script(address, f"Invalid Flopcoin address: {address[:80]}")


@command("lockunspent", "Wallet", strict=True)
def lockunspent(call: Call, unlock: bool, transactions: list[Any] | None = None) -> bool:
    """Keep coins out of funding (false) or give them back (true; all when none is named); lost on restart."""
    locked = call.node.wallets.locked.setdefault(call.wallet, set())
    if transactions is None:
        if unlock:
            locked.clear()
        return True
    wanted = [outpoint_of(call, item) for item in transactions]
    if call.modern:
        for txid, vout in wanted:
            _check_lockable(call, txid, vout, unlock=unlock, locked=(txid, vout) in locked)
    if call.guest is not None:
        # A lock of any other coin does nothing, and would be kept for nothing.
        wanted = [coin for coin in wanted if call.node.wallets.has_coin(call.wallet, *coin)]
    if unlock:
        locked.difference_update(wanted)
    else:
        locked.update(wanted)
    return True


def _check_lockable(call: Call, txid: bytes, vout: int, *, unlock: bool, locked: bool) -> None:
    """Modern Cores refuse what flopcoind silently takes."""
    known = call.node.wallets.tx(call.wallet, txid)
    if known is None:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, unknown transaction")
    if vout >= len(validate.parse_tx(known.raw).vout):
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, vout index out of bounds")
    row = call.node.wallets.db.execute(
        "SELECT spent FROM wallet_coins WHERE txid = ? AND vout = ? AND wallet = ?", (txid, vout, call.wallet)
    ).fetchone()
    if row is not None and row[0]:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, expected unspent output")
    if unlock and not locked:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, expected locked output")
    if not unlock and locked:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, output already locked")


@command("listlockunspent", "Wallet")
def listlockunspent(call: Call) -> list[dict[str, Any]]:
    """Coins that are kept out of funding."""
    locked = call.node.wallets.locked.get(call.wallet, set())
    return [{"txid": txid.hex(), "vout": vout} for txid, vout in sorted(locked)]


@command("importaddress", "Wallet")
def importaddress(call: Call, address: str, label: str = "", rescan: bool = True, p2sh: bool = False) -> None:
    """Watch an address, or a script given in hex (p2sh: also the P2SH of that script)."""
    wallets, wallet = call.node.wallets, call.wallet
    if rescan and call.guest is not None:
        # Any bytes may be looked for here, also such as stand in every block.
        raise RpcError(errors.TOO_MUCH, "users watch an address from now on: say rescan false")
    scripts = []
    try:
        scripts.append(coin_script.script_of(address, rules.PARAMS))
    except DuxError:
        try:
            raw = jsonio.unhex(address)
        except ValueError:
            raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Invalid Flopcoin address or script") from None
        scripts.append(raw)
        if p2sh:
            scripts.append(coin_script.p2sh_script(raw))
    for script in scripts:
        owned = wallets.owned(wallet, script)
        secret = None if owned is None else owned.secret
        if secret is not None and not call.modern:
            text = "The wallet already contains the private key for this address or script"
            raise RpcError(errors.WALLET, text)
        wallets.add_script(wallet, Owned(script, secret, label, int(time.time())))
    if rescan:
        call.node.rescan(scripts)


@command("importprivkey", "Wallet")
def importprivkey(call: Call, privkey: str, label: str = "", rescan: bool = True) -> None:
    """Own a private key's P2PKH address."""
    try:
        secret = coin_script.secret_of(privkey, rules.PARAMS)
    except DuxError:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Invalid private key encoding") from None
    if rescan:
        _count_rescan(call)
    script = coin_script.p2pkh_script(coin_script.pubkey_of(secret))
    call.node.wallets.add_script(call.wallet, Owned(script, secret, label, int(time.time())))
    if rescan:
        call.node.rescan([script])


def _count_rescan(call: Call) -> None:
    if call.guest is not None:
        try:
            call.guest.rescan()
        except Refused as error:
            raise RpcError(errors.TOO_MUCH, str(error)) from None


@command("validateaddress", "Util", dialects=("flopcoin",))
def validateaddress(call: Call, address: str) -> dict[str, Any]:
    """Whether an address belongs to this chain, and what the wallet knows of it."""
    try:
        script = coin_script.script_of(address, rules.PARAMS)
    except DuxError:
        return {"isvalid": False}
    return {"isvalid": True, "address": address, "scriptPubKey": script.hex(), **_known(call, script)}


@command("validateaddress", "Util", dialects=("modern",))
def validateaddress_modern(call: Call, address: str) -> dict[str, Any]:
    """Whether an address belongs to this chain."""
    try:
        script = coin_script.script_of(address, rules.PARAMS)
    except DuxError:
        return {"isvalid": False}
    is_script = coin_script.is_p2sh(script)
    shown = {"isvalid": True, "address": address, "scriptPubKey": script.hex()}
    return {**shown, "isscript": is_script, "iswitness": False}


@command("getaddressinfo", "Wallet", dialects=("modern",))
def getaddressinfo(call: Call, address: str) -> dict[str, Any]:
    """What the wallet knows of an address."""
    script = output_script(address)
    owned = call.node.wallets.owned(call.wallet, script)
    shown = {"address": address, "scriptPubKey": script.hex(), **_known(call, script), "iswitness": False}
    shown["solvable"] = shown["ismine"]
    shown["ischange"] = owned is not None and owned.label is None
    shown["labels"] = [] if owned is None or owned.label is None else [owned.label]
    return shown


def _known(call: Call, script: bytes) -> dict[str, Any]:
    owned = call.node.wallets.owned(call.wallet, script)
    shown: dict[str, Any] = {
        "ismine": owned is not None and owned.secret is not None,
        "iswatchonly": owned is not None and owned.secret is None,
        "isscript": coin_script.is_p2sh(script),
    }
    if owned is not None and owned.secret is not None:
        shown["pubkey"] = coin_script.pubkey_of(owned.secret).hex()
        shown["iscompressed"] = True
    if owned is not None and not call.modern:
        shown["account"] = owned.label or ""
    if owned is not None:
        shown["timestamp"] = owned.created
    return shown
