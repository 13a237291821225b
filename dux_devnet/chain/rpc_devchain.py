"""Calls of this chain's own, which no Core has: a faucet, and switches for tests."""

from typing import Any

from . import errors, faucet, jsonio, spending
from .errors import RpcError
from .faults import MODES
from .registry import Call, command
from .rpc_chain import output_script
from .users import Refused
from .validate import Reject


@command("faucet", "Devchain")
def faucet_give(call: Call, address: str, amount: Any) -> str:
    """Pay coins of the chain's own supply to an address; the id of the transaction, which waits for a block.

    Blocks are mined first when the faucet has too few ripe coins.
    """
    koinu = jsonio.amount(amount)
    if koinu > faucet.MAX_GIFT:
        raise RpcError(errors.TYPE, f"Amount out of range: the faucet gives {jsonio.Amount(faucet.MAX_GIFT).coins()}")
    script = output_script(address)
    try:
        if call.guest is not None:
            call.guest.check_gift(koinu)
        txid = faucet.give(call.node, script, koinu).hex()
    except (Reject, spending.CannotFund) as error:
        raise RpcError(errors.WALLET, str(error)) from None
    except Refused as error:
        raise RpcError(errors.TOO_MUCH, str(error)) from None
    if call.guest is not None:
        call.guest.gave(koinu)
    return txid


@command("devchain.fault", "Devchain")
def devchain_fault(call: Call, fault: dict[str, Any]) -> dict[str, Any]:
    """Misbehave: {"mode": refuse|hang|drop-reply|none, "method": name or null, "count": n or null}."""
    unknown = set(fault) - {"mode", "method", "count"}
    mode, method, count = fault.get("mode"), fault.get("method"), fault.get("count")
    if unknown or mode not in MODES:
        raise RpcError(errors.INVALID_PARAMETER, f"mode is one of {', '.join(MODES)}; method and count are optional")
    if method is not None and not isinstance(method, str):
        raise RpcError(errors.TYPE, "method is a name or null")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise RpcError(errors.TYPE, "count is a number above 0 or null")
    call.faults.mode, call.faults.method, call.faults.count = mode, method, count
    return {"mode": mode, "method": method, "count": count}


@command("devchain.syncing", "Devchain")
def devchain_syncing(call: Call, syncing: bool) -> bool:
    """Look like a node that is still catching up: more headers than blocks, initialblockdownload true."""
    call.node.syncing = syncing
    return syncing
