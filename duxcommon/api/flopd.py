"""Replies of dux-flopd: `wallet.* chain.* key.* tx.*`. Amounts are koinu."""

from typing import Annotated, Literal

from pydantic import Field

from .common import Address, Hash32, Hex, Koinu, Model, PubKey, SignedKoinu, Txid, UnixTime

IntentState = Literal["built", "sent", "confirmed", "conflicted", "cancelled"]


class NetworkLabel(Model):
    """Which network the money is on; shown wherever money is."""

    name: str
    chain: Literal["main", "test", "regtest", "devnet", "litecoin-regtest"]
    worthless: bool
    """True on private trial networks: coins have no value."""


class Balance(Model):
    confirmed: Koinu
    pending: Koinu
    """Incoming or own change without a confirmation."""
    reserved: Koinu
    """Coins locked by transactions that are built and not yet confirmed."""
    in_channels: Koinu
    """Unspent deposits that this wallet paid into channels."""
    spendable: Koinu
    """What `wallet.send` can spend now."""
    network: NetworkLabel


class ReceiveAddress(Model):
    address: Address
    label: str


class SendResult(Model):
    id: str
    """Intent id; empty for a dry run."""
    state: Literal["dry-run", "built", "sent", "confirmed", "conflicted", "cancelled"]
    txid: Txid | None
    to: Address
    amount: Koinu
    fee: Koinu
    network: NetworkLabel


class Gift(Model):
    """Coins of a trial network's faucet."""

    txid: Txid
    address: Address
    """Of this wallet; made for the gift."""
    amount: Koinu
    confirmations: Annotated[int, Field(ge=0)]
    """0: it waits for a block."""
    network: NetworkLabel


class HistoryEntry(Model):
    txid: Txid
    time: UnixTime
    change: SignedKoinu
    fee: Koinu
    confirmations: int
    purpose: str
    """receive, send, fund, close, refund, payout…"""
    label: str
    height: int | None


class History(Model):
    entries: list[HistoryEntry]
    next: int | None
    """Pass as `skip` for the next page; null at the end."""


class WalletStatus(Model):
    locked: bool
    exists: bool
    payout_pubkey: PubKey | None
    payout_address: Address | None
    why: str | None
    """Why it is locked or can't be used, and what to do; null while it is open."""


class ChainStatus(Model):
    network: NetworkLabel
    genesis: Hash32
    height: int
    headers: int
    best: Hash32
    syncing: bool
    peers: int
    dialect: Literal["flopcoin", "modern"]
    version: str
    """The daemon's subversion string, e.g. /LitecoinCore:0.21.2.1/."""


class KeyInfo(Model):
    pubkey: PubKey
    address: Address


class TxOutput(Model):
    """An output to pay; `script` is the scriptPubKey in hex."""

    script: Hex
    amount: Koinu


class TxIntent(Model):
    """A transaction that was committed to the database before it was sent."""

    id: str
    state: IntentState
    txid: Txid
    hex: Hex
    fee: Koinu
    purpose: str
    ref: str
    confirmations: int
    height: int | None


class WatchedOutput(Model):
    """An output that pays a watched script, and what became of it."""

    txid: Txid
    vout: int
    amount: Koinu
    height: int | None
    """Block height; null while it is in the mempool only."""
    confirmations: int
    note: Hex | None = None
    """Data of the note that its transaction carries, if any; see duxcommon.coin.notes."""
    spender_txid: Txid | None
    spender_height: int | None
    spender_confirmations: int
    spender_hex: Hex | None
    """Its bytes; null at the further outputs that the same transaction spends."""


class Watched(Model):
    """All outputs ever seen paying one script since it was watched, oldest first."""

    ref: str
    script: Hex
    height: int
    """Chain tip this answer was computed at."""
    outputs: list[WatchedOutput]


class PrevOut(Model):
    """An input to sign: the output it spends and the redeem script in hex."""

    txid: Txid
    vout: Annotated[int, Field(ge=0)]
    amount: Koinu
    redeem: Hex


class Signatures(Model):
    """DER + SIGHASH_ALL byte, one for each input of the transaction, in order."""

    signatures: list[Hex]


# --- facts of the chain: what everybody who has the chain finds in it, whatever rules are in force -----------------


class BlockRef(Model):
    """A block by height and hash."""

    height: Annotated[int, Field(ge=0)]
    hash: Hash32


class Place(Model):
    """Where in the chain something stands: block, number of the transaction in it, number within the transaction."""

    height: Annotated[int, Field(ge=0)]
    index: Annotated[int, Field(ge=0)]
    part: Annotated[int, Field(ge=0)] = 0


class SettlementFact(Model):
    """A transaction that has the form of settled work; tax rate and fund address are still to be judged."""

    at: Place
    txid: Txid
    provider: PubKey
    buyer: PubKey
    arbiter: PubKey
    lock_height: int
    payout: Koinu
    tax: Koinu
    """Paid to `fund_script`; gross is `payout + tax`."""
    change: Koinu
    fee: Koinu
    awarded: bool
    fund_script: Hex
    deposits: list[int]
    """Heights at which the deposits that it spends confirmed, ascending, each once."""


class SettlementPage(Model):
    facts: list[SettlementFact]
    next: Place | None
    """Pass as `after` for the next page; null at the end."""
    tip: BlockRef
    """The last block that was looked at; everything up to it is told."""


class BondFact(Model):
    """An output that a payout key can only spend from a height on, announced by the note of its transaction."""

    at: Place
    txid: Txid
    vout: int
    pubkey: PubKey
    lock_height: int
    amount: Koinu
    paid: dict[Hex, Koinu]
    """What the same transaction paid to other P2SH scripts: it counts only if the fund's is among them."""


class BondPage(Model):
    facts: list[BondFact]
    next: Place | None
    tip: BlockRef


class NoteFact(Model):
    """A transaction with a proposal, a vote or an approval in its OP_RETURN."""

    at: Place
    txid: Txid
    note: Hex
    """The data of the OP_RETURN; see duxcommon.coin.notes."""
    paid: dict[Hex, Koinu]
    """What it paid to P2SH scripts: it counts only if the fund's is among them."""
    signers: list[PubKey]
    """Keys that signed an input of it as the owner of a P2PKH output."""


class NotePage(Model):
    facts: list[NoteFact]
    next: Place | None
    tip: BlockRef


class FundFact(Model):
    """A payment to a fund address that this node watches, or the spending of one."""

    at: Place
    event: Literal["paid", "spent"]
    """`at` is the place of the transaction that pays, or of the one that spends."""
    txid: Txid
    vout: int
    """The output that was paid or spent."""
    amount: Koinu
    script: Hex
    spender: Txid | None
    """Of `spent`."""


class FundPage(Model):
    facts: list[FundFact]
    next: Place | None
    tip: BlockRef


class Transaction(Model):
    """The bytes of a confirmed transaction that spends from a fund address."""

    txid: Txid
    hex: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=2_000_000)]
    height: int


# --- what a guardian signs, and bonds ------------------------------------------------------------------------------


class Approval(Model):
    """A guardian's signature under a proposal; see `duxcommon.coin.notes.approval_message`."""

    pubkey: PubKey
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Cosignature(Model):
    """A guardian's signatures of a fund transaction."""

    pubkey: PubKey
    signatures: list[Hex | None]
    """DER + SIGHASH_ALL byte, one for each input in order; null where the input's script does not name the key."""


class BondOutpoint(Model):
    """A bond: where it is, and the height at which its coins come free."""

    txid: Txid
    vout: Annotated[int, Field(ge=0, le=2**32 - 1)]
    lock_height: Annotated[int, Field(ge=1, le=499_999_999)]
