"""Errors of dux-airdropd and of governance: 6000–6999."""

from .base import DuxError


class AirdropError(DuxError):
    component = "airdropd"


class RulesPending(AirdropError):
    code = 6000
    retry = True
    hint_default = "This node is still reading the chain up to that block; try again in a moment."
