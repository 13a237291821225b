"""A consumer of flopd's facts that keeps them as they are, to be compared with what flopd tells.

python tests/follow_kit.py DATABASE SOCKET DIES_AT: follow, and die of a kill -9 right after that many answers.
"""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from duxcommon import follow
from duxcommon.api.flopd import BondPage, FundPage, NotePage, SettlementPage
from duxcommon.db import Store
from duxcommon.follow import MIGRATION, Follower, Kind
from duxcommon.rpc import Client

PAGES = {"settlements": SettlementPage, "bonds": BondPage, "notes": NotePage, "fund": FundPage}
TABLE = """
CREATE TABLE kept (
  kind TEXT NOT NULL, height INTEGER NOT NULL, idx INTEGER NOT NULL, part INTEGER NOT NULL, fact TEXT NOT NULL,
  PRIMARY KEY (kind, height, idx, part)
) STRICT;
"""


def _apply(connection: sqlite3.Connection, facts: Sequence[Any], kind: str) -> None:
    connection.executemany(
        "INSERT INTO kept VALUES (?, ?, ?, ?, ?)",
        [(kind, fact.at.height, fact.at.index, fact.at.part, fact.model_dump_json()) for fact in facts],
    )


def _undo(connection: sqlite3.Connection, above: int, kind: str) -> None:
    connection.execute("DELETE FROM kept WHERE kind = ? AND height > ?", (kind, above))


def kinds() -> list[Kind]:
    return [
        Kind(f"chain.{kind}", page, partial(_apply, kind=kind), partial(_undo, kind=kind))
        for kind, page in PAGES.items()
    ]


def open_store(path: Path) -> Store:
    return Store(path, (MIGRATION, TABLE))


def kept(store: Store, kind: str) -> list[str]:
    query = "SELECT fact FROM kept WHERE kind = ? ORDER BY height, idx, part"
    return store.read(lambda c: [row[0] for row in c.execute(query, (kind,))])


async def run(path: Path, socket: Path, observer: Callable[..., None], birth: int = 0) -> None:
    store, client = open_store(path), Client(socket, observer)
    try:
        await Follower(store, client, birth, kinds()).sync()
    finally:
        await client.close()
        await store.close()


def main() -> None:
    path, socket, dies_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    follow.CHUNK, follow.PAGE = 7, 2
    answers = 0

    def die(*_: Any) -> None:
        nonlocal answers
        answers += 1
        if answers == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run(path, socket, die))


if __name__ == "__main__":
    main()
