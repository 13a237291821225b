"""What somebody can do who is not in the group that something needs."""

import contextlib
import grp
import os
import pwd


def user_name() -> str:
    """The caller's name, or the number where it has none."""
    uid = os.geteuid()
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def remedy(group: str) -> str:
    """The exact command, or that the next login is enough because the user was added after this one."""
    name = user_name()
    with contextlib.suppress(KeyError):
        if name in grp.getgrnam(group).gr_mem:
            return f"{name} is in the group {group}, but not in this session yet: log in again."
    return f"As root: `adduser {name} {group}`; then log in again."
