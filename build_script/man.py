"""The man pages, from what the programs' own parsers accept: a command that is printed here can be typed."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

from dux_airdropd.daemon import AirdropDaemon
from dux_ctl import catalogue, exits
from dux_ctl.helptexts import OWN
from dux_ctl.main import build_parser
from dux_devnet.chain.__main__ import parser as chain_parser
from dux_devnet.main import build_parser as devnet_parser
from dux_escrowd.daemon import EscrowDaemon
from dux_flopd import terminal
from dux_flopd.daemon import FlopDaemon
from dux_registryd.__main__ import Registryd
from dux_taskd.__main__ import TaskDaemon
from dux_taskd.sandbox.__main__ import SandboxDaemon
from duxcommon.daemon import Daemon, run
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
    return [*lines, ".br", _plain(example[:1].upper() + example[1:])] if example else lines


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


DAEMONS: tuple[type[Daemon], ...] = (
    FlopDaemon,
    EscrowDaemon,
    TaskDaemon,
    SandboxDaemon,
    Registryd,
    AirdropDaemon,
)


class _Parsed(Exception):
    """Carries a parser out of the main function that makes it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(main: Callable[[Sequence[str]], object]) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: object) -> argparse.Namespace:
        raise _Parsed(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Parsed as found:
            return found.parser
    raise AssertionError("no parser was used")


def _summary(parser: argparse.ArgumentParser) -> str:
    text = " ".join((parser.description or "").replace("`", "").split())
    return text.split(": ", 1)[-1] if text.startswith(parser.prog) else text


def _options(parser: argparse.ArgumentParser) -> list[str]:
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        text = action.help or ""
        if action.option_strings == ["--config"]:
            text = text or "the settings"
        if "default" not in text and action.default not in (None, False, argparse.SUPPRESS):
            text += f" (default: {action.default})"
        lines += [".TP", f".B {_plain(_word(action).strip('[]'))}", _plain(text % {"default": action.default})]
    return lines


def _page(section: int, parser: argparse.ArgumentParser, inner: list[argparse.ArgumentParser], tail: list[str]) -> str:
    name = parser.prog.upper()
    summary = _summary(parser).rstrip(".")
    lines = [f'.TH {_plain(name)} {section} "" "Dux OS" "Dux OS"', ".SH NAME"]
    lines += [_plain(f"{parser.prog} - {summary[:1].lower() + summary[1:]}"), ".SH SYNOPSIS", _plain(_usage(parser))]
    lines += [".SH OPTIONS", *_options(parser)]
    if inner:
        lines.append(".SH COMMANDS")
        for command in inner:
            lines += _entry(command)
    return "\n".join([*lines, *tail]) + "\n"


def _files(daemon: str) -> list[str]:
    named = {
        f"/etc/duxnet/{daemon}.yaml": "settings, each with its unit and its default",
        f"/etc/duxnet/{daemon}.d/*.yaml": "settings that override those, in the order of their names",
        f"/run/duxnet/{daemon}.sock": "the socket: JSON-RPC for members of the group duxnet",
        f"/var/lib/duxnet/{daemon}": "databases and keys",
        f"/var/log/duxnet/{daemon}": "the log, one JSON object a line",
    }
    lines = [".SH FILES"]
    for path, text in named.items():
        lines += [".TP", f".I {_plain(path)}", _plain(text)]
    return lines


def other_pages() -> dict[str, str]:
    """File name → page of every program but dux-ctl."""
    found = {}
    for daemon in DAEMONS:
        parser = _parser_of(lambda argv, daemon=daemon: run(daemon, argv))  # type: ignore[misc]
        inner: list[argparse.ArgumentParser] = []
        if daemon is FlopDaemon:
            inner = list(_commands(_parser_of(terminal.main)))
            for command in inner:
                command.prog = "dux-flopd keystore " + command.prog.split()[-1]
        tail = [
            ".SH EXIT STATUS", ".TP", ".B 0", "stopped as asked", ".TP", ".B 78",
            "what is set or stored does not let it run; systemd does not try again", ".TP", ".B 1", "anything else",
            *_files(daemon.name), ".SH SEE ALSO", f"dux\\-ctl(1), systemctl status dux\\-{daemon.name}.service",
        ]  # fmt: skip
        found[f"{parser.prog}.8"] = _page(8, parser, inner, tail)
    for parser in (devnet_parser(), chain_parser()):
        inner = [one for one in _commands(parser) if one is not parser]
        found[f"{parser.prog}.1"] = _page(1, parser, inner, [".SH SEE ALSO", "dux\\-ctl(1)"])
    return found
