"""Whatever comes to the fund's address, whoever is there to be paid, and whatever a directory says: it pays rightly."""

from collections.abc import Iterator
from typing import Any

import pytest

from dux_airdropd.costs import MAX_INPUTS, MAX_SIZE, input_fee
from dux_airdropd.plan import DEPTH, STEP
from dux_devnet.network import wait_until
from duxcommon.coin.notes import BatchNote, decode
from duxcommon.coin.tx import serialize_tx
from duxcommon.identity import Identity
from duxcommon.money import DUST
from duxcommon.records import sign_record
from tests.community_kit import ROUND_S, THRESHOLD, Guarded, assert_equal_shares, guarded
from tests.registryd_kit import Member

GHOST: dict[str, Any] = {
    "name": "ghost", "addresses": ["127.0.0.1:9"], "version": "1", "heartbeat_s": 300,
    "hardware": {"cpu_cores": 2, "memory_mb": 1024, "storage_mb": 10, "arch": "x86_64"},
}  # fmt: skip


@pytest.fixture(scope="module")
def fund() -> Iterator[Guarded]:
    """alice, bob and carol have bonds; nobody has worked yet. The tests are one story, told in order."""
    with guarded() as made:
        yield made


def next_sequence(fund: Guarded) -> int:
    return len(fund.reader.rounds()) + 1


def test_with_nobody_eligible_nothing_is_paid_however_much_there_is(fund: Guarded) -> None:
    fund.give(110)
    fund.net.mine(1)
    fund.mine_to(fund.due() + STEP)
    fund.caught_up()
    for node in fund.guardians:
        following = wait_until(lambda node=node: fund.net.call(node, "airdrop.next"), ROUND_S, "an answer")
        assert (following["work"], following["eligible"], following["missing"]) == (None, 0, 0)
        assert following["waits_for"] == "the fund holds enough, but no payout key is eligible"
    assert not fund.wait_sent(0.2)
    assert fund.reader.rounds() == []
    told = fund.net.ctl("alice", "why", "airdrop").stdout.decode()
    assert "no payout key is eligible" in told


def test_one_who_is_eligible_gets_everything(fund: Guarded) -> None:
    fund.work(["bob"])
    fund.mine_to(fund.due())
    paid = fund.until_paid(1)
    share = assert_equal_shares(paid, fund.scripts(["bob"]))
    assert share == sum(amount for _, amount in paid.spent) - paid.fee - DUST
    fund.assert_everybody_agrees(paid)


def test_neither_dust_nor_three_hundred_inputs_stop_the_fund(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    fund.work()
    redeem = fund.redeem
    worthless = DUST // 2
    assert worthless < 2 * input_fee(redeem) <= DUST
    # Nodes relay less than 0.01 FLOP only at a fee of 0.01 each.
    vandal = fund.pay([(fund.script, worthless)] * 50, fee=60 * DUST)
    fund.pay([(fund.script, DUST)] * 250, fee=20 * DUST)
    fund.pay([(fund.script, 40 * DUST)] * 300, fee=20 * DUST)
    fund.net.mine(1)
    fund.mine_to(fund.due())
    swept = fund.until_paid(sequence)
    assert swept.note is not None
    assert swept.note.kind == "sweep"
    assert len(swept.spent) == MAX_INPUTS
    assert len(serialize_tx(swept.tx.tx)) <= MAX_SIZE
    assert swept.shares == {}
    fund.work()
    fund.mine_to(fund.due())
    paid = fund.until_paid(sequence + 1)
    share = assert_equal_shares(paid, fund.scripts())
    assert 3 * share >= THRESHOLD - DUST - paid.fee
    for each in (swept, paid):
        fund.assert_right(each)
        assert vandal not in [txid for txid, _ in each.tx.spends]
        assert all(amount == 40 * DUST for _, amount in each.spent[1:]), "the largest come first"


def test_a_directory_full_of_ghosts_changes_nothing(fund: Guarded) -> None:
    (bootstrap,) = fund.network.bootstrap
    before = {node: len(fund.net.call(node, "node.list")["nodes"]) for node in fund.net.layout.nodes}
    with Member(fund.network.id, bootstrap) as member:
        for _ in range(5):
            member.announce(sign_record(Identity.generate(), "node", fund.network.id, 1, GHOST))
        wait_until(
            lambda: any(
                len(fund.net.call(node, "node.list")["nodes"]) > before[node] + 1 for node in fund.net.layout.nodes
            ),
            ROUND_S,
            "a directory to show ghosts",
        )
        sequence = next_sequence(fund)
        # What is left of the three hundred inputs is swept before.
        while True:
            fund.mine_to(fund.fill())
            paid = fund.until_paid(sequence)
            if paid.note is not None and paid.note.kind == "payout":
                break
            sequence += 1
    assert_equal_shares(paid, fund.scripts())
    fund.assert_everybody_agrees(paid)
    pages = [fund.net.call(node, "node.eligible", {"height": paid.height}) for node in fund.net.layout.nodes]
    assert all(page == pages[0] for page in pages)


def test_more_recipients_than_fit_are_paid_in_batches_by_their_depth(fund: Guarded) -> None:
    fund.turn_bad(fund.guardians, ["batches"] * 5)
    try:
        sequence = next_sequence(fund)
        fund.mine_to(fund.fill())
        paid = fund.until_paid(sequence)
        waiting = [(paid.tx.txid, 2 + batch) for batch in range(2)]
        assert [script for script, _ in paid.tx.pays[2:]] == [fund.script] * 2

        def batches() -> list[Any]:
            found = {tx.spends[0]: tx for txs in fund.reader.blocks() for tx in txs[1:]}
            if not all(outpoint in found for outpoint in waiting):
                fund.net.mine(1)
                fund.wait_sent(0.3)
                return []
            return [found[outpoint] for outpoint in waiting]

        for node in fund.guardians:
            wait_until(lambda node=node: fund.answers(node), ROUND_S, f"{node} to read the round")
        assert not fund.wait_sent(0.2)
        fund.mine_to(paid.height + DEPTH)
        made = wait_until(batches, ROUND_S, "both batches in blocks")
        got: dict[bytes, int] = {}
        for batch, tx in enumerate(made):
            note = decode(tx.note)
            assert isinstance(note, BatchNote)
            assert (note.sequence, note.batch, note.manifest) == (sequence, batch, paid.note and paid.note.manifest)
            got |= dict(tx.pays[1:])
        assert set(got) == set(fund.scripts())
        assert len(set(got.values())) == 1
        for node in fund.guardians:
            wait_until(lambda node=node: fund.answers(node), ROUND_S, f"{node} to read the batches")
            verified = fund.net.call(node, "airdrop.verify", {"sequence": sequence})
            assert (verified["right"], verified["batches_paid"], verified["recipients"]) == (True, 2, 3), verified
    finally:
        fund.turn_good()
