"""`dux-flopd keystore …`: making a keystore and showing its words at a terminal; making it unattended at first boot."""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duxcommon import credential
from duxcommon.config import load
from duxcommon.errors import DuxError, InvalidParams

from .keystore import ARBITER_PATH, GUARDIAN_PATH, MIN_LOG_N, SCRYPT_LOG_N, Keystore, read_passphrase
from .settings import FlopdSettings

RANDOM_PASSPHRASE = 43
"""Characters of 256 random bits in base 64, as first boot draws them."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_CARE = """Write these words down on paper, in this order, and keep the paper where nobody finds it.
Whoever has them has what this node earns and its channels; without them, a broken disk takes those along.
Coins that you receive, and change, lie under keys of Core's own wallet: back that up as well.
"""


def keystore_path(settings: FlopdSettings) -> Path:
    """Where the configuration says the keystore is."""
    return settings.keystore or settings.state_dir / "keystore.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dux-flopd keystore",
        description="Make or read the keystore.",
        epilog="example: sudo dux-flopd keystore words",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("create", "make a new keystore"),
        ("words", "show the recovery words"),
        ("public", "print the public keys as JSON; the passphrase is the first line of standard input"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("--config", type=Path, default=Path("/etc/duxnet/flopd.yaml"), metavar="FILE")
        if name == "create":
            command.add_argument("--restore", action="store_true", help="from recovery words that you type in")
            command.add_argument(
                "--unattended",
                action="store_true",
                help="new words that are not shown; the passphrase is the first line of standard input, and the public "
                "keys are printed as JSON",
            )
    return parser


def main(argv: Sequence[str]) -> int:
    """`keystore create [--restore | --unattended] | words | public`; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    unattended = args.command == "public" or (args.command == "create" and args.unattended)
    if unattended and args.command == "create" and args.restore:
        parser.error("recovery words are typed at a terminal: --restore and --unattended exclude each other")
    if not unattended and not _at_terminal():
        print(
            "Recovery words are shown and typed at a terminal only, never through a pipe.\n"
            f"  Run it at one: `sudo dux-flopd keystore {args.command}` (over ssh: `ssh -t`).",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        settings = load(FlopdSettings, args.config)
        if unattended:
            _unattended(settings, create=args.command == "create")
        elif args.command == "create":
            _create(settings, restore=args.restore)
        else:
            keystore = Keystore.open(keystore_path(settings))
            keystore.unlock(_passphrase_of_machine() or getpass.getpass("Passphrase: "))
            _show(keystore)
    except (DuxError, OSError) as error:
        if unattended:
            print(json.dumps(_fault(error)))
        print(str(error), file=sys.stderr)
        if isinstance(error, DuxError):
            print(f"  {error.hint}", file=sys.stderr)
        return EXIT_FAILED
    except EOFError:
        # Everything is asked for before anything is done.
        print("\nNothing was typed, so nothing was made or shown.\n  Run it again and type it.", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _at_terminal() -> bool:
    # Python has no stream for what was closed.
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _unattended(settings: FlopdSettings, *, create: bool) -> None:
    """For programs: never asks, never shows anything secret."""
    line = sys.stdin.buffer.readline(4096) if sys.stdin is not None else b""
    passphrase = line.decode("utf-8", "replace").rstrip("\n")
    if not passphrase:
        raise InvalidParams("no passphrase was given", hint="It is the first line of standard input.")
    path = keystore_path(settings)
    if create:
        # Nobody guesses so many random characters, however quick a guess is; what people think of is stretched.
        log_n = MIN_LOG_N if len(passphrase) >= RANDOM_PASSPHRASE else SCRYPT_LOG_N
        keystore = Keystore.create(path, passphrase, log_n=log_n)
    else:
        keystore = Keystore.open(path)
        keystore.unlock(passphrase)
    keys = {
        "payout": keystore.payout_pubkey.hex(),
        "guardian": keystore.key(GUARDIAN_PATH).pubkey.hex(),
        "arbiter": keystore.key(ARBITER_PATH).pubkey.hex(),
    }
    print(json.dumps(keys))


def _fault(error: DuxError | OSError) -> dict[str, Any]:
    """The error as a program reads it."""
    if isinstance(error, DuxError):
        return {"error": error.name, "message": error.message, "hint": error.hint}
    return {"errno": error.errno, "file": str(error.filename or "")}


def _passphrase_of_machine() -> str | None:
    """The passphrase that first boot made, if root wants it; nobody ever saw that one."""
    if os.geteuid() != 0 or not credential.WALLET.exists():
        return None
    if input("Use the passphrase that this machine keeps for dux-flopd? [Y/n] ").strip().lower() not in (
        "",
        "y",
        "yes",
    ):
        return None
    return credential.read()


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
