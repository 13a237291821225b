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
