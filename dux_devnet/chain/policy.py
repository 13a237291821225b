"""Which valid transactions the mempool takes: Flopcoin's relay rules as its peers apply them. Pure functions."""

from collections.abc import Sequence

from btclib.exceptions import ScriptError
from btclib.policy import are_inputs_standard
from btclib.script.engine import validate_push_only
from btclib.script.engine.flags import ScriptFlag
from btclib.script.script import op_code_spans
from btclib.script.solver import solver
from btclib.tx import Tx, TxOut

from duxcommon.coin.script import is_p2sh

MIN_FEE_RATE = 1_000_000
"""Koinu for 1000 bytes below which nothing is mined by default: 0.01 FLOP."""
HARD_DUST = 100_000
"""Outputs below 0.001 FLOP are refused by every node."""
SOFT_DUST = 1_000_000
"""An output below 0.01 FLOP must pay this much more in fees, or peers do not relay it."""
ABSURD_FEE = 100 * 100_000_000
MAX_STANDARD_SIZE = 100_000
MAX_DATA_SCRIPT = 83
"""OP_RETURN, two bytes of push, 80 of data."""
MAX_ANCESTORS = 25
"""Of an unconfirmed chain, the transaction itself counted; the same for descendants."""
MAX_CHAIN_SIZE = 101_000
_MAX_SCRIPT_SIG = 1650
_STANDARD_TYPES = {"pubkey", "pubkeyhash", "scripthash", "multisig", "nulldata"}
_CSV = 0xB2

STANDARD_FLAGS = (
    ScriptFlag.P2SH
    | ScriptFlag.DERSIG
    | ScriptFlag.CHECKLOCKTIMEVERIFY
    | ScriptFlag.STRICTENC
    | ScriptFlag.LOW_S
    | ScriptFlag.NULLDUMMY
    | ScriptFlag.NULLFAIL
    | ScriptFlag.MINIMALDATA
    | ScriptFlag.MINIMALIF
    | ScriptFlag.CLEANSTACK
    | ScriptFlag.WITNESS
    | ScriptFlag.DISCOURAGE_UPGRADABLE_NOPS
    | ScriptFlag.DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM
)
MANDATORY_FLAGS = ScriptFlag.P2SH
"""A failure under these alone makes the sender misbehave; any other is a matter of policy (Core 0.14)."""


def nonstandard(tx: Tx, size: int) -> str | None:
    """Core's reason for calling a transaction nonstandard, or None."""
    if not 1 <= tx.version <= 2:
        return "version"
    if size > MAX_STANDARD_SIZE:
        return "tx-size"
    for given in tx.vin:
        if len(given.script_sig) > _MAX_SCRIPT_SIG:
            return "scriptsig-size"
        try:
            validate_push_only(given.script_sig)
        except ScriptError:
            return "scriptsig-not-pushonly"
    return _nonstandard_outputs(tx.vout)


def _nonstandard_outputs(outputs: Sequence[TxOut]) -> str | None:
    data_outputs = 0
    for output in outputs:
        script = output.script_pub_key.script
        kind, parts = solver(script)
        if kind not in _STANDARD_TYPES:
            return "scriptpubkey"
        if kind == "nulldata":
            data_outputs += 1
            if len(script) > MAX_DATA_SCRIPT:
                return "scriptpubkey"
        elif output.value < HARD_DUST:
            return "dust"
        elif kind == "multisig" and parts[-1][0] > 3:
            return "scriptpubkey"
    return "multi-op-return" if data_outputs > 1 else None


def nonstandard_inputs(tx: Tx, prevouts: Sequence[TxOut]) -> bool:
    """Whether an input spends a script that no node relays the spending of (Core's AreInputsStandard)."""
    return not are_inputs_standard(prevouts, tx)


def uses_relative_lock(tx: Tx, prevouts: Sequence[TxOut]) -> bool:
    """Whether a script or redeem script that is spent holds CHECKSEQUENCEVERIFY, which Flopcoin never enforces.

    Taking it as a no-op would let a design pass here that anyone could rob on the real chain.
    """
    for given, prevout in zip(tx.vin, prevouts, strict=True):
        script = prevout.script_pub_key.script
        if is_p2sh(script):
            script = _last_push(given.script_sig)
        if any(op == _CSV for op, _, _ in op_code_spans(script)):
            return True
    return False


def _last_push(script_sig: bytes) -> bytes:
    """The redeem script of an input that is known to hold pushes only."""
    push = b""
    for _, start, stop in op_code_spans(script_sig):
        push = script_sig[start:stop]
    length_bytes = {76: 1, 77: 2, 78: 4}.get(push[0], 0) if push else 0
    return push[1 + length_bytes :]


def min_fee(tx: Tx, size: int) -> int:
    """Koinu a transaction must pay: the rate by its size, and the surcharge for each output below the soft dust."""
    dusty = sum(1 for out in tx.vout if out.value < SOFT_DUST and out.script_pub_key.script[:1] != b"\x6a")
    return max(MIN_FEE_RATE * size // 1000, 1) + SOFT_DUST * dusty
