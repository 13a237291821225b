"""Errors of dux-sandbox, and of what it runs: 4500–4999."""

from .base import DuxError


class SandboxError(DuxError):
    component = "sandbox"


class SandboxMissing(SandboxError):
    code = 4500
    hint_default = (
        "Install bubblewrap (`apt install bubblewrap`) or allow unprivileged user namespaces, then "
        "`systemctl reload dux-sandbox`. Without a sandbox no task is ever run."
    )


class SandboxDegraded(SandboxError):
    code = 4501
    hint_default = (
        "Without cgroups only apps that this node publishes are run. Start dux-sandbox by its systemd unit "
        "(Delegate=yes), or as root."
    )


class SandboxFault(SandboxError):
    code = 4502
    hint_default = "The sandbox could not be set up this time; nothing was run. Look at the log of dux-sandbox."
    retry = True


class AppFailed(SandboxError):
    code = 4510
    hint_default = "The app ended with an error; `dux-ctl task logs` shows what it printed. Check input and parameters."


class TaskTimeout(SandboxError):
    code = 4511
    hint_default = "The app used up its time. Send a smaller input, or ask the publisher for higher limits."


class OutOfMemory(SandboxError):
    code = 4512
    hint_default = "The app used up its memory. Send a smaller input, or ask the publisher for higher limits."


class OutputRefused(SandboxError):
    code = 4513
    hint_default = "What the app left in /out breaks its limits or is no plain file. Tell the publisher."


class OutputTooLarge(SandboxError):
    code = 4514
    hint_default = "The result is larger than the manifest allows. Send a smaller input, or tell the publisher."


class OutputMissing(SandboxError):
    code = 4515
    hint_default = "The app ended without writing /out/output. Tell the publisher."


class TaskKilled(SandboxError):
    code = 4516
    hint_default = "The execution was ended on request; run the task again if you still want it."
    retry = True


class ApiDown(SandboxError):
    code = 4520
    hint_default = "The publisher's own server behind this app does not answer. Try again later, or another provider."
    retry = True


class ApiFailed(SandboxError):
    code = 4521
    hint_default = "The publisher's own server refused the call; the message names its status. Check the parameters."
