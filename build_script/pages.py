"""Writes docs/states.md from the tables of states in the code, and docs/settings.md from the settings models."""

import inspect
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from build_script.configs import bounds, helps, plain
from dux_escrowd.channel import CHANNEL, PAYMENT
from dux_flopd.intents import MACHINE
from dux_governance.tally import MACHINE as PROPOSAL
from dux_taskd.runs import TABLE as RUN
from dux_taskd.tasks import TABLE as TASK
from duxcommon.config import Settings

Table = Mapping[Any, Mapping[Any, str]]
"""State → event → next state."""

STATES_HEAD = """\
# States

Drawn by `build_script/generate.py` from the tables in which the daemons look states up. A step that is not drawn can't
happen."""

SETTINGS_HEAD = """\
# Settings

Made by `build_script/generate.py` from the settings models. Each daemon reads `/etc/duxnet/NAME.yaml` and then
`/etc/duxnet/NAME.d/*.yaml`, whose keys replace single keys, section by section; `core.url` below is `url` in the
section `core`. Unknown and duplicate keys are refused with file and line. `--check` beside `--config FILE` checks a
file and ends. Amounts are koinu: 1 FLOP is 100,000,000. `etc-duxnet/` has a file for each daemon with every key and its
default.

SIGHUP (`systemctl reload dux-NAME`) takes a changed file; a bad one is refused with a line in the log, and the old
settings stay. `run_dir`, `state_dir` and `network` can't change while a daemon runs.
"""


def _intents() -> Table:
    table: dict[str, dict[str, str]] = {}
    for (state, event), after in MACHINE.items():
        table.setdefault(state, {})[event] = after
        table.setdefault(after, {})
    return table


MACHINES: Sequence[tuple[str, str, str, Table, Sequence[str]]] = (
    (
        "A channel",
        "`dux_escrowd/channel.py`, `CHANNEL`",
        "The buyer's begins as NEW, the provider's as FUND_SENT, when it is told of the contract. `…-built`: committed "
        "here and not sent; `…-seen`: found on the chain; `…-lost` and `fund-moved`: a reorg or a conflict took it "
        "away. CLOSED, REFUNDED and CONFLICTED are followed for 200 blocks more.",
        CHANNEL,
        ("NEW", "FUND_SENT"),
    ),
    (
        "A payment",
        "`dux_escrowd/channel.py`, `PAYMENT`",
        "HELD by a hold without a task; ORDERED at once by a hold for a task, and at the provider.",
        PAYMENT,
        ("HELD", "ORDERED"),
    ),
    (
        "A task of a buyer",
        "`dux_taskd/tasks.py`, `TABLE`",
        "`again` is another attempt, with the money of the one before given back; `unpaid` a result whose channel is "
        "gone.",
        TASK,
        ("QUEUED",),
    ),
    ("An order at the provider", "`dux_taskd/runs.py`, `TABLE`", "", RUN, ("queued",)),
    (
        "A transaction of this node",
        "`dux_flopd/intents.py`, `MACHINE`",
        "Committed as `built` when it waits for `tx.broadcast`, as `sent` when it is sent right after the commit. "
        "`undo`: a reorg took away the block that had decided.",
        _intents(),
        ("built", "sent"),
    ),
    (
        "A proposal",
        "`dux_governance/tally.py`, `MACHINE`",
        "SENT only at the node that made it. All others follow from the chain alone: `proposer-unfit` is known 60 "
        "blocks after the proposal confirmed; the votes are counted 60 blocks after the deadline.",
        PROPOSAL,
        ("SENT",),
    ),
)


def diagram(table: Table, starts: Sequence[str]) -> list[str]:
    """A table of states as Mermaid's stateDiagram-v2; events that lead to the same state share one arrow."""
    lines = ["stateDiagram-v2", *(f"    [*] --> {start}" for start in starts)]
    for state, events in table.items():
        arrows: dict[str, list[str]] = {}
        for event, after in events.items():
            arrows.setdefault(after, []).append(event)
        lines += [f"    {state} --> {after}: {', '.join(names)}" for after, names in arrows.items()]
        if not events:
            lines.append(f"    {state} --> [*]")
    return lines


def states() -> str:
    """The page docs/states.md."""
    lines = [STATES_HEAD]
    for title, source, text, table, starts in MACHINES:
        words = textwrap.wrap(f"{source}. {text}", 118)
        lines += ["", f"## {title}", "", *words, "", "```mermaid", *diagram(table, starts), "```"]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], default: Any, prefix: str, leave: frozenset[str]) -> list[str]:
    rows: list[str] = []
    texts = helps(model)
    for name, field in model.model_fields.items():
        if name in leave:
            continue
        kind = field.annotation
        given = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        known = None if given is PydanticUndefined else given
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows.append(f"| `{prefix}{name}` | | {texts.get(name) or inspect.getdoc(kind) or ''} |")
            rows += _rows(kind, known, f"{prefix}{name}.", frozenset())
            continue
        shown = "must be set" if given is PydanticUndefined else f"`{json.dumps(plain(given))}`"
        meaning = f"{texts.get(name, '')} {bounds(field.metadata)}".strip().replace("\n", " ")
        rows.append(f"| `{prefix}{name}` | {shown} | {meaning} |")
    return rows


def settings(models: Mapping[str, type[BaseModel]]) -> str:
    """The page docs/settings.md."""
    head = ["", "| key | default | meaning |", "|---|---|---|"]
    lines = [
        SETTINGS_HEAD,
        "## Every daemon",
        *head,
        *_rows(Settings, None, "", frozenset()),
    ]
    common = frozenset(Settings.model_fields)
    for name, model in models.items():
        own = frozenset(helps(model)) if model is not Settings else frozenset()
        changed = frozenset(
            key
            for key in common & own
            if model.model_fields[key].get_default() != Settings.model_fields[key].get_default()
        )
        # The trial chain is no daemon of a node: it has few of the keys that all of those have.
        rows = _rows(model, None, "", common - changed if issubclass(model, Settings) else frozenset())
        lines += ["", f"## dux-{name}", *(head + rows if rows else ["", "No keys of its own."])]
    return "\n".join(lines) + "\n"
