"""The first human user of the machine may look and spend, without being told how: once, and remembered."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from duxcommon.errors import SetupStepFailed
from duxcommon.files import write_atomic
from duxcommon.groups import command

from .paths import Paths

GROUPS = ("duxnet", "dux-spend")
HUMANS = range(1000, 60_000)
NO_LOGIN = ("nologin", "false", "sync")
REMEMBERED = "first-user"


def first_human(passwd: str) -> str | None:
    """The login name of the lowest uid that a person has, from the text of /etc/passwd."""
    found: list[tuple[int, str]] = []
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) != 7 or not fields[2].isdecimal() or int(fields[2]) not in HUMANS:
            continue
        if Path(fields[6]).name not in NO_LOGIN:
            found.append((int(fields[2]), fields[0]))
    return min(found)[1] if found else None


def let_in_first(paths: Paths, say: Callable[[str], None]) -> None:
    """Put the first human user into the groups, unless that was done before. Raises SetupStepFailed, OSError."""
    remembered = paths.setup / REMEMBERED
    if remembered.exists():
        return
    user = first_human((paths.root / "etc/passwd").read_text("utf-8", "replace"))
    if user is None:
        say("No person has an account on this machine yet; the first one that gets one may look and spend.")
        return
    prefix = [] if paths.real else ["--prefix", str(paths.root)]
    done = subprocess.run(
        ["/usr/sbin/usermod", *prefix, "--append", "--groups", ",".join(GROUPS), user],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise SetupStepFailed(
            f"{user} could not be put into {' and '.join(GROUPS)}: {done.stderr.strip()}",
            hint=f"Do it yourself: `{command(user, *GROUPS)}`; then {user} logs in again.",
        )
    write_atomic(remembered, f"{user}\n".encode(), mode=0o600)
    say(f"{user} may now look and spend (groups {' and '.join(GROUPS)}; it holds from the next login on).")
