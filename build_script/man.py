"""The man page, from what dux-ctl's own parser accepts: a command that is printed here can be typed."""

import argparse
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from dux_ctl import catalogue, exits
from dux_ctl.main import OWN, build_parser
from duxcommon.errors import BY_CODE

EVERYWHERE = ("-h", "--json", "--run-dir", "--timeout")
"""Options of every command: the synopsis has them once."""


def _plain(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.splitlines())


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Parsers without further subcommands, in the order of the help."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser
    for action in inner:
        for sub in action.choices.values():
            yield from _commands(sub)


def _word(action: argparse.Action) -> str:
    if not action.option_strings:
        name = action.metavar if isinstance(action.metavar, str) else action.dest
        name = "|".join(map(str, action.choices)) if action.choices else name.upper()
        return f"[{name}]" if action.nargs in ("?", "*") else name
    text = action.option_strings[-1] if len(action.option_strings) == 1 else "|".join(action.option_strings)
    if action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
        text += f" {action.metavar if isinstance(action.metavar, str) else action.dest.upper()}"
    return text if action.required else f"[{text}]"


def _usage(parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if not set(EVERYWHERE) & set(action.option_strings)]
    placed = [action for action in actions if not action.option_strings]
    return " ".join([parser.prog, *map(_word, placed), *(_word(one) for one in actions if one.option_strings)])


def _entry(parser: argparse.ArgumentParser) -> list[str]:
    lines = [".TP", f".B {_plain(_usage(parser))}", _plain(parser.description or "")]
    # A line break of the help that means something stays one.
    lines[2] = lines[2].replace("\n\n", "\n.br\n").replace("\n  ", "\n.br\n\\ \\ ")
    example = (parser.epilog or "").strip()
    return [*lines, ".br", _plain(example[:1].upper() + example[1:])]


def man_page(found: dict[str, Any]) -> str:
    """dux-ctl(1) in roff: one entry a command, the exit statuses, the errors."""
    with patch.object(catalogue, "load", lambda: found):
        commands = list(_commands(build_parser(None)))
    own = [parser for parser in commands if parser.prog.split()[-1] in OWN and len(parser.prog.split()) == 2]
    lines = [
        '.TH DUX\\-CTL 1 "" "Dux OS" "Dux OS"',
        ".SH NAME", "dux\\-ctl \\- talk to the daemons of a Dux OS node",
        ".SH SYNOPSIS", "dux\\-ctl COMMAND … [\\-\\-json] [\\-\\-run\\-dir DIR] [\\-\\-timeout S]",
        ".SH COMMANDS",
    ]  # fmt: skip
    for parser in [*own, *(one for one in commands if one not in own)]:
        lines += _entry(parser)
    lines += [".SH EXIT STATUS"]
    for status, meaning in exits.MEANINGS.items():
        lines += [".TP", f".B {status}", _plain(meaning)]
    lines += [".SH ERRORS"]
    for code, error in sorted(BY_CODE.items()):
        lines += [".TP", f".B {_plain(f'{code} {error.__name__}')}", _plain(error.hint_default)]
    return "\n".join(lines) + "\n"
