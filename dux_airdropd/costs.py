"""What the fund's transactions weigh and cost at most, in bytes and koinu. Pure.

Sizes are those of the longest signatures, so that every guardian comes to the same fee before anybody has signed.
"""

from duxcommon.coin import multisig
from duxcommon.coin.tx import KOINU_PER_BYTE

MAX_SIZE = 99_000
"""Bytes of a transaction of the fund; nodes relay up to 100,000."""
MAX_INPUTS = 200
BATCH = 2_000
"""Recipients that one transaction pays; more are paid in batches."""

_OVERHEAD = 4 + 3 + 3 + 4  # version, numbers of inputs and outputs, lock time
_P2PKH_OUTPUT = 8 + 1 + 25
_P2SH_OUTPUT = 8 + 1 + 23
_FUND_NOTE_OUTPUT = 8 + 1 + 2 + 41
_BATCH_NOTE_OUTPUT = 8 + 1 + 2 + 42
_BASE = _OVERHEAD + _FUND_NOTE_OUTPUT + _P2SH_OUTPUT

SHARE_FEE = _P2PKH_OUTPUT * KOINU_PER_BYTE
"""What one more output costs."""
BASE_FEE = _BASE * KOINU_PER_BYTE
"""A fund transaction without inputs that pays nobody: the note and the next anchor."""


def input_size(redeem: bytes) -> int:
    """Bytes of an input that the guardians sign. Raises ValueError for another script than an m-of-n."""
    script = multisig.parse_multisig(redeem)
    if script is None:
        raise ValueError("a fund address is an m-of-n script")
    return multisig.input_size(script.m, len(script.keys))


def input_fee(redeem: bytes) -> int:
    """What it costs to spend one output of the script."""
    return input_size(redeem) * KOINU_PER_BYTE


def worth_spending(amount: int, redeem: bytes) -> bool:
    """Whether an output brings at least twice what spending it costs."""
    return amount >= 2 * input_fee(redeem)


def paying_room() -> int:
    """Bytes of inputs that leave room for as many recipients as one transaction pays."""
    return MAX_SIZE - _BASE - BATCH * _P2PKH_OUTPUT


def sweeping_room() -> int:
    """Bytes of inputs in a transaction that pays nobody."""
    return MAX_SIZE - _BASE


def batch_sizes(recipients: int) -> list[int]:
    """Recipients of each batch: all but the last are full; none where one transaction pays all."""
    if recipients <= BATCH:
        return []
    full, rest = divmod(recipients, BATCH)
    return [BATCH] * full + ([rest] if rest else [])


def batch_fee(recipients: int, redeem: bytes) -> int:
    """Fee of one batch's transaction."""
    return (_OVERHEAD + input_size(redeem) + _BATCH_NOTE_OUTPUT + recipients * _P2PKH_OUTPUT) * KOINU_PER_BYTE


def outputs_fee(recipients: int, redeem: bytes) -> int:
    """What it costs, beside the inputs and BASE_FEE, that so many are paid; `redeem` is the script batches wait at."""
    batches = batch_sizes(recipients)
    if not batches:
        return recipients * SHARE_FEE
    return len(batches) * _P2SH_OUTPUT * KOINU_PER_BYTE + sum(batch_fee(count, redeem) for count in batches)
