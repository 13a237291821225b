"""Whatever is signed twice, two ways, or taken back by the chain: of each round one transaction stands, never two."""

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from dux_airdropd.plan import DEPTH, STEP
from dux_devnet.network import wait_until
from dux_flopd.blocks import SeenTx
from duxcommon.coin.script import p2pkh_script, pubkey_of
from duxcommon.coin.tx import parse_tx, serialize_tx, txid_of
from duxcommon.money import COIN, DUST
from tests.community_kit import ROUND_S, Guarded, altered, assert_equal_shares, guarded, refused, secret_of

STRANGER = p2pkh_script(pubkey_of(secret_of("stranger")))


@pytest.fixture(scope="module")
def fund() -> Iterator[Guarded]:
    """alice, bob and carol worked; dave has a bond and no work yet."""
    with guarded(("alice", "bob", "carol", "dave")) as made:
        made.workers = ("alice", "bob", "carol")
        yield made


def next_sequence(fund: Guarded) -> int:
    return len(fund.reader.rounds()) + 1


def one_more(outputs: list[tuple[bytes, int]]) -> None:
    """A stranger gets a part of the first share."""
    outputs[2] = (outputs[2][0], outputs[2][1] - 2 * DUST)
    outputs.append((STRANGER, DUST))


def waiting(fund: Guarded) -> str:
    """Bytes of the fund's transaction that waits for a block."""
    (txid,) = wait_until(lambda: fund.chain("getrawmempool"), ROUND_S, "the round to be sent")
    return str(fund.chain("getrawtransaction", txid))


def sent(fund: Guarded, due: int) -> str:
    """Blocks until the guardians have sent the round; its bytes."""
    fund.mine_to(due - 1)
    fund.caught_up()

    def look() -> bool:
        if not fund.chain("getrawmempool"):
            fund.net.mine(1)
            fund.caught_up()
        return fund.wait_sent(0.5)

    wait_until(look, ROUND_S, "the round to be sent")
    return waiting(fund)


def committed(fund: Guarded, sequence: int) -> SeenTx | None:
    """The round as a guardian's dux-flopd means to send it."""
    for node in fund.guardians:
        with contextlib.closing(
            sqlite3.connect(fund.net.layout.folder / node / "lib" / "flopd" / "flopd.sqlite")
        ) as db:
            row = db.execute("SELECT hex FROM intents WHERE ref = ?", (f"fund/{sequence}",)).fetchone()
        if row is not None:
            return SeenTx(parse_tx(row[0]))
    return None


def test_of_two_signed_versions_the_second_is_refused_before_and_after_the_first_confirmed(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    right = SeenTx(parse_tx(sent(fund, fund.fill())))
    other = fund.sign(altered(right, one_more), fund.guardians[:3])
    assert "conflict" in refused(lambda: fund.send(other))
    fund.net.mine(1)
    assert refused(lambda: fund.send(other))
    paid = fund.until_paid(sequence)
    assert paid.tx.txid == right.txid
    assert_equal_shares(paid, fund.scripts())
    fund.assert_everybody_agrees(paid)


def test_when_the_false_version_confirms_the_right_one_never_does_and_the_next_round_builds_on_it(
    fund: Guarded,
) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    fund.mine_to(due - 1)
    fund.caught_up()
    # The guardians sign, but the transaction does not come through.
    fund.chain("devchain.fault", {"mode": "refuse", "method": "sendrawtransaction"})
    try:
        fund.net.mine(1)
        right = wait_until(lambda: committed(fund, sequence), ROUND_S, "the leader's flopd to have the round")
        flopds = [f"{node}/flopd" for node in fund.net.layout.nodes]
        for name in flopds:
            fund.net.kill(name)
    finally:
        fund.chain("devchain.fault", {"mode": "none"})
    assert fund.chain("getrawmempool") == []
    false = fund.sign(altered(right, one_more), fund.guardians[2:])
    fund.send(false)
    fund.net.mine(1)
    fund.net.start(flopds)
    fund.caught_up()
    paid = fund.reader.rounds()[-1]
    assert (paid.sequence, paid.tx.txid) == (sequence, txid_of(false))
    assert refused(lambda: fund.chain("sendrawtransaction", serialize_tx(right.tx).hex()))
    for node in fund.running():
        verified = fund.net.call(node, "airdrop.verify", {"sequence": sequence})
        assert not verified["right"]
        assert verified["difference"].startswith("output 2 pays")
    told = fund.net.ctl("erin", "airdrop", "verify", str(sequence))
    assert told.returncode != 0
    assert b"output 2 pays" in told.stdout + told.stderr

    fund.mine_to(fund.fill())
    after = fund.until_paid(sequence + 1)
    assert after.tx.spends[0] == (txid_of(false), 1)
    assert_equal_shares(after, fund.scripts())
    fund.assert_everybody_agrees(after)
    assert fund.reader.notes(sequence) == 1
    assert fund.chain("getrawmempool") == []


def test_a_reorganisation_under_the_snapshot_changes_who_is_paid_and_how_much(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    fund.work()
    # dave's deposit is there long before; on the new chain alone his close comes in time.
    close = fund.deposit(fund.payouts["dave"], 4 * COIN)
    fund.give(110)
    fund.net.mine(1)
    lost = fund.height + 1
    due = fund.due()
    fund.mine_to(due - STEP)
    tip = fund.caught_up()
    before = fund.planned("alice")
    assert (before["snapshot"], before["recipients"]) == (due - DEPTH, 3)

    fund.reorganise(lost)
    close()
    fund.give(20)
    fund.mine_to(tip + 1)
    fund.caught_up()
    fund.mine_to(due - 1)
    fund.caught_up()
    paid = fund.until_paid(sequence)
    share = assert_equal_shares(paid, fund.scripts(["alice", "bob", "carol", "dave"]))
    assert 4 * share > 120 * COIN
    assert share != before["share"]
    fund.assert_everybody_agrees(paid)


def test_a_round_that_falls_out_of_the_chain_comes_back_once(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    # dave's work is still in the window.
    fund.workers = ("alice", "bob", "carol", "dave")
    fund.mine_to(fund.fill())
    paid = fund.until_paid(sequence)
    fund.net.mine(3)
    fund.caught_up()
    fund.reorganise(paid.height)
    # Other coins for the fund confirm before it this time.
    fund.give(1)
    fund.mine_to(paid.height + 5)
    again = fund.until_paid(sequence)
    assert again.tx.txid == paid.tx.txid
    fund.net.mine(DEPTH)
    fund.caught_up()
    assert len(fund.reader.rounds()) == sequence
    assert_equal_shares(again, fund.scripts())
    fund.assert_everybody_agrees(again)
