"""Errors of setting a machine up (`dux_setup`): 8000–8999."""

from .base import DuxError


class SetupError(DuxError):
    component = "setup"


class BadInvitation(SetupError):
    code = 8000
    hint_default = "Ask the owner of the hosting machine for a new file: `dux-ctl network host FILE` there."


class InvitationMissing(SetupError):
    code = 8150
    hint_default = "The demonstration needs this machine's own trial network; `dux-devnet demo` makes one for itself."


class DemoRunning(SetupError):
    code = 8151
    hint_default = "Wait until the other demonstration has ended; it takes a minute or two."
    retry = True


class NotTrialNetwork(SetupError):
    code = 8152
    hint_default = "`dux-devnet demo` does the same on a trial network of its own, beside this node."


class DemoFailed(SetupError):
    code = 8153
    hint_default = "Look at `dux-ctl status`, then try again."
    retry = True


class GuestFailed(SetupError):
    code = 8154
    hint_default = "What its logs say last stands above."
