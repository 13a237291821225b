"""What dux-flopd answers: `wallet.* chain.* key.* tx.*`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from duxcommon.api.common import Address, Hash32, Hex, IdempotencyKey, Koinu, PubKey, Seconds
from duxcommon.api.flopd import (
    Approval,
    Balance,
    BondOutpoint,
    ChainStatus,
    Cosignature,
    Gift,
    History,
    KeyInfo,
    PrevOut,
    ReceiveAddress,
    SendResult,
    Signatures,
    TxIntent,
    TxOutput,
    WalletStatus,
    Watched,
)
from duxcommon.errors import (
    BadAddress,
    BadTransaction,
    BondUnknown,
    ChainAuthFailed,
    ChainDown,
    ChainFault,
    ChainSyncing,
    ChainWalletLocked,
    Conflict,
    DiskFull,
    DustAmount,
    FaucetLimit,
    FeeTooHigh,
    InsufficientFunds,
    IntentSent,
    IntentUnknown,
    KeystoreMissing,
    KeyUnknown,
    NoFaucet,
    NoPayoutCoin,
    NotPayable,
    SignRefused,
    TooManyInputs,
    TxRejected,
    TxTooEarly,
    WalletLocked,
    WatchUnknown,
    WrongChain,
    WrongPassphrase,
)
from duxcommon.rpc import Caller, method

from . import funding
from .bonds import MAX_BONDS

if TYPE_CHECKING:
    from .daemon import FlopDaemon

Label = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Ref = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]
"""A name that the caller chooses: a channel's id, say."""
Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]
IntentId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Height = Annotated[int, Field(ge=0, le=499_999_999)]
Passphrase = Annotated[str, Field(min_length=1, max_length=1000)]

REACH = (ChainDown, ChainAuthFailed, WrongChain, ChainFault)
SPEND = (*REACH, ChainSyncing, ChainWalletLocked, WalletLocked, KeystoreMissing, Conflict, DiskFull)
PAY = (*SPEND, InsufficientFunds, DustAmount, FeeTooHigh, TxRejected)


class WalletMethods:
    """The wallet, for people and for the other daemons."""

    def __init__(self, daemon: "FlopDaemon") -> None:
        self._daemon = daemon

    @method("wallet.balance", access="read", errors=REACH)
    async def balance(self) -> Balance:
        """Show how much money there is and how much of it can be spent.

        `confirmed` includes what is reserved; `spendable` is `confirmed` and own change less `reserved`.
        """
        self._daemon.watcher.current()
        return await self._daemon.wallet.balance()

    @method("wallet.receive", access="spend", errors=REACH, example={"label": "from the faucet"}, limit="10/s")
    async def receive(self, label: Label = "") -> ReceiveAddress:
        """Make a fresh address to be paid at; the label is shown in the history."""
        self._daemon.watcher.current()
        return await self._daemon.wallet.receive(label)

    @method(
        "wallet.send",
        access="spend",
        errors=(*PAY, BadAddress),
        example={"to": "dDRHcmpvuEhrc1YoCkygeHVoeQBtzThwNG", "amount": 150000000, "key": "rent-may", "dry_run": True},
    )
    async def send(
        self,
        to: Address,
        amount: Koinu,
        key: IdempotencyKey,
        *,
        caller: Caller,
        fee: Literal["normal", "high"] = "normal",
        dry_run: bool = False,
    ) -> SendResult:
        """Pay an address.

        The same key never pays twice, however often the call is made. `dry_run` only tells the fee. State `sent`
        means that it is on its way or goes as soon as the chain can be reached again; see `tx.status`.
        """
        settings = self._daemon.settings
        rate = settings.fee_rate if fee == "normal" else settings.fee_rate_high
        return await self._daemon.wallet.send(caller.uid, to, amount, key, fee_rate=rate, dry_run=dry_run)

    @method(
        "wallet.faucet",
        access="spend",
        errors=(*REACH, ChainSyncing, Conflict, DiskFull, DustAmount, NoFaucet, FaucetLimit),
        example={"amount": 5_000_000_000, "key": "first-coins"},
        limit="10/m",
    )
    async def faucet(self, amount: Koinu, key: IdempotencyKey, *, caller: Caller, wait_s: Seconds = 10.0) -> Gift:
        """Get coins from the faucet of a private trial network, where coins have no value.

        The same key never asks twice. Waits up to `wait_s` seconds for the first confirmation. How much there is at a
        time and an hour is set where the chain runs.
        """
        self._daemon.watcher.ready()
        return await self._daemon.faucet.give(caller.uid, amount, key, wait_s)

    @method("wallet.history", access="read", errors=REACH, example={"limit": 20})
    async def history(
        self,
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
        skip: Annotated[int, Field(ge=0, le=100_000)] = 0,
    ) -> History:
        """List what changed the balance, newest first; `next` is the `skip` of the next page."""
        self._daemon.watcher.current()
        return await self._daemon.wallet.history(limit, skip)

    @method("wallet.status", access="read")
    async def status(self) -> WalletStatus:
        """Show whether the wallet is locked, and the payout address."""
        return self._daemon.keyring.status()

    @method(
        "wallet.unlock",
        access="admin",
        errors=(WrongPassphrase, KeystoreMissing),
        example={"passphrase": "…"},
        limit="10/m",
    )
    async def unlock(self, passphrase: Passphrase) -> WalletStatus:
        """Open the keystore with its passphrase, until `wallet.lock` or the next start."""
        await self._daemon.unlock(passphrase)
        return self._daemon.keyring.status()

    @method("wallet.lock", access="admin", errors=(KeystoreMissing,))
    async def lock(self) -> WalletStatus:
        """Forget the private keys: nothing can be signed or sent until the next unlock."""
        self._daemon.keyring.lock()
        return self._daemon.keyring.status()


class ChainMethods:
    """The chain, and what happens to watched scripts."""

    def __init__(self, daemon: "FlopDaemon") -> None:
        self._daemon = daemon

    @method("chain.status", access="read", errors=REACH)
    async def status(self) -> ChainStatus:
        """Show which chain the node is on, its height and whether Core has caught up.

        `height` and `best` are of the last block that was looked at: `chain.watched` knows that block.
        """
        return self._daemon.chain_status(await self._daemon.watcher.fresh())

    @method("chain.wait", access="read", errors=REACH, example={"best": "0" * 64, "timeout_s": 5.0})
    async def wait(self, best: Hash32, timeout_s: Seconds = 25.0) -> ChainStatus:
        """Wait for a tip other than `best`, for at most `timeout_s` seconds."""
        return self._daemon.chain_status(await self._daemon.watcher.wait(best, timeout_s))

    @method(
        "chain.watch",
        access="daemon",
        errors=(*REACH, Conflict, DiskFull),
        example={"script": "a914" + "00" * 20 + "87", "ref": "channel/1", "birth_height": 0},
    )
    async def watch(
        self,
        script: Annotated[Hex, Field(min_length=2, max_length=20_000)],
        ref: Ref,
        birth_height: Height | None = None,
    ) -> Watched:
        """Follow all outputs that pay a script, and what spends them, from a block on.

        Without `birth_height` from the next block on. Calling it again changes nothing. When the scan of old blocks
        takes long, the answer's `height` tells how far it has come.
        """
        await self._daemon.watcher.watch(script, ref, birth_height)
        return await self._daemon.watcher.watched(ref, 0)

    @method("chain.watched", access="daemon", errors=(WatchUnknown,), example={"ref": "channel/1"})
    async def watched(self, ref: Ref, min_height: Height = 0) -> Watched:
        """Tell all outputs that paid a watched script, and what spent them.

        With `min_height` only those that appeared or were spent at that height or above, and unconfirmed ones.
        """
        return await self._daemon.watcher.watched(ref, min_height)


class KeyMethods:
    """Keys for channels."""

    def __init__(self, daemon: "FlopDaemon") -> None:
        self._daemon = daemon

    @method("key.payout", access="daemon", errors=(KeystoreMissing,))
    async def payout(self) -> KeyInfo:
        """Tell the node's one stable payout key."""
        return self._daemon.keyring.payout()

    @method(
        "key.new", access="daemon", errors=(*REACH, WalletLocked, KeystoreMissing, DiskFull), example={"ref": "c/1"}
    )
    async def new(self, ref: Ref, caller: Caller) -> KeyInfo:
        """Tell the key that the calling daemon has under a name; it is made at the first call."""
        return await self._daemon.keyring.new(caller.uid, ref)

    @method("key.guardian", access="read", errors=(WalletLocked, KeystoreMissing))
    async def guardian(self) -> KeyInfo:
        """Tell the node's key as a guardian of the community fund; a proposal that makes it one names this key."""
        return self._daemon.guardian.key()

    @method("key.arbiter", access="read", errors=(WalletLocked, KeystoreMissing))
    async def arbiter(self) -> KeyInfo:
        """Tell the node's key as an arbiter; a proposal that makes it one names this key."""
        return self._daemon.keyring.arbiter()

    @method("key.approve", access="daemon", errors=(WalletLocked, KeystoreMissing), example={"proposal": "0" * 64})
    async def approve(self, proposal: Hash32, caller: Caller) -> Approval:
        """Sign a proposal with the guardian key; only for the user that `guardian_user` names."""
        return self._daemon.guardian.approve(caller, proposal)


class TxMethods:
    """Transactions of channels."""

    def __init__(self, daemon: "FlopDaemon") -> None:
        self._daemon = daemon

    @method(
        "tx.fund",
        access="daemon",
        errors=(*PAY, NoPayoutCoin),
        example={
            "outputs": [{"script": "a914" + "00" * 20 + "87", "amount": 100000000}],
            "data": None,
            "key": "open-1",
            "purpose": "fund",
            "ref": "channel/1",
        },
    )
    async def fund(
        self,
        outputs: list[TxOutput],
        data: Hex | None,
        key: IdempotencyKey,
        *,
        purpose: Purpose,
        ref: Ref,
        from_payout: bool = False,
        caller: Caller,
    ) -> TxIntent:
        """Build, sign and commit a payment and lock its coins; it is not sent.

        With `from_payout` it spends a confirmed coin of the payout address, so that it proves the payout key, and the
        change goes back there.
        """
        proof = self._daemon.keyring.proof() if from_payout else None
        intent = await self._daemon.transactions.fund(
            caller.uid,
            f"fund:{key}",
            [(bytes.fromhex(output.script), output.amount) for output in outputs],
            data=bytes.fromhex(data) if data else None,
            purpose=purpose,
            ref=ref,
            fee_rate=self._daemon.settings.fee_rate,
            max_fee=funding.MAX_FEE,
            sending=False,
            proof=proof,
        )
        return self._daemon.intent_reply(intent)

    @method(
        "tx.broadcast", access="daemon", errors=(*REACH, IntentUnknown, TxRejected, DiskFull), example={"id": "0" * 32}
    )
    async def broadcast(self, id: IntentId) -> TxIntent:
        """Send a transaction that `tx.fund` built; it is sent again until a block holds it."""
        return self._daemon.intent_reply(await self._daemon.transactions.broadcast(id))

    @method(
        "tx.submit",
        access="daemon",
        errors=(*REACH, Conflict, BadTransaction, DustAmount, FeeTooHigh, TxRejected, TxTooEarly, DiskFull),
        example={"hex": "00", "key": "close-1", "purpose": "close", "ref": "channel/1"},
    )
    async def submit(self, hex: Hex, key: IdempotencyKey, purpose: Purpose, ref: Ref, caller: Caller) -> TxIntent:
        """Commit and send a fully signed transaction; it is sent again until a block holds it."""
        intent = await self._daemon.transactions.submit(caller.uid, f"submit:{key}", hex, purpose=purpose, ref=ref)
        return self._daemon.intent_reply(intent)

    @method(
        "tx.release",
        access="daemon",
        errors=(*SPEND, BondUnknown, BadTransaction, NotPayable, TooManyInputs, TxRejected, TxTooEarly),
        example={"bonds": [{"txid": "0" * 64, "vout": 1, "lock_height": 20000}], "key": "bond-1"},
    )
    async def release(
        self,
        bonds: Annotated[list[BondOutpoint], Field(min_length=1, max_length=MAX_BONDS)],
        key: IdempotencyKey,
        caller: Caller,
    ) -> TxIntent:
        """Send bonds of the payout key back to the payout address once their lock heights are reached.

        The fee is taken from them. It is sent again until a block holds it; the same key never does it twice.
        """
        return self._daemon.intent_reply(await self._daemon.releases.release(caller.uid, key, bonds))

    @method("tx.status", access="daemon", errors=(IntentUnknown,), example={"id": "0" * 32})
    async def status(self, id: IntentId) -> TxIntent:
        """Tell what became of a transaction."""
        return self._daemon.intent_reply(self._daemon.transactions.get(id))

    @method("tx.cancel", access="daemon", errors=(IntentUnknown, IntentSent, DiskFull), example={"id": "0" * 32})
    async def cancel(self, id: IntentId) -> TxIntent:
        """Give up a transaction that was never sent and free its coins."""
        return self._daemon.intent_reply(await self._daemon.transactions.cancel(id))

    @method(
        "tx.sign",
        access="daemon",
        errors=(WalletLocked, KeystoreMissing, KeyUnknown, SignRefused, BadTransaction),
        example={"hex": "00", "prevouts": [], "pubkey": "02" + "11" * 32},
    )
    async def sign(
        self, hex: Hex, prevouts: Annotated[list[PrevOut], Field(max_length=100)], pubkey: PubKey, caller: Caller
    ) -> Signatures:
        """Sign all inputs of a channel's transaction with a key of the calling daemon or the payout key."""
        made = self._daemon.keyring.sign(caller.uid, hex, prevouts, bytes.fromhex(pubkey))
        return Signatures(signatures=[signature.hex() for signature in made])

    @method(
        "tx.cosign",
        access="daemon",
        errors=(WalletLocked, KeystoreMissing, SignRefused, BadTransaction),
        example={"hex": "00", "prevouts": []},
    )
    async def cosign(
        self, hex: Hex, prevouts: Annotated[list[PrevOut], Field(max_length=300)], caller: Caller
    ) -> Cosignature:
        """Sign a community fund's transaction with the guardian key; only for the user that `guardian_user` names.

        Outputs that the key signs away must be watched (`chain.watch`). The same question gets the same answer.
        """
        return self._daemon.guardian.cosign(caller, hex, prevouts)
