"""Any two of five guardians may be dead, silent or lying: the fund pays, and pays the right ones. Three can't make it.

The two are those whose turn it is to lead first and second, so that every round has to be taken over as well.
"""

from collections.abc import Iterator

import pytest

from dux_airdropd.plan import DEPTH, STEP
from dux_devnet.network import wait_until
from tests.community_kit import ROUND_S, Guarded, assert_equal_shares, guarded

PAIRS = [
    ("dead", "silent"),
    ("more", "fewer"),
    ("koinu", "koinu"),
    ("nothing", "twice"),
    ("versions", "foreign"),
    ("foreign", "silent"),
]


@pytest.fixture(scope="module")
def fund() -> Iterator[Guarded]:
    """alice, bob and carol worked, and guard the fund with dave and erin."""
    with guarded() as made:
        yield made


def next_sequence(fund: Guarded) -> int:
    return len(fund.reader.rounds()) + 1


@pytest.mark.parametrize("how", PAIRS, ids="+".join)
def test_two_bad_guardians_change_nothing(fund: Guarded, how: tuple[str, str]) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    bad = [fund.leader(sequence, due, due + late * STEP) for late in range(2)]
    fund.turn_bad(bad, how)
    try:
        fund.mine_to(due)
        paid = fund.until_paid(sequence, step=STEP // 2)
    finally:
        fund.turn_good()
    assert_equal_shares(paid, fund.scripts())
    assert paid.height > due
    fund.caught_up()
    fund.assert_everybody_agrees(paid)


def test_three_liars_stop_the_payout_and_every_honest_guardian_names_them(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    bad, honest = fund.by_key[:3], fund.by_key[3:]
    fund.turn_bad(bad, ("more", "fewer", "koinu"))
    try:
        # Everybody has the lead once.
        for tip in range(due, due + len(fund.by_key) * STEP, STEP):
            fund.mine_to(tip)
            fund.caught_up()
            assert not fund.wait_sent(0.3)
        for node in honest:
            why = fund.net.call(node, "airdrop.why")
            assert (why["sequence"], why["have"], why["need"]) == (sequence, 2, 3)
            named = {each["node"]: each["what"] for each in why["troubles"]}
            assert named == {fund.node_id(liar): "differs" for liar in bad}
        told = fund.net.ctl(honest[0], "why", "airdrop").stdout.decode()
        assert all(fund.node_id(liar)[:8] in told for liar in bad), told
        assert next_sequence(fund) == sequence
    finally:
        fund.turn_good()
    paid = fund.until_paid(sequence)
    assert_equal_shares(paid, fund.scripts())
    fund.assert_everybody_agrees(paid)


def test_five_leaders_at_once_pay_once(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    fund.turn_bad(fund.by_key, ["eager"] * 5)
    try:
        fund.mine_to(due - 1)
        for node in fund.by_key:
            wait_until(lambda node=node: fund.answers(node), ROUND_S, f"{node} at block {due - 1}")
        fund.net.mine(1)
        paid = fund.until_paid(sequence)
    finally:
        fund.turn_good()
    assert_equal_shares(paid, fund.scripts())
    fund.net.mine(DEPTH)
    fund.caught_up()
    fund.assert_everybody_agrees(paid)
    assert next_sequence(fund) == sequence + 1


def test_a_guardian_that_is_asked_twice_answers_the_same(fund: Guarded) -> None:
    sequence = next_sequence(fund)
    due = fund.fill()
    asker, asked = fund.by_key[:2]
    quiet = fund.by_key[2:]
    for node in quiet:
        fund.kill(node)
    try:
        fund.mine_to(due)
        fund.caught_up()
        unsigned = wait_until(
            lambda: (work := fund.net.call(asker, "fund.status")["work"]) and work["unsigned"], ROUND_S, "the draft"
        )
        params = {"sequence": sequence, "batch": None, "unsigned": unsigned}
        request = {"node": fund.node_id(asked), "method": "airdrop.cosign", "params": params, "timeout_s": 20.0}
        first, second = (fund.net.call(asker, "peer.call", request)["result"] for _ in range(2))
        assert first == second
        assert any(first["signatures"])
    finally:
        fund.turn_good()
    assert_equal_shares(fund.until_paid(sequence), fund.scripts())
