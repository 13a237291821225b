"""Errors of dux-flopd: 2000–2999."""

from .base import DuxError


class FlopdError(DuxError):
    component = "flopd"


class WalletLocked(FlopdError):
    code = 2000
    hint_default = (
        "Unlock it with `dux-ctl wallet unlock`. Where the first boot made the passphrase, the machine keeps it: "
        "`sudo systemctl restart dux-flopd` unlocks the wallet."
    )


class KeystoreMissing(FlopdError):
    code = 2001
    hint_default = "Make one: `dux-flopd keystore create`."


class KeystoreExists(FlopdError):
    code = 2002
    hint_default = "Its keys may hold coins: move it away yourself if you really want another one."


class KeystoreDamaged(FlopdError):
    code = 2003
    hint_default = "Restore the keystore file from a backup, or make it anew from its recovery words."


class WrongPassphrase(FlopdError):
    code = 2004
    hint_default = (
        "Type the passphrase that the keystore was made with; nothing was unlocked. Where the first boot made it, the "
        "machine keeps it: `sudo systemctl restart dux-flopd` unlocks the wallet."
    )


class BadWords(FlopdError):
    code = 2005
    hint_default = "Give the 12 to 24 English words in their order, as they were written down."


class KeyUnknown(FlopdError):
    code = 2006
    hint_default = "Sign with a key that this daemon got from `key.new`, or with the payout key."


class SignRefused(FlopdError):
    code = 2007
    hint_default = "Only transactions of the node's own channels and of the community fund, at a sane fee, are signed."


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


class IntentUnknown(FlopdError):
    code = 2026
    hint_default = "Check the id that `tx.fund`, `tx.submit` or `wallet.send` answered with."


class IntentSent(FlopdError):
    code = 2027
    hint_default = "It may be on its way through the network; wait until it confirms."


class WatchUnknown(FlopdError):
    code = 2028
    hint_default = "Call `chain.watch` with the script first."


class ChainMoved(FlopdError):
    code = 2029
    retry = True
    hint_default = "A reorganisation replaced blocks that were read before; they are read again."


class NoPayoutCoin(FlopdError):
    code = 2030
    retry = True
    hint_default = (
        "Send 0.1 FLOP to the payout address, which `dux-ctl wallet status` shows, wait for a block and try again."
    )


class NoFaucet(FlopdError):
    code = 2033
    hint_default = "Only private trial networks have one; elsewhere `dux-ctl wallet receive` tells where to be paid."


class FaucetLimit(FlopdError):
    code = 2034
    hint_default = "Ask for less, or come back later; the chain's owner sets both limits in devchain.yaml."


class BondUnknown(FlopdError):
    code = 2031
    hint_default = "Name bonds of this node's own payout key that are in a block and were not taken back yet."


class KeystoreUnusable(KeystoreMissing):
    code = 2032
    hint_default = "Restore the keystore file from a backup, or make it anew from its recovery words."
