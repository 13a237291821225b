"""`dux-devnet`: a whole private network on this machine, for trying out and for tests."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from duxcommon.errors import DaemonDown, DuxError, NotFound
from duxcommon.money import format_flop, parse_flop

from .layout import Layout, lay_out, node_names
from .network import Devnet, wait_until

EXAMPLES = """\
examples:
  dux-devnet up                  three nodes: alice sells, bob buys, carol arbitrates
  export DUXNET_RUN_DIR=$(dux-devnet path bob); dux-ctl status
  dux-devnet down
"""


CONFIRMED_S = 15.0


def default_folder() -> Path:
    """$DUX_DEVNET_DIR, else a short path (sockets need one) of this user's own."""
    return Path(os.environ.get("DUX_DEVNET_DIR") or f"/tmp/dux-devnet-{os.getuid()}")


def build_parser() -> argparse.ArgumentParser:
    """What can be written on the command line."""
    parser = argparse.ArgumentParser(
        prog="dux-devnet", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=default_folder(),
        help="its folder (default: $DUX_DEVNET_DIR or %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="make and start a devnet")
    up.add_argument("--nodes", type=int, default=3, choices=range(3, 31), metavar="3..30")
    up.add_argument("--foreground", action="store_true", help="stay until Ctrl-C, then remove everything")
    status = commands.add_parser("status", help="show what runs")
    status.add_argument("--json", action="store_true")
    down = commands.add_parser("down", help="stop everything and remove the folder")
    down.add_argument("--keep", action="store_true", help="leave the folder with logs and databases")
    path = commands.add_parser("path", help="print a node's socket folder, for DUXNET_RUN_DIR")
    path.add_argument("node")
    faucet = commands.add_parser("faucet", help="give a node coins of the trial chain (they have no value)")
    faucet.add_argument("node")
    faucet.add_argument("amount", type=parse_flop, metavar="FLOP")
    mine = commands.add_parser("mine", help="add blocks to the trial chain")
    mine.add_argument("blocks", type=int)
    demo = commands.add_parser("demo", help="the first paid call, from publishing to the settled payment")
    demo.add_argument("--image", type=Path, help="your own picture (PNG, JPEG or WebP)")
    demo.add_argument("--output", type=Path, help="where the larger picture goes (default: beside you, upscaled.png)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    args = build_parser().parse_args(argv)
    # A terminal that closes must clean up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        if args.command == "demo":
            from .demo import run_demo

            return run_demo(args.image, args.output)
        return COMMANDS[args.command](args)
    except DuxError as error:
        print(f"dux-devnet: {error.message}\n  {error.hint}", file=sys.stderr)
        return 4 if error.retry else 1
    except KeyboardInterrupt:
        print("\ndux-devnet: interrupted; everything was stopped and removed", file=sys.stderr)
        return 130


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
    layout = lay_out(args.dir, node_names(args.nodes))
    devnet = Devnet(layout)
    say = Say()
    try:
        devnet.launch(detached=True)
        start_all(devnet, say)
    except BaseException:
        devnet.down(remove=True)
        raise
    say("ready")
    print(f"\nPrivate trial network in {args.dir}; its coins have no value.")
    for node in layout.nodes:
        print(f"  {node:<8} export DUXNET_RUN_DIR={layout.run_dir(node)}")
    print("Stop and remove it with `dux-devnet down`.")
    if args.foreground:
        try:
            signal.pause()
        finally:
            devnet.down()
    return 0


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
    layout = Layout.load(args.dir)
    try:
        Devnet(layout).down(remove=not args.keep)
    except DaemonDown:
        # The supervisor is gone already; what it left is only files.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(args.dir)
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


def _mine(args: argparse.Namespace) -> int:
    devnet = Devnet(Layout.load(args.dir))
    devnet.mine(args.blocks)
    print(f"the chain is at block {devnet.chain('getblockcount')}")
    return 0


COMMANDS = {"up": _up, "status": _status, "down": _down, "path": _path, "faucet": _faucet, "mine": _mine}


if __name__ == "__main__":
    sys.exit(main())
