"""The network replaces a guardian by a vote: the fund moves, the old address still counts, the new guardian signs.

alice, bob and carol guard the fund, two of whom sign; dave takes carol's place. alice, bob and dave work and vote; erin
arbitrates. In the end the fund pays erin what was voted. The tests are one story, told in order.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from dux_airdropd.plan import DEPTH, first_snapshot
from dux_devnet.network import wait_until
from duxcommon.coin.fund import guardians_redeem
from duxcommon.coin.multisig import parse_multisig
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import address_of, p2sh_script, script_of
from duxcommon.money import COIN
from duxcommon.network import Member
from duxcommon.rulebook import OLD_FUND_BLOCKS
from tests.community_kit import ROUND_S, Paid, assert_equal_shares
from tests.support.devnet import APPS
from tests.voting_kit import VOTING, Assembly, assembled

THRESHOLD = 20
"""FLOP from which the fund pays out."""
RULES = VOTING.model_copy(update={"airdrop_threshold": THRESHOLD * COIN})
PRICE = COIN // 2
"""Of apps/hello-words."""
VOTERS = ("alice", "bob", "dave")
LEAVES, COMES = "carol", "dave"
GRANT = 5 * COIN


class Story:
    """What one test hands to the next."""

    proposal: str
    change: int
    """Block from which dave guards the fund."""
    channel: dict[str, Any]
    """Opened before that."""
    redeem: bytes
    """Of the new guardians."""
    snapshot: int
    """Block that the payout of the new guardians builds on."""
    grant: str
    refused_grant: str
    granted: bytes
    """Script of whom they pay."""

    @property
    def script(self) -> bytes:
        """The new fund's."""
        return p2sh_script(self.redeem)


STORY = Story()


@pytest.fixture(scope="module")
def votes() -> Iterator[Assembly]:
    with assembled(VOTERS, guardians=3, parameters=RULES, purses=(LEAVES,)) as made:
        net = made.net
        selling = [f"{node}/{daemon}" for node in ("alice", "bob") for daemon in ("sandbox", "taskd", "escrowd")]
        net.start([*selling, "erin/escrowd"])
        net.publish("alice", APPS / "hello-words")
        made.fund.give(THRESHOLD // 2)
        made.mine()
        STORY.channel = made.open_channel("bob", "alice")
        net.run_task("bob", "hello-words", b"one two two")
        yield made


def addresses(votes: Assembly) -> tuple[str, str]:
    """The first guardians' and the new ones'."""
    chain = CHAINS[votes.network.chain]
    old, new = address_of(votes.fund.script, chain), address_of(STORY.script, chain)
    assert old is not None
    assert new is not None
    return old, new


def lying(votes: Assembly, script: bytes) -> int:
    """Koinu that lie at a script, by the blocks alone."""
    found: dict[tuple[str, int], int] = {}
    for txs in votes.fund.reader.blocks():
        for tx in txs:
            for outpoint in tx.spends:
                found.pop(outpoint, None)
            found |= {(tx.txid, vout): amount for vout, (to, amount) in enumerate(tx.pays) if to == script}
    return sum(found.values())


def signed_by(paid: Paid) -> set[bytes]:
    """Redeem scripts that the inputs show."""
    found = set()
    for txin in paid.tx.tx.vin:
        # The redeem script is what the script ends with; its keys may hold any byte.
        ends = (bytes(txin.script_sig)[-multisig_size(number) :] for number in range(1, 16))
        found.add(next(end for end in ends if parse_multisig(end) is not None))
    return found


def multisig_size(keys: int) -> int:
    """Bytes of an m-of-n script: each key with its length, m, n and the operation."""
    return 34 * keys + 3


def test_the_vote_and_the_guardians_replace_one_of_them(votes: Assembly) -> None:
    net = votes.net
    votes.fund.work()
    votes.caught_up()
    leaves = votes.ask(LEAVES, "key", "guardian")["pubkey"]
    comes = votes.ask(COMES, "key", "guardian")["pubkey"]
    words = ("--guardian-out", leaves[:16], "--guardian-in", f"{votes.fund.node_id(COMES)}:{comes}")
    proposal = STORY.proposal = votes.propose("alice", *words, title="dave for carol")
    assert votes.shown(proposal)["klass"] == "guardians"
    votes.vote(proposal, *VOTERS)
    votes.approve(proposal, "alice", LEAVES)
    found = votes.shown(proposal)
    assert (found["tally"]["yes"], len(found["tally"]["approvals"])) == (3, 2)
    STORY.change = found["from_height"]

    kept = [seat for seat in votes.network.guardians if seat.pubkey != leaves]
    new = [*kept, Member(node=votes.fund.node_id(COMES), pubkey=comes)]
    STORY.redeem = guardians_redeem(new, votes.network.guardians_m)
    old_address, new_address = addresses(votes)
    votes.to(STORY.change - 1)
    assert votes.shown(proposal)["state"] == "LOCKED"
    net.stop([f"{LEAVES}/{daemon}" for daemon in ("airdropd", "registryd", "flopd")])
    assert votes.same(lambda node: net.call(node, "network.show")["fund_address"]) == old_address
    votes.mine()
    assert votes.shown(proposal)["state"] == "ACTIVE"
    old = {"address": old_address, "counts_until": STORY.change + OLD_FUND_BLOCKS - 1}
    for node in votes.fund.running():
        shown = wait_until(lambda node=node: seats_known(votes, node), ROUND_S, f"{node} to find the document")
        assert {seat["node"]: seat["pubkey"] for seat in shown["guardians"]} == {seat.node: seat.pubkey for seat in new}
        assert (shown["fund_address"], shown["old_fund_addresses"]) == (new_address, [old])
        status = net.call(node, "fund.status")
        assert (status["address"], status["old_addresses"], status["guardians_m"]) == (new_address, [old], 2)
        assert {one["pubkey"] for one in status["guardians"]} == {seat.pubkey for seat in new}
        assert [one["pubkey"] for one in status["guardians"] if one["own"]] == [
            seat.pubkey for seat in new if seat.node == votes.fund.node_id(node)
        ]
    page = votes.ctl("erin", "fund", "status")
    assert new_address in page
    assert f"{old_address}: payments count until block {old['counts_until']}" in page


def seats_known(votes: Assembly, node: str) -> Any:
    shown = votes.net.call(node, "network.show")
    return all(seat["node"] for seat in shown["guardians"]) and shown


def test_the_fund_moves_to_the_new_address_without_a_hand(votes: Assembly) -> None:
    fund = votes.fund
    held = lying(votes, fund.script)
    assert held > THRESHOLD // 2 * COIN
    fund.mine_to(fund.due())
    moved = fund.until_paid(1, step=5)
    assert moved.note is not None
    assert moved.note.kind == "sweep"
    assert moved.height > STORY.change + DEPTH
    assert {script for script, _ in moved.spent} == {fund.script}
    assert moved.tx.pays[1:] == [(STORY.script, held - moved.fee)]
    assert (lying(votes, fund.script), lying(votes, STORY.script)) == (0, held - moved.fee)
    fund.assert_everybody_agrees(moved)


def test_a_channel_from_before_pays_the_old_address_and_is_settled_work(votes: Assembly) -> None:
    net, fund = votes.net, votes.fund
    # All that comes in until the next payout does so between two snapshots: with less than that the fund would fetch
    # what lies at the old address first.
    votes.to(first_snapshot(fund.height) + 1)
    STORY.snapshot = first_snapshot(fund.height)
    before = lying(votes, fund.script)
    net.run_task("bob", "hello-words", b"three")
    closed = votes.close_channel("bob", "alice", STORY.channel["id"])
    fact = votes.settled(closed)
    paid = 2 * PRICE * RULES.tax_bps // 10_000
    assert (fact["fund_script"], fact["tax"]) == (fund.script.hex(), paid)
    assert votes.tax_of("alice") == paid
    assert lying(votes, fund.script) == before + paid

    opened = votes.open_channel("bob", "alice")
    assert opened["contract"]["fund_script"] == STORY.script.hex()
    net.run_task("bob", "hello-words", b"four")
    fact = votes.settled(votes.close_channel("bob", "alice", opened["id"]))
    assert fact["fund_script"] == STORY.script.hex()
    assert votes.tax_of("alice") == paid + PRICE * RULES.tax_bps // 10_000
    net.assert_audit("alice", "bob")


def test_the_next_payout_is_signed_by_the_new_guardian(votes: Assembly) -> None:
    """carol is gone and bob's dux-airdropd is off: of the new three only alice and dave are left to sign."""
    fund = votes.fund
    votes.net.stop(["bob/airdropd"])
    fund.work()
    fund.pay([(STORY.script, THRESHOLD * COIN)])
    votes.mine()
    assert fund.height < STORY.snapshot
    assert lying(votes, fund.script) > 0
    fund.mine_to(fund.due())
    paid = fund.until_paid(2, step=5)
    assert_equal_shares(paid, fund.scripts())
    assert {script for script, _ in paid.spent} == {STORY.script}
    assert paid.tx.pays[1][0] == STORY.script
    assert signed_by(paid) == {STORY.redeem}
    fund.assert_everybody_agrees(paid)
    # To fetch what lies at the old address takes two of the old guardians, and only alice is there.
    assert lying(votes, fund.script) > 0
    assert len(fund.reader.rounds()) == 2


def test_what_came_to_the_old_address_is_fetched_once_its_guardians_are_there(votes: Assembly) -> None:
    fund = votes.fund
    votes.net.start(["bob/airdropd"])
    votes.caught_up()
    waiting = lying(votes, fund.script)
    fetched = fund.until_paid(3, step=5)
    assert fetched.note is not None
    assert fetched.note.kind == "sweep"
    assert signed_by(fetched) == {STORY.redeem, fund.redeem}
    assert sum(amount for script, amount in fetched.spent if script == fund.script) == waiting
    assert fetched.tx.pays[1:] == [(STORY.script, fetched.anchor)]
    assert lying(votes, fund.script) == 0
    fund.assert_everybody_agrees(fetched)


def test_a_grant_passes_only_with_the_guardians_approval(votes: Assembly) -> None:
    net, fund = votes.net, votes.fund
    # From here on everybody pays the new address.
    fund.script = STORY.script
    fund.work()
    fund.pay([(STORY.script, 3 * GRANT)])
    votes.mine()
    to = net.call("erin", "wallet.receive", {"label": "grant"})["address"]
    assert net.balance("erin") == 0
    STORY.granted = script_of(to, CHAINS[votes.network.chain])
    STORY.grant = votes.propose("alice", "--spend", "5", "--to", to, title="A printer for erin")
    STORY.refused_grant = votes.propose("bob", "--spend", "6", "--to", to, title="Another printer for erin")
    for proposal in (STORY.grant, STORY.refused_grant):
        votes.vote(proposal, *VOTERS)
    votes.approve(STORY.grant, "bob", COMES)
    votes.approve(STORY.refused_grant, COMES)
    passed = votes.shown(STORY.grant)
    votes.to(passed["from_height"] - 1)
    assert votes.shown(STORY.grant)["state"] == "LOCKED"
    failed = votes.shown(STORY.refused_grant)
    assert (failed["state"], failed["why"]) == ("FAILED", "1 guardians approved; 2 were needed")
    assert failed["tally"]["yes"] == 3
    assert len(fund.reader.rounds()) == 3


def test_the_grant_is_paid_exactly_once(votes: Assembly) -> None:
    net, fund = votes.net, votes.fund
    fund.mine_to(first_snapshot(votes.shown(STORY.grant)["from_height"]) + DEPTH)
    paid = fund.until_paid(4, step=5)
    assert paid.note is not None
    assert paid.note.kind == "grant"
    assert paid.shares == {STORY.granted: GRANT}
    assert paid.tx.pays[1] == (STORY.script, paid.anchor)
    wait_until(lambda: net.balance("erin") == GRANT, ROUND_S, "erin's coins")
    fund.assert_everybody_agrees(paid)
    assert votes.shown(STORY.grant)["state"] == "EXECUTED"
    # Past the snapshots that could have led to another one.
    for _ in range(8):
        votes.mine(10)
        assert not fund.wait_sent(0.1)
    assert len(fund.reader.rounds()) == 4
    assert net.balance("erin") == GRANT
    assert votes.shown(STORY.refused_grant)["state"] == "FAILED"


def test_every_node_verifies_it_all_and_so_does_the_former_guardian(votes: Assembly) -> None:
    fund = votes.fund
    votes.net.start([f"{LEAVES}/{daemon}" for daemon in ("flopd", "registryd", "airdropd")])
    votes.caught_up()
    assert fund.running() == votes.net.layout.nodes
    votes.assert_verified()
    for paid in fund.reader.rounds():
        fund.assert_everybody_agrees(paid)
    assert [one["from_height"] for one in votes.rules()] == [0, STORY.change]
