"""How proposals and rules are shown: the replies of the methods, made from the timeline."""

from duxcommon.api.airdropd import Rules
from duxcommon.api.governance import Parameter, ParameterList, Proposal, RuleChange, RuleHistory, Tally
from duxcommon.coin.notes import ProposalNote, decode
from duxcommon.parameters import BY_NAME, Declared

from .governance import Governance
from .proposals import class_of, describe
from .rows import CastRow
from .timeline import Item


def proposal(governance: Governance, item: Item, executed: dict[str, str] | None = None) -> Proposal:
    """A proposal on the chain."""
    document, _ = governance.documents.of(item)
    state = governance.state(item, executed)
    return Proposal(
        id=item.id,
        state=state,
        klass=class_of(item.change),
        effect=describe(item.change, item.rules, governance.chain),
        why=_why(item, state),
        title="" if document is None else document.title,
        txid=item.txid,
        height=item.place[0],
        deadline=item.terms.deadline,
        tally_at=item.terms.tally_at,
        from_height=item.terms.from_height,
        tally=_tally(item),
    )


def _why(item: Item, state: str) -> str:
    if item.refusal is not None:
        if not item.provisional:
            return item.refusal.text
        return f"as it looks now it can't be voted on: {item.refusal.text}; that is certain once all are 60 blocks deep"
    return {
        "VOTING": f"votes count up to block {item.terms.deadline}",
        "COUNTING": f"the votes are counted at block {item.terms.tally_at}",
        "LOCKED": f"accepted; in force from block {item.terms.from_height} on",
        "ACTIVE": f"in force since block {item.terms.from_height}",
        "EXECUTED": "the fund has paid it",
        "FAILED": item.shortfall or "",
    }.get(state, "")


def _tally(item: Item) -> Tally:
    counted = item.counted()
    known = counted.electorate
    return Tally(
        electorate=known,
        votes=counted.votes,
        yes=counted.yes,
        approvals=list(counted.approvals),
        votes_needed=None if known is None else item.terms.votes_needed(known),
        majority_pct=item.terms.majority_pct,
        approvals_needed=item.terms.approvals,
    )


def sent(governance: Governance, row: CastRow) -> Proposal:
    """A proposal of this node that no block holds yet."""
    note = decode(row.data)
    assert isinstance(note, ProposalNote)
    text = governance.documents.text(note.document.hex())
    return Proposal(
        id=row.proposal,
        state="SENT",
        klass=class_of(note.change),
        effect=describe(note.change, governance.now(), governance.chain),
        why=row.trouble or "it is on its way to a block",
        title="" if text is None else governance.documents.title(text),
        txid=row.txid,
        height=None,
        deadline=None,
        tally_at=None,
        from_height=None,
        tally=None,
    )


# --- parameters and versions -----------------------------------------------------------------------------------------


def parameters(governance: Governance) -> ParameterList:
    """All governed parameters as they are now."""
    book, height = governance.book(), governance.height
    rules = governance.now()
    coming = [later for later in book.book.rules if later.from_height > height]
    return ParameterList(
        parameters=[_parameter(declared, rules, coming) for declared in BY_NAME.values()],
        version=rules.version,
        height=height,
        known_to=book.known_to,
        network=governance.label,
    )


def _parameter(declared: Declared, rules: Rules, coming: list[Rules]) -> Parameter:
    value: int = getattr(rules.parameters, declared.name)
    voted = next((later for later in coming if getattr(later.parameters, declared.name) != value), None)
    return Parameter(
        name=declared.name,
        number=declared.governed.number,
        value=value,
        default=declared.default,
        unit=declared.governed.unit,
        low=declared.low,
        high=declared.high,
        largest_step=declared.largest_step(value),
        voting=declared.governed.voting,
        coming=None if voted is None else getattr(voted.parameters, declared.name),
        coming_from=None if voted is None else voted.from_height,
        help=declared.help,
    )


def history(governance: Governance) -> RuleHistory:
    """All versions of the rules."""
    changes = [
        RuleChange(
            version=rules.version,
            from_height=rules.from_height,
            proposal=rules.proposal,
            effect=_effect(governance, rules),
        )
        for rules in governance.book().book.rules
    ]
    return RuleHistory(changes=changes, height=governance.height, network=governance.label)


def _effect(governance: Governance, rules: Rules) -> str:
    item = None if rules.proposal is None else governance.timeline.find(rules.proposal)
    return "the network definition" if item is None else describe(item.change, item.rules, governance.chain)
