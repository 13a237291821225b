"""Errors of setting a machine up (`dux_setup`): 8000–8999."""

from .base import DuxError


class SetupError(DuxError):
    component = "setup"


class BadInvitation(SetupError):
    code = 8000
    hint_default = "Ask the owner of the hosting machine for a new file: `dux-ctl network host FILE` there."
