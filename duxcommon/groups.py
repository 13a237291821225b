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


def command(user: str, *groups: str) -> str:
    """What root types to let a user into groups."""
    return f"usermod -aG {','.join(groups)} {user}"


def remedy(*groups: str, user: str | None = None) -> str:
    """The exact command for the groups that the user (default: the caller) is not in, and that it takes a new login.

    Somebody who is in all of them was added after this login.
    """
    name = user or user_name()
    missing = [group for group in groups if not _has(group, name)]
    if missing:
        return f"As root: `{command(name, *missing)}`; then log in again."
    groups_text = f"group{'' if len(groups) == 1 else 's'} {' and '.join(groups)}"
    return f"{name} is in the {groups_text}, but not in this session yet: log in again."


def _has(group: str, user: str) -> bool:
    try:
        return user in grp.getgrnam(group).gr_mem
    except KeyError:
        return False
