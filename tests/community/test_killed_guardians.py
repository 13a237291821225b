"""kill -9 of guardians at every step of a round, the leader and a follower alike: one payout a round, never two."""

from collections.abc import Iterator

import pytest

from dux_airdropd.failpoints import FAILPOINTS
from dux_airdropd.plan import DEPTH, STEP
from dux_devnet.network import wait_until
from tests.community_kit import ROUND_S, Guarded, assert_equal_shares, guarded

LEADERS = ("asked", "collected", "merged", "submitted", "submitted-committed")
FOLLOWERS = ("answer-ready",)
EVERYBODY = tuple(point for point in FAILPOINTS if point not in LEADERS + FOLLOWERS)


@pytest.fixture(scope="module")
def fund() -> Iterator[Guarded]:
    """One fund for all kills: what one of them left wrong, the next would show."""
    with guarded() as made:
        yield made


def next_sequence(fund: Guarded) -> int:
    return len(fund.reader.rounds()) + 1


def doomed(fund: Guarded, nodes: list[str], point: str) -> None:
    """Start the dux-airdropd of these nodes so that it dies at a point."""
    for node in nodes:
        fund.kill(node)
    fund.net.start([f"{node}/airdropd" for node in nodes], failpoint=f"airdropd:{point}")


def dead(fund: Guarded, node: str) -> bool:
    return node not in fund.running()


def finish(fund: Guarded, sequence: int, nodes: list[str]) -> None:
    """The dead come back; the round is paid once, and every node says the same."""
    for node in nodes:
        if not dead(fund, node):
            # What it was to die at never came; it must not die in the next test.
            fund.kill(node)
    fund.turn_good()
    paid = fund.until_paid(sequence, step=STEP // 2)
    assert_equal_shares(paid, fund.scripts())
    fund.net.mine(1)
    fund.caught_up()
    fund.assert_everybody_agrees(paid)
    assert len(fund.reader.rounds()) == sequence
    assert fund.chain("getrawmempool") == []
    for node in nodes:
        assert fund.net.call(node, "airdrop.show", {"sequence": sequence})["round"]["txid"] == paid.tx.txid


@pytest.mark.parametrize("point", EVERYBODY)
def test_a_leader_and_a_follower_die_where_everybody_passes(fund: Guarded, point: str) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    leader, follower = (fund.leader(sequence, due, due + late * STEP) for late in range(2))
    doomed(fund, [leader, follower], point)
    fund.mine_to(due)
    if point in ("round-read", "round-committed"):
        fund.until_paid(sequence)
    for node in (leader, follower):
        wait_until(lambda node=node: dead(fund, node), ROUND_S, f"{node} to die at {point}")
    finish(fund, sequence, [leader, follower])


@pytest.mark.parametrize("point", LEADERS)
def test_a_leader_dies_and_so_does_the_next_one(fund: Guarded, point: str) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    leaders = [fund.leader(sequence, due, due + late * STEP) for late in range(2)]
    doomed(fund, leaders, point)
    for node, tip in zip(leaders, (due, due + STEP), strict=True):
        fund.mine_to(tip - 1)
        fund.caught_up()

        def gone(node: str = node, last: int = tip + STEP - 1) -> bool:
            # It may have asked those who had not read the block: the next one makes it ask again.
            if not dead(fund, node) and fund.height < last:
                fund.net.mine(1)
                fund.caught_up()
            return dead(fund, node)

        if len(fund.reader.rounds()) < sequence and not fund.chain("getrawmempool"):
            wait_until(gone, ROUND_S, f"{node} to die at {point}", pause=0.3)
    assert dead(fund, leaders[0])
    finish(fund, sequence, leaders)


@pytest.mark.parametrize("point", FOLLOWERS)
def test_all_followers_die_before_they_answer_and_the_round_waits_for_them(fund: Guarded, point: str) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    leader = fund.leader(sequence, due, due)
    followers = [node for node in fund.guardians if node != leader]
    doomed(fund, followers, point)
    fund.mine_to(due)

    def gone() -> bool:
        fund.net.mine(1)
        fund.caught_up()
        return all(dead(fund, node) for node in followers)

    wait_until(gone, ROUND_S, f"all followers to die at {point}", pause=0.3)
    assert len(fund.reader.rounds()) < sequence
    finish(fund, sequence, followers)


def test_all_guardians_die_with_the_signed_round_and_it_is_paid_once(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    fund.mine_to(due - 1)
    fund.caught_up()

    def sent() -> bool:
        if not fund.chain("getrawmempool"):
            fund.net.mine(1)
            fund.caught_up()
        return fund.wait_sent(0.5)

    wait_until(sent, ROUND_S, "the round to be sent")
    flopds = [f"{node}/flopd" for node in fund.guardians]
    for name in [*flopds, *(f"{node}/airdropd" for node in fund.guardians)]:
        fund.net.kill(name)
    fund.net.start(flopds)
    finish(fund, sequence, fund.guardians)
    fund.net.mine(DEPTH)
    fund.caught_up()
    assert len(fund.reader.rounds()) == sequence
