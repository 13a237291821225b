"""The bond: coins that a payout key locks to itself until a height, so that a share of the fund costs something.

`<height> CHECKLOCKTIMEVERIFY DROP <pubkey> CHECKSIG` in P2SH. The transaction that makes bonds says so in a `BondNote`;
each of its outputs that pays the bond script of that key and height is a bond. It comes back whole but for the fees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from btclib.script.script import push_int, serialize
from btclib.tx import Tx

from ..errors import BadTerms, BadTransaction, NotPayable, TooManyInputs
from ..money import DUST, MAX_MONEY
from .script import MAX_LOCK_HEIGHT, is_pubkey, p2sh_script
from .tx import LOCKABLE, MAX_FEE, check_tx, fee_for, make_tx, with_script_sigs

_CLTV_DROP_KEY = b"\xb1\x75\x21"
_CHECKSIG = b"\xac"
_MAX_SCRIPT = 5 + 3 + 33 + 1
_MAX_INPUT = 36 + 1 + (1 + 72) + (1 + _MAX_SCRIPT) + 4


@dataclass(frozen=True, slots=True)
class Bond:
    """An output that a payout key locked to itself; koinu."""

    txid: str
    vout: int
    amount: int
    lock_height: int


@dataclass(frozen=True, slots=True)
class BondRelease:
    """An unsigned transaction that takes bonds back, the redeem script of each input, and its fee in koinu."""

    tx: Tx
    redeems: tuple[bytes, ...]
    amount: int
    """What comes back."""
    fee: int


def bond_script(pubkey: bytes, lock_height: int) -> bytes:
    """The redeem script of a bond; raises BadTerms."""
    if not is_pubkey(pubkey):
        raise BadTerms(f"{pubkey.hex()[:80]} is not a compressed public key")
    if not 1 <= lock_height <= MAX_LOCK_HEIGHT:
        raise BadTerms(f"a lock height is between 1 and {MAX_LOCK_HEIGHT}, not {lock_height}")
    return serialize([push_int(lock_height)]) + _CLTV_DROP_KEY + pubkey + _CHECKSIG


def parse_bond(redeem: bytes) -> tuple[bytes, int] | None:
    """(public key, lock height) of a bond's redeem script, or None unless `bond_script` makes exactly these bytes."""
    head, pubkey = redeem[:-37], redeem[-34:-1]
    if not 1 <= len(head) <= 5:
        return None
    height = head[0] - 0x50 if 0x51 <= head[0] <= 0x60 else int.from_bytes(head[1:], "little")
    try:
        return (pubkey, height) if bond_script(pubkey, height) == redeem else None
    except BadTerms:
        return None


def bond_output(pubkey: bytes, lock_height: int) -> bytes:
    """The output script that a bond of this key and height pays to; raises BadTerms."""
    return p2sh_script(bond_script(pubkey, lock_height))


def bond_release_tx(pubkey: bytes, bonds: Sequence[Bond], to_script: bytes) -> BondRelease:
    """All these bonds of one key to one output, unsigned; the chain takes it once its tip is at the highest lock.

    Inputs are sorted by (txid, vout). Raises BadTransaction for no bond or one given twice, TooManyInputs when the
    fee would be above 0.1 FLOP, NotPayable when too little is left for an output, BadTerms.
    """
    ordered = sorted(bonds, key=lambda bond: (bond.txid, bond.vout))
    total = sum(bond.amount for bond in ordered)
    if not ordered or any(bond.amount <= 0 for bond in ordered) or total > MAX_MONEY:
        raise BadTransaction("a release spends at least one bond, and amounts in range")
    fee = fee_for(4 + 3 + len(ordered) * _MAX_INPUT + 1 + 34 + 4)
    if fee > MAX_FEE:
        raise TooManyInputs(f"the release of {len(ordered)} bonds at once would cost more than 0.1 FLOP in fees")
    if total - fee < DUST:
        raise NotPayable(f"after the fee {total - fee} koinu are left of the bonds, less than an output can hold")
    tx = make_tx(
        [(bond.txid, bond.vout) for bond in ordered],
        [(to_script, total - fee)],
        lock_time=max(bond.lock_height for bond in ordered),
        sequence=LOCKABLE,
    )
    check_tx(tx)
    return BondRelease(tx, tuple(bond_script(pubkey, bond.lock_height) for bond in ordered), total - fee, fee)


def bond_script_sig(signature: bytes, redeem: bytes) -> bytes:
    """Input script that spends a bond: `<signature> <redeem>`."""
    return serialize([signature, redeem])


def finish_release(release: BondRelease, signatures: Sequence[bytes]) -> Tx:
    """The signed release: one signature for each input, in their order."""
    pairs = zip(signatures, release.redeems, strict=True)
    return with_script_sigs(release.tx, [bond_script_sig(signature, redeem) for signature, redeem in pairs])
