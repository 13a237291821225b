"""`dux-devnet`: a whole private network on this machine, for trying out and for tests."""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from duxcommon.errors import ConfigError, DaemonDown, DuxError, InvalidParams, NotFound
from duxcommon.money import format_flop, parse_flop

from .faults import tails
from .layout import LAYOUT, QUICK, QUICK_SETTINGS, Layout, command_line, default_folder, lay_out, node_names
from .network import Devnet, wait_until

EXAMPLES = """\
examples:
  dux-devnet up                  three nodes: alice sells, bob buys, carol arbitrates
  export DUXNET_RUN_DIR=$(dux-devnet path bob); dux-ctl status
  dux-devnet down
"""


CONFIRMED_S = 15.0
READ_S = 120.0
"""Longest wait until a node has read new blocks; 20,000 at once take a while."""


class Parser(argparse.ArgumentParser):
    """Names the command to ask for help when the command line is wrong."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        self.exit(2, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")


def _amount(text: str) -> int:
    try:
        return parse_flop(text)
    except InvalidParams as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.hint}") from None


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def build_parser() -> argparse.ArgumentParser:
    """What can be written on the command line."""
    parser = Parser(
        prog="dux-devnet", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir", type=Path, default=default_folder(), help="where everything lies (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: dux-devnet {example}"
        )

    up = command("up", "make and start a devnet", "up --nodes 5")
    up.add_argument(
        "--nodes", type=_between(3, 30), default=3, metavar="N", help="how many nodes, 3 to 30 (default: 3)"
    )
    up.add_argument(
        "--quick", action="store_true", help="rules under which the fund pays, and a vote comes into force, in minutes"
    )
    up.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then remove everything")
    status = command("status", "show what runs", "status")
    status.add_argument("--json", action="store_true", help="print JSON")
    down = command("down", "stop everything and remove the folder", "down")
    down.add_argument("--keep", action="store_true", help="leave the folder with logs and databases")
    path = command("path", "print a node's socket folder, for DUXNET_RUN_DIR", "path bob")
    path.add_argument("node", help="such as alice, bob or carol")
    faucet = command("faucet", "give a node coins of the trial chain (they have no value)", "faucet bob 50")
    faucet.add_argument("node", help="such as alice, bob or carol")
    faucet.add_argument("amount", type=_amount, metavar="FLOP", help="how much")
    mine = command("mine", "add blocks to the trial chain", "mine 6")
    mine.add_argument("blocks", type=_between(1, 20_000), help="how many")
    demo = command("demo", "the first paid call, from publishing to the settled payment", "demo --image photo.jpg")
    demo.add_argument("--image", type=Path, metavar="FILE", help="your own picture (PNG, JPEG or WebP)")
    demo.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the larger picture goes (default: upscaled.png, or .jpg, .webp as the picture is)",
    )
    return parser


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal that closes must clean up like Ctrl-C does."""


def _interrupt(*_: object) -> NoReturn:
    # A second Ctrl-C must not stop the cleaning up that the first one begins.
    for kind in ENDINGS:
        signal.signal(kind, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    args = build_parser().parse_args(argv)
    for kind in ENDINGS:
        signal.signal(kind, _interrupt)
    try:
        if args.command == "demo":
            from .demo import run_demo

            return run_demo(args.image, args.output)
        return COMMANDS[args.command](args)
    except DuxError as error:
        print("\n  ".join([f"dux-devnet: {error.message}", *error.hint.splitlines()]), file=sys.stderr)
        return 4 if error.retry else 1
    except KeyboardInterrupt:
        removed = "; everything was stopped and removed" if args.command in ("up", "demo") else ""
        print(f"\ndux-devnet: interrupted{removed}", file=sys.stderr)
        return 130


def show_logs(folder: Path) -> None:
    """The last lines of what went wrong, before the folder is removed."""
    for line in tails(folder):
        print(line, file=sys.stderr)


def start_all(devnet: Devnet, say: Callable[[str], None]) -> None:
    """Start the chain, then every node, telling each step."""
    say("starting the trial chain (its coins have no value)")
    devnet.start_chain()
    devnet.mine(20)
    names = [name for node in devnet.layout.nodes for name in devnet.layout.daemons(node)]
    say(f"starting {len(devnet.layout.nodes)} nodes ({len(names)} daemons)")
    devnet.start(names)


class Say:
    """Prints progress with the time since the start."""

    def __init__(self) -> None:
        import time

        self._clock = time.monotonic
        self._start = self._clock()

    def __call__(self, text: str) -> None:
        print(f"[{self._clock() - self._start:5.1f} s] {text}", flush=True)


def _up(args: argparse.Namespace) -> int:
    if (args.dir / LAYOUT).exists():
        _refuse_second(args.dir)
    devnet: Devnet | None = None
    say = Say()
    try:
        quick = (QUICK_SETTINGS, QUICK) if args.quick else (None, None)
        devnet = Devnet(lay_out(args.dir, node_names(args.nodes), None, *quick))
        devnet.launch(detached=True)
        start_all(devnet, say)
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if isinstance(error, Exception) and devnet is not None:
            show_logs(args.dir)
        if devnet is not None:
            devnet.down(remove=True)
        elif (args.dir / LAYOUT).exists():
            # Interrupted just after it was laid out: the file was not there before, so the folder is ours.
            shutil.rmtree(args.dir, ignore_errors=True)
        raise
    layout = devnet.layout
    say("ready")
    print(f"\nPrivate trial network in {args.dir}; its coins have no value.")
    for node in layout.nodes:
        print(f"  {node:<8} export DUXNET_RUN_DIR={layout.run_dir(node)}")
    if not args.foreground:
        print(f"Stop and remove it with `{command_line(args.dir, 'down')}`.")
        return 0
    print("Ctrl-C stops and removes it.", flush=True)
    try:
        signal.pause()
    finally:
        devnet.down()
    return 0


def _refuse_second(folder: Path) -> None:
    down = command_line(folder, "down")
    try:
        Devnet(Layout.load(folder)).status()
    except DaemonDown:
        raise ConfigError(f"an old devnet lies in {folder}", hint=f"Remove it with `{down}`.") from None
    status = command_line(folder, "status")
    raise ConfigError(
        f"a devnet runs in {folder} already", hint=f"Use it (`{status}` shows it), or remove it with `{down}`."
    )


def _status(args: argparse.Namespace) -> int:
    devnet = Devnet(Layout.load(args.dir))
    processes = devnet.status()
    if args.json:
        print(json.dumps(processes, indent=2))
    else:
        for name, process in processes.items():
            state = "ready" if process["ready"] else ("starting" if process["alive"] else process["exit"])
            after = process["ready_after"]
            print(f"{name:<20} {process['pid']:>8}  {state}" + (f" after {after:.2f} s" if after else ""))
    return 0 if all(process["ready"] for process in processes.values()) else 1


def _down(args: argparse.Namespace) -> int:
    if not (args.dir / LAYOUT).exists():
        print(f"there is no devnet in {args.dir}: nothing to stop")
        return 0
    Devnet(Layout.load(args.dir)).down(remove=not args.keep)
    print(f"stopped{'' if args.keep else ' and removed'}: {args.dir}")
    return 0


def _path(args: argparse.Namespace) -> int:
    layout = Layout.load(args.dir)
    print(layout.run_dir(_known(layout, args.node)))
    return 0


def _known(layout: Layout, node: str) -> str:
    if node not in layout.nodes:
        raise NotFound(f"there is no node {node!r} here", hint=f"There are {', '.join(layout.nodes)}.")
    return node


def _faucet(args: argparse.Namespace) -> int:
    devnet = Devnet(Layout.load(args.dir))
    node = _known(devnet.layout, args.node)
    flopd = devnet.client(node, "flopd")
    before = flopd.call("wallet.balance")["confirmed"]
    address = flopd.call("wallet.receive", {"label": "faucet"})["address"]
    txid = devnet.chain("faucet", address, format_flop(args.amount))
    if devnet.layout.chain.auto_mine_s:
        # Whoever asked for coins wants to spend them in the next command.
        wait_until(lambda: flopd.call("wallet.balance")["confirmed"] > before, CONFIRMED_S, "a block with the coins")
    print(f"{format_flop(args.amount)} FLOP of no value to {node} in transaction {txid}")
    return 0


def _until_read(devnet: Devnet, node: str, height: int) -> None:
    """The next command is about what new blocks brought; a node that lags behind would refuse it."""
    flopd = devnet.client(node, "flopd")
    wait_until(lambda: flopd.call("chain.status")["height"] >= height, READ_S, f"{node} to read the new blocks")


def _mine(args: argparse.Namespace) -> int:
    devnet = Devnet(Layout.load(args.dir))
    devnet.mine(args.blocks)
    height = devnet.chain("getblockcount")
    for name, process in devnet.status().items():
        node, _, daemon = name.partition("/")
        if daemon == "flopd" and process["ready"]:
            _until_read(devnet, node, height)
    print(f"the chain is at block {height}")
    return 0


COMMANDS = {"up": _up, "status": _status, "down": _down, "path": _path, "faucet": _faucet, "mine": _mine}


if __name__ == "__main__":
    sys.exit(main())
