"""Errors of governance, mounted in dux-airdropd: 6100–6199."""

from .airdropd import AirdropError


class ProposalUnknown(AirdropError):
    code = 6100
    hint_default = "List the proposals with `dux-ctl proposal list`; one that was just made needs a block."


class ProposalImpossible(AirdropError):
    code = 6101
    hint_default = "See `dux-ctl param list` for values, bounds and steps; nothing was sent."


class NotQualified(AirdropError):
    code = 6102
    hint_default = "Only payout keys with settled work and a bond propose and vote: see `dux-ctl node standing`."


class VoteClosed(AirdropError):
    code = 6103
    hint_default = "Votes and approvals count from the block after the proposal's up to its deadline."


class ApprovalNotAsked(AirdropError):
    code = 6104
    hint_default = "Guardians in force approve changes of guardians, arbiters and voting rules, and spending."


class DocumentRefused(AirdropError):
    code = 6105
    hint_default = "Only documents whose hash a proposal on the chain names are kept."
