"""What the node signs as a guardian of the community fund: approvals of proposals, and the fund's transactions.

dux-airdropd computes what is right to sign; here stands only what must hold whatever it asks for. The key never
leaves this daemon, and the same question always gets the same bytes (RFC 6979).
"""

import os
from collections.abc import Mapping, Sequence

from btclib.tx import Tx

from duxcommon.api.flopd import Approval, Cosignature, KeyInfo, PrevOut
from duxcommon.coin import multisig
from duxcommon.coin.multisig import MAX_STANDARD_SIZE, Multisig, parse_multisig
from duxcommon.coin.notes import sign_approval
from duxcommon.coin.script import op_return_data, p2sh_script
from duxcommon.coin.tx import outpoint_of, parse_tx
from duxcommon.db import Store
from duxcommon.errors import NotAllowed, SignRefused
from duxcommon.money import DUST, format_flop
from duxcommon.rpc import Caller

from . import outputs
from .core import OutpointKey
from .keyring import Keyring
from .settings import MIN_FEE_RATE


class Guardian:
    """Signs with the guardian key, for one user of this machine."""

    def __init__(self, keyring: Keyring, store: Store, network_id: str, user: str) -> None:
        self._keyring = keyring
        self._store = store
        self._network_id = network_id
        self._user = user
        self._own_uid = os.geteuid()

    def configure(self, user: str) -> None:
        """Take a new setting (on reload)."""
        self._user = user

    def key(self) -> KeyInfo:
        """The guardian key; raises WalletLocked, KeystoreMissing."""
        return self._keyring.info(self._keyring.guardian().pubkey)

    def _check_user(self, caller: Caller) -> None:
        # One user for all daemons is how a trial network runs; there is nobody to tell apart then.
        if caller.uid not in (0, self._own_uid) and caller.name != self._user:
            raise NotAllowed(
                f"user {caller.name} may not have anything signed with the guardian key",
                hint="Only the user that `guardian_user` in flopd.yaml names may.",
            )

    def approve(self, caller: Caller, proposal: str) -> Approval:
        """This guardian's signature under a proposal. Raises NotAllowed, WalletLocked, KeystoreMissing."""
        self._check_user(caller)
        pair = self._keyring.guardian()
        signature = sign_approval(self._network_id, proposal, pair.secret)
        return Approval(pubkey=pair.pubkey.hex(), signature=signature.hex())

    def cosign(self, caller: Caller, raw: str, prevouts: Sequence[PrevOut]) -> Cosignature:
        """This guardian's signatures of a fund transaction; see `check_spend` for what is refused.

        Does not ask Core. Raises NotAllowed, WalletLocked, KeystoreMissing, BadTransaction, SignRefused.
        """
        self._check_user(caller)
        pair = self._keyring.guardian()
        tx = parse_tx(raw)
        spent = [(prevout.txid, prevout.vout) for prevout in prevouts]
        known = self._store.read(lambda c: outputs.paid(c, spent))
        redeems = check_spend(tx, prevouts, known, pair.pubkey)
        signatures = multisig.sign(tx, redeems, pair.pubkey, pair.secret)
        return Cosignature(
            pubkey=pair.pubkey.hex(), signatures=[signature.hex() if signature else None for signature in signatures]
        )


def check_spend(
    tx: Tx, prevouts: Sequence[PrevOut], known: Mapping[OutpointKey, tuple[bytes, int]], pubkey: bytes
) -> list[bytes]:
    """The redeem scripts of a transaction that a guardian may sign, one for each input; raises SignRefused.

    `known` holds script and koinu of the outputs that this node has seen itself. A signature does not cover the
    amounts that it spends, so a false one would hide a fee: every input that this key signs must be known.
    """
    if [outpoint_of(txin) for txin in tx.vin] != [(prevout.txid, prevout.vout) for prevout in prevouts]:
        raise SignRefused("the outputs that are named are not those that the transaction spends, in its order")
    redeems = [bytes.fromhex(prevout.redeem) for prevout in prevouts]
    signs = [_check_prevout(*pair, known, pubkey) for pair in zip(prevouts, redeems, strict=True)]
    if not any(signs):
        raise SignRefused("no input can be signed with the guardian key of this node")
    _check_outputs(tx)
    size = multisig.signed_size(tx, redeems)
    if size > MAX_STANDARD_SIZE:
        raise SignRefused(f"signed it would have {size} bytes, and no node relays more than {MAX_STANDARD_SIZE}")
    fee = sum(prevout.amount for prevout in prevouts) - sum(output.value for output in tx.vout)
    if not MIN_FEE_RATE * size < fee * 1000 or fee > multisig.max_fee(size):
        raise SignRefused(f"the transaction would pay a fee of {format_flop(fee)} FLOP for {size} bytes")
    return redeems


def _check_prevout(
    prevout: PrevOut, redeem: bytes, known: Mapping[OutpointKey, tuple[bytes, int]], pubkey: bytes
) -> bool:
    """Whether this key signs the input."""
    name = f"{prevout.txid}:{prevout.vout}"
    script: Multisig | None = parse_multisig(redeem)
    if script is None:
        raise SignRefused(f"the redeem script of {name} is no m-of-n script")
    seen = known.get((prevout.txid, prevout.vout))
    if seen is None:
        if pubkey in script.keys:
            raise SignRefused(f"this node has not seen {name}, so that its amount can't be checked")
        return False
    if seen != (p2sh_script(redeem), prevout.amount):
        raise SignRefused(f"{name} holds another amount than the one that is named, or pays another script")
    return pubkey in script.keys


def _check_outputs(tx: Tx) -> None:
    notes = 0
    for output in tx.vout:
        if output.value == 0 and op_return_data(output.script_pub_key.script) is not None:
            notes += 1
        elif output.value < DUST:
            raise SignRefused(f"an output of {format_flop(output.value)} FLOP does not reach the other nodes")
    if notes > 1:
        raise SignRefused("a transaction with two notes does not reach the other nodes")
