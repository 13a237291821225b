"""Block 0 of the devnet: a real serialised block, the same on every machine, whose coins can't be spent."""

import struct
from functools import cache

from btclib.hashes import hash256
from btclib.tx import OutPoint, Tx, TxIn, TxOut

MESSAGE = b"Dux OS private trial network: coins have no value"
_TIME = 1_767_225_600  # 2026-01-01 00:00:00 UTC
_BITS = 0x207FFFFF  # regtest's easiest target; no work is asked of block 0


def coinbase() -> Tx:
    """The only transaction of block 0: it carries the message twice and pays nothing."""
    script_sig = bytes([len(MESSAGE)]) + MESSAGE
    data = b"\x6a" + bytes([len(MESSAGE)]) + MESSAGE
    inputs = [TxIn(OutPoint(), script_sig, 0xFFFFFFFF)]
    return Tx(1, 0, inputs, [TxOut(0, data)])


@cache
def header() -> bytes:
    """The 80-byte header; its merkle root is the coinbase's txid."""
    merkle_root = coinbase().id[::-1]
    return struct.pack("<i32s32sIII", 1, bytes(32), merkle_root, _TIME, _BITS, 0)


@cache
def block() -> bytes:
    """The whole serialised block: header, number of transactions, coinbase."""
    return header() + b"\x01" + coinbase().serialize(include_witness=False)


@cache
def block_hash() -> str:
    """Double SHA-256 of the header, reversed hex: `params.DEVNET.genesis`."""
    return hash256(header())[::-1].hex()
