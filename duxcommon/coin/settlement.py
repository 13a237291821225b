"""What counts as settled work: the one rule that eligibility, votes, reviews and reputation stand on.

A confirmed transaction is settled work when
- every input spends a P2SH output of one identical escrow script through its IF branch, that is with the signatures of
  the provider and of the buyer or the arbiter;
- its outputs are, in this order, P2PKH of the script's provider key, a script of the community fund, and at most one
  P2PKH of the script's buyer key;
- the transaction that paid each deposit carries the `FundingNote` of this channel: provider, arbiter, lock height;
- with G = first + second output, the second is exactly `max(G * tax_bps // 10000, min_tax)`, at a rate that was in
  force when the deposit confirmed or at most 144 blocks before, for each deposit that is spent.

All but the last and the question whose the second output is can be told from the chain alone, whatever rules are in
force: that is `inspect`. `judge` applies the rules to what it found, and `settle` does both.

The note makes the height of a deposit known to nodes without an index of all transactions: they note where each
transaction with such a note confirmed, and need nothing else when its output is spent.

Three choices within that rule. The third output must go to the buyer's key of the script: no other output can be seen
to be the buyer's, and any other would let a provider hide a part of its price from the tax. Every deposit must fit the
rate, not just the first: otherwise an old channel would keep an old rate for ever by topping up. How the input script
is encoded does not matter beyond what the chain demands: any node on the way can rewrite its branch selector and any
miner its pushes, and neither may be able to undo a provider's settlement. The escrow script itself is compared byte by
byte, so a non-minimal push in it makes it another script.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from btclib.script.engine.script import eval_script
from btclib.tx import Tx

from .. import money
from ..errors import ScriptRefused
from .notes import note_of
from .script import EscrowTerms, FundingNote, is_p2pkh, is_p2sh, p2pkh_script, p2sh_script, parse_escrow
from .tx import BLOCK_FLAGS, txid_of, verify_input

RATE_GRACE = 144
"""Blocks during which a deposit may still carry the rate that was replaced: it may have been built before."""


MAX_INPUTS = 32
"""So many deposits a settlement may spend; the fee of a closing transaction is capped well below. Without a limit the
check of one transaction of a megabyte could take minutes."""


class Reason(Enum):
    """Why a transaction is not settled work."""

    TOO_MANY_INPUTS = "there are more inputs than any channel's closing has"
    OTHER_SCRIPT = "an input does not spend an output of the escrow template"
    MIXED_CHANNELS = "the inputs belong to different channels"
    WRONG_OUTPUTS = "there are not two or three outputs"
    NOT_TO_PROVIDER = "the first output is not the provider's, or pays nothing"
    NOT_TO_FUND = "the second output is not the community fund's"
    NO_NOTE = "a deposit was paid by a transaction without the note of this channel"
    NOT_TO_BUYER = "the third output is not the buyer's"
    WRONG_TAX = "the community fund's part is not the exact proportion at a rate that was in force"
    NOT_SIGNED = "an input is not signed as its script demands"
    REFUND = "an input was taken back by the buyer, without the provider's signature"


@dataclass(frozen=True, slots=True)
class Prevout:
    """The output that an input spends: its script, its amount in koinu, the height at which it confirmed."""

    script: bytes
    amount: int
    height: int
    note: FundingNote | None
    """What the transaction that paid it says; see `note_in`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transaction that has the form of settled work, signatures included. Amounts are koinu."""

    txid: str
    terms: EscrowTerms
    payout: int
    tax: int
    """Paid to `fund_script`, whatever that is."""
    change: int
    fee: int
    awarded: bool
    """The arbiter signed in the buyer's place for at least one input."""
    fund_script: bytes
    """P2SH or P2PKH."""
    deposits: tuple[int, ...]
    """Heights at which the deposits confirmed, ascending, each once."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Settled work. Amounts are koinu; `gross = payout + tax`."""

    txid: str
    terms: EscrowTerms
    """The three keys; the provider's is its payout key."""
    gross: int
    payout: int
    tax: int
    tax_bps: int
    change: int
    """What went back to the buyer; 0 without a third output."""
    fee: int
    awarded: bool
    """The arbiter signed in the buyer's place for at least one input."""

    @property
    def channel(self) -> str:
        """The channel's id."""
        return self.terms.channel_id()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A transaction that is not settled work."""

    txid: str
    reason: Reason


def settle(
    tx: Tx,
    prevouts: Sequence[Prevout],
    fund_scripts: Collection[bytes],
    rate_at: Callable[[int], int],
    *,
    min_tax: int = money.DUST,
) -> Settlement | Refusal:
    """Say whether a confirmed transaction is settled work; see `inspect` and `judge`."""
    found = inspect(tx, prevouts)
    return found if isinstance(found, Refusal) else judge(found, fund_scripts, rate_at, min_tax)


def inspect(tx: Tx, prevouts: Sequence[Prevout]) -> Candidate | Refusal:
    """Say whether a confirmed transaction has the form of settled work, whatever rules are in force.

    `prevouts` are in the order of the inputs. Pure: the answer depends on nothing else.
    """
    if len(prevouts) != len(tx.vin):
        raise ValueError(f"{len(prevouts)} outputs given for {len(tx.vin)} inputs")

    def refuse(reason: Reason) -> Refusal:
        return Refusal(txid_of(tx), reason)

    if len(tx.vin) > MAX_INPUTS:
        return refuse(Reason.TOO_MANY_INPUTS)
    redeems = {_redeem_of(txin.script_sig, prevout.script) for txin, prevout in zip(tx.vin, prevouts, strict=True)}
    channels = [parse_escrow(redeem) for redeem in redeems]
    if None in channels or not channels:
        return refuse(Reason.OTHER_SCRIPT)
    if len(channels) > 1:
        return refuse(Reason.MIXED_CHANNELS)
    (terms,) = channels
    assert terms is not None

    if not 2 <= len(tx.vout) <= 3:
        return refuse(Reason.WRONG_OUTPUTS)
    scripts = [output.script_pub_key.script for output in tx.vout]
    amounts = [output.value for output in tx.vout]
    if scripts[0] != p2pkh_script(terms.provider) or amounts[0] <= 0:
        return refuse(Reason.NOT_TO_PROVIDER)
    if not (is_p2sh(scripts[1]) or is_p2pkh(scripts[1])):
        return refuse(Reason.NOT_TO_FUND)
    if scripts[2:] not in ([], [p2pkh_script(terms.buyer)]):
        return refuse(Reason.NOT_TO_BUYER)
    if any(prevout.note != FundingNote(terms.provider, terms.arbiter, terms.lock_height) for prevout in prevouts):
        return refuse(Reason.NO_NOTE)

    awarded = False
    for index, prevout in enumerate(prevouts):
        try:
            signers = {key for key, _ in verify_input(tx, index, prevout.script, prevout.amount, BLOCK_FLAGS)}
        except ScriptRefused:
            return refuse(Reason.NOT_SIGNED)
        # The ELSE branch asks for the buyer's signature alone and the keys differ, so the signers tell the branch.
        if terms.provider not in signers:
            return refuse(Reason.REFUND)
        awarded = awarded or terms.arbiter in signers
    return Candidate(
        txid=txid_of(tx),
        terms=terms,
        payout=amounts[0],
        tax=amounts[1],
        change=sum(amounts[2:]),
        fee=sum(prevout.amount for prevout in prevouts) - sum(amounts),
        awarded=awarded,
        fund_script=scripts[1],
        deposits=tuple(sorted({prevout.height for prevout in prevouts})),
    )


def judge(
    candidate: Candidate,
    fund_scripts: Collection[bytes],
    rate_at: Callable[[int], int],
    min_tax: int = money.DUST,
) -> Settlement | Refusal:
    """Say whether a candidate is settled work by the rules.

    `fund_scripts` are those that counted when the transaction confirmed; `rate_at(height)` is the tax rate in force
    at a height, in basis points. Pure.
    """
    if candidate.fund_script not in fund_scripts:
        return Refusal(candidate.txid, Reason.NOT_TO_FUND)
    gross = candidate.payout + candidate.tax
    rate = tax_rate(candidate.payout, candidate.tax, rates_for(candidate.deposits, rate_at), min_tax)
    if rate is None:
        return Refusal(candidate.txid, Reason.WRONG_TAX)
    return Settlement(
        txid=candidate.txid,
        terms=candidate.terms,
        gross=gross,
        payout=candidate.payout,
        tax=candidate.tax,
        tax_bps=rate,
        change=candidate.change,
        fee=candidate.fee,
        awarded=candidate.awarded,
    )


def tax_rate(payout: int, tax: int, rates: Iterable[int], min_tax: int = money.DUST) -> int | None:
    """The first of these rates, in basis points, at which `tax` is exact; None where there is none."""
    return next((bps for bps in rates if tax == money.tax(payout + tax, bps, min_tax)), None)


def rates_for(deposits: Collection[int], rate_at: Callable[[int], int]) -> list[int]:
    """The rates that fit deposits confirmed at these heights, every one of them, those in force last first."""
    windows = [
        dict.fromkeys(rate_at(at) for at in range(height, max(0, height - RATE_GRACE) - 1, -1))
        for height in sorted(deposits, reverse=True)
    ]
    return [rate for rate in windows[0] if all(rate in window for window in windows)]


def note_in(tx: Tx) -> FundingNote | None:
    """The funding note of a transaction, when that is what its note says."""
    found = note_of(tx)
    return found[1] if found is not None and isinstance(found[1], FundingNote) else None


def _redeem_of(script_sig: bytes, script: bytes) -> bytes:
    """The redeem script that an input shows for the P2SH output it spends; empty when there is none."""
    stack, error = eval_script(script_sig)
    return stack[-1] if error is None and stack and p2sh_script(stack[-1]) == script else b""
