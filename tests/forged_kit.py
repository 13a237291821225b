"""Confirmed transactions that look like settled work and are none, each made by hand on a dux-devchain."""

from btclib.tx import Tx
from devchain_kit import OWN, SECRETS, Devchain, given_coin
from facts_kit import (
    BUYER,
    FEE,
    FUND,
    OWN_KEY,
    P2,
    PROVIDER,
    PROVIDER2,
    B,
    P,
    close_to,
    deposit,
    mine_tx,
    note_script,
    pay,
    terms_of,
)

from duxcommon.coin.script import multisig_script, p2pkh_script, p2sh_script
from duxcommon.coin.tx import (
    LOCKABLE,
    close_script_sig,
    make_tx,
    p2pkh_script_sig,
    refund_script_sig,
    sign_input,
    txid_of,
    with_script_sigs,
)
from duxcommon.money import COIN, DUST

TO_PROVIDER, TO_BUYER = p2pkh_script(PROVIDER), p2pkh_script(BUYER)
GOOD = [(TO_PROVIDER, 950_000_000), (FUND, 50_000_000), (TO_BUYER, COIN - FEE)]


def self_made_script(core: Devchain) -> Tx:
    redeem = multisig_script(2, [BUYER, PROVIDER])
    terms = terms_of(core.height() + 5000)
    funding = pay(core, [(p2sh_script(redeem), 11 * COIN), note_script(terms)])
    mine_tx(core, funding)
    tx = make_tx([(txid_of(funding), 0)], GOOD)
    pushes = [b"\x00", *(bytes([len(s)]) + s for s in (sign_input(tx, 0, redeem, B), sign_input(tx, 0, redeem, P)))]
    return with_script_sigs(tx, [b"".join(pushes) + bytes([len(redeem)]) + redeem])


def tax_without_work(core: Devchain) -> Tx:
    return pay(core, GOOD)


def refund_branch(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 3)
    coin = deposit(core, terms, 11 * COIN)
    core.mine(3)
    tx = make_tx([(coin.txid, coin.vout)], GOOD, lock_time=terms.lock_height, sequence=LOCKABLE)
    return with_script_sigs(tx, [refund_script_sig(sign_input(tx, 0, terms.script(), B), terms.script())])


def two_channels_on_one_tax(core: Devchain) -> Tx:
    channels = [(terms_of(core.height() + 5000), P), (terms_of(core.height() + 5000, PROVIDER2), P2)]
    coins = [deposit(core, terms, 6 * COIN) for terms, _ in channels]
    tx = make_tx([(coin.txid, coin.vout) for coin in coins], GOOD)
    script_sigs = [
        close_script_sig(
            sign_input(tx, index, terms.script(), B), sign_input(tx, index, terms.script(), secret), terms.script()
        )
        for index, (terms, secret) in enumerate(channels)
    ]
    return with_script_sigs(tx, script_sigs)


def with_money_from_elsewhere(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    coin, other = deposit(core, terms, 6 * COIN), given_coin(core, amount=5 * COIN)
    tx = make_tx([(coin.txid, coin.vout), (other.txid, other.vout)], GOOD)
    redeem = terms.script()
    return with_script_sigs(
        tx,
        [
            close_script_sig(sign_input(tx, 0, redeem, B), sign_input(tx, 0, redeem, P), redeem),
            p2pkh_script_sig(sign_input(tx, 1, OWN, SECRETS[0]), OWN_KEY),
        ],
    )


def wrong_order(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    coin = deposit(core, terms, 11 * COIN)
    return close_to([coin], terms.script(), [GOOD[1], GOOD[0], GOOD[2]])


def fund_last(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    return close_to([deposit(core, terms, 11 * COIN)], terms.script(), [GOOD[0], GOOD[2], GOOD[1]])


def one_output_more(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    return close_to([deposit(core, terms, 12 * COIN)], terms.script(), [*GOOD, (TO_BUYER, DUST)])


def change_to_somebody_else(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    return close_to([deposit(core, terms, 12 * COIN)], terms.script(), [*GOOD[:2], (OWN, DUST)])


def without_note(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    return close_to([deposit(core, terms, 11 * COIN, (OWN, DUST))], terms.script(), GOOD)


def with_the_note_of_another_channel(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    other = note_script(terms_of(terms.lock_height + 1))
    return close_to([deposit(core, terms, 11 * COIN, other)], terms.script(), GOOD)


def topped_up_without_note(core: Devchain) -> Tx:
    terms = terms_of(core.height() + 5000)
    coins = [deposit(core, terms, 8 * COIN), deposit(core, terms, 3 * COIN, (OWN, DUST))]
    return close_to(coins, terms.script(), GOOD)


FORGERIES = [
    self_made_script,
    tax_without_work,
    refund_branch,
    two_channels_on_one_tax,
    with_money_from_elsewhere,
    wrong_order,
    fund_last,
    one_output_more,
    change_to_somebody_else,
    without_note,
    with_the_note_of_another_channel,
    topped_up_without_note,
]
