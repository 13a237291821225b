"""Consensus constants of the devnet and the parts of a block that need no state: coinbase, header, nonce."""

import struct
import time

from btclib.block.block import bip34_commitment
from btclib.hashes import hash256, merkle_root_and_mutated_from_hashes
from btclib.script.engine.flags import ScriptFlag
from btclib.tx import OutPoint, Tx, TxIn, TxOut

from duxcommon.coin.params import DEVNET
from duxcommon.money import COIN

PARAMS = DEVNET
SUBSIDY = 500_000 * COIN
"""Koinu that every block creates; Flopcoin's own first blocks pay the same."""

MAX_BLOCK_SIZE = 1_000_000
BITS = 0x207FFFFF
_TARGET_TOP = 0x7FFFFF  # highest three bytes of the easiest target, which every second hash is below

BLOCK_FLAGS = ScriptFlag.P2SH | ScriptFlag.DERSIG | ScriptFlag.CHECKLOCKTIMEVERIFY
"""What a block must satisfy on Flopcoin: BIP16, BIP65, BIP66; no SegWit, no relative lock times."""


def maturity(height: int) -> int:
    """Blocks between a coinbase at `height` and the first block that may spend it."""
    return PARAMS.coinbase_maturity(height)


def coinbase(height: int, script: bytes, fees: int, extra: int) -> Tx:
    """The transaction that creates a block's coins; `extra` keeps it unlike all others of the same height."""
    script_sig = bip34_commitment(height) + b"\x08" + extra.to_bytes(8, "little")
    inputs = [TxIn(OutPoint(check_validity=False), script_sig, 0xFFFFFFFF, check_validity=False)]
    outputs = [TxOut(SUBSIDY + fees, script, check_validity=False)]
    return Tx(1, 0, inputs, outputs, check_validity=False)


def header(prev: bytes, txids: list[bytes], block_time: int) -> bytes:
    """A header with its work done over transactions given by id (display order)."""
    root, _ = merkle_root_and_mutated_from_hashes([txid[::-1] for txid in txids], hash256)
    start = struct.pack("<i32s32sII", 0x20000000, prev[::-1], root, block_time, BITS)
    nonce = 0
    while True:
        solved = start + nonce.to_bytes(4, "little")
        if int.from_bytes(hash256(solved)[:-4:-1], "big") < _TARGET_TOP:
            return solved
        nonce += 1


def next_time(median: int) -> int:
    """A block's time: now, or one second above the median of the last eleven where the clock is behind."""
    return max(int(time.time()), median + 1)
