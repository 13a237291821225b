"""Work on what belongs to a daemon's user, done by a process of that user.

Root writing into a folder that a daemon controls could be led elsewhere by a link that the daemon has put there.
"""

import json
import os
import pwd
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from duxcommon import failpoint
from duxcommon.errors import DuxError, SetupStepFailed


def as_user(user: str | None, work: Callable[[], Any]) -> Any:
    """What `work` returns (a JSON value), computed by a child process that runs as `user`; here when it is None.

    Raises OSError as the child met it, and SetupStepFailed for everything else.
    """
    if user is None:
        return work()
    account = pwd.getpwnam(user)
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(account, work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not said:
        raise SetupStepFailed(f"a process of {user} ended with status {os.waitstatus_to_exitcode(status)}")
    reply = json.loads(said)
    if "errno" in reply:
        raise OSError(reply["errno"], os.strerror(reply["errno"]), reply["file"])
    if "error" in reply:
        raise SetupStepFailed(reply["error"], hint=reply["hint"] or None)
    return reply["value"]


def _child(account: pwd.struct_passwd, work: Callable[[], Any], writer: int) -> NoReturn:
    """The child's whole life: become the user, work, answer, and end without our parent's clean-up."""
    status = 1
    try:
        reply: dict[str, Any]
        try:
            os.setgroups([])
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            os.umask(0o077)
            failpoint.hit("firstboot:child")
            reply = {"value": work()}
        except OSError as error:
            reply = {"errno": error.errno or 0, "file": str(error.filename or "")}
        except DuxError as error:
            reply = {"error": error.message, "hint": error.hint}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "hint": ""}
        data = json.dumps(reply).encode()
        while data:
            data = data[os.write(writer, data) :]
        status = 0
    finally:
        os._exit(status)
