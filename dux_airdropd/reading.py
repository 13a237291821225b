"""What a transaction that spent the fund's anchor did, read from its bytes alone. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from btclib.tx import Tx

from duxcommon.coin.notes import FundNote, decode
from duxcommon.coin.script import is_p2sh, op_return_data
from duxcommon.coin.tx import outpoint_of, parse_tx

from .manifest import read_batch, read_share


@dataclass(frozen=True, slots=True)
class Read:
    """One transaction in the chain of anchors."""

    kind: Literal["payout", "sweep", "grant", "unknown"]
    manifest: str | None
    share: int
    recipients: int
    paid: int
    """What left the fund, without fees."""
    batches: int
    """Outputs from the third on that wait for their batch."""
    inputs: tuple[tuple[str, int], ...]
    out: int
    """Sum of the outputs."""


def scripts_and_amounts(tx: Tx) -> list[tuple[bytes, int]]:
    """The outputs."""
    return [(output.script_pub_key.script, output.value) for output in tx.vout]


def note_of(tx: Tx) -> FundNote | None:
    """The note that a transaction of the fund carries in its first output."""
    data = op_return_data(tx.vout[0].script_pub_key.script)
    note = decode(data) if data else None
    return note if isinstance(note, FundNote) else None


def read(raw: str, redeems: Mapping[bytes, bytes]) -> Read:
    """What the transaction did. `redeems` are the redeem scripts of all fund scripts. Raises BadTransaction."""
    tx = parse_tx(raw)
    outputs = scripts_and_amounts(tx)
    note = note_of(tx)
    paid = outputs[2:]
    inputs = tuple(outpoint_of(txin) for txin in tx.vin)
    total = sum(amount for _, amount in outputs)
    if note is None or note.kind == "sweep":
        kind = note.kind if note else "unknown"
        left = sum(amount for script, amount in outputs if script not in redeems)
        return Read(kind, note.manifest.hex() if note else None, 0, 0, left, 0, inputs, total)
    manifest = note.manifest.hex()
    if note.kind == "grant":
        return Read("grant", manifest, 0, len(paid), sum(amount for _, amount in paid), 0, inputs, total)
    if not paid or not (is_p2sh(paid[0][0]) and paid[0][0] in redeems):
        share = paid[0][1] if paid else 0
        return Read("payout", manifest, share, len(paid), sum(amount for _, amount in paid), 0, inputs, total)
    redeem = redeems[paid[0][0]]
    share = read_share(paid[0][1], redeem)
    recipients = sum(read_batch(amount, redeem, share) or 0 for _, amount in paid) if share else 0
    return Read("payout", manifest, share, recipients, share * recipients, len(paid), inputs, total)
