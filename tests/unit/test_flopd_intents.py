"""Intents: the table of states, one intent a coin, twins and rivals."""

import sqlite3
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from dux_flopd import intents, outputs
from dux_flopd.blocks import Block, SeenTx, parse_block, same_id
from dux_flopd.intents import MACHINE, STATES, Draft, Event, Input, step
from dux_flopd.outputs import Tip
from dux_flopd.schema import MIGRATIONS
from dux_flopd.sending import Outcome, outcome_of
from duxcommon.coin.genesis import block as genesis_block
from duxcommon.coin.genesis import block_hash, coinbase
from duxcommon.coin.script import p2sh_script
from duxcommon.coin.tx import make_tx, serialize_tx, with_script_sigs
from duxcommon.db import connect
from duxcommon.errors import Conflict, IntentSent, IntentUnknown

COIN = ("11" * 32, 0)
SCRIPT = p2sh_script(b"\x51")


@pytest.fixture
def books(short_tmp: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(short_tmp / "books")
    connection.executescript("".join(MIGRATIONS))
    outputs.jump(connection, Tip(0, "genesis"))
    yield connection
    connection.close()


def signed(spent: tuple[str, int] = COIN, signature: bytes = b"\x01\x01", amount: int = 1_000_000) -> SeenTx:
    return SeenTx(with_script_sigs(make_tx([spent], [(SCRIPT, amount), (SCRIPT, 2_000_000)]), [signature]))


def draft(seen: SeenTx, key: str = "k", params: str = "p") -> Draft:
    inputs = tuple(Input(*outpoint, 9_000_000) for outpoint in seen.spends)
    return Draft(*(1, key, params, "fund", "ref"), *(seen.hex, seen.txid, same_id(seen.tx), 1, inputs), picked=True)


def block(number: int, *txs: SeenTx) -> Block:
    return Block(f"b{number}", "genesis" if number == 1 else f"b{number - 1}", list(txs))


def test_every_state_can_be_left_or_is_an_end_and_every_event_is_used() -> None:
    assert {event for _, event in MACHINE} == set(get_args(Event))
    assert {state for state, _ in MACHINE} == set(STATES) - {"cancelled"}
    assert set(MACHINE.values()) <= set(STATES)
    for state, event in product(STATES, get_args(Event)):
        if (state, event) not in MACHINE:
            with pytest.raises(KeyError):
                step(state, event)


def test_nothing_that_may_have_left_the_node_can_be_cancelled() -> None:
    assert {state for (state, event) in MACHINE if event == "cancel"} == {"built"}


def test_a_coin_is_never_given_to_two_intents(books: sqlite3.Connection) -> None:
    first = intents.add(books, draft(signed()), sending=False)
    rival = draft(signed(amount=1_500_000), "other")
    books.execute("BEGIN")
    with pytest.raises(sqlite3.IntegrityError):
        intents.add(books, rival, sending=False)
    books.execute("ROLLBACK")
    assert intents.held(books, "built", "sent") == {COIN: 9_000_000}
    assert intents.cancel(books, first.id).state == "cancelled"
    assert intents.cancel(books, first.id).state == "cancelled"
    assert intents.held(books, "built", "sent") == {}
    assert intents.add(books, rival, sending=True).state == "sent"


def test_a_sent_intent_is_not_cancelled(books: sqlite3.Connection) -> None:
    intent = intents.add(books, draft(signed()), sending=True)
    with pytest.raises(IntentSent):
        intents.cancel(books, intent.id)
    with pytest.raises(IntentUnknown):
        intents.cancel(books, "0" * 32)
    assert intents.get(books, intent.id) == intent


def test_a_key_stands_for_one_thing_for_each_caller(books: sqlite3.Connection) -> None:
    made = intents.add(books, draft(signed()), sending=False)
    assert intents.by_key(books, 1, "k", "p") == made
    assert intents.by_key(books, 2, "k", "p") is None
    with pytest.raises(Conflict) as caught:
        intents.by_key(books, 1, "k", "something else")
    assert "new key" in caught.value.hint


def test_a_twin_with_another_id_confirms_the_intent(books: sqlite3.Connection) -> None:
    made, twin = signed(), signed(signature=b"\x01\x02")
    assert made.txid != twin.txid
    intent = intents.add(books, draft(made), sending=True)
    outputs.apply(books, block(1, twin), 1, live=True)
    after = intents.get(books, intent.id)
    assert (after.state, after.txid, after.height) == ("confirmed", twin.txid, 1)
    assert intents.of_txid(books, made.txid) == intents.of_txid(books, twin.txid) == after


def test_what_spends_the_id_of_a_twin_that_lost_is_conflicted_and_lets_go_of_its_coins(
    books: sqlite3.Connection,
) -> None:
    made = signed()
    parent = intents.add(books, draft(made), sending=True)
    child_tx = SeenTx(
        with_script_sigs(make_tx([(made.txid, 1), ("22" * 32, 5)], [(SCRIPT, 1_000_000)]), [b"\x01\x01"] * 2)
    )
    child = intents.add(books, draft(child_tx, "child"), sending=True)
    grandchild = intents.add(books, draft(signed((child_tx.txid, 0)), "grandchild"), sending=False)
    freed = outputs.apply(books, block(1, signed(signature=b"\x01\x02")), 1, live=True)
    assert [intents.get(books, i.id).state for i in (parent, child, grandchild)] == [
        "confirmed",
        "conflicted",
        "conflicted",
    ]
    assert set(freed) == {(made.txid, 1), ("22" * 32, 5), (child_tx.txid, 0)}
    outputs.undo_above(books, 0)
    assert [intents.get(books, i.id).state for i in (parent, child, grandchild)] == ["sent", "sent", "built"]
    assert set(intents.held(books, "built", "sent")) == {COIN, *freed}


def test_a_rival_in_a_block_conflicts_the_intent_until_that_block_is_lost(books: sqlite3.Connection) -> None:
    intent = intents.add(books, draft(signed()), sending=False)
    freed = outputs.apply(books, block(1, signed(amount=1_500_000)), 1, live=True)
    assert freed == [COIN]
    assert intents.get(books, intent.id).state == "conflicted"
    outputs.undo_above(books, 0)
    assert intents.get(books, intent.id).state == "built"
    assert intents.held(books, "built") == {COIN: 9_000_000}


def test_a_coin_that_was_given_away_after_a_conflict_is_not_taken_back(books: sqlite3.Connection) -> None:
    two = SeenTx(with_script_sigs(make_tx([COIN, ("22" * 32, 0)], [(SCRIPT, 1_000_000)]), [b"\x01\x01"] * 2))
    loser = intents.add(books, draft(two), sending=True)
    outputs.apply(books, block(1, signed()), 1, live=True)
    other = intents.add(books, draft(signed(("22" * 32, 0)), "other"), sending=False)
    outputs.undo_above(books, 0)
    assert intents.get(books, loser.id).state == "sent"
    assert set(intents.held(books, "built", "sent")) == {COIN, ("22" * 32, 0)}
    assert intents.cancel(books, other.id).state == "cancelled"
    assert set(intents.held(books, "built", "sent")) == {COIN}


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("transaction already in block chain", Outcome.DECIDED),
        ("Transaction already in block chain", Outcome.DECIDED),
        ("txn-already-known", Outcome.DECIDED),
        ("bad-txns-inputs-spent", Outcome.DECIDED),
        ("bad-txns-inputs-missingorspent", Outcome.DECIDED),
        ("Missing inputs", Outcome.DECIDED),
        ("txn-mempool-conflict", Outcome.DECIDED),
        ("too-long-mempool-chain, too many unconfirmed ancestors", Outcome.DECIDED),
        ("txn-already-in-mempool", Outcome.ACCEPTED),
        ("non-final", Outcome.EARLY),
        ("dust", Outcome.REFUSED),
        ("min relay fee not met, 1 < 2", Outcome.REFUSED),
        ("mandatory-script-verify-flag-failed (Script failed)", Outcome.REFUSED),
        ("TX decode failed", Outcome.REFUSED),
        ("", Outcome.REFUSED),
    ],
)
def test_answers_of_both_cores_to_a_sent_transaction_mean_the_same(reason: str, outcome: Outcome) -> None:
    assert outcome_of(reason) is outcome


def test_a_block_is_read_with_and_without_a_merged_mining_proof() -> None:
    plain = parse_block(genesis_block())
    assert plain.hash == block_hash()
    assert plain.prev == "00" * 32
    assert [tx.spends for tx in plain.txs] == [[]]
    raw = genesis_block()
    version = (int.from_bytes(raw[:4], "little") | 0x100).to_bytes(4, "little")
    proof = serialize_tx(coinbase()) + b"\x33" * 32
    proof += b"\x02" + b"\x44" * 64 + bytes(4) + b"\x01" + b"\x55" * 32 + bytes(4) + b"\x66" * 80
    merged = parse_block(version + raw[4:80] + proof + raw[80:])
    assert [tx.txid for tx in merged.txs] == [tx.txid for tx in plain.txs]
    assert merged.hash != plain.hash
