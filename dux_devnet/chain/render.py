"""Transactions and scripts as the JSON objects that Core shows."""

from typing import Any

from btclib.script.script import script_to_asm
from btclib.script.solver import get_txn_output_type, solver
from btclib.tx import Tx

from duxcommon.coin import script as coin_script
from duxcommon.coin.tx import serialize_tx

from . import rules, validate
from .jsonio import Amount


def script_json(script: bytes) -> dict[str, Any]:
    """An output script: assembly, hex, type and address."""
    kind, _ = solver(script)
    shown: dict[str, Any] = {"asm": script_to_asm(script), "hex": script.hex()}
    address = coin_script.address_of(script, rules.PARAMS)
    if address is not None:
        shown["reqSigs"] = 1
    shown["type"] = get_txn_output_type(kind)
    if address is not None:
        shown["addresses"] = [address]
    return shown


def tx_json(tx: Tx, modern: bool) -> dict[str, Any]:
    """A decoded transaction."""
    raw = serialize_tx(tx)
    vin: list[dict[str, Any]] = []
    for given in tx.vin:
        if given.is_coinbase:
            vin.append({"coinbase": given.script_sig.hex(), "sequence": given.sequence})
            continue
        shown = {"asm": script_to_asm(given.script_sig), "hex": given.script_sig.hex()}
        txid, vout = validate.outpoint(given)
        vin.append({"txid": txid.hex(), "vout": vout, "scriptSig": shown, "sequence": given.sequence})
    decoded: dict[str, Any] = {
        "txid": tx.id.hex(),
        "hash": tx.hash.hex(),
        "version": tx.version,
        "size": len(raw),
        "vsize": len(raw),
        "locktime": tx.lock_time,
        "vin": vin,
        "vout": [
            {"value": Amount(output.value), "n": n, "scriptPubKey": script_json(output.script_pub_key.script)}
            for n, output in enumerate(tx.vout)
        ],
    }
    if modern:
        decoded["weight"] = 4 * len(raw)
        decoded["hex"] = raw.hex()
    return decoded
