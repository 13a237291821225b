"""What makes a transaction valid: structure, amounts, finality, maturity, scripts. Reasons are Core's, with its codes.

Reject codes (BIP61) are part of the error text in Core 0.14 and are kept beside the reason here.
"""

from collections.abc import Sequence

from btclib.exceptions import BTClibValueError, ScriptError
from btclib.script.engine import verify_input
from btclib.script.engine.flags import ScriptFlag
from btclib.tx import Tx, TxIn, TxOut

from duxcommon.money import MAX_MONEY, format_flop

from . import policy, rules
from .store import Coin

INVALID = 16
DUPLICATE = 18
NONSTANDARD = 64
INSUFFICIENT_FEE = 66
HIGH_FEE = 256
CONFLICT = 258

_FINAL = 0xFFFFFFFF
_HEIGHT_LIMIT = 500_000_000


class Reject(Exception):
    """Why a transaction was refused: BIP61 code, Core's reason, and what later Cores add after a comma."""

    def __init__(self, code: int, reason: str, debug: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.debug = debug


class MissingInputs(Exception):
    """An input spends an output that nobody knows."""


def outpoint(given: TxIn) -> tuple[bytes, int]:
    """What an input spends: id in display order, output number."""
    return given.prev_out.tx_id, given.prev_out.vout


def parse_tx(raw: bytes, *, unfunded: bool = False) -> Tx:
    """A transaction from its bytes, whatever its amounts; raises ValueError.

    Without inputs the bytes can look like SegWit's marker: `unfunded` reads them without witness first, as Core does
    for transactions that are to be funded.
    """
    if unfunded:
        try:
            return Tx.parse_without_witness(raw, check_validity=False)
        except BTClibValueError:
            pass
    return Tx.parse(raw, check_validity=False)


def check_structure(tx: Tx, size: int) -> None:
    """Core's CheckTransaction for a transaction outside a block; raises Reject."""
    if not tx.vin:
        raise Reject(INVALID, "bad-txns-vin-empty")
    if not tx.vout:
        raise Reject(INVALID, "bad-txns-vout-empty")
    if size > rules.MAX_BLOCK_SIZE:
        raise Reject(INVALID, "bad-txns-oversize")
    total = 0
    for output in tx.vout:
        if output.value < 0:
            raise Reject(INVALID, "bad-txns-vout-negative")
        if output.value > MAX_MONEY:
            raise Reject(INVALID, "bad-txns-vout-toolarge")
        total += output.value
        if total > MAX_MONEY:
            raise Reject(INVALID, "bad-txns-txouttotal-toolarge")
    spends = [outpoint(given) for given in tx.vin]
    if len(set(spends)) != len(spends):
        raise Reject(INVALID, "bad-txns-inputs-duplicate")
    if tx.is_coinbase:
        raise Reject(INVALID, "coinbase" if 2 <= len(tx.vin[0].script_sig) <= 100 else "bad-cb-length")
    if any(given.is_coinbase for given in tx.vin):
        raise Reject(INVALID, "bad-txns-prevout-null")


def is_final(tx: Tx, height: int) -> bool:
    """Whether a block at `height` may hold the transaction; lock times that are clock times never pass here."""
    if tx.lock_time == 0 or all(given.sequence == _FINAL for given in tx.vin):
        return True
    return tx.lock_time < min(height, _HEIGHT_LIMIT)


def check_inputs(coins: Sequence[Coin], tx: Tx, height: int) -> int:
    """The fee in koinu of a transaction in a block at `height`; raises Reject for immature or too small inputs."""
    for coin in coins:
        if coin.coinbase and coin.height is not None and height - coin.height < rules.maturity(coin.height):
            raise Reject(
                INVALID,
                "bad-txns-premature-spend-of-coinbase",
                f"tried to spend coinbase at depth {height - coin.height}",
            )
    total = sum(coin.value for coin in coins)
    if not 0 <= total <= MAX_MONEY:
        raise Reject(INVALID, "bad-txns-inputvalues-outofrange")
    paid = sum(output.value for output in tx.vout)
    if paid > total:
        debug = f"value in ({format_flop(total)}) < value out ({format_flop(paid)})"
        raise Reject(INVALID, "bad-txns-in-belowout", debug)
    return total - paid


def prevouts_of(coins: Sequence[Coin]) -> list[TxOut]:
    """The spent outputs in the engine's form."""
    return [TxOut(coin.value, coin.script, check_validity=False) for coin in coins]


def script_error(prevouts: list[TxOut], tx: Tx, index: int, flags: ScriptFlag) -> str | None:
    """Core's text for what is wrong with one input's scripts, or None when they hold."""
    try:
        verify_input(prevouts, tx, index, flags)
    except ScriptError as error:
        return error.code.description
    return None


def check_block_scripts(prevouts: list[TxOut], tx: Tx) -> None:
    """Verify every input under the consensus flags alone, as for a transaction in a block; raises Reject."""
    for index in range(len(tx.vin)):
        wrong = script_error(prevouts, tx, index, rules.BLOCK_FLAGS)
        if wrong is not None:
            raise Reject(INVALID, f"mandatory-script-verify-flag-failed ({wrong})")


def check_scripts(prevouts: list[TxOut], tx: Tx) -> None:
    """Verify every input under the policy flags; raises Reject naming the first failure as Core 0.14 words it."""
    for index in range(len(tx.vin)):
        wrong = script_error(prevouts, tx, index, policy.STANDARD_FLAGS)
        if wrong is None:
            continue
        if script_error(prevouts, tx, index, policy.MANDATORY_FLAGS) is None:
            raise Reject(NONSTANDARD, f"non-mandatory-script-verify-flag ({wrong})")
        raise Reject(INVALID, f"mandatory-script-verify-flag-failed ({wrong})")
