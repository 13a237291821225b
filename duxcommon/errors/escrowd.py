"""Errors of dux-escrowd: 3000–3999."""

from .base import DuxError


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
