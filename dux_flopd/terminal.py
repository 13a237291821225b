"""`python3 -m dux_flopd keystore …`: making a keystore and showing its words, at a terminal and nowhere else."""

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from duxcommon.config import load
from duxcommon.errors import DuxError

from .keystore import Keystore, read_passphrase
from .settings import FlopdSettings

EXIT_FAILED = 1
EXIT_USAGE = 2

_CARE = """Write these words down on paper, in this order, and keep the paper where nobody finds it.
Whoever has them has what this node earns and its channels; without them, a broken disk takes those along.
Coins that you receive, and change, lie under keys of Core's own wallet: back that up as well.
"""


def keystore_path(settings: FlopdSettings) -> Path:
    """Where the configuration says the keystore is."""
    return settings.keystore or settings.state_dir / "keystore.json"


def main(argv: Sequence[str]) -> int:
    """`keystore create [--restore] | words`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m dux_flopd keystore", description="Make or read the keystore.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("create", "make a new keystore"), ("words", "show the recovery words")):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("--config", type=Path, default=Path("/etc/duxnet/flopd.yaml"), metavar="FILE")
        if name == "create":
            command.add_argument("--restore", action="store_true", help="from recovery words that you type in")
    args = parser.parse_args(argv)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("Recovery words are shown and typed at a terminal only, never through a pipe.", file=sys.stderr)
        return EXIT_USAGE
    try:
        settings = load(FlopdSettings, args.config)
        if args.command == "create":
            _create(settings, restore=args.restore)
        else:
            keystore = Keystore.open(keystore_path(settings))
            keystore.unlock(getpass.getpass("Passphrase: "))
            _show(keystore)
    except (DuxError, OSError) as error:
        print(str(error), file=sys.stderr)
        if isinstance(error, DuxError):
            print(f"  {error.hint}", file=sys.stderr)
        return EXIT_FAILED
    except (KeyboardInterrupt, EOFError):
        return EXIT_FAILED
    return 0


def _create(settings: FlopdSettings, *, restore: bool) -> None:
    path = keystore_path(settings)
    words = getpass.getpass("Recovery words (not shown): ") if restore else None
    if settings.passphrase_file is not None:
        passphrase = read_passphrase(settings.passphrase_file)
    else:
        passphrase = getpass.getpass("New passphrase: ")
        if getpass.getpass("The same again: ") != passphrase:
            raise SystemExit("The two differ; nothing was made.")
    keystore = Keystore.create(path, passphrase, words)
    print(f"Made {path}.")
    if not restore:
        _show(keystore)


def _show(keystore: Keystore) -> None:
    print(_CARE)
    words = keystore.words.split()
    for start in range(0, len(words), 4):
        print("   ".join(f"{number:2}. {word:<9}" for number, word in enumerate(words[start : start + 4], start + 1)))
