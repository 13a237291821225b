"""Exit statuses of dux-ctl; documented in its man page."""

from duxcommon.errors import DuxError

OK = 0
FAILED = 1
USAGE = 2
NOT_ALLOWED = 3
UNAVAILABLE = 4
NOT_FOUND = 5
NO_MONEY = 6
TASK_FAILED = 7
DIFFERENCE = 8
INTERRUPTED = 130

MEANINGS = {
    OK: "done",
    FAILED: "the daemon refused or failed, or `verify` found a difference; the message says which",
    USAGE: "the command line is wrong",
    NOT_ALLOWED: "you are not in the group that may do this, or the wallet is locked",
    UNAVAILABLE: "a daemon, the chain or a node can't be reached now; trying again can help",
    NOT_FOUND: "no such app, node, task, channel, blob, round or proposal",
    NO_MONEY: "too little money",
    TASK_FAILED: "the task ended without a result for another reason; nothing was paid for it",
    DIFFERENCE: "`audit` or `demo` found a difference",
    INTERRUPTED: "interrupted with Ctrl-C",
}

_BY_NAME = {
    "InvalidParams": USAGE,
    "NotAllowed": NOT_ALLOWED,
    "WalletLocked": NOT_ALLOWED,
    "InsufficientFunds": NO_MONEY,
}


def status_of(error: DuxError) -> int:
    """The exit status for an error."""
    if error.name in _BY_NAME:
        return _BY_NAME[error.name]
    if error.name.endswith(("Unknown", "NotFound")) or error.name.startswith("Unknown"):
        return NOT_FOUND
    return UNAVAILABLE if error.retry else FAILED


def status_of_task(error: DuxError) -> int:
    """The exit status for a task that ended with an error: what its owner can mend has a status of its own."""
    return _BY_NAME[error.name] if error.component == "flopd" and error.name in _BY_NAME else TASK_FAILED
