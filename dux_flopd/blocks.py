"""Reading raw blocks and transactions: what they spend and what they pay. Pure: no I/O.

A block is read whole and once, because Flopcoin Core has neither a transaction index nor a call that tells who
spent an output.
"""

from functools import cached_property
from io import BytesIO

from btclib import var_int
from btclib.exceptions import BTClibException
from btclib.hashes import hash256
from btclib.tx import Tx

from duxcommon.coin.notes import note_of
from duxcommon.coin.tx import outpoint_of, serialize_tx, with_script_sigs
from duxcommon.errors import ChainFault

from .core import OutpointKey

_HEADER = 80
_AUXPOW = 0x100
"""Bit of a header's version that says that a merged-mining proof follows (Dogecoin's rule, which Flopcoin inherits)."""


class SeenTx:
    """A transaction of the chain or the mempool; everything is computed when it is asked for."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx

    @cached_property
    def txid(self) -> str:
        """Its id, which a miner can still change."""
        return self.tx.id.hex()

    @cached_property
    def same(self) -> str:
        """What stays the same however the signatures are altered: the hash without the input scripts."""
        return same_id(self.tx)

    @cached_property
    def hex(self) -> str:
        """Its bytes."""
        return serialize_tx(self.tx).hex()

    @cached_property
    def note(self) -> bytes | None:
        """The data of the note that it carries."""
        found = note_of(self.tx)
        return found[0] if found is not None else None

    @cached_property
    def spends(self) -> list[OutpointKey]:
        """The outputs that it spends."""
        return [] if self.tx.is_coinbase else [outpoint_of(txin) for txin in self.tx.vin]

    @cached_property
    def pays(self) -> list[tuple[bytes, int]]:
        """Its outputs: script and koinu."""
        return [(output.script_pub_key.script, output.value) for output in self.tx.vout]


class Block:
    """A block's place in the chain, its bytes, and its transactions, which are read when they are asked for."""

    def __init__(self, hash: str, prev: str, txs: list[SeenTx] | None = None, raw: bytes = b"") -> None:
        self.hash = hash
        self.prev = prev
        self.raw = raw
        if txs is not None:
            self.txs = txs

    @cached_property
    def txs(self) -> list[SeenTx]:
        """All transactions; a merged-mining proof is passed over. Raises ChainFault."""
        stream = BytesIO(self.raw)
        stream.seek(_HEADER)
        try:
            if int.from_bytes(self.raw[:4], "little") & _AUXPOW:
                _skip_auxpow(stream)
            count = var_int.parse(stream)
            # Whatever follows the transactions (Litecoin's extension block) is not for us.
            return [SeenTx(Tx.parse(stream, check_validity=False)) for _ in range(count)]
        except (BTClibException, ValueError) as error:
            raise ChainFault(f"Core sent a block that can't be read: {str(error)[:100]}") from None


def same_id(tx: Tx) -> str:
    """The hash of a transaction without its input scripts, hex.

    Every signature of ours covers all the rest (SIGHASH_ALL), so two transactions with the same value move the same
    coins to the same places, whatever a miner did to their ids.
    """
    return with_script_sigs(tx, [b""] * len(tx.vin)).id.hex()


def parse_seen(raw: str) -> SeenTx:
    """The transaction in a hex text from Core. Raises ChainFault."""
    try:
        return SeenTx(Tx.parse(bytes.fromhex(raw), check_validity=False))
    except (BTClibException, ValueError) as error:
        raise ChainFault(f"Core sent a transaction that can't be read: {str(error)[:100]}") from None


def parse_block(raw: bytes) -> Block:
    """The block in these bytes. Raises ChainFault when they are too few; see `Block.txs` as well."""
    if len(raw) <= _HEADER:
        raise ChainFault(f"Core sent a block of {len(raw)} bytes")
    return Block(hash256(raw[:_HEADER])[::-1].hex(), raw[4:36][::-1].hex(), raw=raw)


def _skip_auxpow(stream: BytesIO) -> None:
    """The parent chain's coinbase, its branch in the parent block, ours in the coinbase, and the parent's header."""
    Tx.parse(stream, check_validity=False)
    stream.seek(32, 1)
    for _ in range(2):
        stream.seek(32 * var_int.parse(stream) + 4, 1)
    stream.seek(_HEADER, 1)
