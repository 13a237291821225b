"""A channel's contract as bytes: its script, the exact transactions of closing and refunding, and their checks.

Pure. Nothing that a peer sends is read as a transaction and trusted: it is rebuilt here from the contract, the
deposits and the gross, and compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from btclib.tx import Tx
from btclib_secp256k1 import dsa

from duxcommon.api.common import Deposit
from duxcommon.api.escrowd import ChannelContract, SignedState
from duxcommon.api.flopd import PrevOut
from duxcommon.coin import script as coin_script
from duxcommon.coin import tx as coin_tx
from duxcommon.coin.tx import Coin, DepositLike, Spend
from duxcommon.errors import (
    BadStateSignature,
    BadTerms,
    BadTransaction,
    GrossTooSmall,
    HighS,
    NotPayable,
    PeerMisbehaved,
    ScriptRefused,
    TermsRefused,
    TooManyInputs,
    WrongAmount,
    WrongDeposits,
    WrongKey,
)
from duxcommon.money import DUST, MAX_MONEY, Split, split


@dataclass(frozen=True, slots=True)
class Escrow:
    """One channel's terms with everything that is derived from them."""

    contract: ChannelContract
    terms: coin_script.EscrowTerms
    id: str
    """SHA-256 of the redeem script, hex."""
    redeem: bytes
    script: bytes
    """The output script that a deposit pays."""
    fund_script: bytes
    """Where the tax goes, fixed when the channel was opened."""
    min_tax: int

    @classmethod
    def of(cls, contract: ChannelContract, min_tax: int = DUST) -> "Escrow":
        """The channel of a contract; raises TermsRefused when no valid script can be made of it."""
        terms = coin_script.EscrowTerms(
            bytes.fromhex(contract.provider_pubkey),
            bytes.fromhex(contract.buyer_pubkey),
            bytes.fromhex(contract.arbiter_pubkey),
            contract.lock_height,
        )
        try:
            redeem = terms.script()
        except BadTerms as error:
            raise TermsRefused(error.message) from error
        fund_script = bytes.fromhex(contract.fund_script)
        return cls(contract, terms, terms.channel_id(), redeem, coin_script.p2sh_script(redeem), fund_script, min_tax)

    def note(self) -> bytes:
        """What the funding transaction carries so that recovery words and the chain find the channel again."""
        return coin_script.FundingNote(self.terms.provider, self.terms.arbiter, self.terms.lock_height).encode()

    def prevouts(self, deposits: Sequence[DepositLike]) -> list[PrevOut]:
        """What flopd needs to sign a spend of these deposits."""
        redeem = self.redeem.hex()
        return [PrevOut(txid=d.txid, vout=d.vout, amount=d.amount, redeem=redeem) for d in deposits]


def shares(gross: int, tax_bps: int, min_tax: int = DUST) -> Split:
    """The parts of a cumulative gross, of any size: below `min_tax` all of it is tax, and no part is negative.

    Above that it is `money.split`. Both parts only grow with the gross.
    """
    parts = split(gross, tax_bps, min_tax)
    return parts if parts.provider >= 0 else Split(0, gross)


def closing(escrow: Escrow, deposits: Sequence[DepositLike], gross: int) -> Spend:
    """The one transaction that a signed state of `gross` is about; with nothing signed away, the refund by both.

    A gross below 0.02 FLOP makes a transaction that no node relays: its signatures prove what is owed, and the next
    states replace it. Raises WrongAmount when the deposits do not cover it, WrongDeposits for an impossible list.
    """
    try:
        if gross == 0:
            return coin_tx.cooperative_refund_tx(escrow.terms, deposits)
        if gross < 2 * DUST:
            return _promise(escrow, deposits, gross)
        return coin_tx.closing_tx(
            escrow.terms, deposits, gross, escrow.contract.tax_bps, escrow.fund_script, min_tax=escrow.min_tax
        )
    except NotPayable as error:
        raise WrongAmount(error.message, details=error.details) from error
    except (BadTransaction, TooManyInputs) as error:
        raise WrongDeposits(error.message) from error


def _promise(escrow: Escrow, deposits: Sequence[DepositLike], gross: int) -> Spend:
    """The closing transaction of a gross that is too small to be paid out: same rules, outputs of 0 left out."""
    coins = tuple(sorted((Coin(d.txid, d.vout, d.amount) for d in deposits), key=lambda coin: (coin.txid, coin.vout)))
    if not coins or len({(coin.txid, coin.vout) for coin in coins}) != len(coins):
        raise BadTransaction("a channel's transaction spends at least one deposit, each of them once")
    total, fee = sum(coin.amount for coin in coins), coin_tx.closing_fee(len(coins))
    change = total - gross - fee
    if total > MAX_MONEY or change < 0:
        raise NotPayable(f"deposits of {total} koinu do not cover a gross of {gross} and a fee of {fee}")
    provider, tax = shares(gross, escrow.contract.tax_bps, escrow.min_tax)
    outputs = [
        (coin_script.p2pkh_script(escrow.terms.provider), provider),
        (escrow.fund_script, tax),
        (coin_script.p2pkh_script(escrow.terms.buyer), change),
    ]
    tx = coin_tx.make_tx([(coin.txid, coin.vout) for coin in coins], [output for output in outputs if output[1]])
    return Spend(tx, escrow.redeem, coins, provider, tax, change, fee)


def refund(escrow: Escrow, deposits: Sequence[DepositLike]) -> Spend:
    """Everything back to the buyer, by its signature alone, from the lock height on; raises WrongAmount."""
    try:
        return coin_tx.refund_tx(escrow.terms, deposits)
    except NotPayable as error:
        raise WrongAmount(error.message, details=error.details) from error


def make_state(
    escrow: Escrow, spend: Spend, signatures: Sequence[str], *, seq: int, gross: int, pays: Sequence[str] = ()
) -> SignedState:
    """The state that the buyer's signatures of `spend` make."""
    return SignedState(
        channel=escrow.id,
        seq=seq,
        gross=gross,
        deposits=[Deposit(txid=coin.txid, vout=coin.vout, amount=coin.amount) for coin in spend.deposits],
        signatures=list(signatures),
        pays=list(pays),
    )


def check_state(escrow: Escrow, state: SignedState) -> Spend:
    """Rebuild what a state says and check the buyer's signatures over it; the transaction it is about.

    Raises WrongDeposits, WrongAmount, BadStateSignature, HighS or WrongKey. Whether the deposits exist and the gross
    may be paid is for the caller, who knows the chain and the channel.
    """
    spend = closing(escrow, state.deposits, state.gross)
    if len(state.signatures) != len(spend.deposits):
        raise BadStateSignature(f"{len(state.signatures)} signatures for {len(spend.deposits)} deposits")
    for index, text in enumerate(state.signatures):
        _check_signature(spend, index, escrow.terms.buyer, bytes.fromhex(text))
    return spend


def _check_signature(spend: Spend, index: int, pubkey: bytes, signature: bytes) -> None:
    if coin_tx.check_signature(spend.tx, index, spend.redeem, pubkey, signature):
        return
    if not 9 <= len(signature) <= 73 or signature[-1] != coin_tx.SIGHASH_ALL:
        raise BadStateSignature(f"signature {index} is not a DER signature with SIGHASH_ALL")
    der = signature[:-1]
    try:
        strict = dsa.serialize_der(dsa.parse_der(der)) == der
        low = dsa.is_low_s(der)
    except ValueError:
        strict = low = False
    if not strict:
        raise BadStateSignature(f"signature {index} is not strict DER")
    if not low:
        raise HighS(f"signature {index} has a high S value")
    raise WrongKey(f"signature {index} does not fit the buyer's key and the rebuilt closing transaction")


def finish(escrow: Escrow, state: SignedState, provider: Sequence[str]) -> Tx:
    """The closing transaction of a state with the provider's signatures added, run through the script engine.

    Raises GrossTooSmall when the chain can't carry it, PeerMisbehaved when the signatures do not make it valid.
    """
    if 0 < state.gross < 2 * DUST:
        raise GrossTooSmall(f"only {state.gross} koinu are signed away; a close pays out from {2 * DUST} on")
    spend = check_state(escrow, state)
    if len(provider) != len(spend.deposits):
        raise PeerMisbehaved(f"{len(provider)} signatures for {len(spend.deposits)} deposits")
    tx = coin_tx.finish_close(
        spend, [bytes.fromhex(one) for one in state.signatures], [bytes.fromhex(one) for one in provider]
    )
    return checked(escrow, spend, tx)


def checked(escrow: Escrow, spend: Spend, tx: Tx) -> Tx:
    """`tx` when it is the spend that was built here and every input's script passes; raises PeerMisbehaved."""
    if coin_tx.serialize_tx(coin_tx.with_script_sigs(tx, [b""] * len(tx.vin))) != coin_tx.serialize_tx(spend.tx):
        raise PeerMisbehaved("the transaction is not the one that was agreed on")
    try:
        coin_tx.verify_tx(tx, [(escrow.script, coin.amount) for coin in spend.deposits])
    except (ScriptRefused, BadTransaction) as error:
        raise PeerMisbehaved(f"the transaction would be refused by the chain: {error.message}") from error
    return tx


# --- what the chain shows ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A transaction on the chain that spends deposits of the channel, by what it paid to whom (koinu).

    Only the outputs say what it is: a miner may rewrite the input scripts.
    """

    kind: Literal["close", "refund", "foreign"]
    """`foreign`: it pays somebody who is no party to the channel."""
    txid: str
    spent: int
    """Sum of this channel's deposits that it spends."""
    provider: int
    tax: int
    buyer: int
    other: int


def recognise(escrow: Escrow, raw: str, deposits: Sequence[DepositLike]) -> Found:
    """What a transaction does to the channel with these deposits; raises BadTransaction."""
    tx = coin_tx.parse_tx(raw)
    inputs = {coin_tx.outpoint_of(txin) for txin in tx.vin}
    ours = [deposit for deposit in deposits if (deposit.txid, deposit.vout) in inputs]
    names = {
        coin_script.p2pkh_script(escrow.terms.buyer): "buyer",
        escrow.fund_script: "tax",
        coin_script.p2pkh_script(escrow.terms.provider): "provider",
    }
    paid = {"provider": 0, "tax": 0, "buyer": 0, "other": 0}
    for output in tx.vout:
        paid[names.get(output.script_pub_key.script, "other")] += output.value
    kind: Literal["close", "refund", "foreign"] = "close" if paid["provider"] else "refund"
    if paid["other"] or len(ours) != len(inputs) or (kind == "refund" and paid["tax"]):
        kind = "foreign"
    return Found(kind, coin_tx.txid_of(tx), sum(deposit.amount for deposit in ours), **paid)
