"""Draws replies for people, following the reply's schema: FLOP for koinu, short ids, tables for lists."""

import sys
import time
from typing import Any

from duxcommon.money import format_flop

from . import catalogue

WORTHLESS = "private trial network, coins have no value"
SHORT = 12
HIDDEN = ("hex", "record", "signatures", "sig", "script", "redeem", "spender_hex", "data", "contract", "listing")
"""Long machine-made fields; `--json` shows them."""
COLUMNS = {
    "Channel": ("id", "role", "peer", "state", "usable", "gross", "held", "blocks_left"),
    "HistoryEntry": ("time", "change", "fee", "purpose", "label", "confirmations", "txid"),
    "NodeInfo": ("node", "record.name", "record.roles", "live", "record.accepting", "record.load_pct", "latency_ms"),
    "Payment": ("id", "role", "channel", "amount", "state", "created"),
    "Task": ("id", "name", "state", "step", "price", "provider", "created"),
}
"""Kind of object → what a table shows of it; all that is short where nothing is named."""
INNER = {"NodeInfo": "record"}
"""Kind of object → a field whose own fields belong on the same page."""
PURPOSES = {
    "fund": "channel deposit",
    "close": "channel closed",
    "refund": "channel refund",
    "payout": "from the fund",
    "release": "bond came back",
}


def show(value: Any, schema: dict[str, Any]) -> str:
    """Text of a value by its schema."""
    schema = catalogue.resolve(schema)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and schema.get("unit") == "koinu":
        return f"{format_flop(value)} FLOP"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(show(item, schema.get("items", {})) for item in value) or "–"
    if isinstance(value, dict):
        return " ".join(f"{key}={show(item, _field(schema, key))}" for key, item in value.items() if key not in HIDDEN)
    return str(value)


def _field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    field: dict[str, Any] = schema.get("properties", {}).get(name, {})
    if name in ("created", "finished", "seen", "time") and catalogue.resolve(field).get("type") == "integer":
        return {"type": "string"}
    return field


def _cell(row: dict[str, Any], name: str, schema: dict[str, Any]) -> str:
    value = row.get(name)
    if name in ("created", "finished", "seen", "time") and isinstance(value, int):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    text = show(value, _field(schema, name))
    if name == "change" and isinstance(value, int) and value > 0:
        text = f"+{text}"
    if name == "purpose":
        text = PURPOSES.get(text, text)
    return text[:SHORT] + "…" if len(text) == 64 and " " not in text else text


def reply(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """A whole reply: a page as a table, anything else as lines of key and value."""
    schema = catalogue.resolve(schema)
    if inner := INNER.get(schema.get("title", "")):
        more = catalogue.resolve(_field(schema, inner))
        value = {**value, **value[inner]}
        schema = {**schema, "properties": {**schema["properties"], **more["properties"]}}
    rows = [(k, v) for k, v in value.items() if isinstance(v, list) and (not v or isinstance(v[0], dict))]
    lines = []
    for name, item in value.items():
        if (name, item) in rows or name in HIDDEN or name == "next":
            continue
        if isinstance(item, dict) and item.get("worthless") is not None and "chain" in item:
            lines.append((name, network(item)))
        else:
            lines.append((name, _cell_long(value, name, schema)))
    width = max((len(name) for name, _ in lines), default=0)
    text = "\n".join(f"{name.replace('_', ' '):<{width}}  {shown}" for name, shown in lines)
    for name, items in rows:
        item_schema = catalogue.resolve(schema.get("properties", {}).get(name, {})).get("items", {})
        text += ("\n" if text else "") + (table(items, item_schema) if items else f"no {name}")
    if value.get("next") is not None:
        text += f"\nmore: --{'skip' if isinstance(value['next'], int) else 'after'} {value['next']}"
    return text


def _cell_long(value: dict[str, Any], name: str, schema: dict[str, Any]) -> str:
    text = _cell(value, name, schema)
    return str(value[name]) if text.endswith("…") else text


def network(label: dict[str, Any]) -> str:
    """A network's name, its chain where that is known, and the warning that belongs to it."""
    name = f"{label['name']} ({label['chain']})" if label.get("chain") else str(label["name"])
    return f"{name}: {WORTHLESS}" if label["worthless"] else name


def table(rows: list[dict[str, Any]], schema: dict[str, Any]) -> str:
    """A table of objects: the columns of `COLUMNS`, else those whose values are short enough to read."""
    schema = catalogue.resolve(schema)
    plain = [name for name, item in rows[0].items() if name not in HIDDEN and not isinstance(item, dict)]
    names = COLUMNS.get(schema.get("title", ""), plain)
    cells = [[_inner(row, name, schema) for name in names] for row in rows]
    return columns([name.rpartition(".")[2].replace("_", " ") for name in names], cells)


def _inner(row: dict[str, Any], path: str, schema: dict[str, Any]) -> str:
    """The cell of a field, or of one inside another (`record.name`)."""
    outer, _, name = path.rpartition(".")
    return _cell(row[outer], name, catalogue.resolve(_field(schema, outer))) if outer else _cell(row, name, schema)


def columns(head: list[str], cells: list[list[str]]) -> str:
    """Aligned columns; drawn by rich on a terminal, as plain text elsewhere."""
    if sys.stdout.isatty():
        import io

        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*head, box=SIMPLE, pad_edge=False)
        for row in cells:
            # As plain text: `[red]` in somebody's summary is not for rich to act on.
            drawn.add_row(*map(Text, row))
        out = io.StringIO()
        Console(file=out, force_terminal=True).print(drawn)
        return out.getvalue().rstrip()
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *cells])
