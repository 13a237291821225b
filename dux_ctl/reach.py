"""Which daemon can't be reached and why, judged by how its socket behaves, and what to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duxcommon.errors import DaemonDown

from . import units

CAUSES = {
    "missing": "its socket is not there",
    "refused": "nobody listens on its socket",
    "closed": "its connection was closed at once",
    "silent": "it does not answer",
    "denied": "you may not connect to it",
    "trying": "it can't run now and is tried again",
    "failed": "it failed and is not tried again",
}
LIVE = "live"
"""A file beside the sockets: this is a live system whose state is in memory."""
# systemd refuses a plain start for a while after some failed ones, and their sockets have failed with them.
_MENDED = "Once that is mended: systemctl reset-failed 'dux-*' && systemctl start dux.target"
_TRYING = f"systemd goes on trying by itself, at least every {units.RETRY_S} s; at once: systemctl restart {{}}"


def cause(error: dict[str, Any]) -> str:
    """The cause that an RPC error object of a failed call names; empty where the daemon itself answered."""
    return str(error["data"].get("details", {}).get("cause", ""))


def explain(error: dict[str, Any]) -> str:
    """In a few words what an error object says of the connection, else its message."""
    return CAUSES.get(cause(error), str(error["message"]))


def is_live(run_dir: Path) -> bool:
    """Whether keys and coins are gone when the machine is switched off."""
    return (run_dir / LIVE).exists()


def stopped(unit: units.Unit) -> dict[str, Any]:
    """The error object for a service that answers no calls and does not run."""
    return DaemonDown(f"systemd says {unit.text}").to_rpc()


def known_down(names: Sequence[str], run_dir: Path) -> dict[str, DaemonDown]:
    """The daemons of which systemd knows that they can't answer, with the error of asking them.

    A call to a socket of theirs would wait until the next start; where a daemon failed for good it would start it anew.
    """
    seen = units.look([f"dux-{name}" for name in names]) if units.of_this_machine(run_dir) else {}
    found = {}
    for name in names:
        unit = seen.get(f"dux-{name}")
        if unit is not None and (unit.trying or unit.active == "failed"):
            found[name] = DaemonDown(
                f"dux-{name} can't run: systemd says {unit.text}",
                hint=_TRYING.format(f"dux-{name}") if unit.trying else _MENDED,
                details={"cause": "trying" if unit.trying else "failed"},
            )
    return found


def first_boot(boot: units.Unit | None) -> list[str]:
    """What to do about a first boot that has not done its work; nothing when it has."""
    if boot is not None and boot.active == "failed":
        said = f": {boot.said}" if boot.said else ""
        return [
            f"The first boot failed{said}. Nothing starts before it has done its work.",
            f"See why: journalctl -u {units.FIRST_BOOT} -b",
            f"Then start it again: systemctl restart {units.FIRST_BOOT} && systemctl start dux.target",
        ]
    if boot is not None and boot.active == "activating":
        return ["The first boot is still making keys and settings; look again in a moment."]
    return []


def what_to_do(down: dict[str, dict[str, Any]], run_dir: Path) -> list[str]:
    """Lines below a status screen: daemon → the error of asking it, for those that gave no answer."""
    if not down:
        return []
    names = [f"dux-{name}" for name in down]
    seen = units.look([*names, units.FIRST_BOOT]) if units.of_this_machine(run_dir) else {}
    if lines := first_boot(seen.get(units.FIRST_BOOT)):
        return lines
    lines = [f"{name}: systemd says {seen[name].text}" for name in names if name in seen]
    hang = [f"dux-{name}" for name in down if cause(down[name]) == "silent"]
    missing = [name for name in names if name in seen and not seen[name].installed]
    rest = [name for name in names if name not in hang and name not in missing]
    if missing:
        lines.append(f"Install what is missing: apt install {' '.join(missing)}")
    if any(seen[name].active == "failed" for name in names if name in seen):
        lines.append(_MENDED)
    elif rest and all(name in seen and seen[name].active == "activating" for name in rest):
        lines.append(_TRYING.format(" ".join(rest)))
    elif rest:
        one_by_one = len(rest) == 1 or not seen
        lines.append(f"Start what is down: systemctl start {' '.join(rest) if one_by_one else 'dux.target'}")
    if hang:
        lines.append(f"Restart what hangs: systemctl restart {' '.join(hang)}")
    units_text = " ".join(f"-u {name}" for name in names)
    return [*lines, f"See why: journalctl -b {units_text}"]
