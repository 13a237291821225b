"""What a wallet can spend: balances from the index, coin selection, funding, signing."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from btclib import var_int
from btclib.tx import OutPoint, Tx, TxIn, TxOut

from duxcommon.coin import script as coin_script
from duxcommon.coin.tx import p2pkh_script_sig, sign_input

from . import policy, rules, validate
from .node import Node
from .store import Coin
from .validate import outpoint
from .wallets import SPENDABLE, WATCHED

DEFAULT_RATE = policy.MIN_FEE_RATE
INPUT_SIZE = 148
"""Bytes of a signed P2PKH input at most: 72 of signature and hash type, 33 of key."""
_SEQUENCE = 0xFFFFFFFE


class CannotFund(Exception):
    """Why no transaction could be made, in Core's words."""


@dataclass(frozen=True, slots=True)
class WalletCoin:
    """An unspent output of a wallet; `height` None: in the mempool."""

    txid: bytes
    vout: int
    value: int
    script: bytes
    mine: int
    height: int | None
    trusted: bool

    def depth(self, tip: int) -> int:
        return 0 if self.height is None else tip - self.height + 1


@dataclass(slots=True)
class Balances:
    """Koinu that can be spent, that wait for a confirmation from others, and fresh coinbases."""

    trusted: int = 0
    pending: int = 0
    immature: int = 0


@dataclass(frozen=True, slots=True)
class FundOptions:
    """What fundrawtransaction was asked; `rate` in koinu for 1000 bytes."""

    rate: int = DEFAULT_RATE
    change_script: bytes | None = None
    change_position: int | None = None
    lock: bool = False
    subtract_from: Sequence[int] = field(default_factory=tuple)
    include_watching: bool = False


def _mature_height(node: Node) -> int:
    """Highest coinbase the wallet spends: one confirmation more than consensus asks, as in Core."""
    return node.tip.height - rules.maturity(node.tip.height)


def balances(node: Node, wallet: int, *, mine: int = SPENDABLE, minconf: int = 0) -> Balances:
    """Sums over the wallet's unspent coins, locked ones included, from the index.

    `mine` is the least that counts (1: watched scripts too), `minconf` the least depth where that is above 1.
    """
    result = Balances()
    rows = node.wallets.db.execute(
        "SELECT coinbase AND height > ?, sum(value) FROM wallet_coins "
        "WHERE wallet = ? AND mine >= ? AND spent = 0 AND height <= ? GROUP BY 1",
        (_mature_height(node), wallet, mine, node.tip.height + 1 - max(minconf, 1)),
    )
    for young, total in rows:
        if young:
            result.immature += total
        else:
            result.trusted += total
    for coin in _waiting(node, wallet, mine) if minconf <= 1 else ():
        if coin.trusted:
            result.trusted += coin.value
        else:
            result.pending += coin.value
    return result


def _waiting(node: Node, wallet: int, mine: int) -> list[WalletCoin]:
    """Unspent outputs of mempool transactions; trusted are those that spend only the wallet's own coins."""
    rows = node.wallets.db.execute(
        "SELECT txid, vout, value, script, mine FROM wallet_coins "
        "WHERE wallet = ? AND mine >= ? AND spent = 0 AND height IS NULL",
        (wallet, mine),
    ).fetchall()
    coins = []
    for txid, vout, value, script, owned in rows:
        entry = node.mempool.get(txid)
        if entry is not None:
            coins.append(WalletCoin(txid, vout, value, script, owned, None, is_ours(node, wallet, entry.tx)))
    return coins


def is_ours(node: Node, wallet: int, tx: Tx) -> bool:
    """Whether every input spends a coin that the wallet can sign for."""
    for given in tx.vin:
        row = node.wallets.db.execute(
            "SELECT mine FROM wallet_coins WHERE txid = ? AND vout = ? AND wallet = ?", (*outpoint(given), wallet)
        ).fetchone()
        if row is None or row[0] != SPENDABLE:
            return False
    return True


def unspent(node: Node, wallet: int, *, mine: int = 1) -> Iterable[WalletCoin]:
    """Coins neither spent, locked nor immature, cheapest way first: unconfirmed, then by age."""
    locked = node.wallets.locked.get(wallet, set())
    rows = node.wallets.db.execute(
        "SELECT txid, vout, value, script, mine, height FROM wallet_coins WHERE wallet = ? AND mine >= ? "
        "AND spent = 0 AND height IS NOT NULL AND (coinbase = 0 OR height <= ?) ORDER BY height DESC",
        (wallet, mine, _mature_height(node)),
    )
    for coin in _waiting(node, wallet, mine):
        if (coin.txid, coin.vout) not in locked:
            yield coin
    for txid, vout, value, script, owned, height in rows:
        if (txid, vout) not in locked:
            yield WalletCoin(txid, vout, value, script, owned, height, True)


# --- funding


def fund(node: Node, wallet: int, tx: Tx, options: FundOptions) -> tuple[Tx, int, int]:
    """Add inputs and change to `tx`; the transaction, its fee in koinu and the change's place (-1: none).

    Raises CannotFund. Deterministic but for the change's place: the smallest coin that is enough, else the largest
    ones, confirmed before unconfirmed.
    """
    _check_outputs(tx, options)
    preset = [_preset(node, wallet, given) for given in tx.vin]
    taken = {outpoint(given) for given in tx.vin}
    usable = [
        coin
        for coin in unspent(node, wallet, mine=1 if options.include_watching else SPENDABLE)
        if coin.trusted and (coin.txid, coin.vout) not in taken
    ]
    paid = sum(output.value for output in tx.vout)
    for coins in ([coin for coin in usable if coin.height is not None], usable):
        picked = _pick(coins, tx, sum(preset), paid, options)
        if picked is not None:
            return _complete(node, wallet, tx, _Funds(sum(preset), picked), options)
    raise CannotFund("Insufficient funds")


def _check_outputs(tx: Tx, options: FundOptions) -> None:
    if not tx.vout:
        raise CannotFund("Transaction must have at least one recipient")
    for output in tx.vout:
        if output.script_pub_key.script[:1] != b"\x6a" and output.value < policy.HARD_DUST:
            raise CannotFund("Transaction amount too small")


def _preset(node: Node, wallet: int, given: TxIn) -> int:
    row = node.wallets.db.execute(
        "SELECT value FROM wallet_coins WHERE txid = ? AND vout = ? AND wallet = ?", (*outpoint(given), wallet)
    ).fetchone()
    if row is None:
        raise CannotFund("Insufficient funds")
    return int(row[0])


def _size(tx: Tx, inputs: int, change: bytes | None) -> int:
    outputs = sum(8 + len(var_int.serialize(len(script))) + len(script) for script in _scripts(tx, change))
    counts = len(var_int.serialize(inputs)) + len(var_int.serialize(len(tx.vout) + (change is not None)))
    return 8 + counts + inputs * INPUT_SIZE + outputs


def _scripts(tx: Tx, change: bytes | None) -> list[bytes]:
    return [output.script_pub_key.script for output in tx.vout] + ([] if change is None else [change])


def fee_of(size: int, rate: int) -> int:
    """Koinu for `size` bytes, rounded up."""
    return -(-size * rate // 1000)


def _pick(coins: list[WalletCoin], tx: Tx, preset: int, paid: int, options: FundOptions) -> list[WalletCoin] | None:
    """Enough coins for outputs and fee without change, or None."""

    def missing(count: int) -> int:
        fee = 0 if options.subtract_from else fee_of(_size(tx, len(tx.vin) + count, None), options.rate)
        return paid + fee - preset

    if tx.vin and missing(0) <= 0:
        return []
    enough = [coin for coin in coins if coin.value >= missing(1)]
    if enough:
        return [min(enough, key=lambda coin: (coin.value, coin.txid, coin.vout))]
    picked: list[WalletCoin] = []
    total = 0
    for coin in sorted(coins, key=lambda coin: (-coin.value, coin.txid, coin.vout)):
        picked.append(coin)
        total += coin.value
        if total >= missing(len(picked)):
            return picked
    return None


@dataclass(frozen=True, slots=True)
class _Funds:
    """Koinu of the inputs that the transaction had, and the coins to add."""

    preset: int
    picked: list[WalletCoin]

    @property
    def total(self) -> int:
        return self.preset + sum(coin.value for coin in self.picked)


def _complete(node: Node, wallet: int, tx: Tx, funds: _Funds, options: FundOptions) -> tuple[Tx, int, int]:
    inputs = len(tx.vin) + len(funds.picked)
    change_script = options.change_script or bytes(25)
    fee_without = fee_of(_size(tx, inputs, None), options.rate)
    fee_with = fee_of(_size(tx, inputs, change_script), options.rate)
    paid = sum(output.value for output in tx.vout)
    total = funds.total
    subtracted = bool(options.subtract_from)
    change = total - paid - (0 if subtracted else fee_with)
    outputs = list(tx.vout)
    position = -1
    if change >= policy.SOFT_DUST:
        fee = fee_with
    else:
        change = 0
        fee = fee_without if subtracted else total - paid
        if subtracted:
            # What is too little for a change output goes to the fee, the recipients pay the rest of it.
            fee = max(fee_without, total - paid)
    if subtracted:
        _subtract(outputs, options.subtract_from, paid + change + fee - total)
    if change:
        script = options.change_script or node.wallets.new_script(wallet, None)
        position = secrets.randbelow(len(outputs) + 1) if options.change_position is None else options.change_position
        outputs.insert(position, TxOut(change, script, check_validity=False))
    added = [
        TxIn(OutPoint(coin.txid, coin.vout, check_validity=False), b"", _SEQUENCE, check_validity=False)
        for coin in funds.picked
    ]
    if _size(tx, inputs, change_script if change else None) > policy.MAX_STANDARD_SIZE:
        raise CannotFund("Transaction too large")
    if options.lock:
        node.wallets.locked.setdefault(wallet, set()).update((coin.txid, coin.vout) for coin in funds.picked)
    return Tx(tx.version, tx.lock_time, [*tx.vin, *added], outputs, check_validity=False), fee, position


def _subtract(outputs: list[TxOut], positions: Sequence[int], fee: int) -> None:
    share, rest = divmod(fee, len(positions))
    for index, position in enumerate(positions):
        output = outputs[position]
        left = output.value - share - (rest if index == 0 else 0)
        if left < policy.HARD_DUST:
            raise CannotFund("The transaction amount is too small to pay the fee")
        outputs[position] = TxOut(left, output.script_pub_key, check_validity=False)


# --- signing


def sign(tx: Tx, coins: Sequence[Coin | None], secret_of: Callable[[bytes], bytes | None]) -> list[str | None]:
    """Sign every P2PKH input whose key is known, in place; for each input what is still wrong with it, or None.

    Other scripts (escrows, multisig) keep the input script they came with and are verified as they are.
    """
    known = [coin or Coin(0, b"", None, False) for coin in coins]
    prevouts = validate.prevouts_of(known)
    problems: list[str | None] = []
    for index, coin in enumerate(coins):
        if coin is None:
            problems.append("Input not found or already spent")
            continue
        secret = secret_of(coin.script) if coin_script.is_p2pkh(coin.script) else None
        if secret is not None:
            signature = sign_input(tx, index, coin.script, secret)
            tx.vin[index].script_sig = p2pkh_script_sig(signature, coin_script.pubkey_of(secret))
        problems.append(validate.script_error(prevouts, tx, index, policy.STANDARD_FLAGS))
    return problems


def credit_of(node: Node, wallet: int, txid: bytes, mine: int) -> int:
    """Koinu that a transaction pays to the wallet's scripts that are at least `mine`."""
    row = node.wallets.db.execute(
        "SELECT coalesce(sum(value), 0) FROM wallet_coins WHERE txid = ? AND wallet = ? AND mine >= ?",
        (txid, wallet, mine),
    ).fetchone()
    return int(row[0])


def debits_of(node: Node, wallet: int, tx: Tx) -> dict[int, int]:
    """Koinu of the wallet's coins that a transaction spends, by WATCHED and SPENDABLE."""
    sums = {WATCHED: 0, SPENDABLE: 0}
    for given in tx.vin:
        row = node.wallets.db.execute(
            "SELECT mine, value FROM wallet_coins WHERE txid = ? AND vout = ? AND wallet = ?",
            (*outpoint(given), wallet),
        ).fetchone()
        if row is not None:
            sums[row[0]] += row[1]
    return sums
