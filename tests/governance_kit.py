"""Proposals, votes and approvals as they stand in a chain, made by hand."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from dux_governance.reading import read
from dux_governance.timeline import Asked, Census, Entry, Item, Timeline
from duxcommon.coin.notes import (
    PROPOSAL_PREFIX,
    ApprovalNote,
    Change,
    Note,
    ProposalNote,
    VoteNote,
    proposal_id,
    sign_approval,
)
from duxcommon.coin.script import pubkey_of
from duxcommon.money import DUST
from duxcommon.network import Member, NetworkDefinition
from duxcommon.parameters import Parameters
from duxcommon.rulebook import first_rules

SMALL = Parameters(
    window_blocks=40,
    vote_blocks=10,
    time_lock_blocks=10,
    cycle_blocks=10,
    quorum_keys=3,
    quorum_pct=20,
    majority_pct=60,
)


@lru_cache
def secret(name: str) -> bytes:
    """A private key that belongs to a name."""
    return hashlib.sha256(name.encode()).digest()


@lru_cache
def key(name: str) -> str:
    """Its public key, hex."""
    return pubkey_of(secret(name)).hex()


def member(name: str) -> Member:
    """A node of that name with its coin key."""
    return Member(node=hashlib.sha256(b"node " + name.encode()).hexdigest(), pubkey=key(name))


def network(
    parameters: Parameters = SMALL, guardians: Sequence[str] = ("g0", "g1", "g2"), m: int = 2, name: str = "testnet"
) -> NetworkDefinition:
    """A network of these guardians and the arbiters a0 and a1."""
    return NetworkDefinition(
        name=name, chain="devnet", genesis="00" * 32, birth_height=0, bootstrap=[],
        guardians=[member(one) for one in guardians], guardians_m=m, arbiters=[member("a0"), member("a1")],
        parameters=parameters,
    )  # fmt: skip


VOTERS = tuple(f"v{number}" for number in range(5))


@dataclass
class Chain:
    """Notes in the order in which they were put in, each in a block of its own or in the one that is named."""

    network: NetworkDefinition = field(default_factory=network)
    entries: list[Entry] = field(default_factory=list)
    electorate: Sequence[str] = VOTERS
    spendable: int = 10**10
    censuses: dict[Asked, Census] = field(default_factory=dict)

    def put(
        self, height: int, note: Note, signers: Sequence[str] = (), *, paid: Mapping[str, int] | None = None
    ) -> Entry:
        """A transaction with this note; it pays 0.01 FLOP to the first fund address unless said otherwise."""
        index = sum(entry.place[0] == height for entry in self.entries)
        made = Entry(
            place=(height, index, 0),
            txid=hashlib.sha256(repr((height, index, note)).encode()).hexdigest(),
            note=note,
            data=note.encode(),
            paid={first_rules(self.network).fund_script: DUST} if paid is None else paid,
            signers=frozenset(key(name) for name in signers),
        )
        self.entries.append(made)
        self.entries.sort(key=lambda entry: entry.place)
        return made

    def propose(self, height: int, change: Change, signers: Sequence[str] = ("v0",), document: bytes = b"") -> str:
        """A proposal by these; its id. Its census is known as soon as it is deep enough to ask for."""
        note = ProposalNote(change, hashlib.sha256(document or repr((height, len(self.entries))).encode()).digest())
        made = self.put(height, note, signers)
        ident = proposal_id(self.network.id, note.encode())
        self.censuses[ident, made.place] = Census(frozenset(map(key, self.electorate)), self.spendable)
        return ident

    def vote(self, height: int, proposal: str, yes: bool, *names: str) -> None:
        """One transaction for each of these."""
        for name in names:
            self.put(height, VoteNote(bytes.fromhex(proposal), yes), [name])

    def approve(self, height: int, proposal: str, *names: str) -> None:
        """Approvals signed by these keys, in transactions of nobody in particular."""
        for name in names:
            signature = sign_approval(self.network.id, proposal, secret(name))
            self.put(height, ApprovalNote(bytes.fromhex(proposal)[:PROPOSAL_PREFIX], signature))

    def read(self, height: int) -> Timeline:
        """What is decided at a height, with the censuses of what is 60 blocks deep."""
        known = {name: census for name, census in self.censuses.items() if name[1][0] + 60 <= height}
        return read(self.network, self.entries, known, height)

    def item(self, height: int, proposal: str) -> Item:
        """A proposal as it stands at a height."""
        found = self.read(height).find(proposal)
        assert found is not None
        return found
