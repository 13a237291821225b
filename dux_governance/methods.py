"""`network.* param.* proposal.*`: thin, the work is in governance.py, deciding.py and verify.py."""

import asyncio
import time
from typing import Annotated

from pydantic import Field

from duxcommon.api.airdropd import OldAddress, RulesPage
from duxcommon.api.common import Hash32, IdempotencyKey, Ok
from duxcommon.api.governance import (
    Cast,
    Created,
    DocumentText,
    NetworkInfo,
    ParameterList,
    ProposalDetail,
    ProposalPage,
    Replay,
    RuleHistory,
    RulesVerified,
    Wish,
)
from duxcommon.coin.script import address_of
from duxcommon.errors import (
    ApprovalNotAsked,
    BadAddress,
    ChainAuthFailed,
    ChainDown,
    ChainFault,
    ChainMoved,
    ChainSyncing,
    Conflict,
    DocumentRefused,
    InvalidParams,
    KeystoreMissing,
    NotFound,
    NotQualified,
    ProposalImpossible,
    ProposalUnknown,
    RulesPending,
    VoteClosed,
    WalletLocked,
    WrongChain,
)
from duxcommon.rpc import method

from . import view
from .deciding import Deciding
from .governance import Governance
from .verify import verify

_HASH = "ab" * 32
_REACH = (ChainDown, ChainAuthFailed, WrongChain, ChainFault, ChainSyncing, ChainMoved, RulesPending)
_CAST = (*_REACH, ProposalUnknown, NotQualified, VoteClosed, Conflict, KeystoreMissing)
_WISH = {"kind": "parameter", "name": "tax_bps", "value": 450}
Title = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=8000, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")]


class NetworkMethods:
    """The network that this node is on."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance

    @method("network.show", access="read")
    async def show(self) -> NetworkInfo:
        """Show the network that this node is on, and the rules in force."""
        governance = self._governance
        network, rules = governance.network, governance.now()
        address = address_of(bytes.fromhex(rules.fund_script), governance.chain)
        assert address is not None
        old = governance.book().old_fund_scripts_at(max(0, governance.height))
        return NetworkInfo(
            id=network.id,
            name=network.name,
            chain=network.chain,
            genesis=network.genesis,
            birth_height=network.birth_height,
            worthless=network.worthless,
            version=rules.version,
            fund_address=address,
            old_fund_addresses=[
                OldAddress(address=name, counts_until=until)
                for script, until in old.items()
                if (name := address_of(script, governance.chain)) is not None
            ],
            tax_bps=rules.parameters.tax_bps,
            min_tax=rules.parameters.min_tax,
            airdrop_threshold=rules.parameters.airdrop_threshold,
            guardians=rules.guardians,
            guardians_m=rules.guardians_m,
            arbiters=rules.arbiters,
            time=int(time.time()),
        )


class ParamMethods:
    """The rules in force and those before them."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance

    @method("param.rules", access="daemon")
    async def rules(self, have: Hash32 | None = None, after: Annotated[int, Field(ge=-1)] = -1) -> RulesPage:
        """Tell all versions of the rules, page by page, and up to which block they can't change any more.

        Who names the digest of what it `have`s is told no version that it knows.
        """
        return self._governance.book().page(have, after)

    @method("param.list", access="read")
    async def list_(self) -> ParameterList:
        """List the parameters that are voted on: value, bounds, and how far the next change may go."""
        return view.parameters(self._governance)

    @method("param.history", access="read")
    async def history(self) -> RuleHistory:
        """List all versions of the rules, and what each changed from which block on."""
        return view.history(self._governance)

    @method("param.verify", access="read", errors=_REACH, timeout_s=600.0)
    async def verify(self) -> RulesVerified:
        """Reckon all votes from the chain anew and name the first difference to the rules that this node uses."""
        found = await verify(self._governance)
        return RulesVerified(
            agree=not found.difference,
            difference=found.difference,
            versions=len(found.timeline.book.book.rules),
            proposals=len(found.timeline.items),
            votes=found.votes,
            approvals=found.approvals,
            height=found.timeline.height,
            book=found.timeline.book.book,
            network=self._governance.label,
        )


class ProposalMethods:
    """Proposals and votes."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance
        self._deciding = Deciding(governance)

    @method(
        "proposal.create", access="spend", timeout_s=120.0,
        errors=(*_CAST, ProposalImpossible, InvalidParams, BadAddress),
        example={"change": _WISH, "title": "Lower the tax", "key": "proposal-1"},
    )  # fmt: skip
    async def create(self, change: Wish, title: Title, key: IdempotencyKey, reason: Text = "") -> Created:
        """Propose a change of the rules or a payment of the fund, signed by this node's payout key.

        What it does and the hash of its document go on the chain with 0.01 FLOP for the fund. Nothing is sent for a
        proposal that would be refused there, or when this node's key may not propose.
        """
        return await self._deciding.create(change, title, reason, key)

    @method("proposal.list", access="read", example={"limit": 20})
    async def list_(self, limit: Annotated[int, Field(ge=1, le=200)] = 50, after: Hash32 | None = None) -> ProposalPage:
        """List the proposals, newest first, with state and votes; `after` is the `next` of the page before."""
        return await asyncio.to_thread(self._deciding.page, limit, after)

    @method("proposal.show", access="read", errors=(ProposalUnknown,), timeout_s=120.0, example={"id": _HASH})
    async def show(self, id: Hash32) -> ProposalDetail:
        """Show a proposal: what it does, its document, how the vote stands, and this node's part in it."""
        return await self._deciding.show(id)

    @method(
        "proposal.vote", access="spend", errors=_CAST, timeout_s=120.0,
        example={"id": _HASH, "yes": True, "key": "vote-1"},
    )  # fmt: skip
    async def vote(self, id: Hash32, yes: bool, key: IdempotencyKey) -> Cast:
        """Vote on a proposal with this node's payout key; the last vote before the deadline counts.

        A vote spends a coin of the payout address and pays 0.01 FLOP to the fund. Where that address has no coin, it
        is given one first, and the vote goes by itself after the next block.
        """
        return await self._deciding.vote(id, yes, key)

    @method(
        "proposal.approve", access="admin", timeout_s=120.0,
        errors=(*_REACH, ProposalUnknown, VoteClosed, ApprovalNotAsked, Conflict, KeystoreMissing, WalletLocked),
        example={"id": _HASH, "key": "approve-1"},
    )  # fmt: skip
    async def approve(self, id: Hash32, key: IdempotencyKey) -> Cast:
        """As a guardian, approve a change of guardians, arbiters or voting rules, or a payment of the fund."""
        return await self._deciding.approve(id, key)

    @method(
        "proposal.replay", access="read", timeout_s=600.0, limit="10/m",
        errors=(*_REACH, ProposalUnknown, ProposalImpossible, InvalidParams, BadAddress), example={"change": _WISH},
    )  # fmt: skip
    async def replay(self, id: Hash32 | None = None, change: Wish | None = None) -> Replay:
        """Reckon what a proposal, or a change that nobody proposed yet, would have done over the last 90 days."""
        return await self._deciding.replay(id, change)

    @method("proposal.document", access="read", peers=True, errors=(NotFound,), limit="20/s", example={"hash": _HASH})
    async def document(self, hash: Hash32) -> DocumentText:
        """Give the document with a hash, if it is here."""
        found = self._governance.documents.text(hash)
        if found is None:
            raise NotFound(f"document {hash[:16]}… is not here")
        return found

    @method(
        "proposal.offer", access="peer", errors=(DocumentRefused,), limit="10/s",
        example={"document": {"hash": _HASH, "text": "{}"}},
    )  # fmt: skip
    async def offer(self, document: DocumentText) -> Ok:
        """Take a proposal's document from another node; only when the chain holds its hash."""
        await self._governance.documents.take(document, self._governance.timeline.items)
        return Ok()
