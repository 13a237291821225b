"""RPC calls about raw transactions: Core's rpc/rawtransaction.cpp."""

from typing import Any

from btclib.exceptions import BTClibException, ScriptErrorCode
from btclib.tx import OutPoint, Tx, TxIn, TxOut

from duxcommon.coin import script as coin_script
from duxcommon.coin.tx import serialize_tx
from duxcommon.errors import DuxError

from . import errors, jsonio, policy, rules, spending, validate
from .errors import RpcError
from .registry import Call, command, kind_name
from .render import tx_json
from .rpc_chain import block_hash, find_block, output_script
from .store import Coin
from .validate import MissingInputs, Reject, outpoint

GUEST_INPUTS = 250
"""Signing and checking take time with the square of the inputs, and nobody else is served meanwhile."""
_NOT_FOUND_FLOPCOIN = (
    "No such mempool transaction. Use -txindex to enable blockchain transaction queries. "
    "Use gettransaction for wallet transactions."
)
_NOT_FOUND_MODERN = (
    "No such mempool transaction. Use -txindex or provide a block hash to enable blockchain transaction queries. "
    "Use gettransaction for wallet transactions."
)


@command("sendrawtransaction", "Rawtransactions", dialects=("flopcoin",), strict=True)
def sendrawtransaction(call: Call, hexstring: str, allowhighfees: bool = False) -> str:
    """Take a signed transaction into the mempool; its id."""
    return _send(call, hexstring, allowhighfees)


@command("sendrawtransaction", "Rawtransactions", dialects=("modern",), strict=True)
def sendrawtransaction_modern(call: Call, hexstring: str, maxfeerate: Any = None) -> str:
    """Take a signed transaction into the mempool; its id. A `maxfeerate` of 0 lifts the guard against high fees."""
    return _send(call, hexstring, maxfeerate is not None and jsonio.amount(maxfeerate) == 0)


def _send(call: Call, text: str, allow_high_fees: bool) -> str:
    tx = _decode(call, text)
    txid = tx.id
    node = call.node
    # Core looks the outputs up, not the transaction: one that is wholly spent is unknown to it.
    if txid not in node.mempool:
        if node.store.any_coin(txid) is not None:
            message = "Transaction already in block chain" if call.modern else "transaction already in block chain"
            raise RpcError(errors.ALREADY_IN_CHAIN, message)
        try:
            node.accept(tx, allow_high_fees=allow_high_fees)
        except MissingInputs:
            message = "bad-txns-inputs-missingorspent" if call.modern else "Missing inputs"
            raise RpcError(errors.TRANSACTION, message) from None
        except Reject as reject:
            raise _rejection(call, reject) from None
    return txid.hex()


def _decode(call: Call, text: str, *, unfunded: bool = False) -> Tx:
    if call.guest is not None and len(text) > 2 * policy.MAX_STANDARD_SIZE:
        raise RpcError(errors.TOO_MUCH, f"a user's transaction has at most {policy.MAX_STANDARD_SIZE} bytes")
    try:
        tx = validate.parse_tx(jsonio.unhex(text), unfunded=unfunded)
    except (ValueError, BTClibException):
        hint = ". Make sure the tx has at least one input." if call.modern and not unfunded else ""
        raise RpcError(errors.DESERIALIZATION, f"TX decode failed{hint}") from None
    return _within_bounds(call, tx)


def _within_bounds(call: Call, tx: Tx) -> Tx:
    if call.guest is not None and len(tx.vin) > GUEST_INPUTS:
        text = f"a user's transaction has at most {GUEST_INPUTS} inputs: send less, or in several parts"
        raise RpcError(errors.TOO_MUCH, text)
    return tx


def _rejection(call: Call, reject: Reject) -> RpcError:
    if not call.modern:
        return RpcError(errors.TRANSACTION_REJECTED, f"{reject.code}: {reject.reason}")
    if reject.code == validate.DUPLICATE:
        return RpcError(errors.TRANSACTION, "bad-txns-inputs-missingorspent")
    if reject.code == validate.HIGH_FEE:
        text = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"
        return RpcError(errors.TRANSACTION, text)
    text = f"{reject.reason}, {reject.debug}" if reject.debug else reject.reason
    return RpcError(errors.TRANSACTION_REJECTED, text)


@command("getrawtransaction", "Rawtransactions", dialects=("flopcoin",))
def getrawtransaction(call: Call, txid: str, verbose: bool | int = False) -> Any:
    """A transaction of the mempool, or of a block while one of its outputs is unspent (there is no index)."""
    wanted = block_hash(txid, "parameter 1")
    entry = call.node.mempool.get(wanted)
    if entry is not None:
        return _shown(call, entry.tx, verbose, None)
    coin = call.node.store.any_coin(wanted)
    block = None if coin is None or coin.height is None else call.node.store.block_at(coin.height)
    if block is None:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, _NOT_FOUND_FLOPCOIN)
    return _in_block(call, wanted, block.hash, verbose)


@command("getrawtransaction", "Rawtransactions", dialects=("modern",))
def getrawtransaction_modern(call: Call, txid: str, verbose: bool | int = False, blockhash: str | None = None) -> Any:
    """A transaction of the mempool, or of the block that is named (there is no index)."""
    wanted = block_hash(txid, "parameter 1")
    if blockhash is not None:
        block = find_block(call, blockhash)
        shown = _in_block(call, wanted, block.hash, verbose)
        return {"in_active_chain": block.active, **shown} if verbose else shown
    entry = call.node.mempool.get(wanted)
    if entry is None:
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, _NOT_FOUND_MODERN)
    return _shown(call, entry.tx, verbose, None)


def _in_block(call: Call, wanted: bytes, where: bytes, verbose: bool | int) -> Any:
    for tx, txid, _ in call.node.transactions(where):
        if txid == wanted:
            return _shown(call, tx, verbose, where)
    text = "No such transaction found in the provided block. Use gettransaction for wallet transactions."
    raise RpcError(errors.INVALID_ADDRESS_OR_KEY, text)


def _shown(call: Call, tx: Tx, verbose: bool | int, where: bytes | None) -> Any:
    if not verbose:
        return serialize_tx(tx).hex()
    shown = tx_json(tx, call.modern)
    shown["hex"] = serialize_tx(tx).hex()
    block = None if where is None else call.node.store.block(where)
    if block is not None:
        shown["blockhash"] = block.hash.hex()
        shown["confirmations"] = call.node.tip.height - block.height + 1 if block.active else 0
        shown["time"] = shown["blocktime"] = block.time
    return shown


@command("generateblock", "Generating")
def generateblock(call: Call, output: str, transactions: list[Any]) -> dict[str, str]:
    """Make one block of these transactions alone: ids of the mempool, or hex, also of what would not relay.

    Modern Cores have it; here both dialects do, to make the blocks that a miner could make against the mempool.
    """
    script = output_script(output, "Error: Invalid address or descriptor")
    txs = [_chosen(call, str(item)) for item in transactions]
    try:
        return {"hash": call.node.mine_these(script, txs).hex()}
    except Reject as reject:
        text = f"{reject.reason}, {reject.debug}" if reject.debug else reject.reason
        raise RpcError(errors.TRANSACTION, f"TestBlockValidity failed: {text}") from None


def _chosen(call: Call, item: str) -> Tx:
    if len(item) == 64:
        entry = call.node.mempool.get(block_hash(item))
        if entry is None:
            raise RpcError(errors.INVALID_ADDRESS_OR_KEY, f"Transaction {item} not in mempool.")
        return entry.tx
    try:
        return _decode(call, item)
    except RpcError:
        text = f"Transaction decode failed for {item[:80]}. Make sure the tx has at least one input."
        raise RpcError(errors.DESERIALIZATION, text) from None


@command("createrawtransaction", "Rawtransactions", strict=True)
def createrawtransaction(call: Call, inputs: list[Any], outputs: Any, locktime: int = 0) -> str:
    """An unsigned transaction from outpoints and {address: amount} or {"data": hex} (modern: also a list of those)."""
    if not 0 <= locktime <= 0xFFFFFFFF:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, locktime out of range")
    vin = [_unsigned_input(call, given, _LOCKABLE if locktime else _FINAL) for given in inputs]
    pairs = list(outputs.items()) if isinstance(outputs, dict) else [_pair(item) for item in _list(call, outputs)]
    vout: list[TxOut] = []
    seen: set[str] = set()
    for key, value in pairs:
        if key == "data":
            try:
                data = jsonio.unhex(value)
            except (TypeError, ValueError):
                raise RpcError(errors.INVALID_PARAMETER, "Data must be hexadecimal string") from None
            vout.append(TxOut(0, coin_script.op_return_script(data), check_validity=False))
            continue
        if key in seen:
            raise RpcError(errors.INVALID_PARAMETER, f"Invalid parameter, duplicated address: {key}")
        seen.add(key)
        vout.append(
            TxOut(
                jsonio.amount(value), output_script(key, f"Invalid Flopcoin address: {key[:80]}"), check_validity=False
            )
        )
    return serialize_tx(Tx(2 if call.modern else 1, locktime, vin, vout, check_validity=False)).hex()


def _unsigned_input(call: Call, given: Any, default: int) -> TxIn:
    txid, vout = outpoint_of(call, given)
    sequence = given.get("sequence", default)
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence <= _FINAL:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, sequence number is out of range")
    return TxIn(OutPoint(txid, vout, check_validity=False), b"", sequence, check_validity=False)


def _list(call: Call, outputs: Any) -> list[Any]:
    if not call.modern:
        raise RpcError(errors.TYPE, f"Expected type object, got {kind_name(outputs)}")
    if not isinstance(outputs, list):
        raise RpcError(errors.MISC, "JSON value is not an array as expected")
    return outputs


def _pair(item: Any) -> tuple[str, Any]:
    if not isinstance(item, dict) or len(item) != 1:
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, key-value pair must contain exactly one key")
    return next(iter(item.items()))


def outpoint_of(call: Call, given: Any) -> tuple[bytes, int]:
    """(txid, vout) of a JSON object; raises RpcError with Core's texts."""
    if not isinstance(given, dict):
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, expected object")
    txid, vout = given.get("txid"), given.get("vout")
    if not isinstance(txid, str):
        if call.modern:
            raise RpcError(errors.MISC, "JSON value is not a string as expected")
        raise RpcError(errors.INVALID_PARAMETER, "txid must be hexadecimal string (not '')")
    if isinstance(vout, bool) or not isinstance(vout, int):
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, missing vout key")
    if not 0 <= vout <= 0xFFFFFFFF:
        text = "vout cannot be negative" if call.modern else "vout must be positive"
        raise RpcError(errors.INVALID_PARAMETER, f"Invalid parameter, {text}")
    return block_hash(txid, "txid"), vout


_FINAL = 0xFFFFFFFF
_LOCKABLE = 0xFFFFFFFE
_FUND_KEYS = {
    "changeAddress": str,
    "changePosition": int,
    "includeWatching": bool,
    "lockUnspents": bool,
    "reserveChangeKey": bool,
    "feeRate": None,
    "subtractFeeFromOutputs": list,
}


@command("fundrawtransaction", "Rawtransactions", strict=True)
def fundrawtransaction(call: Call, hexstring: str, options: dict[str, Any] | bool | None = None) -> dict[str, Any]:
    """Add inputs and change from the wallet.

    options: changeAddress, changePosition, includeWatching, lockUnspents, feeRate (coins for 1000 bytes),
    subtractFeeFromOutputs (positions).
    """
    tx = _decode(call, hexstring, unfunded=True)
    if not tx.vout:
        raise RpcError(errors.INVALID_PARAMETER, "TX must have at least one output")
    given: dict[str, Any] = {"includeWatching": options} if isinstance(options, bool) else options or {}
    try:
        funded, fee, position = spending.fund(call.node, call.wallet, tx, _fund_options(call, given, len(tx.vout)))
    except spending.CannotFund as error:
        raise RpcError(errors.WALLET if call.modern else errors.INTERNAL, str(error)) from None
    _within_bounds(call, funded)
    return {"hex": serialize_tx(funded).hex(), "changepos": position, "fee": jsonio.Amount(fee)}


def _fund_options(call: Call, given: dict[str, Any], outputs: int) -> spending.FundOptions:
    for key, value in given.items():
        if key not in _FUND_KEYS and not (call.modern and key == "change_type"):
            raise RpcError(errors.TYPE, f"Unexpected key {key}")
        kind = _FUND_KEYS.get(key)
        if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise RpcError(errors.TYPE, f"Expected type {kind.__name__} for {key}, got {kind_name(value)}")
    position = given.get("changePosition")
    if position is not None and not 0 <= position <= outputs:
        raise RpcError(errors.INVALID_PARAMETER, "changePosition out of bounds")
    subtract = given.get("subtractFeeFromOutputs", [])
    if len(set(subtract)) != len(subtract):
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, duplicated position")
    if any(not isinstance(index, int) or not 0 <= index < outputs for index in subtract):
        raise RpcError(errors.INVALID_PARAMETER, "Invalid parameter, position too large")
    change = given.get("changeAddress")
    try:
        change_script = None if change is None else coin_script.script_of(change, rules.PARAMS)
    except DuxError:
        text = f"{'Change address' if call.modern else 'changeAddress'} must be a valid flopcoin address"
        raise RpcError(errors.INVALID_ADDRESS_OR_KEY, text) from None
    return spending.FundOptions(
        rate=jsonio.amount(given["feeRate"]) if "feeRate" in given else spending.DEFAULT_RATE,
        change_script=change_script,
        change_position=position,
        lock=given.get("lockUnspents", False),
        subtract_from=subtract,
        include_watching=given.get("includeWatching", False),
    )


@command("signrawtransaction", "Rawtransactions", dialects=("flopcoin",), strict=True)
def signrawtransaction(
    call: Call,
    hexstring: str,
    prevtxs: list[Any] | None = None,
    privkeys: list[Any] | None = None,
    sighashtype: str = "ALL",
) -> dict[str, Any]:
    """Sign the P2PKH inputs with the wallet's keys (or only with the keys given); other inputs stay as they are."""
    _only_all(sighashtype)
    secret_of = _wallet_secrets(call) if privkeys is None else _given_secrets(privkeys)
    return _signed(call, hexstring, prevtxs, secret_of)


@command("signrawtransactionwithwallet", "Wallet", dialects=("modern",), strict=True)
def signrawtransactionwithwallet(
    call: Call, hexstring: str, prevtxs: list[Any] | None = None, sighashtype: str = "ALL"
) -> dict[str, Any]:
    """Sign the P2PKH inputs with the wallet's keys; other inputs stay as they are."""
    _only_all(sighashtype)
    return _signed(call, hexstring, prevtxs, _wallet_secrets(call))


def _only_all(sighashtype: str) -> None:
    if sighashtype != "ALL":
        raise RpcError(errors.INVALID_PARAMETER, "Invalid sighash param")


def _wallet_secrets(call: Call) -> Any:
    wallet = call.wallet

    return lambda script: call.node.wallets.secret(wallet, script)


def _given_secrets(texts: list[Any]) -> Any:
    secrets: dict[bytes, bytes] = {}
    for text in texts:
        try:
            secret = coin_script.secret_of(str(text), rules.PARAMS)
        except DuxError:
            raise RpcError(errors.INVALID_ADDRESS_OR_KEY, "Invalid private key") from None
        secrets[coin_script.p2pkh_script(coin_script.pubkey_of(secret))] = secret
    return secrets.get


def _signed(call: Call, text: str, prevtxs: list[Any] | None, secret_of: Any) -> dict[str, Any]:
    tx = _decode(call, text)
    told = {outpoint_of(call, item): _told_coin(item) for item in prevtxs or []}
    coins = [told.get(outpoint(given)) or call.node.coin(*outpoint(given)) for given in tx.vin]
    problems = [_worded(call, problem) for problem in spending.sign(tx, coins, secret_of)]
    shown: dict[str, Any] = {"hex": serialize_tx(tx).hex(), "complete": not any(problems)}
    wrong = [
        {
            "txid": given.prev_out.tx_id.hex(),
            "vout": given.prev_out.vout,
            **({"witness": []} if call.modern else {}),
            "scriptSig": given.script_sig.hex(),
            "sequence": given.sequence,
            "error": problem,
        }
        for given, problem in zip(tx.vin, problems, strict=True)
        if problem is not None
    ]
    if wrong:
        shown["errors"] = wrong
    return shown


def _worded(call: Call, problem: str | None) -> str | None:
    if call.modern and problem == ScriptErrorCode.INVALID_STACK_OPERATION.description:
        return "Unable to sign input, invalid stack size (possibly missing key)"
    return problem


def _told_coin(item: Any) -> Coin:
    script = item.get("scriptPubKey")
    if not isinstance(script, str):
        raise RpcError(errors.TYPE, "Missing scriptPubKey")
    try:
        return Coin(jsonio.amount(item.get("amount", 0)), jsonio.unhex(script), None, False)
    except ValueError:
        raise RpcError(errors.DESERIALIZATION, "scriptPubKey must be hexadecimal string") from None
