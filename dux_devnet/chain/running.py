"""One chain in one process: the lock on its folder, and the server while it answers."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from duxcommon.db import translate
from duxcommon.errors import AlreadyRunning, DiskFull, PortTaken, StoreDamaged
from duxcommon.migrations import unusable

from .node import CHAIN_FILE, Node
from .registry import Dialect
from .server import Server, write_private

log = logging.getLogger("devchain")


@contextlib.contextmanager
def only_one(datadir: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises AlreadyRunning when another process has it, and OSError."""
    datadir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(datadir / ".lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"Cannot obtain a lock on data directory {datadir}. dux-devchain is probably already running.",
                hint="Stop the other one first (`systemctl stop dux-devchain`), or use another folder.",
            ) from None
        yield


@contextlib.contextmanager
def port_free(host: str, port: int, hint: str | None) -> Iterator[None]:
    """Inside, the port is opened. Raises PortTaken, with this hint, when another program has it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortTaken(f"port {port} of {host} is taken by another program", hint=hint) from error


def _opened(datadir: Path) -> Node:
    try:
        return Node(datadir)
    except sqlite3.Error as error:
        known = translate(error)
        if isinstance(known, StoreDamaged):
            raise known from error
        # SQLite does not say which file, and seldom why.
        raise unusable(datadir / CHAIN_FILE, error, full=isinstance(known, DiskFull)) from error


@contextlib.asynccontextmanager
async def running(
    datadir: Path, host: str, port: int, dialect: Dialect, port_hint: str | None = None
) -> AsyncIterator[Server]:
    """The chain of a folder, answering on `host`; `rpc.json` tells where while it does.

    Raises PortTaken, OSError, and what tells why the chain's file can't be opened.
    """
    address = datadir / "rpc.json"
    address.unlink(missing_ok=True)  # a killed process left it
    node = _opened(datadir)
    server = Server(node, dialect, datadir / ".cookie")
    try:
        with port_free(host, port, port_hint):
            listening = await server.start(host, port)
        write_private(address, json.dumps({"port": listening, "pid": os.getpid(), "dialect": dialect}))
        log.info("chain at height %d listens on %s:%d (%s)", node.tip.height, host, listening, dialect)
        yield server
    finally:
        await server.close()
        node.close()
        address.unlink(missing_ok=True)
    log.info("stopped")
