"""Errors of dux-airdropd and of governance: 6000–6999."""

from .base import DuxError


class AirdropError(DuxError):
    component = "airdropd"


class RulesPending(AirdropError):
    code = 6000
    retry = True
    hint_default = "This node is still reading the chain up to that block; try again in a moment."


class NotGuardian(AirdropError):
    code = 6001
    hint_default = "Only the guardians of the community fund sign its transactions, and only for one another."


class NothingToSign(AirdropError):
    code = 6002
    retry = True
    hint_default = "See `dux-ctl airdrop next` for when the fund pays, and `dux-ctl airdrop why` for what is missing."


class TransactionDiffers(AirdropError):
    code = 6003
    hint_default = "They see different chains or run different versions; compare `dux-ctl airdrop next` on both."


class RoundUnknown(AirdropError):
    code = 6004
    hint_default = "`dux-ctl airdrop history` lists the transactions of the fund that are in a block."


class EligibilityDiffers(AirdropError):
    code = 6005
    retry = True
    hint_default = "The chain moved while the keys were read; they are read again."
