"""What `dux-ctl demo` prints at its end."""

from collections.abc import Sequence
from typing import Any

from duxcommon.money import format_flop

from . import screens
from .account import Row, table


def call_value(*, rows: Sequence[Row], **facts: Any) -> dict[str, Any]:
    """One paid call as `--json` prints it; amounts in koinu."""
    return facts | {"account": [{"party": row.name, "chain": row.chain, "books": row.books} for row in rows]}


def text(found: dict[str, Any]) -> str:
    """Both calls for people: where each ran, its result, and who gained what."""
    parts = [_call(call) for call in found["calls"]]
    audits = ", ".join(f"{name} {difference}" for name, difference in found["audit"].items())
    parts.append(f"audit: difference of {audits} koinu\ndifference {found['difference']} koinu in all")
    if found["remains"]:
        parts.append("\n".join(["what remains of this demonstration:", *found["remains"]]))
    else:
        parts.append(f"nothing of it is left; it took {found['seconds']:.1f} s")
    return "\n\n".join([*parts, screens.network_line(found["network"])])


def _call(call: dict[str, Any]) -> str:
    sandbox = call["sandbox"]
    why = f" ({sandbox['reason']})" if sandbox["reason"] else ""
    rows = [Row(row["party"], row["chain"], row["books"]) for row in call["account"]]
    return "\n".join(
        [
            f"{call['buyer']} paid {call['provider']} {format_flop(call['price'])} FLOP for task {call['task']}",
            f"  sandbox of {call['provider']}: {sandbox['state']}{why}",
            f"  result: {' '.join(call['result'].split())}",
            *(f"  {line}" for line in table(rows).splitlines()),
        ]
    )
