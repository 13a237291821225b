"""What people do about proposals: make them, look at them, vote, approve, and ask what they would have done."""

import asyncio

from duxcommon import units
from duxcommon.api.common import Hash32
from duxcommon.api.governance import (
    Cast,
    Created,
    Document,
    OwnApproval,
    OwnVote,
    ProposalDetail,
    ProposalPage,
    Replay,
    Wish,
)
from duxcommon.coin.notes import (
    PROPOSAL_PREFIX,
    ApprovalNote,
    Change,
    ParameterChange,
    ProposalNote,
    Spend,
    VoteNote,
    proposal_id,
)
from duxcommon.errors import (
    ApprovalNotAsked,
    Conflict,
    DuxError,
    InvalidParams,
    NotQualified,
    ProposalImpossible,
    ProposalUnknown,
    VoteClosed,
)
from duxcommon.parameters import BY_NUMBER

from . import past, proposals, replay, rows, view
from .documents import change_of, text_of
from .governance import Governance
from .proposals import Reason, Refusal, describe
from .rows import CastRow
from .timeline import Item

REPLAYED = 129_600
"""Blocks of one minute in 90 days."""
WINDOW = 3
"""Number of the parameter `window_blocks`."""
REMEDIES = {
    Reason.CONTRADICTS: "`dux-ctl proposal list` shows until when; nothing was sent.",
    Reason.PROPOSER_BUSY: "A payout key has one proposal running at a time: `dux-ctl proposal list`. Nothing was sent.",
    Reason.TOO_SOON: "`dux-ctl param history` shows what changed when; nothing was sent.",
    Reason.IMPOSSIBLE_SEATS: "`dux-ctl network show` lists guardians and arbiters; nothing was sent.",
    Reason.IMPOSSIBLE_SPEND: "`dux-ctl fund status` shows what the fund holds; nothing was sent.",
}
"""What helps somebody whose proposal would be rejected; for the other reasons `dux-ctl param list` does."""


class Deciding:
    """The actions behind `proposal.*`."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance

    # --- proposing -------------------------------------------------------------------------------------------------

    async def create(self, wish: Wish, title: str, reason: str, key: str) -> Created:
        """See `proposal.create`."""
        governance = self._governance
        rules = governance.now()
        change = change_of(wish, rules, governance.chain)
        document = text_of(Document(network=governance.network.id, change=wish, title=title, reason=reason))
        data = ProposalNote(change, bytes.fromhex(document.hash)).encode()
        ident = proposal_id(governance.network.id, data)
        name = f"proposal:{key}"
        if governance.store.read(lambda c: rows.cast_by_key(c, name)) is None:
            await self._check(change, ident)
            await governance.documents.keep(document, own=True)
        row = await self._cast(name, "proposal", ident, data)
        return Created(
            id=ident,
            document=document.hash,
            state=row.state,
            txid=row.txid,
            effect=describe(change, rules, governance.chain),
            fee=row.fee,
            note=row.trouble,
            network=governance.label,
        )

    async def _check(self, change: Change, ident: str) -> None:
        """Raise ProposalImpossible or NotQualified for what the chain would refuse."""
        governance = self._governance
        if governance.timeline.find(ident) is not None:
            raise ProposalImpossible("this proposal is on the chain already; another text makes another one")
        now = governance.timeline.circumstances(await self._strangers(change))
        refusal = proposals.check(change, now)
        if refusal is None and isinstance(change, Spend):
            refusal = proposals.check_spendable(change, governance.fund.at(governance.height).spendable)
        if refusal is not None:
            raise _impossible(refusal)
        pubkey = (await governance.flopd.payout()).pubkey
        if lacks := await governance.registryd.lacks(pubkey, governance.height):
            raise NotQualified(f"this node's payout key may not propose now: {lacks}")
        if (refusal := proposals.check_proposers(frozenset([pubkey]), now.running)) is not None:
            raise _impossible(refusal)

    async def _strangers(self, change: Change) -> set[str]:
        """Proposals on the same that won't stand, because none of their signers may propose.

        The chain is asked for that 60 blocks after a proposal; without a look before, anybody could keep everybody from
        proposing anything for 0.01 FLOP an hour.
        """
        about = proposals.subject(change)
        rivals = [
            item
            for item in self._governance.timeline.unasked
            if about is not None and proposals.subject(item.change) == about
        ]
        return {item.id for item in rivals if not await self._may_propose(item)}

    async def _may_propose(self, item: Item) -> bool:
        for key in sorted(item.signers):
            if not await self._governance.registryd.lacks(key, item.place[0] - 1):
                return True
        return False

    async def _cast(
        self, key: str, kind: rows.CastKind, proposal: str, data: bytes, *, yes: bool | None = None
    ) -> CastRow:
        governance = self._governance
        row = await governance.casting.put(key, kind, proposal, data, yes=yes)
        if row.data != data:
            raise Conflict("this key was used for something else before")
        return await governance.casting.send(row, bytes.fromhex(governance.now().fund_script))

    # --- voting ------------------------------------------------------------------------------------------------------

    def _votable(self, proposal: str) -> Item:
        item = self._governance.find(proposal)
        if item.refusal is not None and not item.provisional:
            raise VoteClosed(f"it can't be voted on: {item.refusal.text}")
        if self._governance.height >= item.terms.deadline:
            raise VoteClosed(f"its deadline, block {item.terms.deadline}, has passed")
        return item

    async def _may_not(self, item: Item) -> str:
        """Why this node's key may not vote; empty when it may. Raises what flopd and registryd answer."""
        pubkey = (await self._governance.flopd.payout()).pubkey
        census = item.census or self._governance.stored.get((item.id, item.place))
        if census is not None:
            known = pubkey in census.electorate
            return "" if known else "its payout key had no qualified work in the block before the proposal"
        return await self._governance.registryd.lacks(pubkey, item.place[0] - 1)

    async def vote(self, proposal: str, yes: bool, key: str) -> Cast:
        """See `proposal.vote`."""
        item = self._votable(proposal)
        if why := await self._may_not(item):
            raise NotQualified(f"this node may not vote on it: {why}")
        data = VoteNote(bytes.fromhex(proposal), yes).encode()
        return self._reply(await self._cast(f"vote:{key}", "vote", proposal, data, yes=yes))

    async def approve(self, proposal: str, key: str) -> Cast:
        """See `proposal.approve`."""
        item = self._votable(proposal)
        if not item.terms.approvals:
            raise ApprovalNotAsked("changes of this class are not approved by guardians")
        pubkey = (await self._governance.flopd.guardian()).pubkey
        if pubkey not in item.terms.guardians:
            raise ApprovalNotAsked("this node was no guardian when it was proposed")
        approval = await self._governance.flopd.approve(proposal)
        note = ApprovalNote(bytes.fromhex(proposal)[:PROPOSAL_PREFIX], bytes.fromhex(approval.signature))
        return self._reply(await self._cast(f"approval:{key}", "approval", proposal, note.encode()))

    def _reply(self, row: CastRow) -> Cast:
        return Cast(
            proposal=row.proposal, state=row.state, txid=row.txid, note=row.trouble, network=self._governance.label
        )

    # --- looking -----------------------------------------------------------------------------------------------------

    def page(self, limit: int, after: str | None) -> ProposalPage:
        """See `proposal.list`."""
        governance = self._governance
        timeline = governance.timeline
        executed = governance.fund.executed()
        waiting = {row.proposal: row for row in self._waiting()}
        ids = [*waiting, *(item.id for item in reversed(timeline.items))]
        start = ids.index(after) + 1 if after in ids else 0
        part = ids[start : start + limit]
        return ProposalPage(
            proposals=[
                view.sent(governance, waiting[one])
                if one in waiting
                else view.proposal(governance, timeline.by_id[one], executed)
                for one in part
            ],
            next=part[-1] if part and start + limit < len(ids) else None,
            height=timeline.height,
            network=governance.label,
        )

    def _waiting(self) -> list[CastRow]:
        """Proposals of this node that no block holds yet."""
        governance = self._governance
        made = governance.store.read(rows.sent_proposals)
        return [row for row in made if row.state != "dropped" and governance.timeline.find(row.proposal) is None]

    async def show(self, proposal: Hash32) -> ProposalDetail:
        """See `proposal.show`."""
        governance = self._governance
        item = governance.timeline.find(proposal)
        if item is None:
            row = next((row for row in self._waiting() if row.proposal == proposal), None)
            if row is None:
                raise ProposalUnknown(f"there is no proposal {proposal[:16]}… in a block that this node has read")
            nothing = OwnVote(may=False, why="it is in no block yet", cast="", yes=None, txid=None, trouble="")
            return ProposalDetail(
                proposal=view.sent(governance, row),
                document=None,
                document_note="",
                vote=nothing,
                approval=OwnApproval(asked=False, cast="", txid=None, trouble=""),
                network=governance.label,
            )
        document, wrong = governance.documents.of(item)
        return ProposalDetail(
            proposal=view.proposal(governance, item),
            document=document,
            document_note=wrong,
            vote=await self._own_vote(item),
            approval=await self._own_approval(item),
            network=governance.label,
        )

    async def _own_vote(self, item: Item) -> OwnVote:
        try:
            why = await self._may_not(item)
        except DuxError as error:
            why = f"it can't be told now: {error.message}"
        row = self._governance.casting.newest("vote", item.id)
        if row is None or row.state == "dropped":
            return OwnVote(may=not why, why=why, cast="", yes=None, txid=None, trouble="")
        return OwnVote(may=not why, why=why, cast=row.state, yes=row.yes, txid=row.txid, trouble=row.trouble)

    async def _own_approval(self, item: Item) -> OwnApproval:
        asked = False
        if item.terms.approvals:
            try:
                asked = (await self._governance.flopd.guardian()).pubkey in item.terms.guardians
            except DuxError:
                asked = False
        row = self._governance.casting.newest("approval", item.id)
        if row is None or row.state == "dropped":
            return OwnApproval(asked=asked, cast="", txid=None, trouble="")
        return OwnApproval(asked=asked, cast=row.state, txid=row.txid, trouble=row.trouble)

    # --- what it would have done -------------------------------------------------------------------------------------

    async def replay(self, proposal: str | None, wish: Wish | None) -> Replay:
        """See `proposal.replay`."""
        governance = self._governance
        if (proposal is None) == (wish is None):
            raise InvalidParams("proposal.replay: name a proposal or a change, one of the two")
        if proposal is not None:
            item = governance.find(proposal)
            change, rules = item.change, item.rules
        else:
            assert wish is not None
            rules = governance.now()
            change = change_of(wish, rules, governance.chain)
        if isinstance(change, ParameterChange):
            _check_bounds(change)
        high = governance.height
        low = max(governance.network.birth_height - 1, high - REPLAYED)
        book = governance.timeline.book
        windows = [version.parameters.window_blocks for version in book.book.rules]
        windows += [change.value] if isinstance(change, ParameterChange) and change.number == WINDOW else []
        found = await past.gather(
            governance.flopd_client, governance.fund, book, governance.network.birth_height, low, high, max(windows)
        )
        lines, total, counts = await asyncio.to_thread(
            replay.compare, found, lambda height: book.at(height).parameters, change, low, high
        )
        return Replay(
            effect=describe(change, rules, governance.chain),
            from_height=max(0, low + 1),
            to_height=max(0, high),
            rounds_before=counts[0],
            rounds_after=counts[1],
            rows=lines,
            total=total,
            caveats=[*self._not_now(change, proposal), *replay.caveats(change)],
            network=governance.label,
        )

    def _not_now(self, change: Change, proposal: str | None) -> list[str]:
        """Why a change that is replayed could not be proposed, so that nobody plans with it."""
        refusal = None if proposal is not None else proposals.check(change, self._governance.timeline.circumstances())
        return [] if refusal is None else [f"It can't be proposed now: {refusal.text}."]


def _impossible(refusal: Refusal) -> ProposalImpossible:
    return ProposalImpossible(refusal.text, hint=REMEDIES.get(refusal.reason), details={"reason": refusal.reason.value})


def _check_bounds(change: ParameterChange) -> None:
    """A replay may go further than one step, but not beyond what the parameter can be. Raises ProposalImpossible."""
    declared = BY_NUMBER.get(change.number)
    if declared is None:
        raise ProposalImpossible(f"there is no parameter number {change.number}")
    if not declared.low <= change.value <= declared.high:
        unit = declared.governed.unit
        bounds = units.written_range(declared.low, declared.high, unit)
        raise ProposalImpossible(f"{declared.name} can be {bounds}, not {units.written(change.value, unit)}")
