"""Building payments: Core picks the coins and signs, we check every figure of what it made before it is committed.

A payment that is to prove a key (a vote, say) spends a coin of that key's address: we pick that one, Core the others.
"""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from btclib.tx import Tx

from duxcommon.coin.script import op_return_script
from duxcommon.coin.tx import fee_for, make_tx, outpoint_of, parse_tx, serialize_tx
from duxcommon.errors import (
    BadTransaction,
    ChainFault,
    DustAmount,
    FeeTooHigh,
    InsufficientFunds,
    InvalidParams,
    NoPayoutCoin,
)
from duxcommon.money import DUST, MAX_MONEY, format_flop

from .blocks import same_id
from .core import Coin, Core, OutpointKey
from .intents import Input
from .settings import MIN_FEE_RATE

MAX_OUTPUTS = 100
MAX_FEE = 10_000_000
"""No transaction of a channel pays more than 0.1 FLOP."""
MAX_SEND_FEE = 100_000_000
"""No payment by hand pays more than 1 FLOP."""
_TYPICAL_SIZE = 224
_DATA_SIZE = 92
_MAX_CLASHES = 20

Output = tuple[bytes, int]
"""Script and koinu."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The key that a payment is to prove: its P2PKH script, and the same as an address."""

    script: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Built:
    """A payment; `hex` is signed unless it was a dry run."""

    hex: str
    txid: str
    same: str
    fee: int
    inputs: tuple[Input, ...]


def check_outputs(outputs: Sequence[Output], data: bytes | None) -> list[Output]:
    """What is to be paid, with the data as the last output. Raises DustAmount, InvalidParams or BadTerms."""
    if not 1 <= len(outputs) <= MAX_OUTPUTS:
        raise InvalidParams(f"one transaction pays 1 to {MAX_OUTPUTS} outputs, not {len(outputs)}")
    for script, amount in outputs:
        if not script:
            raise InvalidParams("an output's script is empty: anyone could take its coins")
        if amount < DUST:
            raise DustAmount(f"{format_flop(amount)} FLOP is less than the smallest payment of {format_flop(DUST)}")
    if sum(amount for _, amount in outputs) > MAX_MONEY:
        raise InvalidParams("the outputs add up to more than all the coins there can be")
    return [*outputs, *([(op_return_script(data), 0)] if data else [])]


def check_size(fee: int, size: int, max_fee: int) -> None:
    """Raise FeeTooHigh, or BadTransaction for a fee at which no default miner takes `size` bytes."""
    if fee > max_fee:
        raise FeeTooHigh(
            f"the fee would be {format_flop(fee)} FLOP, more than the limit of {format_flop(max_fee)}",
            details={"fee": fee, "limit": max_fee},
        )
    if fee * 1000 <= MIN_FEE_RATE * size:
        raise BadTransaction(f"a fee of {fee} koinu is not above 0.01 FLOP/kB for {size} bytes; it would never confirm")


def proving_coin(
    coins: Sequence[Coin], held: Container[OutpointKey], proof: Proof, asked: Sequence[Output]
) -> OutpointKey:
    """The smallest confirmed coin of a proof's address that no transaction holds. Raises NoPayoutCoin.

    One that leaves change is taken first: less than an output can hold would go into the fee, and nothing back.
    """
    own = [coin for coin in coins if coin.script == proof.script and coin.amount >= DUST]
    free = [coin for coin in own if coin.confirmations > 0 and (coin.txid, coin.vout) not in held]
    if free:
        lasting = sum(amount for _, amount in asked) + fee_for(_TYPICAL_SIZE + _DATA_SIZE) + DUST
        enough = [coin for coin in free if coin.amount >= lasting]
        best = min(enough or free, key=lambda coin: (coin.amount, coin.txid, coin.vout))
        return best.txid, best.vout
    if own:
        raise NoPayoutCoin(
            f"all coins of the payout address {proof.address} wait for a confirmation",
            hint="Wait for the next block and try again.",
        )
    raise NoPayoutCoin(f"the payout address {proof.address} holds no coin, so that nothing can prove its key")


def check_proof(asked: Sequence[Output], tx: Tx, proving: OutpointKey, proof: Proof) -> None:
    """Raise ChainFault unless the transaction spends the coin that proves the key, and its change goes back there."""
    if proving not in map(outpoint_of, tx.vin):
        raise ChainFault("Core dropped the input that was to prove the payout key; nothing was signed")
    if any(output.script_pub_key.script != proof.script for output in tx.vout[len(asked) :]):
        raise ChainFault("Core sends the change elsewhere than it was told; nothing was signed")


def check_funded(
    asked: Sequence[Output], tx: Tx, amounts: Mapping[OutpointKey, int], max_fee: int
) -> tuple[Tx, int, tuple[Input, ...]]:
    """What Core made of an order to pay: the transaction to sign, its fee, its inputs.

    The outputs must be exactly those asked for and at most one more, the change; change that is too small to be
    relayed goes into the fee. Raises ChainFault when Core made something else, and FeeTooHigh.
    """
    outputs = [(output.script_pub_key.script, output.value) for output in tx.vout]
    change = outputs[len(asked) :]
    if outputs[: len(asked)] != list(asked) or len(change) > 1:
        raise ChainFault("Core funded another transaction than it was given; nothing was signed")
    inputs = []
    for txin in tx.vin:
        txid, vout = outpoint_of(txin)
        if (txid, vout) not in amounts:
            raise ChainFault(f"Core picked {txid}:{vout}, which is not a coin of its wallet; nothing was signed")
        inputs.append(Input(txid, vout, amounts[txid, vout]))
    if change and change[0][1] < DUST:
        tx = make_tx([given.key for given in inputs], asked)
        change = []
    fee = sum(given.amount for given in inputs) - sum(amount for _, amount in [*asked, *change])
    if fee < 0:
        raise ChainFault("Core made a transaction that pays more than it spends; nothing was signed")
    if fee > max_fee:
        check_size(fee, 1, max_fee)
    return tx, fee, tuple(inputs)


class Builder:
    """Makes one payment at a time, because Core hands the same coin to two callers at once."""

    def __init__(self, core: Core, held: Callable[[], Mapping[OutpointKey, int]]) -> None:
        self._core = core
        self._held = held
        """The coins that open intents hold."""
        self.lock = asyncio.Lock()
        """Held from the picking of coins until the commit that claims them."""

    async def build(
        self, asked: Sequence[Output], *, fee_rate: int, max_fee: int, sign: bool, proof: Proof | None = None
    ) -> Built:
        """A payment of exactly these outputs; the caller holds `lock`.

        With a `proof` it spends a coin of that address, and the change goes back there, so that the next proof finds
        one. Raises InsufficientFunds, NoPayoutCoin, FeeTooHigh, ChainFault and what Core's calls raise.
        """
        tx, amounts = await self._fund(asked, fee_rate, max_fee, proof)
        tx, fee, inputs = check_funded(asked, tx, amounts, max_fee)
        unsigned = same_id(tx)
        if sign:
            tx = parse_tx(await self._core.sign(serialize_tx(tx).hex()))
            if same_id(tx) != unsigned:
                raise ChainFault("Core signed another transaction than it was given; it is not used")
            check_size(fee, len(serialize_tx(tx)), max_fee)
        return Built(serialize_tx(tx).hex(), tx.id.hex(), unsigned, fee, inputs)

    async def _fund(
        self, asked: Sequence[Output], fee_rate: int, max_fee: int, proof: Proof | None
    ) -> tuple[Tx, dict[OutpointKey, int]]:
        for _ in range(_MAX_CLASHES):
            coins = await self._core.coins()
            amounts = {(coin.txid, coin.vout): coin.amount for coin in coins}
            proving = proving_coin(coins, self._held(), proof, asked) if proof else None
            draft = make_tx([proving] if proving else [], asked)
            raw = draft.serialize(include_witness=False, check_validity=False).hex()
            change_to = proof.address if proof else None
            try:
                funded = await self._core.fund(raw, change_at=len(asked), fee_rate=fee_rate, change_to=change_to)
            except ChainFault as error:
                if "nsufficient funds" in error.message:
                    raise self._too_little(asked, amounts, fee_rate) from error
                if "exceeds maximum" in error.message:
                    raise FeeTooHigh(
                        "the fee would be more than Core's own limit (maxtxfee)", details={"limit": max_fee}
                    ) from error
                raise
            tx = parse_tx(funded.hex)
            held = self._held()
            clashes = [outpoint for outpoint in map(outpoint_of, tx.vin) if outpoint in held]
            if not clashes:
                if proof and proving:
                    check_proof(asked, tx, proving, proof)
                return tx, amounts
            # Core forgets its locks when it restarts.
            await self._core.lock(clashes)
        raise ChainFault("Core keeps picking coins that are promised to other transactions")

    def _too_little(
        self, asked: Sequence[Output], amounts: Mapping[OutpointKey, int], fee_rate: int
    ) -> InsufficientFunds:
        held = self._held()
        have = sum(amount for outpoint, amount in amounts.items() if outpoint not in held)
        need = sum(amount for _, amount in asked) + max(fee_for(_TYPICAL_SIZE), _TYPICAL_SIZE * fee_rate // 1000)
        if have >= need:
            return InsufficientFunds(
                f"{format_flop(need)} FLOP with the fee are needed; of the {format_flop(have)} FLOP in the wallet too "
                "much still waits for its first confirmation, or lies in coins too small to be worth their fee",
                hint="Wait for the next block and try again.",
                details={"have": have, "need": need},
            )
        return InsufficientFunds(
            f"you have {format_flop(have)} FLOP to spend and need {format_flop(need)} with the fee: "
            f"{format_flop(need - have)} FLOP are missing",
            details={"have": have, "need": need, "missing": need - have},
        )
