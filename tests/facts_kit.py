"""Transactions that a chain says something by, made by hand on a dux-devchain, and what dux-flopd tells of them."""

from collections.abc import Sequence
from typing import Any

from btclib.tx import Tx
from devchain_kit import NOBODY, OWN, SECRETS, Devchain, given_coin, spend
from flopd_kit import Flopd

from duxcommon.coin.bond import bond_output
from duxcommon.coin.notes import BondNote, VoteNote
from duxcommon.coin.script import EscrowTerms, FundingNote, op_return_script, p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import (
    Coin,
    close_script_sig,
    closing_tx,
    finish_close,
    make_tx,
    p2pkh_script_sig,
    serialize_tx,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.coin.tx import Spend as ChannelSpend
from duxcommon.money import COIN, DUST

P, B, A, P2 = (bytes([number]) * 32 for number in (51, 52, 53, 54))
"""Secrets of a provider, a buyer, an arbiter and another provider."""
PROVIDER, BUYER, ARBITER, PROVIDER2 = (pubkey_of(secret) for secret in (P, B, A, P2))
OWN_KEY = pubkey_of(SECRETS[0])
FUND = p2sh_script(b"the fund of these tests")
FEE = 2_000_000

Outputs = Sequence[tuple[bytes, int]]


def terms_of(lock_height: int, provider: bytes = PROVIDER) -> EscrowTerms:
    return EscrowTerms(provider, BUYER, ARBITER, lock_height)


def note_script(terms: EscrowTerms) -> tuple[bytes, int]:
    """The output with the funding note of a channel."""
    return op_return_script(FundingNote(terms.provider, terms.arbiter, terms.lock_height).encode()), 0


def send(chain: Devchain, tx: Tx) -> str:
    """Through the node's own rules of relay; its id."""
    txid: str = chain.call("sendrawtransaction", serialize_tx(tx).hex())
    return txid


def mine_tx(chain: Devchain, *txs: Tx) -> int:
    """A block with these transactions, standard or not; its height."""
    chain.call("generateblock", NOBODY, [serialize_tx(tx).hex() for tx in txs])
    return chain.height()


def pay(chain: Devchain, outputs: Outputs) -> Tx:
    """A transaction from a fresh coin of OWN to these outputs; it is not sent."""
    return spend(given_coin(chain, amount=sum(amount for _, amount in outputs) + FEE), list(outputs))


def deposit(chain: Devchain, terms: EscrowTerms, koinu: int, note: tuple[bytes, int] | None = None) -> Coin:
    """A confirmed deposit, with its channel's funding note or another output instead."""
    tx = pay(chain, [(p2sh_script(terms.script()), koinu), note or note_script(terms)])
    mine_tx(chain, tx)
    return Coin(txid_of(tx), 0, koinu)


def signed(made: ChannelSpend, cosigner: bytes = B, provider: bytes = P) -> Tx:
    """A channel's transaction with the signatures of all its inputs."""
    pairs = [
        [sign_input(made.tx, index, made.redeem, secret) for index in range(len(made.deposits))]
        for secret in (cosigner, provider)
    ]
    return finish_close(made, *pairs)


def close_to(coins: Sequence[Coin], redeem: bytes, outputs: Outputs, cosigner: bytes = B, provider: bytes = P) -> Tx:
    """A correctly signed spend of deposits of one script to any outputs."""
    tx = make_tx([(coin.txid, coin.vout) for coin in coins], outputs)
    script_sigs = [
        close_script_sig(sign_input(tx, index, redeem, cosigner), sign_input(tx, index, redeem, provider), redeem)
        for index in range(len(coins))
    ]
    return with_script_sigs(tx, script_sigs)


def page(node: Flopd, kind: str, **params: Any) -> dict[str, Any]:
    return node.call(f"chain.{kind}", params)


def told(node: Flopd, kind: str, from_height: int = 0, limit: int = 3) -> list[dict[str, Any]]:
    """All facts of a kind, once flopd is at the chain's tip."""
    node.at_tip()
    facts: list[dict[str, Any]] = []
    after = None
    while True:
        found = page(node, kind, from_height=from_height, after=after, limit=limit)
        facts += found["facts"]
        after = found["next"]
        if after is None:
            return facts


TEN = 10 * COIN
VOTE = VoteNote(bytes(range(32)), True)


def close_tx(terms: EscrowTerms, coin: Coin) -> Tx:
    """Settled work of 10 FLOP."""
    return signed(closing_tx(terms, [coin], TEN, 500, FUND))


def bond_tx(core: Devchain, count: int) -> Tx:
    """Bonds of one FLOP each, by the provider's key, with what the fund asks for."""
    lock_height = core.height() + 9000
    bonds = [(bond_output(PROVIDER, lock_height), COIN)] * count
    return pay(core, [(FUND, DUST), *bonds, (op_return_script(BondNote(PROVIDER, lock_height).encode()), 0)])


def vote_tx(core: Devchain, secret: bytes) -> Tx:
    """A vote that one key signs."""
    script = p2pkh_script(pubkey_of(secret))
    coin = given_coin(core, script, COIN)
    tx = make_tx([(coin.txid, coin.vout)], [(FUND, DUST), (op_return_script(VOTE.encode()), 0), (OWN, DUST)])
    return with_script_sigs(tx, [p2pkh_script_sig(sign_input(tx, 0, script, secret), pubkey_of(secret))])
