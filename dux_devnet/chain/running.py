"""One chain in one process: the lock on its folder, and the server while it answers."""

import contextlib
import fcntl
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from .node import Node
from .registry import Dialect
from .server import Server, write_private

log = logging.getLogger("devchain")


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


@contextlib.asynccontextmanager
async def running(datadir: Path, host: str, port: int, dialect: Dialect) -> AsyncIterator[Server]:
    """The chain of a folder, answering on `host`; `rpc.json` tells where while it does."""
    address = datadir / "rpc.json"
    address.unlink(missing_ok=True)  # a killed process left it
    node = Node(datadir)
    server = Server(node, dialect, datadir / ".cookie")
    try:
        listening = await server.start(host, port)
        write_private(address, json.dumps({"port": listening, "pid": os.getpid(), "dialect": dialect}))
        log.info("chain at height %d listens on %s:%d (%s)", node.tip.height, host, listening, dialect)
        yield server
    finally:
        await server.close()
        node.close()
        address.unlink(missing_ok=True)
    log.info("stopped")
