"""What transactions say in their OP_RETURN: at most 80 bytes, the tag `DUX`, a byte for the kind, then fields.

The whole effect of a proposal is in its note, not just the hash of a document: a node that never sees the document
comes to the same rules. `decode` takes exactly the bytes that `encode` makes and nothing else; whether a note may do
what it says (bounds, members, money) is for the rules of governance to judge. Heights and counts are big-endian.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol, Self, get_args

from btclib.tx import Tx
from btclib_secp256k1 import dsa

from ..errors import BadTerms
from .script import MAX_LOCK_HEIGHT, FundingNote, is_pubkey, op_return_data

TAG = b"DUX"
MAX_NOTE = 80
"""Bytes of data that an output may carry and still relay."""

PROPOSAL_PREFIX = 12
"""Bytes of a proposal's id in an approval: so much room is left beside a signature."""

_BOND, _PROPOSAL, _VOTE, _APPROVAL, _FUND, _BATCH = (TAG + bytes([kind]) for kind in range(2, 8))
_HEAD = len(TAG) + 1
_HASH, _KEY, _SIGNATURE = 32, 33, 64
_NO_INDEX, _NO_KEY = 255, bytes(33)
_MAX_NUMBER = 2**63 - 1  # what a database's integer holds; far above any amount or height


FundKind = Literal["payout", "sweep", "grant"]
"""What a transaction that spends from the community fund is for."""

_FUND_KINDS: tuple[FundKind, ...] = get_args(FundKind)
"""In the order of their bytes, from 1 on."""


def _number(value: int, size: int, what: str) -> bytes:
    if not 0 <= value <= min(_MAX_NUMBER, 256**size - 1):
        raise BadTerms(f"{what} {value} does not fit {size} bytes")
    return value.to_bytes(size, "big")


def _sized(data: bytes, size: int, what: str) -> bytes:
    if len(data) != size:
        raise BadTerms(f"{what} has {size} bytes, not {len(data)}")
    return data


def _member(out: int | None, into: bytes | None) -> tuple[bytes, bytes]:
    """Bytes of who leaves (an index, or none) and who comes (a public key, or none)."""
    if out is not None and not 0 <= out < _NO_INDEX:
        raise BadTerms(f"there is no member number {out}")
    if into is not None and not is_pubkey(into):
        raise BadTerms(f"{into.hex()[:80]} is not a compressed public key")
    return bytes([_NO_INDEX if out is None else out]), _NO_KEY if into is None else into


def _read_member(out: int, into: bytes) -> tuple[int | None, bytes | None]:
    return None if out == _NO_INDEX else out, None if into == _NO_KEY else into


# --- what a proposal changes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A governed parameter, by its number, gets another value."""

    number: int
    value: int

    def encode(self) -> bytes:
        """Class 1: number (1 byte), value (8). Raises BadTerms."""
        return b"\x01" + _number(self.number, 1, "parameter number") + _number(self.value, 8, "value")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the class."""
        return cls(body[0], int.from_bytes(body[1:], "big"))


@dataclass(frozen=True, slots=True)
class GuardianChange:
    """One guardian leaves, one comes, or both, and `m` of those who are then there must sign."""

    out: int | None
    """Index into the set in force, sorted by public key."""
    into: bytes | None
    m: int

    def encode(self) -> bytes:
        """Class 2: index (255: none), m, public key (zeros: none). Raises BadTerms."""
        out, into = _member(self.out, self.into)
        return b"\x02" + out + _number(self.m, 1, "m") + into

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the class."""
        return cls(*_read_member(body[0], body[2:]), body[1])


@dataclass(frozen=True, slots=True)
class ArbiterChange:
    """One arbiter leaves, one comes, or both."""

    out: int | None
    """Index into the arbiters in force, in their order."""
    into: bytes | None

    def encode(self) -> bytes:
        """Class 3: index (255: none), public key (zeros: none). Raises BadTerms."""
        out, into = _member(self.out, self.into)
        return b"\x03" + out + into

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the class."""
        return cls(*_read_member(body[0], body[1:]))


@dataclass(frozen=True, slots=True)
class Spend:
    """The fund pays `amount` koinu to a P2PKH or P2SH output script."""

    script: bytes
    amount: int

    def encode(self) -> bytes:
        """Class 4: type of the script (0 P2PKH, 1 P2SH), its hash (20), amount (8). Raises BadTerms."""
        for kind, (head, tail) in enumerate(_SCRIPTS):
            digest = self.script[len(head) : len(head) + 20]
            if self.script == head + digest + tail and len(digest) == 20:
                return b"\x04" + bytes([kind]) + digest + _number(self.amount, 8, "amount")
        raise BadTerms("the fund pays to P2PKH and P2SH scripts only")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the class; raises IndexError for another type of script."""
        head, tail = _SCRIPTS[body[0]]
        return cls(head + body[1:21] + tail, int.from_bytes(body[21:], "big"))


_SCRIPTS = ((b"\x76\xa9\x14", b"\x88\xac"), (b"\xa9\x14", b"\x87"))
"""What stands around the hash in output scripts of type 0 (P2PKH) and 1 (P2SH)."""

Change = ParameterChange | GuardianChange | ArbiterChange | Spend
_CLASSES: dict[int, tuple[type[Change], int]] = {
    1: (ParameterChange, 9),
    2: (GuardianChange, 2 + _KEY),
    3: (ArbiterChange, 1 + _KEY),
    4: (Spend, 29),
}
"""Class byte → type, and the size of what follows."""


# --- notes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BondNote:
    """Outputs of this transaction that pay the bond script of this key and height are its bond."""

    pubkey: bytes
    lock_height: int

    def encode(self) -> bytes:
        """41 bytes. Raises BadTerms."""
        if not is_pubkey(self.pubkey) or not 1 <= self.lock_height <= MAX_LOCK_HEIGHT:
            raise BadTerms("a bond has a compressed public key and a lock height that is no clock time")
        return _BOND + self.pubkey + self.lock_height.to_bytes(4, "big")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag."""
        return cls(body[:_KEY], int.from_bytes(_sized(body[_KEY:], 4, "a height"), "big"))


@dataclass(frozen=True, slots=True)
class ProposalNote:
    """A change that is put to the vote, and the SHA-256 of the document that gives the reasons."""

    change: Change
    document: bytes

    def encode(self) -> bytes:
        """At most 72 bytes. Raises BadTerms."""
        return _PROPOSAL + self.change.encode() + _sized(self.document, _HASH, "the hash of a document")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag; raises ValueError for an unknown class."""
        kind, size = _CLASSES.get(body[0] if body else 0, (None, 0))
        if kind is None:
            raise ValueError("unknown class")
        return cls(kind.read(_sized(body[1:-_HASH], size, "a change")), body[-_HASH:])


@dataclass(frozen=True, slots=True)
class VoteNote:
    """Yes or no to a proposal, by its id."""

    proposal: bytes
    yes: bool

    def encode(self) -> bytes:
        """37 bytes. Raises BadTerms."""
        return _VOTE + _sized(self.proposal, _HASH, "the id of a proposal") + (b"\x01" if self.yes else b"\x00")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag."""
        return cls(body[:_HASH], body[_HASH:] == b"\x01")


@dataclass(frozen=True, slots=True)
class ApprovalNote:
    """A guardian's signature under a proposal; see `approval_message`."""

    proposal: bytes
    """The first 12 bytes of its id."""
    signature: bytes
    """Compact ECDSA, 64 bytes, low S."""

    def encode(self) -> bytes:
        """80 bytes. Raises BadTerms."""
        proposal = _sized(self.proposal, PROPOSAL_PREFIX, "the beginning of a proposal's id")
        return _APPROVAL + proposal + _sized(self.signature, _SIGNATURE, "a signature")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag."""
        return cls(body[:PROPOSAL_PREFIX], body[PROPOSAL_PREFIX:])


@dataclass(frozen=True, slots=True)
class FundNote:
    """A transaction of the community fund: its number in the chain of anchors, and the manifest it carries out."""

    kind: FundKind
    sequence: int
    manifest: bytes
    """SHA-256 of the manifest."""

    def encode(self) -> bytes:
        """41 bytes. Raises BadTerms."""
        head = _FUND + bytes([_FUND_KINDS.index(self.kind) + 1]) + _number(self.sequence, 4, "sequence")
        return head + _sized(self.manifest, _HASH, "the hash of a manifest")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag; raises IndexError for an unknown kind."""
        return cls(_FUND_KINDS[body[0] - 1], int.from_bytes(body[1:5], "big"), body[5:])


@dataclass(frozen=True, slots=True)
class BatchNote:
    """One batch of a payout with more recipients than one transaction pays."""

    sequence: int
    batch: int
    manifest: bytes

    def encode(self) -> bytes:
        """42 bytes. Raises BadTerms."""
        head = _BATCH + _number(self.sequence, 4, "sequence") + _number(self.batch, 2, "batch")
        return head + _sized(self.manifest, _HASH, "the hash of a manifest")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """From the bytes after the tag."""
        return cls(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:6], "big"), body[6:])


Note = FundingNote | BondNote | ProposalNote | VoteNote | ApprovalNote | FundNote | BatchNote


class _Kind(Protocol):
    def read(self, body: bytes) -> Note: ...


_KINDS: dict[bytes, _Kind] = {
    _BOND: BondNote,
    _PROPOSAL: ProposalNote,
    _VOTE: VoteNote,
    _APPROVAL: ApprovalNote,
    _FUND: FundNote,
    _BATCH: BatchNote,
}


def decode(data: bytes) -> Note | None:
    """The note in the data of an OP_RETURN; None unless encoding it again gives the same bytes."""
    if len(data) > MAX_NOTE or not data.startswith(TAG):
        return None
    kind = _KINDS.get(data[:_HEAD])
    if kind is None:
        return FundingNote.decode(data)
    try:
        note = kind.read(data[_HEAD:])
        return note if note.encode() == data else None
    except (BadTerms, ValueError, IndexError):
        return None


def note_of(tx: Tx) -> tuple[bytes, Note] | None:
    """Data and meaning of the note that a transaction carries: the first of its outputs that holds one.

    A transaction says one thing: further notes, which only a miner could add, mean nothing.
    """
    for output in tx.vout:
        script = output.script_pub_key.script
        if script[:1] == b"\x6a" and (data := op_return_data(script)) and (note := decode(data)):
            return data, note
    return None


# --- proposals and approvals -----------------------------------------------------------------------------------------


def proposal_id(network_id: str, note_data: bytes) -> str:
    """Id of the proposal in this note on this network, hex.

    The first confirmed transaction that carries it makes the proposal; later ones with the same id change nothing.
    """
    return hashlib.sha256(b"dux-proposal-v1\n" + bytes.fromhex(network_id) + note_data).hexdigest()


def approval_message(network_id: str, proposal: str) -> bytes:
    """The 32 bytes that a guardian signs to approve a proposal (its whole id, hex)."""
    return hashlib.sha256(b"dux-approval-v1\n" + bytes.fromhex(network_id) + bytes.fromhex(proposal)).digest()


def sign_approval(network_id: str, proposal: str, secret: bytes) -> bytes:
    """A guardian's compact signature under a proposal, low S, for `ApprovalNote`."""
    return dsa.sign(approval_message(network_id, proposal), secret, compact=True)


def approves(note: ApprovalNote, network_id: str, proposal: str, pubkey: bytes) -> bool:
    """Whether this note approves that proposal in the name of that guardian key; raises nothing."""
    if bytes.fromhex(proposal)[:PROPOSAL_PREFIX] != note.proposal:
        return False
    try:
        return dsa.verify(approval_message(network_id, proposal), pubkey, note.signature, compact=True)
    except ValueError:
        return False
