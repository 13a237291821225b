"""Payments that prove a key: which coin is taken, and what Core may not make of the order."""

import pytest

from dux_flopd.core import Coin
from dux_flopd.funding import Proof, check_proof, proving_coin
from duxcommon.coin.script import p2pkh_script, p2sh_script, pubkey_of
from duxcommon.coin.tx import make_tx
from duxcommon.errors import ChainFault, NoPayoutCoin
from duxcommon.money import COIN, DUST

PROOF = Proof(p2pkh_script(pubkey_of(b"\x05" * 32)), "address-of-the-key")
ELSEWHERE = p2pkh_script(pubkey_of(b"\x06" * 32))
ASKED = [(p2sh_script(b"\x51"), DUST)]


def coin(number: int, amount: int, *, confirmations: int = 1, script: bytes = PROOF.script) -> Coin:
    return Coin(f"{number:064x}", 0, amount, confirmations, script)


def test_the_smallest_coin_that_leaves_change_is_taken() -> None:
    coins = [coin(1, COIN), coin(2, 5 * DUST), coin(3, 2 * DUST), coin(4, 4 * DUST, script=ELSEWHERE)]
    assert proving_coin(coins, {}, PROOF, ASKED) == (f"{2:064x}", 0)
    assert proving_coin(coins, {(f"{2:064x}", 0): 0}, PROOF, ASKED) == (f"{1:064x}", 0)


def test_without_one_that_leaves_change_the_smallest_does() -> None:
    coins = [coin(1, 2 * DUST), coin(2, DUST), coin(3, DUST - 1)]
    assert proving_coin(coins, {}, PROOF, ASKED) == (f"{2:064x}", 0)


@pytest.mark.parametrize(
    ("coins", "held", "remedy"),
    [
        ([], {}, "payout address"),
        ([coin(1, COIN, script=ELSEWHERE)], {}, "payout address"),
        ([coin(1, DUST - 1)], {}, "payout address"),
        ([coin(1, COIN, confirmations=0)], {}, "next block"),
        ([coin(1, COIN)], {(f"{1:064x}", 0): COIN}, "next block"),
    ],
)
def test_without_a_confirmed_free_coin_it_says_what_to_do(
    coins: list[Coin], held: dict[tuple[str, int], int], remedy: str
) -> None:
    with pytest.raises(NoPayoutCoin) as caught:
        proving_coin(coins, held, PROOF, ASKED)
    assert remedy in caught.value.hint
    assert caught.value.retry


def test_what_core_makes_must_keep_the_proof_and_send_the_change_back() -> None:
    proving, other = ("11" * 32, 0), ("22" * 32, 0)
    check_proof(ASKED, make_tx([proving, other], [*ASKED, (PROOF.script, COIN)]), proving, PROOF)
    check_proof(ASKED, make_tx([proving], ASKED), proving, PROOF)
    for wrong in (make_tx([other], ASKED), make_tx([proving], [*ASKED, (ELSEWHERE, COIN)])):
        with pytest.raises(ChainFault, match="nothing was signed"):
            check_proof(ASKED, wrong, proving, PROOF)
