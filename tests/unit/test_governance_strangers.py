"""What those can spoil who may not propose, or not now: nothing."""

from pathlib import Path

import pytest

from dux_governance.casting import Casting
from dux_governance.deciding import Deciding
from dux_governance.timeline import Census
from duxcommon.api.governance import ParameterWish
from duxcommon.coin.notes import ParameterChange
from duxcommon.errors import ProposalImpossible
from duxcommon.money import COIN
from tests.governance_kit import VOTERS, Chain, key
from tests.unit.test_governance_casting import Wallet
from tests.unit.test_governance_mounted import NET, Mounted, run

TAX = ParameterChange(1, 450)
BORN = 100
IN_FORCE = BORN + 10 + 60 + 10 + 1


def test_who_has_a_proposal_running_can_t_spoil_another_s_by_sending_it_first() -> None:
    chain = Chain()
    chain.propose(BORN - 1, ParameterChange(2, 90 * COIN), ["v1"])
    chain.propose(BORN, TAX, ["v1"], document=b"the same")
    proposal = chain.propose(BORN, TAX, ["v0"], document=b"the same")
    chain.vote(BORN + 4, proposal, True, *VOTERS)
    item = chain.item(IN_FORCE, proposal)
    assert (item.place, item.signers, item.passed) == ((BORN, 1, 0), frozenset([key("v0")]), True)


def test_while_it_is_not_known_who_may_propose_both_of_the_same_keep_the_rules_open() -> None:
    chain = Chain()
    chain.propose(BORN - 1, ParameterChange(2, 90 * COIN), ["v1"])
    chain.propose(BORN, TAX, ["v1"], document=b"the same")
    proposal = chain.propose(BORN + 1, TAX, ["v0"], document=b"the same")
    chain.vote(BORN + 4, proposal, True, *VOTERS)
    waiting = chain.read(BORN + 9)
    assert waiting.book.known_to < IN_FORCE
    assert chain.read(IN_FORCE + 1).book.tax_at(IN_FORCE + 1) == 450


def test_if_the_proposal_that_keeps_a_key_busy_is_a_stranger_s_its_next_one_stands() -> None:
    chain = Chain()
    first = chain.propose(BORN - 1, ParameterChange(2, 90 * COIN), ["v1"])
    proposal = chain.propose(BORN, TAX, ["v1"], document=b"the same")
    chain.propose(BORN, TAX, ["v0"], document=b"the same")
    chain.vote(BORN + 4, proposal, True, *VOTERS)
    # In the block before the first one v1 had no qualified work yet; before the second it had.
    chain.censuses[first, (BORN - 1, 0, 0)] = Census(frozenset([key("v2")]), None)
    item = chain.item(IN_FORCE, proposal)
    assert (item.place, item.signers, item.passed) == ((BORN, 0, 0), frozenset([key("v1")]), True)


def test_a_stranger_s_proposal_keeps_nobody_from_proposing_on_the_same(tmp_path: Path) -> None:
    chain = Chain(network=NET)
    chain.propose(BORN, ParameterChange(1, 520), ["x0"])

    async def body(mounted: Mounted) -> None:
        await mounted.advance(BORN + 1)
        wallet = Wallet()
        mounted.governance.flopd = wallet
        mounted.governance.casting = Casting(mounted.store, wallet)
        deciding, wish = Deciding(mounted.governance), ParameterWish(name="tax_bps", value=450)
        made = await deciding.create(wish, "Lower the tax", "", "may")
        assert made.state == "sent"
        # One of somebody who may propose stands.
        mounted.voters.names = (*VOTERS, "x0")
        with pytest.raises(ProposalImpossible, match="on the same"):
            await deciding.create(wish, "Lower the tax again", "", "may-not")

    run(tmp_path, chain, body)
