"""Transactions: reading, building a channel's spends, signing, and checking with the script engine.

Both sides of a channel rebuild the same bytes from (terms, deposits, gross), so nothing that a peer sends is trusted.
btclib caps amounts at Bitcoin's 21 million coins, hence `check_validity=False` throughout and `check_tx` of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from btclib.exceptions import BTClibException
from btclib.script import sig_hash
from btclib.script.engine import ScriptFlag
from btclib.script.engine import verify_input as _engine_verify
from btclib.script.script import serialize as _serialize_script
from btclib.script.script_pub_key import ScriptPubKey
from btclib.tx import OutPoint, Tx, TxIn, TxOut
from btclib_secp256k1 import dsa
from ecc.exceptions import EccException

from ..errors import BadTransaction, NotPayable, ScriptRefused, TooManyInputs
from ..money import DUST, MAX_MONEY, split
from .script import MAX_ESCROW_SIZE, EscrowTerms, is_p2pkh, is_p2sh, p2pkh_script

FINAL = 0xFFFFFFFF
"""Sequence of an input that no lock time holds back."""

LOCKABLE = 0xFFFFFFFE
"""Sequence that leaves the transaction's lock time in force."""

KOINU_PER_BYTE = 1020
"""Fee rate of channel transactions: 0.0102 FLOP/kB, just above the 0.01 that miners ask by default."""

MAX_FEE = 10_000_000
"""No channel transaction pays more than 0.1 FLOP."""

SIGHASH_ALL = 1

MAX_SIG = 72
"""Bytes of a signature at most: DER with low S, 71, and the hash type."""

STANDARD_FLAGS = (
    ScriptFlag.P2SH
    | ScriptFlag.STRICTENC
    | ScriptFlag.DERSIG
    | ScriptFlag.LOW_S
    | ScriptFlag.NULLDUMMY
    | ScriptFlag.MINIMALDATA
    | ScriptFlag.DISCOURAGE_UPGRADABLE_NOPS
    | ScriptFlag.CLEANSTACK
    | ScriptFlag.NULLFAIL
    | ScriptFlag.CHECKLOCKTIMEVERIFY
)
"""What a node asks of a transaction before it relays it. CSV and SegWit never activate on Flopcoin, so not those."""

BLOCK_FLAGS = ScriptFlag.P2SH | ScriptFlag.DERSIG | ScriptFlag.CHECKLOCKTIMEVERIFY
"""What every node asks of a transaction in a block."""

_OUTPUT = 34  # P2PKH; P2SH is two bytes less
_CLOSE_INPUT = 36 + 3 + (1 + 2 * (1 + MAX_SIG) + 1 + 2 + MAX_ESCROW_SIZE) + 4
_REFUND_INPUT = 36 + 3 + ((1 + MAX_SIG) + 1 + 2 + MAX_ESCROW_SIZE) + 4


class DepositLike(Protocol):
    """An output that pays a channel's script; `duxcommon.api.common.Deposit` is one."""

    @property
    def txid(self) -> str: ...
    @property
    def vout(self) -> int: ...
    @property
    def amount(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Coin:
    """An output with its amount, for callers that have no wire model at hand."""

    txid: str
    vout: int
    amount: int


@dataclass(frozen=True, slots=True)
class Spend:
    """An unsigned transaction over all deposits of a channel, and how it divides them.

    `provider + tax + buyer + fee` is the sum of the deposits, always.
    """

    tx: Tx
    redeem: bytes
    deposits: tuple[Coin, ...]
    """In the order of the inputs."""
    provider: int
    tax: int
    buyer: int
    fee: int


# --- reading and making ------------------------------------------------------------------------------------------


def parse_tx(raw: bytes | str) -> Tx:
    """The transaction in these bytes (or hex), amounts checked; raises BadTransaction."""
    try:
        data = bytes.fromhex(raw) if isinstance(raw, str) else raw
        tx = Tx.parse(data, check_validity=False)
    except (BTClibException, ValueError) as error:
        raise BadTransaction(f"not a transaction: {str(error)[:200]}") from None
    check_tx(tx)
    return tx


def check_tx(tx: Tx) -> None:
    """Raise BadTransaction unless the transaction could stand in a block by itself: amounts, inputs, outputs."""
    if not tx.vin or not tx.vout:
        raise BadTransaction("a transaction has at least one input and one output")
    total = 0
    for output in tx.vout:
        total += output.value
        if not 0 <= output.value <= MAX_MONEY or total > MAX_MONEY:
            raise BadTransaction(f"an output of {output.value} koinu, or the sum of the outputs, is out of range")
    if len({txin.prev_out for txin in tx.vin}) != len(tx.vin):
        raise BadTransaction("the same output is spent twice")
    if not tx.is_coinbase and any(txin.is_coinbase for txin in tx.vin):
        raise BadTransaction("a coinbase input among others")


def serialize_tx(tx: Tx) -> bytes:
    """The transaction's bytes."""
    return tx.serialize(include_witness=True, check_validity=False)


def txid_of(tx: Tx) -> str:
    """The transaction's id, reversed hex."""
    return tx.id.hex()


def outpoint_of(txin: TxIn) -> tuple[str, int]:
    """(txid, vout) of the output that an input spends."""
    return txin.prev_out.tx_id.hex(), txin.prev_out.vout


def make_tx(
    inputs: Sequence[tuple[str, int]],
    outputs: Sequence[tuple[bytes, int]],
    *,
    lock_time: int = 0,
    sequence: int = FINAL,
) -> Tx:
    """An unsigned version-1 transaction from (txid, vout) and (script, koinu) pairs, in the order given."""
    vin = [
        TxIn(OutPoint(bytes.fromhex(txid), vout, check_validity=False), b"", sequence, check_validity=False)
        for txid, vout in inputs
    ]
    vout = [_output(script, amount) for script, amount in outputs]
    return Tx(1, lock_time, vin, vout, check_validity=False)


def with_script_sigs(tx: Tx, script_sigs: Sequence[bytes]) -> Tx:
    """A copy of the transaction with these input scripts, one for each input."""
    vin = [
        TxIn(txin.prev_out, script_sig, txin.sequence, check_validity=False)
        for txin, script_sig in zip(tx.vin, script_sigs, strict=True)
    ]
    return Tx(tx.version, tx.lock_time, vin, tx.vout, check_validity=False)


def _output(script: bytes, amount: int) -> TxOut:
    return TxOut(amount, ScriptPubKey(script, check_validity=False), check_validity=False)


# --- a channel's transactions --------------------------------------------------------------------------------------


def fee_for(size: int) -> int:
    """Fee in koinu of a channel transaction of `size` bytes."""
    return size * KOINU_PER_BYTE


def closing_fee(inputs: int) -> int:
    """Fee of a closing transaction over that many deposits at its largest size; raises TooManyInputs.

    One DUST is left below MAX_FEE, because change too small for an output is added to the fee.
    """
    fee = fee_for(_worst_size(inputs, _CLOSE_INPUT, 3))
    if fee + DUST > MAX_FEE:
        raise TooManyInputs(f"{inputs} deposits in one closing transaction would cost more than 0.1 FLOP in fees")
    return fee


def usable(deposits: Sequence[DepositLike]) -> int:
    """What can be signed away of these deposits: their sum less the worst-case fee of closing, never below 0."""
    total = sum(deposit.amount for deposit in deposits)
    return max(0, total - closing_fee(len(deposits))) if deposits else 0


def closing_tx(
    terms: EscrowTerms,
    deposits: Sequence[DepositLike],
    gross: int,
    tax_bps: int,
    fund_script: bytes,
    *,
    min_tax: int = DUST,
) -> Spend:
    """The one closing transaction of a channel at a cumulative gross, unsigned.

    Inputs are sorted by (txid, vout). Outputs: provider, community fund, and the buyer's change to its key in the
    script, which goes into the fee when it is below DUST. The change has no other destination, because a third output
    that is not the buyer's would not count as settled work. Raises NotPayable, TooManyInputs, BadTransaction, BadTerms.
    """
    redeem, coins, total = _prepare(terms, deposits)
    if not (is_p2sh(fund_script) or is_p2pkh(fund_script)):
        raise BadTransaction("the community fund's script is neither P2SH nor P2PKH")
    fee = closing_fee(len(coins))
    provider, tax = split(gross, tax_bps, min_tax)
    if provider < DUST or tax < DUST:
        raise NotPayable(
            f"a gross of {gross} koinu is too little to pay the provider on the chain", details={"gross": gross}
        )
    change = total - gross - fee
    if change < 0:
        raise NotPayable(
            f"deposits of {total} koinu do not cover a gross of {gross} and a fee of {fee}",
            details={"gross": gross, "deposited": total, "fee": fee},
        )
    outputs = [(p2pkh_script(terms.provider), provider), (fund_script, tax)]
    if change >= DUST:
        outputs.append((p2pkh_script(terms.buyer), change))
    else:
        fee, change = fee + change, 0
    tx = make_tx([(coin.txid, coin.vout) for coin in coins], outputs)
    return Spend(tx, redeem, coins, provider, tax, change, fee)


def cooperative_refund_tx(terms: EscrowTerms, deposits: Sequence[DepositLike]) -> Spend:
    """Everything back to the buyer at once, signed by provider and buyer; for channels with nothing signed away."""
    return _all_to_buyer(terms, deposits, _CLOSE_INPUT, lock_time=0, sequence=FINAL)


def refund_tx(terms: EscrowTerms, deposits: Sequence[DepositLike]) -> Spend:
    """Everything back to the buyer by its signature alone; the chain takes it once its tip is at the lock height."""
    return _all_to_buyer(terms, deposits, _REFUND_INPUT, lock_time=terms.lock_height, sequence=LOCKABLE)


def _all_to_buyer(
    terms: EscrowTerms, deposits: Sequence[DepositLike], input_size: int, *, lock_time: int, sequence: int
) -> Spend:
    redeem, coins, total = _prepare(terms, deposits)
    fee = fee_for(_worst_size(len(coins), input_size, 1))
    if fee > MAX_FEE:
        raise TooManyInputs(f"a refund of {len(coins)} deposits would cost more than 0.1 FLOP in fees")
    if total - fee < DUST:
        raise NotPayable(f"after the fee {total - fee} koinu are left of the deposits, less than an output can hold")
    inputs = [(coin.txid, coin.vout) for coin in coins]
    tx = make_tx(inputs, [(p2pkh_script(terms.buyer), total - fee)], lock_time=lock_time, sequence=sequence)
    return Spend(tx, redeem, coins, 0, 0, total - fee, fee)


def _prepare(terms: EscrowTerms, deposits: Sequence[DepositLike]) -> tuple[bytes, tuple[Coin, ...], int]:
    """Redeem script, deposits in input order, and their sum."""
    coins = tuple(sorted((Coin(d.txid, d.vout, d.amount) for d in deposits), key=lambda coin: (coin.txid, coin.vout)))
    if not coins or len({(coin.txid, coin.vout) for coin in coins}) != len(coins):
        raise BadTransaction("a channel's transaction spends at least one deposit, each of them once")
    total = sum(coin.amount for coin in coins)
    if any(coin.amount <= 0 for coin in coins) or total > MAX_MONEY:
        raise BadTransaction("the amount of a deposit, or their sum, is out of range")
    return terms.script(), coins, total


def _worst_size(inputs: int, input_size: int, outputs: int) -> int:
    counts = 2 if inputs < 253 else 4
    return 4 + counts + inputs * input_size + outputs * _OUTPUT + 4


# --- signing -------------------------------------------------------------------------------------------------------


def sighash(tx: Tx, index: int, script_code: bytes) -> bytes:
    """The 32 bytes that a SIGHASH_ALL signature of one input commits to.

    `script_code` is the redeem script of a P2SH input, the output script of a P2PKH one.
    """
    return sig_hash.legacy(script_code, tx, index, SIGHASH_ALL)


def sign_input(tx: Tx, index: int, script_code: bytes, secret: bytes) -> bytes:
    """The signature of one input (strict DER, low S, RFC 6979) with its hash type byte."""
    return sign_digest(sighash(tx, index, script_code), secret)


def sign_digest(digest: bytes, secret: bytes) -> bytes:
    """The same over what `sighash` gave."""
    return dsa.sign(digest, secret) + bytes([SIGHASH_ALL])


def check_signature(tx: Tx, index: int, script_code: bytes, pubkey: bytes, signature: bytes) -> bool:
    """Whether a signature with its hash type byte is this key's over this input, and would relay.

    False for any other hash type, any encoding but strict DER, high S, and malformed keys; raises nothing.
    """
    return check_digest(sighash(tx, index, script_code), pubkey, signature)


def check_digest(digest: bytes, pubkey: bytes, signature: bytes) -> bool:
    """The same for what `sighash` gave."""
    if not 9 <= len(signature) <= MAX_SIG or signature[-1] != SIGHASH_ALL:
        return False
    der = signature[:-1]
    try:
        parsed = dsa.parse_der(der)
        # libsecp256k1 reads some encodings that a node does not; only the one it writes itself is strict DER.
        if dsa.serialize_der(parsed) != der:
            return False
        # High S does not verify: libsecp256k1 takes the low form alone.
        return dsa.verify(digest, pubkey, der)
    except ValueError:
        return False


def low_s(signature: bytes) -> bytes:
    """A signature with its hash type byte in the form that relays: a miner can turn one into the other.

    What is not strict DER comes back as it is.
    """
    der = signature[:-1]
    try:
        return dsa.normalize(der) + signature[-1:] if dsa.serialize_der(dsa.parse_der(der)) == der else signature
    except ValueError:
        return signature


def check_signatures(spend: Spend, pubkey: bytes, signatures: Sequence[bytes]) -> bool:
    """Whether these are the key's signatures of all inputs of a spend, in the order of the inputs."""
    return len(signatures) == len(spend.deposits) and all(
        check_signature(spend.tx, index, spend.redeem, pubkey, signature) for index, signature in enumerate(signatures)
    )


def close_script_sig(cosigner: bytes, provider: bytes, redeem: bytes) -> bytes:
    """Input script of the IF branch: `0 <buyer's or arbiter's signature> <provider's signature> 1 <redeem>`."""
    return b"\x00" + _serialize_script([cosigner, provider]) + b"\x51" + _serialize_script([redeem])


def refund_script_sig(buyer: bytes, redeem: bytes) -> bytes:
    """Input script of the CLTV branch: `<buyer's signature> 0 <redeem>`."""
    return _serialize_script([buyer]) + b"\x00" + _serialize_script([redeem])


def p2pkh_script_sig(signature: bytes, pubkey: bytes) -> bytes:
    """Input script of a P2PKH output."""
    return _serialize_script([signature, pubkey])


def finish_close(spend: Spend, cosigner: Sequence[bytes], provider: Sequence[bytes]) -> Tx:
    """The signed closing, award or cooperative refund: one signature of each side for each input."""
    pairs = zip(cosigner, provider, strict=True)
    return with_script_sigs(spend.tx, [close_script_sig(first, second, spend.redeem) for first, second in pairs])


def finish_refund(spend: Spend, buyer: Sequence[bytes]) -> Tx:
    """The signed refund by the buyer alone."""
    return with_script_sigs(spend.tx, [refund_script_sig(signature, spend.redeem) for signature in buyer])


# --- the script engine ---------------------------------------------------------------------------------------------


def verify_input(
    tx: Tx, index: int, script: bytes, amount: int, flags: ScriptFlag = STANDARD_FLAGS
) -> list[tuple[bytes, bytes]]:
    """Run the scripts of one input that spends an output of `script` and `amount` koinu.

    Returns the (public key, signature) pairs that were checked and found good; raises ScriptRefused.
    """
    found: list[tuple[bytes, bytes]] = []
    prevouts = [_output(script, amount)] * (index + 1)  # without SegWit the engine looks at this input's alone
    try:
        _engine_verify(prevouts, tx, index, flags, signatures=found)
    except (BTClibException, EccException) as error:
        raise ScriptRefused(f"input {index}: {str(error)[:200]}") from None
    return found


def verify_tx(tx: Tx, prevouts: Sequence[tuple[bytes, int]], flags: ScriptFlag = STANDARD_FLAGS) -> int:
    """Check amounts and all input scripts against the (script, koinu) pairs that the inputs spend; returns the fee.

    Raises BadTransaction when more goes out than in, ScriptRefused for a script that fails.
    """
    check_tx(tx)
    if len(prevouts) != len(tx.vin):
        raise BadTransaction(f"{len(prevouts)} outputs given for {len(tx.vin)} inputs")
    fee = sum(amount for _, amount in prevouts) - sum(output.value for output in tx.vout)
    if fee < 0:
        raise BadTransaction(f"the outputs are {-fee} koinu more than the inputs")
    for index, (script, amount) in enumerate(prevouts):
        verify_input(tx, index, script, amount, flags)
    return fee
