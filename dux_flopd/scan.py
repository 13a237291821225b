"""What a block says about settled work, bonds, proposals and votes, whatever rules are in force. Pure: no I/O.

Only what can be checked from the chain is told, and the same on every node: signatures and branches are verified
here, while tax rates, fund addresses and electorates are for others to judge. Limits on what one transaction can say
keep a block of the worst kind from costing minutes: a sighash takes as long as its transaction is large.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from btclib.script.engine.script import eval_script
from btclib.tx import Tx

from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import ApprovalNote, BondNote, Note, ProposalNote, VoteNote, note_of
from duxcommon.coin.script import FundingNote, is_p2sh, p2pkh_script, parse_escrow
from duxcommon.coin.settlement import MAX_INPUTS, Candidate, Prevout, inspect
from duxcommon.coin.tx import check_signature, low_s

from .blocks import Block, SeenTx
from .core import OutpointKey

MAX_PAID = 16
"""So many different P2SH scripts, in the order of the outputs, are told of a transaction with a bond or a vote."""

MAX_SIGNERS = 16
"""So many inputs, the first ones, are looked at for keys that signed a vote."""

_KEY = rb"\x21[\x02\x03].{32}"
_A_KEY = re.compile(rb"[\x02\x03].{32}", re.DOTALL)
_WORTH_READING = re.compile(
    rb"\x6a(?:\x4c.|.)DUX[\x01-\x07]"  # a note
    rb"|\xad\x51" + _KEY + _KEY + rb"\x52\xae\x67",  # the middle of an escrow script
    re.DOTALL,
)

Lookup = Callable[[OutpointKey], Prevout | None]


@dataclass(frozen=True, slots=True)
class Deposit:
    """An output of a transaction with a funding note that may be a channel's."""

    outpoint: OutpointKey
    prevout: Prevout


@dataclass(frozen=True, slots=True)
class Settled:
    """A candidate for settled work, and the number of its transaction in the block."""

    index: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Bonded:
    """An output that is a bond."""

    index: int
    txid: str
    vout: int
    pubkey: bytes
    lock_height: int
    amount: int
    paid: dict[bytes, int]


@dataclass(frozen=True, slots=True)
class Noted:
    """A transaction with a proposal, a vote or an approval."""

    index: int
    txid: str
    data: bytes
    paid: dict[bytes, int]
    signers: list[bytes]


@dataclass(slots=True)
class Found:
    """What one block says."""

    deposits: list[Deposit] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    bonded: list[Bonded] = field(default_factory=list)
    noted: list[Noted] = field(default_factory=list)


def scan(block: Block, height: int, known: Lookup) -> Found:
    """What the block at `height` says; `known` tells deposits of earlier blocks.

    Nearly every block says nothing, and a search for the few byte strings that matter spares the reading of it.
    """
    found = Found()
    if not _WORTH_READING.search(block.raw):
        return found
    deposits: dict[OutpointKey, Prevout] = {}

    def deposit(spent: OutpointKey) -> Prevout | None:
        return deposits.get(spent) or known(spent)

    for index, seen in enumerate(block.txs):
        noted = note_of(seen.tx)
        if noted is not None:
            _read_note(found, index, seen, height, *noted)
            deposits.update((made.outpoint, made.prevout) for made in _deposits(seen, height, noted[1]))
        if seen.tx.is_coinbase:
            continue
        candidate = _candidate(seen.tx, deposit)
        if candidate is not None:
            found.settled.append(Settled(index, candidate))
    found.deposits = [Deposit(outpoint, prevout) for outpoint, prevout in deposits.items()]
    return found


def _read_note(found: Found, index: int, seen: SeenTx, height: int, data: bytes, note: Note) -> None:
    if isinstance(note, BondNote):
        script = bond_output(note.pubkey, note.lock_height)
        paid = _paid(seen, script)
        found.bonded += [
            Bonded(index, seen.txid, vout, note.pubkey, note.lock_height, amount, paid)
            for vout, (pays, amount) in enumerate(seen.pays)
            if pays == script
        ]
    elif isinstance(note, ProposalNote | VoteNote | ApprovalNote):
        found.noted.append(Noted(index, seen.txid, data, _paid(seen), signers(seen.tx)))


def _deposits(seen: SeenTx, height: int, note: Note) -> Iterator[Deposit]:
    if isinstance(note, FundingNote):
        for vout, (script, amount) in enumerate(seen.pays):
            if is_p2sh(script):
                yield Deposit((seen.txid, vout), Prevout(script, amount, height, note))


def _paid(seen: SeenTx, other_than: bytes = b"") -> dict[bytes, int]:
    """What a transaction pays to P2SH scripts."""
    paid: dict[bytes, int] = {}
    for script, amount in seen.pays:
        if is_p2sh(script) and script != other_than and (script in paid or len(paid) < MAX_PAID):
            paid[script] = paid.get(script, 0) + amount
    return paid


def signers(tx: Tx) -> list[bytes]:
    """The keys that signed this transaction as owners of P2PKH outputs, each once, in the order of the inputs.

    What an input spends is not known here. It need not be: a SIGHASH_ALL signature over this very transaction by a
    key, with the P2PKH script of that key as the script code, proves that the key's owner signed it, whatever the
    output was. An input script that only looks like one (a P2SH redeem script of the size of a key, say) has no such
    signature.

    How the two are pushed, what lies below them and which of its two forms S has does not matter: whoever mines the
    block can change that, and a vote that is spent must count.
    """
    found: dict[bytes, None] = {}
    for index, txin in enumerate(tx.vin[:MAX_SIGNERS]):
        signature, key = _signature_and_key(txin.script_sig)
        if not 9 <= len(signature) <= 73 or not _A_KEY.fullmatch(key) or key in found:
            continue
        if check_signature(tx, index, p2pkh_script(key), key, low_s(signature)):
            found[key] = None
    return list(found)


def _signature_and_key(script_sig: bytes) -> tuple[bytes, bytes]:
    """What the input of a P2PKH output leaves on top of the stack; empty where that is not two things."""
    size = script_sig[0] if script_sig else 0
    if 9 <= size <= 73 and len(script_sig) == 1 + size + 1 + 33 and script_sig[1 + size] == 33:
        # As everybody writes it; only a miner has a reason to write it otherwise.
        return script_sig[1 : 1 + size], script_sig[2 + size :]
    if not _A_KEY.search(script_sig):
        return b"", b""
    stack, error = eval_script(script_sig)
    return (stack[-2], stack[-1]) if error is None and len(stack) > 1 else (b"", b"")


def _candidate(tx: Tx, deposit: Lookup) -> Candidate | None:
    """Settled work by its form, if all that the transaction spends are noted deposits."""
    if not 2 <= len(tx.vout) <= 3 or len(tx.vin) > MAX_INPUTS or not _last_push_is_escrow(tx.vin[0].script_sig):
        return None
    prevouts = []
    for txin in tx.vin:
        prevout = deposit((txin.prev_out.tx_id.hex(), txin.prev_out.vout))
        if prevout is None:
            return None
        prevouts.append(prevout)
    verdict = inspect(tx, prevouts)
    return verdict if isinstance(verdict, Candidate) else None


def _last_push_is_escrow(script_sig: bytes) -> bool:
    if not _WORTH_READING.search(script_sig):
        return False
    stack, error = eval_script(script_sig)
    return error is None and bool(stack) and parse_escrow(stack[-1]) is not None
