"""Proposals, votes and approvals on the trial chain of a community fund, as people send them and as nobody should.

with assembled(("alice", "bob", "carol")) as votes:
    votes.fund.work()
    proposal = votes.propose("alice", "tax_bps", "4.5%", title="Lower the tax")
    votes.vote(proposal, "alice", "bob")
    votes.to(votes.shown(proposal)["from_height"])

Everybody who works has a bond that counts. A node whose dux-airdropd is stopped is not asked.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from devchain_kit import OWN

from dux_devnet.network import wait_until
from duxcommon.coin.notes import Change, Note, ProposalNote, proposal_id
from duxcommon.coin.params import CHAINS
from duxcommon.coin.script import op_return_script, p2pkh_script, pubkey_of, script_of
from duxcommon.coin.tx import make_tx, p2pkh_script_sig, sign_input, with_script_sigs
from duxcommon.errors import ProposalUnknown, RulesPending
from duxcommon.money import COIN, DUST
from duxcommon.parameters import Parameters
from tests.community_kit import FEE, ROUND_S, Guarded, guarded, secret_of

VOTE, LOCK = 10, 10
VOTING = Parameters(
    window_blocks=40,
    epochs_needed=1,
    min_tax_paid=DUST,
    share_cap_pct=100_000,
    bond_multiple_pct=0,
    bond_min=COIN,
    vote_blocks=VOTE,
    time_lock_blocks=LOCK,
    cycle_blocks=10,
    quorum_keys=3,
    quorum_pct=50,
)
SMALL_COINS = 8
DEPOSIT = "1"
"""FLOP of a channel: so much can be signed away after one block."""


@dataclass
class Assembly:
    """Nodes that vote on a chain whose blocks the test makes."""

    fund: Guarded

    def __post_init__(self) -> None:
        self.net = self.fund.net
        self.network = self.fund.network

    # --- what people type -------------------------------------------------------------------------------------

    def ctl(self, node: str, *words: str, code: int = 0) -> str:
        """What dux-ctl prints for people; it must end with that status."""
        done = self.net.ctl(node, *words)
        text = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == code, f"{node}: {' '.join(words)}: {done.returncode}\n{text}"
        return text

    def ask(self, node: str, *words: str) -> Any:
        """The same as JSON."""
        return json.loads(self.ctl(node, *words, "--json"))

    def propose(self, node: str, *words: str, title: str) -> str:
        """Propose with dux-ctl, in the next block; the proposal's id."""
        made = self.ask(node, "proposal", "create", *words, "--title", title)
        assert made["state"] == "sent", made
        self.mine()
        return str(made["id"])

    def vote(self, proposal: str, *nodes: str, yes: bool = True) -> None:
        """Vote with dux-ctl on these nodes, all in the next block."""
        for node in nodes:
            self._sent(node, "vote", proposal[:12], "yes" if yes else "no")
        self.mine()

    def approve(self, proposal: str, *nodes: str) -> None:
        """Approve as these guardians with dux-ctl, all in the next block."""
        for node in nodes:
            self._sent(node, "approve", proposal)
        self.mine()

    def _sent(self, node: str, *words: str) -> None:
        cast = self.ask(node, "proposal", *words)
        assert cast["state"] == "sent", (node, cast)

    # --- what nobody should send ------------------------------------------------------------------------------

    def force(self, secret: bytes, note: Note) -> None:
        """Say something to the fund with a key, in the next block, whatever its node thinks of it."""
        script = p2pkh_script(pubkey_of(secret))
        txid = self.fund.pay([(script, COIN)])
        said = op_return_script(note.encode())
        tx = make_tx([(txid, 0)], [(self.fund.script, DUST), (said, 0), (OWN, COIN - DUST - FEE)])
        signature = sign_input(tx, 0, script, secret)
        self.fund.send(with_script_sigs(tx, [p2pkh_script_sig(signature, pubkey_of(secret))]))

    def force_proposal(self, node: str, change: Change, text: str = "") -> str:
        """Put a proposal on the chain with a node's payout key, in the next block; its id."""
        note = ProposalNote(change, secret_of(f"{node} {change} {text}"))
        self.force(self.fund.payouts[node], note)
        return proposal_id(self.network.id, note.encode())

    # --- blocks -----------------------------------------------------------------------------------------------

    def mine(self, blocks: int = 1) -> None:
        """Blocks, and every running node has read them and knows the rules that they come under."""
        self.net.mine(blocks)
        self.caught_up()

    def to(self, height: int) -> None:
        """Blocks up to a height."""
        assert height >= self.fund.height, f"block {height} is past"
        self.fund.mine_to(height)
        self.caught_up()

    def caught_up(self, *nodes: str) -> None:
        """Wait until these nodes (by default all that run) have read all blocks."""
        tip = self.fund.caught_up(*nodes)
        for node in nodes or self.fund.running():
            wait_until(lambda node=node: self._at(node, tip), ROUND_S, f"the rules of block {tip} on {node}")

    def _at(self, node: str, height: int) -> bool:
        try:
            self.net.call(node, "node.eligible", {"height": height, "limit": 0})
        except RulesPending:
            return False
        return bool(self.net.call(node, "param.list")["height"] >= height)

    # --- what the nodes say -----------------------------------------------------------------------------------

    def same(self, read: Callable[[str], Any]) -> Any:
        """What every running node says; they must say the same."""
        told = {node: read(node) for node in self.fund.running()}
        first, *others = told.values()
        assert all(other == first for other in others), told
        return first

    def shown(self, proposal: str) -> dict[str, Any]:
        """A proposal, alike on every running node but for its document, which may come later."""

        def read(node: str) -> dict[str, Any]:
            found: dict[str, Any] = self.net.call(node, "proposal.show", {"id": proposal})["proposal"]
            return found | {"title": ""}

        found: dict[str, Any] = self.same(read)
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All versions of the rules, alike on every running node but for whose node a seat is."""

        def read(node: str) -> list[dict[str, Any]]:
            versions: list[dict[str, Any]] = self.net.call(node, "param.rules")["rules"]
            for seat in (seat for one in versions for seat in (*one["guardians"], *one["arbiters"])):
                seat["node"] = None
            return versions

        found: list[dict[str, Any]] = self.same(read)
        return found

    def assert_verified(self) -> None:
        """Every running node reckons the rules from the chain anew and finds those that it uses."""
        for node in self.fund.running():
            verified = self.net.call(node, "param.verify", timeout=120.0)
            assert (verified["agree"], verified["difference"]) == (True, ""), (node, verified)

    def knows(self, node: str, proposal: str) -> bool:
        """Whether a block that a node has read holds a proposal."""
        try:
            self.net.call(node, "proposal.show", {"id": proposal})
        except ProposalUnknown:
            return False
        return True

    # --- channels ---------------------------------------------------------------------------------------------

    def open_channel(self, buyer: str, provider: str) -> dict[str, Any]:
        """A channel whose deposit is in the next block."""
        channel = self.ask(buyer, "channel", "open", self.fund.node_id(provider), DEPOSIT)["id"]
        self.mine()
        self.net.wait_channel(provider, channel, "OPEN")
        opened: dict[str, Any] = self.net.wait_channel(buyer, channel, "OPEN")
        return opened

    def close_channel(self, buyer: str, provider: str, channel: str) -> dict[str, Any]:
        """The channel once its close is in the next block."""
        self.ctl(buyer, "channel", "close", channel)
        self.mine()
        self.net.wait_channel(provider, channel, "CLOSED")
        closed: dict[str, Any] = self.net.wait_channel(buyer, channel, "CLOSED")
        return closed

    def settled(self, closed: dict[str, Any]) -> dict[str, Any]:
        """What every running node's chain says of the transaction that closed a channel."""

        def read(node: str) -> Any:
            params = {"from_height": 0, "to_height": self.fund.height, "limit": 1000}
            facts = self.net.call(node, "chain.settlements", params)["facts"]
            return next(fact for fact in facts if fact["txid"] == closed["close_txid"])

        found: dict[str, Any] = self.same(read)
        return found

    def tax_of(self, worker: str) -> int:
        """The tax that a node's work counts with now, as every running node says."""
        params = {"pubkey": self.net.call(worker, "key.payout")["pubkey"], "height": self.fund.height}
        return int(self.same(lambda node: self.net.call(node, "node.standing", params))["tax"])

    # --- money ------------------------------------------------------------------------------------------------

    def fill(self, *nodes: str, flop: int = 20) -> None:
        """Give nodes coins to spend, and their payout keys small ones to vote with, in the next block."""
        chain = CHAINS[self.network.chain]
        before = {node: self.net.balance(node) for node in nodes}
        for node in nodes:
            address = self.net.call(node, "wallet.receive", {"label": "test"})["address"]
            small = [(self.fund.paid_script(node), 5 * DUST)] * SMALL_COINS
            self.fund.pay([(script_of(address, chain), flop * COIN), *small])
        self.net.mine(1)
        for node in nodes:
            wait_until(lambda node=node: self.net.balance(node) > before[node], ROUND_S, f"{node}'s coins")
        self.caught_up()


@contextmanager
def assembled(
    workers: Sequence[str],
    nodes: int = 5,
    *,
    guardians: int | None = None,
    parameters: Parameters = VOTING,
    purses: Sequence[str] = (),
) -> Iterator[Assembly]:
    """A fund as `guarded` makes it, with short votes; who works, and who is named in `purses`, can pay."""
    with guarded(workers, nodes, parameters=parameters, guardians=guardians) as fund:
        made = Assembly(fund)
        made.fill(*workers, *purses)
        yield made
