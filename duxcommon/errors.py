"""Every error that a user or a caller can see: one class each, with a stable code and name.

Codes: 1000s common (1100s the coin), 2000s flopd, 3000s escrowd, 4000s taskd (4500s sandbox), 5000s registryd
(5500s store), 6000s airdropd. A class says what to do now (`hint`) and whether trying again can help (`retry`).
"""

from typing import Any, ClassVar

BY_NAME: dict[str, type["DuxError"]] = {}
BY_CODE: dict[int, type["DuxError"]] = {}


class DuxError(Exception):
    """Base of all errors that cross a socket.

    `message` says what and why, `hint` what to do now; `details` holds figures for programs (JSON values).
    """

    code: ClassVar[int] = 0
    hint_default: ClassVar[str] = ""
    retry: ClassVar[bool] = False
    component: ClassVar[str] = "common"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in BY_NAME or cls.code in BY_CODE:
            raise TypeError(f"{cls.__name__}: error name or code {cls.code} is taken")
        if cls.code:
            BY_NAME[cls.__name__] = cls
            BY_CODE[cls.code] = cls

    def __init__(self, message: str, *, hint: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.hint_default if hint is None else hint
        self.details = details or {}

    @property
    def name(self) -> str:
        """The stable name that programs compare with."""
        return type(self).__name__

    def to_rpc(self) -> dict[str, Any]:
        """The JSON-RPC error object."""
        data = {
            "name": self.name,
            "hint": self.hint,
            "retry": self.retry,
            "component": self.component,
            "details": self.details,
        }
        return {"code": self.code, "message": self.message, "data": data}


def from_rpc(error: Any) -> DuxError:
    """The error a JSON-RPC reply carries, as the class it was raised as; `RemoteError` where that is unknown."""
    if not isinstance(error, dict):
        return RemoteError("the other side sent an error that is not an object")
    given = error.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    name, message = str(data.get("name", ""))[:100], str(error.get("message", ""))[:2000]
    hint = str(data.get("hint", ""))[:2000]
    details = data.get("details") if isinstance(data.get("details"), dict) else {}
    known = BY_NAME.get(name)
    if known is not None:
        return known(message, hint=hint, details=details)
    return RemoteError(message or "unknown error", hint=hint or None, details={"name": name, "code": error.get("code")})


# --- the JSON-RPC protocol itself (codes fixed by the specification) -------------------------------------------


class ParseError(DuxError):
    code = -32700
    hint_default = "Send one JSON-RPC 2.0 request a line, as UTF-8 JSON without NaN or Infinity."


class InvalidRequest(DuxError):
    code = -32600
    hint_default = 'Send {"jsonrpc": "2.0", "id": …, "method": "…", "params": {…}}.'


class MethodNotFound(DuxError):
    code = -32601
    hint_default = "Call rpc.discover for the methods of this daemon."


class InvalidParams(DuxError):
    code = -32602
    hint_default = "See the method's parameters in its help or in rpc.discover."


class Internal(DuxError):
    code = -32603
    hint_default = "This is a fault of Dux OS. Look for the reference in the daemon's log and report it."


# --- common ----------------------------------------------------------------------------------------------------


class RemoteError(DuxError):
    code = 1000
    hint_default = "The other side answered with an error this version does not know; compare the versions."


class NotAllowed(DuxError):
    code = 1001
    hint_default = "Ask the machine's owner to add you to the group named in the message (`adduser NAME GROUP`)."


class RateLimited(DuxError):
    code = 1002
    hint_default = "Wait a moment and try again."
    retry = True


class DaemonDown(DuxError):
    code = 1003
    hint_default = "Start the daemon (`systemctl start dux-NAME`) and look at `dux-ctl status`."
    retry = True


class TimedOut(DuxError):
    code = 1004
    hint_default = "The call may still have been carried out; repeat it with the same key, which never acts twice."
    retry = True


class NotFound(DuxError):
    code = 1005
    hint_default = "Check the id; list what exists first."


class Conflict(DuxError):
    code = 1006
    hint_default = "This idempotency key was used with other parameters; choose a new key for a new action."


class DiskFull(DuxError):
    code = 1007
    hint_default = "Free some space on the disk that holds the daemon's state; nothing was changed."
    retry = True


class ConfigError(DuxError):
    code = 1008
    hint_default = "Mend the line that is named, then start the daemon again or `systemctl reload` it."


class AlreadyRunning(DuxError):
    code = 1009
    hint_default = "Another process serves this socket or holds this database; stop it first."


class BadSignature(DuxError):
    code = 1010
    hint_default = "The record was changed or signed by another key; it is ignored."


class BadRecord(DuxError):
    code = 1011
    hint_default = "The record does not follow the format of its kind; it is ignored."


class StaleRecord(DuxError):
    code = 1012
    hint_default = "A newer record is known already; this one is ignored."


class WrongNetwork(DuxError):
    code = 1013
    hint_default = "The other side belongs to another network; use the same network definition on both."


class Stopping(DuxError):
    code = 1014
    hint_default = "The daemon is shutting down; try again once it is back."
    retry = True


class MessageTooLarge(DuxError):
    code = 1015
    hint_default = "Send large payloads as blobs (`blob.write`) and refer to them by hash."


class BlobDamaged(DuxError):
    code = 1016
    hint_default = "The bytes do not match their hash; send or fetch them again."
    retry = True


class StoreDamaged(DuxError):
    code = 1017
    hint_default = "The database can't be read; restore it from a backup before you start the daemon again."


class NetworkMissing(DuxError):
    code = 1018
    hint_default = "Put the network definition where the configuration's `network` points."


class KeyFileUnsafe(DuxError):
    code = 1019
    hint_default = "Make the key file readable by its owner alone: chmod 600 FILE."


# --- the coin (duxcommon.coin): 1100–1199 ----------------------------------------------------------------------


class BadAddress(DuxError):
    code = 1100
    hint_default = "Copy the address again; it must belong to the chain that `dux-ctl status` names."


class BadKey(DuxError):
    code = 1101
    hint_default = "Give a private key that was exported for this chain, with a compressed public key."


class BadTerms(DuxError):
    code = 1102
    hint_default = "The script can't be made of these keys and this height; nothing was paid."


class BadTransaction(DuxError):
    code = 1103
    hint_default = "The bytes are no transaction that the chain could hold; nothing was sent."


class ScriptRefused(DuxError):
    code = 1104
    hint_default = "The signatures do not satisfy the script under the rules of the chain; nothing was sent."


class NotPayable(DuxError):
    code = 1105
    hint_default = "Every output must be at least 0.01 FLOP and the deposits must cover gross and fee; pay more first."


class TooManyInputs(DuxError):
    code = 1106
    hint_default = "One transaction would cost more than 0.1 FLOP in fees; close the channel and open a new one."


# --- dux-flopd: 2000–2999 --------------------------------------------------------------------------------------


class FlopdError(DuxError):
    component = "flopd"


class WalletLocked(FlopdError):
    code = 2000
    hint_default = "Unlock it with `dux-ctl wallet unlock`, or set `passphrase_file` in flopd.yaml."


class KeystoreMissing(FlopdError):
    code = 2001
    hint_default = "Make one with `python3 -m dux_flopd keystore create --config /etc/duxnet/flopd.yaml`."


class KeystoreExists(FlopdError):
    code = 2002
    hint_default = "Its keys may hold coins: move it away yourself if you really want another one."


class KeystoreDamaged(FlopdError):
    code = 2003
    hint_default = "Restore the keystore file from a backup, or make it anew from its recovery words."


class WrongPassphrase(FlopdError):
    code = 2004
    hint_default = "Type the passphrase that the keystore was made with; nothing was unlocked."


class BadWords(FlopdError):
    code = 2005
    hint_default = "Give the 12 to 24 English words in their order, as they were written down."


class KeyUnknown(FlopdError):
    code = 2006
    hint_default = "Sign with a key that this daemon got from `key.new`, or with the payout key."


class SignRefused(FlopdError):
    code = 2007
    hint_default = "Only transactions that spend the node's own channels, at a sane fee, are signed."


class ChainDown(FlopdError):
    code = 2010
    hint_default = "Start Flopcoin Core (or dux-devchain) and check `core` in flopd.yaml; nothing was lost."
    retry = True


class WrongChain(FlopdError):
    code = 2011
    hint_default = "Point `core.url` in flopd.yaml at a node of the chain that the network definition names."


class ChainSyncing(FlopdError):
    code = 2012
    hint_default = "Wait until Core has caught up with the chain; `dux-ctl chain status` shows how far it is."
    retry = True


class ChainAuthFailed(FlopdError):
    code = 2013
    hint_default = "Let flopd read Core's cookie file, or set `core.user` and `core.password_file`."


class ChainWalletLocked(FlopdError):
    code = 2014
    hint_default = "Core's own wallet is encrypted: unlock it with Core's `walletpassphrase`."
    retry = True


class ChainFault(FlopdError):
    code = 2015
    hint_default = "Core answered in an unexpected way; look at its debug.log."


class MainChainRefused(FlopdError):
    code = 2016
    hint_default = (
        "Use a test network, or set `accept_main_chain_risk: true` in flopd.yaml and carry the risk yourself."
    )


class InsufficientFunds(FlopdError):
    code = 2020
    hint_default = "Get more: `dux-ctl wallet receive` shows an address to be paid at."


class DustAmount(FlopdError):
    code = 2021
    hint_default = "Pay at least 0.01 FLOP: smaller outputs do not reach the other nodes."


class FeeTooHigh(FlopdError):
    code = 2022
    hint_default = "Spend fewer, larger coins: send your balance to yourself once, then try again."


class TxRejected(FlopdError):
    code = 2023
    hint_default = "Core refused the transaction for the reason named; it was not sent."


class TxTooEarly(FlopdError):
    code = 2024
    hint_default = "Its lock height has not been reached yet; try again then."
    retry = True


class TxConflict(FlopdError):
    code = 2025
    hint_default = "Another transaction spends the same coins; `tx.status` tells which one the chain took."


class IntentUnknown(FlopdError):
    code = 2026
    hint_default = "Check the id that `tx.fund`, `tx.submit` or `wallet.send` answered with."


class IntentSent(FlopdError):
    code = 2027
    hint_default = "It may be on its way through the network; wait until it confirms."


class WatchUnknown(FlopdError):
    code = 2028
    hint_default = "Call `chain.watch` with the script first."


# --- dux-escrowd: 3000–3999 ------------------------------------------------------------------------------------


class EscrowError(DuxError):
    component = "escrowd"


class ProviderUnknown(EscrowError):
    code = 3000
    hint_default = "Check the node id with `dux-ctl node list`; the node may be gone or on another network."


class NotCovered(EscrowError):
    code = 3001
    hint_default = "The channel holds too little for this price: top it up (`dux-ctl channel topup`) and order again."
    retry = True


class ChannelBusy(EscrowError):
    code = 3002
    hint_default = "Calls on this channel are still unpaid; release or refund one of them, or wait and try again."
    retry = True


class NotConfirmed(EscrowError):
    code = 3003
    hint_default = "The deposit is on its way and needs more confirmations; try again in a few minutes."
    retry = True


class ChannelClosed(EscrowError):
    code = 3004
    hint_default = "The channel takes no more payments; the next hold opens a new one."


class ChannelUnknown(EscrowError):
    code = 3005
    hint_default = "List the channels with `dux-ctl channel list`."


class PaymentUnknown(EscrowError):
    code = 3006
    hint_default = "List the payments with `dux-ctl payment list`."


class BadTransition(EscrowError):
    code = 3007
    hint_default = "Look at its state (`dux-ctl channel show`, `dux-ctl payment show`); this step does not follow it."


class DepositCapReached(EscrowError):
    code = 3008
    hint_default = "Raise `deposit_cap` in escrowd.yaml if you trust this provider and its arbiter with more at once."


class DepositTooSmall(EscrowError):
    code = 3009
    hint_default = "Open the channel with at least the amount named in the message."


class ArbiterMissing(EscrowError):
    code = 3010
    hint_default = "The network definition, or `arbiters` in escrowd.yaml, must name an arbiter that is neither party."


class ArbiterRefused(EscrowError):
    code = 3011
    hint_default = "Choose an arbiter that the network definition names; the provider accepts no other."


class TermsRefused(EscrowError):
    code = 3012
    hint_default = "The contract is not what the provider offered; compare the versions and settings of both nodes."


class LockTooNear(EscrowError):
    code = 3013
    hint_default = "Too few blocks are left before the lock height; the next hold opens a new channel."


class LockTooFar(EscrowError):
    code = 3014
    hint_default = "Use the same `lock_blocks` as the provider, and see that both chains are in sync."


class BeforeLockHeight(EscrowError):
    code = 3015
    hint_default = "Close it together with the provider (`dux-ctl channel close`), or wait for the lock height."


class NothingToClose(EscrowError):
    code = 3016
    hint_default = "Nothing was signed away on this channel; there is nothing to take from it."


class GrossTooSmall(EscrowError):
    code = 3017
    hint_default = "The chain carries no output below 0.01 FLOP: wait for more calls on this channel, then close it."


class FundingConflicted(EscrowError):
    code = 3018
    hint_default = "The deposit was replaced by another transaction of the same wallet; open the channel again."


class TooManyChannels(EscrowError):
    code = 3019
    hint_default = "Close channels with this node that are no longer used."


class StateStale(EscrowError):
    code = 3020
    hint_default = "A newer signed state is stored already; nothing was changed."


class StateConflict(EscrowError):
    code = 3021
    hint_default = "Two states carry the same number with different content; the first one stays in force."


class WrongAmount(EscrowError):
    code = 3022
    hint_default = "The signed state does not pay what it must; it was refused and nothing was changed."


class HighS(EscrowError):
    code = 3023
    hint_default = "Sign with the low S value (BIP 62): a transaction with this signature would not be relayed."


class WrongKey(EscrowError):
    code = 3024
    hint_default = "The signature is not the buyer's over the closing transaction that was rebuilt here."


class BadStateSignature(EscrowError):
    code = 3025
    hint_default = "Send one strict DER signature with SIGHASH_ALL for each deposit, in the order of the inputs."


class WrongDeposits(EscrowError):
    code = 3026
    hint_default = "Sign over deposits that are confirmed deep enough on the chain, with their exact amounts."
    retry = True


class PeerMisbehaved(EscrowError):
    code = 3027
    hint_default = "The other node's answer did not pass the checks here; nothing was signed or paid because of it."


class PaymentsOpen(EscrowError):
    code = 3028
    hint_default = "Release or refund the open payments first, or let the provider close alone (`--alone`)."
    retry = True


class PriceTooSmall(EscrowError):
    code = 3029
    hint_default = "A payment is at least 1 koinu."


class ChannelExists(EscrowError):
    code = 3030
    hint_default = "Top the existing channel up (`dux-ctl channel topup`), or close it first."


# --- dux-taskd: 4000–4499 --------------------------------------------------------------------------------------


class TaskdError(DuxError):
    component = "taskd"


class NoProvider(TaskdError):
    code = 4000
    hint_default = "The message counts what each provider lacked. Try again later, or name one with --provider."
    retry = True


class TooExpensive(TaskdError):
    code = 4001
    hint_default = "Raise --max-price to at least the cheapest price named, or search for another app."


class PriceChanged(TaskdError):
    code = 4002
    hint_default = "Look at the app again (`dux-ctl app show`); nothing was ordered at the new price."


class InputMissing(TaskdError):
    code = 4003
    hint_default = "Give the input file; a large one must be uploaded before the task is started."


class InputTooLarge(TaskdError):
    code = 4004
    hint_default = "Send a smaller file; `dux-ctl app show` names the app's limit."


class WrongMedia(TaskdError):
    code = 4005
    hint_default = "Send a file of a kind that the app takes; its content counts, not its name."


class WrongParams(TaskdError):
    code = 4006
    hint_default = "`dux-ctl app show` lists the app's parameters and what they may be."


class TaskUnknown(TaskdError):
    code = 4007
    hint_default = "List your tasks with `dux-ctl task list`."


class TaskOver(TaskdError):
    code = 4008
    hint_default = "Its result has arrived already; see `dux-ctl task status`."


class DeadlinePassed(TaskdError):
    code = 4009
    hint_default = "Nothing was paid for it. Start the task again with a later --deadline-s."


class Cancelled(TaskdError):
    code = 4010
    hint_default = "The task was cancelled; nothing was paid for it."


class QueueFull(TaskdError):
    code = 4011
    hint_default = "Wait until some of the tasks in the queue are done."
    retry = True


class ProviderGarbage(TaskdError):
    code = 4020
    hint_default = "The provider answered with something that is no valid reply; it was not paid. Try another."
    retry = True


class ReceiptMismatch(TaskdError):
    code = 4021
    hint_default = "The provider's receipt does not fit the order or the result; it was not paid. Try another."
    retry = True


class ProviderSilent(TaskdError):
    code = 4022
    hint_default = "The provider did not answer in time; it was not paid. Try another, or check your connection."
    retry = True


class ProviderBusy(TaskdError):
    code = 4023
    hint_default = "Try again in a while or let another provider do it."
    retry = True


class ProviderPaused(TaskdError):
    code = 4024
    hint_default = "The owner of that machine is not lending it now; let another provider do it."
    retry = True


class AppNotServed(TaskdError):
    code = 4025
    hint_default = "That node does not offer this app; `dux-ctl app providers` lists those that do."


class TaskTooLarge(TaskdError):
    code = 4026
    hint_default = "The app needs more than that machine's owner lends; let another provider do it."


class ProviderRestarted(TaskdError):
    code = 4027
    hint_default = "The provider's machine restarted while it worked; it was not paid. Run the task again."
    retry = True


class OrderRefused(TaskdError):
    code = 4028
    hint_default = "The order does not name this node, or does not fit what came with it; nothing was run or charged."


class OutputInvalid(TaskdError):
    code = 4029
    hint_default = "The result is not what the app's manifest promises; it was not paid. Tell the publisher."


# --- dux-sandbox: 4500–4999 ------------------------------------------------------------------------------------


class SandboxError(DuxError):
    component = "sandbox"


class SandboxMissing(SandboxError):
    code = 4500
    hint_default = (
        "Install bubblewrap (`apt install bubblewrap`) or allow unprivileged user namespaces, then "
        "`systemctl reload dux-sandbox`. Without a sandbox no task is ever run."
    )


class SandboxDegraded(SandboxError):
    code = 4501
    hint_default = (
        "Without cgroups only apps that this node publishes are run. Start dux-sandbox by its systemd unit "
        "(Delegate=yes), or as root."
    )


class SandboxFault(SandboxError):
    code = 4502
    hint_default = "The sandbox could not be set up this time; nothing was run. Look at the log of dux-sandbox."
    retry = True


class AppFailed(SandboxError):
    code = 4510
    hint_default = "The app ended with an error; `dux-ctl task logs` shows what it printed. Check input and parameters."


class TaskTimeout(SandboxError):
    code = 4511
    hint_default = "The app used up its time. Send a smaller input, or ask the publisher for higher limits."


class OutOfMemory(SandboxError):
    code = 4512
    hint_default = "The app used up its memory. Send a smaller input, or ask the publisher for higher limits."


class OutputRefused(SandboxError):
    code = 4513
    hint_default = "What the app left in /out breaks its limits or is no plain file. Tell the publisher."


class OutputTooLarge(SandboxError):
    code = 4514
    hint_default = "The result is larger than the manifest allows. Send a smaller input, or tell the publisher."


class OutputMissing(SandboxError):
    code = 4515
    hint_default = "The app ended without writing /out/output. Tell the publisher."


class TaskKilled(SandboxError):
    code = 4516
    hint_default = "The execution was ended on request; run the task again if you still want it."
    retry = True


class ApiDown(SandboxError):
    code = 4520
    hint_default = "The publisher's own server behind this app does not answer. Try again later, or another provider."
    retry = True


class ApiFailed(SandboxError):
    code = 4521
    hint_default = "The publisher's own server refused the call; the message names its status. Check the parameters."


# --- dux-registryd: 5000–5499 ----------------------------------------------------------------------------------


class UnknownNode(DuxError):
    code = 5000
    hint_default = "See the nodes that are known with `dux-ctl node list`; a new one takes a few seconds to appear."
    component = "registryd"


class PeerUnreachable(DuxError):
    code = 5001
    hint_default = "The node is off or can't be reached from here; try again, or choose another one."
    retry = True
    component = "registryd"


class MethodNotForPeers(DuxError):
    code = 5002
    hint_default = "Only methods that are declared for peers can be called on another node."
    component = "registryd"


class QuotaExceeded(DuxError):
    code = 5003
    hint_default = "Wait a moment and ask for less at once."
    retry = True
    component = "registryd"


class PeerProtocol(DuxError):
    code = 5004
    hint_default = "The other node doesn't keep to the protocol; compare the versions of Dux OS on both."
    component = "registryd"


class BlobUnknown(DuxError):
    code = 5005
    hint_default = "The node doesn't hold this payload any more; ask for it to be sent again."
    component = "registryd"


class BlobTooLarge(DuxError):
    code = 5006
    hint_default = "A payload may have at most 64 MiB; split it."
    component = "registryd"


class NotOffered(DuxError):
    code = 5007
    hint_default = "The other node hands a payload only to the nodes it was made for, and only for a time."
    component = "registryd"


class UploadMismatch(DuxError):
    code = 5008
    hint_default = "Go on at the offset that is named, or begin again under a new upload name."
    component = "registryd"


class SigningRefused(DuxError):
    code = 5009
    hint_default = "Each kind of record is signed for the one daemon that it belongs to."
    component = "registryd"


class RecordTooLarge(DuxError):
    code = 5010
    hint_default = "Shorten the texts in it; a record of the directory may have at most 56 KB when packed."
    component = "registryd"


class EndpointDown(DuxError):
    code = 5011
    hint_default = "Look for what else uses the port (`ss -ulpn`), or set another one in registryd.yaml."
    component = "registryd"


# --- dux-store: 5500–5999 --------------------------------------------------------------------------------------


class AppUnknown(DuxError):
    code = 5500
    hint_default = "Look for it with `dux-ctl app search WORD`; a new listing takes a few seconds to arrive."
    component = "store"


class AppAmbiguous(DuxError):
    code = 5501
    hint_default = "Several publishers use this name: write name@publisher-prefix, or the app's id."
    component = "store"


class BadManifest(DuxError):
    code = 5502
    hint_default = "Mend the line of dux.yaml that is named; `dux-ctl app init NAME` shows a complete one."
    component = "store"


class BadBundle(DuxError):
    code = 5503
    hint_default = "Pack the app's folder again with `dux-ctl app publish DIR`; a bundle holds files and folders only."
    component = "store"


class BundleTooLarge(DuxError):
    code = 5504
    hint_default = "Leave out what the app doesn't need at run time."
    component = "store"


class BundleMissing(DuxError):
    code = 5505
    hint_default = "Upload the bundle first (`blob.write`), or publish the folder with `dux-ctl app publish DIR`."
    component = "store"


class ScanRefused(DuxError):
    code = 5506
    hint_default = "Mend the findings that are listed and publish again; nothing was announced."
    component = "store"


class NotPublisher(DuxError):
    code = 5507
    hint_default = "Only the node that published an app can withdraw it."
    component = "store"


class BadCursor(DuxError):
    code = 5508
    hint_default = "Pass the `next` of the page before, with the same filters, or start again without `after`."
    component = "store"


class StoreFull(DuxError):
    code = 5509
    hint_default = "Withdraw listings that you no longer sell."
    component = "store"


class WheelsMissing(DuxError):
    code = 5510
    hint_default = "Check the names, versions and hashes in requirements.lock, and that a package index can be reached."
    retry = True
    component = "store"


class SampleFailed(DuxError):
    code = 5511
    hint_default = "Read the app's log above; the sample must give the result in the bundle."
    component = "store"


# --- dux-airdropd: 6000–6999 -----------------------------------------------------------------------------------
