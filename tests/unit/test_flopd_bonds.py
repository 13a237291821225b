"""Which bonds can be taken back: those that the chain holds, of the own key, and that no release has spent."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dux_flopd import intents, outputs
from dux_flopd.blocks import Block, SeenTx, same_id
from dux_flopd.bonds import find
from dux_flopd.intents import Draft, Input
from dux_flopd.outputs import Tip
from dux_flopd.schema import MIGRATIONS
from duxcommon.api.flopd import BondOutpoint
from duxcommon.coin.bond import Bond
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.coin.tx import make_tx, with_script_sigs
from duxcommon.db import connect
from duxcommon.errors import BondUnknown
from duxcommon.money import COIN

OWN, OTHER = pubkey_of(b"\x05" * 32), pubkey_of(b"\x06" * 32)
TXID = "11" * 32


@pytest.fixture
def books(short_tmp: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(short_tmp / "books")
    connection.executescript("".join(MIGRATIONS))
    outputs.jump(connection, Tip(0, "genesis"))
    rows = [(5, 1, 0, OWN, 100, COIN), (5, 1, 1, OWN, 100, 2 * COIN), (6, 0, 0, OTHER, 100, COIN)]
    for height, index, vout, pubkey, lock, amount in rows:
        txid = TXID if pubkey == OWN else "22" * 32
        connection.execute(
            "INSERT INTO bonds (height, idx, part, txid, pubkey, lock_height, amount, paid) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, '{}')",
            (height, index, vout, bytes.fromhex(txid), pubkey, lock, amount),
        )
    yield connection
    connection.close()


def named(vout: int = 0, *, txid: str = TXID, lock_height: int = 100) -> BondOutpoint:
    return BondOutpoint(txid=txid, vout=vout, lock_height=lock_height)


def test_their_amounts_are_those_of_the_chain(books: sqlite3.Connection) -> None:
    assert find(books, OWN, [named(1), named(0)]) == [Bond(TXID, 1, 2 * COIN, 100), Bond(TXID, 0, COIN, 100)]


@pytest.mark.parametrize("wrong", [named(2), named(lock_height=99), named(txid="22" * 32), named(txid="33" * 32)])
def test_what_is_no_bond_of_the_own_key_is_refused_by_name(books: sqlite3.Connection, wrong: BondOutpoint) -> None:
    with pytest.raises(BondUnknown, match=wrong.txid):
        find(books, OWN, [named(), wrong])


def test_one_that_a_block_has_given_back_is_refused_until_that_block_is_lost(books: sqlite3.Connection) -> None:
    tx = with_script_sigs(make_tx([(TXID, 0)], [(p2pkh_script(OWN), COIN)]), [b"\x01\x01"])
    seen = SeenTx(tx)
    draft = Draft(1, "k", "p", "release", "bonds", seen.hex, seen.txid, same_id(tx), 1, (Input(TXID, 0, COIN),), False)
    intents.add(books, draft, sending=True)
    assert find(books, OWN, [named()])
    outputs.apply(books, Block("b1", "genesis", [seen]), 1, live=True)
    with pytest.raises(BondUnknown, match=f"taken back already, by {seen.txid}"):
        find(books, OWN, [named()])
    assert find(books, OWN, [named(1)])
    outputs.undo_above(books, 0)
    assert find(books, OWN, [named()])
