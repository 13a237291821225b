"""Errors of the coin (duxcommon.coin): 1100–1199."""

from .base import DuxError


class BadAddress(DuxError):
    code = 1100
    hint_default = "Copy the address again; it must belong to the chain that `dux-ctl status` names."


class BadKey(DuxError):
    code = 1101
    hint_default = "Give a private key that was exported for this chain, with a compressed public key."


class BadTerms(DuxError):
    code = 1102
    hint_default = "The script can't be made of these keys and this height; nothing was paid."


class BadTransaction(DuxError):
    code = 1103
    hint_default = "The bytes are no transaction that the chain could hold; nothing was sent."


class ScriptRefused(DuxError):
    code = 1104
    hint_default = "The signatures do not satisfy the script under the rules of the chain; nothing was sent."


class NotPayable(DuxError):
    code = 1105
    hint_default = "Every output must be at least 0.01 FLOP and the deposits must cover gross and fee; pay more first."


class TooManyInputs(DuxError):
    code = 1106
    hint_default = "One transaction would cost more than 0.1 FLOP in fees; close the channel and open a new one."


class SignaturesMissing(DuxError):
    code = 1107
    hint_default = "Ask the keys that are named under `missing` for their signatures; nothing was sent."
    retry = True
