"""From votes to a result, and from a height to a proposal's state. Pure: no I/O."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from duxcommon.api.airdropd import Rules
from duxcommon.api.governance import ProposalState
from duxcommon.coin.notes import Change, Spend

from .proposals import class_of

TALLY_DEPTH = 60
"""Blocks after the deadline until the votes are counted: a reorg so deep is not expected."""

MACHINE: dict[ProposalState, dict[str, ProposalState]] = {
    "SENT": {"confirmed": "VOTING", "confirmed-invalid": "REJECTED"},
    "VOTING": {"deadline": "COUNTING", "proposer-unfit": "REJECTED"},
    "COUNTING": {"accepted": "LOCKED", "too-little-support": "FAILED"},
    "LOCKED": {"time-lock-over": "ACTIVE"},
    "ACTIVE": {"spend-paid": "EXECUTED"},
    "EXECUTED": {},
    "REJECTED": {},
    "FAILED": {},
}
"""State → what happens → next state."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The conditions of one vote; fixed by the rules in force when the proposal confirmed."""

    birth: int
    deadline: int
    """Last block in which votes and approvals count."""
    tally_at: int
    """Block at which the result stands."""
    from_height: int
    """Block from which the change is in force if it is accepted."""
    quorum_pct: int
    majority_pct: int
    quorum_keys: int
    """Least number of votes beside the quorum; 1 where the class asks for no more."""
    guardians: frozenset[str]
    """Public keys of those who may approve."""
    approvals: int
    """So many of them must; 0 where the class does not ask for it."""

    def votes_needed(self, electorate: int) -> int:
        """Least number of votes of an electorate of so many keys."""
        return max(self.quorum_keys, -(-self.quorum_pct * electorate // 100))


def terms_of(change: Change, rules: Rules, birth: int) -> Terms:
    """The conditions for a change that confirmed in block `birth` under these rules."""
    values = rules.parameters
    guarded = class_of(change) != "parameter"
    deadline = birth + values.vote_blocks
    return Terms(
        birth=birth,
        deadline=deadline,
        tally_at=deadline + TALLY_DEPTH,
        from_height=deadline + TALLY_DEPTH + values.time_lock_blocks + 1,
        quorum_pct=values.quorum_pct,
        majority_pct=values.majority_pct,
        # Where nobody may vote, nothing may pass either.
        quorum_keys=values.quorum_keys if guarded else 1,
        guardians=frozenset(seat.pubkey for seat in rules.guardians),
        approvals=rules.guardians_m if guarded else 0,
    )


@dataclass(frozen=True, slots=True)
class Count:
    """Votes of the electorate, each key's last, and the guardians that approved."""

    electorate: int | None
    """None while it is not known; then the votes of all keys are counted."""
    votes: int
    yes: int
    approvals: tuple[str, ...]


def count(ballots: Mapping[str, bool], approvals: Collection[str], electorate: Collection[str] | None) -> Count:
    """Count ballots (key → its last vote)."""
    valid = ballots if electorate is None else {key: yes for key, yes in ballots.items() if key in electorate}
    size = None if electorate is None else len(electorate)
    return Count(size, len(valid), sum(valid.values()), tuple(sorted(approvals)))


def shortfall(terms: Terms, counted: Count) -> str:
    """Why the vote does not pass; empty when it does."""
    electorate = counted.electorate or 0
    if counted.votes < (needed := terms.votes_needed(electorate)):
        return f"{counted.votes} of {electorate} keys voted; {needed} were needed"
    if counted.yes * 100 < terms.majority_pct * counted.votes:
        return f"{counted.yes} of {counted.votes} votes were in favour; {terms.majority_pct} % were needed"
    if len(counted.approvals) < terms.approvals:
        return f"{len(counted.approvals)} guardians approved; {terms.approvals} were needed"
    return ""


def state_of(
    terms: Terms, change: Change, height: int, *, refused: bool, passed: bool | None, executed: bool
) -> ProposalState:
    """The state of a confirmed proposal at a height. `passed` is None while it is not decided."""
    if refused:
        return "REJECTED"
    if passed is None:
        return "VOTING" if height <= terms.deadline else "COUNTING"
    if not passed:
        return "FAILED"
    if height < terms.from_height:
        return "LOCKED"
    return "EXECUTED" if executed and isinstance(change, Spend) else "ACTIVE"
