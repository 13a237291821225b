"""Governance as dux-airdropd runs it, with what other daemons answer made by hand."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from dux_governance import rows
from dux_governance.governance import Governance
from dux_governance.ports import Flopd, Qualified, Registryd
from dux_governance.proposals import Reason
from dux_governance.timeline import Entry
from dux_governance.verify import verify
from duxcommon.api.airdropd import FundAt, SpentFrom
from duxcommon.api.flopd import NetworkLabel, NoteFact, Place
from duxcommon.api.governance import Document, GuardiansWish
from duxcommon.coin.notes import Change, GuardianChange, ParameterChange, Spend
from duxcommon.coin.script import p2pkh_script
from duxcommon.db import Store
from duxcommon.errors import DaemonDown
from duxcommon.money import COIN
from duxcommon.rpc import Client
from tests.governance_kit import VOTERS, Chain, key, member, network

NET = network()
BORN = 100
HERE, ELSEWHERE = "aa" * 32, "bb" * 32
TALLY = BORN + 70
IN_FORCE = TALLY + 11
TAX = ParameterChange(1, 450)
GRANT = Spend(p2pkh_script(bytes.fromhex(key("somebody"))), 5 * COIN)


def fact_of(entry: Entry) -> NoteFact:
    return NoteFact(
        at=Place(height=entry.place[0], index=entry.place[1], part=entry.place[2]), txid=entry.txid,
        note=entry.data.hex(), paid=dict(entry.paid), signers=sorted(entry.signers),
    )  # fmt: skip


class Voters(Registryd):
    """A registryd that knows who is qualified."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.away = False
        self.names: tuple[str, ...] = VOTERS
        self.tips = frozenset({(BORN + 60, HERE)})

    async def qualified(self, height: int) -> Qualified:
        if self.away:
            raise DaemonDown("registryd is away")
        self.asked.append(height)
        return Qualified(frozenset(map(key, self.names)), self.tips)

    async def lacks(self, pubkey: str, height: int) -> str:
        return "" if pubkey in map(key, self.names) else "no settled work"


class Notes(Flopd):
    """A flopd with a chain."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    async def holds(self, height: int, block_hash: str) -> bool:
        return block_hash == HERE

    async def notes(self, from_height: int, to_height: int) -> list[NoteFact]:
        return [fact_of(one) for one in self.chain.entries if from_height <= one.place[0] <= to_height]


class Purse:
    """A fund."""

    def __init__(self) -> None:
        self.spendable = 100 * COIN
        self.done: dict[str, str] = {}

    def at(self, height: int) -> FundAt:
        return FundAt(height=height, spendable=self.spendable, shares_paid=0, bond_price=COIN)

    def rounds(self, before: int | None, limit: int) -> list[SpentFrom]:
        return []

    def executed(self) -> dict[str, str]:
        return self.done


class Mounted:
    """Governance over a chain that the test makes."""

    def __init__(self, folder: Path, chain: Chain) -> None:
        self.chain = chain
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.store = Store(folder / "airdropd.sqlite", (rows.MIGRATION,))
        label = NetworkLabel(name=NET.name, chain=NET.chain, worthless=True)
        self.governance = Governance(
            self.store, NET, label, lambda name: Client(folder / f"{name}.sock"), spawn=self._spawn, event=self._event
        )
        self.fund = Purse()
        self.governance.connect(self.fund)
        self.voters = Voters()
        self.governance.registryd = self.voters
        self.governance.flopd = Notes(chain)
        self._read_to = -1

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        work.close()

    def _event(self, connection: sqlite3.Connection, name: str, kind: str, body: dict[str, Any]) -> None:
        self.events.append((name, body))

    async def advance(self, height: int) -> None:
        """Read on to a height, as the follower does."""
        (kind,) = self.governance.kinds()
        new = [fact_of(one) for one in self.chain.entries if self._read_to < one.place[0] <= height]
        await self.store.write(lambda c: kind.apply(c, new))
        self._read_to = height
        await self.governance.advance(height)

    def kept_electorates(self) -> list[bytes]:
        """The keys of each electorate in the database."""
        return [row["keys"] for row in self.store.read(lambda c: c.execute("SELECT keys FROM electorate").fetchall())]

    async def go_back(self, height: int) -> None:
        """Undo what stands above a height."""
        (kind,) = self.governance.kinds()
        await self.store.write(lambda c: kind.undo(c, height))
        self._read_to = height


def run(folder: Path, chain: Chain, body: Callable[[Mounted], Awaitable[None]]) -> None:
    async def main() -> None:
        mounted = Mounted(folder, chain)
        try:
            await body(mounted)
        finally:
            await mounted.store.close()

    asyncio.run(main())


def accepted(change: Change, document: bytes = b"") -> tuple[Chain, str]:
    chain = Chain(network=NET)
    proposal = chain.propose(BORN, change, document=document)
    chain.vote(BORN + 1, proposal, True, *VOTERS)
    chain.approve(BORN + 1, proposal, "g0", "g1")
    return chain, proposal


def test_the_electorate_is_that_of_the_block_before_and_is_asked_for_once(tmp_path: Path) -> None:
    chain, proposal = accepted(TAX)

    async def body(mounted: Mounted) -> None:
        await mounted.advance(BORN + 59)
        assert mounted.voters.asked == []
        for height in range(BORN + 60, IN_FORCE + 1):
            await mounted.advance(height)
        assert mounted.voters.asked == [BORN - 1]
        assert mounted.governance.book().tax_at(IN_FORCE) == 450
        states = [body["state"] for name, body in mounted.events if proposal in name]
        assert states == ["LOCKED", "ACTIVE"]

    run(tmp_path, chain, body)


def test_while_nobody_tells_who_may_vote_nothing_is_counted_and_the_reason_is_shown(tmp_path: Path) -> None:
    chain, _ = accepted(TAX)

    async def body(mounted: Mounted) -> None:
        mounted.voters.away = True
        await mounted.advance(TALLY + 5)
        assert mounted.governance.book().known_to == IN_FORCE - 1
        assert any("registryd is away" in note for note in mounted.governance.notes())
        mounted.voters.away = False
        await mounted.advance(TALLY + 6)
        assert mounted.governance.notes() == []
        assert mounted.governance.book().known_to > IN_FORCE

    run(tmp_path, chain, body)


def test_an_electorate_from_another_chain_is_not_kept(tmp_path: Path) -> None:
    chain, proposal = accepted(TAX)

    async def body(mounted: Mounted) -> None:
        # Of the pages of one answer the first are of this chain, the last of one that was left.
        mounted.voters.tips = frozenset({(BORN + 60, HERE), (BORN + 61, ELSEWHERE)})
        mounted.voters.names = ("x0", "x1")
        await mounted.advance(TALLY)
        assert any(f"another block {BORN + 61}" in note for note in mounted.governance.notes())
        assert mounted.kept_electorates() == []
        mounted.voters.tips = frozenset({(BORN + 61, HERE)})
        mounted.voters.names = VOTERS
        await mounted.advance(TALLY + 1)
        assert mounted.governance.find(proposal).passed
        assert mounted.governance.notes() == []

    run(tmp_path, chain, body)


def test_a_reorganisation_under_a_proposal_asks_for_its_electorate_anew(tmp_path: Path) -> None:
    chain, _ = accepted(TAX)

    async def body(mounted: Mounted) -> None:
        await mounted.advance(TALLY)
        await mounted.go_back(BORN)
        await mounted.advance(TALLY)
        assert mounted.voters.asked == [BORN - 1], "the proposal's own block stayed"
        await mounted.go_back(BORN - 1)
        mounted.voters.names = ("v0", "x1", "x2", "x3", "x4", "x5")
        await mounted.advance(TALLY)
        assert mounted.voters.asked == [BORN - 1, BORN - 1]
        assert [item.passed for item in mounted.governance.timeline.items] == [False]

    run(tmp_path, chain, body)


def test_a_stranger_s_proposal_makes_the_node_keep_nothing(tmp_path: Path) -> None:
    chain = Chain(network=NET)
    chain.propose(BORN, TAX, ["x0"])

    async def body(mounted: Mounted) -> None:
        await mounted.advance(BORN + 60)
        assert mounted.kept_electorates() == [b""]
        assert [item.replaceable for item in mounted.governance.timeline.items] == [True]

    run(tmp_path, chain, body)


def test_of_a_refused_proposal_only_who_proposed_is_kept(tmp_path: Path) -> None:
    chain = Chain(network=NET)
    chain.propose(BORN, TAX, ["v0"])
    chain.propose(BORN + 1, GRANT, ["v0", "x0"])

    async def body(mounted: Mounted) -> None:
        await mounted.advance(BORN + 60)
        busy = mounted.governance.timeline.items[1]
        assert busy.provisional
        await mounted.advance(BORN + 61)
        busy = mounted.governance.timeline.items[1]
        assert (busy.refusal and busy.refusal.reason, busy.provisional) == (Reason.PROPOSER_BUSY, False)
        assert sorted(map(len, mounted.kept_electorates())) == [33, 33 * len(VOTERS)]
        assert (await verify(mounted.governance)).difference == ""

    run(tmp_path, chain, body)


def test_a_spend_above_what_the_fund_could_pay_is_rejected(tmp_path: Path) -> None:
    chain, proposal = accepted(GRANT)

    async def body(mounted: Mounted) -> None:
        mounted.fund.spendable = 5 * COIN - 1
        await mounted.advance(TALLY)
        item = mounted.governance.find(proposal)
        assert mounted.governance.state(item) == "REJECTED"

    run(tmp_path, chain, body)


def test_a_spend_is_active_until_the_fund_has_paid_it(tmp_path: Path) -> None:
    chain, proposal = accepted(GRANT)

    async def body(mounted: Mounted) -> None:
        await mounted.advance(IN_FORCE)
        item = mounted.governance.find(proposal)
        assert [spend.proposal for spend in mounted.governance.spends_in_force(IN_FORCE)] == [proposal]
        assert mounted.governance.state(item) == "ACTIVE"
        mounted.fund.done[proposal] = "ab" * 32
        assert mounted.governance.state(item) == "EXECUTED"

    run(tmp_path, chain, body)


def test_the_book_names_a_new_guardians_node_once_its_document_is_here(tmp_path: Path) -> None:
    from dux_governance.documents import text_of

    ordered = sorted(["g0", "g1", "g2"], key=key)
    wish = GuardiansWish(out=key("g1"), into=member("g9"), m=2)
    text = text_of(Document(network=NET.id, change=wish, title="A new guardian"))
    change = GuardianChange(ordered.index("g1"), bytes.fromhex(key("g9")), 2)
    chain, _ = accepted(change, text.text.encode())

    async def body(mounted: Mounted) -> None:
        await mounted.advance(IN_FORCE)
        without = mounted.governance.book()
        seat = next(seat for seat in without.newest.guardians if seat.pubkey == key("g9"))
        assert seat.node is None
        await mounted.governance.documents.keep(text)
        named = mounted.governance.book()
        seat = next(seat for seat in named.newest.guardians if seat.pubkey == key("g9"))
        assert seat.node == member("g9").node
        assert named.difference(without) is None, "whose node it is, is no rule"

    run(tmp_path, chain, body)


def test_verifying_names_the_first_thing_in_which_this_node_differs(tmp_path: Path) -> None:
    chain, proposal = accepted(TAX)

    async def body(mounted: Mounted) -> None:
        await mounted.advance(IN_FORCE)
        found = await verify(mounted.governance)
        assert (found.difference, found.votes, found.approvals) == ("", 5, 2)
        mounted.voters.names = ("v0",)
        assert "other keys that may vote" in (await verify(mounted.governance)).difference
        mounted.voters.names = VOTERS
        await mounted.store.write(
            lambda c: c.execute("DELETE FROM vote_note WHERE height = ? AND number = 2", (BORN + 1,))
        )
        assert f"block {BORN + 1}, transaction 2" in (await verify(mounted.governance)).difference
        assert (await verify(mounted.governance)).timeline.find(proposal) is not None

    run(tmp_path, chain, body)
