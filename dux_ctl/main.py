# PYTHON_ARGCOMPLETE_OK
"""`dux-ctl`: every declared method as a subcommand, and verbs of its own over several daemons."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from duxcommon import __version__
from duxcommon.errors import DuxError, InvalidParams, VersionMismatch

from . import catalogue, exits, generated, helptexts
from .control import DAEMONS, Control, default_run_dir
from .helptexts import NAMESPACES, OWN

Verb = Callable[[argparse.Namespace, Control], int]

OWN_VERBS = {
    "app": "apps",
    "network": "networks",
    "task": "tasks",
    "airdrop": "airdrops",
    "param": "params",
    "proposal": "proposals",
}
"""Namespaces with verbs that take more than a call → the module that adds them."""


class _Parser(argparse.ArgumentParser):
    as_json = False
    """Whether what is wrong with the command line is told as JSON; set before parsing."""

    def error(self, message: str) -> NoReturn:
        hint = f"Try `{self.prog} --help`."
        if _Parser.as_json:
            print(json.dumps({"error": InvalidParams(message, hint=hint).to_rpc()}, indent=2, ensure_ascii=False))
            self.exit(exits.USAGE)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n{hint}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        import difflib

        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, 1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(choices)}"
        what = action.metavar.lower() if isinstance(action.metavar, str) else action.dest
        raise argparse.ArgumentError(None, f"unknown {what} {value!r}; {known}")


def _common(parser: argparse.ArgumentParser, top: bool) -> None:
    absent = argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=False if top else absent, help="print JSON")
    parser.add_argument(
        "--run-dir", type=Path, default=default_run_dir() if top else absent, metavar="DIR",
        help="where the daemons' sockets are (default: $DUXNET_RUN_DIR or /run/duxnet)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=60.0 if top else absent, metavar="S", help="longest wait for an answer"
    )


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 100)


def _examples(commands: Sequence[str]) -> str:
    if len(commands) == 1:
        return f"example: {commands[0]}"
    return "\n".join(["examples:", *(f"  {command}" for command in commands)])


def _first_example(space: str, method: str) -> str:
    return generated.example(space, method.split(".")[1].replace("_", "-"), catalogue.load()["methods"][method])


def _add_own(name: str, parser: argparse.ArgumentParser) -> None:
    if name == "status":
        from .status import run as status

        parser.set_defaults(run=status)
    elif name == "why":
        from .why import run as why

        parser.add_argument(
            "what",
            metavar="WHAT",
            help="an id, the name of an app, a node or a daemon (also devchain, firstboot), a payout key, an error's "
            "name or code, or airdrop",
        )
        parser.set_defaults(run=why)
    elif name == "audit":
        from .audit import run as audit

        parser.set_defaults(run=audit)
    elif name == "demo":
        from . import demo

        demo.register(parser)
    elif name == "setup":
        from . import setup

        for sub in setup.register(parser):
            _common(sub, top=False)
    else:
        from .completion import run as completion

        parser.add_argument("shell", choices=("bash", "zsh"))
        parser.set_defaults(run=completion)


def _add_namespace(name: str, methods: list[str], parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    own: set[str] = set()
    if name in OWN_VERBS:
        own = importlib.import_module(f".{OWN_VERBS[name]}", __package__).register(verbs)
    elif name == "provider":
        resume = verbs.add_parser(
            "resume",
            help="take tasks again after a pause",
            description="Take tasks of other nodes again after `provider pause`.",
            epilog="example: dux-ctl provider resume",
        )
        resume.set_defaults(run=_call, method="provider.pause", paused=False)
        own = {"resume"}
    elif name == "daemon":
        own = {"status"}
        one = verbs.add_parser(
            "status",
            help="tell whether one daemon is well",
            description="Tell whether one daemon is well.",
            epilog="example: dux-ctl daemon status flopd",
        )
        one.add_argument("daemon", choices=DAEMONS)
        one.set_defaults(run=_daemon_status)
    for full in methods:
        verb = full.split(".")[1].replace("_", "-")
        if verb in own or name == "rpc":
            continue
        entry = catalogue.load()["methods"][full]
        sub = verbs.add_parser(
            verb,
            help=entry["summary"],
            description="\n\n".join(
                filter(None, (entry["summary"], entry["description"], helptexts.BY_ACCESS[entry["access"]]))
            ),
            epilog=f"example: {generated.example(name, verb, entry)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        generated.add_method(sub, entry)
        sub.set_defaults(run=_call, method=full)
    if name == "rpc":
        sub = verbs.add_parser(
            "discover",
            help="print the OpenRPC document of a daemon",
            description="Print the OpenRPC document of a daemon: its methods with their schemas.",
            epilog="example: dux-ctl rpc discover flopd",
        )
        sub.add_argument("daemon", choices=DAEMONS)
        sub.set_defaults(run=_discover)
    for sub in verbs.choices.values():
        _common(sub, top=False)


def _call(args: argparse.Namespace, control: Control) -> int:
    from . import ids

    entry = catalogue.load()["methods"][args.method]
    params = ids.complete(args.method, generated.arguments(args.method, entry, args), control)
    waits = float(params.get("wait_s") or params.get("timeout_s") or 0)
    control.emit_reply(args.method, control.call(args.method, params, timeout=control.timeout + waits))
    return exits.OK


def _daemon_status(args: argparse.Namespace, control: Control) -> int:
    value = control.client(args.daemon).call("daemon.status", timeout=control.timeout)
    control.emit_reply("daemon.status", value)
    return exits.OK


def _discover(args: argparse.Namespace, control: Control) -> int:
    print(json.dumps(control.client(args.daemon).call("rpc.discover", timeout=control.timeout), indent=2))
    return exits.OK


def build_parser(wanted: str | None) -> argparse.ArgumentParser:
    """The parser; only the subcommand `wanted` is filled in (None: all), so that start-up stays short."""
    parser = _Parser(
        prog="dux-ctl",
        description=_wrapped(
            "Talk to the daemons of this Dux OS node. Members of the group duxnet may look, those of dux-spend may "
            "spend as well, root may do everything; `dux-ctl COMMAND --help` says what a command needs."
        ),
        epilog=helptexts.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(parser, top=True)
    parser.add_argument("--version", action="version", version=f"dux-ctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, text in OWN.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=_wrapped(f"{text[0].upper()}{text[1:]}. {helptexts.OWN_NEEDS[name]}"),
            epilog=_examples(helptexts.OWN_EXAMPLES[name]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if wanted in (None, name):
            _add_own(name, sub)
            _common(sub, top=False)
    for name, methods in sorted(catalogue.namespaces().items()):
        text, need = NAMESPACES[name], helptexts.NAMESPACE_NEEDS.get(name, helptexts.NAMESPACE_NEED)
        sub = commands.add_parser(
            name,
            help=text,
            description=_wrapped(f"{text[0].upper()}{text[1:]}. {need}"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if wanted in (None, name):
            sub.epilog = _examples(helptexts.NAMESPACE_EXAMPLES.get(name) or [_first_example(name, methods[0])])
            _add_namespace(name, methods, sub)
    return parser


def _wanted(argv: Sequence[str]) -> str:
    known = {*OWN, *catalogue.namespaces()}
    return next((word for word in argv if word in known), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status (see `dux_ctl.exits`)."""
    import os

    words = list(sys.argv[1:] if argv is None else argv)
    completing = "_ARGCOMPLETE" in os.environ
    parser = build_parser(None if completing else _wanted(words))
    if completing:
        import argcomplete

        argcomplete.autocomplete(parser)
    _Parser.as_json = "--json" in words
    args = parser.parse_args(words)
    control = Control(args.run_dir, args.json, args.timeout)
    try:
        run: Verb = args.run
        return run(args, control)
    except DuxError as error:
        control.fail({"error": error.to_rpc()}, "dux-ctl", error)
        return exits.status_of(error)
    except (LookupError, TypeError, AttributeError, ValueError):
        # A reply of another form than was expected; between equal versions it is a fault of ours, and shown as one.
        if not (different := control.different_versions()):
            raise
        mismatch = VersionMismatch(f"this command does not understand what it was answered: {'; '.join(different)}")
        control.fail({"error": mismatch.to_rpc()}, "dux-ctl", mismatch)
        return exits.status_of(mismatch)
    except KeyboardInterrupt:
        goes_on = "; what was ordered goes on, see `dux-ctl task list`" if args.command == "task" else ""
        print(f"\ndux-ctl: interrupted{goes_on}", file=sys.stderr)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # `dux-ctl … | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    finally:
        control.close()


if __name__ == "__main__":
    sys.exit(main())
