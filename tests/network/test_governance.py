"""The network changes its own rules: proposed, voted, counted and in force by real daemons, without a hand in between.

Four nodes: alice, bob and carol are guardians, two of whom sign; alice and bob sell and may vote, carol buys and may
not; dave arbitrates. The tests are one story, told in order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dux_devnet.network import wait_until
from duxcommon.errors import (
    ApprovalNotAsked,
    BadAddress,
    Conflict,
    DocumentRefused,
    InvalidParams,
    NotFound,
    NotQualified,
    ProposalImpossible,
    ProposalUnknown,
    RulesPending,
    VoteClosed,
)
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters
from tests.support.devnet import APPS, TestNet, running_devnet

WINDOW = 300
VOTE, LOCK = 40, 20
RULES = Parameters(
    window_blocks=WINDOW, epochs_needed=1, min_tax_paid=DUST, share_cap_pct=100_000, bond_multiple_pct=0, bond_min=COIN,
    vote_blocks=VOTE, time_lock_blocks=LOCK, cycle_blocks=10, quorum_keys=2, quorum_pct=50,
)  # fmt: skip
VOTERS = ("alice", "bob")
OUTSIDER = "carol"
WAIT_S = 60.0
LOWER_TAX = {"kind": "parameter", "name": "tax_bps", "value": 450}


@pytest.fixture(scope="module")
def net() -> Iterator[TestNet]:
    """alice and bob locked a bond and, a hundred blocks later, settled work."""
    with running_devnet(4, parameters=RULES, guardians=3) as net:
        for node in net.layout.nodes:
            net.fund(node, 60)
            caught_up(net, node)
        for node in VOTERS:
            net.bond(node)
            net.publish(node, APPS / "hello-words")
        net.mine(1)
        bonded = height(net)
        net.mine(100)
        for node in net.layout.nodes:
            caught_up(net, node)
        for node in VOTERS:
            work(net, node)
        mine_to(net, bonded + WINDOW + 1)
        for node in net.layout.nodes:
            caught_up(net, node)
        yield net


STORY: dict[str, str] = {}
"""Ids that one test hands to the next."""


def height(net: TestNet) -> int:
    return int(net.chain("getblockcount"))


def mine_to(net: TestNet, target: int) -> None:
    if (missing := target - height(net)) > 0:
        net.mine(missing)


def caught_up(net: TestNet, node: str, to: int | None = None) -> int:
    """Wait until a node's rules and facts are those of a block (the tip by default); the block."""
    target = height(net) if to is None else to

    def there() -> bool:
        try:
            net.call(node, "node.eligible", {"height": target, "limit": 0})
        except RulesPending:
            return False
        return bool(net.call(node, "param.list")["height"] >= target)

    wait_until(there, WAIT_S, f"{node} at block {target}")
    return target


def work(net: TestNet, provider: str) -> None:
    node = net.layout.node_ids[provider]
    key = net.key()

    def opening() -> Any:
        try:
            return net.call(OUTSIDER, "channel.open", {"provider": node, "amount": 5 * COIN, "key": key})
        except RulesPending:
            # A hundred blocks came at once: more than this network's short votes let the rules be known ahead.
            return None

    opened = wait_until(opening, WAIT_S, "escrowd to know the rules of the new blocks")
    net.run_task(OUTSIDER, f"hello-words@{node[:16]}", b"one two")
    net.call(OUTSIDER, "channel.close", {"id": opened["id"], "key": net.key()})
    net.wait_channel(OUTSIDER, opened["id"], "CLOSED")


def propose(net: TestNet, node: str, change: dict[str, Any], title: str, **more: Any) -> str:
    params = {"change": change, "title": title, "key": net.key(), **more}
    return str(net.call(node, "proposal.create", params)["id"])


def show(net: TestNet, node: str, proposal: str) -> Any:
    return net.call(node, "proposal.show", {"id": proposal})


def wait_state(net: TestNet, node: str, proposal: str, state: str) -> Any:
    """The proposal once it is in a state on a node."""

    def reached() -> Any:
        try:
            found = show(net, node, proposal)
        except ProposalUnknown:
            return None
        return found if found["proposal"]["state"] == state else None

    return wait_until(reached, WAIT_S, f"proposal {proposal[:8]}… to be {state} on {node}")


def vote(net: TestNet, node: str, proposal: str, *, yes: bool) -> Any:
    return net.call(node, "proposal.vote", {"id": proposal, "yes": yes, "key": net.key()})


def counted(net: TestNet, node: str, proposal: str, votes: int, yes: int) -> None:
    """Wait until so many votes are in blocks."""

    def there() -> bool:
        tally = show(net, node, proposal)["proposal"]["tally"]
        return (tally["votes"], tally["yes"]) == (votes, yes)

    wait_until(there, WAIT_S, f"{votes} votes, {yes} in favour")


def rules(net: TestNet, node: str) -> list[Any]:
    """All versions as a node knows them, without whose node a seat is."""
    found: list[Any] = net.call(node, "param.rules")["rules"]
    for version in found:
        for seat in [*version["guardians"], *version["arbiters"]]:
            seat["node"] = None
    return found


def test_the_rules_begin_with_the_network_definition(net: TestNet) -> None:
    told = net.call("alice", "param.list")
    assert (told["version"], told["known_to"] > told["height"]) == (0, True)
    tax = next(one for one in told["parameters"] if one["name"] == "tax_bps")
    assert (tax["value"], tax["largest_step"], tax["coming"]) == (500, 100, None)
    assert [change["effect"] for change in net.call("bob", "param.history")["changes"]] == ["the network definition"]
    shown = net.call("carol", "network.show")
    assert (shown["version"], shown["tax_bps"], len(shown["guardians"])) == (0, 500, 3)
    assert shown["fund_address"] == net.call("carol", "fund.status")["address"]


def test_nothing_is_sent_for_a_proposal_that_would_be_refused(net: TestNet) -> None:
    before = net.balance("alice")
    for change, words in (
        ({**LOWER_TAX, "value": 2001}, "can be 0 to 20 %, not 20.01 %"),
        ({**LOWER_TAX, "value": 700}, "may change by 1 % at once"),
        ({**LOWER_TAX, "value": 500}, "is 5 % already"),
        ({"kind": "spend", "to": net.call("bob", "wallet.receive")["address"], "amount": 10**6 * COIN}, "could pay"),
        ({"kind": "arbiters", "out": None, "into": None}, "changes no arbiter"),
    ):
        with pytest.raises(ProposalImpossible, match=words):
            propose(net, "alice", change, "No")
    with pytest.raises(InvalidParams, match="there is no parameter"):
        propose(net, "alice", {**LOWER_TAX, "name": "min_tax"}, "No")
    with pytest.raises(BadAddress):
        propose(net, "alice", {"kind": "spend", "to": "1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "amount": COIN}, "No")
    with pytest.raises(NotQualified, match="may not propose"):
        propose(net, OUTSIDER, LOWER_TAX, "Lower the tax")
    assert net.call("alice", "proposal.list")["proposals"] == []
    assert net.balance("alice") == before


def test_a_proposal_and_its_document_reach_every_node(net: TestNet) -> None:
    params = {"change": LOWER_TAX, "title": "Lower the tax", "reason": "The fund is full.\nReally.", "key": "first"}
    made = net.call("alice", "proposal.create", params)
    again = net.call("alice", "proposal.create", params)
    assert (again["id"], again["txid"]) == (made["id"], made["txid"])
    with pytest.raises(Conflict):
        net.call("alice", "proposal.create", {**params, "title": "Another title"})
    for node in net.layout.nodes:
        found = wait_state(net, node, made["id"], "VOTING")["proposal"]
        assert (found["effect"], found["klass"]) == ("tax_bps: 5 % → 4.5 %", "parameter")
        wait_until(lambda node=node: show(net, node, made["id"])["document"], WAIT_S, f"the document on {node}")
        document = show(net, node, made["id"])["document"]
        assert (document["title"], document["reason"]) == ("Lower the tax", "The fund is full.\nReally.")
    text = net.call("bob", "proposal.document", {"hash": made["document"]})
    assert "Lower the tax" in text["text"]
    with pytest.raises(NotFound):
        net.call("bob", "proposal.document", {"hash": "ab" * 32})
    STORY["tax"] = made["id"]


def test_a_document_that_no_proposal_names_is_not_kept(net: TestNet) -> None:
    document = {"hash": "ab" * 32, "text": "x"}
    request = {"node": net.layout.node_ids["bob"], "method": "proposal.offer", "params": {"document": document}}
    with pytest.raises(DocumentRefused, match="no proposal"):
        net.call("alice", "peer.call", {**request, "timeout_s": 20.0})
    known = net.call("bob", "proposal.list")["proposals"][0]
    hashed = next(iter(documents(net, "bob")))
    request["params"] = {"document": {"hash": hashed, "text": "something else"}}
    with pytest.raises(DocumentRefused, match="not what its hash says"):
        net.call("alice", "peer.call", {**request, "timeout_s": 20.0})
    assert known["title"] == "Lower the tax"


def documents(net: TestNet, node: str) -> set[str]:
    """Hashes of the documents of all proposals, by the notes of the chain."""
    facts = net.call(node, "chain.notes", {"from_height": 0, "to_height": height(net), "limit": 1000})["facts"]
    return {fact["note"][-64:] for fact in facts if fact["note"].startswith("44555803")}


def test_who_may_vote_votes_and_may_change_its_mind(net: TestNet) -> None:
    proposal = STORY["tax"]
    # carol's node is off from here on and comes back when everything is decided.
    net.stop([f"{OUTSIDER}/airdropd"])
    assert show(net, "alice", proposal)["vote"]["may"]
    vote(net, "alice", proposal, yes=False)
    counted(net, "bob", proposal, 1, 0)
    # The first vote's change may be unconfirmed: then the payout address is given a coin, and the vote goes by itself.
    vote(net, "alice", proposal, yes=True)
    vote(net, "bob", proposal, yes=True)
    counted(net, "bob", proposal, 2, 2)
    own = show(net, "bob", proposal)["vote"]
    assert (own["cast"] in ("sent", "confirmed"), own["yes"]) == (True, True)
    with pytest.raises(ApprovalNotAsked, match="not approved by guardians"):
        net.call("alice", "proposal.approve", {"id": proposal, "key": net.key()})
    with pytest.raises(ProposalUnknown):
        vote(net, "alice", "ab" * 32, yes=True)
    with pytest.raises(ProposalImpossible, match="not decided or in force yet"):
        propose(net, "bob", {**LOWER_TAX, "value": 550}, "Raise it")


def test_the_change_is_in_force_at_the_same_block_on_every_node(net: TestNet) -> None:
    proposal = STORY["tax"]
    found = show(net, "alice", proposal)["proposal"]
    mine_to(net, found["deadline"])
    caught_up(net, "alice")
    with pytest.raises(VoteClosed):
        vote(net, "alice", proposal, yes=True)
    mine_to(net, found["tally_at"])
    locked = wait_state(net, "alice", proposal, "LOCKED")["proposal"]
    assert locked["tally"]["electorate"] == 2
    tax = next(one for one in net.call("alice", "param.list")["parameters"] if one["name"] == "tax_bps")
    assert (tax["value"], tax["coming"], tax["coming_from"]) == (500, 450, found["from_height"])
    mine_to(net, found["from_height"])
    net.start([f"{OUTSIDER}/airdropd"])
    for node in net.layout.nodes:
        wait_state(net, node, proposal, "ACTIVE")
        versions = net.call(node, "param.rules")["rules"]
        assert [one["from_height"] for one in versions] == [0, found["from_height"]]
        assert versions[1]["parameters"]["tax_bps"] == 450
        assert net.call(node, "network.show")["tax_bps"] == 450
    assert rules(net, "alice") == rules(net, "bob") == rules(net, OUTSIDER)


def test_a_node_that_kept_nothing_comes_to_the_same_rules(net: TestNet) -> None:
    before = rules(net, "bob")
    net.stop(["bob/airdropd"])
    for file in (net.layout.folder / "bob" / "lib" / "airdropd").glob("airdropd.sqlite*"):
        file.unlink()
    net.start(["bob/airdropd"])
    caught_up(net, "bob")
    wait_until(lambda: rules(net, "bob") == before, WAIT_S, "bob to know the rules again")
    # The document comes back from the other nodes.
    wait_until(lambda: show(net, "bob", STORY["tax"])["document"], WAIT_S, "the document on bob again")


def test_every_node_can_verify_the_rules_from_the_chain(net: TestNet) -> None:
    for node in net.layout.nodes:
        verified = net.call(node, "param.verify", timeout=120.0)
        assert (verified["agree"], verified["difference"]) == (True, "")
        assert (verified["versions"], verified["proposals"], verified["votes"]) == (2, 1, 3)


def test_guardians_must_approve_what_changes_them(net: TestNet) -> None:
    """All three must sign from then on, so the fund gets another address."""
    old = net.call("alice", "network.show")["fund_address"]
    for node in VOTERS:
        work(net, node)
    caught_up(net, "bob")
    change = {"kind": "guardians", "out": None, "into": None, "m": 3}
    proposal = propose(net, "bob", change, "All guardians sign")
    wait_state(net, "alice", proposal, "VOTING")
    wait_state(net, "bob", proposal, "VOTING")
    for node in VOTERS:
        vote(net, node, proposal, yes=True)
    assert show(net, OUTSIDER, proposal)["approval"]["asked"]
    wait_state(net, OUTSIDER, proposal, "VOTING")
    for node in ("alice", OUTSIDER):
        net.call(node, "proposal.approve", {"id": proposal, "key": net.key()})
    with pytest.raises(NotQualified):
        vote(net, OUTSIDER, proposal, yes=True)
    counted(net, "alice", proposal, 2, 2)
    wait_until(lambda: len(show(net, "bob", proposal)["proposal"]["tally"]["approvals"]) == 2, WAIT_S, "approvals")
    found = show(net, "bob", proposal)["proposal"]
    mine_to(net, found["from_height"])
    for node in net.layout.nodes:
        wait_state(net, node, proposal, "ACTIVE")
        shown = net.call(node, "network.show")
        assert (shown["guardians_m"], shown["fund_address"] != old) == (3, True)


def test_what_a_change_would_have_done_is_reckoned_from_the_chain(net: TestNet) -> None:
    change = {"kind": "parameter", "name": "tax_bps", "value": 1000}
    found = net.call("alice", "proposal.replay", {"change": change}, timeout=120.0)
    # Two calls of 0.5 FLOP paid 0.025 each and two 0.0225; at 10 % they had paid 0.05. Notes and bonds pay as before.
    paid = 2 * COIN // 40 + 2 * 9 * COIN // 400
    assert found["total"]["inflow_after"] - found["total"]["inflow_before"] == 4 * COIN // 20 - paid
    assert (found["rounds_before"], found["rounds_after"], found["rows"]) == (0, 0, [])
    assert found["caveats"]
    by_id = net.call("alice", "proposal.replay", {"id": STORY["tax"]}, timeout=120.0)
    assert by_id["effect"].startswith("tax_bps")
    with pytest.raises(ProposalImpossible, match="can be 0 to 20 %, not 50 %"):
        net.call("alice", "proposal.replay", {"change": {**change, "value": 5000}})
    with pytest.raises(InvalidParams):
        net.call("alice", "proposal.replay", {})


def test_what_became_of_proposals_is_in_the_signed_event_log(net: TestNet) -> None:
    path: Path = net.layout.folder / "alice" / "lib" / "airdropd" / "events.log"

    def logged() -> bool:
        return path.exists() and STORY["tax"] in path.read_text() and '"ACTIVE"' in path.read_text()

    wait_until(logged, WAIT_S, "the event log to tell of the change")
