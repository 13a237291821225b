"""`dux-devchain`: start the chain, write where it listens, serve until SIGTERM."""

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from duxcommon import sdnotify

from . import faucet
from .node import Node
from .registry import DIALECTS, Dialect
from .server import Server, write_private

log = logging.getLogger("devchain")

_PROMPT = 0.2  # seconds a transaction waits for others that may share its block

_EXAMPLE = """example:
  dux-devchain --datadir /tmp/chain --auto-mine 10 &
  curl --user "$(cat /tmp/chain/.cookie)" --data '{"method": "getblockcount"}' \\
       "http://127.0.0.1:$(python3 -c 'import json; print(json.load(open("/tmp/chain/rpc.json"))["port"])')/"

The coins of this chain have no value."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="dux-devchain",
        description="A private chain in one process that answers as Flopcoin Core does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--datadir", type=Path, required=True, help="where blocks and wallets are kept")
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
    return made


@contextlib.contextmanager
def only_one(datadir: Path) -> Iterator[None]:
    """Hold the folder's lock; exits when another process has it."""
    datadir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(datadir / ".lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"Cannot obtain a lock on data directory {datadir}. dux-devchain is probably already running.")
        yield


async def serve(datadir: Path, host: str, port: int, dialect: Dialect, auto_mine: float | None) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    address = datadir / "rpc.json"
    address.unlink(missing_ok=True)  # a killed process left it
    node = Node(datadir)
    server = Server(node, dialect, datadir / ".cookie")
    miner = None if auto_mine is None else asyncio.create_task(_mine_by_itself(server, auto_mine))
    try:
        listening = await server.start(host, port)
        write_private(address, json.dumps({"port": listening, "pid": os.getpid(), "dialect": dialect}))
        log.info("chain at height %d listens on %s:%d (%s)", node.tip.height, host, listening, dialect)
        await asyncio.to_thread(sdnotify.notify, "READY=1")
        await stop.wait()
        await asyncio.to_thread(sdnotify.notify, "STOPPING=1")
    finally:
        if miner is not None:
            miner.cancel()
        await server.close()
        node.close()
        address.unlink(missing_ok=True)
    log.info("stopped")


async def _mine_by_itself(server: Server, seconds: float) -> None:
    """A block shortly after transactions came, and at the latest every `seconds`."""
    node = server.node
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await server.mempool_grew.wait()
            await asyncio.sleep(min(_PROMPT, seconds))
        server.mempool_grew.clear()
        try:
            with node.change():
                node.mine(faucet.miner_script(node))
        except sqlite3.Error as error:
            # A full disk must not end the mining for good.
            log.error("no block was made: %s", error)
            await asyncio.sleep(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    with only_one(options.datadir):
        try:
            asyncio.run(serve(options.datadir, options.bind, options.port, options.dialect, options.auto_mine))
        except (OSError, sqlite3.Error) as error:
            log.critical("%s", error)  # a port that is taken, a folder that can't be written, a broken file
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
