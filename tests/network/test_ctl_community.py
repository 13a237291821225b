"""The community fund and its votes, asked for as people do: dux-ctl against real daemons on a real chain.

Three nodes: alice sells and earns a share, bob buys, carol looks on. The tests are one story, told in order.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters
from tests.support.devnet import APPS, TestNet, running_devnet

WINDOW = 300
RULES = Parameters(
    airdrop_threshold=10 * COIN,
    window_blocks=WINDOW,
    epochs_needed=1,
    min_tax_paid=DUST,
    share_cap_pct=100_000,
    bond_multiple_pct=0,
    bond_min=COIN,
    vote_blocks=40,
    time_lock_blocks=10,
)
DEEP = 60
"""Blocks below the tip that a snapshot lies, and from a deadline to its tally."""
WARNING = "private trial network, coins have no value"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    with running_devnet(3, parameters=RULES, guardians=3) as net:
        for node in ("alice", "bob"):
            net.fund(node, 50)
        net.publish("alice", APPS / "hello-words")
        yield net


def ctl(net: TestNet, node: str, *words: str, code: int = 0) -> str:
    """What dux-ctl prints; it must end as expected."""
    done = net.ctl(node, *words)
    text = done.stdout.decode()
    assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{text}{done.stderr.decode()}"
    return text


def ask(net: TestNet, node: str, *words: str, code: int = 0) -> Any:
    return json.loads(ctl(net, node, *words, "--json", code=code))


def height(net: TestNet) -> int:
    return int(net.chain("getblockcount"))


def mine_to(net: TestNet, target: int) -> None:
    """Blocks up to a height at least, and every airdropd has read them."""
    if (missing := target - height(net)) > 0:
        net.mine(missing)
    for node in net.layout.nodes:
        wait_until(
            lambda node=node: net.call(node, "fund.status")["height"] >= target, WAIT_S, f"{node} at block {target}"
        )


def work(net: TestNet, calls: int = 2) -> dict[str, Any]:
    """Paid calls and the close of their channel, which makes them settled work; the channel."""
    for _ in range(calls):
        net.run_task("bob", "hello-words", b"one two")
    (channel,) = net.call("bob", "channel.list", {"state": "OPEN"})["channels"]
    net.call("bob", "channel.close", {"id": channel["id"], "key": net.key()})
    net.wait_channel("alice", channel["id"], "CLOSED")
    closed: dict[str, Any] = net.wait_channel("bob", channel["id"], "CLOSED")
    return closed


def test_before_anything_happened_the_pages_say_what_is_missing(net: TestNet) -> None:
    page = ctl(net, "carol", "fund", "status")
    assert "[..............................] 0.00 of 10.00 FLOP, 10.00 missing" in page
    assert "2 of 3 must sign" in page
    assert WARNING in page
    assert "waits for" in ctl(net, "carol", "airdrop", "next")
    assert "paid nothing yet" in ctl(net, "carol", "airdrop", "history")
    assert "paid nothing yet" in ctl(net, "carol", "airdrop", "verify")
    assert "The fund holds 0.00 of 10.00 FLOP" in ctl(net, "carol", "why", "airdrop")
    ctl(net, "carol", "airdrop", "show", "1", code=5)
    ctl(net, "carol", "airdrop", "verify", "1", code=5)
    status = ctl(net, "carol", "status")
    assert "fund         0.00 of 10.00 FLOP, 10.00 missing" in status
    assert "rules        version 0\n" in status


def test_a_node_without_a_share_reads_what_it_lacks_and_mends_it_with_the_command_that_is_named(net: TestNet) -> None:
    page = ctl(net, "alice", "airdrop", "eligible")
    assert "no, as of block" in page
    for part in ("0.01 FLOP are needed", "dux-ctl node bond", WARNING):
        assert part in page
    assert "no bonds" in ctl(net, "alice", "node", "bonds")
    bonded = ctl(net, "alice", "node", "bond")
    assert "it comes back" in bonded
    assert WARNING in bonded
    net.mine(1)
    wait_until(lambda: " locked" in ctl(net, "alice", "node", "bonds"), WAIT_S, "the bond to be locked")
    mine_to(net, height(net) + WINDOW)
    work(net)
    mine_to(net, height(net) + DEEP)
    page = wait_until(lambda: _eligible(net), WAIT_S, "alice to be eligible")
    assert "1 key has a share; 1 qualified, which may vote" in page
    key = ask(net, "alice", "airdrop", "eligible")["standing"]["pubkey"]
    elsewhere = ask(net, "carol", "airdrop", "eligible", key)["standing"]
    assert elsewhere["eligible"] is True
    assert "has a share of the community fund" in ctl(net, "carol", "why", key)
    assert key in ctl(net, "carol", "node", "eligible")
    assert "yes, as of block" in ctl(net, "carol", "node", "standing", "--pubkey", key)
    assert "none: nothing was paid in that time" in ctl(net, "carol", "airdrop", "price")


def _eligible(net: TestNet) -> str:
    page = ctl(net, "alice", "airdrop", "eligible")
    return page if "yes, as of block" in page else ""


def test_a_payout_is_seen_coming_shown_and_verified_by_a_node_that_has_no_part_in_it(net: TestNet) -> None:
    net.chain("faucet", net.call("carol", "fund.status")["address"], "11")
    net.mine(1)
    work_seen = wait_until(lambda: net.call("carol", "airdrop.next")["work"], WAIT_S, "a round to be planned")
    page = ctl(net, "carol", "airdrop", "next")
    assert "payout 1: pays equal shares, 1 ×" in page
    assert f"[{'#' * 30}]" in ctl(net, "carol", "fund", "status")
    mine_to(net, work_seen["signed_from"])
    wait_until(lambda: _mined_round(net), WAIT_S, "the round to be in a block")
    assert ctl(net, "carol", "airdrop", "history").splitlines()[1].split()[:2] == ["1", "payout"]
    address = net.call("alice", "wallet.status")["payout_address"]
    assert address in ctl(net, "carol", "airdrop", "show", "1")
    for words in (("airdrop", "verify"), ("airdrop", "verify", "1")):
        page = ctl(net, "carol", *words)
        assert "round 1: right" in page
        assert "1 of 1 recomputed from this node's chain: all are right" in page
    assert ask(net, "carol", "airdrop", "verify")["right"] is True


def _mined_round(net: TestNet) -> bool:
    net.mine(1)
    return all(net.call(node, "airdrop.history")["rounds"] for node in net.layout.nodes)


def test_a_person_reads_the_keys_that_a_proposal_for_a_new_guardian_or_arbiter_names(net: TestNet) -> None:
    seats = ask(net, "bob", "network", "show")
    assert net.call("bob", "key.guardian")["pubkey"] in [seat["pubkey"] for seat in seats["guardians"]]
    assert [net.call("carol", "key.arbiter")["pubkey"]] == [seat["pubkey"] for seat in seats["arbiters"]]
    page = ctl(net, "bob", "network", "show")
    for seat in (*seats["guardians"], *seats["arbiters"]):
        assert seat["pubkey"] in page
    assert ask(net, "carol", "key", "guardian")["pubkey"] in page


def test_a_vote_is_proposed_cast_and_followed_to_its_end_and_the_next_channel_carries_the_new_tax(net: TestNet) -> None:
    assert "5 %" in ctl(net, "alice", "param", "list")
    replayed = ctl(net, "carol", "proposal", "replay", "tax_bps", "4.5%")
    assert "as it was → as it would be" in replayed
    assert WARNING in replayed
    # bob's key has no settled work: it may not propose, and nothing is spent on trying.
    ctl(net, "bob", "proposal", "create", "tax_bps", "450", "--title", "Mine", code=1)

    words = ("proposal", "create", "tax_bps", "450", "--title", "Lower the tax", "--text", "The fund is full.")
    made = ask(net, "alice", *words)
    proposal = made["id"]
    listed = wait_until(lambda: _listed(net, "carol", proposal, "VOTING"), WAIT_S, "the proposal to be in a block")
    assert proposal[:12] in ctl(net, "carol", "proposal", "list")
    wait_until(lambda: "The fund is full." in ctl(net, "carol", "proposal", "show", proposal[:12]), WAIT_S, "its text")
    assert "may not vote" in ctl(net, "carol", "proposal", "show", proposal[:12])
    mine_to(net, height(net) + 5)
    assert WARNING in ctl(net, "alice", "proposal", "vote", proposal[:12], "yes")
    voted = wait_until(lambda: _voted(net, proposal), WAIT_S, "the vote to be counted")
    assert voted["yes"] == 1
    assert "1 vote" in ctl(net, "carol", "why", proposal)

    mine_to(net, listed["from_height"])
    wait_until(lambda: _listed(net, "carol", proposal, "ACTIVE"), WAIT_S, "the proposal to be in force")
    assert "4.5 %" in ctl(net, "carol", "param", "list")
    assert proposal[:12] in ctl(net, "carol", "param", "history")
    assert "the rules in use are what the chain says" in ctl(net, "carol", "param", "verify")
    assert "4.5 %, at least 0.01 FLOP" in ctl(net, "carol", "network", "show")
    for node in net.layout.nodes:
        wait_until(
            lambda node=node: "rules        version 1\n" in ctl(net, node, "status"), WAIT_S, f"{node} to use version 1"
        )
    channel = work(net)
    assert channel["contract"]["tax_bps"] == 450
    assert channel["tax"] == COIN * 450 // 10_000
    assert "right" in ctl(net, "carol", "airdrop", "verify")


def _listed(net: TestNet, node: str, proposal: str, state: str) -> Any:
    found = net.call(node, "proposal.list")["proposals"]
    return next((one for one in found if one["id"] == proposal and one["state"] == state), None)


def _voted(net: TestNet, proposal: str) -> Any:
    net.mine(1)
    tally = net.call("carol", "proposal.show", {"id": proposal})["proposal"]["tally"]
    return tally if tally and tally["votes"] else None
