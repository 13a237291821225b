"""What dux-airdropd does after it was killed between the commit of a block's facts and that of what they mean."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

from dux_airdropd import events, fund, rounds, signing
from dux_airdropd.daemon import AirdropDaemon
from dux_airdropd.fund import Fund
from dux_airdropd.rounds import Rounds
from dux_governance import rows
from dux_governance.governance import Governance
from duxcommon import follow
from duxcommon.api.flopd import BlockRef, FundFact, NetworkLabel, Place
from duxcommon.coin.notes import FundNote, Spend
from duxcommon.coin.script import op_return_script, p2pkh_script
from duxcommon.coin.tx import make_tx, serialize_tx, txid_of
from duxcommon.db import Store
from duxcommon.follow import Follower
from duxcommon.money import COIN
from duxcommon.rpc import Client
from duxcommon.rulebook import first_rules
from tests.governance_kit import VOTERS, Chain, key, network
from tests.unit.test_governance_mounted import Notes, Purse, Voters, fact_of

NET = network()
BORN = 100
CONFIRMED = 260
PAYEE = p2pkh_script(bytes.fromhex(key("somebody")))
FUND = bytes.fromhex(first_rules(NET).fund_script)
ANCHOR = "11" * 32
TABLES = follow.MIGRATION + fund.MIGRATION + signing.MIGRATION + rounds.MIGRATION + events.MIGRATION + rows.MIGRATION


class Followed:
    """All blocks are in the store already."""

    async def sync(self, limit_height: int | None = None) -> BlockRef:
        return BlockRef(height=CONFIRMED, hash="ab" * 32)


class NoRounds:
    """Nothing is to be signed."""

    async def advance(self, tip: int) -> None:
        pass


class Started(AirdropDaemon):
    """The daemon's work on the chain, without sockets."""

    def __init__(self, store: Store, folder: Path, chain: Chain, raw: str) -> None:
        label = NetworkLabel(name=NET.name, chain=NET.chain, worthless=True)
        self.rules = Governance(
            store, NET, label, lambda name: Client(folder / f"{name}.sock"), spawn=self._spawned, event=events.note
        )
        self.rules.registryd = Voters()
        self.rules.flopd = Notes(chain)
        self.rules.connect(Purse())
        self.fund = Fund(store, NET, self.rules)
        self.rounds = cast(Rounds, NoRounds())
        self._follower = cast(Follower, Followed())
        self._bytes = raw

    @staticmethod
    def _spawned(work: Coroutine[Any, Any, None], name: str) -> None:
        work.close()

    async def _watch(self) -> None:
        pass

    async def _raw(self, txid: str) -> str:
        return self._bytes


def paid(height: int, txid: str, vout: int, amount: int) -> FundFact:
    return FundFact(
        at=Place(height=height, index=1, part=vout), event="paid", txid=txid, vout=vout, amount=amount,
        script=FUND.hex(), spender=None,
    )  # fmt: skip


def test_a_grant_whose_meaning_was_not_stored_when_the_daemon_died_is_read_after_the_start(tmp_path: Path) -> None:
    chain = Chain(network=NET)
    proposal = chain.propose(BORN, Spend(PAYEE, 5 * COIN))
    chain.vote(BORN + 1, proposal, True, *VOTERS)
    chain.approve(BORN + 1, proposal, "g0", "g1")
    note = op_return_script(FundNote("grant", 1, bytes(32)).encode())
    grant = make_tx([(ANCHOR, 0)], [(note, 0), (FUND, 4 * COIN), (PAYEE, 5 * COIN)])
    spent = FundFact(
        at=Place(height=CONFIRMED, index=1), event="spent", txid=ANCHOR, vout=0, amount=10 * COIN,
        script=FUND.hex(), spender=txid_of(grant),
    )  # fmt: skip

    async def main() -> None:
        store = Store(tmp_path / "airdropd.sqlite", (TABLES,))
        raw = serialize_tx(grant).hex()
        try:
            before = Started(store, tmp_path, chain, raw)
            (notes,) = before.rules.kinds()
            await store.write(lambda c: notes.apply(c, [fact_of(one) for one in chain.entries]))
            await before.rules.advance(CONFIRMED - 1)
            facts = [paid(50, ANCHOR, 0, 10 * COIN), spent, paid(CONFIRMED, txid_of(grant), 1, 4 * COIN)]
            await store.write(lambda c: before.fund.kind.apply(c, facts))
            after = Started(store, tmp_path, chain, raw)
            assert await after.catch_up(CONFIRMED) == CONFIRMED
            assert after.fund.executed() == {proposal: txid_of(grant)}
        finally:
            await store.close()

    asyncio.run(main())
