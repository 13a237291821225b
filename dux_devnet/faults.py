"""What the logs of a devnet's folder say last, for people who must know why something did not come up."""

from pathlib import Path

LINES = 5
"""Of each log."""
SUPERVISOR_CHARACTERS = 2000


def tails(folder: Path) -> list[str]:
    """The last lines of each log that are more than information, below the log's name; empty when all was well."""
    found: list[str] = []
    for log in sorted(folder.glob("*/log/*.err")) + sorted(folder.glob("chain/*.err")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if '"info"' not in line][-LINES:]
        if lines:
            found += [f"--- {log.relative_to(folder)}", *lines]
    supervisor = folder / "supervisor.log"
    text = supervisor.read_text(errors="replace").strip() if supervisor.exists() else ""
    return [*found, "--- supervisor", text[-SUPERVISOR_CHARACTERS:]] if text else found
