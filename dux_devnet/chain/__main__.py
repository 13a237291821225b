"""`dux-devchain`: start the chain, write where it listens, serve until SIGTERM."""

import argparse
import asyncio
import logging
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from duxcommon import __version__, sdnotify
from duxcommon.db import translate
from duxcommon.errors import DuxError

from . import faucet
from .pace import Pace
from .registry import DIALECTS, Dialect
from .running import only_one, running

log = logging.getLogger("devchain")

_EXAMPLE = """example:
  dux-devchain --datadir /tmp/chain --auto-mine 10 &
  curl --user "$(cat /tmp/chain/.cookie)" --data '{"method": "getblockcount"}' \\
       "http://127.0.0.1:$(python3 -c 'import json; print(json.load(open("/tmp/chain/rpc.json"))["port"])')/"

  dux-devchain --config /etc/duxnet/devchain.yaml --check

The coins of this chain have no value."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="dux-devchain",
        description="A private chain in one process that answers as Flopcoin Core does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path, metavar="FILE", help="run as a service with this configuration")
    which.add_argument("--datadir", type=Path, help="where blocks and wallets are kept; nothing is configured")
    made.add_argument("--check", action="store_true", help="with --config: check the configuration and end")
    made.add_argument("--bind", choices=("127.0.0.1",), default="127.0.0.1", help="address to listen on (loopback)")
    made.add_argument("--port", type=int, default=0, help="0 picks a free one; DATADIR/rpc.json tells which")
    made.add_argument(
        "--dialect", choices=DIALECTS, default="flopcoin", help="form of the RPC calls (default flopcoin)"
    )
    made.add_argument(
        "--auto-mine",
        type=float,
        default=None,
        metavar="SECONDS",
        help="make a block as soon as transactions wait, and at the latest every so many seconds (default: never)",
    )
    made.add_argument("--version", action="version", version=__version__)
    return made


async def serve(datadir: Path, host: str, port: int, dialect: Dialect, auto_mine: float | None) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(datadir, host, port, dialect) as server:
        pace = Pace(
            server.node,
            server.mempool_grew,
            busy_s=auto_mine or 0,
            idle_s=auto_mine or 0,
            script=faucet.miner_script,
        )
        miner = None if auto_mine is None else asyncio.create_task(pace.run())
        await asyncio.to_thread(sdnotify.notify, "READY=1")
        await stop.wait()
        await asyncio.to_thread(sdnotify.notify, "STOPPING=1")
        if miner is not None:
            miner.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    command = parser()
    options = command.parse_args(argv)
    if options.config is not None:
        from . import service

        if options.auto_mine is not None or options.port or options.dialect != "flopcoin":
            command.error("--port, --dialect and --auto-mine go with --datadir; with --config the file says it all")
        return service.main(options.config, check=options.check)
    if options.check:
        command.error("--check goes with --config")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        with only_one(options.datadir):
            asyncio.run(serve(options.datadir, options.bind, options.port, options.dialect, options.auto_mine))
    except (DuxError, OSError, sqlite3.Error) as error:
        known = translate(error)  # a port that is taken, a folder that can't be written, a broken file
        log.critical("%s%s", known, f"\n  {known.hint}" if isinstance(known, DuxError) else "")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
