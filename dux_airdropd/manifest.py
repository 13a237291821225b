"""What a transaction of the fund says and pays, to the koinu, and its unsigned bytes. Pure.

Every guardian makes the same bytes from the same plan and the same keys; what is left when the money is divided stays
in the next anchor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from btclib.tx import Tx

from duxcommon.coin.notes import BatchNote, FundNote
from duxcommon.coin.script import op_return_script, p2pkh_script
from duxcommon.coin.tx import make_tx
from duxcommon.money import DUST
from duxcommon.records import canonical

from .costs import BATCH, batch_fee, batch_sizes, outputs_fee
from .plan import FundCoin, Plan

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A transaction that the guardians are to sign."""

    tx: Tx
    inputs: tuple[FundCoin, ...]
    redeems: tuple[bytes, ...]
    """Redeem script of each input."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole content of one transaction of the fund and of its batches."""

    network: str
    plan: Plan
    eligible: str | None
    """SHA-256 of the keys that are paid, ascending; null where nobody gets a share."""
    share: int
    """What each of them gets."""
    anchor: int
    """What the next anchor holds: DUST, and what was not divided."""
    batches: tuple[int, ...]
    """Amount of each output that waits for its batch; empty where all are paid at once."""
    redeem: bytes
    """Redeem script of the next anchor and of the batches."""

    @property
    def paid(self) -> int:
        """What leaves the fund, without fees."""
        return self.plan.spend.amount if self.plan.spend else self.share * self.plan.recipients

    def encode(self) -> bytes:
        """The canonical bytes whose hash the transaction carries."""
        plan = self.plan
        value: dict[str, Any] = {
            "format": FORMAT,
            "network": self.network,
            "kind": plan.kind,
            "sequence": plan.sequence,
            "snapshot": plan.height,
            "rules": plan.rules,
            "inputs": [[coin.txid, coin.vout, coin.amount] for coin in plan.inputs],
            "next": {"script": plan.script.hex(), "amount": self.anchor},
            "eligible": {"count": plan.recipients, "digest": self.eligible},
            "share": self.share,
            "batches": list(self.batches),
            "grant": None,
        }
        if plan.spend is not None:
            spend = plan.spend
            value["grant"] = {"proposal": spend.proposal, "script": spend.script.hex(), "amount": spend.amount}
        return canonical(value)

    def digest(self) -> bytes:
        """SHA-256 of `encode`."""
        return hashlib.sha256(self.encode()).digest()


def digest_of(keys: Sequence[bytes]) -> str:
    """SHA-256 of public keys, which are ascending."""
    return hashlib.sha256(b"".join(keys)).hexdigest()


def write(network: str, plan: Plan, eligible: str | None, redeem: bytes) -> Manifest:
    """The manifest of a plan; `eligible` is the digest of the keys that a payout pays."""
    if plan.kind != "payout":
        left = plan.available
        if plan.spend is not None:
            left -= plan.spend.amount + outputs_fee(1, redeem)
        return Manifest(network, plan, None, 0, DUST + left, (), redeem)
    count = plan.recipients
    left = plan.available - outputs_fee(count, redeem)
    share = min(plan.limit, left // count)
    batches = tuple(size * share + batch_fee(size, redeem) for size in batch_sizes(count))
    return Manifest(network, plan, eligible, share, DUST + left - share * count, batches, redeem)


def transaction(manifest: Manifest, keys: Sequence[bytes], redeems: Mapping[bytes, bytes]) -> Unsigned:
    """The transaction of a manifest: note, next anchor, then what is paid. `keys` are those paid, ascending."""
    plan = manifest.plan
    note = FundNote(plan.kind, plan.sequence, manifest.digest()).encode()
    outputs = [(op_return_script(note), 0), (plan.script, manifest.anchor)]
    if plan.spend is not None:
        outputs.append((plan.spend.script, plan.spend.amount))
    elif manifest.batches:
        outputs += [(plan.script, amount) for amount in manifest.batches]
    else:
        outputs += [(p2pkh_script(key), manifest.share) for key in keys]
    tx = make_tx([(coin.txid, coin.vout) for coin in plan.inputs], outputs)
    return Unsigned(tx, plan.inputs, tuple(redeems[coin.script] for coin in plan.inputs))


def batch_keys(manifest: Manifest, keys: Sequence[bytes], batch: int) -> Sequence[bytes]:
    """Those whom a batch pays."""
    sizes = batch_sizes(manifest.plan.recipients)
    first = sum(sizes[:batch])
    return keys[first : first + sizes[batch]]


def batch_transaction(manifest: Manifest, keys: Sequence[bytes], batch: int, waiting: FundCoin) -> Unsigned:
    """The transaction of one batch; `waiting` is the output of the confirmed payout that it spends, `keys` are all."""
    note = BatchNote(manifest.plan.sequence, batch, manifest.digest()).encode()
    outputs = [(op_return_script(note), 0)]
    outputs += [(p2pkh_script(key), manifest.share) for key in batch_keys(manifest, keys, batch)]
    tx = make_tx([(waiting.txid, waiting.vout)], outputs)
    return Unsigned(tx, (waiting,), (manifest.redeem,))


def read_batch(amount: int, redeem: bytes, share: int) -> int | None:
    """How many recipients an output that waits for its batch is for; None when it fits no number of them."""
    fixed = batch_fee(0, redeem)
    each = share + batch_fee(1, redeem) - fixed
    count, rest = divmod(amount - fixed, each)
    return None if rest or not count > 0 else count


def read_share(first_batch: int, redeem: bytes) -> int:
    """Each recipient's share, from the amount of the first output that waits for a batch: that batch is full."""
    return max(0, (first_batch - batch_fee(BATCH, redeem)) // BATCH)
